"""
What is measured, defined once: samples in, figures out. Pure.

Where they have a published namesake (Jina AI's guide of 2025-01-31) the definitions are the guide's, and the guide's
own tables go through the same functions (``published``). How a failed request counts:

    success rate            in the denominator
    latency, percentiles    not at all: a refusal after 5 ms is no fast answer. ``failed_s`` has those times
    normalised latency      once, through the success rate that it is divided by
    request throughput      not at all: as published, concurrency over the mean response time of what was answered
    answered requests a s   it gives nothing, and the time that it took counts
    token throughput        it gives no tokens, and the time that it took counts
    cost                    as in token throughput: the hour is paid for all the same

Mean figures over settings are plain means over those settings that answered at all, as published; the success rate
is over all requests. Requests of the warm-up count nowhere.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

ARRIVALS = ("closed", "poisson", "constant", "ramp", "trace")
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One point of a grid. ``None``: it varies within (own texts, a distribution of lengths, a trace).

    Closed loop: ``concurrency`` callers, each of whom asks again when it has its answer. Open loop: ``rate`` requests
    a second whatever comes back, for a ramp from ``rate`` to ``rate_to``.
    """

    batch_size: int | None = None
    passage_tokens: int | None = None
    texts: str | None = None
    """Where the texts are from, if their lengths vary."""
    arrivals: str = "closed"
    concurrency: int | None = None
    rate: float | None = None
    rate_to: float | None = None

    @property
    def load(self) -> float | None:
        """What is plotted against: callers at once, or requests a second."""
        return self.concurrency if self.arrivals == "closed" else self.rate

    @property
    def shape(self) -> str:
        """``32 x 512``: texts in a request, tokens in a text."""
        return f"{self.batch_size or '*'} x {self.passage_tokens or self.texts or '*'}"

    @property
    def offered(self) -> str:
        """``10 at once``, ``5/s poisson``, ``5-20/s ramp``."""
        if self.arrivals == "closed":
            return f"{self.concurrency} at once"
        if self.arrivals == "trace":
            return "as recorded"
        span = f"{self.rate:g}" if self.rate_to is None else f"{self.rate:g}-{self.rate_to:g}"
        return f"{span}/s {self.arrivals}"

    def __str__(self) -> str:
        return f"{self.shape}, {self.offered}"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request. Seconds since the run began.

    ``due_s`` is when it should have been sent, whether or not it could be: latency counts from there. ``done_s`` is
    when its answer was there, whole; ``decode_s`` what this machine then needed to read it. ``error`` is the class
    of what went wrong; ``server_*`` what the server said of itself, if it did.
    """

    target: str
    setting: int
    repetition: int
    number: int
    due_s: float
    sent_s: float
    done_s: float
    decode_s: float = 0.0
    texts: int
    tokens: int = 0
    warm_up: bool = False
    error: str | None = None
    status: int | None = None
    server_queue_s: float | None = None
    server_work_s: float | None = None
    server_total_s: float | None = None

    @property
    def response_s(self) -> float:
        return self.done_s - self.due_s

    @property
    def occupied_s(self) -> float:
        """How long it kept a caller of a closed loop from asking again."""
        return self.done_s - self.due_s + self.decode_s

    def unscaled(self, time_scale: float) -> Sample:
        """As it would have been in the time that the endpoint imitates ``time_scale`` times as fast.

        What this machine needed is stretched with it, so it errs to the slow side.
        """
        if time_scale == 1:
            return self

        def of(seconds: float | None) -> float | None:
            return None if seconds is None else seconds / time_scale

        return replace(
            self,
            due_s=self.due_s / time_scale,
            sent_s=self.sent_s / time_scale,
            done_s=self.done_s / time_scale,
            decode_s=self.decode_s / time_scale,
            server_queue_s=of(self.server_queue_s),
            server_work_s=of(self.server_work_s),
            server_total_s=of(self.server_total_s),
        )


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where the mean response time went, in seconds. ``server_*`` is None where the server does not tell.

    ``client_queue_s``: from due to sent. ``elsewhere_s``: the rest: the network, and the server where it is silent.
    """

    client_queue_s: float
    server_queue_s: float | None
    server_work_s: float | None
    elsewhere_s: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one setting came to at one target. Of a published table only some is known; the rest is None or empty."""

    target: str
    setting: Setting
    sent: int
    answered: int
    success_rate: float
    response_s: float | None
    """Mean over what was answered."""
    tokens_per_request: float | None
    """As the endpoint counts them."""
    requests_per_s: float | None
    """Request throughput as published (closed loop), else what was answered a second."""
    answered_per_s: float | None = None
    tokens_per_s: float | None = None
    response_ci: Interval | None = None
    success_ci: Interval | None = None
    tokens_ci: Interval | None = None
    p50_s: float | None = None
    p90_s: float | None = None
    p99_s: float | None = None
    max_s: float | None = None
    failed_s: float | None = None
    split: Split | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    repetitions_s: tuple[float, ...] = ()
    """The mean of each repetition."""
    repetitions_tokens_per_s: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One target over all settings: the rows of the published summary."""

    target: str
    sent: int
    answered: int
    settings: int
    settings_answered: int
    success_rate: float | None
    """None: nothing was sent."""
    success_ci: Interval | None
    latency_s: float | None
    latency_normalized_s: float | None
    tokens_per_s: float | None
    tokens_per_s_published: float | None
    """By the guide's request throughput times the tokens of a request, which no failure lowers."""
    peak_tokens_per_s: float | None
    peak_at: Setting | None
    usd_per_hour: float | None = None
    usd_per_1m_tokens: float | None = None
    usd_per_1m_tokens_at_peak: float | None = None
    price_source: str | None = None
    errors: Mapping[str, int] = field(default_factory=dict)


