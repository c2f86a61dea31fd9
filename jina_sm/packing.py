"""
Items to batches that fit.

Items of like length share a batch, since a server may pad to the longest. A batch is bounded by items, tokens, and
bytes both ways: for short texts it is the response, not the request, that fills up first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jina_sm.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Size:
    """What one item weighs in a request and, as expected, in its answer."""

    tokens: int
    request_bytes: int
    response_bytes: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may hold.

    ``items`` and ``tokens``: large enough that the GPU never waits, small enough to stay far from the 60 s that an
    invocation may take. The bytes: InvokeEndpoint's body limit in AWS's service model, 6 MiB either way. (AWS's FAQ
    says 25 MB, which could not be verified; raise it here if your account allows more.)
    """

    items: int = 480
    tokens: int = 32_000
    request_bytes: int = 6 * 1024 * 1024
    response_bytes: int = 6 * 1024 * 1024

    def __post_init__(self) -> None:
        if min(self.items, self.tokens, self.request_bytes, self.response_bytes) < 1:
            raise InputError(f"{self!r}: every limit is 1 or more")

    def hold(self, total: Size, count: int) -> bool:
        return (
            count <= self.items
            and total.tokens <= self.tokens
            and total.request_bytes <= self.request_bytes
            and total.response_bytes <= self.response_bytes
        )


def batches(sizes: Sequence[Size], limits: Limits, overhead: Size) -> list[list[int]]:
    """Every index once, longest first, in batches that fit the limits.

    ``overhead`` is what a request weighs before its first item. An item that fits no request even alone gets one of
    its own: who may send it is not decided here.
    """
    longest_first = sorted(range(len(sizes)), key=lambda index: -sizes[index].tokens)
    packed: list[list[int]] = []
    total = overhead
    for index in longest_first:
        total = _sum(total, sizes[index])
        if not packed or not limits.hold(total, len(packed[-1]) + 1):
            packed.append([])
            total = _sum(overhead, sizes[index])
        packed[-1].append(index)
    return packed


def _sum(a: Size, b: Size) -> Size:
    return Size(
        tokens=a.tokens + b.tokens,
        request_bytes=a.request_bytes + b.request_bytes,
        response_bytes=a.response_bytes + b.response_bytes,
    )
