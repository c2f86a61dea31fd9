"""Rows read from their bytes: the same float32, or the same refusal, as from the whole document."""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jina_sm import catalog, wire
from jina_sm.errors import ProtocolError
from jina_sm.values import EmbedRequest, Media, Rows, Vectors
from jina_sm.wire import rows

V3 = wire.dialect(catalog.load(environ={}).model("jina-embeddings-v3"))


def whole() -> rows.Parse:
    raise rows.Surprise("parse the whole document")


PARSERS: dict[str, Callable[[], rows.Parse]] = {"plain": rows.plain, "simd": rows.simd, "best": rows.best}
ONE, TWO = EmbedRequest(items=("a",)), EmbedRequest(items=("a", "b"))


def decoded(
    parser: Callable[[], rows.Parse], asked: EmbedRequest, body: bytes
) -> tuple[bytes, tuple[int, ...], int] | str:
    try:
        told = dataclasses.replace(V3, parser=parser).decode_response(asked, body)  # type: ignore[type-var]
    except ProtocolError:
        return "ProtocolError"
    assert isinstance(told, Rows)
    assert told.values.dtype == np.float32
    return told.values.tobytes(), told.values.shape, told.tokens


def quickly(body: bytes) -> Vectors:
    return rows.matrix([row["embedding"] for row in rows.cut(body)["data"]], rows.simd())


floats = st.floats(-(2.0**99), 2.0**99, width=32).map(repr)
numbers = st.one_of(
    floats,
    st.floats(-(2.0**99), 2.0**99).map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
)
odd = st.sampled_from(
    ["NaN", "Infinity", "-Infinity", "null", "true", '"1.5"', '"]"', "[1]", "{}", '{"embedding":[1]}', "1.", ".5", "01",
     "+1", "1e400", "1e300", "-", "", " 1", "1 ", "\n1", "0x1", "1_0", "\\u0031"]
)  # fmt: skip
space = st.sampled_from(["", "", "", " ", "\n", "\t ", "\r\n"])


def arrays(number: st.SearchStrategy[str], width: int, gap: str = "") -> st.SearchStrategy[str]:
    written = st.lists(number, min_size=width, max_size=width).map(f"{gap},{gap}".join)
    return written.map(lambda inner: f"[{gap}{inner}{gap}]")


def coded(width: int) -> st.SearchStrategy[str]:
    row = st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=width, max_size=width)
    return row.map(lambda values: json.dumps(base64.b64encode(np.array(values, "<f4").tobytes()).decode()))


@st.composite
def ordinary(draw: st.DrawFn) -> bytes:
    """What some model might answer for two items."""
    width, gap, indexed = draw(st.integers(1, 3)), draw(space), draw(st.booleans())
    value = draw(st.sampled_from([arrays(numbers, width, gap), coded(width), arrays(numbers, width) | coded(width)]))
    found = []
    for place in draw(st.permutations([0, 1])):
        fields = [f'"embedding"{gap}:{gap}{draw(value)}', f'"usage":{gap}{{"total_tokens":{place}}}', '"id":"[ü]"']
        found.append(draw(st.permutations(fields + [f'"index":{place}'] * indexed)))
    data = ",".join("{" + f",{gap}".join(fields) + "}" for fields in found)
    ends = ['"parameters":{"task":"text \\"embedding\\":[1]"}', '"object":"embedding"', '"usage":{"total_tokens":5}']
    whole = draw(st.permutations([f'"data":[{data}]', *draw(st.lists(st.sampled_from(ends), max_size=2, unique=True))]))
    return (gap + "{" + ",".join(whole) + "}" + gap).encode()


ROWS = ["5", "null", "{}", "[]", "[[1,2],[3]]", "[[1],[2]]", '"', '""', '"AAA="', '"no"', '"AACA\\/w=="', '["]"]']
KEYS = ["embedding"] * 9 + ["embeddings", 'x\\"embedding', "embeddin\\u0067", "Embedding"]
FIELDS = ['"embedding":[9,9]', '"text":"\\"embedding\\":[1]"', '"embedding":0', '"usage":[]', '"id":"]"', '"index":0',
          '"id":"\\ud83d"', '"id":"ü"', '"embedding": []', '"index":1', '"index":true', '"index":1.0']  # fmt: skip
ENDS = ['"parameters":{"task":null}', '"parameters":{"embedding":[1,2]}', '"usage":5', '"data":[]',
        '"task":"\\"embedding\\":[1,2]"', '"x":1e999']  # fmt: skip


@st.composite
def strange(draw: st.DrawFn) -> bytes:
    """What none should answer, in most cases."""
    value = arrays(floats, 2) | arrays(floats, 2) | arrays(floats | odd, 2) | st.sampled_from(ROWS)
    found = []
    for _ in range(draw(st.integers(1, 3))):
        fields = [f'"{draw(st.sampled_from(KEYS))}":{draw(value)}']
        found.append(draw(st.permutations(fields + draw(st.lists(st.sampled_from(FIELDS), max_size=2)))))
    data = ",".join("{" + ",".join(fields) + "}" for fields in found)
    whole = draw(st.permutations([f'"data":[{data}]', *draw(st.lists(st.sampled_from(ENDS), max_size=1))]))
    return ("{" + ",".join(whole) + "}").encode()


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    body = draw(ordinary() | strange())
    at = draw(st.integers(0, len(body)))
    put = draw(st.sampled_from([b"", b'"', b"]", b"[", b"}", b",", b"\\", b"\xff", b"\x00", b'"embedding":[1]']))
    return body[:at] + put + draw(st.sampled_from([b"", body[at:], body[at + 1 :], body]))