def success_rate(answered: int, sent: int) -> float:
    """The share of requests that were answered, and answered right."""
    return answered / sent


def request_throughput(concurrency: int, response_s: float) -> float:
    """Requests a second, as the guide defines it: concurrency over the mean response time."""
    return concurrency / response_s


def token_throughput(requests_per_s: float, tokens_per_request: float) -> float:
    """Tokens a second."""
    return requests_per_s * tokens_per_request


def normalized(latency_s: float, rate: float) -> float:
    """Latency over success rate: what an answer takes if what fails is asked again, and fails as slowly."""
    return latency_s / rate if rate else math.inf


def usd_per_1m_tokens(usd_per_hour: float, tokens_per_s: float) -> float:
    """What a million tokens cost at an hourly price, always busy."""
    return usd_per_hour / (tokens_per_s * 3600) * 1e6


def percentile(values: Sequence[float], share: float) -> float | None:
    """The percentile, by linear interpolation; None of fewer than 1/(1-share) values, which cannot have one.

    Half of the values tell of a median, a hundred are the fewest that tell of the slowest one in a hundred.
    """
    if len(values) < round(1 / (1 - share)):
        return None
    return float(np.quantile(np.asarray(values), share))


def t95(freedom: int) -> float:
    return _T95[freedom - 1] if freedom <= len(_T95) else 1.96 + 2.5 / freedom  # within 0.001 past thirty


def mean_ci(repetitions: Sequence[float]) -> Interval | None:
    """Of the mean, by Student's t over repetitions; None of fewer than two.

    Requests of one repetition share a queue and so are no independent measurements; repetitions nearly are.
    """
    if len(repetitions) < 2:
        return None
    centre = statistics.fmean(repetitions)
    reach = t95(len(repetitions) - 1) * statistics.stdev(repetitions) / math.sqrt(len(repetitions))
    return Interval(max(0.0, centre - reach), centre + reach)  # what is measured here is never negative


def rate_ci(count: int, of: int) -> Interval | None:
    """Of a share, by Wilson; it has room above 0 and below 1 where few were asked."""
    if not of:
        return None
    z, share = 1.959964, count / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    reach = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return Interval(max(0.0, centre - reach), min(1.0, centre + reach))


def cells(
    samples: Iterable[Sample], settings: Sequence[Setting], *, time_scales: Mapping[str, float] = MappingProxyType({})
) -> list[Cell]:
    """One cell for each target and setting that was asked at all, in the order of targets first seen, then settings.

    ``time_scales``: of each target that plays a slower one.
    """
    apart: dict[tuple[str, int], list[Sample]] = {}
    order: dict[str, None] = {}
    for sample in samples:
        order.setdefault(sample.target)
        if not sample.warm_up:
            apart.setdefault((sample.target, sample.setting), []).append(
                sample.unscaled(time_scales.get(sample.target, 1.0))
            )
    return [
        _cell(target, setting, apart[target, number])
        for target in order
        for number, setting in enumerate(settings)
        if (target, number) in apart
    ]


def _cell(target: str, setting: Setting, samples: Sequence[Sample]) -> Cell:
    answered = [each for each in samples if each.error is None]
    failed = [each.response_s for each in samples if each.error is not None]
    times = [each.response_s for each in answered]
    mean_s = statistics.fmean(times) if times else None
    tokens = statistics.fmean(each.tokens for each in answered) if answered else None
    answers_per_s, tokens_per_s = _delivered(setting, samples)
    if setting.arrivals == "closed" and mean_s:
        assert setting.concurrency is not None
        requests_per_s: float | None = request_throughput(setting.concurrency, mean_s)
    else:
        requests_per_s = answers_per_s if answered else None
    by_repetition: dict[int, list[Sample]] = {}
    for sample in samples:
        by_repetition.setdefault(sample.repetition, []).append(sample)
    means = [
        statistics.fmean(each.response_s for each in some if each.error is None)
        for some in by_repetition.values()
        if any(each.error is None for each in some)
    ]
    rates = [_delivered(setting, some)[1] for some in by_repetition.values()]
    return Cell(
        target=target,
        setting=setting,
        sent=len(samples),
        answered=len(answered),
        success_rate=success_rate(len(answered), len(samples)),
        response_s=mean_s,
        tokens_per_request=tokens,
        requests_per_s=requests_per_s,
        answered_per_s=answers_per_s,
        tokens_per_s=tokens_per_s,
        response_ci=mean_ci(means),
        success_ci=rate_ci(len(answered), len(samples)),
        tokens_ci=mean_ci(rates),
        p50_s=percentile(times, 0.5),
        p90_s=percentile(times, 0.9),
        p99_s=percentile(times, 0.99),
        max_s=max(times, default=None),
        failed_s=statistics.fmean(failed) if failed else None,
        split=_split(answered),
        errors=dict(Counter(each.error for each in samples if each.error is not None).most_common()),
        repetitions_s=tuple(means),
        repetitions_tokens_per_s=tuple(rates),
    )


