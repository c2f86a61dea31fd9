"""What the three ways cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import show
from jina_sm.cli.amounts import by_way, count, exact
from jina_sm.cli.deployment import profile_option, session
from jina_sm.errors import JinaSMError

if TYPE_CHECKING:
    from jina_sm.advise import Cost, Prices, Workload
    from jina_sm.advise.cost import Crossing, Row

PUBLISHED = "ml.g5.xlarge"  # the type of which prices were published
LIVE = "AWS Pricing API"


@click.command()
@click.option(
    "--region", "-r", "regions", multiple=True, metavar="REGION", help="Again for each; default: the published two."
)
@click.option(
    "--tokens-per-month",
    "tokens",
    callback=count,
    metavar="COUNT",
    help="What is embedded in a month, like 50B: shows a month.",
)
@click.option(
    "--utilisation",
    callback=exact,
    metavar="NUMBER",
    default="1",
    show_default=True,
    help="Share of the throughput one can use.",
)
@click.option(
    "--hours", callback=exact, metavar="NUMBER", default="730", show_default=True, help="In service in a month."
)
@click.option(
    "--peak",
    callback=exact,
    metavar="NUMBER",
    default="1",
    show_default=True,
    help="How many times the mean the load can be.",
)
@click.option("--autoscaling", metavar="MIN-MAX", help="Pay for the load between so many instances, not for the peak.")
@click.option("--instances", type=int, help="How many, instead of as many as the volume needs.")
@click.option("--tokens-per-s", "rates", multiple=True, metavar="WAY=NUMBER", help="Throughput of one instance.")
@click.option("--vectors", callback=count, metavar="COUNT", help="How many are kept, like 10M.")
@click.option("--dimensions", type=int, default=1024, show_default=True, help="Of each vector.")
@click.option("--quantisation", default="float32", show_default=True, help="float32, float16, int8 or binary.")
@click.option(
    "--egress-gb", callback=exact, metavar="NUMBER", default="0", help="What leaves AWS for the internet in a month."
)
@click.option("--staff", multiple=True, metavar="WAY=USD", help="People, a month: self_hosted=4000. Again for each.")
@click.option(
    "--instance-usd", callback=exact, metavar="NUMBER", help="An hour of the SageMaker instance, not as published."
)
@click.option(
    "--software-usd", callback=exact, metavar="NUMBER", help="An hour of the model package, not as published."
)
@click.option("--ec2-usd", callback=exact, metavar="NUMBER", help="An hour of one's own machine, not as published.")
@click.option(
    "--licence-usd", callback=exact, metavar="NUMBER", help="A quarter of one's own licence, not as published."
)
@click.option("--licence-per-instance", is_flag=True, help="Each instance needs one; whether so is not published.")
@click.option("--storage-usd", callback=exact, metavar="NUMBER", help="A gigabyte of vectors for a month.")
@click.option("--egress-usd", callback=exact, metavar="NUMBER", help="A gigabyte that leaves AWS.")
@click.option("--live", is_flag=True, help="Ask AWS for its prices, and the Marketplace for the model's.")
@click.option("--model", help="Of the live offer.  [default: jina-embeddings-v3]")
@click.option("--instance-type", help="Of the live prices.  [default: ml.g5.xlarge]")
@profile_option
@show.json_option
def cost(
    regions: tuple[str, ...],
    tokens: int | None,
    utilisation: Decimal,
    hours: Decimal,
    peak: Decimal,
    autoscaling: str | None,
    instances: int | None,
    rates: tuple[str, ...],
    vectors: int | None,
    dimensions: int,
    quantisation: str,
    egress_gb: Decimal,
    staff: tuple[str, ...],
    instance_usd: Decimal | None,
    software_usd: Decimal | None,
    ec2_usd: Decimal | None,
    licence_usd: Decimal | None,
    licence_per_instance: bool,
    storage_usd: Decimal | None,
    egress_usd: Decimal | None,
    live: bool,
    model: str | None,
    instance_type: str | None,
    profile: str | None,
    as_json: bool,
) -> None:
    """Compare Jina's API, SageMaker and your own servers by price.

    Plain: USD per million tokens from the published inputs. With --tokens-per-month: a month of each, what it is paid
    for, and from which volume another way is cheaper. WAY is jina_api, sagemaker or self_hosted.
    """
    from jina_sm import advise, catalog
    from jina_sm.advise import cost as model_of_cost
    from jina_sm.advise.figures import WAYS

    known = catalog.load()
    if not live and (whose := model or instance_type or profile):
        raise click.UsageError(f"{whose!r} says whose live prices: say --live too.")
    month = {"--vectors": vectors, "--egress-gb": egress_gb, "--staff": staff, "--autoscaling": autoscaling}
    if tokens is None and (beside := [name for name, given in month.items() if given]):
        raise click.UsageError(f"{beside[0]} belongs to a month: say --tokens-per-month.")
    given = {
        "instance": instance_usd,
        "software": software_usd,
        "ec2": ec2_usd,
        "licence": licence_usd,
        "licence_per_instance": licence_per_instance or None,
        "storage": storage_usd,
        "egress": egress_usd,
    }
    throughput = by_way("--tokens-per-s", rates, WAYS[1:])
    prices = [advise.published(region, known) for region in regions or ("us-east-1", "eu-central-1")]
    if live:
        asked = (model or "jina-embeddings-v3", instance_type or PUBLISHED)
        prices = _live(prices, known, asked, session(profile), given)
    prices = [each.over("given", **given) for each in prices]
    if throughput:
        prices = [each.faster("given", throughput) for each in prices]
    table = advise.rows(prices)
    workload = None
    if tokens is not None:
        least, most = _bounds(autoscaling)
        workload = advise.Workload(
            tokens_per_month=tokens,
            hours=hours,
            utilisation=utilisation,
            peak=peak,
            autoscaling=bool(autoscaling),
            least=least,
            most=most,
            instances=instances,
            vectors=advise.Vectors(count=vectors, dimensions=dimensions, quantisation=quantisation)
            if vectors
            else None,
            egress_gb=egress_gb,
            staff=by_way("--staff", staff, WAYS),
        )
    months = [] if workload is None else [[advise.monthly(way, workload, each) for way in WAYS] for each in prices]
    crossings = [] if workload is None else [_crossings(workload, each) for each in prices]
    looked = [] if workload is None else [model_of_cost.searched(workload, each) for each in prices]
    odd = [] if live or any(given.values()) or throughput else model_of_cost.unexplained(table)
    if as_json:
        return show.json(_json(table, prices, months, crossings, looked, odd))
    _show_rows(table)
    for each, there, found, limit in zip(prices, months, crossings, looked, strict=False):
        _show_month(each, there)
        _show_crossings(found, limit)
    _show_notes(prices, odd, unused=() if months else ("storage", "egress"))
    return None


def _live(
    prices: Sequence[Prices], known: Any, asked: tuple[str, str], aws: Any, given: Mapping[str, Any]
) -> list[Prices]:
    """The prices with AWS's own over them, as far as they could be had.

    What could not be is said, and the published one stands; but one of another type of instance does not.
    """
    from jina_sm.deploy import pricing, run

    model, instance_type = asked
    machine_type = instance_type.removeprefix("ml.")
    missing: list[str] = []

    def stands(name: str, what: str, why: str) -> None:
        if given[name] is not None:
            return
        if instance_type == PUBLISHED:
            show.say(f"No live price of {what} ({why}); the published one stands.")
        else:
            missing.append(f"--{name}-usd for {what} ({why})")

    known.model(model)
    software = None
    try:
        software = run.offer(model, session=aws, known=known).hourly.get(instance_type)
        why = "not in the offer"
    except JinaSMError as error:
        why = str(error)
    if software is None:
        stands("software", f"{model} on {instance_type}", why)
    found = []
    for each in prices:
        hosted = pricing.instance_price(aws, known, instance_type, each.region)
        machine = pricing.machine_price(aws, machine_type, each.region)
        there = each.over("AWS Marketplace, live", software=software)
        if hosted.source == LIVE:
            there = there.over(f"{LIVE}, live", instance=hosted.usd)
        else:
            stands("instance", f"{instance_type} in {each.region}", hosted.source)
        if machine.usd is None:
            stands("ec2", f"{machine_type} in {each.region}", machine.source)
        found.append(there.over(f"{LIVE}, live", ec2=machine.usd))
    if missing:
        raise click.UsageError("Not known, and not published: give " + "; ".join(missing))
    if instance_type != PUBLISHED:
        show.say(f"The throughput stays that of {PUBLISHED}: give --tokens-per-s what you measured on {instance_type}.")
    return found


def _bounds(text: str | None) -> tuple[int, int | None]:
    import re

    if text is None:
        return 1, None
    match = re.fullmatch(r"([0-9]{1,4})-([0-9]{1,4})", text)
    if not match:
        raise click.BadParameter(f"{text!r} is not like 1-4", param_hint="--autoscaling")
    return int(match[1]), int(match[2])


def _crossings(workload: Workload, prices: Prices) -> dict[tuple[str, str], list[Crossing]]:
    from jina_sm import advise

    pairs = (("jina_api", "sagemaker"), ("jina_api", "self_hosted"), ("sagemaker", "self_hosted"))
    return {pair: advise.break_even(*pair, workload, prices) for pair in pairs}


def _show_rows(table: Sequence[Row]) -> None:
    show.table(
        ("SYSTEM", "REGION", "USD/HOUR", "USD/1M", "PRINTED", "FROM"),
        [
            (
                row.system,
                row.region or "-",
                f"{row.usd_per_hour:8.3f}" if row.usd_per_hour is not None else f"{'-':>8}",
                f"{_cents(row.usd_per_1m_tokens):>6}",
                f"{row.printed if row.printed is not None else '-'!s:>7}",
                row.note,
            )
            for row in table
        ],
    )


def _cents(usd: Decimal) -> str:
    """To the cent; what is less than two, to a tenth of one."""
    return f"{usd:.2f}" if usd >= Decimal("0.02") else f"{usd:.3f}"


def _show_month(prices: Prices, there: Sequence[Cost]) -> None:
    items = list(dict.fromkeys(item for each in there for item in each.items))
    click.echo()
    click.echo(f"{there[0].tokens:,f} tokens a month, {prices.region}")

    def line(label: str, cells: Sequence[str]) -> tuple[str, ...]:
        return (label, *(f"{cell:>14}" for cell in cells))

    lines = [
        line(item, [f"{each.items[item]:,.2f}" if item in each.items else "-" for each in there]) for item in items
    ]
    lines.append(line("total", [f"{each.total:,.2f}" for each in there]))
    lines.append(line("per 1M tokens", [f"{each.per_1m:,.4f}" if each.per_1m is not None else "-" for each in there]))
    lines.append(line("instances", [str(each.instances or "-") for each in there]))
    lines.append(line("idle", [f"{each.idle:.0%}" if each.idle is not None else "-" for each in there]))
    show.table(("USD", *(f"{each.way:>14}" for each in there)), lines)


def _show_crossings(crossings: Mapping[tuple[str, str], Sequence[Crossing]], most: Decimal) -> None:
    click.echo()
    click.echo(f"Cheaper of two, by tokens a month up to {_short(most)}:")
    for pair, found in crossings.items():
        click.echo(f"  {' and '.join(pair)}: {_stretches(found)}")


def _stretches(found: Sequence[Crossing]) -> str:
    """Where one gives way to the other, in words; of many steps the first few."""
    if not found:
        return "the same at every volume"
    first, *later = found
    if not later:
        return f"always {first.cheaper}"
    said = [f"{first.cheaper}", *(f"from {_short(each.tokens)} {each.cheaper}" for each in later[:3])]
    return ", ".join(said) + (", and so on by turns" if len(later) > 3 else "")


def _short(tokens: Decimal) -> str:
    for letter, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if tokens >= size:
            return f"{tokens / size:.4g}{letter}"
    return f"{tokens:,.0f}"


def _show_notes(prices: Sequence[Prices], odd: Sequence[str], *, unused: Sequence[str]) -> None:
    """Where the prices are from, but for those that were of no use."""
    from jina_sm.advise.figures import figures

    click.echo()
    click.echo(f"The API's first {figures()['api']['free_tokens']:,} tokens are free, once.")
    click.echo("Sources:")
    by_source: dict[str, list[str]] = {}
    for each in prices:
        for name, source in each.sources.items():
            names = by_source.setdefault(source, [])
            if name not in (*names, *unused):
                names.append(name)
    for source, names in by_source.items():
        if not names:
            continue
        _wrapped(f"{source} ({', '.join(names)})")
    if odd:
        click.echo("The article prints, and its own inputs do not give:")
        for each_odd in odd:
            _wrapped(each_odd)


def _wrapped(text: str, *, indent: str = "  ") -> None:
    import textwrap

    click.echo(textwrap.fill(text, 78, initial_indent=indent, subsequent_indent=indent + "  "))


def _json(
    table: Sequence[Row],
    prices: Sequence[Prices],
    months: Sequence[Sequence[Cost]],
    crossings: Sequence[Mapping[tuple[str, str], Sequence[Crossing]]],
    looked: Sequence[Decimal],
    odd: Sequence[str],
) -> dict[str, Any]:
    def number(usd: Decimal | None, digits: int = 4) -> float | None:
        return None if usd is None else float(round(usd, digits))

    from jina_sm.advise.figures import figures

    said: dict[str, Any] = {
        "rows": [
            {
                "system": row.system,
                "region": row.region,
                "usd_per_hour": number(row.usd_per_hour),
                "usd_per_1m_tokens": number(row.usd_per_1m_tokens),
                "printed": number(row.printed),
                "from": row.note,
            }
            for row in table
        ],
        "free_tokens_once": figures()["api"]["free_tokens"],
        "sources": {each.region: dict(each.sources) for each in prices},
        "not_explained": list(odd),
    }
    if months:
        said["months"] = [
            {
                "way": each.way,
                "region": each.region,
                "priced_for": there.region,
                "tokens": int(each.tokens),
                "usd": {item: number(usd, 2) for item, usd in each.items.items()},
                "usd_total": number(each.total, 2),
                "usd_per_1m_tokens": number(each.per_1m),
                "instances": each.instances,
                "instance_hours": number(each.instance_hours, 2),
                "idle": number(each.idle),
            }
            for there, costs in zip(prices, months, strict=True)
            for each in costs
        ]
        said["break_even"] = [
            {
                "region": there.region,
                "between": pair,
                "up_to_tokens": int(most),
                "cheaper": [{"from_tokens": int(each.tokens), "way": each.cheaper} for each in found],
            }
            for there, pairs, most in zip(prices, crossings, looked, strict=True)
            for pair, found in pairs.items()
        ]
    return said