@given(ordinary() | strange() | broken(), st.sampled_from([ONE, TWO, EmbedRequest(items=("a", "b"), dimensions=2),
                                     EmbedRequest(items=(Media("pdf", b"%PDF"),))]))  # fmt: skip
@example(b'{"data":[{"embedding":0}],"parameters":{"embedding":[1,2]}}', ONE)
@example(b'{"data":[{"embedding":[0]}],"data":[{"embedding":[1]}]}', ONE)
@example(b'{"data":[{"x\\"embedding":[7],"embeddin\\u0067":[]}]}', ONE)
@example(b'{"data":[{"embedding":[1e300]}]}', ONE)
@example(b'{"data":[{"embedding":[1,2]},{"embedding":[1]}]}', TWO)
@example(b'{"data":[{"embedding":[1]},{"embedding":[1,2]}]}', TWO)
@example(b'{"data":[{"embedding":[]},{"embedding":[]}]}', TWO)
@example(b'{"data":[{"embedding":""},{"embedding":""}]}', TWO)
@example(b'{"data":[{"embedding":[1,2]},{"embedding":"AACAPwAAAEA="}]}', TWO)
@example(b'{"data":[{"embedding":[1,2]},{"embedding":[1.00000]}]}', TWO)
@example(b'{"data":[{"embedding":"AAC*APw=="}]}', ONE)
@example(b'[{"embedding":[1]}]', ONE)
@example(b'{"data":{"embedding":[1]}}', ONE)
@example(b'{"data":["embedding"],"embedding":[1]}', ONE)
@example(b'"data"', ONE)
def test_every_way_of_reading_gives_the_same_rows_or_the_same_error(body: bytes, asked: EmbedRequest) -> None:
    expected = decoded(whole, asked, body)
    assert {name: decoded(parser, asked, body) for name, parser in PARSERS.items()} == dict.fromkeys(PARSERS, expected)


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=4), space)
def test_rows_read_quickly_are_those_of_the_json_module_bit_for_bit(given_rows: list[list[str]], gap: str) -> None:
    found = f",{gap}".join(f'{{"embedding":{gap}[' + f",{gap}".join(row) + "]}" for row in given_rows)
    body = f'{{"data":{gap}[{found}]}}'.encode()
    with np.errstate(over="ignore"):
        expected = np.array([row["embedding"] for row in json.loads(body)["data"]], np.float32)
    try:
        quick = quickly(body)
    except rows.Surprise:  # a whole number beyond 64 bits, or a fraction beyond a double
        return
    assert (quick.dtype, quick.shape, quick.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


@pytest.mark.parametrize(
    "row",
    [
        {"id": "ab", "embedding": [1, 2.5], "usage": {"id": "ab", "total_tokens": 1}},
        {"object": "embedding", "index": 0, "embedding": [1, 2.5]},
        {
            "object": "embedding",
            "index": 0,
            "embedding": base64.b64encode(np.array([1, 2.5], "<f4").tobytes()).decode(),
        },
    ],
)
@pytest.mark.parametrize("write", [orjson.dumps, lambda row: json.dumps(row, indent=1).encode()])
def test_what_the_models_answer_is_read_quickly(row: dict[str, Any], write: Callable[[Any], bytes]) -> None:
    assert quickly(write({"data": [row], "usage": {"total_tokens": 1}})).tolist() == [[1, 2.5]]


@pytest.mark.parametrize("parser", [rows.plain, rows.simd])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_decoding_takes_little_more_memory_than_the_matrix(parser: Callable[[], rows.Parse], as_bytes: bool) -> None:
    drawn = np.random.default_rng(0).standard_normal((128, 1024), np.float32)
    told = [base64.b64encode(row.tobytes()).decode() if as_bytes else row.tolist() for row in drawn]
    body = orjson.dumps({"data": [{"index": place, "embedding": row} for place, row in enumerate(told)]})
    del told
    reads, asked = dataclasses.replace(V3, parser=parser), EmbedRequest(items=("a",) * 128)  # type: ignore[type-var]
    reads.decode_response(asked, body)
    tracemalloc.start()
    back = reads.decode_response(asked, body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(back.values, drawn)
    assert peak < 2 * drawn.nbytes


def test_no_body_asks_for_a_matrix_far_larger_than_itself() -> None:
    body = b'{"data":[{"embedding":[' + b",".join([b"1"] * 1000) + b"]}" + b',{"embedding":[1]}' * 1000 + b"]}"
    with pytest.raises(rows.Surprise, match="shorter"):
        quickly(body)


def test_without_pysimdjson_orjson_parses_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simdjson", None)
    rows._simdjson.cache_clear()
    try:
        assert rows.best() is rows.plain()
    finally:
        rows._simdjson.cache_clear()
