"""
A run as one page: no script, no network, readable on a phone, light and dark.

Bars and heat maps are real tables, so what is seen can be read aloud; the curves are SVG, with their figures in a table
beneath. Every mark and cell says in ``data-key`` and ``data-value`` which figure of the JSON it shows. The published
figures stand beside as a reference, dashed and grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib.resources import files

from jina_sm.bench import published, report
from jina_sm.bench.metrics import Cell, Setting, success_by
from jina_sm.bench.report import number, seconds, share, usd
from jina_sm.bench.runs import Facts, Measured

COLOURS = 6
"""After which the colours begin again; the marks' shapes tell the rest apart."""
_SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class _Point:
    """One mark: where, the figure that it shows, and its interval."""

    x: float
    y: float
    key: str
    says: str
    low: float | None = None
    high: float | None = None
    top: float | None = None


@dataclass(frozen=True)
class _Line:
    name: str
    points: tuple[_Point, ...]
    colour: int | None
    """None: published."""


def page(measured: Measured) -> str:
    """The page of a run."""
    names = [each.name for each in measured.targets]
    head = f"""<p class="eyebrow">Benchmark</p><h1>{_many(names)}</h1>
<p class="lead">{len(measured.settings)} settings, {len(measured.samples):,} requests, {escape(measured.began_at[:16].replace("T", " "))} UTC,
in {_took(measured.took_s)}{f", for {measured.usd:.2f} USD" if measured.usd else ""}.
Beside it, dashed and grey: what Jina AI published on {published.figures()["date"]}.</p>"""
    if measured.ended != "complete":
        head += f'<p class="warning" role="status">Not complete: {escape(measured.ended)}.</p>'
    body = [
        head,
        _summary(measured),
        _latency(measured),
        _success(measured),
        _throughput(measured),
        _cost(measured),
        _split(measured),
        _everything(measured),
        _notes(measured),
    ]
    return _document(f"Benchmark of {', '.join(names)}", body)


def published_page() -> str:
    """The published comparison: its summary, its curves, and which figures do not follow from its tables."""
    told = published.figures()
    checks = published.reproduce()
    systems = published.SYSTEMS
    rows = [report.published_row(system) for system in systems]
    lines: dict[str, list[_Line]] = {}
    for number_, system in enumerate(systems):
        for shape, some in _by_shape(published.cells()[system]).items():
            points = tuple(_point(each, "") for each in some)
            lines.setdefault(shape, []).append(_Line(published.label(system), points, number_))
    misses = [each for each in checks if each.verdict != published.REPRODUCED]
    body = [
        f"""<p class="eyebrow">Benchmark</p><h1>The published comparison</h1><p class="lead">{escape(told["source"])}, {told["date"]}, of {told["model"]}.
Made again from its tables: {len(checks) - len(misses)} of {len(checks)} figures follow.</p>""",
        _section("summary", "Summary", "", _summary_table(rows, {row.name: place for place, row in enumerate(rows)})),
        _section(
            "latency",
            "Response time against callers at once",
            "Mean, in seconds. Each panel has a scale of its own.",
            _legend([(published.label(each), place) for place, each in enumerate(systems)], reference=False)
            + _panels(lines, "callers at once"),
        ),
        _section(
            "checks",
            "What does not follow",
            "Figures that the definitions, run over the guide's own tables, do not give exactly, and why.",
            _scroll(
                _table(
                    ("Figure", "System", "Published", "By the tables", "Why"),
                    [
                        (
                            escape(each.figure),
                            escape(published.label(each.system) if each.system in systems else each.system),
                            report.figure(each.published),
                            report.figure(each.computed),
                            f"{each.verdict}: {escape(each.why)}",
                        )
                        for each in misses
                    ],
                    words=(1, 4),
                )
            ),
        ),
    ]
    return _document("The published comparison", body)


