"""
What changed between two runs beyond noise.

A setting's mean of each repetition is one observation: requests of a repetition share a queue and say the same thing
many times over. Latency and token throughput are compared by Welch's t-test over them, success rates by Fisher's exact
test, at 5 % over all comparisons of a kind together (Holm), so that a grid of 27 settings does not cry wolf. What is
significant and smaller than ``at_least`` is not told as a change.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jina_sm.bench.metrics import Cell, Setting
from jina_sm.bench.runs import Measured
from jina_sm.errors import InputError

ALPHA = 0.05
BETTER, WORSE, SAME, UNDECIDED = "better", "worse", "same", "undecided"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure at one setting. ``p`` is before the correction for many; None: too few repetitions to judge."""

    target: str
    setting: Setting
    metric: str
    before: float
    after: float
    p: float | None
    verdict: str

    @property
    def ratio(self) -> float:
        return self.after / self.before if self.before else math.inf if self.after else 1.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that both runs have; ``only`` names what just one of them has."""

    changes: tuple[Change, ...]
    only: tuple[str, ...] = ()

    @property
    def worse(self) -> tuple[Change, ...]:
        return tuple(each for each in self.changes if each.verdict == WORSE)

    @property
    def better(self) -> tuple[Change, ...]:
        return tuple(each for each in self.changes if each.verdict == BETTER)

    @property
    def undecided(self) -> tuple[Change, ...]:
        return tuple(each for each in self.changes if each.verdict == UNDECIDED)


def compare(before: Measured, after: Measured, *, at_least: float = 0.05) -> Comparison:
    """Setting by setting, of targets with the same name; of one target each, whatever the names.

    Raises InputError where there is nothing to compare.
    """
    if not 0 <= at_least < 10:
        raise InputError(f"a change is a share such as 0.05, not {at_least}")
    names = _paired(before, after)
    then = {(each.target, each.setting): each for each in before.cells if each.target in names}
    now = {(name, each.setting): each for name, other in names.items() for each in after.cells if each.target == other}
    both = [key for key in then if key in now]
    if not both:
        raise InputError("the two runs have no setting in common", cure="Run the same grid twice.")
    changes: list[Change] = []
    for metric, test, smaller_is_better in (
        ("response_s", _response, True),
        ("tokens_per_s", _tokens, False),
        ("success_rate", _success, False),
    ):
        found = [(key, told) for key in both if (told := test(then[key], now[key])) is not None]
        verdicts = _holm([p for _, (_, _, p) in found])
        for (key, (old, new, p)), significant in zip(found, verdicts, strict=True):
            changes.append(
                Change(
                    target=key[0],
                    setting=key[1],
                    metric=metric,
                    before=old,
                    after=new,
                    p=p,
                    verdict=_verdict(old, new, significant, at_least, smaller_is_better),
                )
            )
    missing = [
        f"{target}, {setting}: in the {run} run only"
        for run, here, there in (("first", then, now), ("second", now, then))
        for target, setting in here
        if (target, setting) not in there
    ]
    return Comparison(changes=tuple(changes), only=tuple(missing))


def _paired(before: Measured, after: Measured) -> Mapping[str, str]:
    old, new = ([each.name for each in run.targets] for run in (before, after))
    if common := [name for name in old if name in new]:
        return {name: name for name in common}
    if len(old) == len(new) == 1:
        return {old[0]: new[0]}
    raise InputError(
        f"no target is in both: {', '.join(old)}, and {', '.join(new)}", cure="Name them alike: --target NAME=TARGET."
    )


_Told = tuple[float, float, float | None]


def _response(then: Cell, now: Cell) -> _Told | None:
    if then.response_s is None or now.response_s is None:
        return None
    return then.response_s, now.response_s, welch(then.repetitions_s, now.repetitions_s)


def _tokens(then: Cell, now: Cell) -> _Told | None:
    if then.tokens_per_s is None or now.tokens_per_s is None:
        return None
    p = welch(then.repetitions_tokens_per_s, now.repetitions_tokens_per_s)
    return then.tokens_per_s, now.tokens_per_s, p


def _success(then: Cell, now: Cell) -> _Told | None:
    return then.success_rate, now.success_rate, fisher(then.answered, then.sent, now.answered, now.sent)


def _verdict(old: float, new: float, significant: bool | None, at_least: float, smaller_is_better: bool) -> str:
    if significant is None:
        return UNDECIDED if abs(new - old) > at_least * abs(old) else SAME
    if not significant or abs(new - old) <= at_least * abs(old):
        return SAME
    return BETTER if (new < old) == smaller_is_better else WORSE


def _holm(values: Sequence[float | None]) -> list[bool | None]:
    """Which are significant at ALPHA over all together; None where there is no p."""
    known = sorted((p, index) for index, p in enumerate(values) if p is not None)
    found: list[bool | None] = [None if p is None else False for p in values]
    for rank, (p, index) in enumerate(known):
        if p > ALPHA / (len(known) - rank):
            break
        found[index] = True
    return found


def welch(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The two-sided p that two means are the same; None with fewer than two values on a side."""
    if len(one) < 2 or len(other) < 2:
        return None
    gap = statistics.fmean(one) - statistics.fmean(other)
    a, b = statistics.variance(one) / len(one), statistics.variance(other) / len(other)
    if a + b == 0:
        return 1.0 if gap == 0 else 0.0
    freedom = (a + b) ** 2 / (a * a / (len(one) - 1) + b * b / (len(other) - 1))
    return _student(abs(gap) / math.sqrt(a + b), freedom)


def _student(t: float, freedom: float) -> float:
    """The two-sided tail of Student's t, by the incomplete beta function."""
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Lentz)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny, c, d = 1e-300, 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d or tiny)
    total = d
    for m in range(1, 300):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / ((1 + step * d) or tiny)
            c = (1 + step / c) or tiny
            total *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * total


def fisher(answered: int, sent: int, answered_then: int, sent_then: int) -> float:
    """The two-sided p that two shares are the same."""
    of, good = sent + sent_then, answered + answered_then
    log = _log_choose

    def chance(count: int) -> float:
        return log(good, count) + log(of - good, sent - count) - log(of, sent)

    here = chance(answered)
    low, high = max(0, sent - (of - good)), min(good, sent)
    return min(1.0, sum(math.exp(p) for count in range(low, high + 1) if (p := chance(count)) <= here + 1e-9))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


_METRICS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "response_s": ("response time", lambda value: f"{value:.3f} s"),
    "tokens_per_s": ("token throughput", lambda value: f"{value:,.0f}/s"),
    "success_rate": ("success rate", lambda value: f"{100 * value:.1f} %"),
}


def lines(found: Comparison) -> list[str]:
    """What changed, the worst first; then what cannot be judged."""

    def told(each: Change) -> str:
        name, said = _METRICS[each.metric]
        beside = f" ({each.ratio - 1:+.1%})" if each.metric != "success_rate" and math.isfinite(each.ratio) else ""
        return f"{each.target}, {each.setting}: {name} {said(each.before)} -> {said(each.after)}{beside}"

    rows = [f"worse   {told(each)}" for each in sorted(found.worse, key=_size, reverse=True)]
    rows += [f"better  {told(each)}" for each in sorted(found.better, key=_size, reverse=True)]
    rows += [f"?       {told(each)}: too few repetitions to judge" for each in found.undecided]
    return rows


def _size(each: Change) -> float:
    return abs(math.log(each.ratio)) if 0 < each.ratio < math.inf else math.inf
