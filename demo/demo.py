"""
The main job on this machine: subscribe, deploy in two regions, embed, ask, lose a region, ask again, tear down.

Each step is the command or the call a user would make, run for real: the commands in their own processes against
the local stack, over AWS's wire protocols, with plain boto3 underneath.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import numpy as np

from jina_sm import Client, Embeddings, local

HERE = Path(__file__).parent
MODEL = "jina-embeddings-v3"
REGIONS = ("us-east-1", "eu-central-1")
QUESTION = "Can the state take away my citizenship?"


def main() -> None:
    began = time.monotonic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= local.environment(port)
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "JINA_SM_REGIONS"):
        os.environ.pop(name, None)
    step("AWS on this machine, with a small stand-in model")
    run("local", "up", "--detach", "--port", str(port), "--ready-after", "3s")
    try:
        walk()
    finally:
        run("local", "down")
    print(f"\nDone in {time.monotonic() - began:.0f} s.")
    print(
        "The vectors came from a stand-in (Universal Sentence Encoder multilingual v3), not from Jina's model, and\n"
        "nothing was billed. On a real account the commands are the same without `local up`: subscribing accepts the\n"
        "licence, an endpoint takes 5 to 10 minutes and bills by the hour until teardown, and the vectors are better."
    )


def walk() -> None:
    step("The offer and its price; then subscribe")
    run("subscribe", MODEL, "--yes")
    regions = [word for region in REGIONS for word in ("--region", region)]
    step("The plan for two regions, and what it will cost")
    run("deploy", MODEL, *regions, "--plan")
    step("Deploy")
    run("deploy", MODEL, *regions, "--yes")
    run("status", *regions)

    rows = [json.loads(line) for line in (HERE / "passages.jsonl").read_text(encoding="utf-8").splitlines()]
    languages = len({row["lang"] for row in rows})
    step(f"Embed {len(rows)} passages in {languages} languages (the Universal Declaration of Human Rights)")
    with Client(MODEL, regions=REGIONS) as client:
        since = time.monotonic()
        passages = client.embed([row["text"] for row in rows], task="retrieval.passage")
        print(f"{passages!r} in {time.monotonic() - since:.1f} s, {passages.usage.requests} requests")
        step(f'Ask in English: "{QUESTION}"')
        ask(client, rows, passages)
        step(f"{REGIONS[0]} loses its endpoint; the same question")
        boto3.client("sagemaker", region_name=REGIONS[0]).delete_endpoint(EndpointName="jina-sm-embeddings-v3")
        print(f"deleted jina-sm-embeddings-v3 in {REGIONS[0]}")
        ask(client, rows, passages)
        print(f"answered from {REGIONS[1]}")

    step("Tear down, and look again in every region")
    run("teardown", MODEL, "--yes")


def ask(client: Client, rows: list[dict[str, str]], passages: Embeddings) -> None:
    """The best passage of each of five languages."""
    since = time.monotonic()
    question = client.embed([QUESTION], task="retrieval.query")
    scores = passages.vectors @ question[0]
    print(f"one query, {1000 * (time.monotonic() - since):.0f} ms")
    best: dict[str, int] = {}
    for place in np.argsort(-scores):
        best.setdefault(rows[place]["lang"], int(place))
    for place in list(best.values())[:5]:
        row = rows[place]
        text = row["text"] if len(row["text"]) <= 60 else row["text"][:59] + "…"
        print(f"  {scores[place]:.3f}  {row['lang']}  article {row['article']:<3} {text}")


def step(title: str) -> None:
    print(f"\n== {title}", flush=True)


def run(*words: str) -> None:
    print(f"$ jina-sm {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "jina_sm", *words], check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
