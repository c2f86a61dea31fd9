"""The load's machine in simulated time: what is measured of an endpoint that is a formula is what the formula says."""

from __future__ import annotations

import math
import random
import statistics
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import errors
from jina_sm.bench import arrivals, metrics
from jina_sm.bench.load import Load, Purse, Rules, Send, Wait, Watch
from jina_sm.bench.metrics import Cell, Sample, Setting
from tests.bench.simulated import constant, simulate, workers


def closed(concurrency: int) -> Setting:
    return Setting(batch_size=1, passage_tokens=100, concurrency=concurrency)


def open_loop(rate: float, kind: str = "constant") -> Setting:
    return Setting(batch_size=1, passage_tokens=100, arrivals=kind, rate=rate)


def cell(samples: list[Sample], setting: Setting, **how: Any) -> Cell:
    (found,) = metrics.cells(samples, [setting], **how)
    return found


@pytest.mark.parametrize("concurrency", [1, 5, 10])
def test_of_an_endpoint_with_a_constant_delay_everything_is_exact(concurrency: int) -> None:
    setting = closed(concurrency)
    found = cell(simulate(setting, constant(0.25), requests=40, warm_up=concurrency), setting)
    assert found.response_s == pytest.approx(0.25)
    assert (found.p50_s, found.p90_s, found.max_s) == pytest.approx((0.25, 0.25, 0.25))
    assert found.p99_s is None  # of 40 requests there is none
    assert found.requests_per_s == pytest.approx(concurrency / 0.25)
    assert found.answered_per_s == pytest.approx(concurrency / 0.25)
    assert found.tokens_per_s == pytest.approx(100 * concurrency / 0.25)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("concurrency", [5, 10])
def test_of_a_fixed_capacity_the_rate_is_the_capacity_and_the_latency_the_queue(count: int, concurrency: int) -> None:
    setting = closed(concurrency)
    found = cell(simulate(setting, workers(0.5, count), requests=60, warm_up=concurrency), setting)
    assert found.answered_per_s == pytest.approx(count / 0.5)
    assert found.requests_per_s == pytest.approx(count / 0.5)
    assert found.response_s == pytest.approx(concurrency * 0.5 / count)


def test_without_a_warm_up_the_first_wave_makes_a_queue_look_shorter() -> None:
    setting = closed(10)
    found = cell(simulate(setting, workers(0.5), requests=10), setting)
    assert found.response_s == pytest.approx(0.5 * 5.5)


def test_a_stall_is_seen_by_every_request_that_was_due_in_it() -> None:
    """Ten a second for 20 s, of which the server stands still for five: no coordinated omission."""
    setting, service = open_loop(10), 0.01
    stalled = workers(service, stall=(10.0, 15.0))
    samples = simulate(setting, stalled, requests=200, schedule=arrivals.constant(10))
    found = cell(samples, setting)
    # Due at 10.0 + k/10, answered at 15 + (k+1) * 10 ms, for the 50 of the stall and those that the backlog holds up.
    expected = [max(15 + (k + 1) * service - (10 + k / 10), service) for k in range(100)]
    assert [each.response_s for each in samples[100:]] == pytest.approx(expected)
    assert found.response_s == pytest.approx((100 * service + sum(expected)) / 200)
    assert found.max_s == pytest.approx(5.01)
    assert found.p90_s is not None
    assert found.p90_s > 2

    # A loop that waits for its answers meets the stall once. It's the same server.
    alone = simulate(closed(1), workers(service, stall=(10.0, 15.0)), duration_s=20.0)
    assert sum(each.response_s > 1 for each in alone) == 1
    ninety = cell(alone, closed(1)).p90_s
    assert ninety == pytest.approx(service)


def test_a_stall_hides_nothing_where_too_many_are_in_flight_either() -> None:
    setting = open_loop(10)
    endpoint = workers(0.01, stall=(10.0, 15.0))
    free = simulate(setting, endpoint, requests=200, schedule=arrivals.constant(10), max_in_flight=1000)
    endpoint = workers(0.01, stall=(10.0, 15.0))
    bound = simulate(setting, endpoint, requests=200, schedule=arrivals.constant(10), max_in_flight=3)
    assert [each.response_s for each in bound] == pytest.approx([each.response_s for each in free])
    assert max(each.sent_s - each.due_s for each in bound) > 4
    assert max(each.sent_s - each.due_s for each in free) == 0


