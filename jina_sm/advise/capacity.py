"""
How many instances a load needs so that 99 of 100 requests are answered in time.

Simulated with the response-time model of ``jina_sm.profile``, whose constants come from the published measurements or
are fitted to one's own. Arrivals are random (Poisson) from a fixed seed, so the same question has the same answer.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jina_sm.advise.figures import figures
from jina_sm.errors import InputError
from jina_sm.profile import NOMINAL, PROFILES, Fleet, Profile

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

REQUESTS = 5_000  # simulated: fifty of them are slower than the p99
MOST_INSTANCES = 1_000
GROUP = 16  # a larger fleet is simulated as groups of so many, each with its share: no faster than the whole
IN_FLIGHT = 6  # requests to an instance that share what waits, as the client does it
TEXTS, TOKENS = 480, 32_768  # in one shared request, as the client packs


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests as they come: how many a second, of how many texts, of how many tokens each (a tokenizer's).

    ``shared``: single texts asked at the same time travel together, as ``jina_sm.Client`` sends them.
    """

    requests_per_s: float
    texts: int = 1
    tokens: float = 128
    p99_s: float = 1.0
    shared: bool = True

    def __post_init__(self) -> None:
        _check("requests per second", self.requests_per_s, least=0.001, most=100_000)
        _check("texts per request", self.texts, least=1, most=2048)
        _check("tokens per text", self.tokens, least=1, most=524_288)
        _check("p99_s", self.p99_s, least=0.001, most=3600)


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a load needs. ``instances=None``: no number of them is enough, since one request alone takes ``alone_s``.

    ``most_per_s`` is what that many instances could answer at all, without a limit on how long it takes.
    """

    instances: int | None
    alone_s: float
    p50_s: float | None
    p99_s: float | None
    most_per_s: float | None
    source: str


@dataclass(frozen=True)
class Measured:
    """One setting of a measurement, each caller asking again as soon as it is answered: the mean response time."""

    batch: int
    tokens: float
    concurrency: int
    mean_s: float

    def __post_init__(self) -> None:
        _check("batch", self.batch, least=1, most=100_000)
        _check("tokens", self.tokens, least=1, most=1_000_000)
        _check("concurrency", self.concurrency, least=1, most=100_000)
        _check("mean_s", self.mean_s, least=1e-6, most=36_000)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A profile, and how far it is off what was measured, as shares: at the median and at worst (below 0: too fast)."""

    profile: Profile
    median_error: float
    worst_error: float
    worst: Measured
    rows: int
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        unknown = f"; {', '.join(self.unknown)} could not be told apart" if self.unknown else ""
        at = f"{self.worst.batch} x {self.worst.tokens:.0f} tokens at concurrency {self.worst.concurrency}"
        return (
            f"against {self.rows} measured settings off by {self.median_error:.0%} at the median and "
            f"{self.worst_error:+.0%} at worst ({at}){unknown}"
        )


def needed(load: Load, way: str = "sagemaker", *, least: int = 1) -> Capacity:
    """The fewest instances of the published kind that keep the p99 of a load, by the published response times.

    ``least``: there are so many anyway.

    >>> needed(Load(requests_per_s=2, p99_s=0.5)).instances
    1
    """
    kinds = {"sagemaker": "ml.g5.xlarge", "self_hosted": "g5.xlarge"}
    if way not in kinds:
        raise InputError(f"there are no instances to count with {way!r}", cure=f"It is {' or '.join(kinds)}.")
    found = error(profile(kinds[way]), published(way))
    return needed_with(profile(kinds[way]), load, least=least, source=f"the model of {kinds[way]}, {found}")


def profile(instance: str) -> Profile:
    """The response-time model of an instance type, or of the API, for which response times were published."""
    if instance in PROFILES:
        return PROFILES[instance]
    return Profile(**figures()["profiles"][instance])


def published(way: str) -> list[Measured]:
    """The article's mean response times, in a tokenizer's tokens."""
    return [
        Measured(batch, tokens * NOMINAL, concurrency, ms / 1000)
        for batch, tokens, concurrency, ms in figures()["responses"][way]
    ]


def needed_with(model: Profile, load: Load, *, least: int = 1, source: str = "a profile given") -> Capacity:
    """The fewest instances of a profile that keep the p99 of a load.

    >>> needed_with(Profile(), Load(requests_per_s=30, tokens=500, p99_s=0.6, shared=False)).instances
    3
    """
    tokens = load.texts * load.tokens
    alone = model.before_s(load.texts) + model.work_s(tokens)
    open_ended = dataclasses.replace(load, p99_s=3600)  # what is wanted changes nothing of what is

    def answer(instances: int | None) -> Capacity:
        p50_s, p99_s = _times(model, instances, open_ended) if instances else (None, None)
        return Capacity(
            instances=instances,
            alone_s=alone,
            p50_s=p50_s,
            p99_s=p99_s,
            most_per_s=instances * _ceiling(model, load) if instances else None,
            source=source,
        )

    if alone > min(load.p99_s, model.limit_s * model.time_scale):
        return answer(None)
    least = max(1, least, math.ceil(load.requests_per_s / _ceiling(model, load)))
    return answer(_fewest(lambda instances: _times(model, instances, open_ended)[1] <= load.p99_s, least))


