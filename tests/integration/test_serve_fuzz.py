"""The server against its own description, and against bytes that are nothing at all: never a 500, never a hang."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import EMBEDS, RERANKS, Obedient, Served, served

from jina_sm import catalog
from jina_sm.serve import openapi

_KNOWN = catalog.load(environ={})
schema = schemathesis.openapi.from_dict(
    openapi.document(_KNOWN.model(EMBEDS), _KNOWN.model(RERANKS), max_items=50, keys=False),
    # 413 for too many items: our client halves what it is told of in that way.
    config=schemathesis.Config.from_dict(
        {"checks": {"negative_data_rejection": {"expected-statuses": ["400", "404", "405", "413", "415", "422"]}}}
    ),
)


@pytest.fixture(scope="module")
def up() -> Iterator[Served]:
    with served(Obedient(), max_items=50, access_log=False) as it:
        yield it


@schema.parametrize()
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_it_is_as_it_says(case, up):
    """What the description allows is answered, what it does not is refused, and every answer is one it describes."""
    case.call_and_validate(base_url=up.url)


def test_the_description_is_the_one_that_is_served(up):
    known = _KNOWN.model(EMBEDS), _KNOWN.model(RERANKS)
    assert up.get("/openapi.json")[2] == orjson.loads(orjson.dumps(openapi.document(*known, max_items=50, keys=False)))


POSTED = ["/v1/embeddings", "/v1/rerank", "/invocations", "/embed"]
odd = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["input", "text", "texts", "data", "query", "documents", "parameters", "task", "dimensions", "model", "image", "top_n", "embedding_type"]
    ), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@given(path=st.sampled_from(POSTED), asked=odd)
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
def test_no_json_is_a_fault_of_the_servers(up, path, asked):
    try:
        body = orjson.dumps(asked)
    except (TypeError, orjson.JSONEncodeError):  # lone surrogates: they have a test of their own
        return
    status, _, answer = up.ask(path, body)
    assert status in (200, 400, 404, 413, 422), answer  # 404: no such model


@given(path=st.sampled_from(POSTED), body=st.binary(max_size=200))
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
def test_no_bytes_are_a_fault_of_the_servers(up, path, body):
    assert up.ask(path, body)[0] in (200, 400, 422)


@pytest.mark.parametrize(
    ("name", "body", "statuses"),
    [
        ("ten megabytes", b'{"input": "' + b"a" * 10_000_000 + b'"}', {413}),
        ("a text of six", b'{"input": "' + b"a " * 3_000_000 + b'"}', {400}),
        ("deep", b'{"input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", {400}),
        ("deep in a text's place", b'{"input": [' + b'{"text":' * 900 + b"1" + b"}" * 900 + b"]}", {422}),
        ("many empty lists", b'{"input": [' + b"[]," * 40 + b"[]]}", {422}),
        ("infinite", b'{"input": "a", "dimensions": 1e999}', {400}),
        ("a huge number", b'{"input": "a", "dimensions": ' + b"9" * 5000 + b"}", {400, 422}),
        ("a key twice", b'{"input": "a", "input": []}', {422}),
        ("nothing but control characters", b'{"input": "\\u0000\\u0001"}', {200}),
        ("a byte order mark", b'\xef\xbb\xbf{"input": "a"}', {400}),
        ("half a character", b'{"input": "\xe2\x82"}', {400}),
        ("lone surrogates", b'{"input": ["\\udc00", "\\ud800"]}', {400}),
    ],
)
def test_what_is_strange_is_answered(up, name, body, statuses):
    assert up.ask("/v1/embeddings", body)[0] in statuses


def test_broken_http_neither_hangs_nor_harms(up):
    chance = random.Random(5)
    whole = (
        b'POST /embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{"texts": "a"}'
    )
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        with socket.create_connection(("127.0.0.1", up.port), timeout=30) as raw:
            raw.sendall(bytes(broken[: chance.randint(1, len(broken))]))
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):  # until it is closed, which is what is asked for
                pass
    assert up.ask("/embed", {"texts": "still here"})[0] == 200
    assert up.get("/live")[0] == 200
