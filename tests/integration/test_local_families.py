"""Every model of the catalogue behind an endpoint of the local stack, asked and refused over real HTTP."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

from jina_sm import Client, catalog, local, wire
from jina_sm.catalog import Catalog, Model
from jina_sm.errors import InputError
from jina_sm.local.container import MEDIA_TOKENS
from jina_sm.values import EmbedRequest, Media, ReadRequest, RerankRequest
from tests.conftest import Letters, Served

PNG = Media("image", b"\x89PNG of a bicycle")
HTML = "<html><head><title>T</title></head><body><h1>Bees</h1><p>make <b>honey</b></p></body></html>"


def packaged() -> Catalog:
    """The catalogue, with a package for the models that have none of a fixed name, and one more model."""
    known = catalog.load(environ={})
    for model in known.models.values():
        if model.package is None:
            known = known.with_package(model.key, catalog.endpoint_name(model))
    foreign = Model(key="foreign", kind="embedding", dialect="klingon", max_tokens=9, package="foreign")
    return dataclasses.replace(known, models={**known.models, "foreign": foreign})


KNOWN = packaged()
KEYS = [key for key in KNOWN.models if key != "foreign"]


@pytest.fixture(scope="module")
def _every() -> Iterator[Served]:
    stack = local.Stack(ready_after_s=0, catalog=KNOWN, account="321098765432", model=Letters())
    with local.serving(stack) as url:
        yield Served(stack, url)


@pytest.fixture
def every(_every: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    local.reset(_every.port)
    for name, value in local.environment(_every.port).items():
        monkeypatch.setenv(name, value)
    return _every


def invoke(stack: Served, body: bytes) -> bytes:
    runtime = stack.aws("sagemaker-runtime")
    said = runtime.invoke_endpoint(EndpointName="e", Body=body, ContentType="application/json")
    answer: bytes = said["Body"].read()
    return answer


def told(stack: Served, key: str, asked: object) -> Any:
    """The answer of a model that is deployed, read in its own dialect."""
    speech = wire.dialect(KNOWN.model(key))
    return speech.decode_response(asked, invoke(stack, speech.encode_request(asked)))


def refused(stack: Served, body: object) -> tuple[int, Any]:
    with pytest.raises(ClientError) as caught:
        invoke(stack, body if isinstance(body, bytes) else json.dumps(body).encode())
    response: dict[str, Any] = caught.value.response
    assert response["Error"]["Code"] == "ModelError"
    return response["OriginalStatusCode"], json.loads(response["OriginalMessage"])


@pytest.mark.parametrize("key", KEYS)
def test_every_model_answers_in_its_own_dialect(every: Served, key: str) -> None:
    every.deploy(key)
    model = KNOWN.model(key)
    if model.kind == "reader":
        read = told(every, key, ReadRequest(html=HTML))
        assert (read.text, read.finish_reason) == ("Bees\n====\n\nmake **honey**", "stop")
        assert min(read.prompt_tokens, read.completion_tokens) > 0
    elif model.kind == "reranker":
        rows = told(every, key, RerankRequest(query="abc", documents=("xyz", "abc", "abd")))
        assert np.argsort(-rows.values).tolist() == [1, 2, 0]
        assert rows.tokens == 12
    elif model.kind == "multi-vector":
        rows = told(every, key, EmbedRequest(items=("bees make honey", "a, b"), task="query"))
        assert [each.shape for each in rows.values] == [(3, model.dimensions)] * 2
        np.testing.assert_allclose(np.linalg.norm(rows.values[0], axis=1), 1, atol=1e-5)
    else:
        rows = told(every, key, EmbedRequest(items=("abc", "xyz", "abd"), task=model.default_task))
        assert rows.values.shape == (3, model.dimensions)
        assert rows.values[0] @ rows.values[2] > rows.values[0] @ rows.values[1]
        assert rows.tokens == 9
        norms = np.linalg.norm(rows.values, axis=1)
        np.testing.assert_allclose(norms, 16 if model.normalized is False else 1, rtol=1e-4)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("jina-embeddings-v2-base-en", {}),
        ("jina-embeddings-v3", {"task": "separation", "dimensions": 64}),
        ("jina-embeddings-v4", {"task": "code.query", "dimensions": 128}),
        ("jina-embeddings-v5-text-nano", {"task": "clustering", "dimensions": 32}),
        ("jina-embeddings-v5-omni-small", {}),
        ("jina-code-embeddings-0.5b", {"task": "qa.passage"}),
        ("jina-clip-v1", {}),
        ("jina-clip-v2", {"task": "retrieval.query", "dimensions": 512}),
    ],
)
def test_a_client_embeds_texts_with_every_family(every: Served, key: str, options: dict[str, Any]) -> None:
    every.deploy(key)
    with Client.sagemaker("e", model=key) as client:
        found = client.embed(["abc", "xyz"], **options)
    assert found.vectors.shape == (2, options.get("dimensions", KNOWN.model(key).dimensions))
    assert found.usage.total_tokens == 6


@pytest.mark.parametrize("key", ["jina-reranker-v1-tiny-en", "jina-colbert-reranker-v2", "jina-reranker-v3", "jina-reranker-m0"])  # fmt: skip
def test_a_client_reranks_texts_with_every_family(every: Served, key: str) -> None:
    every.deploy(key)
    with Client.sagemaker("e", model=key) as client:
        assert [each.document for each in client.rerank("abc", ["xyz", "abc", "abd"], top_n=2)] == ["abc", "abd"]


@pytest.mark.parametrize(
    ("key", "options", "why"),
    [
        ("jina-embeddings-v2-base-en", {"task": "retrieval.query"}, "takes no task"),
        ("jina-embeddings-v2-base-en", {"dimensions": 768}, "always gives 768, and dimensions=768 was given"),
        ("jina-clip-v1", {"dimensions": 64}, "always gives 768"),
        ("jina-clip-v2", {"task": "retrieval.passage"}, "did you mean 'retrieval.query'"),
        ("jina-embeddings-v5-text-small", {"task": "separation"}, "no task 'separation'"),
        ("jina-code-embeddings-0.5b", {"dimensions": 1536}, "cannot give 1536 dimensions"),
        ("jina-colbert-v2", {}, "needs an embedding or a clip, and jina-colbert-v2 is a multi-vector model"),
        ("ReaderLM-v2", {}, "is a reader model"),
    ],
)
def test_a_client_refuses_beforehand_what_a_model_does_not_take(key: str, options: dict[str, Any], why: str) -> None:
    with Client.sagemaker("e", model=key, region="us-east-1") as client, pytest.raises(InputError, match=why):
        client.embed(["a"], **options)


def test_media_have_a_vector_that_is_always_the_same_and_no_others(every: Served) -> None:
    every.deploy("jina-embeddings-v5-omni-small")
    items = (PNG, "a text", Media("audio", PNG.source), Media("video", b"v"), PNG)
    rows = told(every, "jina-embeddings-v5-omni-small", EmbedRequest(items=items, base64=True))
    np.testing.assert_allclose(np.linalg.norm(rows.values, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(rows.values[0], rows.values[4])
    assert (np.abs(rows.values[0] @ rows.values[1:4].T) < 0.5).all()
    assert rows.tokens == 4 * MEDIA_TOKENS + 4
    alone = told(every, "jina-embeddings-v5-omni-small", EmbedRequest(items=(PNG,)))
    np.testing.assert_allclose(alone.values[0], rows.values[0], atol=1e-6)


@pytest.mark.parametrize("key", ["jina-embeddings-v4", "jina-embeddings-v5-omni-nano"])
def test_a_pdf_travels_alone(every: Served, key: str) -> None:
    every.deploy(key)
    rows = told(every, key, EmbedRequest(items=(Media("pdf", b"%PDF"),)))
    assert rows.values.shape == (1, KNOWN.model(key).dimensions)
    assert refused(every, {"data": [{"pdf": "aGk="}, {"text": "a"}]})[0] == 422


def test_v4_gives_a_vector_a_word_when_asked(every: Served) -> None:
    every.deploy("jina-embeddings-v4")
    rows = told(every, "jina-embeddings-v4", EmbedRequest(items=("bees make honey", PNG), multivector=True))
    assert [each.shape for each in rows.values] == [(3, 128), (1, 128)]


def test_v5_leaves_unit_length_and_cuts_when_asked(every: Served) -> None:
    every.deploy("jina-embeddings-v5-text-nano")
    rows = told(every, "jina-embeddings-v5-text-nano", EmbedRequest(items=("a",), normalized=False))
    np.testing.assert_allclose(np.linalg.norm(rows.values), 16, rtol=1e-4)
    rows = told(every, "jina-embeddings-v5-text-nano", EmbedRequest(items=("a " * 9000,), truncate=True))
    assert rows.tokens == 8192


def test_m0_ranks_images_echoes_them_and_ignores_top_n(every: Served) -> None:
    every.deploy("jina-reranker-m0")
    body = {"data": [{"query": "abc", "documents": [{"image": "aGk="}, {"text": "abc"}], "top_n": 1}]}
    said = json.loads(invoke(every, json.dumps(body).encode()))
    assert (said["header"], said["parameters"]) == (None, None)
    assert [each["index"] for each in said["data"][0]["results"]] == [1, 0]
    assert said["data"][0]["results"][1]["document"] == {"text": None, "url": None, "bytes": "aGk=", "image": None}


A, B, C = "jina-clip-v2", "jina-embeddings-v5-omni-nano", "ReaderLM-v2"
FENCED = "x\n```html\n<p>\n```\nThe JSON schema is as follows:```json\n{}\n```"


@pytest.mark.parametrize(
    ("key", "body", "status", "words"),
    [
        (A, b"{", 422, "unexpected end"),
        (A, {"data": [{"image": "aGk="}]}, 422, "field required"),
        (A, {"data": ["a"]}, 422, "dict type expected"),
        (A, {"data": [{"url": "https://a/b.png"}]}, 500, "https://a/b.png cannot be fetched"),
        (A, {"data": [{"text": "a"}], "parameters": {"task": "x"}}, 500, "no task 'x'"),
        (A, {"data": [{"text": "a"}], "parameters": {"dimensions": 3}}, 500, "cannot give 3"),
        (A, {"data": [{"text": "a " * 9000}]}, 500, "takes 8192"),
        (B, b"{", 422, "unexpected end"),
        (B, {"data": []}, 422, "at least 1"),
        (B, {"data": [{"image": "!"}]}, 422, "neither an http(s) URL nor base64"),
        (B, {"data": [{"image": "https://a/b.png"}]}, 400, "https://a/b.png cannot be fetched"),
        (B, {"data": ["a"], "parameters": {"task": "x"}}, 422, "no task 'x'"),
        (B, {"data": ["a"], "parameters": {"dimensions": 3}}, 422, "cannot give 3"),
        (B, {"data": ["a"], "parameters": {"normalized": False}}, 400, "normalized vectors only"),
        (B, {"data": ["a"], "parameters": {"embedding_type": "binary"}}, 422, "permitted: 'float', 'base64'"),
        (B, {"data": ["a " * 9000]}, 400, "takes 8192"),
        ("jina-embeddings-v5-text-nano", {"data": [{"image": "aGk="}]}, 400, "takes text, and no image"),
        ("jina-embeddings-v4", {"data": ["a"], "parameters": {"return_multivector": True, "dimensions": 128}}, 422, "dimensions cannot be chosen"),
        ("jina-colbert-v2", {"data": [{"text": "a"}], "parameters": {"input_type": "doc"}}, 500, "no task 'doc'"),
        ("jina-reranker-m0", {"data": [{"query": "q"}]}, 422, "field required"),
        ("jina-reranker-m0", {"data": [{}, {}]}, 422, "one query a request"),
        ("jina-reranker-v3", {"data": {"query": "q", "documents": [{"text": "a " * 70_000}] * 2}}, 500, "takes 131072"),
        (C, b"{", 400, "unexpected end"),
        (C, {"model": "reader-lm-0.5b", "prompt": "<p>"}, 400, "`reader-lm-0.5b` does not exist"),
        (C, {"model": C}, 400, "field required"),
        (C, {"model": C, "prompt": "<p>", "stream": "yes"}, 400, "bool type expected"),
        (C, {"model": C, "prompt": FENCED}, 400, "no model that extracts JSON by a schema"),
        (C, {"model": C, "prompt": "<div>" * 5000}, 500, "nested too deep"),
        ("foreign", {"data": [{"text": "a"}]}, 500, "does not speak klingon"),
    ],
)  # fmt: skip
def test_what_a_container_refuses_is_told_as_its_generation_does(
    every: Served, key: str, body: object, status: int, words: str
) -> None:
    every.deploy(key)
    code, said = refused(every, body)
    assert code == status
    assert words in json.dumps(said, ensure_ascii=False)
    if key == C:
        assert (said["object"], said["code"]) == ("error", status)
    elif key in {B, "jina-embeddings-v4"} and status == 422:
        assert set(said) == {"detail", "request_id", "errors"}
    elif key in {B, "jina-embeddings-v5-text-nano"}:
        assert set(said["detail"]) == {"message", "request_id", "code"}
        assert (said["detail"]["code"] == "INPUT_TOKEN_LIMIT_EXCEEDED") == ("8192" in words)
    else:
        assert set(said) == {"detail"}
