"""Subscribing, deploying, looking, tearing down."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import amounts, show
from jina_sm.errors import DeployError, InputError, JinaSMError, PartialError

if TYPE_CHECKING:
    from jina_sm.catalog import Catalog
    from jina_sm.cli.beside import Beside
    from jina_sm.deploy.cost import Cost, Key
    from jina_sm.deploy.marketplace import Offer
    from jina_sm.deploy.plan import Endpoint, Step
    from jina_sm.deploy.preflight import Check
    from jina_sm.deploy.run import Inventory, Plan
    from jina_sm.deploy.spec import Spec

HOURS_A_MONTH = 730
regions_option = click.option(
    "--region",
    "-r",
    "regions",
    multiple=True,
    metavar="REGION",
    help="Again for each; default: JINA_SM_REGIONS, AWS's.",
)
everywhere_option = click.option(
    "--region", "-r", "regions", multiple=True, metavar="REGION", help="Again for each; default: all there are."
)
ceiling_option = click.option(
    "--max-usd-per-hour",
    "ceiling",
    metavar="USD",
    callback=amounts.exact,
    help="Refuse what may cost more than that, scaled out to the most, or what is not known to cost less.",
)
profile_option = click.option("--profile", metavar="NAME", help="The AWS profile, instead of the environment's.")


def session(profile: str | None) -> Any:
    from jina_sm.transport.session import session as made

    return made(profile)


def session_for(profile: str | None, targets: Sequence[str]) -> Any:
    """That of the profile; None: the environment's. ``targets``: what is asked, if that was said. Raises InputError."""
    if profile is None:
        return None
    if targets and not any("sagemaker://" in each.lower() for each in targets):
        raise InputError("--profile is AWS's, and no --target is a SageMaker endpoint", cure="Leave it out.")
    return session(profile)


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
    if agreement.new and found.free_trial and not agreement.trial:
        show.say("AWS granted no free trial, as it does once: what runs is billed from the beginning.")
    if as_json:
        said = {"model": found.model, "agreement_id": agreement.agreement_id, "new": agreement.new}
        return show.json(said | {"free_trial": agreement.trial} if agreement.new else said)
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
@click.option(
    "--async",
    "async_to",
    metavar="S3_URI",
    help="Asynchronous, with results there ({region} is filled in); not verified for Marketplace packages.",
)
@click.option("--ttl", metavar="DURATION", help="AWS deletes the endpoint after it (90m, 8h, 2d).")
@click.option("--name", help="The endpoint's, instead of the model's (jina-sm- is put before it).")
@click.option("--role-arn", help="The execution role; default: found by convention.")
@click.option("--create-role", is_flag=True, help="Make the execution role jina-sm-execution if there is none.")
@click.option("--package-arn", help="The model package's, where the catalogue has none or an old one.")
@click.option("--shared-licence", is_flag=True, help="Another account shares its subscription with this one.")
@click.option("--no-preflight", is_flag=True, help="Don't look at quotas, package and permissions; AWS will say.")
@click.option("--prune", is_flag=True, help="With -f, also remove the endpoints of ours that the file does not name.")
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be changed and what it costs; do nothing.")
@ceiling_option
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
    async_to: str | None,
    ttl: str | None,
    name: str | None,
    role_arn: str | None,
    create_role: bool,
    package_arn: str | None,
    shared_licence: bool,
    no_preflight: bool,
    prune: bool,
    only_plan: bool,
    ceiling: Decimal | None,
    profile: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Put each MODEL, or what a file says, into service in one region or several.

    Finds nothing to do where it is already there, and goes on where an earlier run was interrupted. What is not given
    is taken off: without --ttl or --autoscaling, one of before goes. A region that fails is rolled back; the others
    stand. What is there and not in the file is listed, whatever its region, and stays unless --prune is given.
    """
    from jina_sm import catalog
    from jina_sm.cli import beside as unnamed
    from jina_sm.deploy import cost, fleetfile, run, spec

    settings = {
        "instance_type": instance_types[0] if len(instance_types) == 1 else None,
        "instance_types": instance_types if len(instance_types) > 1 else None,
        "instance_count": instance_count,
        "autoscaling": _bounds(autoscaling),
        "async_inference": {"s3_output": async_to} if async_to else None,
        "ttl": ttl,
        "name": name,
        "role_arn": role_arn,
    }
    given = {key: value for key, value in settings.items() if value is not None}
    _check(models, file, said_beside=bool(given or regions or package_arn), ones_own=name or package_arn, prune=prune)
    known = catalog.load()
    if package_arn:
        known = known.with_package(models[0], package_arn)
    for model in models:
        known.model(model)
    aws = session(profile)
    if file:
        wanted = fleetfile.read(file, known, lambda: home_regions((), aws))
    else:
        home = home_regions(regions, aws)
        wanted = [spec.checked(known, model=model, regions=home, **given) for model in models]
    options = {"shared_licence": shared_licence, "preflight": not no_preflight, "create_role": create_role}
    plans = run.plan_all(wanted, session=aws, known=known, **options)
    beside = unnamed.found(file, plans, aws, known, prune=prune) if file else None
    if only_plan:
        _tell_plans(plans, beside, as_json)
    else:
        _show_plans(plans, beside, show.say)
    cost.check_ceiling((there.most_usd_per_hour for plan in plans for there in plan.regions.values()), ceiling)
    if only_plan:
        return
    _agreed(plans, beside, yes)
    endpoints = _run(plans, aws, as_json)
    failure = beside.remove(aws) if beside else None
    removed = bool(beside and beside.prune) and failure is None
    if as_json:
        _tell_endpoints(endpoints, beside, removed)
    else:
        _tell_done(endpoints, wanted, known)
        if beside:
            beside.told(removed=removed)
    if failure:
        raise failure
    if beside:
        beside.check()


def _check(models: tuple[str, ...], file: Path | None, *, said_beside: bool, ones_own: str | None, prune: bool) -> None:
    if bool(models) == bool(file):
        raise click.UsageError("Name a model, or a file with -f.")
    if file and said_beside:
        raise click.UsageError("With -f, all else is said in the file.")
    if ones_own and len(models) > 1:
        raise click.UsageError("--name and --package-arn are one model's.")
    if prune and not file:
        raise click.UsageError("--prune is for a file: it removes what the file does not name.")


def _agreed(plans: list[Plan], beside: Beside | None, yes: bool) -> None:
    todo = ["deploy this"] if any(not plan.empty for plan in plans) else []
    if beside and beside.steps:
        todo.append("remove what is not in the file")
    if todo:
        show.confirm(f"{' and '.join(todo).capitalize()}?", yes)


def _tell_plans(plans: list[Plan], beside: Beside | None, as_json: bool) -> None:
    said = [_plan_json(plan) for plan in plans]
    if not as_json:
        _show_plans(plans, beside, click.echo)
    elif beside:
        beside.json("plans", said)
    else:
        show.json(said[0] if len(said) == 1 else said)


def _tell_done(endpoints: Mapping[str, Mapping[str, Endpoint]], wanted: Sequence[Spec], known: Catalog) -> None:
    from jina_sm import catalog

    for there in endpoints.values():
        for region, endpoint in there.items():
            click.echo(f"{region}: {endpoint.name} {endpoint.status}")
    if any(each.async_inference for each in wanted):
        show.say("What is asynchronous is asked by InvokeEndpointAsync, not by this package's client.")
    for each in wanted:
        until = f" or its end in {each.ttl / 3600:g} h at the latest" if each.ttl else ""
        # The model's name would take every endpoint of the model.
        what = catalog.endpoint_name(known.model(each.model), each.name) if each.name else each.model
        show.say(f"Billed until `jina-sm teardown {what}`{until}.")


def _tell_endpoints(endpoints: Mapping[str, Mapping[str, Endpoint]], beside: Beside | None, removed: bool) -> None:
    told = {
        name: {region: endpoint_json(endpoint) for region, endpoint in there.items()}
        for name, there in endpoints.items()
    }
    if beside:
        beside.json("endpoints", told, removed=removed)
    else:
        show.json(next(iter(told.values())) if len(told) == 1 else told)


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
@click.argument("target", metavar="[MODEL|NAME]", required=False)
@everywhere_option
@profile_option
@show.json_option
def status(target: str | None, regions: tuple[str, ...], profile: str | None, as_json: bool) -> None:
    """Show what this tool has deployed: all of it, a MODEL's endpoints, or the one of a NAME.

    Looks in all regions where model packages exist, unless --region is given, and names each one. What an endpoint
    has cost so far is estimated from what it has now.
    """
    from jina_sm.deploy import cost, run

    aws = session(profile)
    inventory = run.found(target, regions=regions, session=aws) if target else run.status(regions=regions, session=aws)
    spent = cost.costs(inventory, session=aws)
    if as_json:
        show.json(_inventory_json(inventory, spent))
    else:
        _show_inventory(inventory, spent)
    if inventory.failed:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("target", metavar="[MODEL|NAME]", required=False)
@click.option("--all", "every", is_flag=True, help="Everything this tool has deployed.")
@click.option("--logs", is_flag=True, help="And the endpoints' log groups, which go by name.")
@everywhere_option
@profile_option
@show.yes_option
@show.json_option
def teardown(
    target: str | None,
    every: bool,
    logs: bool,
    regions: tuple[str, ...],
    profile: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove a MODEL's endpoints, or the one of a NAME, or --all, with all that belongs to them, and look again.

    That is autoscaling, schedules, configs and models. Looks in all regions unless --region is given. Only what carries
    this tool's tags is removed.
    """
    from jina_sm.deploy import plan, run

    if bool(target) == every:
        raise click.UsageError("Name a model or an endpoint, or pass --all.")
    aws = session(profile)
    if target:
        inventory = run.found(target, regions=regions, logs=logs, session=aws)
    else:
        inventory = run.status(regions=regions, logs=logs, role=not regions, session=aws)
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
        left = run.teardown(session=aws, inventory=inventory, on_event=listener)
    for name in dict.fromkeys(step.name for step in left.role):
        show.say(f"role {name} stays: removing it takes the policy that `jina-sm iam role-maker` prints")
    if as_json:
        return show.json(_inventory_json(left))
    _show_inventory(left)
    kinds = ["endpoints", "configs", "models", "autoscaling", "schedules", *(["log groups"] if logs else [])]
    looked = sum(not found.skipped for found in left.found.values())
    whose = left.endpoint or (left.model.key if left.model else "ours")
    click.echo(f"looked {'again ' if there else ''}in {looked} regions for {', '.join(kinds)} of {whose}: none is left")
    return None


