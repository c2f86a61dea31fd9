"""
Deploying, looking and tearing down, in several regions side by side.

Each region is observed, planned and run on its own thread; one that fails is rolled back by what this run made
there, and the others stand. Nothing is remembered between runs: what is, is read from AWS.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeVar

from jina_sm import catalog
from jina_sm.clock import Clock
from jina_sm.deploy import plan as plans
from jina_sm.deploy.aws import ControlPlane, disabled, execution_role, failure, identity
from jina_sm.deploy.marketplace import Agreement, Marketplace, Offer
from jina_sm.deploy.plan import Call, Desired, Endpoint, State, Step, Wait
from jina_sm.deploy.pricing import Price, instance_price
from jina_sm.deploy.spec import Spec, checked
from jina_sm.errors import DeployError, EndpointFailedError, JinaSMError, NotSubscribedError, PartialError
from jina_sm.transport.session import session as default_session

WAIT_S = 3600.0
"""How long an endpoint may take; one whose container fails its health check takes AWS half an hour to give up on."""

_FIRST_POLL_S, _SLOWEST_POLL_S = 1.0, 15.0  # AWS throttles who polls every 5 s; an endpoint takes minutes
_POLLS_LOST = 5

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Event:
    """What a run tells: a step taken or begun, or the status that is waited on."""

    region: str
    step: Step
    status: str | None = None


Listener = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class RegionPlan:
    """What will be done in one region, and what its endpoint will cost an hour once it is there."""

    desired: Desired
    steps: tuple[Step, ...]
    instance: Price
    software: Price

    @property
    def usd_per_hour(self) -> Decimal | None:
        """For all instances, software included; None: not known."""
        if self.instance.usd is None or self.software.usd is None:
            return None
        return (self.instance.usd + self.software.usd) * self.desired.instance_count


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a deployment will do, region by region. ``subscribed=None``: could not be found out."""

    spec: Spec
    regions: Mapping[str, RegionPlan]
    subscribed: bool | None

    @property
    def empty(self) -> bool:
        return not any(each.steps for each in self.regions.values())


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one region has of ours. ``skipped``: the account has not enabled it."""

    region: str
    state: State = field(default_factory=State)
    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What was found in every region looked at, and where looking failed."""

    found: Mapping[str, Found]
    failed: Mapping[str, JinaSMError]


def offer(model: str, *, session: Any = None, known: catalog.Catalog | None = None) -> Offer:
    """The Marketplace offer of a model: price, EULA, terms. Subscribes nothing."""
    return Marketplace(session or default_session()).offer((known or catalog.load()).model(model))


def subscription(model: str, *, session: Any = None, known: catalog.Catalog | None = None) -> Agreement | None:
    """The account's subscription to a model; None: it has none of its own."""
    market, row = Marketplace(session or default_session()), (known or catalog.load()).model(model)
    return market.agreement(row, market.product_id(row))


def subscribe(
    model: str,
    *,
    session: Any = None,
    known: catalog.Catalog | None = None,
    clock: Clock = Clock(),  # noqa: B008
) -> Agreement:
    """Subscribes the account to a model's public offer, unless it is already. Accepting is the purchase."""
    market, row = Marketplace(session or default_session()), (known or catalog.load()).model(model)
    found = market.offer(row)
    return market.agreement(row, found.product_id) or market.subscribe(row, found, clock=clock)


def plan(spec: Spec, *, session: Any = None, known: catalog.Catalog | None = None) -> Plan:
    """What ``deploy`` would do, and at what price. Changes nothing.

    Raises NotSubscribedError, InputError, AuthError or DeployError for what would stop it, before anything is made.
    """
    known = known or catalog.load()
    spec = checked(known, **spec.model_dump())
    aws = session or default_session()
    model, home = known.model(spec.model), spec.regions[0]
    identity(aws, home)
    subscribed, software = _licence(aws, known, model, spec.instance_type)
    if subscribed is False and not model.arns:  # an ARN of one's own needs no subscription
        raise NotSubscribedError(
            f"the account is not subscribed to {model.key}",
            cure=f"`jina-sm subscribe {model.key}` shows the price and subscribes.",
        )
    role = spec.role_arn or execution_role(aws, home)

    def of_region(region: str) -> RegionPlan:
        desired = Desired(
            region=region,
            model=model.key,
            endpoint=catalog.endpoint_name(model, spec.name),
            package_arn=known.package_arn(model, region),
            role_arn=role,
            instance_type=spec.instance_type,
            instance_count=spec.instance_count,
            tags=spec.tags,
        )
        state = ControlPlane(aws, region).observe(desired.endpoint)
        return RegionPlan(
            desired=desired,
            steps=tuple(plans.deployment(desired, state)),
            instance=instance_price(aws, known, spec.instance_type, region),
            software=software,
        )

    done, failed = side_by_side(spec.regions, of_region)
    if len({type(error) for error in failed.values()}) == 1:
        raise next(iter(failed.values()))  # the same everywhere, and nothing is made yet
    _raise_if(failed, {}, "nothing was made")
    return Plan(spec=spec, regions=MappingProxyType(done), subscribed=subscribed)


