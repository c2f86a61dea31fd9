"""Measuring, from the command line."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import show
from jina_sm.cli.deployment import profile_option, session_for
from jina_sm.errors import InputError

if TYPE_CHECKING:
    from jina_sm.bench.endpoint import Endpoint
    from jina_sm.bench.metrics import Setting
    from jina_sm.bench.plan import Forecast, Plan
    from jina_sm.bench.runs import Measured, Progress


@click.group()
def bench() -> None:
    """Measure any deployment, beside the published figures."""


def _whole(context: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """``1,32,128``."""
    if value is None:
        return ()
    if not re.fullmatch(r"\d{1,7}(,\d{1,7})*", value):
        raise click.BadParameter(f"{value!r} is not whole numbers such as 1,32,128")
    return tuple(int(each) for each in value.split(","))


def _rates(context: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    """``5,10,20`` or ``0.5``."""
    if value is None:
        return ()
    if not re.fullmatch(r"\d+(\.\d+)?(,\d+(\.\d+)?)*", value):
        raise click.BadParameter(f"{value!r} is not rates such as 5,10,20")
    return tuple(float(each) for each in value.split(","))


def _seconds(context: click.Context, param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", value)
    if not match:
        raise click.BadParameter(f"{value!r} is not a duration such as 30s, 500ms or 2m")
    return float(match[1]) * {"ms": 0.001, "m": 60.0, "h": 3600.0}.get(match[2], 1.0)


def _apart(context: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str | None, float]:
    """``3.9``, for every target, or ``NAME=3.9``."""
    found: dict[str | None, float] = {}
    for each in value:
        name, _, said = each.rpartition("=")
        try:
            found[name or None] = float(said)
        except ValueError:
            raise click.BadParameter(f"{each!r} is neither a number nor NAME=NUMBER") from None
        if not 0 < found[name or None] < 1e9:
            raise click.BadParameter(f"{each!r} is not more than 0")
    return found


@bench.command()
@click.option(
    "--target", "-t", "targets", multiple=True, required=True, metavar="[NAME=]TARGET",
    help="sagemaker://REGION/ENDPOINT?model=KEY, jina-api://?model=KEY or http(s)://HOST?model=KEY; they take turns.",
)  # fmt: skip
@click.option("--batch", callback=_whole, metavar="N,...", help="Texts in a request. Default: 1,32,128 as published.")
@click.option(
    "--tokens", metavar="N,...|DISTRIBUTION",
    help="Tokens in a text (default: 128,512,1024 as published), uniform:16-512 or lognormal:MEDIAN,SIGMA.",
)  # fmt: skip
@click.option("--concurrency", callback=_whole, metavar="N,...", help="Callers at once. Default: 1,5,10 as published.")
@click.option("--rate", callback=_rates, metavar="N,...", help="Open loop: requests a second, whatever comes back.")
@click.option(
    "--arrivals", type=click.Choice(["poisson", "constant"]), default="poisson", show_default=True, help="Of --rate."
)
@click.option("--ramp", metavar="FROM-TO", help="Open loop: from so many requests a second to so many.")
@click.option("--workload", metavar="FILE", help='.jsonl, a request a line: {"texts": ["..."], "at_s": 0.25}.')
@click.option("--texts", metavar="FILE", help='Own texts: .txt with a text a line, or .jsonl with a "text" a line.')
@click.option("--repetitions", type=click.IntRange(1, 1000), default=5, show_default=True, help="Of every setting.")
@click.option("--requests", type=click.IntRange(1), help="Measured in a repetition. Default: three of each caller.")
@click.option("--duration", callback=_seconds, metavar="TIME", help="Of a repetition, instead or as well: 30s, 2m.")
@click.option("--warm-up", type=click.IntRange(0), help="Not measured in a repetition. Default: one of each caller.")
@click.option("--max-in-flight", type=click.IntRange(1, 4096), default=256, show_default=True, help="Of an open loop.")
@click.option("--max-usd", type=float, metavar="USD", help="Stop before more is spent, by the prices known.")
@click.option(
    "--max-failures", type=click.IntRange(1), default=50, show_default=True,
    help="Give a target up after so many in a row.",
)  # fmt: skip
@click.option("--max-failed-share", type=float, metavar="SHARE", help="... or at this share of the last 100 requests.")
@click.option("--usd-per-hour", multiple=True, callback=_apart, metavar="[NAME=]USD", help="Instead of what AWS says.")
@click.option("--usd-per-1m-tokens", multiple=True, callback=_apart, metavar="[NAME=]USD", help="Of an API.")
@click.option(
    "--time-scale", multiple=True, callback=_apart, metavar="[NAME=]X", help="Of an endpoint that plays another."
)
@click.option(
    "--token-factor",
    type=float,
    default=1.0,
    help="Tokens of a passage for one in its name. The guide's seem to have 0.565.",
)
@click.option(
    "--tokenizer", metavar="FILE", help="The model's tokenizer.json; else the endpoint's own counts are used."
)
@click.option("--api-key-env", metavar="NAME", help="The variable with the key of http(s) targets.")
@click.option("--task", help="As the model knows it. Default: its own.")
@click.option("--dimensions", type=int, help="Of each vector. Default: all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of texts, arrivals and the order of settings.")
@click.option("--output", "-o", metavar="FILE", help="The JSON. Default: bench-DATE-TIME.json here.")
@click.option("--html", metavar="FILE", help="The page, too.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be asked, and stop.")
@profile_option
@show.yes_option
@show.json_option
def run(
    targets: tuple[str, ...],
    output: str | None,
    html: str | None,
    only_plan: bool,
    yes: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Ask targets as the published benchmark did, and report.

    Targets take turns within every setting, so that they can be compared. Ctrl-C ends a run; what was measured is kept.
    """
    from jina_sm.bench import report, runs
    from jina_sm.bench.plan import forecast

    plan = _plan(asked)
    endpoints = _endpoints(targets, plan, asked)
    with contextlib.ExitStack() as closing:
        for each in endpoints:
            closing.callback(each.transport.close)
        foreseen = forecast(endpoints, plan)
        _say_plan(endpoints, plan, foreseen)
        if only_plan:
            return show.json(_plain(foreseen)) if as_json else None
        out = output or time.strftime("bench-%Y%m%d-%H%M%S.json")
        for name, file in (("--output", out), ("--html", html)):
            _check_writable(name, file)
        if any(each.billed and each.kind != "http" for each in endpoints):
            price = "at a cost that is not known" if foreseen.usd is None else f"for about {foreseen.usd:.2f} USD"
            show.confirm(f"Send {foreseen.requests:,} requests {price}?", yes)
        measured = runs.run(endpoints, plan, on_progress=_told())
    out = _kept(out, report.encoded(measured))
    show.say(f"{out}: {len(measured.samples):,} samples; `jina-sm bench report {out} --html FILE` makes the page")
    _made(measured, html)
    _shown(measured, as_json)
    if measured.ended != "complete":
        show.say(f"not complete: {measured.ended}")
        raise click.exceptions.Exit(130 if measured.ended == "interrupted" else 1)
    return None


