"""
What a run came to: as JSON with its schema, and as a table on a terminal.

The JSON has everything: what was asked, of whom and from where, every sample as it was measured, and the figures made
of them. A report is made again from it at any time; the figures are then computed anew from the samples.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from jina_sm.bench import metrics, published
from jina_sm.bench.metrics import Cell, Interval, Sample, Setting, Summary
from jina_sm.bench.runs import Facts, Measured
from jina_sm.errors import InputError

FORMAT: Literal["jina-sm/bench/1"] = "jina-sm/bench/1"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The samples, field by field, all of one length. Seconds are as measured, on the endpoint's time scale."""

    target: tuple[str, ...]
    setting: tuple[int, ...]
    repetition: tuple[int, ...]
    number: tuple[int, ...]
    due_s: tuple[float, ...]
    sent_s: tuple[float, ...]
    done_s: tuple[float, ...]
    decode_s: tuple[float, ...]
    texts: tuple[int, ...]
    tokens: tuple[int, ...]
    warm_up: tuple[bool, ...]
    error: tuple[str | None, ...]
    status: tuple[int | None, ...]
    server_queue_s: tuple[float | None, ...]
    server_work_s: tuple[float | None, ...]
    server_total_s: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """The JSON of a run. ``summaries`` and ``cells`` follow from the rest."""

    format: Literal["jina-sm/bench/1"]
    began_at: str
    took_s: float
    ended: str
    usd: float | None
    asked: dict[str, Any]
    environment: dict[str, Any]
    versions: dict[str, str]
    settings: tuple[Setting, ...]
    targets: tuple[Facts, ...]
    summaries: tuple[Summary, ...]
    cells: tuple[Cell, ...]
    samples: Columns


_FIELDS = tuple(each.name for each in dataclasses.fields(Sample))


def document(measured: Measured) -> Document:
    return Document(
        format=FORMAT,
        began_at=measured.began_at,
        took_s=measured.took_s,
        ended=measured.ended,
        usd=measured.usd,
        asked=dict(measured.asked),
        environment=dict(measured.environment),
        versions=dict(measured.versions),
        settings=measured.settings,
        targets=measured.targets,
        summaries=tuple(measured.summaries),
        cells=tuple(measured.cells),
        samples=Columns(**{name: tuple(getattr(each, name) for each in measured.samples) for name in _FIELDS}),
    )


def encoded(measured: Measured) -> bytes:
    """The JSON."""
    return orjson.dumps(document(measured), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)


def schema() -> dict[str, Any]:
    """The JSON Schema of it."""
    from pydantic import TypeAdapter

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run of jina-sm bench",
        **TypeAdapter(Document).json_schema(mode="serialization"),
    }


def read(source: str) -> Measured:
    """A run from its JSON. Raises InputError that says what is wrong, and where."""
    from pydantic import TypeAdapter, ValidationError

    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"{source!r} cannot be read: {error.strerror or error}") from None
    try:
        found = TypeAdapter(Document).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(each) for each in first["loc"])
        raise InputError(
            f"{source!r} is no run of `jina-sm bench run`: {where and where + ': '}{first['msg']}",
            cure="It writes one with --output.",
        ) from None
    columns = [getattr(found.samples, name) for name in _FIELDS]
    if len({len(each) for each in columns}) > 1:
        raise InputError(f"{source!r}: the columns of samples have different lengths")
    samples = tuple(Sample(**dict(zip(_FIELDS, row, strict=True))) for row in zip(*columns, strict=True))
    names = {each.name for each in found.targets}
    for each in samples:
        if not 0 <= each.setting < len(found.settings) or each.target not in names:
            raise InputError(f"{source!r}: a sample is of a setting or a target that is not there")
    return Measured(
        began_at=found.began_at,
        took_s=found.took_s,
        ended=found.ended,
        usd=found.usd,
        asked=found.asked,
        environment=found.environment,
        versions=found.versions,
        settings=found.settings,
        targets=found.targets,
        samples=samples,
    )


