"""Which of the three ways to choose: asked on a terminal, or told by options."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import show
from jina_sm.cli.amounts import count
from jina_sm.errors import InputError

if TYPE_CHECKING:
    from jina_sm.advise import Advice, Fit, Needs
    from jina_sm.advise.choice import Figures, Reason

WIDTH = 78
_ASKED = "usage", "security", "cloud", "operations", "tokens_per_month", "requests_per_s", "tokens", "p99_s", "region"


@click.command()
@click.option("--usage", help="search, rag or indexing.")
@click.option("--security", help="Who may have the texts: vendor, account or perimeter.")
@click.option("--cloud", help="aws, portable (any cloud) or none.")
@click.option("--operations", help="Who runs GPU servers in house: none or gpu.")
@click.option("--tokens-per-month", callback=count, metavar="COUNT", help="What is embedded in a month, like 5B.")
@click.option("--requests-per-s", type=float, help="At the peak.  [default: three times the month's mean]")
@click.option("--texts", type=int, help="In a request.  [default: 1]")
@click.option("--tokens", type=int, help="Of a text.  [default: 128]")
@click.option("--p99", "p99_s", type=float, metavar="SECONDS", help="In which 99 of 100 requests must be answered.")
@click.option("--region", "-r", metavar="REGION", help="Where.")
@click.option("--residency", is_flag=True, help="The texts must stay in that region.")
@click.option("--non-commercial", is_flag=True, help="The use is not commercial: matters for the weights' licence.")
@click.option("--model", help="[default: jina-embeddings-v3]")
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    help="Response times of your own, of one instance: the JSON of `bench run`, or rows of batch, tokens, concurrency, "
    "mean_s.",
)
@click.option("--measured-target", metavar="NAME", help="Which target of the run, where it has several of a way.")
@click.option(
    "--measured-way", metavar="WAY", help="What was measured: sagemaker or self_hosted.  [default: as the run says]"
)
@click.option("--ask/--no-ask", default=None, help="Ask for what was not told; default: on a terminal, if nothing was.")
@show.json_option
def advise(
    non_commercial: bool,
    residency: bool,
    measured: Path | None,
    measured_target: str | None,
    measured_way: str | None,
    ask: bool | None,
    as_json: bool,
    **told: Any,
) -> None:
    """Recommend Jina's API, SageMaker or your own servers, with reasons, costs and the next command.

    Asks its questions on a terminal; with options, or without a terminal, what was not told has its default: RAG, the
    vendor may have the texts, AWS is fine, nobody runs GPUs, a billion tokens a month of 128 a text.
    """
    from jina_sm import advise as adviser
    from jina_sm import catalog

    given = {name: value for name, value in told.items() if value is not None}
    given |= {"residency": residency, "commercial": not non_commercial}
    if measured is None and (measured_target or measured_way):
        raise click.UsageError("--measured-target and --measured-way say more of a --measured FILE: give one.")
    fits = _fits(measured, measured_target, measured_way) if measured else {}
    adviser.Needs(**given)  # what was told is checked before anything is asked
    plainly = not any(value is not None for value in told.values()) and not residency and sys.stdin.isatty()
    if ask or (ask is None and plainly and not as_json):
        if not sys.stdin.isatty():
            raise click.UsageError("There is no terminal to ask on: tell it by options.")
        given = _asked(given)
    known = catalog.load()
    needs = adviser.Needs(**given)
    if "model" in given:
        known.model(needs.model)
    advice = adviser.recommend(needs, fits=fits, known=known)
    if as_json:
        return show.json(_json(advice))
    _show(advice)
    return None


def _fits(path: Path, target: str | None, way: str | None) -> dict[str, Fit]:
    import orjson

    from jina_sm import advise as adviser

    if way not in (None, "sagemaker", "self_hosted"):
        raise click.BadParameter(f"{way!r} is neither sagemaker nor self_hosted", param_hint="--measured-way")
    try:
        data = orjson.loads(path.read_bytes())
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror or error}", param_hint="--measured") from None
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if isinstance(data, dict) and ("samples" in data or "format" in data):
        return _fits_of_a_run(path, target, way)
    if target is not None:
        raise click.BadParameter(f"{path} has rows, and no targets", param_hint="--measured-target")
    return {way or "sagemaker": adviser.fitted(adviser.measured(data))}


_WAYS: Mapping[str, str] = {"sagemaker": "sagemaker", "http": "self_hosted"}
"""Of a run's targets. The API has no instances to count."""


