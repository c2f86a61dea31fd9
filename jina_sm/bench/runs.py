"""
A run: every setting at every target, repetition by repetition, and what it brought.

Targets take turns within a setting and a repetition, and another one begins each time, so that what changes on this
machine or on the way changes for all of them. Only one target is asked at a time: two would share this machine.
"""

from __future__ import annotations

import itertools
import logging
import os
import platform
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jina_sm import tokens
from jina_sm.bench import arrivals, endpoint, metrics, published, workload
from jina_sm.bench.endpoint import Endpoint, Letter
from jina_sm.bench.load import Load, Purse, Rules, Send, Wait, Watch
from jina_sm.bench.metrics import Cell, Sample, Setting, Summary
from jina_sm.bench.workload import Fitted
from jina_sm.clock import Clock
from jina_sm.errors import InputError, JinaSMError, ModelUnavailableError, ThrottledError
from jina_sm.values import EmbedRequest

_log = logging.getLogger(__name__)
POOL_BYTES = 64_000_000
"""Of request bodies made before a trial; past that the same are asked again."""
WAVES = 3
"""Requests of a caller in one repetition of a closed loop, unless the plan says how many in all."""
MAX_REQUESTS = 1_000_000
PATIENCE = 5
"""Attempts to ask how long a text is, before anything is measured."""


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
class Facts:
    """What the report says of a target."""

    name: str
    target: str
    kind: str
    model: str
    usd_per_hour: float | None
    usd_per_1m_tokens: float | None
    price_source: str | None
    time_scale: float = 1.0
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Tokens as they were fitted, by those that the setting names."""
    counted_by: str = "endpoint"
    """Who counts tokens: the endpoint in its answers, a tokenizer, or an estimate where it says nothing."""
    given_up: str | None = None
    first_errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A run's outcome: everything that the report is made of, raw samples included."""

    began_at: str
    took_s: float
    ended: str
    """``complete``, or why not."""
    settings: tuple[Setting, ...]
    asked: Mapping[str, Any]
    environment: Mapping[str, Any]
    versions: Mapping[str, str]
    targets: tuple[Facts, ...]
    samples: tuple[Sample, ...]
    usd: float | None = None
    """What the run cost, by the prices it was told; None: by none."""

    @property
    def cells(self) -> list[Cell]:
        return metrics.cells(
            self.samples, self.settings, time_scales={each.name: each.time_scale for each in self.targets}
        )

    @property
    def summaries(self) -> list[Summary]:
        found = self.cells
        return [
            metrics.summary(
                each.name,
                [cell for cell in found if cell.target == each.name],
                usd_per_hour=each.usd_per_hour,
                usd_per_1m=each.usd_per_1m_tokens,
                price_source=each.price_source,
            )
            for each in self.targets
        ]


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


@dataclass(frozen=True)
class Progress:
    """A trial is over: which, of how many, and what it brought."""

    done: int
    of: int
    target: str
    setting: Setting
    repetition: int
    answered: int
    sent: int