def _document(title: str, body: Iterable[str]) -> str:
    style = files("jina_sm.bench").joinpath("page.css").read_text(encoding="utf-8")
    # Nothing is fetched, whatever the names of targets may be.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
{"".join(body)}
</main>
</body>
</html>
"""


def _section(identity: str, title: str, says: str, content: str) -> str:
    lead = f"<p>{says}</p>" if says else ""
    return f'<section id="{identity}" aria-labelledby="{identity}-h"><h2 id="{identity}-h">{title}</h2>{lead}{content}</section>'


# The summary


def _summary(measured: Measured) -> str:
    colours = {each.name: place for place, each in enumerate(measured.targets)}
    return _section("summary", "Summary", "", _summary_table(report.rows(measured), colours))


_COLUMNS: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("Success rate", "success_rate", share),
    ("Latency, s", "latency_s", seconds),
    ("&hellip; by success rate", "latency_normalized_s", seconds),
    ("Tokens/s", "tokens_per_s", number),
    ("Peak tokens/s", "peak_tokens_per_s", number),
    ("USD per 1M tokens", "usd_per_1m_tokens", usd),
    ("&hellip; at the peak", "usd_per_1m_tokens_at_peak", usd),
)


def _summary_table(rows: Sequence[report.Row], colours: dict[str, int] | None = None) -> str:
    head = "".join(f'<th scope="col">{title}</th>' for title, _, _ in _COLUMNS)
    lines = []
    for place, row in enumerate(rows):
        colour = (colours or {}).get(row.name)
        cells = "".join(
            _cell(
                report.latency(row, value) if shown is seconds else shown(value),
                "" if row.published else f"summaries.{place}.{name}",
                value,
            )
            for _, name, shown in _COLUMNS
            for value in (getattr(row, name),)
        )
        kind = ' class="reference"' if row.published else ""
        lines.append(f'<tr{kind}><th scope="row">{_key(colour)}{escape(row.name.strip())}</th>{cells}</tr>')
    return _scroll(
        f'<table class="figures"><thead><tr><th scope="col"><span class="off">System</span></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


# Latency against load


def _latency(measured: Measured) -> str:
    found = measured.cells
    lines: dict[str, list[_Line]] = {}
    for place, facts in enumerate(measured.targets):
        mine = [(index, each) for index, each in enumerate(found) if each.target == facts.name]
        for shape, some in _indexed_by_shape(mine).items():
            points = tuple(
                _point(each, f"cells.{index}.response_s") for index, each in some if each.response_s is not None
            )
            lines.setdefault(shape, []).append(_Line(facts.name, points, place))
    for system in dict.fromkeys(published.LIKE[each.kind] for each in measured.targets):
        for shape, drawn in lines.items():
            like = [
                _point(cell, "")
                for each in measured.settings
                if each.shape == shape and (cell := published.cell(system, each)) is not None
            ]
            if like:
                drawn.append(_Line(f"published {published.label(system)}", tuple(like), None))
    opened = any(each.arrivals != "closed" for each in measured.settings)
    names = [(each.name, place) for place, each in enumerate(measured.targets)]
    return _section(
        "latency",
        "Response time against load",
        "Mean with its 95 % interval over repetitions; the tick is p90, beyond which the slowest tenth lie. "
        "Counted from when a request was due. Each panel has a scale of its own.",
        _legend(names, reference=any(line.colour is None for some in lines.values() for line in some))
        + _panels(lines, "requests a second" if opened else "callers at once"),
    )


def _point(each: Cell, key: str) -> _Point:
    assert each.response_s is not None
    interval = each.response_ci
    who = each.target if key else f"published {published.label(each.target)}"
    return _Point(
        _load(each.setting),
        each.response_s,
        key,
        f"{who}, {each.setting}: {seconds(each.response_s)} s",
        interval.low if interval else None,
        interval.high if interval else None,
        each.p90_s,
    )


def _load(setting: Setting) -> float:
    if setting.arrivals == "ramp":
        return ((setting.rate or 0) + (setting.rate_to or 0)) / 2
    return setting.load or 0.0


def _by_shape(some: Iterable[Cell]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for each in sorted(some, key=lambda cell: _order(cell.setting)):
        found.setdefault(each.setting.shape, []).append(each)
    return found


def _indexed_by_shape(some: Sequence[tuple[int, Cell]]) -> dict[str, list[tuple[int, Cell]]]:
    found: dict[str, list[tuple[int, Cell]]] = {}
    for index, each in sorted(some, key=lambda pair: _order(pair[1].setting)):
        found.setdefault(each.setting.shape, []).append((index, each))
    return found


def _order(setting: Setting) -> tuple[float, float, float]:
    return (setting.batch_size or 0, setting.passage_tokens or 0, _load(setting))


def _panels(lines: dict[str, list[_Line]], axis: str) -> str:
    drawn = "".join(_panel(place, shape, some, axis) for place, (shape, some) in enumerate(lines.items()))
    return f'<div class="panels">{drawn}</div>'


_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 320, 210, 44, 12, 12, 38


def _panel(place: int, shape: str, lines: Sequence[_Line], axis: str) -> str:
    xs = [point.x for line in lines for point in line.points]
    tops = [
        value
        for line in lines
        for point in line.points
        for value in (point.y, point.high, point.top)
        if value is not None
    ]
    if not xs:
        return (
            f'<figure class="panel"><figcaption>{escape(_spoken(shape))}</figcaption>'
            '<p class="none">Nothing was answered.</p></figure>'
        )
    # An interval of two repetitions can be endless; it must not flatten the curve.
    most = max(point.y for line in lines for point in line.points)
    ticks = _ticks(min(max(tops), most * 2))
    high, left, right = ticks[-1], min(xs), max(xs)

    def x_of(value: float) -> float:
        if right == left:
            return (_LEFT + _WIDTH - _RIGHT) / 2
        inner = _WIDTH - _LEFT - _RIGHT - 28
        return _LEFT + 14 + inner * (value - left) / (right - left)

    def y_of(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * min(value, high) / high

    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y_of(tick):.1f}" y2="{y_of(tick):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{tick:g}{" s" * (tick == ticks[-1])}</text>'
        for tick in ticks
    ]
    parts += [
        f'<text class="tick" x="{x_of(value):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
        for value in sorted(set(xs))
    ]
    parts.append(
        f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">{axis}</text>'
    )
    for line in sorted(lines, key=lambda each: each.colour is not None):  # the reference beneath
        kind = "reference" if line.colour is None else f"c{line.colour % COLOURS}"
        path = " ".join(f"{x_of(point.x):.1f},{y_of(point.y):.1f}" for point in line.points)
        parts.append(f'<g class="line {kind}"><polyline points="{path}"/>')
        parts += [_mark(point, line.colour, x_of(point.x), y_of) for point in line.points]
        parts.append("</g>")
    said = "; ".join(
        f"{line.name}: " + ", ".join(f"{seconds(point.y)} s at {point.x:g}" for point in line.points) for line in lines
    )
    return (
        f'<figure class="panel"><figcaption>{escape(_spoken(shape))}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="p{place}-t p{place}-d">'
        f'<title id="p{place}-t">Response time in seconds against {axis}, {escape(_spoken(shape))}</title>'
        f'<desc id="p{place}-d">{escape(said)}</desc>{"".join(parts)}</svg></figure>'
    )


def _mark(point: _Point, colour: int | None, x: float, y_of: Callable[[float], float]) -> str:
    y = y_of(point.y)
    told = f' data-key="{point.key}" data-value="{point.y!r}"' if point.key else ""
    drawn = ""
    if point.low is not None and point.high is not None:
        drawn += (
            f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{y_of(point.low):.1f}" y2="{y_of(point.high):.1f}"/>'
        )
    if point.top is not None:
        top = y_of(point.top)
        drawn += f'<line class="top" x1="{x - 5:.1f}" x2="{x + 5:.1f}" y1="{top:.1f}" y2="{top:.1f}"/>'
    shape = "square" if colour is None else _SHAPES[colour % len(_SHAPES)]
    match shape:
        case "circle":
            drawn += f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4"{told}><title>{escape(point.says)}</title></circle>'
        case _:
            drawn += f'<path class="mark" d="{_path(shape, x, y)}"{told}><title>{escape(point.says)}</title></path>'
    return drawn


def _path(shape: str, x: float, y: float) -> str:
    corners = {
        "square": ((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)),
        "triangle": ((0, -4.8), (4.6, 3.6), (-4.6, 3.6)),
        "diamond": ((0, -5), (5, 0), (0, 5), (-5, 0)),
    }[shape]
    return "M" + " L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners) + " Z"


def _ticks(most: float) -> list[float]:
    """Round numbers from 0 to at least ``most``, four to six of them."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= rough * 0.999)
    count = math.ceil(most / step - 1e-9)
    return [round(step * each, 10) for each in range(count + 1)]