def response_times(measured: Measured, target: str | None = None) -> list[dict[str, float]]:
    """The response curve of one target: its closed loops' rows of batch, tokens (as counted), concurrency and mean_s.

    What a model of response times is fitted to. Raises InputError unless it is clear which target is meant.
    """
    names = [each.name for each in measured.targets]
    if (target is None and len(names) != 1) or (target is not None and target not in names):
        raise InputError(f"the run has the targets {', '.join(names)}", cure="Name one of them.")
    return [
        {
            "batch": each.setting.batch_size,
            "tokens": round(each.tokens_per_request / each.setting.batch_size, 3),
            "concurrency": each.setting.concurrency,
            "mean_s": each.response_s,
        }
        for each in measured.cells
        if each.target == (target or names[0])
        and each.setting.batch_size
        and each.setting.concurrency
        and each.response_s is not None
        and each.tokens_per_request
    ]


Tell = Callable[[str], None]
_HEAD = ("", "SUCCESS", "SECONDS", "/RATE", "TOKENS/S", "PEAK", "USD/1M", "PEAK")


def table(measured: Measured, tell: Tell) -> None:
    """The summary and the grid, in 80 columns."""
    _columns(
        _HEAD,
        [_summed(each) for each in rows(measured)],
        tell,
    )
    tell(f"Published: {published.figures()['date']}, its tokens counted otherwise. /RATE: over success rate.")
    tell("PEAK, and its USD per 1M tokens: at the setting with the most tokens a second.")
    for facts in measured.targets:
        found = [each for each in measured.cells if each.target == facts.name]
        tell("")
        tell(f"{facts.name}: {facts.target}")
        for line in notes(facts):
            for part in textwrap.wrap(line, 78, break_long_words=False, break_on_hyphens=False):
                tell(f"  {part}")
        _columns(
            ("REQUEST", "LOAD", "SUCCESS", "MEAN S", "P90 S", "P99 S", "TOKENS/S", "PUBLISHED"),
            [_line(each, published.LIKE[facts.kind]) for each in found],
            tell,
        )


