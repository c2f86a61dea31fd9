"""
Many texts through one endpoint, in scaled real time: how near each client comes to the GPU's own time.

The endpoint is the local stack with the response-time profile of an ml.g5.xlarge, every duration multiplied by
``--time-scale`` so that a run takes seconds. Each client is a process of its own, run in turn, and every vector is
compared with its text's own. The bound is the GPU's time for the texts, in as few requests as our limits allow.

    make benchmark-bulk
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import machine
import numpy as np

from jina_sm import Spec, catalog, local
from jina_sm.deploy import run
from jina_sm.local.constant import Constant
from jina_sm.local.models import fitted
from jina_sm.packing import Limits
from jina_sm.profile import PROFILES

MODEL, REGION, PROFILE = "jina-embeddings-v3", "us-east-1", "ml.g5.xlarge"
READ = "import json, sys, time; import numpy as np; texts = json.load(open(sys.argv[1]))"
SAID = "print(time.perf_counter() - began); np.save(sys.argv[2], np.asarray(vectors, np.float32))"
OURS = f"""
{READ}
from jina_sm import Client
with Client({MODEL!r}) as client:
    client.embed(["warm"])
    began = time.perf_counter()
    vectors = client.embed(texts).vectors
    {SAID}
"""
LANGCHAIN = f"""
{READ}
from langchain_community.embeddings import SagemakerEndpointEmbeddings
from langchain_community.embeddings.sagemaker_endpoint import EmbeddingsContentHandler

class Handler(EmbeddingsContentHandler):
    content_type = accepts = "application/json"
    def transform_input(self, inputs, model_kwargs):
        return json.dumps({{"data": [{{"text": text}} for text in inputs], "parameters": model_kwargs}}).encode()
    def transform_output(self, output):
        return [row["embedding"] for row in json.loads(output.read().decode())["data"]]

client = SagemakerEndpointEmbeddings(endpoint_name=sys.argv[3], region_name={REGION!r}, content_handler=Handler())
client.embed_query("warm")
began = time.perf_counter()
vectors = client.embed_documents(texts)
{SAID}
"""
LLAMA_INDEX = f"""
{READ}
from llama_index.embeddings.sagemaker_endpoint import SageMakerEmbedding
from llama_index.embeddings.sagemaker_endpoint.utils import BaseIOHandler

class Handler(BaseIOHandler):
    content_type: str = "application/json"
    accept: str = "application/json"
    def serialize_input(self, request, model_kwargs):
        return json.dumps({{"data": [{{"text": text}} for text in request], "parameters": model_kwargs}}).encode()
    def deserialize_output(self, response):
        return [row["embedding"] for row in json.loads(response.read().decode())["data"]]

