"""The life of a call, with the time told and no thread in sight."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import errors
from jina_sm.exchange import Call, Count, Exchange, Send, Wake, Work
from jina_sm.packing import Limits, Size, Sizes
from jina_sm.retry import Policy

LIGHT = Size(tokens=0, request_bytes=0, response_bytes=0)


def machine(
    targets: int = 1,
    *,
    in_flight: int = 6,
    policy: Policy = Policy(),  # noqa: B008
    limits: Limits = Limits(),  # noqa: B008
    counting: bool = False,
) -> Exchange[str]:
    names = [(f"target-{number}", None) for number in range(targets)]
    return Exchange(names, policy=policy, limits=limits, in_flight=in_flight, random=lambda: 1.0, counting=counting)


def work(batches: Sequence[Sequence[int]], *, key: Hashable = None, tokens: int = 1, whole: bool = False) -> Work:
    each = np.full(1 + max(item for batch in batches for item in batch), tokens, dtype=np.int64)
    sizes = Sizes(tokens=each, request_bytes=each, response_bytes=each)
    return Work(sizes=sizes, overhead=LIGHT, batches=[tuple(batch) for batch in batches], key=key, whole=whole)


def sent(exchange: Exchange[str], now: float = 0.0) -> Send[str]:
    step = exchange.next(now)
    assert isinstance(step, Send)
    return step


def items(send: Send[str]) -> tuple[int, ...]:
    return tuple(item for piece in send.pieces for item in piece.items)


def answer(exchange: Exchange[str], send: Send[str], now: float = 0.0, tokens: int = 1) -> None:
    exchange.answered(send, np.array(items(send)), tokens, now)


def values(call: Call[str]) -> dict[int, Any]:
    """What each item of the call was answered with."""
    return {item: one.rows[place] for one in call.answers for place, item in enumerate(one.items, one.start)}


def error_of(call: Call[str]) -> errors.JinaSMError:
    assert call.error is not None
    return call.error


def test_an_answer_ends_a_call() -> None:
    exchange = machine()
    call = exchange.add("job", work([[0, 1]]), 0.0)
    answer(exchange, sent(exchange))
    assert call.over
    assert call.error is None
    assert exchange.next(0.0) is None
    assert exchange.ended() == [call]


def test_no_more_are_in_flight_than_the_limit() -> None:
    exchange = machine(in_flight=2)
    exchange.add("job", work([[0], [1], [2]]), 0.0)
    first, _ = sent(exchange), sent(exchange)
    assert exchange.next(0.0) is None
    answer(exchange, first)
    assert items(sent(exchange)) == (2,)


def test_more_instances_take_more_requests() -> None:
    exchange = machine(in_flight=2)
    exchange.add("job", work([[item] for item in range(5)]), 0.0)
    exchange.resize(0, 2)
    assert [items(sent(exchange)) for _ in range(4)] == [(0,), (1,), (2,), (3,)]
    assert exchange.next(0.0) is None


def full(*, counting: bool = True) -> Exchange[str]:
    """One request may be under way and is, another waits."""
    exchange = machine(in_flight=1, counting=counting)
    exchange.add("job", work([[0], [1]]), 0.0)
    assert isinstance(exchange.next(0.0), Send)
    return exchange


def test_the_instances_of_a_full_target_are_counted_and_again_after_a_minute() -> None:
    exchange = full()
    assert exchange.next(0.0) == Count(0)
    assert exchange.next(0.0) is None, "asked, and nothing waits for the answer"
    exchange.resize(0, 1)
    assert exchange.next(59.0) is None
    assert exchange.next(60.0) == Count(0)
    exchange.resize(0, 2)
    assert items(sent(exchange, 61.0)) == (1,)
    assert exchange.next(500.0) is None, "nothing waits any more"


def test_instances_that_nobody_counts_are_asked_for_more_and_more_seldom() -> None:
    exchange, asked, now = full(), [], 0.0
    while now < 4 * 3600:
        if exchange.next(now) == Count(0):
            asked.append(now)
        now += 30.0
    assert asked[:4] == [0.0, 60.0, 180.0, 420.0]
    assert asked[-1] - asked[-2] == 3600.0


def test_who_has_room_or_was_told_counts_nothing() -> None:
    exchange = machine(in_flight=4, counting=True)
    exchange.add("job", work([[0]]), 0.0)
    assert isinstance(exchange.next(0.0), Send)
    assert exchange.next(0.0) is None
    assert full(counting=False).next(0.0) is None


def test_a_target_that_is_to_be_left_alone_is_not_counted() -> None:
    exchange = machine(in_flight=2, counting=True)
    exchange.add("job", work([[0], [1], [2]]), 0.0)
    first, _ = sent(exchange), sent(exchange)
    exchange.failed(first, errors.ThrottledError("no", retry_after_s=9), 0.0)
    assert exchange.next(1.0) == Wake(9.0)


def test_a_small_call_does_not_wait_behind_a_large_one() -> None:
    exchange = machine(in_flight=2)
    exchange.add("large", work([[0], [1], [2]]), 0.0)
    exchange.add("small", work([[0]]), 0.0)
    assert [sent(exchange).pieces[0].call.job for _ in range(2)] == ["large", "small"]


def test_those_who_ask_at_the_same_time_share_a_request() -> None:
    exchange = machine(in_flight=1)
    first = exchange.add("first", work([[0]], key="v3"), 0.0)
    answer_to_first = sent(exchange)
    calls = [exchange.add(f"call {number}", work([[0, 1]], key="v3"), 0.0) for number in range(3)]
    other = exchange.add("other task", work([[0]], key="another"), 0.0)
    answer(exchange, answer_to_first)
    together = sent(exchange)
    assert [piece.call for piece in together.pieces] == calls
    exchange.answered(together, np.arange(6) * 10, 9, 0.0)
    assert [values(call) for call in calls] == [{0: 0, 1: 10}, {0: 20, 1: 30}, {0: 40, 1: 50}]
    assert [call.answers[0].tokens for call in calls] == [3, 3, 3]
    assert first.over
    assert not other.over


def test_a_shared_request_keeps_to_the_limits() -> None:
    exchange = machine(in_flight=1, limits=Limits(items=3))
    blocking = exchange.add("first", work([[0]], key="k"), 0.0)
    send = sent(exchange)
    for _ in range(5):
        exchange.add("more", work([[0]], key="k"), 0.0)
    answer(exchange, send)
    assert blocking.over
    assert sent(exchange).items == 3


def test_a_short_text_does_not_travel_with_many_long_ones() -> None:
    exchange = machine(in_flight=1, limits=Limits(tokens=10_000))
    exchange.add("first", work([[0]], key="k"), 0.0)
    send = sent(exchange)
    exchange.add("long", work([[0]], key="k", tokens=6_000), 0.0)
    exchange.add("short", work([[0]], key="k", tokens=10), 0.0)
    answer(exchange, send)
    assert [piece.call.job for piece in sent(exchange).pieces] == ["long"]


def test_one_callers_bad_text_fails_nobody_else() -> None:
    exchange = machine(in_flight=1)
    exchange.add("first", work([[0]], key="k"), 0.0)
    send = sent(exchange)
    calls = [exchange.add(name, work([[0]], key="k"), 0.0) for name in ("a", "poison", "b", "c")]
    answer(exchange, send)
    while isinstance(send := exchange.next(0.0), Send):
        if any(piece.call.job == "poison" for piece in send.pieces):
            exchange.failed(send, errors.BadRequestError("poison"), 0.0)
        else:
            answer(exchange, send)
    assert [type(call.error) for call in calls] == [type(None), errors.BadRequestError, type(None), type(None)]


def sharing(exchange: Exchange[str], count: int) -> tuple[list[Call[str]], Send[str]]:
    """So many calls under way in one request."""
    calls = [exchange.add(f"call {number}", work([[0]], key="k"), 0.0) for number in range(count)]
    send = sent(exchange)
    assert [piece.call for piece in send.pieces] == calls
    return calls, send


def test_each_caller_is_given_an_error_of_its_own() -> None:
    exchange = machine()
    calls, send = sharing(exchange, 2)
    cause = OSError("socket")
    error = errors.AuthError("no", cure="Sign in.", region="r")
    error.__cause__ = cause
    exchange.failed(send, error, 0.0)
    first, second = (error_of(call) for call in calls)
    assert first is not second
    assert {str(first), str(second)} == {str(error)}
    assert (first.__cause__, type(first), first.region) == (cause, errors.AuthError, "r")


def test_a_question_is_no_sentence_to_be_ended() -> None:
    assert (
        str(errors.InputError("no 'v33'; did you mean 'v3'?", cure="Say v3.")) == "no 'v33'; did you mean 'v3'? Say v3."
    )
    assert str(errors.InputError("no 'v33'", cure="Say v3.")) == "no 'v33'. Say v3."


def test_who_shares_a_request_with_one_that_was_tried_often_is_tried_again() -> None:
    exchange = machine(policy=Policy(attempts=2))
    old = exchange.add("old", work([[0]], key="k"), 0.0)
    exchange.failed(sent(exchange), errors.ModelUnavailableError("no"), 0.0)
    new = exchange.add("new", work([[0]], key="k"), 1.0)
    together = sent(exchange, 1.0)
    assert len(together.pieces) == 2
    exchange.failed(together, errors.ModelUnavailableError("no"), 1.0)
    assert (old.over, new.over) == (True, False)
    assert error_of(old).attempts == 2
    answer(exchange, sent(exchange, 9.0), 9.0)
    assert (new.over, new.error) == (True, None)


def test_what_is_unavailable_is_tried_again_later() -> None:
    exchange = machine()
    call = exchange.add("job", work([[0]]), 0.0)
    exchange.failed(sent(exchange), errors.ModelUnavailableError("loading"), 0.0)
    wake = exchange.next(0.0)
    assert isinstance(wake, Wake)
    assert wake.at > 0
    answer(exchange, sent(exchange, wake.at))
    assert call.over
    assert (call.requests, call.retries) == (2, 1)


def test_the_service_says_how_long_to_wait() -> None:
    exchange = machine()
    exchange.add("job", work([[0]]), 0.0)
    exchange.failed(sent(exchange), errors.ThrottledError("slow down", retry_after_s=7.0), 0.0)
    assert exchange.next(0.0) == Wake(7.0)


def test_a_throttle_halves_what_is_in_flight_once_and_answers_bring_it_back() -> None:
    exchange = machine(in_flight=8)
    exchange.add("job", work([[item] for item in range(99)]), 0.0)
    sends = [sent(exchange) for _ in range(4)]  # it begins at half
    for send in sends[:3]:  # sent before anything was known: one piece of news, not three
        exchange.failed(send, errors.ThrottledError("no", retry_after_s=9), 1.0)
    assert exchange.lanes[0].window == 2
    answer(exchange, sends[3], 2.0)
    for _ in range(60):
        answer(exchange, sent(exchange, 10.0), 10.0)
    assert exchange.lanes[0].window == 8


def test_when_the_service_says_how_long_to_wait_that_is_said_to_all() -> None:
    exchange = machine()
    exchange.add("long run", work([[item] for item in range(9)]), 0.0)
    exchange.failed(sent(exchange), errors.ThrottledError("slow down", retry_after_s=7.0), 0.0)
    assert exchange.next(0.0) == Wake(7.0)
    assert isinstance(exchange.next(7.0), Send)


@pytest.mark.parametrize("kind", [errors.ThrottledError, errors.ModelUnavailableError])
def test_a_short_outage_does_not_end_a_long_run(kind: type[errors.JinaSMError]) -> None:
    exchange = machine(in_flight=12)
    call = exchange.add("job", work([[item] for item in range(1000)]), 0.0)
    now = 0.0
    while not call.over:
        match exchange.next(now):
            case Send() as send if now < 3.0:
                exchange.failed(send, kind("not now"), now)
            case Send() as send:
                answer(exchange, send, now)
            case Wake(at):
                now = at
    assert call.error is None
    assert call.requests < 1020
    assert exchange.lanes[0].failed == 0


def test_what_waits_goes_on_when_homes_rest_is_over_though_no_answer_comes() -> None:
    exchange = machine(2, in_flight=2, policy=Policy(rest_s=30.0))
    exchange.add("job", work([[0], [1], [2]]), 0.0)
    exchange.failed(sent(exchange), errors.ModelUnavailableError("down"), 0.0)
    assert [sent(exchange).target, sent(exchange).target] == [1, 1]  # and there they hang
    assert exchange.next(0.0) == Wake(30.0)
    assert sent(exchange, 30.0).target == 0


def test_a_region_that_stays_away_for_months_is_still_passed_over() -> None:
    exchange = machine(2, policy=Policy(rest_s=1.0))
    for number in range(1100):
        now = 20.0 * number
        exchange.add("job", work([[0]]), now)
        exchange.failed(sent(exchange, now), errors.ModelUnavailableError("down"), now)
        answer(exchange, sent(exchange, now), now)
    assert exchange.lanes[0].rests == 1100


def test_fewer_instances_still_take_a_request() -> None:
    exchange = machine(in_flight=1)
    exchange.resize(0, 4)
    for lane in exchange.lanes:
        lane.throttled(0.0, 0.0)
    exchange.resize(0, 1)
    exchange.add("job", work([[0]]), 0.0)
    assert isinstance(exchange.next(0.0), Send)


def test_trying_ends_after_so_many_attempts_and_the_error_says_so() -> None:
    exchange = machine(policy=Policy(attempts=3))
    call = exchange.add("job", work([[0]]), 0.0)
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
    call = exchange.add("job", work([[0]]), 0.0)
    exchange.failed(sent(exchange), errors.ModelUnavailableError("no"), 11.0)
    assert call.over
    assert call.error is not None


def test_a_long_run_is_not_over_when_a_late_request_fails_first() -> None:
    exchange = machine(in_flight=1, policy=Policy(seconds=10.0))
    call = exchange.add("job", work([[0], [1]]), 0.0)
    answer(exchange, sent(exchange), 100.0)
    exchange.failed(sent(exchange, 100.0), errors.ModelUnavailableError("no"), 101.0)
    assert call.error is None
    assert isinstance(exchange.next(101.0), Wake)


def test_retries_of_all_calls_share_a_budget() -> None:
    exchange = machine(policy=Policy(budget=3), in_flight=99)
    calls = [exchange.add("job", work([[0]]), 0.0) for _ in range(10)]
    for send in [sent(exchange) for _ in calls]:
        exchange.failed(send, errors.ModelUnavailableError("down"), 0.0)
    assert sum(call.over for call in calls) == 7


def test_what_was_refused_is_not_sent_again() -> None:
    for kind in (errors.BadRequestError, errors.AuthError, errors.EndpointNotFoundError):
        exchange = machine()
        call = exchange.add("job", work([[0]]), 0.0)
        exchange.failed(sent(exchange), kind("no"), 0.0)
        assert call.over
        assert isinstance(call.error, kind)
        assert call.requests == 1


def test_what_took_too_long_or_was_too_large_is_sent_in_halves() -> None:
    for kind in (errors.ModelTimeoutError, errors.PayloadTooLargeError):
        exchange = machine()
        call = exchange.add("job", work([[4, 5, 6]]), 0.0)
        exchange.failed(sent(exchange), kind("no"), 0.0)
        assert {items(sent(exchange)), items(sent(exchange))} == {(4,), (5, 6)}
        assert call.error is None
        assert call.splits == 1


@given(st.integers(1, 40), st.integers(0, 39), st.sampled_from([errors.BadRequestError, errors.ModelFailedError]))
def test_the_item_that_spoils_a_request_is_found_and_named(
    count: int, poison: int, kind: type[errors.JinaSMError]
) -> None:
    poison %= count
    exchange = machine(policy=Policy(budget=10_000))
    calls = [exchange.add("job", work([range(count)]), 0.0, collect=collect) for collect in (False, True)]
    now = 0.0
    while not all(call.over for call in calls):
        match exchange.next(now):
            case Send() as send if poison in items(send):
                exchange.failed(send, kind("no"), now)
            case Send() as send:
                answer(exchange, send, now)
            case Wake(at):
                now = at
    raising, collecting = calls
    assert error_of(raising).index == poison
    assert list(collecting.failures) == [poison]
    assert values(collecting) == {item: item for item in range(count) if item != poison}
    if count == 1:
        assert collecting.error is None


def test_if_everything_is_refused_it_is_not_the_items() -> None:
    exchange = machine()
    call = exchange.add("job", work([range(480)]), 0.0, collect=True)
    for _ in range(960):
        if not isinstance(step := exchange.next(0.0), Send):
            break
        exchange.failed(step, errors.BadRequestError("bad parameter"), 0.0)
    assert isinstance(call.error, errors.BadRequestError)
    assert call.requests < 80


@pytest.mark.parametrize("bad", [{0, 1, 2}, {97, 98, 99}, {50, 51, 52, 53}])
def test_neighbours_that_are_refused_do_not_lose_the_others(bad: set[int]) -> None:
    exchange = machine()
    call = exchange.add("job", work([range(100)]), 0.0, collect=True)
    under_way: list[Send[str]] = []
    while not call.over:
        match exchange.next(0.0):
            case Send() as send if bad & set(items(send)):
                exchange.failed(send, errors.BadRequestError("bad"), 0.0)  # at once; answers take their time
            case Send() as send:
                under_way.append(send)
            case _:
                answer(exchange, under_way.pop(0))
    assert call.error is None
    assert set(call.failures) == bad
    assert len(values(call)) == 100 - len(bad)


def test_what_must_stay_together_is_not_divided() -> None:
    exchange = machine()
    call = exchange.add("job", work([range(64)], tokens=1000, whole=True), 0.0)
    send = sent(exchange)
    assert send.items == 64
    exchange.failed(send, errors.BadRequestError("no"), 0.0)
    assert call.over
    assert error_of(call).index is None


def test_another_region_takes_over_at_once_and_home_rests() -> None:
    exchange = machine(2)
    exchange.add("job", work([[0], [1]]), 0.0)
    exchange.failed(sent(exchange), errors.ModelUnavailableError("down"), 0.0)
    assert [sent(exchange).target, sent(exchange).target] == [1, 1]


def test_two_regions_that_both_throttle_are_given_time() -> None:
    exchange = machine(2)
    exchange.add("job", work([[0]]), 0.0)
    exchange.failed(sent(exchange), errors.ThrottledError("no"), 0.0)
    exchange.failed(sent(exchange), errors.ThrottledError("no", retry_after_s=3.0), 0.0)
    assert exchange.next(0.0) == Wake(3.0)


def test_a_region_that_hangs_is_left_for_another() -> None:
    exchange = machine(2)
    exchange.add("job", work([[0]]), 0.0)
    exchange.failed(sent(exchange), errors.ModelTimeoutError("no answer"), 70.0)
    assert sent(exchange, 70.0).target == 1


def test_after_its_rest_home_is_tried_by_one_request_and_then_by_all() -> None:
    exchange = machine(2, policy=Policy(rest_s=30.0))
    exchange.add("job", work([[0]]), 0.0)
    exchange.failed(sent(exchange), errors.ModelUnavailableError("down"), 0.0)
    answer(exchange, sent(exchange))
    exchange.add("later", work([[item] for item in range(6)]), 31.0)
    scout, second = sent(exchange, 31.0), sent(exchange, 31.0)
    assert (scout.target, second.target) == (0, 1)
    answer(exchange, scout, 32.0)
    assert sent(exchange, 32.0).target == 0


def test_home_rests_longer_each_time_it_fails_again() -> None:
    exchange = machine(2, policy=Policy(rest_s=10.0))
    for now, until in ((0.0, 10.0), (10.0, 30.0), (30.0, 70.0)):
        exchange.add("job", work([[0]]), now)
        exchange.failed(scout := sent(exchange, now), errors.ModelUnavailableError("down"), now)
        assert scout.target == 0
        assert exchange.lanes[0].resting_until == until
        answer(exchange, sent(exchange, now), now)


def test_an_endpoint_missing_everywhere_is_an_error() -> None:
    exchange = machine(2)
    call = exchange.add("job", work([[0]]), 0.0)
    for target in (0, 1):
        send = sent(exchange)
        assert send.target == target
        exchange.failed(send, errors.EndpointNotFoundError("gone"), 0.0)
    assert call.over
    assert isinstance(call.error, errors.EndpointNotFoundError)


def test_a_call_given_up_sends_nothing_more() -> None:
    exchange = machine(in_flight=2)
    call = exchange.add("job", work([[0], [1], [2]]), 0.0)
    first, second = sent(exchange), sent(exchange)
    exchange.failed(first, errors.AuthError("no"), 0.0)
    assert exchange.next(0.0) is None
    assert call.over
    exchange.failed(second, errors.ModelUnavailableError("late"), 0.0)
    assert isinstance(call.error, errors.AuthError)
    assert exchange.next(9.0) is None


def test_an_abandoned_call_leaves_no_trace() -> None:
    exchange = machine(in_flight=1)
    call = exchange.add("job", work([[0], [1]]), 0.0)
    send = sent(exchange)
    exchange.abandon(call, 0.0)
    answer(exchange, send)
    exchange.add("next", work([[0]]), 0.0)
    assert sent(exchange).pieces[0].call.job == "next"
    assert exchange.calls == 1


def test_a_call_ends_when_its_time_is_up_whatever_is_under_way() -> None:
    exchange = machine(in_flight=1)
    call = exchange.add("job", work([[0], [1]]), 0.0, deadline=5.0)
    send = sent(exchange)
    assert exchange.next(0.0) == Wake(5.0)
    assert exchange.next(5.0) is None
    assert exchange.ended() == [call]
    assert isinstance(call.error, errors.DeadlineExceededError)
    answer(exchange, send, 6.0)
    assert call.answers == []


def test_calls_that_are_over_leave_nothing_behind_however_long_they_had() -> None:
    exchange = machine()
    exchange.add("still open", work([[0]]), 0.0, deadline=60.0)
    sent(exchange)
    for _ in range(1000):
        exchange.add("job", work([[0]]), 0.0, deadline=3600.0)
        answer(exchange, sent(exchange))
        exchange.ended()
    assert sum(each[0] == 3600.0 for each in exchange._timers) < 130


def test_with_thousands_waiting_who_shares_is_soon_decided() -> None:
    looks = 0

    class Counting(Limits):
        def hold(self, total: Size, count: int) -> bool:
            nonlocal looks
            looks += 1
            return super().hold(total, count)

    exchange = machine(in_flight=1, limits=Counting(tokens=100))
    calls = [exchange.add("job", work([[0]], key="k", tokens=40), 0.0) for _ in range(2000)]
    while isinstance(send := exchange.next(0.0), Send):
        assert len(send.pieces) <= 2
        answer(exchange, send)
    assert all(call.error is None and call.over for call in calls)
    assert looks < 2000 * 70


def steady(exchange: Exchange[str]) -> None:
    """Ten answers of one second each, so that the machine knows what is usual."""
    for _ in range(10):
        exchange.add("before", work([[0]]), 0.0)
        answer(exchange, sent(exchange), 1.0)


def test_a_straggler_is_sent_once_more_and_the_first_answer_counts() -> None:
    exchange = machine(2)
    steady(exchange)
    call = exchange.add("job", work([[0]]), 10.0)
    first = sent(exchange, 10.0)
    assert exchange.next(10.0) == Wake(12.5)
    second = sent(exchange, 12.5)
    assert (second.hedge, second.target, second.pieces) == (True, 1, first.pieces)
    answer(exchange, second, 13.0)
    assert call.over
    assert call.hedges == 1
    exchange.failed(first, errors.ModelTimeoutError("60 s"), 70.0)
    assert (call.error, len(call.answers)) == (None, 1)


def test_a_straggler_whose_copy_fails_is_still_waited_for() -> None:
    exchange = machine()
    steady(exchange)
    call = exchange.add("job", work([[0]]), 10.0)
    first, second = sent(exchange, 10.0), sent(exchange, 12.5)
    exchange.failed(second, errors.BadRequestError("no"), 13.0)
    assert not call.over
    answer(exchange, first, 14.0)
    assert values(call) == {0: 0}


def test_nothing_is_sent_twice_by_who_does_not_want_to() -> None:
    exchange = machine(2, policy=Policy(hedge_after=0))
    steady(exchange)
    exchange.add("job", work([[0]]), 10.0)
    sent(exchange, 10.0)
    assert exchange.next(99.0) is None


def test_nothing_is_sent_twice_while_there_is_other_work() -> None:
    exchange = machine(in_flight=2)
    steady(exchange)
    exchange.add("job", work([[0], [1], [2]]), 10.0)
    first, second = sent(exchange, 10.0), sent(exchange, 10.0)
    answer(exchange, first, 99.0)
    third = sent(exchange, 99.0)
    assert (items(third), third.hedge) == ((2,), False)
    assert items(second) == (1,)


@pytest.mark.parametrize(("in_flight", "requests"), [(1, 2), (2, 4), (8, 4)])  # 256 items are worth four at most
def test_few_texts_keep_all_instances_busy_too(in_flight: int, requests: int) -> None:
    exchange = machine(in_flight=in_flight)
    call = exchange.add("job", work([range(256)]), 0.0)
    while isinstance(send := exchange.next(0.0), Send):
        answer(exchange, send)
    assert call.requests == requests
    assert values(call) == {item: item for item in range(256)}


KINDS = (
    errors.ThrottledError, errors.ModelUnavailableError, errors.ModelTimeoutError, errors.PayloadTooLargeError,
    errors.ModelFailedError, errors.ProtocolError, errors.EndpointNotFoundError, errors.BadRequestError,
)  # fmt: skip


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans(), st.booleans()),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 3),
    st.integers(1, 4),
    st.data(),
)
def test_whatever_happens_every_item_is_answered_once_or_named_or_the_call_fails(
    asked: list[tuple[list[int], bool, bool]], targets: int, in_flight: int, data: st.DataObject
) -> None:
    exchange = machine(targets, in_flight=in_flight)
    calls: list[Call[str]] = []
    now, under_way, steps = 0.0, [], 0

    def add() -> None:
        lengths, shared, collect = asked[len(calls)]
        starts = [sum(lengths[:index]) for index in range(len(lengths))]
        batches = [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]
        deadline = now + data.draw(st.integers(1, 9)) if data.draw(st.integers(0, 9)) == 0 else None
        given = work(batches, key="shared" if shared else None)
        calls.append(exchange.add(str(len(calls)), given, now, deadline=deadline, collect=collect))

    add()
    while not all(call.over for call in calls) or len(calls) < len(asked):
        steps += 1
        assert steps < 5000, "the machine must come to an end"
        if len(calls) < len(asked) and data.draw(st.booleans()):
            add()
        if data.draw(st.integers(0, 20)) == 0:
            exchange.abandon(calls[0], now)
        step = exchange.next(now)
        if isinstance(step, Send):
            under_way.append(step)
            assert len(under_way) <= in_flight * targets
            continue
        if not under_way:
            if isinstance(step, Wake):
                now = max(now, step.at)
            elif len(calls) < len(asked):
                add()
            else:
                assert all(call.over for call in calls), "nothing under way, nothing to wait for, and not over"
            continue
        send = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        now += data.draw(st.sampled_from([0.0, 0.1, 3.0]))
        if data.draw(st.booleans()):
            told = np.array([[int(piece.call.job), item] for piece in send.pieces for item in piece.items])
            exchange.answered(send, told, 7, now)
        else:
            exchange.failed(send, data.draw(st.sampled_from(KINDS))("no"), now)
    for call, (lengths, _, collect) in zip(calls, asked, strict=True):
        came = [
            (item, tuple(one.rows[place])) for one in call.answers for place, item in enumerate(one.items, one.start)
        ]
        assert all(told == (int(call.job), item) for item, told in came), "somebody else's row"
        found = [item for item, _ in came] + list(call.failures)
        assert len(set(found)) == len(found), "an item twice"
        assert collect or not call.failures
        if call.error is None and call is not calls[0]:  # the first may have been abandoned
            assert sorted(found) == list(range(sum(lengths)))
    assert sorted(call.job for call in exchange.ended()) == [call.job for call in calls]
    assert exchange.calls == 0


def test_what_happens_is_told_in_order() -> None:
    exchange = machine(2)
    exchange.add("job", work([[0]]), 0.0)
    exchange.failed(sent(exchange), errors.ModelUnavailableError("down"), 1.0)
    exchange.answered(sent(exchange, 1.0), np.array([0]), 1, 2.0, "id-1")
    told = [(event.kind, event.target) for event in exchange.events()]
    assert told == [
        ("request", "target-0"),
        ("failure", "target-0"),
        ("failover", "target-1"),
        ("retry", "target-0"),
        ("request", "target-1"),
        ("answer", "target-1"),
    ]
    assert exchange.events() == []


@pytest.mark.parametrize("setting", [{"attempts": 0}, {"rest_s": -1}, {"budget": -1}, {"hedge_after": -0.1}])
def test_a_policy_that_cannot_work_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(errors.InputError):
        Policy(**setting)


@pytest.mark.parametrize("collect", [True, False])
@pytest.mark.parametrize("time_is_up", [True, False])
def test_who_collects_keeps_what_was_answered_before_the_end(collect: bool, time_is_up: bool) -> None:
    exchange = machine(policy=Policy(budget=0))
    deadline = 5.0 if time_is_up else None
    call = exchange.add("job", work([[0], [1], [2]]), 0.0, deadline=deadline, collect=collect)
    answer(exchange, sent(exchange))
    if not time_is_up:
        exchange.failed(sent(exchange), errors.AuthError("the key has expired"), 0.0)
    assert exchange.next(9.0) is None
    kind = errors.DeadlineExceededError if time_is_up else errors.AuthError
    assert call.over
    if not collect:
        assert isinstance(call.error, kind)
        return
    assert call.error is None
    assert values(call) == {0: 0}
    assert {item: type(error) for item, error in call.failures.items()} == {1: kind, 2: kind}
    assert call.failures[1] is not call.failures[2]
    assert [call.failures[item].index for item in (1, 2)] == [1, 2]


def test_who_collects_nothing_hears_why() -> None:
    exchange = machine(policy=Policy(budget=0))
    call = exchange.add("job", work([[0], [1]]), 0.0, collect=True)
    exchange.failed(sent(exchange), errors.AuthError("no such key"), 0.0)
    assert isinstance(call.error, errors.AuthError)
    assert not call.failures
