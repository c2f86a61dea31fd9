"""
A run: every setting at every target, repetition by repetition, and what it brought.

Targets take turns within a setting and a repetition, and another one begins each time, so that what changes on this
machine or on the way changes for all of them. Only one target is asked at a time: two would share this machine.
"""

from __future__ import annotations

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
from jina_sm.bench import arrivals, endpoint, metrics, workload
from jina_sm.bench.endpoint import Endpoint, Letter
from jina_sm.bench.load import Load, Purse, Send, Wait, Watch
from jina_sm.bench.metrics import Cell, Sample, Setting, Summary
from jina_sm.bench.plan import Plan, Trial, trials
from jina_sm.bench.workload import Fitted
from jina_sm.clock import Clock
from jina_sm.errors import InputError, JinaSMError, ModelUnavailableError, ThrottledError
from jina_sm.values import EmbedRequest

_log = logging.getLogger(__name__)
POOL_BYTES = 64_000_000
"""Of request bodies made before a trial; past that the same are asked again."""
PATIENCE = 5
"""Attempts to ask how long a text is, before anything is measured."""


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
    stand_in: bool = False
    """The answers were a stand-in's, whose speed says nothing of the model's."""
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
            why = f" ({each.price.unknown})" if each.price.unknown else ""
            raise InputError(
                f"there is a ceiling in USD, and no price of {each.name}{why}", cure="Give --usd-per-hour."
            )
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
        self.stand_in = False
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
            stand_in=self.stand_in,
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
        self._ready.stand_in |= said.stand_in
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