def _fewest(enough: Callable[[int], bool], least: int) -> int | None:
    """The smallest number that is enough, from ``least`` on: doubling, then halving the gap; large ones within 3 %."""
    if least > MOST_INSTANCES:
        return None
    low, high = least - 1, least
    while not enough(high):
        if high >= MOST_INSTANCES:
            return None
        low, high = high, min(high * 2, MOST_INSTANCES)
    while high - low > max(1, high // 32):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _ceiling(model: Profile, load: Load) -> float:
    """Requests a second that one instance answers if it never waits."""
    tokens = load.texts * load.tokens
    together = _sharing(load)
    if not together:
        return min(1 / model.work_s(tokens), model.admitted / (model.before_s(load.texts) + model.work_s(tokens)))
    return together / model.work_s(together * tokens)


def _sharing(load: Load) -> int:
    """How many requests may travel as one; 0: they travel alone."""
    together = min(TEXTS // load.texts, int(TOKENS // (load.texts * load.tokens)))
    return together if load.shared and load.texts == 1 and together > 1 else 0


@functools.lru_cache(maxsize=4096)
def _times(model: Profile, instances: int, load: Load) -> tuple[float, float]:
    """The median and the p99."""
    times = _simulated(model, instances, load)
    return _quantile(times, 0.5), _quantile(times, 0.99)


def _simulated(model: Profile, instances: int, load: Load) -> list[float]:
    """How long each request took, the first tenth left out."""
    share = min(instances, GROUP)
    chance = random.Random(instances)
    rate, together = load.requests_per_s * share / instances, _sharing(load)
    fleet = Fleet(model, instances=share)
    arrivals = list(itertools.accumulate(chance.expovariate(rate) for _ in range(REQUESTS)))
    waiting: list[float] = []
    sent: dict[int, list[float]] = {}
    times: list[tuple[float, float]] = []

    def send(now: float) -> None:
        while waiting and (not together or len(sent) < IN_FLIGHT * share):
            group = [waiting.pop(0) for _ in range(min(len(waiting), together or 1))]
            number = fleet.arrive(now, texts=load.texts * len(group), tokens=load.texts * load.tokens * len(group))
            sent[number] = group

    def answered(until: float) -> None:
        while (at := fleet.next()) is not None and at <= until:
            for done in fleet.advance(at):
                times.extend((came, at - came) for came in sent.pop(done.request))
            send(at)

    for at in arrivals:
        answered(at)
        waiting.append(at)
        send(at)
    answered(math.inf)
    return [took for came, took in sorted(times)][REQUESTS // 10 :]


def _quantile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def expected_s(model: Profile, batch: int, tokens: float, concurrency: int) -> float:
    """The mean response time where so many callers each ask again as soon as they are answered, on one instance.

    Whichever is the narrowest decides: the way of one request alone, the GPU, or how many are admitted at once.

    >>> round(expected_s(Profile(), batch=32, tokens=289, concurrency=10), 1)
    3.8
    """
    return max(_dot(form, _constants(model)) for form in _forms(model.admitted, batch, tokens, concurrency))


def error(model: Profile, rows: Sequence[Measured]) -> Fit:
    """How far a profile is off on measured rows."""
    offs = [expected_s(model, row.batch, row.tokens, row.concurrency) / row.mean_s - 1 for row in rows]
    worst = max(range(len(rows)), key=lambda place: abs(offs[place]))
    return Fit(
        profile=model,
        median_error=_quantile([abs(off) for off in offs], 0.5),
        worst_error=offs[worst],
        worst=rows[worst],
        rows=len(rows),
    )


_NAMES = ("request_s", "text_s", "step_s", "tokens_per_s")
_Form = tuple[float, float, float, float]


def _constants(model: Profile) -> _Form:
    return model.request_s, model.text_s, model.step_s, 1 / model.tokens_per_s


def _forms(admitted: int, batch: int, tokens: float, concurrency: int) -> Iterator[_Form]:
    """What each bottleneck takes, as factors of the four constants."""
    alone = (1.0, float(batch), 1.0, batch * tokens)
    yield alone
    yield 0.0, 0.0, float(concurrency), concurrency * batch * tokens
    if concurrency > admitted:
        factor = concurrency / admitted
        yield alone[0] * factor, alone[1] * factor, alone[2] * factor, alone[3] * factor


def _dot(form: _Form, constants: _Form) -> float:
    return sum(factor * constant for factor, constant in zip(form, constants, strict=True))


def fitted(rows: Sequence[Measured], *, start: Profile | None = None, admitted: int = 10) -> Fit:
    """The profile that meets measured mean response times best, in relative terms, and how far it is off.

    What the rows cannot tell apart keeps the value of ``start`` (ml.g5.xlarge's) and is named. Raises InputError for
    fewer than four settings.

    >>> fitted(published("self_hosted")).median_error < 0.15
    True
    """
    import numpy as np

    if len({(row.batch, row.tokens, row.concurrency) for row in rows}) < len(_NAMES):
        raise InputError(
            f"{len(rows)} measured settings are too few to fit four constants",
            cure="Measure two batch sizes and two lengths at two concurrencies at least.",
        )
    begin = start or PROFILES["ml.g5.xlarge"]
    guesses = [np.array(_constants(begin)) * factors for factors in ((1, 1, 1, 1), (3, 3, 2, 3), (0.3, 0.3, 0.3, 0.6))]
    best: tuple[float, tuple[str, ...], Profile] | None = None
    for guess in guesses:
        solved, unknown = _settled(rows, guess, np.array(_constants(begin)), admitted)
        request_s, text_s, step_s, per_token = (float(value) for value in solved)
        model = Profile(
            request_s=request_s,
            text_s=text_s,
            step_s=step_s,
            tokens_per_s=1 / max(per_token, 1e-9),
            admitted=admitted,
        )
        off = sum((expected_s(model, row.batch, row.tokens, row.concurrency) / row.mean_s - 1) ** 2 for row in rows)
        if best is None or off < best[0]:
            best = off, unknown, model
    assert best is not None
    said = error(best[2], rows)
    return Fit(
        profile=said.profile,
        median_error=said.median_error,
        worst_error=said.worst_error,
        worst=said.worst,
        rows=said.rows,
        unknown=best[1],
    )


def _settled(rows: Sequence[Measured], guess: Array, prior: Array, admitted: int) -> tuple[Array, tuple[str, ...]]:
    """Constants that no longer change: with each row's bottleneck known, the rest is linear."""
    import numpy as np

    forms = [np.array([*_forms(admitted, row.batch, row.tokens, row.concurrency)]) for row in rows]
    targets = np.array([row.mean_s for row in rows])
    constants, unknown = guess, tuple[str, ...]()
    for _ in range(60):
        narrowest = np.array([form[np.argmax(form @ constants)] for form in forms]) / targets[:, None]
        solved, unknown = _nonnegative(narrowest, prior)
        if np.allclose(solved, constants, rtol=1e-9):
            break
        constants = solved
    return constants, unknown


def _nonnegative(factors: Array, prior: Array) -> tuple[Array, tuple[str, ...]]:
    """Least squares with no constant below zero; what the factors do not determine stays as it was."""
    import numpy as np

    # In units of the prior, so that what is small (a token) and what is large (a request) weigh alike.
    scaled = factors * prior
    if np.linalg.matrix_rank(scaled, tol=1e-6 * np.linalg.norm(scaled)) < len(_NAMES):
        _, sizes, directions = np.linalg.svd(scaled)
        loose = directions[sizes < 1e-6 * np.linalg.norm(scaled)] if len(sizes) == len(_NAMES) else directions[-1:]
        unknown = tuple(name for name, weight in zip(_NAMES, np.abs(loose).max(axis=0), strict=True) if weight > 1e-3)
    else:
        unknown = ()
    best, least = prior, math.inf
    for size in range(1, len(_NAMES) + 1):
        for chosen in map(list, itertools.combinations(range(len(_NAMES)), size)):
            # Around the prior: of the many solutions of loose rows, the one nearest to it.
            rest = 1 - scaled[:, chosen].sum(axis=1)
            part = 1 + np.linalg.lstsq(scaled[:, chosen], rest, rcond=1e-8)[0]
            if (part < 0).any():
                continue
            solved = np.zeros(len(_NAMES))
            solved[chosen] = part
            off = float(((scaled @ solved - 1) ** 2).sum())
            if off < least - 1e-12:
                best, least = solved * prior, off
    return best, unknown


def measured(data: object) -> list[Measured]:
    """A measurement from JSON: a list of rows of batch, tokens, concurrency, mean_s, or an object with it as ``rows``.

    Raises InputError that names the row.
    """
    found = data.get("rows") if isinstance(data, Mapping) else data
    if not isinstance(found, list) or not found:
        raise InputError("a measurement is a list of rows with batch, tokens, concurrency and mean_s")
    rows = []
    for place, row in enumerate(found):
        try:
            values = [row[name] for name in ("batch", "tokens", "concurrency", "mean_s")]
        except (TypeError, KeyError, IndexError):
            raise InputError(f"rows[{place}] lacks one of batch, tokens, concurrency, mean_s") from None
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
            raise InputError(f"rows[{place}] has something that is no number: {values}")
        if not all(float(value).is_integer() for value in (values[0], values[2])):
            raise InputError(f"rows[{place}]: batch and concurrency are whole numbers, not {values[0]} and {values[2]}")
        try:
            rows.append(Measured(int(values[0]), float(values[1]), int(values[2]), float(values[3])))
        except InputError as refused:
            raise InputError(f"rows[{place}]: {refused.message}") from None
    return rows


def _check(name: str, value: float, *, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InputError(f"{name} is from {least:g} to {most:,g}, not {value:g}")