def notes(facts: Facts) -> list[str]:
    """What a reader of a target's figures has to know."""
    found = []
    if facts.time_scale != 1:
        found.append(
            f"plays a slower endpoint {1 / facts.time_scale:.3g} times as fast: times and rates are that one's, "
            "and this machine's own work is stretched with them"
        )
    off = {length: tokens for length, tokens in facts.lengths.items() if int(length) != tokens}
    if off:
        found.append("a passage's tokens: " + ", ".join(f"{length} is {tokens}" for length, tokens in off.items()))
    if facts.counted_by != "endpoint":
        how = "the tokenizer" if facts.counted_by == "tokenizer" else "an estimate"
        found.append(f"its answers say no tokens: they are counted by {how}")
    if facts.stand_in:
        found.append("a stand-in answered: its speed is not the model's")
    if facts.given_up:
        found.append(f"given up: {facts.given_up}")
    for kind, message in facts.first_errors.items():
        found.append(f"{kind}, the first: {message}")
    return found


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the summary: of a target, or of what is published."""

    name: str
    published: bool = False
    success_rate: float | None = None
    latency_s: float | None = None
    latency_normalized_s: float | None = None
    tokens_per_s: float | None = None
    peak_tokens_per_s: float | None = None
    usd_per_1m_tokens: float | None = None
    usd_per_1m_tokens_at_peak: float | None = None


def rows(measured: Measured) -> list[Row]:
    """The targets', then of each published system that is like one of them: all of its grid, and the settings asked.

    Means over other settings say nothing of each other, so the second is there wherever it is not the first.
    """
    found = [
        Row(
            name=each.target,
            success_rate=each.success_rate,
            latency_s=each.latency_s,
            latency_normalized_s=each.latency_normalized_s,
            tokens_per_s=each.tokens_per_s,
            peak_tokens_per_s=each.peak_tokens_per_s,
            usd_per_1m_tokens=each.usd_per_1m_tokens,
            usd_per_1m_tokens_at_peak=each.usd_per_1m_tokens_at_peak,
        )
        for each in measured.summaries
    ]
    likes = list(dict.fromkeys(published.LIKE[each.kind] for each in measured.targets)) or list(published.SYSTEMS)
    for system in likes:
        found.append(published_row(system))
        same = [like for each in measured.settings if (like := published.cell(system, each))]
        if same:
            mean_s = metrics.summary(system, same).latency_s
            found.append(Row(name="  ... these settings", published=True, latency_s=mean_s))
    return found


def published_row(system: str) -> Row:
    """The published summary of a system."""
    told: Any = {key: values[system] for key, values in published.figures()["summary"].items()}
    return Row(
        name=f"published {published.label(system)}",
        published=True,
        success_rate=told["request_success_rate"],
        latency_s=told["latency_s"],
        latency_normalized_s=told["latency_normalized_by_success_rate_s"],
        tokens_per_s=told["token_throughput_tokens_per_s"],
        peak_tokens_per_s=told["peak_token_throughput_tokens_per_s"],
        usd_per_1m_tokens=told["price_usd_per_1m_tokens"],
    )


def published_table(tell: Tell) -> None:
    """The published summary."""
    _columns(
        _HEAD,
        [_summed(replace(published_row(system), name=published.label(system))) for system in published.SYSTEMS],
        tell,
    )


def latency(each: Row, value: float | None) -> str:
    """Of a published row as it was published: to a tenth."""
    return f"{value:.1f}" if each.published and each.success_rate is not None and value is not None else seconds(value)


def _summed(each: Row) -> tuple[str, ...]:
    return (
        each.name,
        share(each.success_rate),
        latency(each, each.latency_s),
        latency(each, each.latency_normalized_s),
        number(each.tokens_per_s),
        number(each.peak_tokens_per_s),
        usd(each.usd_per_1m_tokens),
        usd(each.usd_per_1m_tokens_at_peak),
    )


def _line(each: Cell, system: str) -> tuple[str, ...]:
    like = published.cell(system, each.setting)
    return (
        each.setting.shape,
        each.setting.offered,
        share(each.success_rate),
        seconds(each.response_s) + plus_minus(each.response_ci),
        seconds(each.p90_s),
        seconds(each.p99_s),
        number(each.tokens_per_s),
        seconds(like.response_s if like else None),
    )


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def plus_minus(interval: Interval | None) -> str:
    """Half the width of an interval, with the digits of the mean that it stands beside."""
    if interval is None:
        return ""
    return f" ±{(interval.high - interval.low) / 2:.{3 if interval.high + interval.low < 20 else 1}f}"


def share(value: float | None) -> str:
    """Never rounded up to all."""
    if value is None:
        return "-"
    return "100 %" if value == 1 else f"{min(100 * value, 99.9):.1f} %"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def usd(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _columns(head: Sequence[str], found: Sequence[Sequence[str]], tell: Tell) -> None:
    lines = [list(head), *([*row] for row in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        first, *rest = line
        padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        tell("  ".join(padded).rstrip())


def figure(value: float | None) -> str:
    """As it would be printed, with four digits or more, and never as a power of ten."""
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def checks(found: Sequence[published.Check], tell: Tell) -> None:
    """Which published figures follow from the published tables; of those that do, only how many."""
    fits: Mapping[str, int] = {
        verdict: sum(each.verdict == verdict for each in found)
        for verdict in (published.REPRODUCED, published.ROUNDED, published.DIFFERS)
    }
    tell(", ".join(f"{count} {verdict}" for verdict, count in fits.items()))
    for each in found:
        if each.verdict != published.REPRODUCED:
            tell(f"{each.figure}, {published.label(each.system) if each.system in published.SYSTEMS else each.system}")
            line = (
                f"published {figure(each.published)}, by the tables {figure(each.computed)}: {each.verdict}. {each.why}"
            )
            for part in textwrap.wrap(line + each.why, 78):
                tell(f"  {part}")