@contextmanager
def reported(as_json: bool) -> Iterator[None]:
    """What is done and what is not goes to stdout too, before the error ends the command; with it go the logs."""
    try:
        yield
    except (DeployError, PartialError) as error:
        failed = error.failed if isinstance(error, PartialError) else {error.region or "": error}
        if as_json:
            show.json(
                {
                    "done": error.done if isinstance(error, PartialError) else (),
                    "failed": {region: str(each) for region, each in failed.items()},
                    "details": {region: _failure_json(each) for region, each in failed.items()},
                }
            )
        for region, each in failed.items():
            _show_log(region, each)
        raise
    except JinaSMError as error:
        if as_json:
            show.json({"done": (), "failed": {error.region or "": str(error)}})
        raise


def _failure_json(error: JinaSMError) -> dict[str, Any]:
    said = {"kind": type(error).__name__, "reason": error.message, "cure": error.cure}
    if isinstance(error, DeployError) and error.log_group:
        said |= {name: getattr(error, name) for name in ("seconds_in", "launched", "log_group", "log_tail")}
    return said


def _show_log(region: str, error: JinaSMError) -> None:
    if not isinstance(error, DeployError) or not error.log_group:
        return
    spent = ", ".join(f"{status} {seconds:.0f}s" for status, seconds in error.seconds_in.items())
    show.say(f"{region}: {spent}" if spent else region)
    if error.launched is False:
        show.say(f"  no log in {error.log_group}: the container never launched")
    elif error.launched and error.log_tail:
        show.say(f"  {error.log_group} ends:")
    for line in error.log_tail:
        show.say(f"  | {line}")


