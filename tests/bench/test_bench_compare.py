"""What changed between two runs beyond noise."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest

from jina_sm.bench import compare
from jina_sm.bench.compare import BETTER, SAME, UNDECIDED, WORSE
from jina_sm.errors import InputError
from tests.bench.made import SETTINGS, measured


def test_the_same_run_twice_is_no_change() -> None:
    run = measured({"one": 0.1})
    found = compare.compare(run, run)
    assert len(found.changes) == 3 * len(SETTINGS)
    assert {each.verdict for each in found.changes} == {SAME}


def test_what_is_slower_beyond_noise_is_worse_and_the_other_way_round_better() -> None:
    before, after = measured({"one": 0.1}), measured({"one": 0.13})
    found = compare.compare(before, after)
    assert {each.metric for each in found.worse} == {"response_s", "tokens_per_s"}
    assert len(found.worse) == 2 * len(SETTINGS)
    assert found.worse[0].ratio == pytest.approx(1.3)
    back = compare.compare(after, before)
    assert len(back.better) == 2 * len(SETTINGS)
    assert not back.worse
    assert compare.lines(found)[0].startswith("worse   one, ")


def test_a_change_within_noise_is_none() -> None:
    found = compare.compare(measured({"one": 0.1}, jitter=0.3), measured({"one": 0.11}, jitter=0.3))
    assert {each.verdict for each in found.changes} == {SAME}


def test_a_change_that_is_certain_and_small_is_none() -> None:
    before, after = measured({"one": 0.1}, jitter=0.001), measured({"one": 0.102}, jitter=0.001)
    assert not compare.compare(before, after).worse
    assert compare.compare(before, after, at_least=0.01).worse


def test_one_repetition_cannot_be_judged() -> None:
    found = compare.compare(measured({"one": 0.1}, repetitions=1), measured({"one": 0.2}, repetitions=1))
    assert not found.worse
    assert {each.verdict for each in found.undecided} == {UNDECIDED}
    assert "too few repetitions" in compare.lines(found)[0]


def test_failures_are_worse() -> None:
    found = compare.compare(measured({"one": 0.1}), measured({"one": 0.1}, fails_every={"one": 3}))
    assert {each.metric for each in found.worse} >= {"success_rate"}
    assert all(each.verdict != BETTER for each in found.changes)


def test_a_target_that_answers_no_more_is_worse() -> None:
    found = compare.compare(measured({"one": 0.1}), measured({"one": 0.1}, fails_every={"one": 1}))
    assert {each.metric for each in found.worse} == {"success_rate", "tokens_per_s"}
    assert all(compare.lines(found))


def test_targets_are_paired_by_name_and_a_lone_one_anyhow() -> None:
    found = compare.compare(measured({"old": 0.1}), measured({"new": 0.2}))
    assert {each.target for each in found.worse} == {"old"}
    found = compare.compare(measured({"a": 0.1, "b": 0.1}), measured({"b": 0.2}))
    assert {each.target for each in found.changes} == {"b"}
    with pytest.raises(InputError, match="no target is in both: a, b, and c"):
        compare.compare(measured({"a": 0.1, "b": 0.1}), measured({"c": 0.2}))


def test_settings_that_only_one_has_are_named() -> None:
    found = compare.compare(measured({"a": 0.1}), measured({"a": 0.1}, settings=SETTINGS[:2]))
    assert len(found.only) == len(SETTINGS) - 2
    assert found.only[0] == "a, 1 x 128, 10 at once: in the first run only"
    with pytest.raises(InputError, match="no setting in common"):
        compare.compare(measured({"a": 0.1}, settings=SETTINGS[:1]), measured({"a": 0.1}, settings=SETTINGS[1:2]))


def test_noise_alone_rarely_cries_wolf() -> None:
    """A grid compared with itself under noise: at most a few in a hundred comparisons find anything at all."""
    chance = random.Random(5)
    cries = 0
    for _ in range(200):
        ps = [
            compare.welch([chance.gauss(1, 0.1) for _ in range(5)], [chance.gauss(1, 0.1) for _ in range(5)])
            for _ in range(27)
        ]
        cries += any(compare._holm(ps))
    assert cries <= 200 * 0.09


def test_welchs_test_gives_the_p_of_the_books() -> None:
    # Student's own example of the extra hours of sleep, by R's t.test: t = -1.8608, df = 17.776, p = 0.07939.
    one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    other = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    assert compare.welch(one, other) == pytest.approx(0.07939, abs=2e-5)
    assert compare.welch([1.0], [1.0, 2.0]) is None
    assert compare.welch([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert compare.welch([1.0, 1.0], [2.0, 2.0]) == 0.0


def test_fishers_test_gives_the_p_of_the_books() -> None:
    # The lady tasting tea, 3 of 4 against 1 of 4: 34/70. And R's fisher.test(matrix(c(8, 2, 1, 5), 2)): 0.03497.
    assert compare.fisher(3, 4, 1, 4) == pytest.approx(34 / 70)
    assert compare.fisher(8, 10, 1, 6) == pytest.approx(0.03497, abs=1e-5)
    assert compare.fisher(5, 5, 5, 5) == pytest.approx(1.0)


def test_welchs_p_is_what_shuffling_says() -> None:
    one, other = [1.0, 1.1, 0.9, 1.05, 0.97, 1.02], [1.1, 1.15, 0.99, 1.2, 1.08, 1.12]
    pool, gap = one + other, abs(statistics.fmean(one) - statistics.fmean(other))
    picks = list(itertools.combinations(range(12), 6))
    as_far = 0
    for pick in picks:
        some = [pool[at] for at in pick]
        rest = [pool[at] for at in range(12) if at not in pick]
        as_far += abs(statistics.fmean(some) - statistics.fmean(rest)) >= gap - 1e-12
    assert compare.welch(one, other) == pytest.approx(as_far / len(picks), abs=0.01)


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="a change is a share"):
        compare.compare(measured({"a": 0.1}), measured({"a": 0.1}), at_least=-1)


def test_worse_is_worse_whatever_came_first() -> None:
    found = compare.compare(measured({"one": 0.13}), measured({"one": 0.1}))
    assert {each.verdict for each in found.changes} == {SAME, BETTER}
    assert WORSE not in {each.verdict for each in found.changes}
