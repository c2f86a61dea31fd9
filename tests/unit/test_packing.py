"""What ``packing.batches`` promises."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import packing
from jina_sm.packing import Limits, Size, Sizes

NOTHING = Size(tokens=0, request_bytes=0, response_bytes=0)
sizes = st.lists(
    st.builds(Size, tokens=st.integers(1, 50), request_bytes=st.integers(1, 200), response_bytes=st.integers(1, 200)),
    max_size=60,
)
limits = st.builds(
    Limits,
    items=st.integers(1, 10),
    tokens=st.integers(50, 120),
    request_bytes=st.integers(250, 900),
    response_bytes=st.integers(250, 900),
)
overheads = st.builds(Size, tokens=st.just(0), request_bytes=st.integers(0, 50), response_bytes=st.integers(0, 50))


def columns(items: Sequence[Size]) -> Sizes:
    return Sizes(
        tokens=np.array([item.tokens for item in items], dtype=np.int64),
        request_bytes=np.array([item.request_bytes for item in items], dtype=np.int64),
        response_bytes=np.array([item.response_bytes for item in items], dtype=np.int64),
    )


def batches(items: Sequence[Size], bound: Limits, overhead: Size) -> list[tuple[int, ...]]:
    return packing.batches(columns(items), bound, overhead)


@given(sizes, limits, overheads)
def test_every_item_travels_exactly_once(items: list[Size], bound: Limits, overhead: Size) -> None:
    packed = batches(items, bound, overhead)
    assert sorted(index for batch in packed for index in batch) == list(range(len(items)))
    assert all(packed)


@given(sizes, limits, overheads)
def test_no_batch_exceeds_a_limit(items: list[Size], bound: Limits, overhead: Size) -> None:
    for batch in batches(items, bound, overhead):
        assert len(batch) <= bound.items
        assert sum(items[index].tokens for index in batch) <= bound.tokens
        for side in ("request_bytes", "response_bytes"):
            held = sum(getattr(items[index], side) for index in batch) + getattr(overhead, side)
            assert held <= getattr(bound, side)


@given(sizes, limits)
def test_items_of_like_length_share_a_batch(items: list[Size], bound: Limits) -> None:
    lengths = [items[index].tokens for batch in batches(items, bound, NOTHING) for index in batch]
    assert lengths == sorted(lengths, reverse=True)


@given(sizes, limits)
def test_a_batch_is_closed_only_when_the_next_item_does_not_fit(items: list[Size], bound: Limits) -> None:
    packed = batches(items, bound, NOTHING)
    for batch, following in itertools.pairwise(packed):
        together = [items[index] for index in [*batch, following[0]]]
        total = Size(
            tokens=sum(item.tokens for item in together),
            request_bytes=sum(item.request_bytes for item in together),
            response_bytes=sum(item.response_bytes for item in together),
        )
        assert not bound.hold(total, len(together))


def test_what_fits_nowhere_travels_alone() -> None:
    large = Size(tokens=10**6, request_bytes=1, response_bytes=1)
    small = Size(tokens=1, request_bytes=1, response_bytes=1)
    assert batches([small, large, small], Limits(), NOTHING) == [(1,), (0, 2)]


def test_the_defaults_keep_full_length_v3_vectors_under_the_response_limit() -> None:
    short = Size(tokens=10, request_bytes=60, response_bytes=12_900)  # as measured in published answers
    assert max(map(len, batches([short] * 2000, Limits(), NOTHING))) <= 488


@given(sizes.filter(bool), st.integers(1, 9))
def test_parts_keep_the_order_and_weigh_about_the_same(items: list[Size], count: int) -> None:
    order = tuple(range(len(items)))
    cut = packing.parts(order, columns(items), count)
    assert tuple(index for part in cut for index in part) == order
    assert len(cut) == min(count, len(items))
    assert all(cut)
    heaviest = max(columns(items).of(part).tokens for part in cut)
    whole = columns(items).of(order).tokens
    assert heaviest <= whole / len(cut) + 2 * 50 * len(cut)


@given(sizes.filter(bool), st.data())
def test_items_weigh_the_same_together_as_one_by_one(items: list[Size], data: st.DataObject) -> None:
    some = data.draw(st.lists(st.integers(0, len(items) - 1), min_size=1, max_size=20))
    together = NOTHING
    for index in some:
        together = together + items[index]
    assert columns(items).of(some) == together