def home_regions(regions: tuple[str, ...], aws: Any) -> tuple[str, ...]:
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


def _show_plans(plans: list[Plan], beside: Beside | None, tell: Any) -> None:
    from jina_sm.deploy.asynchronous import UNVERIFIED

    total: Decimal | None = Decimal(0)
    most: Decimal | None = Decimal(0)
    for plan in plans:
        for region, there in plan.regions.items():
            desired = there.desired
            tell(region if len(plans) == 1 else f"{region} {desired.endpoint}")
            for change in there.changes:
                tell(f"  ~ {change}")
            for step in there.steps:
                tell(f"  {sign(step)} {step}")
            if not there.steps:
                tell(f"  nothing to do: {desired.endpoint} is in service as it should be")
            usd, count = there.usd_per_hour, desired.instance_count
            total = None if usd is None or total is None else total + usd
            peak = max(desired.scaling.most, count) if desired.scaling else count
            most = None if usd is None or most is None else most + usd / count * peak
            what = f"{count} x {desired.instance_type}"
            tell(f"  {what}: instance {_usd(there.instance.usd)} [{there.instance.source}]")
            tell(f"  {' ' * len(what)}  software {_usd(there.software.usd)} [{there.software.source}]")
            _show_doubts(there.checks, "  ! ", tell)
            if desired.asynchronous:
                tell(
                    f"  asynchronous, to {desired.asynchronous.output}, where {desired.role_arn} must be able to write"
                )
                tell(f"    {UNVERIFIED}")
            if desired.fallbacks:
                tell(f"  instead, where AWS has none to give: {', '.join(desired.fallbacks)}, at their price")
        _show_doubts(plan.checks, "! ", tell)
        if plan.subscribed is None:
            tell("Whether the account is subscribed could not be found out; AWS will say when the model is made.")
    if total is None:
        tell("In service: the price is not known, see above.")
    else:
        tell(f"In service: {total:.3f} USD an hour, {total * 24:.2f} a day, {total * HOURS_A_MONTH:.2f} a month.")
    if most and most != total:
        tell(f"Scaled out to the most: {most:.3f} USD an hour.")
    if beside:
        beside.show(tell)


