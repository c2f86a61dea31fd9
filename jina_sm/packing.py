"""
Items to batches that fit.

Items of like length share a batch, since a server may pad to the longest. A batch is bounded by items, tokens, and
bytes both ways: for short texts it is the response, not the request, that fills up first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jina_sm.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Size:
    """What items weigh in a request and, as expected, in its answer."""

    tokens: int
    request_bytes: int
    response_bytes: int

    def __add__(self, other: Size) -> Size:
        return Size(
            tokens=self.tokens + other.tokens,
            request_bytes=self.request_bytes + other.request_bytes,
            response_bytes=self.response_bytes + other.response_bytes,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Sizes:
    """The sizes of a call's items, int64 of shape (n,) each."""

    tokens: NDArray[np.int64]
    request_bytes: NDArray[np.int64]
    response_bytes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)

    def of(self, items: Sequence[int]) -> Size:
        """What these weigh together."""
        if len(items) == 1:  # the commonest call, and NumPy's set-up costs more than the sum
            item = items[0]
            return Size(
                tokens=int(self.tokens[item]),
                request_bytes=int(self.request_bytes[item]),
                response_bytes=int(self.response_bytes[item]),
            )
        chosen = np.fromiter(items, dtype=np.intp, count=len(items))
        return Size(
            tokens=int(self.tokens[chosen].sum()),
            request_bytes=int(self.request_bytes[chosen].sum()),
            response_bytes=int(self.response_bytes[chosen].sum()),
        )


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


def batches(sizes: Sizes, limits: Limits, overhead: Size) -> list[tuple[int, ...]]:
    """Every index once, longest first, in batches that fit the limits.

    ``overhead`` is what a request weighs before its first item. An item that fits no request even alone gets one of
    its own: who may send it is not decided here.
    """
    longest_first = np.argsort(-sizes.tokens, kind="stable").tolist()
    rows = list(zip(sizes.tokens.tolist(), sizes.request_bytes.tolist(), sizes.response_bytes.tolist(), strict=True))
    packed: list[tuple[int, ...]] = []
    batch: list[int] = []
    tokens, sent, comes = overhead.tokens, overhead.request_bytes, overhead.response_bytes
    for index in longest_first:
        one = rows[index]
        tokens, sent, comes = tokens + one[0], sent + one[1], comes + one[2]
        full = (
            len(batch) >= limits.items
            or tokens > limits.tokens
            or sent > limits.request_bytes
            or comes > limits.response_bytes
        )
        if batch and full:
            packed.append(tuple(batch))
            batch = []
            tokens = overhead.tokens + one[0]
            sent = overhead.request_bytes + one[1]
            comes = overhead.response_bytes + one[2]
        batch.append(index)
    return [*packed, tuple(batch)] if batch else packed


def parts(items: Sequence[int], sizes: Sizes, count: int) -> list[tuple[int, ...]]:
    """The items, in their order, in ``count`` runs of about as many tokens each. None is empty."""
    count = max(1, min(count, len(items)))
    weights = sizes.tokens[np.fromiter(items, dtype=np.intp, count=len(items))]
    middles = np.cumsum(weights) - weights / 2
    ends = np.searchsorted(middles, weights.sum() * np.arange(1, count) / count).tolist()
    cut: list[tuple[int, ...]] = []
    start = 0
    for number, end in enumerate([*ends, len(items)]):
        left = count - 1 - number  # runs still to come, each of one item at least
        stop = min(max(end, start + 1), len(items) - left)
        cut.append(tuple(items[start:stop]))
        start = stop
    return cut
