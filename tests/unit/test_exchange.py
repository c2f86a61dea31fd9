"""The life of a call, with the time told and no thread in sight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import errors
from jina_sm.exchange import Call, Exchange, Send, Wake
from jina_sm.retry import Policy
from jina_sm.values import Rows


def machine(targets: int = 1, *, in_flight: int = 6, policy: Policy = Policy()) -> Exchange[str]:  # noqa: B008
    return Exchange(targets, policy=policy, in_flight=in_flight, random=lambda: 1.0)


def rows(items: Sequence[int]) -> Rows:
    return Rows(np.array(items, dtype=np.float32), len(items))


def sent(exchange: Exchange[str], now: float = 0.0) -> Send[str]:
    step = exchange.next(now)
    assert isinstance(step, Send)
    return step


def test_an_answer_ends_a_call() -> None:
    exchange = machine()
    call = exchange.add("job", [[0, 1]], 0.0)
    exchange.answered(send := sent(exchange), rows(send.piece.items))
    assert call.over
    assert call.error is None
    assert exchange.next(0.0) is None


def test_no_more_are_in_flight_than_the_limit() -> None:
    exchange = machine(in_flight=2)
    exchange.add("job", [[0], [1], [2]], 0.0)
    first, _ = sent(exchange), sent(exchange)
    assert exchange.next(0.0) is None
    exchange.answered(first, rows(first.piece.items))
    assert sent(exchange).piece.items == (2,)


def test_a_small_call_does_not_wait_behind_a_large_one() -> None:
    exchange = machine(in_flight=2)
    exchange.add("large", [[0], [1], [2]], 0.0)
    small = exchange.add("small", [[0]], 0.0)
    assert [sent(exchange).call.job, sent(exchange).call.job] == ["large", "small"]
    assert small.under_way == 1


def test_what_is_unavailable_is_tried_again_later() -> None:
    exchange = machine()
    call = exchange.add("job", [[0]], 0.0)
    exchange.failed(sent(exchange), errors.ModelUnavailableError("loading"), 0.0)
    wake = exchange.next(0.0)
    assert isinstance(wake, Wake)
    assert wake.at > 0
    exchange.answered(send := sent(exchange, wake.at), rows(send.piece.items))
    assert call.over
    assert call.requests == 2


def test_the_service_says_how_long_to_wait() -> None:
    exchange = machine()
    exchange.add("job", [[0]], 0.0)
    exchange.failed(sent(exchange), errors.ThrottledError("slow down", retry_after_s=7.0), 0.0)
    assert exchange.next(0.0) == Wake(7.0)


def test_trying_ends_after_so_many_attempts_and_the_error_says_so() -> None:
    exchange = machine(policy=Policy(attempts=3))
    call = exchange.add("job", [[0]], 0.0)
    now = 0.0
    for _ in range(3):
        exchange.failed(sent(exchange, now), errors.ThrottledError("no"), now)
        if isinstance(step := exchange.next(now), Wake):
            now = step.at
    assert call.over
    assert isinstance(call.error, errors.ThrottledError)
    assert call.error.attempts == 3
    assert "after 3 attempts" in str(call.error)


def test_trying_ends_after_so_many_seconds() -> None:
    exchange = machine(policy=Policy(seconds=10.0))
    call = exchange.add("job", [[0]], 0.0)
    exchange.failed(sent(exchange), errors.ModelUnavailableError("no"), 11.0)
    assert call.over
    assert call.error is not None


def test_what_was_refused_is_not_sent_again() -> None:
    for kind in (errors.BadRequestError, errors.AuthError, errors.EndpointNotFoundError):
        exchange = machine()
        call = exchange.add("job", [[0]], 0.0)
        exchange.failed(sent(exchange), kind("no"), 0.0)
        assert call.over
        assert isinstance(call.error, kind)
        assert call.requests == 1


def test_what_took_too_long_or_was_too_large_is_sent_in_halves() -> None:
    for kind in (errors.ModelTimeoutError, errors.PayloadTooLargeError):
        exchange = machine()
        call = exchange.add("job", [[4, 5, 6]], 0.0)
        exchange.failed(sent(exchange), kind("no"), 0.0)
        assert {sent(exchange).piece.items, sent(exchange).piece.items} == {(4,), (5, 6)}
        assert call.error is None


def test_another_region_takes_over_at_once_and_home_rests() -> None:
    exchange = machine(2)
    exchange.add("job", [[0], [1]], 0.0)
    exchange.failed(sent(exchange), errors.ModelUnavailableError("down"), 0.0)
    assert [sent(exchange).target, sent(exchange).target] == [1, 1]


def test_two_regions_that_both_throttle_are_given_time() -> None:
    exchange = machine(2)
    exchange.add("job", [[0]], 0.0)
    exchange.failed(sent(exchange), errors.ThrottledError("no"), 0.0)
    exchange.failed(sent(exchange), errors.ThrottledError("no", retry_after_s=3.0), 0.0)
    assert exchange.next(0.0) == Wake(3.0)


def test_a_region_that_hangs_is_left_for_another() -> None:
    exchange = machine(2)
    exchange.add("job", [[0]], 0.0)
    exchange.failed(sent(exchange), errors.ModelTimeoutError("no answer"), 70.0)
    assert sent(exchange, 70.0).target == 1


def test_home_is_asked_again_after_its_rest() -> None:
    exchange = machine(2, policy=Policy(rest_s=30.0))
    exchange.add("job", [[0]], 0.0)
    exchange.failed(sent(exchange), errors.EndpointNotFoundError("gone"), 0.0)
    exchange.add("later", [[0]], 31.0)
    assert {(each.call.job, each.target) for each in (sent(exchange, 31.0), sent(exchange, 31.0))} == {
        ("job", 1),
        ("later", 0),
    }


def test_an_endpoint_missing_everywhere_is_an_error() -> None:
    exchange = machine(2)
    call = exchange.add("job", [[0]], 0.0)
    for target in (0, 1):
        send = sent(exchange)
        assert send.target == target
        exchange.failed(send, errors.EndpointNotFoundError("gone"), 0.0)
    assert call.over
    assert isinstance(call.error, errors.EndpointNotFoundError)


def test_a_call_given_up_sends_nothing_more() -> None:
    exchange = machine(in_flight=2)
    call = exchange.add("job", [[0], [1], [2]], 0.0)
    first, second = sent(exchange), sent(exchange)
    exchange.failed(first, errors.BadRequestError("no"), 0.0)
    assert exchange.next(0.0) is None
    assert not call.over
    exchange.failed(second, errors.ModelUnavailableError("late"), 0.0)
    assert call.over
    assert isinstance(call.error, errors.BadRequestError)


def test_an_abandoned_call_leaves_no_trace() -> None:
    exchange = machine(in_flight=1)
    call = exchange.add("job", [[0], [1]], 0.0)
    send = sent(exchange)
    exchange.abandon(call)
    exchange.answered(send, rows(send.piece.items))
    exchange.add("next", [[0]], 0.0)
    assert sent(exchange).call.job == "next"


KINDS = (
    errors.ThrottledError, errors.ModelUnavailableError, errors.ModelTimeoutError, errors.PayloadTooLargeError,
    errors.ModelFailedError, errors.ProtocolError, errors.EndpointNotFoundError, errors.BadRequestError,
)  # fmt: skip


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 4),
    st.data(),
)
def test_whatever_happens_every_item_is_answered_once_or_the_call_fails(
    lengths: list[int], targets: int, in_flight: int, data: st.DataObject
) -> None:
    exchange = machine(targets, in_flight=in_flight)
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    batches = [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]
    call: Call[str] = exchange.add("job", batches, 0.0)
    now, under_way, steps = 0.0, [], 0
    while not call.over:
        steps += 1
        assert steps < 2000, "the machine must come to an end"
        step = exchange.next(now)
        if isinstance(step, Send):
            under_way.append(step)
            assert len(under_way) <= in_flight * targets
            continue
        if not under_way:
            assert isinstance(step, Wake), "nothing under way, nothing to wait for, and not over"
            now = step.at
            continue
        send = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        if data.draw(st.booleans()):
            exchange.answered(send, rows(send.piece.items))
        else:
            exchange.failed(send, data.draw(st.sampled_from(KINDS))("no"), now)
    if call.error is None:
        answered = sorted(item for items, _ in call.answers for item in items)
        assert answered == list(range(sum(lengths)))