# Success


def _success(measured: Measured) -> str:
    found = measured.cells
    settings = sorted(measured.settings, key=_order)
    shapes = list(dict.fromkeys(each.shape for each in settings))
    loads = list(dict.fromkeys(each.offered for each in sorted(settings, key=_load)))
    maps = []
    for place, facts in enumerate(measured.targets):
        rows = []
        for shape in shapes:
            cells = []
            for offered in loads:
                here = next(
                    (
                        (index, each)
                        for index, each in enumerate(found)
                        if (each.target, each.setting.shape, each.setting.offered) == (facts.name, shape, offered)
                    ),
                    None,
                )
                if here is None:
                    cells.append('<td class="none">&ndash;</td>')
                    continue
                index, each = here
                why = ", ".join(f"{count} {kind}" for kind, count in each.errors.items())
                says = f"{each.answered} of {each.sent} answered" + (f"; {why}" if why else "")
                cells.append(
                    f'<td class="{_heat(each.success_rate)}" data-key="cells.{index}.success_rate" '
                    f'data-value="{each.success_rate!r}" title="{escape(says)}">{share(each.success_rate)}</td>'
                )
            rows.append(f'<tr><th scope="row">{escape(shape)}</th>{"".join(cells)}</tr>')
        head = "".join(f'<th scope="col">{escape(each)}</th>' for each in loads)
        maps.append(
            f'<figure class="heat"><figcaption>{_key(place)}{escape(facts.name)}</figcaption>'
            + _scroll(
                f'<table class="heatmap"><thead><tr><th scope="col">texts x tokens</th>{head}</tr></thead>'
                f"<tbody>{''.join(rows)}</tbody></table>"
            )
            + "</figure>"
        )
    return _section(
        "success",
        "Success",
        "The share of requests that were answered, and answered right. Nothing is retried.",
        f'<div class="maps">{"".join(maps)}</div>' + _published_success(measured),
    )


