"""Both dialects, both directions: what one end writes, the other reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jina_sm import catalog, wire
from jina_sm.errors import InputError, ProtocolError
from jina_sm.values import EmbedRequest, RerankRequest, Rows
from jina_sm.wire import Unacceptable, embeddings_v3, reranker_v2

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
finite = st.floats(-(2.0**100), 2.0**100, width=32)
embed_requests = st.builds(
    EmbedRequest,
    texts=st.lists(texts, min_size=1, max_size=5).map(tuple),
    task=st.none() | texts,
    dimensions=st.none() | st.integers(1, 64),
    late_chunking=st.booleans(),
)
rerank_requests = st.builds(
    RerankRequest,
    query=texts,
    documents=st.lists(texts, min_size=1, max_size=8).map(tuple),
    top_n=st.none() | st.integers(1, 10),
)


@given(embed_requests)
def test_an_embedding_request_survives_the_wire(request: EmbedRequest) -> None:
    assert embeddings_v3.decode_request(embeddings_v3.encode_request(request)) == request


@given(rerank_requests)
def test_a_rerank_request_survives_the_wire(request: RerankRequest) -> None:
    assert reranker_v2.decode_request(reranker_v2.encode_request(request)) == request


@given(st.data(), embed_requests, st.integers(0, 10_000))
def test_vectors_survive_the_wire_bit_for_bit(data: st.DataObject, request: EmbedRequest, tokens: int) -> None:
    shape = (len(request.texts), request.dimensions or 7)
    rows = Rows(data.draw(hnp.arrays(np.float32, shape, elements=finite)), tokens)
    back = embeddings_v3.decode_response(request, embeddings_v3.encode_response(request, rows))
    assert back.tokens == tokens
    assert back.values.dtype == np.float32
    np.testing.assert_array_equal(back.values, rows.values)


@given(st.data(), rerank_requests, st.integers(0, 10_000))
def test_scores_survive_the_wire_each_with_its_document(
    data: st.DataObject, request: RerankRequest, tokens: int
) -> None:
    scores = data.draw(hnp.arrays(np.float32, len(request.documents), elements=finite))
    back = reranker_v2.decode_response(request, reranker_v2.encode_response(request, Rows(scores, tokens)))
    assert back.tokens == tokens
    best = np.argsort(-scores, kind="stable")[: request.top_n]
    np.testing.assert_array_equal(back.values[best], scores[best])
    assert np.isneginf(np.delete(back.values, best)).all()


@given(embed_requests | rerank_requests, st.binary() | st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["data", "embedding", "results", "index", "text"]), inner),
).map(orjson.dumps))  # fmt: skip
def test_a_decoder_gives_whole_rows_or_a_protocol_error(request: Any, body: bytes) -> None:
    speech = embeddings_v3 if isinstance(request, EmbedRequest) else reranker_v2
    try:
        rows = speech.decode_response(request, body)
    except ProtocolError:
        return
    assert len(rows) == len(request.texts if isinstance(request, EmbedRequest) else request.documents)


@given(st.binary() | st.recursive(
    st.none() | st.integers(-5, 5) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["data", "text", "parameters", "query", "documents", "top_n", "task"]), inner),
).map(orjson.dumps))  # fmt: skip
def test_a_server_reads_a_request_or_says_what_is_unacceptable(body: bytes) -> None:
    for speech in (embeddings_v3, reranker_v2):
        try:
            speech.decode_request(body)  # type: ignore[attr-defined]
        except Unacceptable as refusal:
            assert refusal.detail[0]["loc"][0] == "body"


TWO = EmbedRequest(texts=("a", "b"), dimensions=2)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([{"embedding": [1, 2]}], "1 vectors came for 2 texts"),
        ([{"embedding": [1, 2]}, {"embedding": [1]}], "shape"),
        ([{"embedding": [1, 2, 3]}] * 2, "where 2 dimensions were asked"),
        ([{"embedding": [1, None]}] * 2, "not finite"),
        ([{"vector": [1, 2]}] * 2, "shape"),
    ],
)
def test_a_wrong_vector_is_never_handed_back(data: object, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        embeddings_v3.decode_response(TWO, orjson.dumps({"data": data}))


@pytest.mark.parametrize(
    ("results", "why"),
    [
        ([{"index": 0, "relevance_score": 1}], "1 scores came for 2"),
        ([{"index": 0, "relevance_score": 1}] * 2, "two scores"),
        ([{"index": 2, "relevance_score": 1}] * 2, "document 2 of 2"),
        ([{"index": True, "relevance_score": 1}] * 2, "document True"),
        ([{"relevance_score": 1}] * 2, "shape"),
    ],
)
def test_a_wrong_score_is_never_handed_back(results: object, why: str) -> None:
    asked = RerankRequest(query="q", documents=("a", "b"))
    with pytest.raises(ProtocolError, match=why):
        reranker_v2.decode_response(asked, orjson.dumps({"data": [{"results": results}]}))


def test_a_single_object_is_a_request_for_one_text() -> None:
    assert embeddings_v3.decode_request(b'{"data":{"text":"a"}}').texts == ("a",)


def test_tokens_of_an_answer_without_usage_count_nothing() -> None:
    assert embeddings_v3.decode_response(TWO, orjson.dumps({"data": [{"embedding": [1, 2]}] * 2})).tokens == 0


def test_answers_of_the_first_generation_say_their_tokens_by_result() -> None:
    results = [{"index": 0, "relevance_score": 0.5, "usage": {"total_tokens": 4}}]
    body = orjson.dumps({"data": [{"query_usage": {"total_tokens": 3}, "results": results}]})
    assert reranker_v2.decode_response(RerankRequest(query="q", documents=("a",)), body).tokens == 7


def test_a_dialect_not_yet_spoken_is_named() -> None:
    with pytest.raises(InputError, match="embeddings-v4"):
        wire.dialect(catalog.load().model("jina-embeddings-v4"))
