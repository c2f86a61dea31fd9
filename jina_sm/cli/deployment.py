"""Subscribing, deploying, looking, tearing down."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import show
from jina_sm.errors import JinaSMError, PartialError

if TYPE_CHECKING:
    from jina_sm.deploy.marketplace import Offer
    from jina_sm.deploy.plan import Endpoint, Step
    from jina_sm.deploy.run import Inventory, Plan

HOURS_A_MONTH = 730
regions_option = click.option(
    "--region",
    "-r",
    "regions",
    multiple=True,
    metavar="REGION",
    help="Again for each; default: JINA_SM_REGIONS, AWS's.",
)
profile_option = click.option("--profile", metavar="NAME", help="The AWS profile, instead of the environment's.")


def session(profile: str | None) -> Any:
    from jina_sm.transport.session import session as made

    return made(profile)


@click.command()
@click.argument("model")
@profile_option
@show.yes_option
@show.json_option
def subscribe(model: str, profile: str | None, yes: bool, as_json: bool) -> None:
    """Subscribe the account to a MODEL's Marketplace package.

    Shows the price and the licence first. Subscribing costs nothing by itself: what runs is billed by the hour.
    """
    from jina_sm.deploy import run

    aws = session(profile)
    found = run.offer(model, session=aws)
    agreement = run.subscription(model, session=aws)
    show.say(_offer_text(found))
    if agreement is None:
        show.confirm("Accept the licence and subscribe?", yes)
        agreement = run.subscribe(model, offer=found, session=aws)
    if as_json:
        return show.json({"model": found.model, "agreement_id": agreement.agreement_id, "new": agreement.new})
    click.echo(f"{'subscribed' if agreement.new else 'already subscribed'}: {found.model} ({agreement.agreement_id})")
    return None


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "-f", "--file", type=click.Path(path_type=Path), help="Deploy what a file says: `jina-sm init` writes one."
)
@regions_option
@click.option(
    "--instance-type",
    "instance_types",
    multiple=True,
    help="Again for others, which are tried where AWS has none to give.  [default: ml.g5.xlarge]",
)
@click.option("--instance-count", type=int, help="With autoscaling, how many it begins with.  [default: 1]")
@click.option("--autoscaling", metavar="MIN-MAX[@LOAD]", help="How many instances; LOAD: requests at once on each.")
@click.option("--ttl", metavar="DURATION", help="AWS deletes the endpoint after it (90m, 8h, 2d).")
@click.option("--name", help="The endpoint's, instead of the model's (jina-sm- is put before it).")
@click.option("--role-arn", help="The execution role; default: found by convention.")
@click.option("--create-role", is_flag=True, help="Make the execution role jina-sm-execution if there is none.")
@click.option("--package-arn", help="The model package's, where the catalogue has none or an old one.")
@click.option("--shared-licence", is_flag=True, help="Another account shares its subscription with this one.")
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be changed and what it costs; do nothing.")
@profile_option
@show.yes_option
@show.json_option
def deploy(
    models: tuple[str, ...],
    file: Path | None,
    regions: tuple[str, ...],
    instance_types: tuple[str, ...],
    instance_count: int | None,
    autoscaling: str | None,
    ttl: str | None,
    name: str | None,
    role_arn: str | None,
    create_role: bool,
    package_arn: str | None,
    shared_licence: bool,
    only_plan: bool,
    profile: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Put each MODEL, or what a file says, into service in one region or several.

    Finds nothing to do where it is already there, and goes on where an earlier run was interrupted. What is not given
    is taken off: without --ttl or --autoscaling, one of before goes. A region that fails is rolled back; the others
    stand.
    """
    from jina_sm import catalog
    from jina_sm.deploy import fleetfile, run, spec

    settings = {
        "instance_type": instance_types[0] if len(instance_types) == 1 else None,
        "instance_types": instance_types if len(instance_types) > 1 else None,
        "instance_count": instance_count,
        "autoscaling": _bounds(autoscaling),
        "ttl": ttl,
        "name": name,
        "role_arn": role_arn,
    }
    given = {key: value for key, value in settings.items() if value is not None}
    _check(models, file, said_beside=bool(given or regions or package_arn), ones_own=name or package_arn)
    known = catalog.load()
    if package_arn:
        known = known.with_package(models[0], package_arn)
    for model in models:
        known.model(model)
    aws = session(profile)
    if file:
        wanted = fleetfile.read(file, known, lambda: _home((), aws))
    else:
        home = _home(regions, aws)
        wanted = [spec.checked(known, model=model, regions=home, **given) for model in models]
    plans = [
        run.plan(each, session=aws, known=known, shared_licence=shared_licence, create_role=create_role)
        for each in wanted
    ]
    flat = len(plans) == 1 and not file
    if only_plan and as_json:
        said = [_plan_json(plan) for plan in plans]
        return show.json(said[0] if flat else said)
    _show_plans(plans, click.echo if only_plan else show.say)
    if only_plan:
        return None
    if any(not plan.empty for plan in plans):
        show.confirm("Deploy this?", yes)
    endpoints = _run(plans, aws, as_json)
    if as_json:
        told = {
            name: {region: endpoint_json(endpoint) for region, endpoint in there.items()}
            for name, there in endpoints.items()
        }
        return show.json(next(iter(told.values())) if flat else told)
    for there in endpoints.values():
        for region, endpoint in there.items():
            click.echo(f"{region}: {endpoint.name} {endpoint.status}")
    for each in wanted:
        until = f" or its end in {each.ttl / 3600:g} h at the latest" if each.ttl else ""
        show.say(f"Billed until `jina-sm teardown {each.model}`{until}.")
    return None