def _heat(rate: float) -> str:
    """The class of a share: what is not perfect stands out, and the more the less it is."""
    for step, least in enumerate((1.0, 0.99, 0.95, 0.8, 0.5)):
        if rate >= least:
            return f"h{step}"
    return "h5"


def _published_success(measured: Measured) -> str:
    """By one dimension at a time, which is how the guide gives it."""
    told = published.figures()
    likes = list(dict.fromkeys(published.LIKE[each.kind] for each in measured.targets))
    tables = []
    for title, name, key in (
        ("Texts in a request", "batch_size", "success_rate_by_batch_size"),
        ("Callers at once", "concurrency", "success_rate_by_concurrency"),
        ("Tokens in a text", "passage_tokens", "success_rate_by_passage_tokens"),
    ):
        mine = {
            facts.name: success_by([each for each in measured.cells if each.target == facts.name], name)
            for facts in measured.targets
        }
        values = sorted({value for some in mine.values() for value in some} | {int(value) for value in told[key]})
        rows = []
        for value in values:
            own = [share(some.get(value)) for some in mine.values()]
            theirs = [share(told[key].get(str(value), {}).get(system)) for system in likes]
            rows.append((f"{value:,}", *own, *theirs))
        head = (title, *map(escape, mine), *(escape(f"published {published.label(each)}") for each in likes))
        tables.append(_scroll(_table(head, rows)))
    return f"<details><summary>By one dimension at a time, beside the published</summary>{''.join(tables)}</details>"


# Throughput, cost, where the time went


@dataclass(frozen=True)
class _Bar:
    name: str
    value: float | None
    shown: str
    colour: int | None
    key: str = ""


