"""
The rows of an answer as one float32 matrix, and never all as Python's floats, which take many times its memory.

Each row's numbers are found in the bytes and parsed alone, straight into their place; the rest is parsed as JSON, with
nothing where they stood. Only rows of numbers or of base64 under ``embedding`` are read here. Whatever else a body may
hold is a Surprise, and the document is to be parsed as a whole: nothing is refused here for good.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson

from jina_sm.values import Vectors

Parse = Callable[[bytes], Any]
"""The numbers of a JSON array, as a list or an array. Raises ValueError, TypeError or RuntimeError."""

_OPENS = re.compile(rb'"embedding"\s*:\s*(["\[])')
_CLOSES = {b"[": b"]", b'"': b'"'}


class Surprise(ValueError):
    """The body is not of the plain shape that is read here. It may be right all the same."""


def cut(body: bytes) -> Any:
    """The answer, where each row's ``embedding`` is the bytes of its numbers. Raises Surprise."""
    spans: list[memoryview] = []
    rest: list[memoryview] = []
    whole, end = memoryview(body), 0
    while match := _OPENS.search(body, end):
        close = body.find(_CLOSES[match[1]], match.end())
        if close < 0:
            raise Surprise("the last row has no end")
        spans.append(whole[match.start(1) : close + 1])
        rest.append(whole[end : match.end()])
        end = close
    try:
        skeleton = b"".join([*rest, whole[end:]])
        if b"\\" in skeleton:  # an escaped quote could make a key of what is text
            raise Surprise("something is escaped")
        answer = orjson.loads(skeleton)
        for row, span in zip(answer["data"], spans, strict=True):
            if row["embedding"] not in ([], ""):
                raise Surprise("a row's numbers are not where they should be")
            row["embedding"] = span
    except (ValueError, TypeError, KeyError) as error:
        raise Surprise(str(error)) from None
    return answer


def matrix(spans: Sequence[memoryview], parse: Parse) -> Vectors:
    """Rows of like length as float32 (n, d). Raises Surprise."""
    found: Vectors | None = None
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is refused later
            for index, span in enumerate(spans):
                row = _row(bytes(span), parse)
                if found is None:
                    if min(map(len, spans)) < 2 * len(row):  # a number and its comma: no body makes a matrix far
                        raise Surprise("a row is shorter than the first")  # larger than itself
                    found = np.empty((len(spans), len(row)), np.float32)
                if len(row) != found.shape[1]:
                    raise Surprise("rows differ in length")
                found[index] = row
    except (ValueError, TypeError, RuntimeError) as error:
        raise Surprise(str(error)) from None
    if found is None:
        raise Surprise("there are no rows")
    return found


def _row(span: bytes, parse: Parse) -> Any:
    return parse(span) if span[:1] == b"[" else np.frombuffer(base64.b64decode(span[1:-1], validate=True), "<f4")


def plain() -> Parse:
    """With orjson, which is always there."""
    return orjson.loads


def simd() -> Parse:
    """With pysimdjson, of the extra ``fast``. What it gives is for one thread."""
    parser = _simdjson().Parser()
    return lambda span: np.frombuffer(parser.parse(span).as_buffer(of_type="d"))


def best() -> Parse:
    """With the fastest that is installed."""
    return simd() if _simdjson() else plain()


@functools.cache
def _simdjson() -> Any:
    try:
        import simdjson
    except ImportError:
        return None
    return simdjson