@bench.command(name="report")
@click.argument("source", metavar="[RESULTS.json]", required=False)
@click.option("--html", metavar="FILE", help="Write the page.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of results instead.")
@click.option("--rows", is_flag=True, help="Print the response curve instead: batch, tokens, concurrency, mean_s.")
@click.option("--of", "target", metavar="NAME", help="Whose --rows, where a run has several targets.")
@show.json_option
def report_(source: str | None, html: str | None, schema: bool, rows: bool, target: str | None, as_json: bool) -> None:
    """Show a run again, its figures made anew from its samples."""
    from jina_sm.bench import report

    if schema:
        return show.json(report.schema())
    if source is None:
        raise click.UsageError("Missing argument 'RESULTS.json'.")
    if target is not None and not rows:
        raise click.UsageError("--of is for --rows.")
    measured = report.read(source)
    if rows:
        return show.json({"rows": report.response_times(measured, target)})
    _check_writable("--html", html)
    _made(measured, html)
    return _shown(measured, as_json)


@bench.command()
@click.argument("before", metavar="BEFORE.json")
@click.argument("after", metavar="AFTER.json")
@click.option("--at-least", type=float, default=0.05, show_default=True, help="The share that counts as a change.")
@show.json_option
def compare(before: str, after: str, at_least: float, as_json: bool) -> None:
    """Say what changed beyond noise. Exit code 1 if something became worse."""
    from jina_sm.bench import compare as comparing
    from jina_sm.bench import report

    found = comparing.compare(report.read(before), report.read(after), at_least=at_least)
    if as_json:
        show.json(
            {"changes": [_plain(each) | {"setting": str(each.setting)} for each in found.changes], "only": found.only}
        )
    else:
        for line in comparing.lines(found):
            click.echo(line)
    for line in found.only:
        show.say(line)
    same = len(found.changes) - len(found.worse) - len(found.better) - len(found.undecided)
    show.say(f"{len(found.worse)} worse, {len(found.better)} better, {same} the same, {len(found.undecided)} undecided")
    if found.worse:
        raise click.exceptions.Exit(1)