def _bars(groups: Sequence[tuple[str, Sequence[_Bar]]]) -> str:
    """Bars of one scale, in a table: a row a bar, a heading a group."""
    most = max((bar.value or 0 for _, bars in groups for bar in bars), default=0) or 1
    rows = []
    for title, bars in groups:
        if title:
            rows.append(f'<tr class="group"><th scope="rowgroup" colspan="3">{escape(title)}</th></tr>')
        for bar in bars:
            kind = "reference" if bar.colour is None else f"c{bar.colour % COLOURS}"
            told = f' data-key="{bar.key}" data-value="{bar.value!r}"' if bar.key and bar.value is not None else ""
            width = 0 if bar.value is None else 100 * bar.value / most
            rows.append(
                f'<tr><th scope="row">{escape(bar.name)}</th><td class="value"{told}>{bar.shown}</td>'
                f'<td class="bar"><span class="{kind}" style="width:{width:.2f}%"></span></td></tr>'
            )
    return _bar_table(rows)


def _bar_table(rows: Sequence[str]) -> str:
    columns = '<col class="name"><col class="value"><col>'
    return f'<table class="bars"><colgroup>{columns}</colgroup><tbody>{"".join(rows)}</tbody></table>'


def _throughput(measured: Measured) -> str:
    found = measured.cells
    groups = []
    for setting in _heaviest(measured):
        bars = [
            _Bar(
                each.target,
                each.tokens_per_s,
                number(each.tokens_per_s),
                _place(measured, each.target),
                f"cells.{index}.tokens_per_s",
            )
            for index, each in enumerate(found)
            if each.setting == setting
        ]
        for system in dict.fromkeys(published.LIKE[each.kind] for each in measured.targets):
            if (value := _published_tokens(system, setting)) is not None:
                bars.append(_Bar(f"published {published.label(system)}", value, number(value), None))
        groups.append((f"{_spoken(setting.shape)}, {setting.offered}", bars))
    return _section(
        "throughput",
        "Token throughput at the highest load",
        "Tokens read a second, as the endpoint counts them; failures give none, and their time counts. The guide publishes "
        "two of these settings, 32 x 512 and 128 x 128 at 10 at once, in tokens that it counts otherwise.",
        f'<figure class="chart">{_bars(groups)}</figure>',
    )


def _published_tokens(system: str, setting: Setting) -> float | None:
    for row in published.figures()["token_throughput_at_concurrency_10_16384_tokens_per_request"]:
        if (row["batch_size"], row["passage_tokens"]) == (
            setting.batch_size,
            setting.passage_tokens,
        ) and setting.concurrency == 10:
            return float(row[system])
    return None


def _heaviest(measured: Measured) -> list[Setting]:
    """Of each shape of request the setting with the most load."""
    best: dict[str, Setting] = {}
    for each in sorted(measured.settings, key=_order):
        best[each.shape] = each
    return list(best.values())


def _cost(measured: Measured) -> str:
    bars, unknown = [], []
    for place, each in enumerate(measured.summaries):
        if each.usd_per_1m_tokens is None:
            unknown.append(each.target)
            continue
        key = f"summaries.{place}.usd_per_1m_tokens"
        mean = f"{each.target}, at its mean throughput" if each.usd_per_hour is not None else each.target
        bars.append(_Bar(mean, each.usd_per_1m_tokens, usd(each.usd_per_1m_tokens), place, key))
        if each.usd_per_hour is not None:
            value = each.usd_per_1m_tokens_at_peak
            bars.append(_Bar(f"{each.target}, at its peak", value, usd(value), place, f"{key}_at_peak"))
    for system in published.SYSTEMS:
        value = published.figures()["summary"]["price_usd_per_1m_tokens"][system]
        bars.append(_Bar(f"published {published.label(system)}", value, usd(value), None))
    says = "USD, if it were always this busy. An idle hour costs the same as a busy one, so a real load costs more."
    prices = "; ".join(
        f"{escape(each.name)}: "
        + (
            f"{each.usd_per_hour:g} USD an hour ({escape(each.price_source or '')})"
            if each.usd_per_hour is not None
            else f"{each.usd_per_1m_tokens:g} USD per 1M tokens ({escape(each.price_source or '')})"
        )
        for each in measured.targets
        if each.usd_per_hour is not None or each.usd_per_1m_tokens is not None
    )
    after = f'<p class="small">{prices}.</p>' if prices else ""
    if unknown:
        after += f'<p class="small">No price was given for {escape(", ".join(unknown))}.</p>'
    return _section(
        "cost", "Cost of a million tokens", says, f'<figure class="chart">{_bars([("", bars)])}</figure>{after}'
    )