def test_random_arrivals_at_one_worker_wait_as_the_formula_says() -> None:
    """M/D/1: the mean wait is rho * s / (2 (1 - rho)). Within 5 % over 40,000 requests."""
    service, rate = 0.1, 7.0
    setting = open_loop(rate, "poisson")
    times = arrivals.poisson(rate, random.Random(7).random)
    found = cell(
        simulate(setting, workers(service), requests=40_000, warm_up=500, schedule=times, max_in_flight=10**6), setting
    )
    rho = rate * service
    assert found.response_s == pytest.approx(service + rho * service / (2 * (1 - rho)), rel=0.05)
    assert found.answered_per_s == pytest.approx(rate, rel=0.02)


def test_an_overloaded_server_is_shown_to_give_its_capacity_and_no_more() -> None:
    setting = open_loop(20)
    found = cell(simulate(setting, workers(0.1), requests=400, schedule=arrivals.constant(20)), setting)
    assert found.answered_per_s == pytest.approx(10, rel=0.01)
    assert found.max_s == pytest.approx(400 * 0.1 - 399 / 20)


def test_failures_give_no_tokens_and_their_time_counts() -> None:
    setting = closed(4)
    found = cell(
        simulate(setting, constant(0.5), requests=100, warm_up=4, fails=lambda number: number % 4 == 0), setting
    )
    assert found.success_rate == 0.75
    assert found.errors == {"ModelFailedError": 25}
    assert found.response_s == pytest.approx(0.5)
    assert found.failed_s == pytest.approx(0.5)
    assert found.requests_per_s == pytest.approx(8)  # as published: failures don't count
    assert found.answered_per_s == pytest.approx(6)
    assert found.tokens_per_s == pytest.approx(600)


def test_a_refusal_after_no_time_at_all_is_no_fast_answer() -> None:
    setting = closed(1)
    samples = simulate(setting, constant(1.0), requests=2)
    samples[1] = Sample(**{**samples[1].__dict__, "done_s": samples[1].due_s + 0.001, "error": "ThrottledError"})
    found = cell(samples, setting)
    assert found.response_s == 1.0
    assert found.failed_s == pytest.approx(0.001)


def test_a_scaled_endpoint_is_reported_in_its_own_time() -> None:
    setting = closed(5)
    samples = simulate(setting, workers(0.5 * 0.15), requests=50, warm_up=5)
    found = cell(samples, setting, time_scales={"simulated": 0.15})
    assert found.response_s == pytest.approx(2.5)
    assert found.answered_per_s == pytest.approx(2)


def test_a_duration_counts_from_the_last_of_the_warm_up() -> None:
    setting = open_loop(10)
    samples = simulate(setting, constant(0.1), duration_s=5.0, warm_up=20, schedule=arrivals.constant(10))
    assert sum(each.warm_up for each in samples) == 20
    assert len(samples) == 70


def test_who_waits_is_told_for_how_long() -> None:
    load = Load(open_loop(2), began_s=100.0, requests=2, schedule=arrivals.constant(2), max_in_flight=1)
    assert load.next(100.0) == Send(0, 100.0, False)
    assert load.next(100.1) == Wait(None)
    load.answered(100.2)
    assert load.next(100.2) == Wait(100.5)
    assert load.next(100.7) == Send(1, 100.5, False)
    assert load.next(100.7) is None
    assert not load.over
    load.answered(100.8)
    assert load.over


def test_what_is_stopped_sends_nothing_more() -> None:
    load = Load(closed(3), began_s=0.0, requests=100)
    assert isinstance(load.next(0.0), Send)
    load.stop()
    assert load.next(0.0) is None


@pytest.mark.parametrize(
    ("setting", "how", "words"),
    [
        (closed(1), {}, "a number of requests or a duration"),
        (closed(1), {"requests": 1, "schedule": arrivals.constant(1)}, "belongs to an open loop"),
        (open_loop(1), {"requests": 1}, "belongs to an open loop"),
        (Setting(), {"requests": 1}, "1 caller or more"),
    ],
)
def test_a_load_that_cannot_be_is_refused(setting: Setting, how: dict[str, object], words: str) -> None:
    with pytest.raises(errors.InputError, match=words):
        Load(setting, began_s=0, **how)  # type: ignore[arg-type]