def _check(models: tuple[str, ...], file: Path | None, *, said_beside: bool, ones_own: str | None) -> None:
    if bool(models) == bool(file):
        raise click.UsageError("Name a model, or a file with -f.")
    if file and said_beside:
        raise click.UsageError("With -f, all else is said in the file.")
    if ones_own and len(models) > 1:
        raise click.UsageError("--name and --package-arn are one model's.")


def _run(plans: list[Plan], aws: Any, as_json: bool) -> dict[str, Mapping[str, Endpoint]]:
    """The endpoints by name and region."""
    from jina_sm.deploy import run

    if len(plans) == 1:
        with reported(as_json), show.progress([*plans[0].regions]) as listener:
            there = run.deploy(plans[0], session=aws, on_event=listener)
            return {next(iter(there.values())).name: there}
    places = [run.place(each) for plan in plans for each in plan.regions.values()]
    with reported(as_json), show.progress(places) as listener:
        return {**run.deploy_all(plans, session=aws, on_event=listener)}


@click.command()
@regions_option
@profile_option
@show.json_option
def status(regions: tuple[str, ...], profile: str | None, as_json: bool) -> None:
    """Show what this tool has deployed.

    Looks in all regions where model packages exist, unless --region is given, and names each one.
    """
    from jina_sm.deploy import run

    inventory = run.status(regions=regions, session=session(profile))
    if as_json:
        show.json(_inventory_json(inventory))
    else:
        _show_inventory(inventory)
    if inventory.failed:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("model", required=False)