_PARTS = (
    ("client_queue_s", "waited here to be sent"),
    ("elsewhere_s", "network, and what the server keeps to itself"),
    ("server_queue_s", "queue of the server"),
    ("server_work_s", "work of the server"),
)


def _split(measured: Measured) -> str:
    found = measured.cells
    rows, told = [], False
    for setting in _heaviest(measured):
        rows.append(
            f'<tr class="group"><th scope="rowgroup" colspan="3">{escape(_spoken(setting.shape))}, {escape(setting.offered)}</th></tr>'
        )
        for index, each in enumerate(found):
            if each.setting != setting or each.split is None or not each.response_s:
                continue
            spans, words = [], []
            for place, (name, title) in enumerate(_PARTS):
                if (value := getattr(each.split, name)) is None:
                    continue
                told = told or name.startswith("server")
                words.append(f"{title} {seconds(value)} s")
                spans.append(
                    f'<span class="part{place}" style="width:{100 * value / each.response_s:.2f}%" '
                    f'data-key="cells.{index}.split.{name}" data-value="{value!r}"></span>'
                )
            rows.append(
                f'<tr><th scope="row">{escape(each.target)}</th><td class="value">{seconds(each.response_s)} s</td>'
                f'<td class="bar stacked" title="{escape("; ".join(words))}">{"".join(spans)}'
                f'<span class="off">{escape("; ".join(words))}</span></td></tr>'
            )
    waited = [each.split.client_queue_s / each.response_s for each in found if each.split and each.response_s]
    if not told and max(waited, default=0) < 0.01:
        return _section(
            "split",
            "Where the time went",
            "No request waited here to be sent, and no server told of its own time: a Server-Timing header would.",
            "",
        )
    legend = "".join(
        f'<li><span class="swatch part{place}"></span>{title}</li>' for place, (_, title) in enumerate(_PARTS)
    )
    silent = "" if told else " No server told of its own time: a Server-Timing header would."
    return _section(
        "split",
        "Where the time went",
        f"The mean response time at the highest load, in its parts.{silent}",
        f'<ul class="legend">{legend}</ul><figure class="chart">{_bar_table(rows)}</figure>',
    )


# Everything


def _everything(measured: Measured) -> str:
    head = (
        "Target", "Request", "Load", "Answered", "Mean, s", "95 %", "p50", "p90", "p99", "Slowest", "Requests/s",
        "Tokens/s", "Published",
    )  # fmt: skip
    kinds = {each.name: each.kind for each in measured.targets}
    rows = []
    for index, each in enumerate(measured.cells):
        like = published.cell(published.LIKE[kinds[each.target]], each.setting)
        interval = each.response_ci
        between = f"{seconds(interval.low)}&ndash;{seconds(interval.high)}" if interval else "-"
        key = f"cells.{index}"
        rows.append(
            f'<tr><th scope="row">{escape(each.target)}</th><td class="word">{escape(each.setting.shape)}</td>'
            f'<td class="word">{escape(each.setting.offered)}</td>'
            + _cell(f"{each.answered}/{each.sent}", f"{key}.answered", each.answered)
            + _cell(seconds(each.response_s), f"{key}.response_s", each.response_s)
            + f"<td>{between}</td>"
            + "".join(
                _cell(seconds(value := getattr(each, name)), f"{key}.{name}", value)
                for name in ("p50_s", "p90_s", "p99_s", "max_s")
            )
            + _cell(number(each.requests_per_s), f"{key}.requests_per_s", each.requests_per_s)
            + _cell(number(each.tokens_per_s), f"{key}.tokens_per_s", each.tokens_per_s)
            + f'<td class="reference">{seconds(like.response_s if like else None)}</td></tr>'
        )
    titles = "".join(
        f'<th scope="col"{" class=word" if place in (1, 2) else ""}>{title}</th>' for place, title in enumerate(head)
    )
    return _section(
        "figures",
        "All figures",
        "A percentile is told of enough requests to have one: p99 of a hundred, p90 of ten.",
        _scroll(f'<table class="figures"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table>'),
    )