def _fits_of_a_run(path: Path, target: str | None, way: str | None) -> dict[str, Fit]:
    """The response curve of each way that the run measured, or of the one target named."""
    from jina_sm import advise as adviser
    from jina_sm.bench import report

    run = report.read(str(path))
    if target is not None and target not in (names := [each.name for each in run.targets]):
        raise click.BadParameter(f"{target!r} is none of {', '.join(names)}", param_hint="--measured-target")
    found: dict[str, list[str]] = {}
    for each in run.targets:
        if target in (None, each.name) and (of := (way or _WAYS.get(each.kind))) and each.kind in _WAYS:
            found.setdefault(of, []).append(each.name)
    if not found:
        raise InputError(f"{path}: no instances were measured, only the API", cure="Measure an endpoint or a server.")
    for of, names in found.items():
        if len(names) > 1:
            raise InputError(
                f"{path} has several targets of {of}: {', '.join(names)}", cure="Name one by --measured-target."
            )
    for each in run.targets:
        if each.stand_in and any(each.name == names[0] for names in found.values()):
            show.say(f"{each.name}: a stand-in answered, whose speed says nothing of the model's")
    return {of: adviser.fitted(adviser.measured(report.response_times(run, names[0]))) for of, names in found.items()}


def _asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The answers typed, on top of what was told already. An answer that cannot be is asked for again."""
    from jina_sm.advise import Needs
    from jina_sm.advise.choice import ANSWERS

    answers = dict(given)
    defaults = Needs()
    for name in _ASKED:
        if name in answers:
            continue
        if name in ANSWERS:
            answers[name] = _chosen(name, ANSWERS[name], getattr(defaults, name))
            continue
        if name == "requests_per_s" and answers["usage"] == "indexing":
            continue  # nobody waits: the volume is the load
        while True:
            value = _typed(name)
            try:
                Needs(**answers, **({} if value is None else {name: value}))
            except InputError as refused:
                show.say(f"  {refused}")
                continue
            if value is not None:
                answers[name] = value
            break
    if answers.get("region") and not answers.get("residency"):
        answers["residency"] = click.confirm("Must the texts stay in that region?", default=False, err=True)
    return answers


_QUESTIONS: Mapping[str, str] = {
    "usage": "What is it for?",
    "security": "Who may have the texts?",
    "cloud": "Which cloud?",
    "operations": "Who could run servers?",
    "tokens_per_month": "How many tokens a month? (like 500M or 20B)",
    "requests_per_s": "How many requests a second at the peak? (empty: three times the mean)",
    "tokens": "How many tokens has a text?",
    "p99_s": "Within how many seconds must 99 of 100 requests be answered? (empty: no matter)",
    "region": "In which AWS region? (empty: no matter)",
}


def _chosen(name: str, known: Mapping[str, str], default: str) -> str:
    show.say(_QUESTIONS[name])
    for number, (key, meaning) in enumerate(known.items(), 1):
        show.say(f"  {number} {key:<10} {meaning}")
    names = list(known)
    while True:
        answer = click.prompt("  number or word", default=default, err=True).strip().lower()
        if answer.isdecimal() and answer.isascii() and 1 <= int(answer) <= len(names):
            return names[int(answer) - 1]
        if answer in known:
            return str(answer)
        show.say(f"  {answer!r} is none of them.")


def _typed(name: str) -> Any:
    """One answer; None: left empty."""
    from jina_sm.advise import Needs

    default = {"tokens_per_month": "1B", "tokens": str(Needs().tokens)}.get(name, "")
    while True:
        text = click.prompt(_QUESTIONS[name], default=default, show_default=bool(default), err=True).strip()
        if not text:
            return None
        try:
            if name in ("tokens_per_month", "tokens"):
                return count(None, None, text)
            return text if name == "region" else float(text)
        except (click.BadParameter, ValueError):
            show.say(f"  {text!r} is not a number.")


def _show(advice: Advice) -> None:
    _show_choice(advice)
    _show_figures(advice)
    for about in ("security", "licence", "caution"):
        found = [row for row in advice.said if row.id == about]
        if found:
            click.echo(f"\n{about.capitalize()}:")
        for row in found:
            _tell(row)
    _show_next(advice)


def _show_choice(advice: Advice) -> None:
    from jina_sm.advise.figures import NAMES

    click.echo(f"Take {NAMES[advice.way]} ({advice.way})." if advice.way else "Nothing fits.")
    _tell(advice.reason)
    for row in advice.ruled_out:
        _tell(row, f"not {row.way}: ")
    if advice.runner_up and advice.runner_up_reason:
        click.echo(f"\nRunner-up: {NAMES[advice.runner_up]} ({advice.runner_up}).")
        _tell(advice.runner_up_reason)
    elif advice.way:
        click.echo("\nRunner-up: none; the others are ruled out.")
    click.echo("\nWhat would flip it, one answer at a time:")
    for flip in advice.flips:
        click.echo(f"  {_option(flip.answer, flip.value):<34} {flip.way or 'nothing fits'}")
    if not advice.flips:
        click.echo("  no single answer that was tried")


def _show_figures(advice: Advice) -> None:
    from jina_sm.advise.figures import WAYS

    click.echo("\nIn figures:")
    show.table(
        ("WAY", "USD/MONTH", "INSTANCES", "P50", "P99", "FOR"), [_line(way, advice.figures[way]) for way in WAYS]
    )
    for found in dict.fromkeys(each.capacity.source for each in advice.figures.values() if each.capacity):
        _wrapped(f"Response times: {found}.", "  ")
    for text in advice.assumed:
        _wrapped(f"Assumed: {text}.", "  ")


def _show_next(advice: Advice) -> None:
    from jina_sm.advise.figures import article

    click.echo()
    _wrapped(f'"article" is {article()}.', "")
    click.echo("\nThis again:")
    click.echo(f"  $ {_again(advice.needs)}")
    if advice.next:
        click.echo("\nNext:")
    for command in advice.next:
        click.echo(f"  $ {command}")


def _again(needs: Needs) -> str:
    """The command that asks the same without questions."""
    plain = type(needs)()
    words = ["jina-sm advise", f"--usage {needs.usage}"]
    for name in ("security", "cloud", "operations", "tokens_per_month", "requests_per_s", "texts", "tokens", "p99_s"):
        if (value := getattr(needs, name)) != getattr(plain, name):
            words.append(_option(name, f"{value:g}" if isinstance(value, float) else str(value)))
    if needs.region:
        words.append(f"--region {needs.region}")
    words += ["--residency"] * needs.residency + ["--non-commercial"] * (not needs.commercial)
    if needs.model != plain.model:
        words.append(f"--model {needs.model}")
    return " ".join(words)


def _option(answer: str, value: str) -> str:
    """The change as one would type it."""
    names = {
        ("residency", "yes"): "--residency",
        ("residency", "no"): "without --residency",
        ("commercial", "no"): "--non-commercial",
        ("commercial", "yes"): "without --non-commercial",
        ("p99_s", "any"): "without --p99",
    }
    word = {"p99_s": "p99"}.get(answer, answer).replace("_", "-")
    return names.get((answer, value), f"--{word} {value}")


def _tell(row: Reason, begins: str = "") -> None:
    _wrapped(f"{begins}{row.text} [{row.source}]", "  ")


def _wrapped(text: str, indent: str) -> None:
    click.echo(textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False))


def _line(way: str, figures: Figures) -> tuple[str, ...]:
    spent, found = figures.cost, figures.capacity
    return (
        way,
        f"{spent.total:>9,.0f}" if spent else f"{'-':>9}",
        f"{spent.instances if spent and spent.instances else '-':>9}",
        f"{_seconds(found.p50_s if found else None):>6}",
        f"{_seconds(found.p99_s if found else None):>6}",
        figures.note,
    )


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"


def _json(advice: Advice) -> dict[str, Any]:
    def figures(each: Figures) -> dict[str, Any]:
        spent = each.cost
        return {
            "usd_per_month": float(round(spent.total, 2)) if spent else None,
            "usd": {item: float(round(usd, 2)) for item, usd in spent.items.items()} if spent else {},
            "usd_per_1m_tokens": float(round(spent.per_1m or Decimal(0), 4)) if spent else None,
            "instances": spent.instances or None if spent else None,
            "capacity": dataclasses.asdict(each.capacity) if each.capacity else None,
            "mean_s": each.mean_s,
            "note": each.note,
        }

    return {
        "recommendation": advice.way,
        "reason": dataclasses.asdict(advice.reason),
        "runner_up": advice.runner_up,
        "runner_up_reason": dataclasses.asdict(advice.runner_up_reason) if advice.runner_up_reason else None,
        "ruled_out": [dataclasses.asdict(row) for row in advice.ruled_out],
        "flips": [dataclasses.asdict(flip) for flip in advice.flips],
        "figures": {way: figures(each) for way, each in advice.figures.items()},
        "said": [dataclasses.asdict(row) for row in advice.said],
        "assumed": list(advice.assumed),
        "next": list(advice.next),
        "needs": dataclasses.asdict(advice.needs),
    }
