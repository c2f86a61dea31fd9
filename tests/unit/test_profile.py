"""The response-time profile, in simulated time."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm.local.constant import Constant
from jina_sm.profile import NOMINAL, PROFILES, Done, Fleet, Profile
from jina_sm.tokens import estimate

G5 = PROFILES["ml.g5.xlarge"]
PUBLISHED = Path(__file__).parents[3] / "shared" / "reference" / "published-benchmark.json"
# (concurrency, texts): where the formula was fitted, by passage length.
FITTED = {(1, 1): (128, 512, 1024), (10, 1): (128,), (10, 32): (128, 512, 1024), (10, 128): (128, 512, 1024)}


def closed_loop(concurrency: int, texts: int, tokens: float, *, rounds: int = 200) -> float:
    """The mean response time where each of so many callers asks again as soon as it is answered."""
    fleet, began, times = Fleet(G5), {}, []
    for _ in range(concurrency):
        began[fleet.arrive(0.0, texts=texts, tokens=tokens)] = 0.0
    for done in fleet.answers():
        times.append(done.at - began[done.request])
        if len(times) <= rounds * concurrency:
            began[fleet.arrive(done.at, texts=texts, tokens=tokens)] = done.at
    settled = times[len(times) // 2 :]
    return sum(settled) / len(settled)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published measurements are not here")
def test_the_formula_meets_the_published_response_times() -> None:
    rows = json.loads(PUBLISHED.read_text())["response_time"]
    measured = {
        (row["concurrency"], row["batch_size"], row["passage_tokens"]): row["response_ms"] / 1000
        for row in rows
        if row["system"] == "sagemaker"
    }
    for (concurrency, texts), lengths in FITTED.items():
        for length in lengths:
            simulated = closed_loop(concurrency, texts, texts * length * NOMINAL)
            off = simulated / measured[concurrency, texts, length] - 1
            assert -0.155 < off < 0.095, (concurrency, texts, length)


def test_one_request_takes_what_the_formula_says() -> None:
    fleet = Fleet(G5)
    fleet.arrive(5.0, texts=10, tokens=2880)
    (done,) = fleet.answers()
    assert done.at == pytest.approx(5 + 0.140 + 10 * 0.0042 + 0.060 + 0.1)
    assert not done.late


def test_the_time_of_what_was_counted_late_runs_from_when_it_came() -> None:
    fleet = Fleet(G5)
    fleet.advance(5.1)
    fleet.arrive(5.1, texts=10, tokens=2880, since=5.0)
    (done,) = fleet.answers()
    assert done.at == pytest.approx(5 + 0.140 + 10 * 0.0042 + 0.060 + 0.1)
    fleet.arrive(99.0, texts=10, tokens=2880, since=90.0)  # it could have asked for the GPU long ago
    (done,) = fleet.answers()
    assert done.at == pytest.approx(99 + 0.060 + 0.1)


def test_the_gpu_serves_in_the_order_of_asking_and_one_at_a_time() -> None:
    fleet = Fleet(G5)
    large = fleet.arrive(0.0, texts=100, tokens=0)
    small = fleet.arrive(0.1, texts=1, tokens=0)  # ready for the GPU sooner
    last = fleet.arrive(0.1, texts=1, tokens=0)
    assert [done.request for done in fleet.answers()] == [small, last, large]
    fleet = Fleet(G5)
    for _ in range(5):
        fleet.arrive(0.0, texts=1, tokens=0)
    times = [done.at for done in fleet.answers()]
    assert times == pytest.approx([0.1442 + 0.060 * turn for turn in range(1, 6)])


def test_an_instance_admits_ten_and_the_rest_wait_outside() -> None:
    profile = Profile(request_s=1.0, text_s=0, step_s=0, tokens_per_s=1e9)
    fleet = Fleet(profile)
    for _ in range(25):
        fleet.arrive(0.0, texts=1, tokens=0)
    assert [round(done.at) for done in fleet.answers()] == [1] * 10 + [2] * 10 + [3] * 5


def test_past_sixty_seconds_the_caller_is_told_and_the_work_is_done_all_the_same() -> None:
    fleet = Fleet(G5)
    tokens = 28_800 * 100
    fleet.arrive(0.0, texts=1, tokens=tokens)
    fleet.arrive(30.0, texts=1, tokens=0)
    assert fleet.advance(59.9) == []
    assert fleet.advance(60.0) == [Done(0, 60.0, late=True)]
    assert list(fleet.answers()) == [Done(1, 90.0, late=True)]
    freed = 0.1442 + 0.060 + 100
    fleet = Fleet(G5)
    fleet.arrive(0.0, texts=1, tokens=tokens)
    fleet.arrive(70.0, texts=1, tokens=0)
    assert [done.at for done in fleet.answers()] == pytest.approx([60.0, freed + 0.060])


def test_the_least_busy_instance_takes_the_next_request_or_chance_decides() -> None:
    times = []
    for instances, chance in ((1, None), (4, None), (4, random.Random(1).random)):
        fleet = Fleet(G5, instances=instances, random=chance)
        for _ in range(40):
            fleet.arrive(0.0, texts=32, tokens=1600)
        times.append(max(done.at for done in fleet.answers()))
    one, least, by_chance = times
    assert one == pytest.approx(40 * G5.work_s(1600) + G5.before_s(32))
    assert least == pytest.approx(10 * G5.work_s(1600) + G5.before_s(32))
    assert by_chance > least


@given(st.text(st.characters(max_codepoint=127)) | st.text())
def test_constant_vectors_come_with_the_usual_estimate_of_tokens(text: str) -> None:
    assert abs(Constant().tokens(text) - estimate(text)) <= 1  # where a sum ends in .5, its order decides


def test_a_time_scale_scales_everything() -> None:
    whole, part = Fleet(G5), Fleet(Profile(time_scale=0.15))
    for fleet in (whole, part):
        for tokens in (100, 28_800 * 70, 1000, 0):
            fleet.arrive(0.0, texts=3, tokens=tokens)
    expected = [(done.request, pytest.approx(done.at * 0.15), done.late) for done in whole.answers()]
    assert [(done.request, done.at, done.late) for done in part.answers()] == expected
    assert any(late for _, _, late in expected)