client = SageMakerEmbedding(endpoint_name=sys.argv[3], content_handler=Handler())
client.get_text_embedding("warm")
began = time.perf_counter()
vectors = client.get_text_embedding_batch(texts)
{SAID}
"""
FAULTS = ({"kind": "model-error", "rate": 0.01, "status": 500}, {"kind": "throttle", "rate": 0.02})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--langchain", metavar="PYTHON", help="An interpreter that has langchain-community 0.4.2.")
    options.add_argument(
        "--llama-index", metavar="PYTHON", help="... that has llama-index-embeddings-sagemaker-endpoint 0.6.0."
    )
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--texts", type=int, default=50_000)
    options.add_argument("--documents", type=int, default=2_000)
    options.add_argument("--peer-texts", type=int, default=2_500, help="The peers are serial: their time is scaled up.")
    options.add_argument("--time-scale", type=float, default=0.3)
    asked = options.parse_args()
    print(machine.line())
    short, long = texts(asked.texts, 30, 1), texts(asked.documents, 1200, 2)
    peers = {"langchain-community": (asked.langchain, LANGCHAIN), "llama-index": (asked.llama_index, LLAMA_INDEX)}
    scale: float = asked.time_scale
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), asked.rounds)
        bench.compare(
            f"{len(short):,} short texts, one instance",
            short,
            scale=scale,
            peers={name: (python, script) for name, (python, script) in peers.items() if python},
            peer_texts=asked.peer_texts,
        )
        for instances in (2, 4):
            bench.compare(f"... {instances} instances", short, scale=scale * instances, instances=instances)
        stalls = {"kind": "stall", "operation": "InvokeEndpoint", "rate": 0.01, "seconds": 30 * scale}
        bench.compare("... 1 % ModelError, 2 % throttles, 1 % stalls", short, scale=scale, faults=(*FAULTS, stalls))
        bench.compare(f"{len(long):,} long documents, one instance", long, scale=scale)


class Bench:
    def __init__(self, folder: Path, rounds: int) -> None:
        self._folder = folder
        self._rounds = rounds

    def compare(
        self,
        title: str,
        given: list[str],
        *,
        scale: float,
        instances: int = 1,
        faults: tuple[Mapping[str, Any], ...] = (),
        peers: Mapping[str, tuple[str, str]] | None = None,
        peer_texts: int = 0,
    ) -> None:
        """Prints the medians of all clients on one endpoint, one run of each in every round."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ |= local.environment(port)
        speed = local.Speed(profile=PROFILE, time_scale=scale, vectors="constant")
        local.start_detached(port, ready_after_s=0, speed=speed)
        try:
            run.subscribe(MODEL)
            deployed = run.deploy(Spec(model=MODEL, regions=(REGION,), instance_count=instances))
            for fault in faults:
                operation = fault.get("operation", "InvokeEndpoint")
                local.fault(fault["kind"], operation, port=port, **_facts(fault))
            bound = bound_s(given, instances) * scale
            runs: dict[str, list[float]] = {}
            for _ in range(self._rounds):
                runs.setdefault("jina_sm", []).append(self._once(sys.executable, OURS, given, deployed[REGION].name))
                for name, (python, script) in (peers or {}).items():
                    few = given[:peer_texts]
                    took = self._once(python, script, few, deployed[REGION].name)
                    runs.setdefault(name, []).append(took * len(given) / len(few))
        finally:
            local.stop(port)
        print(f"{title}: bound {bound:.1f} s at time scale {scale:g}")
        ours = statistics.median(runs["jina_sm"])
        for name, seconds in runs.items():
            median = statistics.median(seconds)
            beside = "" if name == "jina_sm" else f"   {median / ours:.1f}x as long as jina_sm"
            print(f"  {name:<20} {median:8.1f} s   {median / bound:6.2f}x the bound{beside}", flush=True)

    def _once(self, python: str, script: str, given: list[str], endpoint: str) -> float:
        """Seconds of one run, whose vectors are checked, each against its text."""
        source, out = self._folder / "texts.json", self._folder / "vectors.npy"
        source.write_text(json.dumps(given))
        done = subprocess.run(
            [python, "-c", script, str(source), str(out), endpoint], check=True, capture_output=True, text=True
        )
        vectors, model = np.load(out), catalog.load().model(MODEL)
        for start in range(0, len(given), 1000):
            right = fitted(Constant().embed(given[start : start + 1000]), model, None)
            if not np.allclose(vectors[start : start + 1000], right, atol=1e-5):
                raise SystemExit(f"a vector that is not its text's, among {start}..{start + 1000}")
        return float(done.stdout.splitlines()[-1])


def texts(number: int, words: int, seed: int) -> list[str]:
    """So many texts of about so many words, no two alike."""
    draw = np.random.default_rng(seed)
    vocabulary = [
        "".join(draw.choice(list("abcdefghijklmnopqrstuvwxyz"), 1 + int(size))) for size in draw.poisson(4, 999)
    ]
    counts = np.maximum(1, draw.lognormal(np.log(words) - 0.125, 0.5, number)).astype(int)
    return [f"{index} " + " ".join(draw.choice(vocabulary, count)) for index, count in enumerate(counts)]


def bound_s(given: list[str], instances: int) -> float:
    """The GPU's time for them."""
    counted = float(sum(Constant().tokens(text) for text in given))
    limits, profile = Limits(), PROFILES[PROFILE]
    requests = max(len(given) / limits.items, counted / limits.tokens, len(given) * 13_000 / limits.response_bytes)
    return (requests * profile.step_s + counted / profile.tokens_per_s) / instances


def _facts(fault: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fault.items() if name not in ("kind", "operation")}


if __name__ == "__main__":
    main()
