"""Subscribing, deploying, looking, tearing down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import show
from jina_sm.errors import JinaSMError, PartialError

if TYPE_CHECKING:
    from jina_sm.deploy.marketplace import Offer
    from jina_sm.deploy.plan import Endpoint
    from jina_sm.deploy.run import Inventory, Plan

HOURS_A_MONTH = 730
_regions_option = click.option(
    "--region",
    "-r",
    "regions",
    multiple=True,
    metavar="REGION",
    help="Again for each; default: JINA_SM_REGIONS, AWS's.",
)
_profile_option = click.option("--profile", metavar="NAME", help="The AWS profile, instead of the environment's.")


def _session(profile: str | None) -> Any:
    from jina_sm.transport.session import session

    return session(profile)


@click.command()
@click.argument("model")
@_profile_option
@show.yes_option
@show.json_option
def subscribe(model: str, profile: str | None, yes: bool, as_json: bool) -> None:
    """Subscribe the account to a MODEL's Marketplace package.

    Shows the price and the licence first. Subscribing costs nothing by itself: what runs is billed by the hour.
    """
    from jina_sm.deploy import run

    aws = _session(profile)
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
@click.argument("model")
@_regions_option
@click.option("--instance-type", default="ml.g5.xlarge", show_default=True)
@click.option("--instance-count", type=int, default=1, show_default=True)
@click.option("--name", help="The endpoint's, instead of the model's (jina-sm- is put before it).")
@click.option("--role-arn", help="The execution role; default: found by convention.")
@click.option("--package-arn", help="The model package's, where the catalogue has none or an old one.")
@click.option("--shared-licence", is_flag=True, help="Another account shares its subscription with this one.")
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be done and what it costs; do nothing.")
@_profile_option
@show.yes_option
@show.json_option
def deploy(
    model: str,
    regions: tuple[str, ...],
    instance_type: str,
    instance_count: int,
    name: str | None,
    role_arn: str | None,
    package_arn: str | None,
    shared_licence: bool,
    only_plan: bool,
    profile: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Put a MODEL into service in one region or several.

    Finds nothing to do where it is already there, and goes on where an earlier run was interrupted. A region that
    fails is rolled back; the others stand.
    """
    from jina_sm import catalog
    from jina_sm.deploy import run, spec

    known = catalog.load()
    if package_arn:
        known = known.with_package(model, package_arn)
    known.model(model)
    aws = _session(profile)
    wanted = spec.checked(
        known,
        model=model,
        regions=_home(regions, aws),
        instance_type=instance_type,
        instance_count=instance_count,
        name=name,
        role_arn=role_arn,
    )
    plan = run.plan(wanted, session=aws, known=known, shared_licence=shared_licence)
    if only_plan and as_json:
        return show.json(_plan_json(plan))
    _show_plan(plan, click.echo if only_plan else show.say)
    if only_plan:
        return None
    if not plan.empty:
        show.confirm("Deploy this?", yes)
    with _reported(as_json), show.progress(wanted.regions) as listener:
        endpoints = run.deploy(plan, session=aws, on_event=listener)
    if as_json:
        return show.json({region: _endpoint_json(endpoint) for region, endpoint in endpoints.items()})
    for region, endpoint in endpoints.items():
        click.echo(f"{region}: {endpoint.name} {endpoint.status}")
    show.say(f"Billed until `jina-sm teardown {wanted.model}`.")
    return None


@click.command()
@_regions_option
@_profile_option
@show.json_option
def status(regions: tuple[str, ...], profile: str | None, as_json: bool) -> None:
    """Show what this tool has deployed.

    Looks in all regions where model packages exist, unless --region is given, and names each one.
    """
    from jina_sm.deploy import run

    inventory = run.status(regions=regions, session=_session(profile))
    if as_json:
        show.json(_inventory_json(inventory))
    else:
        _show_inventory(inventory)
    if inventory.failed:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("model", required=False)
