"""How many instances a load needs, against queues whose behaviour is known and the published response times."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jina_sm.advise import Load, Measured, expected_s, fitted, measured, needed, needed_with
from jina_sm.advise import capacity as module
from jina_sm.errors import InputError
from jina_sm.profile import NOMINAL, PROFILES, Fleet, Profile

G5 = PROFILES["ml.g5.xlarge"]


def closed_loop(model: Profile, batch: int, tokens: float, concurrency: int, *, rounds: int = 60) -> float:
    """The mean response time of callers who ask again as soon as they are answered, simulated."""
    fleet, began, times = Fleet(model), {}, []
    for _ in range(concurrency):
        began[fleet.arrive(0.0, texts=batch, tokens=batch * tokens)] = 0.0
    for done in fleet.answers():
        times.append(done.at - began[done.request])
        if len(times) <= rounds * concurrency:
            began[fleet.arrive(done.at, texts=batch, tokens=batch * tokens)] = done.at
    settled = times[len(times) // 2 : -concurrency]
    return sum(settled) / len(settled)


PROFILE = st.builds(
    Profile,
    request_s=st.floats(0.01, 0.5),
    text_s=st.floats(0.0005, 0.02),
    step_s=st.floats(0.01, 0.2),
    tokens_per_s=st.floats(5_000, 60_000),
    admitted=st.sampled_from([4, 10]),
    limit_s=st.just(1e6),
)


@settings(max_examples=60)
@given(model=PROFILE, batch=st.integers(1, 64), tokens=st.integers(8, 512), concurrency=st.integers(1, 16))
def test_the_formula_is_what_the_queue_does(model: Profile, batch: int, tokens: int, concurrency: int) -> None:
    simulated = closed_loop(model, batch, tokens, concurrency)
    assert expected_s(model, batch, tokens, concurrency) == pytest.approx(simulated, rel=0.03)


GRID = [*itertools.product((1, 32, 128), (72, 289, 578), (1, 5, 10))]


@settings(max_examples=30)
@given(model=PROFILE)
def test_a_profile_is_found_again_from_what_it_does(model: Profile) -> None:
    rows = [Measured(*place, expected_s(model, *place)) for place in GRID]
    found = fitted(rows, admitted=model.admitted)
    assert abs(found.worst_error) < 0.02
    if not found.unknown and found.worst_error == pytest.approx(0, abs=1e-6):
        assert found.profile.tokens_per_s == pytest.approx(model.tokens_per_s, rel=0.01)


def test_the_constants_kept_are_those_that_fit_the_published_rows() -> None:
    for way, name in (("self_hosted", "g5.xlarge"), ("jina_api", "jina_api")):
        found, kept = fitted(module.published(way)), module.profile(name)
        assert found.median_error < 0.15
        assert abs(found.worst_error) < 0.41
        assert not found.unknown
        for constant in ("request_s", "text_s", "step_s", "tokens_per_s"):
            assert getattr(kept, constant) == pytest.approx(getattr(found.profile, constant), rel=0.02), constant


def test_the_error_of_the_published_model_is_shown_with_its_worst_setting() -> None:
    said = needed(Load(requests_per_s=1)).source
    assert "ml.g5.xlarge" in said
    assert "off by 15% at the median and -83% at worst (32 x 289 tokens at concurrency 1)" in said
    off = expected_s(G5, 32, 512 * NOMINAL, 1) / 3.931 - 1
    assert off == pytest.approx(-0.83, abs=0.005)


def test_too_few_rows_are_refused_and_what_they_cannot_tell_is_named() -> None:
    with pytest.raises(InputError, match="too few to fit four constants"):
        fitted([Measured(1, 10, 1, 0.2)] * 9)
    same = [Measured(1, tokens, 1, 0.2 + tokens / 10_000) for tokens in (10, 100, 400, 900)]
    found = fitted(same)
    assert set(found.unknown) == {"request_s", "text_s", "step_s"}
    assert found.profile.tokens_per_s == pytest.approx(10_000, rel=0.02)
    assert "could not be told apart" in str(found)


def test_a_lone_queue_waits_as_queueing_theory_says() -> None:
    """M/D/1: the mean wait is rho / (2 (1 - rho)) of the work."""
    model = Profile(request_s=0.1, text_s=0, step_s=0.05, tokens_per_s=1e9, admitted=1000)
    for rho in (0.3, 0.6, 0.8):
        load = Load(requests_per_s=rho / 0.05, tokens=1, shared=False)
        times = module._simulated(model, 1, load)
        waits = sum(times) / len(times) - 0.15
        assert waits == pytest.approx(0.05 * rho / (2 * (1 - rho)), rel=0.25)


def apart(model: Profile, instances: int, load: Load, seed: int) -> float:
    """The p99 of requests that share nothing, written another way and with other luck."""
    chance, now = random.Random(seed), 0.0
    fleet, began, times = Fleet(model, instances=instances), {}, []
    for _ in range(10_000):
        now += chance.expovariate(load.requests_per_s)
        times += [done.at - began[done.request] for done in fleet.advance(now)]
        began[fleet.arrive(now, texts=load.texts, tokens=load.texts * load.tokens)] = now
    times += [done.at - began[done.request] for done in fleet.answers()]
    return sorted(times)[int(0.99 * len(times))]


@pytest.mark.parametrize(("rate", "texts", "tokens", "p99_s"), [(30, 1, 500, 0.5), (5, 16, 200, 1.2), (60, 1, 40, 0.4)])
def test_what_is_needed_is_enough_and_one_less_is_not(rate: float, texts: int, tokens: int, p99_s: float) -> None:
    load = Load(requests_per_s=rate, texts=texts, tokens=tokens, p99_s=p99_s, shared=False)
    found = needed_with(G5, load)
    assert found.instances is not None
    assert found.instances > 1
    assert max(apart(G5, found.instances, load, seed) for seed in range(2)) < p99_s * 1.15
    assert min(apart(G5, found.instances - 1, load, seed) for seed in range(2)) > p99_s * 0.85


def test_queries_that_share_requests_need_far_fewer_instances() -> None:
    load = {"requests_per_s": 300, "tokens": 12, "p99_s": 0.8}
    alone, shared = needed(Load(**load, shared=False)), needed(Load(**load))  # type: ignore[arg-type]
    assert shared.instances == 1
    assert alone.instances is not None
    assert alone.instances >= 19, "one by one an instance answers 16 a second"


@settings(max_examples=10)
@given(rate=st.floats(0.1, 40), tokens=st.integers(1, 800))
def test_more_load_or_less_time_never_needs_fewer(rate: float, tokens: int) -> None:
    def count(rate: float, p99_s: float) -> float:
        found = needed(Load(requests_per_s=rate, tokens=tokens, p99_s=p99_s, shared=False))
        return found.instances or float("inf")

    assert count(rate, 0.6) <= count(rate, 0.4)
    assert count(rate, 0.6) <= count(rate * 2, 0.6)


def test_what_one_request_takes_alone_no_fleet_makes_faster() -> None:
    found = needed(Load(requests_per_s=0.1, tokens=100, p99_s=0.1))
    assert (found.instances, found.p99_s) == (None, None)
    assert found.alone_s == pytest.approx(0.140 + 0.0042 + 0.060 + 100 / 28_800)


def test_a_load_past_a_thousand_instances_has_no_answer_and_takes_no_time() -> None:
    assert needed(Load(requests_per_s=100_000, texts=128, tokens=8000, p99_s=3600)).instances is None


def test_the_same_question_has_the_same_answer() -> None:
    load = Load(requests_per_s=33, tokens=77, p99_s=0.5)
    first = needed(load)
    module._times.cache_clear()
    assert needed(load) == first


ROW = {"batch": 1, "tokens": 10, "concurrency": 1, "mean_s": 0.2}
BAD = [
    ({}, "a measurement is a list of rows"),
    ([], "a measurement is a list of rows"),
    ("rows", "a measurement is a list of rows"),
    ([ROW, {"batch": 1}], r"rows\[1\] lacks one of"),
    ([ROW, 7], r"rows\[1\] lacks one of"),
    ([ROW | {"mean_s": "fast"}], r"rows\[0\] has something that is no number"),
    ([ROW | {"mean_s": True}], r"rows\[0\]"),
    ([ROW | {"batch": 1.5}], r"rows\[0\]: batch and concurrency are whole"),
    ([ROW | {"concurrency": float("inf")}], r"rows\[0\]: batch and concurrency are whole"),
    ([ROW | {"mean_s": 0}], r"rows\[0\]: mean_s is from"),
    ([ROW | {"mean_s": float("nan")}], r"rows\[0\]: mean_s is from"),
    ([ROW | {"tokens": -1}], r"rows\[0\]: tokens is from"),
]


@pytest.mark.parametrize(("data", "named"), BAD)
def test_a_row_that_cannot_be_is_named(data: object, named: str) -> None:
    with pytest.raises(InputError, match=named):
        measured(data)


def test_rows_are_read_plain_or_in_an_object() -> None:
    assert measured([ROW]) == measured({"rows": [ROW], "other": 1}) == [Measured(1, 10, 1, 0.2)]


@pytest.mark.parametrize(
    "wrong", [{"requests_per_s": 0}, {"texts": 0}, {"tokens": 0}, {"p99_s": 0}, {"p99_s": float("nan")}]
)
def test_a_load_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="is from"):
        Load(**({"requests_per_s": 1} | wrong))  # type: ignore[arg-type]