@click.option("--all", "every", is_flag=True, help="Everything this tool has deployed.")
@click.option("--logs", is_flag=True, help="And the endpoints' log groups, which go by name.")
@regions_option
@profile_option
@show.yes_option
@show.json_option
def teardown(
    model: str | None,
    every: bool,
    logs: bool,
    regions: tuple[str, ...],
    profile: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove a MODEL's endpoints, autoscaling, schedules, configs and models, or --all, and look again afterwards.

    Looks in all regions unless --region is given. Only what carries this tool's tags is removed.
    """
    from jina_sm.deploy import plan, run

    if bool(model) == every:
        raise click.UsageError("Name a model, or pass --all.")
    aws = session(profile)
    inventory = run.status(model=model, regions=regions, logs=logs, role=every and not regions, session=aws)
    there = [found for found in inventory.found.values() if not found.state.empty]
    for found in there:
        show.say(found.region)
        for step in plan.teardown(found.state):
            show.say(f"  {step}")
    for step in inventory.role:
        show.say(f"{step}")
    if there or inventory.role:
        show.confirm("Remove this?", yes)
    with reported(as_json), show.progress([found.region for found in there]) as listener:
        left = run.teardown(model=model, session=aws, inventory=inventory, on_event=listener)
    for name in dict.fromkeys(step.name for step in left.role):
        show.say(f"role {name} stays: removing it takes the policy that `jina-sm iam role-maker` prints")
    if as_json:
        return show.json(_inventory_json(left))
    _show_inventory(left)
    return None


@contextmanager
def reported(as_json: bool) -> Iterator[None]:
    """What is done and what is not goes to stdout too, before the error ends the command."""
    try:
        yield
    except PartialError as error:
        if as_json:
            show.json({"done": error.done, "failed": {region: str(each) for region, each in error.failed.items()}})
        raise


def _home(regions: tuple[str, ...], aws: Any) -> tuple[str, ...]:
    from jina_sm.client import regions_of

    return tuple(regions_of(regions, aws))


def _offer_text(offer: Offer) -> str:
    lines = [f"{offer.product}", f"  listing        {offer.url}"]
    lines += [f"  licence        {url}" for url in offer.eulas]
    lines += [
        f"  software       {usd} USD an hour on {kind}, beside the instance" for kind, usd in offer.hourly.items()
    ]
    if offer.free_trial:
        lines.append(f"  free trial     {offer.free_trial}")
    return "\n".join(lines)


def _bounds(text: str | None) -> dict[str, Any] | None:
    """Of ``1-4`` or ``1-4@5``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,4})-(\d{1,4})(?:@(\d+(?:\.\d+)?))?", text)
    if not match:
        raise click.BadParameter(f"{text!r} is not like 1-4 or 1-4@5", param_hint="--autoscaling")
    bounds: dict[str, Any] = {"min": int(match[1]), "max": int(match[2])}
    return bounds | ({"target": float(match[3])} if match[3] else {})


def _show_plans(plans: list[Plan], tell: Any) -> None:
    total: Decimal | None = Decimal(0)
    most: Decimal | None = Decimal(0)
    for plan in plans:
        for region, there in plan.regions.items():
            desired = there.desired
            tell(region if len(plans) == 1 else f"{region} {desired.endpoint}")
            for change in there.changes:
                tell(f"  ~ {change}")
            for step in there.steps:
                tell(f"  {_sign(step)} {step}")
            if not there.steps:
                tell(f"  nothing to do: {desired.endpoint} is in service as it should be")
            usd, count = there.usd_per_hour, desired.instance_count
            total = None if usd is None or total is None else total + usd
            peak = max(desired.scaling.most, count) if desired.scaling else count
            most = None if usd is None or most is None else most + usd / count * peak
            what = f"{count} x {desired.instance_type}"
            tell(f"  {what}: instance {_usd(there.instance.usd)} [{there.instance.source}]")
            tell(f"  {' ' * len(what)}  software {_usd(there.software.usd)} [{there.software.source}]")
            if desired.fallbacks:
                tell(f"  instead, where AWS has none to give: {', '.join(desired.fallbacks)}, at their price")
        if plan.subscribed is None:
            tell("Whether the account is subscribed could not be found out; AWS will say when the model is made.")
    if total is None:
        tell("In service: the price is not known, see above.")
    else:
        tell(f"In service: {total:.3f} USD an hour, {total * 24:.2f} a day, {total * HOURS_A_MONTH:.2f} a month.")
    if most and most != total:
        tell(f"Scaled out to the most: {most:.3f} USD an hour.")


