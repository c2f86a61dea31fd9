"""Before a deployment: whether it would come up, and the quotas."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import show
from jina_sm.cli.deployment import home_regions, profile_option, regions_option, reported, session

if TYPE_CHECKING:
    from jina_sm.deploy.preflight import Check, Increase, Room
    from jina_sm.errors import JinaSMError

_COLOURS = {"ok": "green", "warning": "yellow", "fail": "red", "unknown": "yellow"}
_types_option = click.option(
    "--instance-type", "instance_types", multiple=True, help="Again for each.  [default: ml.g5.xlarge]"
)


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("-f", "--file", type=click.Path(path_type=Path), help="Look at what a file asks for.")
@regions_option
@_types_option
@click.option("--instance-count", type=int, help="How many of each MODEL.  [default: 1]")
@click.option("--name", help="The endpoint's, instead of the model's.")
@click.option("--role-arn", help="The execution role; default: found by convention.")
@click.option("--package-arn", help="The model package's, where the catalogue has none or an old one.")
@click.option("--shared-licence", is_flag=True, help="Another account shares its subscription with this one.")
@profile_option
@show.json_option
def doctor(
    models: tuple[str, ...],
    file: Path | None,
    regions: tuple[str, ...],
    instance_types: tuple[str, ...],
    instance_count: int | None,
    name: str | None,
    role_arn: str | None,
    package_arn: str | None,
    shared_licence: bool,
    profile: str | None,
    as_json: bool,
) -> None:
    """Find every reason why deploying each MODEL, or what a file asks for, would fail; make nothing.

    Without either it looks at what every model needs. Each reason has the command that mends it; what could not be
    found out is said to be unknown. Exit code 1 where anything would fail.
    """
    from jina_sm import catalog
    from jina_sm.deploy import doctor as looking
    from jina_sm.deploy import fleetfile, spec

    if file and (models or instance_types or regions or instance_count or name or role_arn or package_arn):
        raise click.UsageError("With -f, all else is said in the file.")
    if (name or package_arn) and len(models) != 1:
        raise click.UsageError("--name and --package-arn are one model's.")
    if not models and (instance_count or role_arn or shared_licence) and not file:
        raise click.UsageError("Name a model, or a file with -f.")
    known = catalog.load()
    if package_arn:
        known = known.with_package(models[0], package_arn)
    aws = session(profile)
    if file:
        wanted = fleetfile.read(file, known, lambda: home_regions((), aws))
        where: tuple[str, ...] = ()
    else:
        settings = {
            "instance_types": instance_types or None,
            "instance_count": instance_count,
            "name": name,
            "role_arn": role_arn,
        }
        given = {key: value for key, value in settings.items() if value is not None}
        for model in models:
            known.model(model)
        where = home_regions(regions, aws)
        wanted = [spec.checked(known, model=model, regions=where, **given) for model in models]
    report = looking.doctor(
        wanted,
        regions=where,
        instance_types=instance_types,
        shared_licence=shared_licence,
        session=aws,
        known=known,
    )
    if as_json:
        show.json({"ok": not report.failed, "checks": [asdict(each) for each in report.checks]})
    else:
        _show(report.checks)
    if report.failed:
        raise click.exceptions.Exit(1)


@click.group(invoke_without_command=True)
@regions_option
@_types_option
@profile_option
@show.json_option
@click.pass_context
def quota(
    context: click.Context,
    regions: tuple[str, ...],
    instance_types: tuple[str, ...],
    profile: str | None,
    as_json: bool,
) -> None:
    """Show how many instances of a type endpoints may have, how many they have, and what is left, per region."""
    if context.invoked_subcommand:
        if regions or instance_types or profile or as_json:
            raise click.UsageError(f"Options come after `{context.invoked_subcommand}`.")
        return
    from jina_sm.deploy import doctor as looking
    from jina_sm.errors import JinaSMError

    aws = session(profile)
    found = looking.rooms(
        regions=home_regions(regions, aws), instance_types=instance_types or ("ml.g5.xlarge",), session=aws
    )
    rows = [(region, kind, room) for region, by_type in found.items() for kind, room in by_type.items()]
    if as_json:
        show.json([_room_json(*row) for row in rows])
    else:
        head = ("REGION", "INSTANCE TYPE", "QUOTA", "IN USE", "LEFT", "ASKED FOR", "CODE")
        show.table(head, [_room_row(*row) for row in rows])
        for region, kind, room in rows:
            for error in (room.quota, room.use):
                if isinstance(error, JinaSMError):
                    show.say(f"{region} {kind}: {error}")
    if any(isinstance(room.quota, JinaSMError) or isinstance(room.use, JinaSMError) for _, _, room in rows):
        raise click.exceptions.Exit(1)


@quota.command()
@click.option("--instance-type", required=True, help="The type, such as ml.g5.xlarge.")
@click.option("--value", type=click.IntRange(1), required=True, help="How many there should be in all.")
@regions_option
@profile_option
@show.yes_option
@show.json_option
def request(
    instance_type: str, value: int, regions: tuple[str, ...], profile: str | None, yes: bool, as_json: bool
) -> None:
    """Ask AWS to raise a quota, in one region or several. It costs nothing, and AWS takes hours or days.

    A request that is open already is named and not made twice.
    """
    from jina_sm.deploy import doctor as looking
    from jina_sm.errors import InputError, JinaSMError

    aws = session(profile)
    where = home_regions(regions, aws)
    found = {
        region: by_type[instance_type]
        for region, by_type in looking.rooms(regions=where, instance_types=(instance_type,), session=aws).items()
    }
    for region, room in found.items():
        if isinstance(room.quota, JinaSMError):
            raise room.quota
        if value <= room.quota.value and not room.open:
            raise InputError(f"{region} allows {room.quota.value} {instance_type} already, and {value} is not more")
        if not room.open:  # else it is answered at the end
            show.say(f"{region}: {_asking(value, room)}")
    if not all(room.open for room in found.values()):
        show.confirm("Ask AWS for this?", yes)
    with reported(as_json):
        asked = looking.ask(instance_type, value, regions=where, session=aws)
    if as_json:
        return show.json({region: asdict(each) for region, each in asked.items()})
    for region, each in asked.items():
        click.echo(f"{region}: {_told(each)}")
    return None


def _show(checks: Iterable[Check]) -> None:
    """One row of what is the same in several regions; the cures below, each once."""
    from jina_sm.deploy import preflight

    alike: dict[tuple[str, str, str, str], list[Check]] = defaultdict(list)
    for each in checks:
        alike[each.verdict, each.name, each.subject, each.seen].append(each)
    tally: dict[str, int] = defaultdict(int)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for (verdict, name, subject, seen), some in alike.items():
        tally[verdict] += len(some)
        regions = [each.region for each in some if each.region]
        where = f"{len(regions)} regions" if len(regions) > 3 and verdict == "ok" else ", ".join(regions)
        about = " ".join(part for part in (subject, f"in {where}" if where else "") if part)
        said = f"{about}: {seen}" if about and about not in seen else seen
        told = _wrapped(f"{verdict:<8} {name:<13}", said, width)
        click.echo(click.style(told[:8], fg=_COLOURS[verdict]) + told[8:])
        for cure in preflight.cures(some):
            click.echo(_wrapped(" " * 22 + "->", cure, width))
    counted = ", ".join(f"{count} {verdict}" for verdict, count in tally.items())
    show.say(f"{counted}: {'it would fail' if tally['fail'] else 'nothing that would stop it was found'}")


def _wrapped(head: str, text: str, width: int) -> str:
    if not width:
        return f"{head} {text}"
    indent = " " * (len(head) + 1)
    lines = textwrap.wrap(text, max(width - len(indent), 30), break_long_words=False, break_on_hyphens=False)
    return f"{head} " + f"\n{indent}".join(lines)


def _room_row(region: str, kind: str, room: Room) -> tuple[object, ...]:
    said = _room_json(region, kind, room)
    asked = f"{room.open.desired} ({room.open.status})" if room.open else "-"
    shown = ["-" if said[key] is None else said[key] for key in ("quota", "in_use", "left")]
    return (region, kind, *shown, asked, said["code"] or "-")


def _room_json(region: str, kind: str, room: Room) -> dict[str, Any]:
    from jina_sm.errors import JinaSMError

    quota = None if isinstance(room.quota, JinaSMError) else room.quota
    use = None if isinstance(room.use, JinaSMError) else room.use
    failed: list[JinaSMError] = [each for each in (room.quota, room.use) if isinstance(each, JinaSMError)]
    return {
        "region": region,
        "instance_type": kind,
        "code": quota and quota.code,
        "quota": quota and quota.value,
        "applied": quota and quota.applied,
        "in_use": use and use.instances,
        "in_use_source": use and ("endpoints" if use.counted else "CloudWatch"),
        "left": quota.value - use.instances if quota and use else None,
        "asked_for": room.open and asdict(room.open),
        "error": "; ".join(str(each) for each in failed) or None,
    }


def _asking(value: int, room: Room) -> str:
    now = getattr(room.quota, "value", "?")
    return f"from {now} to {value} {getattr(room.quota, 'instance_type', '')} (quota {getattr(room.quota, 'code', '')})"


def _told(each: Increase) -> str:
    when = f" on {each.created[:10]}" if each.created and not each.new else ""
    said = "asked for" if each.new else f"already asked for{when}:"
    return f"{said} {each.desired} {each.instance_type}, {each.status} (request {each.request_id})"
