"""
What a run will ask, of whom in which order, and about what that takes. Pure.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jina_sm.bench import metrics, published, workload
from jina_sm.bench.endpoint import Endpoint
from jina_sm.bench.load import Rules
from jina_sm.bench.metrics import Setting
from jina_sm.errors import InputError

WAVES = 3
"""Requests of a caller in one repetition of a closed loop, unless the plan says how many in all."""
MAX_REQUESTS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked. The default is the published grid.

    ``requests``: measured in one repetition; None: three of each caller (closed loop), or what fits ``duration_s``.
    ``warm_up``: requests of a repetition that are not counted; None: one of each caller, so that the queue is full.
    ``token_factor``: passages are made this much longer than the setting says. ``lengths``, ``texts`` and
    ``recorded``: instead of passages of one length. ``max_in_flight`` bounds an open loop.
    """

    settings: tuple[Setting, ...]
    repetitions: int = 5
    requests: int | None = None
    duration_s: float | None = None
    warm_up: int | None = None
    seed: int = 0
    token_factor: float = 1.0
    max_in_flight: int = 256
    rules: Rules = field(default_factory=Rules)
    lengths: str | None = None
    texts: tuple[str, ...] | None = None
    recorded: workload.Recorded | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if not self.settings:
            raise InputError("a run needs a setting")
        for name, least in (("repetitions", 1), ("max_in_flight", 1), ("requests", 1), ("warm_up", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {least} or more, not {value}")
        if not 0.001 <= self.token_factor <= 1000:
            raise InputError(f"token_factor is from 0.001 to 1000, not {self.token_factor}")
        if self.duration_s is not None and not 0 < self.duration_s <= 86_400:
            raise InputError(f"a repetition takes more than 0 s and at most a day, not {self.duration_s}")
        if sum(each is not None for each in (self.lengths, self.texts, self.recorded)) > 1:
            raise InputError("texts are of a distribution of lengths, of a file or of a workload; take one of them")
        for setting in self.settings:
            self._check(setting)

    def _check(self, setting: Setting) -> None:
        if setting.arrivals not in metrics.ARRIVALS:
            raise InputError(f"arrivals are {', '.join(metrics.ARRIVALS)}, not {setting.arrivals!r}")
        if setting.arrivals == "closed" and not (setting.concurrency and setting.concurrency > 0):
            raise InputError(f"a closed loop has 1 caller or more, not {setting.concurrency}")
        if setting.arrivals in ("poisson", "constant", "ramp"):
            if setting.rate is None or not 0 < setting.rate <= 1e6:
                raise InputError(f"a rate is more than 0 and at most 1000000 a second, not {setting.rate}")
            if self.duration_s is None and (self.requests is None or setting.arrivals == "ramp"):
                raise InputError(f"{setting.offered} needs a duration", cure="30s, for instance.")
        if setting.arrivals == "ramp" and (setting.rate_to is None or not 0 < setting.rate_to <= 1e6):
            raise InputError(f"a ramp ends at a rate, not at {setting.rate_to}")
        if setting.arrivals == "trace" and (self.recorded is None or self.recorded.at_s is None):
            raise InputError("a trace needs a workload file that says when requests were due")
        if self.recorded is None and not (setting.batch_size and setting.batch_size > 0):
            raise InputError(f"a request has 1 text or more, not {setting.batch_size}")
        if not (self.lengths or self.texts or self.recorded) and not (setting.passage_tokens or 0) > 0:
            raise InputError(f"a passage has 1 token or more, not {setting.passage_tokens}")
        if self.counted(setting) > MAX_REQUESTS:
            raise InputError(f"{setting} has over {MAX_REQUESTS:,} requests a repetition", cure="Ask for fewer.")

    def warm_up_of(self, setting: Setting) -> int:
        if self.warm_up is not None:
            return self.warm_up
        return (setting.concurrency or 0) if setting.arrivals == "closed" else 0

    def requests_of(self, setting: Setting) -> int | None:
        """Measured in a repetition; None: as many as its time allows."""
        if setting.arrivals == "trace" and self.recorded is not None:
            rest = len(self.recorded.requests) - self.warm_up_of(setting)
            return max(1, min(rest, self.requests or rest))
        if self.requests is None and self.duration_s is None:
            return WAVES * (setting.concurrency or 1)
        return self.requests

    def counted(self, setting: Setting) -> int:
        """About how many requests a repetition has, the warm-up's included; a closed loop by time counts none."""
        if (requests := self.requests_of(setting)) is None:
            mean = ((setting.rate or 0) + (setting.rate_to or setting.rate or 0)) / 2
            requests = round(mean * (self.duration_s or 0))
        return requests + self.warm_up_of(setting)


def published_grid(
    *,
    batch_sizes: Sequence[int] = (),
    passage_tokens: Sequence[int] = (),
    concurrencies: Sequence[int] = (),
) -> tuple[Setting, ...]:
    """The settings of the guide's grid, or of one with other numbers, load by load within a shape."""
    grid = published.figures()["grid"]
    return tuple(
        Setting(batch_size=batch, passage_tokens=length, concurrency=callers)
        for batch, length, callers in itertools.product(
            batch_sizes or grid["batch_size"],
            passage_tokens or grid["passage_tokens"],
            concurrencies or grid["concurrency"],
        )
    )


@dataclass(frozen=True)
class Trial:
    """One setting at one target, once."""

    repetition: int
    setting: int
    target: int


def trials(settings: int, targets: int, repetitions: int, seed: int = 0) -> list[Trial]:
    """The order of a run. Settings are shuffled anew in each repetition; targets take turns within a setting.

    Every target begins as often as every other, as far as the numbers allow.
    """
    chance, found, block = random.Random(seed), [], 0
    for repetition in range(repetitions):
        order = list(range(settings))
        chance.shuffle(order)
        for setting in order:
            found += [Trial(repetition, setting, (block + turn) % targets) for turn in range(targets)]
            block += 1
    return found


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will ask, before it does. ``None``: cannot be known."""

    trials: int
    requests: int
    tokens: int | None
    seconds: float | None
    usd: float | None
    basis: str


def forecast(endpoints: Sequence[Endpoint], plan: Plan) -> Forecast:
    """From the published response times, in the endpoint's own time; a closed loop by time takes its time."""
    requests, total, seconds = 0, 0.0, 0.0
    known_tokens = known_seconds = True
    token_usd = 0.0
    for each in endpoints:
        for setting in plan.settings:
            count = plan.counted(setting) * plan.repetitions
            requests += count
            if setting.batch_size and setting.passage_tokens:
                here = count * setting.batch_size * setting.passage_tokens * plan.token_factor
                total += here
                token_usd += here / 1e6 * (each.price.usd_per_1m_tokens or 0) * each.billed
            else:
                known_tokens = False
            if (takes := _seconds(each, setting, plan)) is None:
                known_seconds = False
            else:
                seconds += takes * plan.repetitions * each.time_scale
    hourly = sum(each.price.usd_per_hour or 0 for each in endpoints if each.billed)
    usd = None
    if (known_seconds or not hourly) and all(each.price.known or not each.billed for each in endpoints):
        usd = hourly * seconds / 3600 + token_usd
    return Forecast(
        trials=len(plan.settings) * len(endpoints) * plan.repetitions,
        requests=requests,
        tokens=round(total) if known_tokens else None,
        seconds=seconds if known_seconds else None,
        usd=usd,
        basis="by the published response times" if known_seconds else "the published tables have no such setting",
    )


def _seconds(target: Endpoint, setting: Setting, plan: Plan) -> float | None:
    """About how long a repetition takes, in the endpoint's own time; None: nobody knows."""
    if plan.duration_s is not None:
        return plan.duration_s
    if setting.arrivals == "trace" and plan.recorded is not None:
        return (plan.recorded.at_s or (0.0,))[-1]
    if setting.arrivals != "closed":
        return plan.counted(setting) / (setting.rate or 1)
    like = published.cell(published.LIKE[target.kind], replace(setting, texts=None))
    if like is None or like.response_s is None:
        return None
    return plan.counted(setting) / (setting.concurrency or 1) * like.response_s