@given(
    concurrency=st.integers(1, 20),
    requests=st.integers(1, 60),
    warm_up=st.integers(0, 20),
    count=st.integers(1, 4),
)
def test_a_closed_loop_sends_what_it_was_asked_and_never_more_at_once(
    concurrency: int, requests: int, warm_up: int, count: int
) -> None:
    samples = simulate(closed(concurrency), workers(0.1, count), requests=requests, warm_up=warm_up)
    assert [each.number for each in samples] == list(range(requests + warm_up))
    assert sum(not each.warm_up for each in samples) == requests
    for each in samples:
        at_once = sum(other.sent_s <= each.sent_s < other.done_s for other in samples)
        assert at_once <= concurrency


def test_random_arrivals_are_random_and_as_many_as_asked() -> None:
    times = list(islice(arrivals.poisson(5.0, random.Random(1).random), 20_000))
    gaps = [after - before for before, after in pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(0.2, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.05)  # an exponential's deviation is its mean
    assert min(gaps) >= 0


@given(rate=st.floats(0.1, 100), rate_to=st.floats(0.1, 100), duration_s=st.floats(1, 60))
def test_a_ramp_has_the_area_under_it(rate: float, rate_to: float, duration_s: float) -> None:
    times = list(arrivals.ramp(rate, rate_to, duration_s))
    assert times == sorted(times)
    assert all(0 <= each < duration_s for each in times)
    assert abs(len(times) - (rate + rate_to) / 2 * duration_s) <= 1
    for number, at in enumerate(times):
        assert math.isclose(rate * at + (rate_to - rate) / duration_s * at**2 / 2, number, abs_tol=1e-6 * (1 + number))


def test_a_trace_goes_forward() -> None:
    assert list(arrivals.trace([0.0, 0.5, 0.5])) == [0.0, 0.5, 0.5]
    with pytest.raises(errors.InputError, match="Sort them"):
        arrivals.trace([1.0, 0.5])


def test_a_target_is_given_up_for_what_cannot_change() -> None:
    watch = Watch(Rules())
    assert watch.saw(errors.ThrottledError("slow down")) is None
    assert "no key" in str(watch.saw(errors.AuthError("no key")))
    assert watch.saw(None) is not None  # and stays so


def test_a_target_is_given_up_after_failures_in_a_row() -> None:
    watch = Watch(Rules(failures_in_a_row=3))
    failed = errors.ModelUnavailableError("down")
    for outcome in (failed, failed, None, failed, failed):
        assert watch.saw(outcome) is None
    assert watch.saw(failed) == "3 failures in a row, the last: down"


@pytest.mark.parametrize("kind", [errors.ModelFailedError, errors.ModelTimeoutError, errors.PayloadTooLargeError])
def test_a_setting_that_always_fails_is_a_finding_and_no_reason_to_give_up(kind: type[errors.JinaSMError]) -> None:
    watch = Watch(Rules(failures_in_a_row=3))
    assert all(watch.saw(kind("too large")) is None for _ in range(50))


def test_a_target_is_given_up_for_the_share_that_fails() -> None:
    watch = Watch(Rules(failures_in_a_row=None, failed_share=0.3))
    failed = errors.ModelUnavailableError("down")
    told = [watch.saw(failed if number % 3 == 0 else None) for number in range(120)]
    assert told[98] is None
    assert told[99] == "34 of the last 100 requests failed, the last: down"


def test_a_ceiling_is_not_passed() -> None:
    purse = Purse(usd_per_hour=3.6, ceiling=1.0)
    assert purse.allows(999)
    assert not purse.allows(1001)
    purse.tokens_usd = 0.5
    assert purse.allows(400, next_usd=0.09)
    assert not purse.allows(400, next_usd=0.11)
    assert Purse(usd_per_hour=1e9).allows(1e9)


@pytest.mark.parametrize("rules", [{"failures_in_a_row": 0}, {"failed_share": 0.0}, {"failed_share": 1.5}, {"usd": 0}])
def test_rules_that_cannot_be_are_refused(rules: dict[str, float]) -> None:
    with pytest.raises(errors.InputError):
        Rules(**rules)  # type: ignore[arg-type]