def _show_doubts(checks: Iterable[Check], mark: str, tell: Any) -> None:
    for check in checks:
        if check.verdict != "ok":
            tell(f"{mark}{check}")


def sign(step: Step) -> str:
    """+ for what is made, - for what is removed, ~ for what is changed."""
    if not hasattr(step, "operation"):
        return " "
    verb = step.operation.partition("_")[0]
    return {"create": "+", "register": "+", "delete": "-", "deregister": "-"}.get(verb, "~")


def _usd(amount: Decimal | None) -> str:
    return "unknown" if amount is None else f"{amount} USD/h"


def step_json(step: Step) -> dict[str, Any]:
    from jina_sm.deploy.plan import Call

    if isinstance(step, Call):
        return {"operation": step.operation, "params": dict(step.params)}
    return {"wait": step.endpoint, "until": sorted(str(each or "gone") for each in step.until)}


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.spec.model,
        "subscribed": plan.subscribed,
        "checks": [asdict(each) for each in plan.checks],
        "regions": {
            region: {
                "steps": [step_json(step) for step in there.steps],
                "changes": there.changes,
                "checks": [asdict(each) for each in there.checks],
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


def _inventory_json(inventory: Inventory, spent: Mapping[Key, Cost] = MappingProxyType({})) -> dict[str, Any]:
    looked: dict[str, Any] = {
        region: {
            "skipped": found.skipped,
            "endpoints": [
                endpoint_json(endpoint) | cost_json(spent.get((region, endpoint.name)))
                for endpoint in found.state.endpoints
            ],
            "configs": found.state.configs,
            "models": found.state.models,
            "paused": found.state.paused,
            "autoscaling": {
                each.endpoint: {"min": each.least, "max": each.most, "policies": dict(each.policies)}
                for each in found.state.targets
            },
            "deleted_at": {each.endpoint: each.ends for each in found.state.schedules if each.ends},
            "alarms": [each.name for each in found.state.alarms],
            "logs": found.state.logs,
        }
        for region, found in inventory.found.items()
    }
    return looked | {region: {"error": str(error)} for region, error in inventory.failed.items()}


def cost_json(cost: Cost | None) -> dict[str, Any]:
    if cost is None:
        return {}
    return {
        "cost": {
            "usd_per_hour": cost.usd_per_hour,
            "hours": cost.hours.quantize(Decimal("0.01")),
            "accrued_usd_estimate": cost.accrued,
            "instances": [
                {
                    "instance_type": part.instance_type,
                    "count": part.count,
                    "instance_usd_per_hour": part.instance.usd,
                    "instance_price_source": part.instance.source,
                    "software_usd_per_hour": part.software.usd,
                    "software_price_source": part.software.source,
                }
                for part in cost.parts
            ],
            "unknown": cost.unknown or None,
        }
    }


def _cost_cells(cost: Cost | None, endpoint: Endpoint) -> tuple[str, ...]:
    """Age, USD an hour, USD so far."""
    if cost is None:
        return (f"{endpoint.created:%Y-%m-%d}", "", "")
    rate = "unknown" if cost.usd_per_hour is None else f"{cost.usd_per_hour:.3f}"
    return (_age(cost.hours), rate, "unknown" if cost.accrued is None else f"{cost.accrued:.2f}")


def _age(hours: Decimal) -> str:
    if hours < 1:
        return f"{int(hours * 60)}m"
    return f"{int(hours)}h" if hours < 48 else f"{int(hours // 24)}d"


def _show_costs(spent: Mapping[Key, Cost]) -> None:
    from jina_sm.deploy.cost import sources, total

    if not spent:
        return
    priced = [each for each in spent.values() if each.usd_per_hour is not None]
    rate, so_far = total(each.usd_per_hour for each in priced), total(each.accrued for each in priced)
    less = f", without {len(spent) - len(priced)} of unknown price" if len(priced) < len(spent) else ""
    click.echo(f"All of it: {rate:.3f} USD an hour, about {so_far:.2f} USD so far{less}.")
    click.echo("So far is an estimate: what is there now, at today's prices, since its creation.")
    click.echo("It knows of no scaling and no pause in between. Prices:")
    for source, about in sources(spent).items():
        words = textwrap.wrap(f"{source}: {', '.join(about)}", 80, initial_indent="  ", subsequent_indent="    ")
        click.echo("\n".join(words))


def _show_inventory(inventory: Inventory, spent: Mapping[Key, Cost] = MappingProxyType({})) -> None:
    rows: list[tuple[str, ...]] = []
    unused: list[str] = []
    notes: list[str] = []
    for region, found in inventory.found.items():
        endpoints, used = found.state.endpoints, {each.config for each in found.state.endpoints}
        for each in endpoints:
            cells = _cost_cells(spent.get((region, each.name)), each)
            rows.append((region, each.name, each.status, str(each.instances), *cells))
        paused = found.state.paused
        rows += [(region, name, "Paused", "0", "", "", "") for name in paused]
        notes += [f"{region}: {each.endpoint} scales {each.least}-{each.most}" for each in found.state.targets]
        notes += [
            f"{region}: {each.endpoint} is deleted at {each.ends:%Y-%m-%d %H:%M} UTC"
            for each in found.state.schedules
            if each.ends
        ]
        if not endpoints and not paused:
            said = "region not enabled" if found.skipped else "nothing" if found.state.empty else "no endpoint"
            rows.append((region, f"- ({said})", *[""] * 5))
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
    show.table(("REGION", "ENDPOINT", "STATUS", "COUNT", "AGE", "USD/H", "SO FAR"), rows, gives=1)
    _show_costs(spent)
    for note in notes:
        click.echo(note)
    if unused:
        click.echo("Not in use (these cost nothing, and `jina-sm teardown` removes them):")
    for name in unused:
        click.echo(f"  {name}")
    show_failures(inventory.failed)


def show_failures(failed: Mapping[str, JinaSMError]) -> None:
    from jina_sm.deploy.run import alike

    for where, error in alike(failed):
        show.say(f"error: {where} could not be listed: {error}")