def _sign(step: Step) -> str:
    """+ for what is made, - for what is removed, ~ for what is changed."""
    if not hasattr(step, "operation"):
        return " "
    verb = step.operation.partition("_")[0]
    return {"create": "+", "register": "+", "delete": "-", "deregister": "-"}.get(verb, "~")


def _usd(amount: Decimal | None) -> str:
    return "unknown" if amount is None else f"{amount} USD/h"


def _plan_json(plan: Plan) -> dict[str, Any]:
    from jina_sm.deploy.plan import Call

    return {
        "model": plan.spec.model,
        "subscribed": plan.subscribed,
        "regions": {
            region: {
                "steps": [
                    {"operation": step.operation, "params": dict(step.params)}
                    if isinstance(step, Call)
                    else {"wait": step.endpoint, "until": sorted(str(each or "gone") for each in step.until)}
                    for step in there.steps
                ],
                "changes": there.changes,
                "usd_per_hour": there.usd_per_hour,
                "instance_price_source": there.instance.source,
                "software_price_source": there.software.source,
            }
            for region, there in plan.regions.items()
        },
    }


def endpoint_json(endpoint: Endpoint) -> dict[str, Any]:
    names = ("name", "arn", "status", "config", "instances", "created", "reason")
    return {name: getattr(endpoint, name) for name in names} | {"model": endpoint.tags.get("jina-sm:model")}


def _inventory_json(inventory: Inventory) -> dict[str, Any]:
    looked: dict[str, Any] = {
        region: {
            "skipped": found.skipped,
            "endpoints": [endpoint_json(endpoint) for endpoint in found.state.endpoints],
            "configs": found.state.configs,
            "models": found.state.models,
            "paused": found.state.paused,
            "autoscaling": {
                each.endpoint: {"min": each.least, "max": each.most, "policies": dict(each.policies)}
                for each in found.state.targets
            },
            "deleted_at": {each.endpoint: each.ends for each in found.state.schedules if each.ends},
            "logs": found.state.logs,
        }
        for region, found in inventory.found.items()
    }
    return looked | {region: {"error": str(error)} for region, error in inventory.failed.items()}


def _show_inventory(inventory: Inventory) -> None:
    rows: list[tuple[str, ...]] = []
    unused: list[str] = []
    notes: list[str] = []
    for region, found in inventory.found.items():
        endpoints, used = found.state.endpoints, {each.config for each in found.state.endpoints}
        for each in endpoints:
            rows.append((region, each.name, each.status, str(each.instances), f"{each.created:%Y-%m-%d %H:%M}"))
        paused = found.state.paused
        rows += [(region, name, "Paused", "0", "") for name in paused]
        notes += [f"{region}: {each.endpoint} scales {each.least}-{each.most}" for each in found.state.targets]
        notes += [
            f"{region}: {each.endpoint} is deleted at {each.ends:%Y-%m-%d %H:%M} UTC"
            for each in found.state.schedules
            if each.ends
        ]
        if not endpoints and not paused:
            said = "region not enabled" if found.skipped else "nothing" if found.state.empty else "no endpoint"
            rows.append((region, f"- ({said})", "", "", ""))
        kept = {f"{name}-" for name in paused}
        unused += [
            f"{region}: config {name}"
            for name in found.state.configs
            if name not in used and not name.startswith(tuple(kept))
        ]
        unused += [
            f"{region}: model {name}"
            for name in found.state.models
            if not endpoints and not name.startswith(tuple(kept))
        ]
    show.table(("REGION", "ENDPOINT", "STATUS", "COUNT", "CREATED (UTC)"), rows)
    for note in notes:
        click.echo(note)
    if unused:
        click.echo("Not in use (these cost nothing, and `jina-sm teardown` removes them):")
    for name in unused:
        click.echo(f"  {name}")
    _show_failures(inventory.failed)


def _show_failures(failed: Mapping[str, JinaSMError]) -> None:
    for region, error in failed.items():
        show.say(f"error: {region} could not be listed: {error}")
