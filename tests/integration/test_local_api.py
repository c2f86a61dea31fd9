"""Jina's hosted API on the local stack, as plain HTTP and OpenAI's own client meet it."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import openai
import pytest

from jina_sm import local
from jina_sm.local.container import BODY_LIMIT
from tests.conftest import Served

V3 = "jina-embeddings-v3"
DOG, PUPPY, BOND = "a dog", "a small puppy", "the yield of a government bond"


def post(stack: Served, path: str, asked: Any, *, key: str | None = "any") -> tuple[int, Any]:
    """Status and answer."""
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key is not None else {})
    request = urllib.request.Request(f"{stack.url}{path}", body, headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture
def client(stack: Served) -> Any:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="x", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("more", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_openais_client_embeds(client: openai.OpenAI, more: Any) -> None:
    told = client.embeddings.create(model=V3, input=[DOG, PUPPY, BOND], dimensions=256, **more)
    vectors = [each.embedding for each in told.data]
    if more.get("encoding_format") == "base64":
        vectors = [np.frombuffer(base64.b64decode(each), "<f4") for each in vectors]  # type: ignore[arg-type]
    dog, puppy, bond = np.array(vectors)
    assert dog.shape == (256,)
    assert dog @ puppy > dog @ bond + 0.2
    np.testing.assert_allclose([dog @ dog, bond @ bond], 1, atol=1e-5)
    assert (told.model, [each.index for each in told.data]) == (V3, [0, 1, 2])
    assert told.usage.total_tokens > 0


def test_openais_client_takes_jinas_parameters_and_errors(client: openai.OpenAI) -> None:
    client.embeddings.create(model=V3, input="a", extra_body={"task": "retrieval.query", "late_chunking": True})
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.embeddings.create(model=V3, input="a", extra_body={"task": "retrieval"})
    assert "has no task 'retrieval'" in caught.value.response.json()["detail"]


def test_vectors_are_of_unit_length_unless_asked_otherwise(stack: Served) -> None:
    for model in (V3, "jina-embeddings-v2-base-en", "jina-clip-v2"):
        _, told = post(stack, "/v1/embeddings", {"model": model, "input": ["a"]})
        assert np.linalg.norm(told["data"][0]["embedding"]) == pytest.approx(1, abs=1e-5)
    _, told = post(stack, "/v1/embeddings", {"model": V3, "input": ["a"], "normalized": False})
    assert np.linalg.norm(told["data"][0]["embedding"]) > 2


def test_documents_are_ranked_and_given_back_or_not(stack: Served) -> None:
    asked = {"model": "jina-reranker-m0", "query": DOG, "documents": [BOND, {"text": PUPPY}], "top_n": 1}
    _, told = post(stack, "/v1/rerank", asked)
    assert [(each["index"], each["document"]) for each in told["results"]] == [(1, {"text": PUPPY})]
    _, told = post(stack, "/v1/rerank", asked | {"return_documents": False, "top_n": 2})
    assert [(each["index"], "document" in each) for each in told["results"]] == [(1, False), (0, False)]


def test_many_vectors_have_a_path_of_their_own(stack: Served) -> None:
    asked = {"model": "jina-colbert-v2", "input": ["two words"], "input_type": "document"}
    _, told = post(stack, "/v1/multi-vector", asked)
    assert np.array(told["data"][0]["embeddings"]).shape == (2, 128)


@pytest.mark.parametrize(
    ("path", "asked", "status", "why"),
    [
        ("/v1/embeddings", b"no json", 422, "invalid literal"),
        ("/v1/embeddings", {"input": "a"}, 422, "field required"),
        ("/v1/embeddings", {"model": 3, "input": "a"}, 422, "str type expected"),
        ("/v1/embeddings", {"model": "gpt-5", "input": "a"}, 422, "no model 'gpt-5'"),
        ("/v1/embeddings", {"model": "ReaderLM-v2", "input": "a"}, 422, "not to be had"),
        ("/v1/embeddings", {"model": "jina-reranker-v3", "input": "a"}, 422, "is not asked at /v1/embeddings"),
        ("/v1/rerank", {"model": V3, "query": "a", "documents": ["b"]}, 422, "is not asked at /v1/rerank"),
        ("/v1/embeddings", {"model": V3, "input": []}, 422, "at least 1"),
        ("/v1/embeddings", {"model": V3, "input": [[1, 2]]}, 422, "dict type expected"),
        ("/v1/embeddings", {"model": V3, "input": "a", "dimensions": 77}, 422, "cannot give 77"),
        ("/v1/embeddings", {"model": V3, "input": "a", "embedding_type": "ubinary"}, 422, "permitted"),
        ("/v1/embeddings", {"model": V3, "input": "word " * 10000}, 400, "tokens"),
        ("/v1/embeddings", b'"' + b"a" * BODY_LIMIT + b'"', 413, "at most"),
        ("/v1/embeddings", {"model": "jina-clip-v2", "input": [{"image": "https://a/b.png"}]}, 400, "no network"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_the_apis_shape(
    stack: Served, path: str, asked: Any, status: int, why: str
) -> None:
    came, told = post(stack, path, asked)
    assert came == status
    detail = told["detail"]
    if status == 422:
        assert why in detail
        assert isinstance(told["errors"], list)
    else:
        assert why in detail["message"]
        assert detail["code"] and detail["request_id"]  # noqa: PT018


@pytest.mark.parametrize("key", [None, "", " "])
def test_a_key_is_needed_and_any_will_do(stack: Served, key: str | None) -> None:
    status, told = post(stack, "/v1/embeddings", {"model": V3, "input": "a"}, key=key)
    assert (status, told["detail"]["code"]) == (401, "UNAUTHORIZED")


def test_faults_reach_it_by_the_names_of_its_operations(stack: Served) -> None:
    local.fault("throttle", "JinaEmbeddings", port=stack.port, count=1)
    local.fault("error", "JinaRerank", port=stack.port, count=1, status=529)
    asked = {"model": V3, "input": "a"}
    status, told = post(stack, "/v1/embeddings", asked)
    assert (status, told["detail"]["message"]) == (429, "Rate exceeded")
    assert post(stack, "/v1/embeddings", asked)[0] == 200
    status, _ = post(stack, "/v1/rerank", {"model": "jina-reranker-v3", "query": "a", "documents": ["b"]})
    assert status == 529