def _notes(measured: Measured) -> str:
    asked = measured.asked
    about = "".join(
        f"<li><b>{escape(each.name)}</b> {escape(each.target)}{_said(each)}</li>" for each in measured.targets
    )
    machine = measured.environment
    versions = ", ".join(f"{escape(name)} {escape(said)}" for name, said in measured.versions.items())
    averages = machine.get("load_average")
    load = averages[0] if isinstance(averages, list | tuple) and averages else None
    return _section(
        "notes",
        "How it was measured",
        "",
        f"""<ul class="notes">{about}
<li>{escape(str(asked.get("repetitions")))} repetitions, settings in another order each time, targets by turns within a setting,
never two at once. Intervals are Student's t over repetitions.</li>
<li>Failed requests: in the success rate's denominator; not in latency or percentiles; in throughput and cost they give
nothing, and their time counts. Requests a second are callers over mean response time, as published.</li>
<li>One request is one sample: nothing is shared, packed, retried or hedged. A wrong answer is a failure.</li>
<li>Asked from {escape(str(machine.get("system")))} {escape(str(machine.get("machine")))}, {escape(str(machine.get("cpus")))} CPUs{f", load average {escape(str(load))}" if load else ""};
{versions}.</li>
<li>Published: {escape(published.figures()["source"])}, {published.figures()["date"]}, of {escape(published.figures()["model"])};
{"; ".join(f"{escape(each['label'])} {escape(each['where'])}" for each in published.figures()["systems"].values())}.</li></ul>""",
    )


def _said(facts: Facts) -> str:
    found = report.notes(facts)
    return f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in found)}</ul>" if found else ""


# Small things


def _cell(shown: str, key: str, value: float | None) -> str:
    told = f' data-key="{key}" data-value="{value!r}"' if key and value is not None else ""
    return f"<td{told}>{shown}</td>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[int] = ()) -> str:
    titles = "".join(
        f"<th scope=col{' class=long' if place in words else ''}>{title}</th>" for place, title in enumerate(head)
    )
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{' class=long' if place in words else ''}>{cell}</td>" for place, cell in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    )
    return f'<table class="figures"><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>'


def _scroll(content: str) -> str:
    return f'<div class="scroll" tabindex="0">{content}</div>'


def _legend(names: Sequence[tuple[str, int]], *, reference: bool) -> str:
    found = "".join(f"<li>{_key(place)}{escape(name)}</li>" for name, place in names)
    return f'<ul class="legend">{found}{f"<li>{_key(None)}published</li>" if reference else ""}</ul>'


def _key(colour: int | None) -> str:
    """The mark of a target, as in the plots."""
    kind = "reference" if colour is None else f"c{colour % COLOURS}"
    shape = "square" if colour is None else _SHAPES[colour % len(_SHAPES)]
    mark = (
        '<circle class="mark" cx="8" cy="8" r="4.5"/>'
        if shape == "circle"
        else f'<path class="mark" d="{_path(shape, 8, 8)}"/>'
    )
    return f'<svg class="key line {kind}" viewBox="0 0 16 16" aria-hidden="true">{mark}</svg>'


def _place(measured: Measured, target: str) -> int:
    return [each.name for each in measured.targets].index(target)


def _spoken(shape: str) -> str:
    batch, _, length = shape.partition(" x ")
    texts = "1 text" if batch == "1" else f"{batch} texts"
    return f"{texts} of {length} tokens" if length.isdecimal() else f"{texts}, {length}"


def _many(names: Sequence[str]) -> str:
    return escape(" and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names))


def _took(value: float) -> str:
    return f"{value:.0f} s" if value < 100 else f"{value / 60:.0f} min"


def figures(measured: Measured) -> dict[str, object]:
    """What ``data-key`` points into."""
    return {
        "cells": [asdict(each) for each in measured.cells],
        "summaries": [asdict(each) for each in measured.summaries],
    }
