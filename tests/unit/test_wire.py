"""Every dialect, both directions: what one end writes, the other reads."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jina_sm import catalog, wire
from jina_sm.errors import InputError, ProtocolError
from jina_sm.values import Completion, EmbedRequest, Media, MultiRows, ReadRequest, RerankRequest, Rows
from jina_sm.wire import Unacceptable

KNOWN = catalog.load(environ={})
SPOKEN: dict[str, Any] = {model.dialect: wire.dialect(model) for model in KNOWN.models.values()} | {
    f"{model.dialect} api": wire.dialect(model, wire="api") for model in KNOWN.models.values() if model.kind != "reader"
}
EMBEDDINGS = [name for name in SPOKEN if "reranker" not in name and "reader" not in name]
RERANKERS = [name for name in SPOKEN if "reranker" in name]
READERS = [name for name in SPOKEN if "reader" in name]

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
finite = st.floats(-(2.0**100), 2.0**100, width=32)
sources = st.binary(min_size=1) | st.from_regex(r"https?://[!-~]+", fullmatch=True)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "task": st.none() | texts,
    "dimensions": st.none() | st.integers(1, 64),
    **dict.fromkeys(("late_chunking", "multivector", "normalized", "truncate", "base64"), st.booleans()),
}


def medium(kind: str) -> st.SearchStrategy[Media]:
    return st.builds(Media, st.just(kind), sources)


def asked_of(name: str) -> st.SearchStrategy[Any]:
    """Requests that the dialect can carry."""
    spoken = SPOKEN[name]
    if name in READERS:
        more = {"instruction": st.none() | texts, "schema": st.none() | st.just('{"type": "object"}')}
        return st.builds(ReadRequest, html=texts, stream=st.booleans(), **(more if name == "reader-v2" else {}))
    kinds = sorted(set(spoken.media.values()) - {"pdf"})
    item = st.one_of(texts, *map(medium, kinds))
    several = st.lists(item, min_size=1, max_size=6).map(tuple)
    if name in RERANKERS:
        more = {"return_documents": st.booleans()} if "return_documents" in spoken.takes else {}
        return st.builds(RerankRequest, query=texts, documents=several, top_n=st.none() | st.integers(1, 8), **more)
    if "pdf" in spoken.media.values():
        several |= st.tuples(medium("pdf"))
    return st.builds(EmbedRequest, items=several, **{field: FIELDS[field] for field in spoken.takes})


def one_of(names: list[str]) -> st.SearchStrategy[tuple[str, Any]]:
    return st.sampled_from(names).flatmap(lambda name: asked_of(name).map(lambda asked: (name, asked)))


def count(asked: Any) -> int:
    return len(asked.items if isinstance(asked, EmbedRequest) else asked.documents)


def paged(asked: EmbedRequest) -> bool:
    return isinstance(asked.items[0], Media) and asked.items[0].kind == "pdf"


@pytest.mark.parametrize("name", SPOKEN)
@given(st.data())
def test_a_request_survives_the_wire(name: str, data: st.DataObject) -> None:
    asked = data.draw(asked_of(name))
    assert SPOKEN[name].decode_request(SPOKEN[name].encode_request(asked)) == asked


@pytest.mark.parametrize("name", EMBEDDINGS)
@given(st.data(), st.integers(0, 10_000))
def test_vectors_survive_the_wire_bit_for_bit(name: str, data: st.DataObject, tokens: int) -> None:
    asked = data.draw(asked_of(name))
    rows = data.draw(st.integers(1, 3)) if paged(asked) else len(asked.items)
    told: Rows | MultiRows
    if SPOKEN[name].several or asked.multivector:
        lengths = data.draw(st.lists(st.integers(1, 4), min_size=rows, max_size=rows))
        told = MultiRows(tuple(data.draw(hnp.arrays(np.float32, (n, 5), elements=finite)) for n in lengths), tokens)
    else:
        told = Rows(data.draw(hnp.arrays(np.float32, (rows, asked.dimensions or 7), elements=finite)), tokens)
    back = SPOKEN[name].decode_response(asked, SPOKEN[name].encode_response(asked, told))
    assert (type(back), back.tokens, len(back)) == (type(told), tokens, rows)
    for vector, given_vector in zip(back.values, told.values, strict=True):
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, given_vector)


@pytest.mark.parametrize("name", RERANKERS)
@given(st.data(), st.integers(0, 10_000))
def test_scores_survive_the_wire_each_with_its_document(name: str, data: st.DataObject, tokens: int) -> None:
    asked = data.draw(asked_of(name))
    scores = data.draw(hnp.arrays(np.float32, count(asked), elements=finite))
    back = SPOKEN[name].decode_response(asked, SPOKEN[name].encode_response(asked, Rows(scores, tokens)))
    assert back.tokens == tokens
    best = np.argsort(-scores, kind="stable")[: None if name == "reranker-m0" else asked.top_n]
    np.testing.assert_array_equal(back.values[best], scores[best])
    assert np.isneginf(np.delete(back.values, best)).all()


@pytest.mark.parametrize("name", READERS)
@given(st.data(), texts, st.sampled_from(["stop", "length"]), st.integers(0, 99), st.integers(0, 99))
def test_what_a_reader_wrote_survives_the_wire(
    name: str, data: st.DataObject, text: str, reason: str, read: int, written: int
) -> None:
    asked = data.draw(asked_of(name))
    read, written = (0, 0) if asked.stream else (read, written)  # a stream counts only if it is asked to
    told = Completion(text=text, finish_reason=reason, prompt_tokens=read, completion_tokens=written)
    assert SPOKEN[name].decode_response(asked, SPOKEN[name].encode_response(asked, told)) == told


def bodies(*keys: str) -> st.SearchStrategy[bytes]:
    leaves = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False)
    words = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["base64", "AACAPw==", "https://a/b"])
    return st.binary() | st.recursive(
        leaves | words, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(keys), inner)
    ).map(orjson.dumps)


ANSWER = (
    "data",
    "embedding",
    "embeddings",
    "results",
    "index",
    "relevance_score",
    "usage",
    "total_tokens",
    "choices",
    "text",
)
REQUEST = ("data", "text", "parameters", "query", "documents", "top_n", "task", "dimensions", "embedding_type", "image",
           "url", "bytes", "pdf", "model", "prompt", "input_type", "normalized", "input", "return_documents")  # fmt: skip


@given(one_of(list(SPOKEN)), bodies(*ANSWER) | bodies("index", "embedding", "relevance_score", "text").map(
    lambda row: b'{"data":[' + row + b"]}"))  # fmt: skip
def test_a_decoder_gives_whole_rows_or_a_protocol_error(named: tuple[str, Any], body: bytes) -> None:
    name, asked = named
    try:
        told = SPOKEN[name].decode_response(asked, body)
    except ProtocolError:
        return
    if isinstance(told, Completion):
        assert isinstance(told.text, str)
    else:
        assert len(told) == count(asked) or (isinstance(asked, EmbedRequest) and paged(asked) and len(told) > 0)


@given(bodies(*REQUEST) | bodies(*REQUEST).map(lambda item: b'{"data":[%b],"model":"ReaderLM-v2"}' % item) | bodies(
    *REQUEST).map(lambda item: b'{"model":"THIS","query":"q","input":[%b],"documents":[%b]}' % (item, item)))  # fmt: skip
def test_a_server_reads_a_request_or_says_what_is_unacceptable(given_body: bytes) -> None:
    for spoken in SPOKEN.values():
        body = given_body.replace(b"THIS", spoken.model.encode())
        try:
            asked = spoken.decode_request(body)
        except Unacceptable as refusal:
            assert refusal.detail[0]["loc"][0] == "body"
        else:
            assert spoken.decode_request(spoken.encode_request(asked)) == asked


TWO = EmbedRequest(items=("a", "b"), dimensions=2)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([{"embedding": [1, 2]}], "1 vectors came for 2 items"),
        ([{"embedding": [1, 2]}, {"embedding": [1]}], "shape"),
        ([{"embedding": [1, 2, 3]}] * 2, "where 2 dimensions were asked"),
        ([{"embedding": [1, None]}] * 2, "not finite"),
        ([{"vector": [1, 2]}] * 2, "shape"),
        ([{"index": 0, "embedding": [1, 2]}] * 2, r"indices \[0, 0\]"),
        ([{"index": 0, "embedding": [1, 2]}, {"index": 2, "embedding": [1, 2]}], r"indices \[0, 2\]"),
        ([{"index": 0, "embedding": [1, 2]}, {"index": True, "embedding": [1, 2]}], r"indices \[0, True\]"),
        ([{"index": 0, "embedding": [1, 2]}, {"embedding": [1, 2]}], "shape"),
        ([{"embedding": "AACAPw=="}] * 2, "where 2 dimensions were asked"),
        ([{"embedding": "no base64"}] * 2, "shape"),
        ([{"embedding": "AAA="}] * 2, "shape"),
    ],
)
@pytest.mark.parametrize("name", ["embeddings-v3", "embeddings-v5"])
def test_a_wrong_vector_is_never_handed_back(name: str, data: object, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        SPOKEN[name].decode_response(TWO, orjson.dumps({"data": data}))


def test_a_pdf_has_a_row_a_page_and_at_least_one() -> None:
    asked = EmbedRequest(items=(Media("pdf", b"%PDF"),))
    rows = [{"index": place, "embedding": [place, 1]} for place in range(3)]
    assert len(SPOKEN["embeddings-v5"].decode_response(asked, orjson.dumps({"data": rows}))) == 3
    with pytest.raises(ProtocolError, match="0 vectors came"):
        SPOKEN["embeddings-v5"].decode_response(asked, b'{"data": []}')


def test_an_item_that_is_two_things_is_refused() -> None:
    for name, key in (("clip-v2", "url"), ("embeddings-v5", "image")):
        with pytest.raises(Unacceptable, match=f"only one of text, {key}"):
            SPOKEN[name].decode_request(orjson.dumps({"data": [{"text": "a", key: "https://a/b"}]}))


def test_rows_that_come_in_another_order_are_put_right() -> None:
    rows = [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1, 2]}]
    told = SPOKEN["embeddings-v4"].decode_response(TWO, orjson.dumps({"data": rows, "usage": {"total_tokens": 7}}))
    assert (told.values.tolist(), told.tokens) == ([[1, 2], [3, 4]], 7)


def test_base64_is_little_endian_float32() -> None:
    row = base64.b64encode(np.array([1.5, -2], "<f4").tobytes()).decode()
    told = SPOKEN["embeddings-v5"].decode_response(TWO, orjson.dumps({"data": [{"embedding": row}] * 2}))
    assert told.values.tolist() == [[1.5, -2]] * 2


@pytest.mark.parametrize("key", ["embedding", "embeddings"])
def test_many_vectors_are_found_under_either_name(key: str) -> None:
    asked = EmbedRequest(items=("a",), multivector=True)
    body = orjson.dumps({"data": [{"index": 0, key: [[1, 2], [3, 4]]}]})
    assert SPOKEN["embeddings-v4"].decode_response(asked, body).values[0].tolist() == [[1, 2], [3, 4]]
    for wrong in ([1, 2], [], [[]], [[1, 2], [3]]):
        with pytest.raises(ProtocolError, match="shape"):
            SPOKEN["embeddings-v4"].decode_response(asked, orjson.dumps({"data": [{"embeddings": wrong}]}))


ASKED = RerankRequest(query="q", documents=("a", "b"))


@pytest.mark.parametrize("name", RERANKERS)
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
def test_a_wrong_score_is_never_handed_back(name: str, results: object, why: str) -> None:
    for answer in ({"data": [{"results": results}]}, {"results": results}, {"data": results}):
        with pytest.raises(ProtocolError, match=why):
            SPOKEN[name].decode_response(ASKED, orjson.dumps(answer))


def test_an_answer_of_reranker_v3_is_read_in_each_of_its_likely_shapes() -> None:
    results = [{"index": 1, "relevance_score": 0.5}, {"index": 0, "relevance_score": -0.25}]
    usage = {"total_tokens": 9}
    for answer in (
        {"results": results, "usage": usage, "object": "list"},
        {"data": [{"results": results, "docs_usage": usage}]},
        {"data": results, "usage": usage},
    ):
        told = SPOKEN["reranker-v3"].decode_response(ASKED, orjson.dumps(answer))
        assert (told.values.tolist(), told.tokens) == ([-0.25, 0.5], 9)


def test_m0_gives_every_document_back_whole_whatever_top_n() -> None:
    image = Media("image", b"png")
    asked = RerankRequest(query="q", documents=("a", image), top_n=1)
    body = SPOKEN["reranker-m0"].encode_response(asked, Rows(np.array([0.25, 0.5], np.float32), 3))
    (found,) = orjson.loads(body)["data"]
    assert [each["document"] for each in found["results"]] == [
        {"text": None, "url": None, "bytes": "cG5n", "image": None},
        {"text": "a", "url": None, "bytes": None, "image": None},
    ]


@pytest.mark.parametrize(
    ("name", "body", "asked"),
    [
        ("embeddings-v3", {"data": {"text": "a"}}, EmbedRequest(items=("a",))),
        ("embeddings-v5", {"data": ["a", {"text": "b"}]}, EmbedRequest(items=("a", "b"))),
        ("embeddings-v4", {"data": {"pdf": "aGk="}}, EmbedRequest(items=(Media("pdf", b"hi"),))),
        ("embeddings-v5", {"data": [{"image": "data:image/png;base64,aGk="}]}, EmbedRequest(items=(Media("image", b"hi"),))),
        ("clip-v1", {"data": [{"url": "https://a/b.jpg"}]}, EmbedRequest(items=(Media("image", "https://a/b.jpg"),))),
        ("clip-v2", {"data": [{"text": "a"}], "parameters": {"dimensions": "1024"}}, EmbedRequest(items=("a",), dimensions=1024)),
        ("embeddings-v3", {"data": [{"text": "a"}], "parameters": {"dimensions": 256.0}}, EmbedRequest(items=("a",), dimensions=256)),
        ("embeddings-v2", {"data": [{"text": "a"}], "parameters": {"task": "x"}}, EmbedRequest(items=("a",))),
        ("colbert", {"data": [{"text": "a"}], "parameters": {"input_type": "query"}}, EmbedRequest(items=("a",), task="query")),
        ("reranker-m0", {"data": {"query": "q", "documents": [{"image": "aGk="}]}}, RerankRequest(query="q", documents=(Media("image", b"hi"),))),
        ("reader-v2", {"model": "ReaderLM-v2", "prompt": "<p>a</p>"}, ReadRequest(html="<p>a</p>")),
    ],
)  # fmt: skip
def test_a_request_may_be_spelled_in_other_ways_too(name: str, body: object, asked: object) -> None:
    assert SPOKEN[name].decode_request(orjson.dumps(body)) == asked


@pytest.mark.parametrize("top_n", [0, -1, "1", True, 1.5])
def test_a_reranker_gives_one_document_at_least(top_n: object) -> None:
    body = orjson.dumps({"data": {"query": "q", "documents": [{"text": "a"}], "top_n": top_n}})
    with pytest.raises(Unacceptable):
        SPOKEN["reranker-v2"].decode_request(body)


def test_a_number_too_long_to_read_is_unacceptable() -> None:
    body = orjson.dumps({"data": [{"text": "a"}], "parameters": {"dimensions": "1" * 5000}})
    with pytest.raises(Unacceptable, match="not a valid integer"):
        SPOKEN["embeddings-v3"].decode_request(body)


@pytest.mark.parametrize(
    ("name", "asked", "why"),
    [
        ("embeddings-v2", EmbedRequest(items=("a",), task="x"), "takes no task, and task='x' was given"),
        ("embeddings-v3", EmbedRequest(items=("a",), base64=True), "takes no base64"),
        ("embeddings-v3", EmbedRequest(items=(Media("image", b"x"),)), "takes no image; it takes text"),
        ("clip-v1", EmbedRequest(items=(Media("pdf", b"x"),)), "takes no pdf; it takes text, image"),
        ("embeddings-v4", EmbedRequest(items=("a", Media("pdf", b"x"))), "sent alone"),
        ("reader", ReadRequest(html="a", schema="{}"), "neither an instruction nor a schema"),
        ("reader-v2", ReadRequest(html="a", instruction="x\n```html"), "fence"),
    ],
)
def test_what_a_dialect_cannot_say_is_refused_and_not_left_out(name: str, asked: object, why: str) -> None:
    with pytest.raises(InputError, match=why):
        SPOKEN[name].encode_request(asked)


@pytest.mark.parametrize(
    ("given_kind", "source", "why"),
    [
        ("picture", b"x", "not 'picture'"),
        ("image", b"", "empty"),
        ("image", "", "not an http"),
        ("image", "s3://bucket/key", "not an http"),
        ("image", "https://a/\ud800", "not an http"),
    ],
)
def test_media_that_cannot_be_are_refused_when_they_are_made(given_kind: str, source: bytes | str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        Media(given_kind, source)


def test_tokens_of_an_answer_without_usage_count_nothing() -> None:
    body = orjson.dumps({"data": [{"embedding": [1, 2]}] * 2})
    assert [SPOKEN[name].decode_response(TWO, body).tokens for name in ("embeddings-v3", "embeddings-v4")] == [0, 0]


def test_answers_of_the_first_generation_say_their_tokens_by_result() -> None:
    results = [{"index": 0, "relevance_score": 0.5, "usage": {"total_tokens": 4}}]
    body = orjson.dumps({"data": [{"query_usage": {"total_tokens": 3}, "results": results}]})
    assert SPOKEN["reranker-v2"].decode_response(RerankRequest(query="q", documents=("a",)), body).tokens == 7


def test_a_readers_answer_without_a_fence_is_taken_as_it_is() -> None:
    body = orjson.dumps({"choices": [{"text": "# A", "finish_reason": "length"}]})
    told = SPOKEN["reader-v2"].decode_response(ReadRequest(html="a"), body)
    assert (told.text, told.finish_reason, told.completion_tokens) == ("# A", "length", 0)


def test_a_dialect_not_spoken_is_named() -> None:
    own = catalog.Model(key="mine", kind="embedding", dialect="klingon", max_tokens=1)
    with pytest.raises(InputError, match="mine speaks the dialect 'klingon'"):
        wire.dialect(own)


def of_api(key: str) -> Any:
    return wire.dialect(KNOWN.model(key), wire="api")


def test_the_api_is_asked_as_openais_is_and_told_always_whether_to_normalize() -> None:
    asked = EmbedRequest(items=("a", "b"), task="retrieval.query", dimensions=64, late_chunking=True, base64=True)
    assert orjson.loads(of_api("jina-embeddings-v3").encode_request(asked)) == {
        "model": "jina-embeddings-v3",
        "input": ["a", "b"],
        "task": "retrieval.query",
        "dimensions": 64,
        "late_chunking": True,
        "normalized": True,
        "embedding_type": "base64",
    }


def test_texts_beside_an_image_are_objects_like_it() -> None:
    asked = EmbedRequest(items=("a", Media("image", b"hi"), Media("image", "https://a/b.png")))
    for key in ("jina-clip-v2", "jina-embeddings-v4", "jina-embeddings-v5-omni-small"):
        sent = orjson.loads(of_api(key).encode_request(asked))
        assert sent["input"] == [{"text": "a"}, {"image": "aGk="}, {"image": "https://a/b.png"}]


def test_the_api_ranks_and_gives_no_document_back_unless_asked() -> None:
    spoken = of_api("jina-reranker-m0")
    asked = RerankRequest(query="q", documents=("a", Media("image", b"hi")), top_n=1)
    assert orjson.loads(spoken.encode_request(asked)) == {
        "model": "jina-reranker-m0",
        "query": "q",
        "documents": [{"text": "a"}, {"image": "aGk="}],
        "return_documents": False,
        "top_n": 1,
    }
    scores = Rows(np.array([0.25, 0.5], np.float32), 3)
    assert orjson.loads(spoken.encode_response(asked, scores)) == {
        "model": "jina-reranker-m0",
        "object": "list",
        "usage": {"total_tokens": 3},
        "results": [{"index": 1, "relevance_score": 0.5}],
    }
    asked = spoken.decode_request(b'{"model": "jina-reranker-m0", "query": "q", "documents": ["a", {"text": "b"}]}')
    assert (asked.documents, asked.return_documents) == (("a", "b"), True)
    assert [each["document"] for each in orjson.loads(spoken.encode_response(asked, scores))["results"]] == [
        {"text": "b"},
        {"text": "a"},
    ]


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({"input": "a"}, EmbedRequest(items=("a",))),
        ({"input": {"text": "a"}}, EmbedRequest(items=("a",))),
        ({"input": ["a"], "encoding_format": "base64"}, EmbedRequest(items=("a",), base64=True)),
        ({"input": ["a"], "encoding_format": "base64", "embedding_type": "float"}, EmbedRequest(items=("a",))),
        ({"input": ["a"], "user": "someone"}, EmbedRequest(items=("a",))),
    ],
)
def test_a_request_to_the_api_may_be_spelled_as_openais_client_does(more: dict[str, object], asked: object) -> None:
    body = orjson.dumps({"model": "jina-embeddings-v3", **more})
    assert of_api("jina-embeddings-v3").decode_request(body) == asked


def test_where_requests_go_is_the_dialects_to_say() -> None:
    paths = {(name, spoken.path) for name, spoken in SPOKEN.items()}
    assert {path for name, path in paths if not name.endswith(" api")} == {"/invocations"}
    assert {path for name, path in paths if name.endswith(" api")} == {
        "/v1/embeddings",
        "/v1/multi-vector",
        "/v1/rerank",
    }


@pytest.mark.parametrize(
    ("key", "asked", "why"),
    [
        ("jina-embeddings-v2-base-en", EmbedRequest(items=("a",), task="x"), "takes no task"),
        ("jina-embeddings-v5-text-small", EmbedRequest(items=("a",), late_chunking=True), "takes no late_chunking"),
        ("jina-embeddings-v3", EmbedRequest(items=("a",), multivector=True), "takes no multivector"),
        ("jina-embeddings-v3", EmbedRequest(items=(Media("image", b"x"),)), "takes no image; it takes text"),
        ("jina-reranker-v3", RerankRequest(query="q", documents=(Media("image", b"x"),)), "takes no image"),
    ],
)
def test_what_a_model_of_the_api_does_not_take_is_refused(key: str, asked: object, why: str) -> None:
    with pytest.raises(InputError, match=why):
        of_api(key).encode_request(asked)


def test_another_model_than_the_one_asked_is_not_served() -> None:
    with pytest.raises(Unacceptable, match="the model here is jina-embeddings-v3, not 'gpt'"):
        of_api("jina-embeddings-v3").decode_request(b'{"model": "gpt", "input": "a"}')


def test_a_reader_has_no_api_and_a_wire_must_be_known() -> None:
    with pytest.raises(InputError, match=r"ReaderLM-v2 is not to be had over Jina's API. Deploy it"):
        of_api("ReaderLM-v2")
    with pytest.raises(InputError, match="container or api, not 'grpc'"):
        wire.dialect(KNOWN.model("jina-clip-v2"), wire="grpc")