@bench.command()
@click.option("--html", metavar="FILE", help="Write the published figures as a page.")
@show.json_option
def published(html: str | None, as_json: bool) -> None:
    """The published comparison, made again figure by figure.

    From the guide's own tables, and with what does not follow from them, and why.
    """
    from jina_sm.bench import published as figures
    from jina_sm.bench import report

    if html:
        _check_writable("--html", html)
        from jina_sm.bench import page as pages

        _write(html, pages.published_page().encode())
        show.say(f"{html}: the page")
    checks = figures.reproduce()
    if as_json:
        return show.json([_plain(each) for each in checks])
    report.published_table(click.echo)
    click.echo()
    report.checks(checks, click.echo)
    return None


def _plan(asked: dict[str, Any]) -> Plan:
    from jina_sm.bench import workload
    from jina_sm.bench.load import Rules
    from jina_sm.bench.plan import Plan

    recorded = workload.read_requests(asked["workload"]) if asked["workload"] else None
    texts = tuple(workload.read_texts(asked["texts"])) if asked["texts"] else None
    lengths: tuple[int, ...] = ()
    spread: str | None = None
    if asked["tokens"] is not None:
        if re.match("[a-z]", asked["tokens"]):
            spread = asked["tokens"]
        else:
            lengths = _whole(click.get_current_context(), click.Option(["--tokens"]), asked["tokens"])
    if (recorded or texts) and asked["tokens"]:
        raise InputError("--tokens is of passages made here; a file has its own texts")
    if recorded and (texts or asked["batch"]):
        raise InputError("a --workload has its own texts and requests; leave --texts and --batch out")
    return Plan(
        settings=_settings(asked, lengths, spread, recorded),
        repetitions=asked["repetitions"],
        requests=asked["requests"],
        duration_s=asked["duration"],
        warm_up=asked["warm_up"],
        seed=asked["seed"],
        token_factor=asked["token_factor"],
        max_in_flight=asked["max_in_flight"],
        rules=Rules(
            failures_in_a_row=asked["max_failures"], failed_share=asked["max_failed_share"], usd=asked["max_usd"]
        ),
        lengths=spread,
        texts=texts,
        recorded=recorded,
        tokenizer=asked["tokenizer"],
    )


def _settings(
    asked: dict[str, Any], lengths: tuple[int, ...], spread: str | None, recorded: Any
) -> tuple[Setting, ...]:
    """Every shape of request at every load."""
    from dataclasses import replace

    from jina_sm.bench import plan
    from jina_sm.bench.metrics import Setting

    opened = bool(asked["rate"]) + (asked["ramp"] is not None)
    if opened + bool(asked["concurrency"]) > 1:
        raise InputError("callers at once, requests a second, or a ramp: take one of --concurrency, --rate and --ramp")
    whence: str = asked["workload"] or asked["texts"] or spread or ""
    shapes: list[Setting]
    if recorded is not None:
        shapes = [Setting(texts=Path(whence).name)]
    elif whence:
        shapes = [Setting(batch_size=size, texts=Path(whence).name) for size in asked["batch"] or (1, 32, 128)]
    else:
        grid = plan.published_grid(batch_sizes=asked["batch"], passage_tokens=lengths, concurrencies=(1,))
        shapes = list(grid)
    loads: list[dict[str, Any]]
    if asked["rate"]:
        loads = [{"arrivals": asked["arrivals"], "rate": rate, "concurrency": None} for rate in asked["rate"]]
    elif asked["ramp"]:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", asked["ramp"])
        if not match:
            raise InputError(f"--ramp {asked['ramp']!r} is not FROM-TO", cure="1-20, for instance.")
        loads = [{"arrivals": "ramp", "rate": float(match[1]), "rate_to": float(match[2]), "concurrency": None}]
    elif recorded is not None and recorded.at_s is not None and not asked["concurrency"]:
        loads = [{"arrivals": "trace", "concurrency": None}]
    else:
        loads = [{"concurrency": callers} for callers in asked["concurrency"] or (1, 5, 10)]
    return tuple(replace(shape, **load) for shape in shapes for load in loads)