def _delivered(setting: Setting, samples: Sequence[Sample]) -> tuple[float, float]:
    """Requests answered, and tokens read, a second.

    Closed loop: Little's law. ``concurrency`` callers are always at it, so what comes a second is what comes a request
    over what a request takes, times the callers; unlike a count by the wall clock it knows no ragged beginning and
    end. Open loop: by the wall clock of each repetition, from the first request due to the last answer.
    """
    answered = [each for each in samples if each.error is None]
    tokens = sum(each.tokens for each in answered)
    if setting.arrivals == "closed":
        assert setting.concurrency is not None
        seconds = sum(each.occupied_s for each in samples) / setting.concurrency
    else:
        spans: dict[int, tuple[float, float]] = {}
        for each in samples:
            begin, end = spans.get(each.repetition, (each.due_s, each.done_s))
            spans[each.repetition] = min(begin, each.due_s), max(end, each.done_s)
        seconds = sum(end - begin for begin, end in spans.values())
    return (len(answered) / seconds, tokens / seconds) if seconds > 0 else (0.0, 0.0)


def _split(answered: Sequence[Sample]) -> Split | None:
    if not answered:
        return None

    def told(name: str) -> float | None:
        said = [value for each in answered if (value := getattr(each, name)) is not None]
        return statistics.fmean(said) if len(said) == len(answered) else None

    whole = statistics.fmean(each.response_s for each in answered)
    waited = statistics.fmean(each.sent_s - each.due_s for each in answered)
    queue, work, total = told("server_queue_s"), told("server_work_s"), told("server_total_s")
    if work is None and total is not None:
        work = total - (queue or 0.0)
    inside = (queue or 0.0) + (work or 0.0)  # of its total the rest, reading and writing, is elsewhere: it all adds up
    return Split(
        client_queue_s=waited, server_queue_s=queue, server_work_s=work, elsewhere_s=max(0.0, whole - waited - inside)
    )


def summary(
    target: str,
    found: Sequence[Cell],
    *,
    usd_per_hour: float | None = None,
    usd_per_1m: float | None = None,
    price_source: str | None = None,
) -> Summary:
    """The published rows of one target. A price is by the hour, or by the million tokens."""
    sent, answered = sum(each.sent for each in found), sum(each.answered for each in found)
    some = [each for each in found if each.answered]
    rate = success_rate(answered, sent) if sent else None
    latency = _mean(each.response_s for each in some)
    measured = _mean(each.tokens_per_s for each in some)
    published = _mean(
        token_throughput(each.requests_per_s, each.tokens_per_request)
        for each in some
        if each.requests_per_s is not None and each.tokens_per_request is not None
    )
    peak = max((each for each in some if each.tokens_per_s), key=lambda each: each.tokens_per_s or 0.0, default=None)
    peak_rate = peak.tokens_per_s if peak else None
    at_mean = at_peak = usd_per_1m
    if usd_per_hour is not None:
        at_mean = usd_per_1m_tokens(usd_per_hour, measured) if measured else None
        at_peak = usd_per_1m_tokens(usd_per_hour, peak_rate) if peak_rate else None
    errors: Counter[str] = Counter()
    for each in found:
        errors.update(each.errors)
    return Summary(
        target=target,
        sent=sent,
        answered=answered,
        settings=len(found),
        settings_answered=len(some),
        success_rate=rate,
        success_ci=rate_ci(answered, sent),
        latency_s=latency,
        latency_normalized_s=normalized(latency, rate) if latency is not None and rate else None,
        tokens_per_s=measured,
        tokens_per_s_published=published,
        peak_tokens_per_s=peak_rate,
        peak_at=peak.setting if peak else None,
        usd_per_hour=usd_per_hour,
        usd_per_1m_tokens=at_mean,
        usd_per_1m_tokens_at_peak=at_peak,
        price_source=price_source,
        errors=dict(errors.most_common()),
    )


def success_by(found: Sequence[Cell], name: str) -> dict[int, float]:
    """Success rate by ``batch_size``, ``concurrency`` or ``passage_tokens``, over all requests that have it."""
    counts: dict[int, tuple[int, int]] = {}
    for each in found:
        if (value := getattr(each.setting, name)) is not None:
            answered, sent = counts.get(value, (0, 0))
            counts[value] = answered + each.answered, sent + each.sent
    return {value: success_rate(*counts[value]) for value in sorted(counts)}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
