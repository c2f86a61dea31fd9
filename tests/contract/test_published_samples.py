"""The example requests and answers that Jina published for its packages, where they lie beside the project."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from jina_sm import catalog, wire

SAMPLES = Path(__file__).parents[3] / "shared" / "reference" / "samples"
pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the published samples are not part of the project")


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def spoken_by(key: str) -> Any:
    return wire.dialect(catalog.load(environ={}).model(key))


def test_the_v3_sample_reads_as_unit_vectors() -> None:
    v3 = spoken_by("jina-embeddings-v3")
    asked = v3.decode_request(sample("sample-inference-v3-input.json"))
    rows = v3.decode_response(asked, sample("sample-inference-v3-output.json"))
    assert rows.values.shape == (6, 1024)
    np.testing.assert_allclose(np.linalg.norm(rows.values, axis=1), 1, atol=1e-3)
    assert rows.tokens > 6


def test_the_reranker_sample_reads_as_its_three_best() -> None:
    v2 = spoken_by("jina-reranker-v2-base-multilingual")
    asked = v2.decode_request(sample("sample-reranking-v2-inference-input.json"))
    rows = v2.decode_response(asked, sample("sample-reranking-v2-inference-output.json"))
    assert np.argsort(-rows.values)[:3].tolist() == [6, 8, 0]
    assert rows.tokens == 184


def test_the_reader_sample_is_written_as_read_and_its_answer_loses_its_fence() -> None:
    reader, body = spoken_by("ReaderLM-v2"), sample("sample-reader-lm-v2-inference-input.json")
    asked = reader.decode_request(body)
    assert asked.instruction is None
    assert asked.html.startswith("<!DOCTYPE html>")
    assert asked.html.endswith("</html>")
    assert orjson.loads(reader.encode_request(asked)) == orjson.loads(body)
    told = reader.decode_response(asked, sample("sample-reader-lm-v2-inference-output.json"))
    assert told.text.startswith("Phone Book\n=====")
    assert told.text.endswith("(mailto:jane.smith@example.com)")
    assert (told.finish_reason, told.prompt_tokens, told.completion_tokens) == ("stop", 161, 54)


@pytest.mark.parametrize(
    ("key", "name"),
    [("jina-colbert-v2", "sample-colbert-inference-input.json"), ("jina-embeddings-v3", "sample-inference-v3-input.json")],
)  # fmt: skip
def test_a_sample_request_is_written_as_read(key: str, name: str) -> None:
    asked = spoken_by(key).decode_request(sample(name))
    assert len(asked.items) == 6
    written, given = orjson.loads(spoken_by(key).encode_request(asked)), orjson.loads(sample(name))
    assert written["data"] == given["data"]
    assert written["parameters"].items() <= given["parameters"].items()


def test_every_row_of_the_v4_batch_sample_is_a_request() -> None:
    v4 = spoken_by("jina-embeddings-v4")
    rows = list(csv.reader(io.StringIO(sample("sample-batch-v4-input.csv").decode())))
    assert len(rows) == 2
    for _, data, parameters in rows:
        asked = v4.decode_request(f'{{"data": {data}, "parameters": {parameters}}}'.encode())
        assert (len(asked.items), asked.task, asked.dimensions) == (3, "text-matching", 128)