def _endpoints(targets: tuple[str, ...], plan: Plan, asked: dict[str, Any]) -> list[Endpoint]:
    from jina_sm import catalog
    from jina_sm.bench import endpoint

    known = catalog.load()
    key: str | None = None
    if asked["api_key_env"] is not None and not (key := os.environ.get(asked["api_key_env"])):
        raise InputError(f"the variable {asked['api_key_env']} is not set, and --api-key-env names it")
    aws = session_for(asked["profile"], targets)
    most = max(each.concurrency or plan.max_in_flight for each in plan.settings)
    names = {endpoint.named(each)[0] for each in targets}
    for option in ("usd_per_hour", "usd_per_1m_tokens", "time_scale"):
        for name in asked[option]:
            if name is not None and name not in names:
                raise InputError(f"--{option.replace('_', '-')} is for {name!r}, and no --target has that name")
    found = []
    for target in targets:
        name = endpoint.named(target)[0]

        def of(option: str, name: str | None = name) -> float | None:
            value: float | None = asked[option].get(name, asked[option].get(None))
            return value

        hourly, tokens = of("usd_per_hour"), of("usd_per_1m_tokens")
        if hourly is not None and tokens is not None:
            raise InputError(
                "a target has a price by the hour or by tokens, not both", cure="NAME=USD tells them apart."
            )
        source = None if hourly is None and tokens is None else "as given"
        opened = endpoint.opened(
            target,
            known,
            connections=most,
            price=endpoint.Price(usd_per_hour=hourly, usd_per_1m_tokens=tokens, source=source),
            time_scale=of("time_scale"),
            task=asked["task"],
            dimensions=asked["dimensions"],
            api_key=key,
            aws=aws,
        )
        found.append(endpoint.priced(opened, known, aws=aws))
    return endpoint.distinct(found)


def _say_plan(endpoints: list[Endpoint], plan: Plan, foreseen: Forecast) -> None:
    for each in endpoints:
        price = each.price
        if price.usd_per_hour is not None:
            said = f"{price.usd_per_hour:g} USD/h ({price.source})"
        elif price.usd_per_1m_tokens is not None:
            said = f"{price.usd_per_1m_tokens:g} USD per 1M tokens ({price.source})"
        else:
            said = f"no price known{f' ({price.unknown})' if price.unknown else ''}: --usd-per-hour"
        local = "" if each.billed else "; on this machine, nothing is billed"
        scale = f"; time scale {each.time_scale:g}" if each.time_scale != 1 else ""
        show.say(f"{each.name}: {each.target}")
        show.say(f"  {said}{local}{scale}")
    tokens = "" if foreseen.tokens is None else f", {foreseen.tokens:,} tokens"
    takes = "" if foreseen.seconds is None else f", about {_time(foreseen.seconds)}"
    cost = "" if foreseen.usd is None else f", {foreseen.usd:.2f} USD"
    show.say(
        f"{len(plan.settings)} settings x {plan.repetitions} repetitions x {len(endpoints)} targets: "
        f"{foreseen.requests:,} requests{tokens}{takes}{cost} ({foreseen.basis})"
    )


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _told() -> Callable[[Progress], None]:
    """A line a trial into a pipe; on a terminal one line that changes."""
    import sys

    began, live = time.monotonic(), sys.stderr.isatty()

    def told(progress: Progress) -> None:
        passed = time.monotonic() - began
        left = passed / progress.done * (progress.of - progress.done)
        line = (
            f"{progress.done}/{progress.of}  {progress.target}  {progress.setting}  "
            f"{progress.answered}/{progress.sent} answered  {_time(left)} left"
        )
        if live:
            click.echo(f"\r\x1b[2K{line[:100]}", err=True, nl=progress.done == progress.of)
        elif progress.done % max(1, progress.of // 20) == 0 or progress.answered < progress.sent:
            show.say(f"  {line}")

    return told


def _shown(measured: Measured, as_json: bool) -> None:
    from jina_sm.bench import report

    if as_json:
        click.echo(report.encoded(measured).decode())
    else:
        report.table(measured, click.echo)


def _made(measured: Measured, html: str | None) -> None:
    if html:
        from jina_sm.bench import page as pages

        _write(html, pages.page(measured).encode())
        show.say(f"{html}: the page")


def _check_writable(option: str, file: str | None) -> None:
    """Before anything is paid for."""
    if file is not None and (Path(file).is_dir() or not Path(file).absolute().parent.is_dir()):
        raise InputError(f"{option} {file!r} cannot be written: its folder is not there, or it is one")


def _kept(file: str, content: bytes) -> str:
    """Where it is: what was paid for is not lost to a disk that is full or a folder that has gone."""
    import tempfile

    try:
        _write(file, content)
    except InputError as error:
        with tempfile.NamedTemporaryFile(prefix="jina-sm-bench-", suffix=".json", delete=False) as kept:
            kept.write(content)
        show.say(f"{error}; it is in {kept.name}")
        return kept.name
    return file


def _write(file: str, content: bytes) -> None:
    """Whole or not at all."""
    partial = Path(f"{file}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{file!r} cannot be written: {error.strerror}") from None


def _plain(value: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(value)
