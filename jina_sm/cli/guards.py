"""Against the forgotten bill: pausing, resuming, finding what was left. And the file that says what should be."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import show
from jina_sm.cli.deployment import (
    ceiling_option,
    endpoint_json,
    everywhere_option,
    profile_option,
    reported,
    session,
    show_failures,
)

if TYPE_CHECKING:
    from jina_sm.deploy.guards import Steps
    from jina_sm.deploy.orphans import Orphan, Search
    from jina_sm.deploy.ttl import Schedule


@click.command()
@click.argument("target", metavar="MODEL|NAME")
@everywhere_option
@profile_option
@show.yes_option
@show.json_option
def pause(target: str, regions: tuple[str, ...], profile: str | None, yes: bool, as_json: bool) -> None:
    """Take away a MODEL's endpoints, or the one of a NAME, and keep what they were made from.

    Nothing bills then. `jina-sm resume` brings them back, which takes as long as a deployment.
    """
    from jina_sm.deploy import guards, run

    aws = session(profile)
    inventory = run.found(target, regions=regions, session=aws)
    steps = guards.pausing(inventory)
    _agreed(steps, "Pause this?", yes)
    with reported(as_json), show.progress(_regions(steps)) as listener:
        guards.take(steps, session=aws, on_event=listener)
    _raise_failed(inventory.failed)
    if as_json:
        return show.json(_by_region(steps))
    for region, name in steps:
        click.echo(f"{region}: {name} Paused")
    if not steps:
        click.echo(f"nothing of {target} is in service")
    return None


@click.command()
@click.argument("target", metavar="MODEL|NAME")
@everywhere_option
@click.option(
    "--ttl",
    metavar="DURATION",
    help="AWS deletes the endpoint after it (90m, 8h, 2d).  [default: as before the pause]",
)
@ceiling_option
@profile_option
@show.yes_option
@show.json_option
def resume(
    target: str,
    regions: tuple[str, ...],
    ttl: str | None,
    ceiling: Decimal | None,
    profile: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Bring back the endpoints of a MODEL, or the one of a NAME, that were paused, or deleted by their --ttl.

    Autoscaling is as it was when they were paused, and so is --ttl, counted from now. They bill again.
    """
    from jina_sm.deploy import cost, guards, run, spec

    aws = session(profile)
    inventory = run.found(target, regions=regions, session=aws)
    steps = guards.resuming(inventory, ttl_s=spec.seconds(ttl) if ttl else None, session=aws)
    for check in guards.checked(inventory, steps, session=aws):
        if check.verdict != "ok":
            show.say(str(check))
    spent = cost.resumed(inventory, steps, session=aws)
    usd = cost.total(each.usd_per_hour for each in spent.values())
    cost.check_ceiling((each.most_usd_per_hour for each in spent.values()), ceiling)
    price = [f"In service: {usd or 'unknown'} USD an hour."] if spent else []
    _agreed(steps, "Resume this?", yes, [*price, *_ends(guards.ends(steps))])
    with reported(as_json), show.progress(_regions(steps)) as listener:
        there = guards.take(steps, session=aws, on_event=listener)
    _raise_failed(inventory.failed)
    if as_json:
        return show.json({region: [endpoint_json(each) for each in found] for region, found in there.items()})
    for region, found in there.items():
        for endpoint in found:
            click.echo(f"{region}: {endpoint.name} {endpoint.status}")
    if not steps:
        click.echo(f"nothing of {target} is paused")
    return None


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@everywhere_option
@click.option("--idle", default="24h", show_default=True, metavar="DURATION", help="Not invoked for so long is idle.")
@click.option("--all-jina", is_flag=True, help="Also endpoints that others made of Jina's packages.")
@click.option("--remove", is_flag=True, help="Remove what is listed and ours, and what is named.")
@profile_option
@show.yes_option
@show.json_option
def orphans(
    names: tuple[str, ...],
    regions: tuple[str, ...],
    idle: str,
    all_jina: bool,
    remove: bool,
    profile: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Find what bills or lingers: idle and broken endpoints, and what was left where an endpoint has gone.

    Looks in all regions unless --region is given; only for what is called NAME, if any is. What does not carry this
    tool's tags, as no log group does, is removed only if it is named.
    """
    from jina_sm.deploy import orphans as lost
    from jina_sm.deploy import spec

    aws = session(profile)
    search = lost.orphans(regions=regions, all_jina=all_jina, idle_s=spec.seconds(idle, "idle"), session=aws)
    found = [each for each in search.all if not names or each.name in names]
    chosen = [each for each in found if each.ours or each.name in names] if remove else []
    if as_json and not remove:
        show.json(_search_json(search, found))
    else:
        _show(found, search, show.say if as_json else click.echo)
    for name in names:
        if name not in {each.name for each in found}:
            show.say(f"{name}: nothing that is called so bills or lingers there")
    if chosen:
        foreign = sorted({each.name for each in chosen if not each.ours})
        theirs = f" {', '.join(foreign)}: not made by this tool!" if foreign else ""
        for each in chosen:
            for step in each.steps:
                show.say(f"  {each.region}: {step}")
        show.confirm(f"Remove this?{theirs}", yes)
        with reported(as_json), show.progress([*dict.fromkeys(each.region for each in chosen)]) as listener:
            lost.remove(chosen, session=aws, on_event=listener)
        if as_json:
            show.json({"removed": [_orphan_json(each) for each in chosen]})
        else:
            click.echo(f"removed {len(chosen)}")
    elif remove and as_json:
        show.json({"removed": []})
    show_failures(search.failed)
    if search.failed:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default="jina-sm.toml")
@click.option("--schema", is_flag=True, help="Print the file's JSON Schema instead.")
@show.json_option
def init(file: Path, schema: bool, as_json: bool) -> None:
    """Write a FILE that says what should be in service, for `jina-sm deploy -f`; never over one that is there."""
    from jina_sm.deploy import fleetfile

    if schema:
        return show.json(fleetfile.schema())
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(fleetfile.TEMPLATE)
    except FileExistsError:
        raise click.UsageError(f"{file} is there already.") from None
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error.strerror}.") from None
    if as_json:
        return show.json({"wrote": str(file)})
    click.echo(f"wrote {file}: `jina-sm deploy -f {file} --plan` shows what it would do")
    return None


def _ends(found: Mapping[tuple[str, str], Schedule | None]) -> Iterator[str]:
    """When AWS takes away again what is brought back."""
    from jina_sm.deploy.ttl import lasting

    for (region, name), end in found.items():
        if end is None:
            yield f"{region} {name}: no end is set; --ttl 8h sets one."
        else:
            yield f"{region} {name}: AWS deletes it after {lasting(end.seconds or 0)}; --ttl sets another end."


def _agreed(steps: Steps, question: str, yes: bool, notes: Iterable[str] = ()) -> None:
    for (region, name), each in steps.items():
        show.say(f"{region} {name}")
        for step in each:
            show.say(f"  {step}")
    for note in notes:
        show.say(note)
    if steps:
        show.confirm(question, yes)


def _regions(steps: Steps) -> list[str]:
    return [*dict.fromkeys(region for region, _ in steps)]


def _by_region(steps: Steps) -> dict[str, list[str]]:
    return {region: [name for _, name in each] for region, each in itertools.groupby(steps, key=lambda key: key[0])}


def _raise_failed(failed: Mapping[str, Any]) -> None:
    """Where it could not be looked, nothing was done."""
    from jina_sm.deploy.run import alike
    from jina_sm.errors import PartialError

    if failed:
        named = "; ".join(f"{where}: {error}".removesuffix(".") for where, error in alike(failed))
        raise PartialError(f"not all regions could be looked at: {named}", done=(), failed=dict(failed))


def _show(found: list[Orphan], search: Search, tell: Any) -> None:
    rows = [
        (each.region, each.kind, each.name, "ours" if each.ours else "not ours", _cost(each), each.why)
        for each in found
    ]
    if rows:
        show.table(("REGION", "KIND", "NAME", "WHOSE", "USD/H", "WHY"), rows, tell)
    skipped = f"; not enabled: {', '.join(search.skipped)}" if search.skipped else ""
    tell(f"looked in {len(search.found)} regions, found {len(found)}{skipped}")


def _cost(orphan: Orphan) -> str:
    """Of the instances alone: what the software costs is the offer's."""
    if not orphan.bills or orphan.endpoint is None:
        return "-"
    if orphan.instance is None or orphan.instance.usd is None:
        return "unknown"
    return f"{orphan.instance.usd * max(orphan.endpoint.instances, 1)} + software"


def _search_json(search: Search, found: list[Orphan]) -> dict[str, Any]:
    return {
        "orphans": [_orphan_json(each) for each in found],
        "looked_at": list(search.found),
        "skipped": search.skipped,
        "failed": {region: str(error) for region, error in search.failed.items()},
    }


def _orphan_json(orphan: Orphan) -> dict[str, Any]:
    return {
        **{name: getattr(orphan, name) for name in ("region", "kind", "name", "why", "ours", "bills")},
        "instance_usd_per_hour": orphan.instance and orphan.instance.usd,
        "endpoint": orphan.endpoint and endpoint_json(orphan.endpoint),
    }
