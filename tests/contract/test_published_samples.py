"""The example requests and answers that Jina published for its packages, where they lie beside the project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jina_sm.wire import embeddings_v3, reranker_v2

SAMPLES = Path(__file__).parents[3] / "shared" / "reference" / "samples"
pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the published samples are not part of the project")


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def test_the_v3_sample_reads_as_unit_vectors() -> None:
    asked = embeddings_v3.decode_request(sample("sample-inference-v3-input.json"))
    rows = embeddings_v3.decode_response(asked, sample("sample-inference-v3-output.json"))
    assert rows.values.shape == (6, 1024)
    np.testing.assert_allclose(np.linalg.norm(rows.values, axis=1), 1, atol=1e-3)
    assert rows.tokens > 6


def test_the_reranker_sample_reads_as_its_three_best() -> None:
    asked = reranker_v2.decode_request(sample("sample-reranking-v2-inference-input.json"))
    rows = reranker_v2.decode_response(asked, sample("sample-reranking-v2-inference-output.json"))
    assert np.argsort(-rows.values)[:3].tolist() == [6, 8, 0]
    assert rows.tokens == 184