def deploy(
    spec: Spec | Plan,
    *,
    session: Any = None,
    known: catalog.Catalog | None = None,
    on_event: Listener | None = None,
    clock: Clock = Clock(),  # noqa: B008
) -> dict[str, Endpoint]:
    """The endpoints, in service, by region. A second run finds nothing to do; an interrupted one goes on.

    >>> deploy(Spec(model="jina-embeddings-v3", regions=("us-east-1",)))["us-east-1"].status
    'InService'

    A region that fails is rolled back. Raises its error; with several regions, PartialError, and the others stand.
    """
    aws = session or default_session()
    agreed = spec if isinstance(spec, Plan) else plan(spec, session=aws, known=known)

    def in_region(region: str) -> Endpoint:
        there, name = agreed.regions[region], agreed.regions[region].desired.endpoint
        control = ControlPlane(aws, region)
        made: list[Call] = []
        try:
            _run(there.steps, control, on_event, clock, made)
        except JinaSMError as error:
            _roll_back(made, name, error, control, on_event, clock)
            raise
        endpoint = control.endpoint(name)
        if endpoint is None:
            raise DeployError(f"endpoint {name} has gone", target=name, region=region)
        return endpoint

    done, failed = side_by_side(agreed.regions, in_region)
    _raise_if(failed, done, f"deploying {agreed.spec.model} failed")
    return done


def status(
    *,
    model: str | None = None,
    regions: Sequence[str] | None = None,
    session: Any = None,
    known: catalog.Catalog | None = None,
) -> Inventory:
    """What there is of ours, in the regions given or in all of the catalogue's, of one model or of all."""
    known = known or catalog.load()
    aws = session or default_session()
    key = known.model(model).key if model else None
    for region in regions or ():
        known.check_region(region)
    looked_at = tuple(regions or known.regions)
    identity(aws, looked_at[0])  # so that a refusal below is the region's, not the credentials'

    def at(region: str) -> Found:
        try:
            return Found(region=region, state=ControlPlane(aws, region).ours(model=key))
        except JinaSMError as error:
            if disabled(error):
                return Found(region=region, skipped=True)
            raise

    done, failed = side_by_side(looked_at, at)
    return Inventory(found=MappingProxyType(done), failed=MappingProxyType(failed))


def teardown(
    *,
    model: str | None = None,
    regions: Sequence[str] | None = None,
    session: Any = None,
    known: catalog.Catalog | None = None,
    inventory: Inventory | None = None,
    on_event: Listener | None = None,
    clock: Clock = Clock(),  # noqa: B008
) -> Inventory:
    """Removes all of ours (of one model, or of every one), then looks again: what it returns is what is left.

    Only what carries our tags is removed. Raises PartialError where a region could not be listed or emptied.
    """
    aws, known = session or default_session(), known or catalog.load()
    key = known.model(model).key if model else None
    inventory = inventory or status(model=model, regions=regions, session=aws, known=known)

    def empty(region: str) -> State:
        control = ControlPlane(aws, region)
        _run(plans.teardown(inventory.found[region].state), control, on_event, clock, [])
        left = control.ours(model=key)
        if not left.empty:
            names = [endpoint.name for endpoint in left.endpoints] + [*left.configs, *left.models]
            raise DeployError(f"still there: {', '.join(names)}", cure="Run teardown again.", region=region)
        return left

    todo = [found.region for found in inventory.found.values() if not found.state.empty]
    done, failed = side_by_side(todo, empty)
    failed = {**inventory.failed, **failed}
    _raise_if(failed, done, "teardown is not complete", several=True)
    left = {region: Found(region=region, skipped=found.skipped) for region, found in inventory.found.items()}
    return Inventory(found=MappingProxyType(left), failed=MappingProxyType({}))