def run(
    targets: Sequence[Endpoint],
    plan: Plan,
    *,
    clock: Clock = Clock(),  # noqa: B008  a frozen value
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> Measured:
    """Measures. A run that is interrupted, or that stops by its rules, brings what there is, and says so.

    Raises InputError for what can be known beforehand, and whatever the first request to each target raises.
    """
    if not targets:
        raise InputError("a run needs a target")
    if len({each.name for each in targets}) < len(targets):
        raise InputError("two targets have the same name", cure="NAME=TARGET names one.")
    for each in targets:
        if plan.rules.usd is not None and each.billed and not each.price.known:
            raise InputError(f"there is a ceiling in USD, and no price of {each.name}", cure="Give --usd-per-hour.")
    began_at, began = datetime.now(UTC), clock.now()
    ready = [_Ready(each, plan, clock) for each in targets]
    hourly = sum(each.price.usd_per_hour or 0.0 for each in targets if each.billed)
    purse = Purse(usd_per_hour=hourly, ceiling=plan.rules.usd)
    samples: list[Sample] = []
    ended = "complete"
    order = trials(len(plan.settings), len(targets), plan.repetitions, plan.seed)
    try:
        for done, trial in enumerate(order, 1):
            here = ready[trial.target]
            if here.watch.why is not None:
                continue
            # What is made here is neither in a sample nor in the endpoint's time.
            driver = _Driver(here, plan, trial, clock, began, purse)
            found = driver.run()
            samples += found
            on_progress(
                Progress(
                    done,
                    len(order),
                    here.endpoint.name,
                    plan.settings[trial.setting],
                    trial.repetition,
                    sum(each.error is None for each in found),
                    len(found),
                )
            )
            if driver.out_of_money:
                ended = f"the ceiling of {plan.rules.usd:g} USD"
                break
    except KeyboardInterrupt as interrupted:
        samples += getattr(interrupted, "samples", [])
        ended = "interrupted"
    if ended == "complete" and any(each.watch.why for each in ready):
        ended = "a target was given up"
    took = clock.now() - began
    known = all(each.price.known or not each.billed for each in targets)
    return Measured(
        began_at=began_at.isoformat(timespec="seconds"),
        took_s=took,
        ended=ended,
        settings=plan.settings,
        asked=_asked(plan),
        environment=environment(),
        versions=versions(),
        targets=tuple(each.facts() for each in ready),
        samples=tuple(samples),
        usd=purse.spent(took) if known else None,
    )


class _Ready:
    """A target whose passages are fitted, and what has gone wrong there so far."""

    def __init__(self, target: Endpoint, plan: Plan, clock: Clock) -> None:
        self.endpoint = target
        self._clock = clock
        self.watch = Watch(plan.rules)
        self.first_errors: dict[str, str] = {}
        self.counted_by = "endpoint"
        self._plan = plan
        self._lengths = tokens.Lengths(plan.tokenizer)
        self._counts = self._counter()
        self._fits: dict[int, Fitted] = {}
        lengths = {each.passage_tokens for each in plan.settings if each.passage_tokens}
        if plan.lengths:
            spread = workload.distribution(plan.lengths, target.model.max_tokens)
            self._spread = [self.fitted(max(4, spread.low)), self.fitted(min(spread.high, 2048))]
        for length in sorted(lengths):
            self.fitted(length)

    def fitted(self, length: int) -> Fitted:
        if length not in self._fits:
            wanted = max(1, round(length * self._plan.token_factor))
            if wanted > self.endpoint.model.max_tokens:
                raise InputError(
                    f"a passage of {wanted:,} tokens is longer than {self.endpoint.model.key} reads",
                    cure=f"It reads {self.endpoint.model.max_tokens:,}.",
                )
            self._fits[length] = workload.fit(wanted, self._counts)
        return self._fits[length]

    def texts(self, setting: Setting, trial: Trial) -> workload.Texts:
        plan = self._plan
        # The same for every target of a setting and a repetition.
        chance = random.Random(f"{plan.seed}/{trial.setting}/{trial.repetition}")
        if plan.recorded is not None:
            return workload.Requests(plan.recorded.requests)
        batch = setting.batch_size or 1
        if plan.texts is not None:
            return workload.Own(plan.texts, batch)
        if plan.lengths is not None:
            spread = workload.distribution(plan.lengths, self.endpoint.model.max_tokens)
            return workload.Drawn(lambda: spread.draw(chance), self._spread, batch, chance)
        assert setting.passage_tokens is not None
        return workload.Passages(self.fitted(setting.passage_tokens), batch, chance)

    def expected(self, letter: Letter, setting: Setting) -> int:
        """About how many tokens the endpoint will count; asks nobody."""
        if setting.passage_tokens is not None and setting.passage_tokens in self._fits:
            return letter.texts * self._fits[setting.passage_tokens].counted
        items = letter.asked.items if isinstance(letter.asked, EmbedRequest) else letter.asked.documents
        return int(self._lengths.of([item for item in items if isinstance(item, str)]).sum())

    def facts(self) -> Facts:
        each = self.endpoint
        return Facts(
            name=each.name,
            target=each.target,
            kind=each.kind,
            model=each.model.key,
            usd_per_hour=each.price.usd_per_hour,
            usd_per_1m_tokens=each.price.usd_per_1m_tokens,
            price_source=each.price.source,
            time_scale=each.time_scale,
            lengths={str(length): fitted.counted for length, fitted in sorted(self._fits.items())},
            counted_by=self.counted_by,
            given_up=self.watch.why,
            first_errors=dict(self.first_errors),
        )

    def _counter(self) -> workload.Count:
        """By the endpoint, which has to be asked once anyway: what is not there is found out before a run begins."""
        said = self._asked("the of and to")
        if self._plan.tokenizer is None and said:
            return self._asked
        if not said:
            self.counted_by = "estimate" if self._plan.tokenizer is None else "tokenizer"
        return lambda text: int(self._lengths.of([text])[0])

    def _asked(self, text: str) -> int:
        """How long the endpoint says a text is. Not measured, so asked again where it is only busy."""
        for attempt in range(PATIENCE - 1):
            try:
                return self.endpoint.counts(text)
            except (ThrottledError, ModelUnavailableError) as error:
                self._clock.sleep((error.retry_after_s or 0.5 * 2**attempt) * self.endpoint.time_scale)
        return self.endpoint.counts(text)


class _Driver:
    """Runs one trial's machine with threads: each sends, reads, and asks what is next."""

    def __init__(self, ready: _Ready, plan: Plan, trial: Trial, clock: Clock, began: float, purse: Purse) -> None:
        self._ready, self._plan, self._trial, self._clock = ready, plan, trial, clock
        self._began, self._purse = began, purse
        self._setting = setting = plan.settings[trial.setting]
        self._letters = self._made()
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._samples: list[Sample] = []
        self._threads = self._idle = 0
        self._timing = False
        self.out_of_money = False
        scale = ready.endpoint.time_scale
        self._load = Load(
            setting,
            began_s=clock.now() - began,
            requests=plan.requests_of(setting),
            duration_s=None if plan.duration_s is None else plan.duration_s * scale,
            warm_up=plan.warm_up_of(setting),
            schedule=None if setting.arrivals == "closed" else (at * scale for at in self._due()),
            max_in_flight=plan.max_in_flight,
        )
        target = ready.endpoint
        self._usd_a_token = (target.price.usd_per_1m_tokens or 0.0) / 1e6 if target.billed else 0.0

    def run(self) -> list[Sample]:
        """The trial's samples, by number. Raises KeyboardInterrupt that carries those there are as ``samples``."""
        first = self._setting.concurrency if self._setting.arrivals == "closed" else 1
        with self._changed:
            for _ in range(first or 1):
                self._hire()
        try:
            self._over.wait()
        except KeyboardInterrupt as interrupted:
            with self._changed:
                self._load.stop()
                self._changed.notify_all()
                interrupted.samples = list(self._samples)  # type: ignore[attr-defined]
            raise
        return sorted(self._samples, key=lambda each: each.number)

    def _made(self) -> list[Letter]:
        """Bodies enough for the trial, as far as memory should go."""
        texts = self._ready.texts(self._setting, self._trial)
        found: list[Letter] = []
        size = 0
        wanted = self._plan.counted(self._setting)
        if self._plan.duration_s is not None and self._setting.arrivals == "closed":
            wanted = max(wanted, 1024)
        while len(found) < wanted and (size < POOL_BYTES or not found):
            found.append(self._ready.endpoint.letter(texts.next()))
            size += len(found[-1].request.body)
        return found

    def _due(self) -> Iterator[float]:
        setting, plan = self._setting, self._plan
        match setting.arrivals:
            case "constant":
                return arrivals.constant(setting.rate or 1)
            case "poisson":
                chance = random.Random(f"{plan.seed}/{self._trial.setting}/{self._trial.repetition}/due")
                return arrivals.poisson(setting.rate or 1, chance.random)
            case "ramp":
                return arrivals.ramp(setting.rate or 1, setting.rate_to or 1, plan.duration_s or 1)
        assert plan.recorded is not None
        return arrivals.trace(plan.recorded.at_s or ())

    def _hire(self) -> None:
        self._threads += 1
        threading.Thread(target=self._serve, name="jina_sm bench", daemon=True).start()

    def _serve(self) -> None:
        while (step := self._next()) is not None:
            sample, error = self._asked(step)
            with self._changed:
                self._samples.append(sample)
                # What was reserved becomes what it was; nobody says whether a failure is billed, so it stays.
                if error is None:
                    self._purse.tokens_usd += sample.tokens * self._usd_a_token - self._reserved(step)
                if error is not None:
                    self._ready.first_errors.setdefault(type(error).__name__, str(error))
                if self._ready.watch.saw(error) is not None:
                    self._load.stop()
                self._load.answered(self._now())
                self._check()

    def _next(self) -> Send | None:
        """The next request for this thread; None: there is none to come."""
        with self._changed:
            while True:
                step = self._load.next(self._now())
                if isinstance(step, Send):
                    price = self._reserved(step)
                    if not self._purse.allows(self._now(), price):
                        self.out_of_money = True
                        self._load.stop()
                        self._load.answered(self._now())
                        self._check()
                        return None
                    self._purse.tokens_usd += price
                    # Somebody else keeps the time from here.
                    if self._idle:
                        self._changed.notify()
                    elif self._setting.arrivals != "closed" and self._threads < self._plan.max_in_flight:
                        self._hire()
                    return step
                if step is None:
                    self._check()
                    return None
                self._wait(step)

    def _reserved(self, send: Send) -> float:
        """What a request is expected to cost."""
        if not self._usd_a_token:
            return 0.0
        return self._ready.expected(self._letters[send.number % len(self._letters)], self._setting) * self._usd_a_token

    def _wait(self, step: Wait) -> None:
        """Until a request is due, if nobody else looks at the time, else until called."""
        until = step.until_s
        if until is not None and not self._timing:
            self._timing = True
            self._clock.wait(self._changed, max(0.0, until - self._now()))
            self._timing = False
            return
        self._idle += 1
        self._changed.wait()
        self._idle -= 1

    def _check(self) -> None:
        if self._load.over:
            self._over.set()
            self._changed.notify_all()

    def _now(self) -> float:
        return self._clock.now() - self._began

    def _asked(self, send: Send) -> tuple[Sample, BaseException | None]:
        target = self._ready.endpoint
        letter = self._letters[send.number % len(self._letters)]
        sample = Sample(
            target=target.name,
            setting=self._trial.setting,
            repetition=self._trial.repetition,
            number=send.number,
            due_s=send.due_s,
            sent_s=self._now(),
            done_s=0.0,
            texts=letter.texts,
            warm_up=send.warm_up,
        )
        done: float | None = None
        try:
            response = target.transport.send(letter.request)
            done = self._now()
            counted = target.read(letter, response) or self._ready.expected(letter, self._setting)
        except BaseException as error:  # whatever it was, whoever waits must hear of it
            if not isinstance(error, JinaSMError):
                _log.exception("unexpected")
            done = self._now() if done is None else done
            status = getattr(error, "status", None)
            return replace(sample, done_s=done, error=type(error).__name__, status=status), error
        said = endpoint.told(response.headers)
        return (
            replace(
                sample,
                done_s=done,
                decode_s=self._now() - done,
                tokens=counted,
                server_queue_s=said.queue_s,
                server_work_s=said.work_s,
                server_total_s=said.total_s,
            ),
            None,
        )


def environment() -> dict[str, Any]:
    """The machine that asked. Neither its name nor anybody's."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load_average": [round(each, 2) for each in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "implementation": sys.implementation.name}
    for name in ("jina_sm", "boto3", "urllib3", "numpy", "orjson", "pysimdjson"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _asked(plan: Plan) -> dict[str, Any]:
    return {
        "repetitions": plan.repetitions,
        "requests": plan.requests,
        "duration_s": plan.duration_s,
        "warm_up": plan.warm_up,
        "seed": plan.seed,
        "token_factor": plan.token_factor,
        "max_in_flight": plan.max_in_flight,
        "rules": asdict(plan.rules),
        "lengths": plan.lengths,
        "texts": None if plan.texts is None else len(plan.texts),
        "recorded": None if plan.recorded is None else len(plan.recorded.requests),
    }


def errors_of(measured: Measured) -> Counter[str]:
    """How often each class of error came, the warm-up's included."""
    return Counter(each.error for each in measured.samples if each.error is not None)