@click.option("--all", "every", is_flag=True, help="Everything this tool has deployed.")
@_regions_option
@_profile_option
@show.yes_option
@show.json_option
def teardown(
    model: str | None, every: bool, regions: tuple[str, ...], profile: str | None, yes: bool, as_json: bool
) -> None:
    """Remove a MODEL's endpoints, configs and models, or --all, and look again afterwards.

    Looks in all regions unless --region is given. Only what carries this tool's tags is removed.
    """
    from jina_sm.deploy import plan, run

    if bool(model) == every:
        raise click.UsageError("Name a model, or pass --all.")
    aws = _session(profile)
    inventory = run.status(model=model, regions=regions, session=aws)
    there = [found for found in inventory.found.values() if not found.state.empty]
    for found in there:
        show.say(found.region)
        for step in plan.teardown(found.state):
            show.say(f"  {step}")
    if there:
        show.confirm("Remove this?", yes)
    with _reported(as_json), show.progress([found.region for found in there]) as listener:
        left = run.teardown(model=model, session=aws, inventory=inventory, on_event=listener)
    if as_json:
        return show.json(_inventory_json(left))
    _show_inventory(left)
    return None


@contextmanager
def _reported(as_json: bool) -> Iterator[None]:
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


def _show_plan(plan: Plan, tell: Any) -> None:
    total: Decimal | None = Decimal(0)
    for region, there in plan.regions.items():
        tell(f"{region}")
        for step in there.steps:
            tell(f"  {step}")
        if not there.steps:
            tell(f"  nothing to do: {there.desired.endpoint} is in service as it should be")
        usd, count = there.usd_per_hour, there.desired.instance_count
        total = None if usd is None or total is None else total + usd
        what = f"{count} x {there.desired.instance_type}"
        tell(f"  {what}: instance {_usd(there.instance.usd)} [{there.instance.source}]")
        tell(f"  {' ' * len(what)}  software {_usd(there.software.usd)} [{there.software.source}]")
    if plan.subscribed is None:
        tell("Whether the account is subscribed could not be found out; AWS will say when the model is made.")
    if total is None:
        tell("In service: the price is not known, see above.")
    else:
        tell(f"In service: {total:.3f} USD an hour, {total * 24:.2f} a day, {total * HOURS_A_MONTH:.2f} a month.")


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
                "usd_per_hour": there.usd_per_hour,
                "instance_price_source": there.instance.source,
                "software_price_source": there.software.source,
            }
            for region, there in plan.regions.items()
        },
    }


def _endpoint_json(endpoint: Endpoint) -> dict[str, Any]:
    names = ("name", "arn", "status", "config", "instances", "created", "reason")
    return {name: getattr(endpoint, name) for name in names} | {"model": endpoint.tags.get("jina-sm:model")}


def _inventory_json(inventory: Inventory) -> dict[str, Any]:
    looked: dict[str, Any] = {
        region: {
            "skipped": found.skipped,
            "endpoints": [_endpoint_json(endpoint) for endpoint in found.state.endpoints],
            "configs": found.state.configs,
            "models": found.state.models,
        }
        for region, found in inventory.found.items()
    }
    return looked | {region: {"error": str(error)} for region, error in inventory.failed.items()}


def _show_inventory(inventory: Inventory) -> None:
    rows: list[tuple[str, ...]] = []
    unused: list[str] = []
    for region, found in inventory.found.items():
        endpoints, used = found.state.endpoints, {each.config for each in found.state.endpoints}
        for each in endpoints:
            rows.append((region, each.name, each.status, str(each.instances), f"{each.created:%Y-%m-%d %H:%M}"))
        if not endpoints:
            said = "region not enabled" if found.skipped else "nothing" if found.state.empty else "no endpoint"
            rows.append((region, f"- ({said})", "", "", ""))
        unused += [f"{region}: config {name}" for name in found.state.configs if name not in used]
        unused += [f"{region}: model {name}" for name in found.state.models if not endpoints]
    show.table(("REGION", "ENDPOINT", "STATUS", "COUNT", "CREATED (UTC)"), rows)
    if unused:
        click.echo("Not in use (these cost nothing, and `jina-sm teardown` removes them):")
    for name in unused:
        click.echo(f"  {name}")
    _show_failures(inventory.failed)


def _show_failures(failed: Mapping[str, JinaSMError]) -> None:
    for region, error in failed.items():
        show.say(f"error: {region} could not be listed: {error}")