def side_by_side(
    regions: Iterable[str], act: Callable[[str], _Result]
) -> tuple[dict[str, _Result], dict[str, JinaSMError]]:
    """What acting gave in each region, and where it failed. An interrupt is raised at once: the threads are daemons,
    and stopping between two calls is what every run can go on from."""
    done: dict[str, _Result] = {}
    failed: dict[str, JinaSMError] = {}
    broken: list[BaseException] = []

    def at(region: str) -> None:
        try:
            done[region] = act(region)
        except JinaSMError as error:
            failed[region] = error
        except BaseException as error:
            broken.append(error)

    order = list(regions)
    threads = [threading.Thread(target=at, args=(region,), daemon=True) for region in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in broken:
        raise error
    return {r: done[r] for r in order if r in done}, {r: failed[r] for r in order if r in failed}


def _licence(aws: Any, known: catalog.Catalog, model: catalog.Model, instance_type: str) -> tuple[bool | None, Price]:
    """Whether the account is subscribed (None: could not be found out), and the software's price."""
    try:
        market = Marketplace(aws)
        found = market.offer(model)
        subscribed: bool | None = market.agreement(model, found.product_id) is not None
        usd = found.hourly.get(instance_type)
        return subscribed, Price(usd, "the Marketplace offer" if usd is not None else "not in the Marketplace offer")
    except JinaSMError as error:
        published = Decimal(known.prices.software) if model.key == "jina-embeddings-v3" else None
        source = f"published {known.prices.date} (Marketplace: {error.message})" if published else error.message
        return None, Price(published, source)


def _roll_back(
    made: Sequence[Call], name: str, error: JinaSMError, control: ControlPlane, on_event: Listener | None, clock: Clock
) -> None:
    try:
        state = control.observe(name)
        if any(endpoint.status not in plans.SETTLED for endpoint in state.endpoints):
            return  # still being made: AWS would delete nothing of it, and the next run goes on from here
        _run(plans.rollback(made, state), control, on_event, clock, [])
    except JinaSMError as another:
        error.cure = f"Rolling back failed too ({another.message}): `jina-sm teardown` removes what is left."


def _run(
    steps: Iterable[Step], control: ControlPlane, on_event: Listener | None, clock: Clock, made: list[Call]
) -> None:
    for step in steps:
        if on_event:
            on_event(Event(control.region, step))
        if isinstance(step, Call):
            control.take(step)
            made.append(step)
        else:
            _wait(step, control, on_event, clock)


def _wait(step: Wait, control: ControlPlane, on_event: Listener | None, clock: Clock) -> None:
    began, pause_s, lost, last = clock.now(), _FIRST_POLL_S, 0, "unknown"
    while True:
        try:
            seen = control.seen(step.endpoint)
        except DeployError:  # a poll that got lost says nothing about the endpoint
            if (lost := lost + 1) >= _POLLS_LOST:
                raise
        else:
            status = seen.status if seen else None
            if (status or "gone") != last and on_event:
                on_event(Event(control.region, step, status or "gone"))
            lost, last = 0 if status else lost + 1, status or "gone"
            if status in step.until and (seen is None or step.config in (None, seen.config)):
                return
            # What was just made or changed may be seen as it was before for a moment, so that is believed later.
            stale = lost < _POLLS_LOST if seen is None else seen.status == "InService" and not seen.reason
            if seen is None and not stale:
                raise EndpointFailedError("it was removed meanwhile", target=step.endpoint, region=control.region)
            if seen and seen.status in plans.SETTLED and "InService" in step.until and not stale:
                raise failure(seen.reason, target=step.endpoint, region=control.region)
        if clock.now() - began > WAIT_S:
            raise DeployError(
                f"still {last} after {WAIT_S / 60:.0f} minutes",
                cure="Run the same command again to go on waiting.",
                target=step.endpoint,
                region=control.region,
            )
        clock.sleep(pause_s)
        pause_s = min(_SLOWEST_POLL_S, pause_s * 1.5)


def _raise_if(failed: Mapping[str, JinaSMError], done: Mapping[str, object], what: str, several: bool = False) -> None:
    if len(failed) == 1 and not done and not several:
        raise next(iter(failed.values()))
    if failed:
        named = "; ".join(f"{region}: {error}" for region, error in failed.items())
        raise PartialError(f"{what}: {named}", done=tuple(done), failed=failed)
