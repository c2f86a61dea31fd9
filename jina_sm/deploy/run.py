"""
Deploying, looking and tearing down, in several regions side by side.

Each region is observed, planned and run on its own thread; one that fails is rolled back by what this run made
there, and the others stand. Nothing is remembered between runs: what is, is read from AWS.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeVar

from jina_sm import catalog
from jina_sm.clock import Clock
from jina_sm.deploy import facts, roles, scaling
from jina_sm.deploy import plan as plans
from jina_sm.deploy import preflight as judgement
from jina_sm.deploy.asynchronous import Asynchronous
from jina_sm.deploy.aws import (
    BusyError,
    ControlPlane,
    NotThereError,
    NotYetError,
    Seen,
    disabled,
    execution_role,
    execution_role_left,
    failure,
    identity,
    made_role,
    schedule_role,
    schedule_role_left,
)
from jina_sm.deploy.marketplace import Agreement, Marketplace, Offer
from jina_sm.deploy.plan import Call, Desired, Endpoint, State, Step, Wait
from jina_sm.deploy.preflight import Check, Need, Room
from jina_sm.deploy.pricing import Price, instance_price
from jina_sm.deploy.scaling import Scaling
from jina_sm.deploy.spec import Spec, checked, filled
from jina_sm.deploy.ttl import Ttl
from jina_sm.errors import (
    AuthError,
    DeployError,
    EndpointFailedError,
    InputError,
    JinaSMError,
    NotSubscribedError,
    PartialError,
)
from jina_sm.fleet import Fleet
from jina_sm.transport.session import session as default_session

WAIT_S = 3600.0
"""How long an endpoint may take; one whose container fails its health check takes AWS half an hour to give up on."""

_FIRST_POLL_S, _SLOWEST_POLL_S = 1.0, 15.0  # AWS throttles who polls every 5 s; an endpoint takes minutes
_POLLS_LOST = 5
_SKEW_S = 5.0  # between two of AWS's clocks, or ours and theirs
_SEEN_S, _SEEN_POLL_S = 60.0, 5.0  # until all of AWS sees a new role

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """What a run tells: a step taken or begun, or the status that is waited on.

    ``before``: the status that this one has followed, which lasted ``seconds``.
    """

    region: str
    step: Step
    status: str | None = None
    before: str | None = None
    seconds: float = 0.0


Listener = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class RegionPlan:
    """What will be done in one region, and what its endpoint will cost an hour once it is there.

    ``changes``: what is different from what serves now. ``needs``: what it asks of the quotas, which have ``rooms``.
    """

    desired: Desired
    steps: tuple[Step, ...]
    instance: Price
    software: Price
    changes: tuple[str, ...] = ()
    scaled: Scaling | None = None
    """How it scaled before."""
    checks: tuple[Check, ...] = ()
    needs: tuple[Need, ...] = ()
    rooms: Mapping[str, Room] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def usd_per_hour(self) -> Decimal | None:
        """For all instances, software included; None: not known."""
        if self.instance.usd is None or self.software.usd is None:
            return None
        return (self.instance.usd + self.software.usd) * self.desired.instance_count

    @property
    def most_usd_per_hour(self) -> Decimal | None:
        """As ``usd_per_hour``, scaled out to the most. None also where another type may be taken, at its own price."""
        usd, count, scaled = self.usd_per_hour, self.desired.instance_count, self.desired.scaling
        if usd is None or self.desired.fallbacks:
            return None
        return usd / count * max(scaled.most, count) if scaled else usd


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a deployment will do, region by region. ``subscribed=None``: could not be found out.

    ``checks``: what it depends on in the account, beside what it does in each region.
    """

    spec: Spec
    regions: Mapping[str, RegionPlan]
    subscribed: bool | None
    checks: tuple[Check, ...] = ()

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
    """What was found in every region looked at, and where looking failed.

    ``model``, ``endpoint``: what was looked for; None: of whatever model, of whatever name. ``role``: the calls that
    remove the roles that are ours and that nothing uses, if they were asked for.
    """

    found: Mapping[str, Found]
    failed: Mapping[str, JinaSMError]
    role: tuple[Call, ...] = ()
    model: catalog.Model | None = None
    endpoint: str | None = None


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
    offer: Offer | None = None,
    session: Any = None,
    known: catalog.Catalog | None = None,
    clock: Clock = Clock(),  # noqa: B008
) -> Agreement:
    """Subscribes the account to a model, unless it is already. Accepting is the purchase.

    ``offer``: the one that was shown, so that this and no other is accepted; None: the public one in force.
    """
    market, row = Marketplace(session or default_session()), (known or catalog.load()).model(model)
    offer = offer or market.offer(row)
    if there := market.agreement(row, offer.product_id):
        return market.entitled(row, there, clock=clock)
    return market.subscribe(row, offer, clock=clock)


def plan(
    spec: Spec,
    *,
    session: Any = None,
    known: catalog.Catalog | None = None,
    shared_licence: bool = False,
    preflight: bool = True,
    create_role: bool = False,
) -> Plan:
    """What ``deploy`` would do, and at what price. Changes nothing.

    ``shared_licence``: another account shares its subscription with this one, which the Marketplace does not tell.
    ``preflight=False``: quotas, package and permissions are not looked at, and AWS alone says what will not do.
    ``create_role``: the plan makes the execution role ``jina-sm-execution`` if there is none.

    Raises NotSubscribedError, QuotaError, NameTakenError, InputError, AuthError or DeployError for what is sure to
    stop it, in whichever region, before anything is made. What could not be found out is in the plan's checks.
    """
    known = known or catalog.load()
    spec = checked(known, **spec.model_dump())
    aws = session or default_session()
    model, home = known.model(spec.model), spec.regions[0]
    who = facts.caller(aws, spec.regions)
    home = who.region or home
    subscribed, software = _licence(aws, known, model, spec.instance_type)
    if shared_licence:
        subscribed = None
    if subscribed is False and not model.arns:  # an ARN of one's own needs no subscription
        unbought = judgement.subscription(model.key, False, listing=model.listing)
        raise NotSubscribedError(unbought.seen, cure=unbought.cure)
    if create_role and spec.role_arn:
        raise InputError(f"role_arn={spec.role_arn!r} and --create-role: take one of them")
    making: tuple[Call, ...] = ()
    if create_role:
        role, making = made_role(aws, home, vpc=bool(spec.vpc))
    else:
        role = spec.role_arn or execution_role(aws, home)
    ends = end_of(spec, aws, home)

    def of_region(region: str, _: threading.Event) -> RegionPlan:
        desired = desired_in(spec, region, role_arn=role, known=known, ttl=ends, making=making)
        control = ControlPlane(aws, region)
        state = facts.observed(control, desired.endpoint)
        steps = tuple(plans.deployment(desired, state))
        needs = judgement.needs(desired, state, steps) if preflight else ()
        rooms = facts.rooms(control, known, needs)
        return RegionPlan(
            desired=desired,
            steps=steps,
            instance=instance_price(aws, known, spec.instance_type, region),
            software=software,
            changes=plans.changes(desired, state),
            scaled=next((each.scaling for each in state.targets), None),
            checks=facts.of_plan(control, desired, state, steps, needs, rooms) if preflight else (),
            needs=needs,
            rooms=MappingProxyType(rooms),
        )

    done, failed = side_by_side(spec.regions, of_region)
    said = {(type(error), error.message.replace(region, ""), error.cure) for region, error in failed.items()}
    if len(said) == 1:  # the same everywhere, and nothing is made yet
        first = next(iter(failed.values()))
        first.region = ", ".join(failed)
        raise first
    raise_if(failed, {}, "nothing was made")
    account: tuple[Check, ...] = ()
    if preflight:
        steps = {region: there.steps for region, there in done.items()}
        account = facts.of_account(ControlPlane(aws, home), who, "" if making else role, steps, passed=role)
    if refusal := judgement.refusal([*account, *(each for there in done.values() for each in there.checks)]):
        raise refusal
    return Plan(spec=spec, regions=MappingProxyType(done), subscribed=subscribed, checks=account)


def plan_all(
    specs: Iterable[Spec],
    *,
    session: Any = None,
    known: catalog.Catalog | None = None,
    shared_licence: bool = False,
    preflight: bool = True,
    create_role: bool = False,
) -> list[Plan]:
    """As ``plan``, of each. Raises QuotaError also where each has room enough, and all together have not."""
    aws, known = session or default_session(), known or catalog.load()
    options = {"shared_licence": shared_licence, "preflight": preflight, "create_role": create_role}
    agreed: list[Plan] = []
    refused: list[JinaSMError] = []
    for each in specs:
        try:
            agreed.append(plan(each, session=aws, known=known, **options))
        except JinaSMError as error:  # every reason, and not those of one model after those of another
            refused.append(error)
            if len(refused) > 1 and str(refused[-2]) == str(error):  # it is no model's: nor the next one's
                break
    if refused:
        raise _together(refused)
    checks = _check_together(agreed)
    return [_told_of_quotas(each, checks) for each in agreed] if len(agreed) > 1 else agreed


def _together(refused: Sequence[JinaSMError]) -> JinaSMError:
    """All of them as one, of the first one's kind; as it is where there is but one."""
    if len({str(each) for each in refused}) == 1:
        return refused[0]
    words = dict.fromkeys(f"{each.message} ({each.region})" if each.region else each.message for each in refused)
    whole = copy.copy(refused[0])
    whole.message, whole.region = "; ".join(words), None
    whole.args = (whole.message,)
    whole.cure = " ".join(dict.fromkeys(each.cure for each in refused if each.cure)) or None
    return whole


def _told_of_quotas(plan: Plan, together: Mapping[tuple[str | None, str], Check]) -> Plan:
    """With what the quotas are to all plans in the place of what they are to this one alone."""

    def told(check: Check) -> Check:
        return together.get((check.region, check.subject), check) if check.name == "quota" else check

    regions = {
        region: replace(there, checks=tuple(told(check) for check in there.checks))
        for region, there in plan.regions.items()
    }
    return replace(plan, regions=MappingProxyType(regions))


def _check_together(agreed: Sequence[Plan]) -> dict[tuple[str | None, str], Check]:
    """The quotas' checks of all plans together, by region and type. Raises QuotaError."""
    checks: list[Check] = []
    for region in dict.fromkeys(region for each in agreed for region in each.regions):
        there = [each.regions[region] for each in agreed if region in each.regions]
        rooms = {kind: room for each in there for kind, room in each.rooms.items()}
        needs = judgement.together(need for each in there for need in each.needs)
        checks += [judgement.quota(region, need, rooms[need.instance_type]) for need in needs]
    if refusal := judgement.refusal(checks):
        raise refusal
    return {(each.region, each.subject): each for each in checks}


def desired_in(
    spec: Spec,
    region: str,
    *,
    role_arn: str,
    known: catalog.Catalog,
    ttl: Ttl | None = None,
    making: tuple[Call, ...] = (),
) -> Desired:
    """What the spec asks for in one of its regions. ``making``: the calls that make the role, if it is to be made."""
    model, scaled = known.model(spec.model), spec.autoscaling
    return Desired(
        region=region,
        model=model.key,
        endpoint=catalog.endpoint_name(model, spec.name),
        package_arn=known.package_arn(model, region),
        role_arn=role_arn,
        instance_type=spec.instance_type,
        instance_count=max(spec.instance_count, scaled.min if scaled else 1),
        fallbacks=spec.instance_types[1:],
        tags=spec.tags,
        subnets=spec.vpc[region].subnets if region in spec.vpc else (),
        security_groups=spec.vpc[region].security_groups if region in spec.vpc else (),
        kms_key=spec.kms_key,
        scaling=_scaling(spec),
        ttl=ttl,
        asynchronous=_asynchronous(spec, region),
        making=making,
    )


def end_of(spec: Spec, aws: Any, region: str) -> Ttl | None:
    """The end that was set beforehand, counted from now, and the role that it takes. Raises as ``schedule_role``."""
    if not spec.ttl:
        return None
    acting, making = schedule_role(aws, region)
    ends = datetime.now(UTC) + timedelta(seconds=spec.ttl)
    return Ttl(seconds=spec.ttl, ends=ends, role_arn=acting, role=making)


def deploy(
    spec: Spec | Plan,
    *,
    session: Any = None,
    known: catalog.Catalog | None = None,
    on_event: Listener | None = None,
    clock: Clock = Clock(),  # noqa: B008
) -> Fleet[Endpoint]:
    """The endpoints, in service, by region. A second run finds nothing to do; an interrupted one goes on.

    >>> fleet = deploy(Spec(model="jina-embeddings-v3", regions=("us-east-1",)))
    >>> fleet["us-east-1"].status
    'InService'
    >>> fleet.client().embed(["a text"])

    A region that fails is rolled back. Raises its error; with several regions, PartialError, and the others stand.
    """
    aws = session or default_session()
    agreed = spec if isinstance(spec, Plan) else plan(spec, session=aws, known=known)

    def in_region(region: str, stop: threading.Event) -> Endpoint:
        return _deployed(agreed.regions[region], Walk(ControlPlane(aws, region), on_event, clock, stop))

    done, failed = side_by_side(agreed.regions, in_region)
    if failed and not done:
        _unmake_role([agreed], aws, on_event, clock)
    raise_if(failed, done, f"deploying {agreed.spec.model} failed")
    return Fleet(agreed.spec.model, done)


def deploy_all(
    agreed: Sequence[Plan],
    *,
    session: Any = None,
    on_event: Listener | None = None,
    clock: Clock = Clock(),  # noqa: B008
) -> dict[str, Fleet[Endpoint]]:
    """Several plans side by side; the endpoints by name and region. What is told says REGION NAME for the region.

    A region of one that fails is rolled back, and all else stands. Raises its error, or PartialError.
    """
    aws = session or default_session()
    _check_together(agreed)
    places = {place(there): there for plan in agreed for there in plan.regions.values()}

    def at(label: str, stop: threading.Event) -> Endpoint:
        there = places[label]

        def listener(event: Event) -> None:
            if on_event:
                on_event(replace(event, region=label))

        return _deployed(there, Walk(ControlPlane(aws, there.desired.region), listener, clock, stop))

    done, failed = side_by_side(places, at)
    if failed and not done:
        _unmake_role(agreed, aws, on_event, clock)
    raise_if(failed, done, "deploying failed")
    endpoints: dict[str, dict[str, Endpoint]] = {}
    models: dict[str, str] = {}
    for label, endpoint in done.items():
        desired = places[label].desired
        endpoints.setdefault(endpoint.name, {})[desired.region] = endpoint
        models[endpoint.name] = desired.model
    return {name: Fleet(models[name], there) for name, there in endpoints.items()}


def place(there: RegionPlan) -> str:
    """One of several endpoints in one of several regions."""
    return f"{there.desired.region} {there.desired.endpoint}"


def _deployed(there: RegionPlan, walk: Walk) -> Endpoint:
    region, name = there.desired.region, there.desired.endpoint
    try:
        walk.take(there.steps)
    except Exception as error:
        walk.roll_back(name, error, there.scaled)
        raise
    endpoint = walk.control.endpoint(name)
    if endpoint is None:
        raise DeployError(f"endpoint {name} has gone", target=name, region=region)
    return endpoint


def _unmake_role(agreed: Iterable[Plan], aws: Any, on_event: Listener | None, clock: Clock) -> None:
    """Removes the execution role that this run made, unless anything of ours is left or anyone's model uses it."""
    plans_of = [there for plan in agreed for there in plan.regions.values()]
    making = {call.operation for there in plans_of for call in there.desired.making}
    if "create_role" not in making:
        return
    home = plans_of[0].desired.region
    try:
        inventory = status(role=True, session=aws)
        left = any(found.state.models for found in inventory.found.values())
        calls = [call for call in inventory.role if call.name == roles.ROLE]
        if calls and not left and not inventory.failed:
            Walk(ControlPlane(aws, home), on_event, clock, threading.Event()).take(calls)
    except JinaSMError as error:  # it costs nothing, and teardown finds it
        _log.info("role %s stays: %s", roles.ROLE, error)


def status(
    *,
    model: str | None = None,
    name: str | None = None,
    regions: Sequence[str] | None = None,
    logs: bool = False,
    role: bool = False,
    session: Any = None,
    known: catalog.Catalog | None = None,
) -> Inventory:
    """What there is of ours, in the regions given or in all of the catalogue's: of one model, of one name, or all.

    ``name``: one endpoint's alone, with or without its ``jina-sm-``. ``logs``: also the log groups of the endpoints,
    which go by name. ``role``: also the roles that are ours and that nothing uses.
    """
    known = known or catalog.load()
    aws = session or default_session()
    row = None if model is None else known.model(model)
    if name is not None and not catalog.is_name(name):
        raise InputError(f"no endpoint can be called {name!r}", cure="A name has letters, digits and hyphens.")
    wanted = None if name is None else catalog.endpoint_called(name)
    for region in regions or ():
        known.check_region(region)
    looked_at = tuple(regions or known.regions)
    identity(aws, looked_at[0])  # so that a refusal below is the region's, not the credentials'

    def at(region: str, _: threading.Event) -> Found:
        try:
            state = ControlPlane(aws, region).ours(model=row, endpoint=wanted, logs=logs)
            return Found(region=region, state=state)
        except JinaSMError as error:
            if disabled(error):
                return Found(region=region, skipped=True)
            raise

    done, failed = side_by_side(looked_at, at)
    left: tuple[Call, ...] = ()
    if role:
        left = schedule_role_left(aws, looked_at[0])
        role_arn, removal = execution_role_left(aws, looked_at[0])
        if removal and not failed and not _used(role_arn, done, aws):
            left += removal
    return Inventory(
        found=MappingProxyType(done), failed=MappingProxyType(failed), role=left, model=row, endpoint=wanted
    )


def found(
    target: str,
    *,
    regions: Sequence[str] | None = None,
    logs: bool = False,
    session: Any = None,
    known: catalog.Catalog | None = None,
) -> Inventory:
    """As ``status``, of what one word stands for: a model, or the name of one endpoint.

    Raises InputError for what is neither a model nor the name of anything there.
    """
    known = known or catalog.load()
    try:
        model = known.model(target).key
    except InputError:
        if not catalog.is_name(target):
            raise
    else:
        return status(model=model, regions=regions, logs=logs, session=session, known=known)
    inventory = status(name=target, regions=regions, logs=logs, session=session, known=known)
    if not inventory.failed and all(each.state.empty for each in inventory.found.values()):
        raise InputError(
            f"{target!r} is neither a model nor an endpoint that this tool made{catalog.nearest(target, known.models)}",
            cure="`jina-sm status` lists yours.",
        )
    return inventory


def fleet(
    model: str,
    *,
    name: str | None = None,
    regions: Sequence[str] | None = None,
    session: Any = None,
    known: catalog.Catalog | None = None,
) -> Fleet[Endpoint]:
    """What is there of a model, as ``deploy`` would return it: in the regions given, home first, or in all.

    ``name``: the deployment's, if it was given one. Raises PartialError where a region could not be looked at.
    """
    known = known or catalog.load()
    wanted = catalog.endpoint_name(known.model(model), name)
    inventory = status(model=model, regions=regions, session=session, known=known)
    raise_if(inventory.failed, inventory.found, f"{wanted} could not be looked for everywhere", several=True)
    there = {
        region: endpoint
        for region, found in inventory.found.items()
        for endpoint in found.state.endpoints
        if endpoint.name == wanted
    }
    return Fleet(known.model(model).key, there)


def teardown(
    *,
    model: str | None = None,
    name: str | None = None,
    regions: Sequence[str] | None = None,
    logs: bool = False,
    session: Any = None,
    known: catalog.Catalog | None = None,
    inventory: Inventory | None = None,
    on_event: Listener | None = None,
    clock: Clock = Clock(),  # noqa: B008
) -> Inventory:
    """Removes all of ours, of one model, or of one name, then looks again: what it returns is what is left.

    >>> teardown(model="jina-embeddings-v3", name="staging")  # that endpoint, and no other of the model

    ``inventory``: what was shown, so that this and nothing else is removed. Only what carries our tags is; log groups,
    if the inventory has them, by their endpoint's name. Roles that one may not remove stay, and the inventory says so.
    Raises PartialError where a region could not be listed or emptied.
    """
    aws = session or default_session()
    inventory = inventory or status(
        model=model,
        name=name,
        regions=regions,
        logs=logs,
        role=model is None and name is None and not regions,
        session=aws,
        known=known,
    )

    def empty(region: str, stop: threading.Event) -> State:
        walk = Walk(ControlPlane(aws, region), on_event, clock, stop)
        refusals: list[JinaSMError] = []
        for part in inventory.found[region].state.by_endpoint():
            try:
                walk.take(plans.teardown(part))
            except JinaSMError as error:  # one endpoint that cannot be removed keeps no other
                refusals.append(error)
        if refusals:
            raise refusals[0]
        left = walk.control.ours(model=inventory.model, endpoint=inventory.endpoint)
        if gone := inventory.found[region].state.logs:
            left = replace(left, logs=tuple(name for name in walk.control.log_groups() if name in gone))
        if not left.empty:
            names = [*(each.name for each in left.endpoints), *left.configs, *left.models]
            names += [f"autoscaling of {each.endpoint}" for each in left.targets]
            names += [f"schedule {each.endpoint}" for each in left.schedules]
            names += [f"alarm {each.name}" for each in left.alarms]
            names += [f"log group {plans.LOGS}{name}" for name in left.logs]
            raise DeployError(f"still there: {', '.join(names)}", cure="Run teardown again.", region=region)
        return left

    todo = [found.region for found in inventory.found.values() if not found.state.empty]
    done, failed = side_by_side(todo, empty)
    failed = {**inventory.failed, **failed}
    raise_if(failed, done, "teardown is not complete", several=True)
    home, kept = next(iter(inventory.found), None), inventory.role
    if home and inventory.role:  # nothing needs them any more
        try:
            Walk(ControlPlane(aws, home), on_event, clock, threading.Event()).take(inventory.role)
            kept = ()
        except AuthError as error:  # who may not make roles can still tear down; a role costs nothing
            _log.info("roles stay: %s", error)
    left = {region: Found(region=region, skipped=found.skipped) for region, found in inventory.found.items()}
    return replace(inventory, found=MappingProxyType(left), failed=MappingProxyType({}), role=kept)


def _used(role_arn: str, found: Mapping[str, Found], aws: Any) -> bool:
    """Whether a model that is not ours runs as that role, somewhere; where it could not be seen, it may."""

    def uses(region: str, _: threading.Event) -> bool:
        return ControlPlane(aws, region).uses(role_arn, beside=found[region].state.models)

    used, unseen = side_by_side([each.region for each in found.values() if not each.skipped], uses)
    return bool(unseen) or any(used.values())


class StoppedError(Exception):
    """Somebody interrupted the run, so nothing more is called."""


def side_by_side(
    regions: Iterable[str], act: Callable[[str, threading.Event], _Result]
) -> tuple[dict[str, _Result], dict[str, JinaSMError]]:
    """What acting gave in each region, and where it failed.

    An interrupt is raised at once, and sets the event that ``act`` is given: no thread makes another call then, and
    stopping between two calls is what every run can go on from.
    """
    done: dict[str, _Result] = {}
    failed: dict[str, JinaSMError] = {}
    broken: list[BaseException] = []
    stop = threading.Event()

    def at(region: str) -> None:
        try:
            done[region] = act(region, stop)
        except JinaSMError as error:
            failed[region] = error
        except Exception as error:
            failed[region] = JinaSMError(f"unexpected {type(error).__name__}: {error}", region=region)
            failed[region].__cause__ = error
        except BaseException as error:
            broken.append(error)

    order = list(regions)
    threads = [threading.Thread(target=at, args=(region,), daemon=True) for region in order]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        stop.set()
        raise
    for error in broken:
        raise error
    return {r: done[r] for r in order if r in done}, {r: failed[r] for r in order if r in failed}


def _scaling(spec: Spec) -> Scaling | None:
    wanted, queued = spec.autoscaling, spec.async_inference is not None
    if wanted is None:
        return None
    return Scaling(least=wanted.min, most=wanted.max, target=wanted.target, asynchronous=queued)


def _asynchronous(spec: Spec, region: str) -> Asynchronous | None:
    wanted = spec.async_inference
    if wanted is None:
        return None
    places = (wanted.s3_output, wanted.s3_failure, wanted.success_topic, wanted.error_topic)
    output, failure_place, success, failed = (each and filled(each, region) for each in places)
    return Asynchronous(
        output=output or "",
        at_once=wanted.max_concurrent,
        failure=failure_place,
        success_topic=success,
        error_topic=failed,
    )


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


class _Course:
    """The statuses that an endpoint goes through, and how long each lasts."""

    def __init__(self) -> None:
        self._status: str | None = None
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def at(self, status: str, now: float) -> tuple[str | None, float] | None:
        """The status that it has left, and how long that lasted; None: it is as it was."""
        if status == self._status:
            return None
        left = self._status, now - self._since if self._status else 0.0
        self._seconds = self.until(now)
        self._status, self._since = status, now
        return left

    def until(self, now: float) -> dict[str, float]:
        """Seconds by status."""
        if self._status is None:
            return {}
        return {**self._seconds, self._status: self._seconds.get(self._status, 0.0) + now - self._since}


class Walk:
    """Taking steps in one region: each is told before it is taken."""

    def __init__(self, control: ControlPlane, on_event: Listener | None, clock: Clock, stop: threading.Event) -> None:
        self.control = control
        self._on_event = on_event
        self._clock = clock
        self._stop = stop
        self._made: list[Call] = []
        self._role_is_new = False

    def take(self, steps: Iterable[Step]) -> None:
        steps = tuple(steps)
        try:
            for step in steps:
                self._tell(step)
                if self._stop.is_set():
                    raise StoppedError
                if isinstance(step, Call):
                    if self._call(step):
                        self._made.append(step)
                else:
                    self._wait(step)
        except NotSubscribedError as error:  # AWS does not say to what
            error.cure = (error.cure or "").replace("MODEL", _model_of(steps)) or None
            raise

    def _call(self, step: Call) -> bool:
        """Whether it did anything. What AWS does not see yet is waited for a little: by the plan it is there by now."""
        began, told, waited = self._clock.now(), False, False
        self._role_is_new |= step.operation == "create_role"
        while True:
            try:
                return self.control.take(step)
            except BusyError:  # autoscaling changes endpoints whenever it likes
                if waited or not self._settles(step):
                    raise
                waited = True
                continue
            except (NotYetError, NotThereError, AuthError) as error:
                # What may pass a role is refused for a moment too, where the role is new.
                fresh = not isinstance(error, AuthError) or (error.action == "iam:PassRole" and self._role_is_new)
                if not fresh or self._stop.is_set() or self._clock.now() - began > _SEEN_S:
                    error.cure = error.cure or "Another run may have removed it: run the same command again."
                    raise
                if not told:
                    self._tell(step, f"not yet: {error.message}")
                    told = True
            self._clock.sleep(_SEEN_POLL_S)

    def _settles(self, step: Call) -> bool:
        """Waits until the endpoint has settled; whether the step still makes sense: it serves what it served."""
        before = self.control.seen(step.name)
        self._wait(Wait(step.name, plans.SETTLED | plans.GONE))
        after = self.control.seen(step.name)
        return step.operation == "delete_endpoint" or (before and before.config) == (after and after.config)

    def roll_back(self, name: str, error: Exception, scaled: Scaling | None = None) -> None:
        """Removes what was made here, if anything, and says in the error what had to stay.

        ``scaled``: how what is in service again scaled before, which is taken off for an update.
        """
        if self._stop.is_set():
            return
        cure: str | None = None
        try:
            state = self.control.observe(name)
            settled = all(endpoint.status in plans.SETTLED for endpoint in state.endpoints)
            if not settled:
                # AWS would delete nothing of it now.
                cure = (
                    f"Endpoint {name} is {state.endpoints[0].status} and will be billed: run the same command to go on"
                )
                cure += f", or `jina-sm teardown {name}`."
            elif (steps := plans.rollback(self._made, state)) or self._unscaled(name):
                back = scaling.set_to(name, scaled, None) if self._unscaled(name) and _in_service(state, name) else []
                self.take([*back, *steps])
            elif any(endpoint.status == "InService" and endpoint.ours for endpoint in state.endpoints):
                cure = f"Endpoint {name} is in service all the same; run the same command to finish."
        except JinaSMError as another:
            cure = f"Rolling back failed too ({another.message}): `jina-sm teardown {name}` removes what is left."
        if cure and isinstance(error, JinaSMError):
            error.cure = " ".join(each for each in (error.cure, cure) if each)

    def _unscaled(self, name: str) -> bool:
        """Whether this run took off how the endpoint scaled, and went no further than its update."""
        done = [call.operation for call in self._made if call.name == name]
        return "deregister_scalable_target" in done and "register_scalable_target" not in done

    def _tell(self, step: Step, status: str | None = None, before: str | None = None, seconds: float = 0.0) -> None:
        _log.info("%s: %s%s", self.control.region, step, f": {status}" if status else "")
        if self._on_event:
            try:
                self._on_event(Event(self.control.region, step, status, before, seconds))
            except Exception:  # whoever listens must not stop what is being built
                _log.exception("the listener failed and is told nothing more")
                self._on_event = None

    def _wait(self, step: Wait) -> None:
        began, pause_s, lost, last = self._clock.now(), _FIRST_POLL_S, 0, "unknown"
        before = 0  # polls that saw it in service as it was before
        course = _Course()
        facts: dict[str, Any] = {"target": step.endpoint, "region": self.control.region}
        while not self._stop.is_set():
            try:
                seen = self.control.seen(step.endpoint)
            except DeployError:  # a poll that got lost says nothing about the endpoint
                if (lost := lost + 1) >= _POLLS_LOST:
                    raise
            else:
                status = seen.status if seen else None
                now = self._clock.now()
                if left := course.at(status or "gone", now):
                    self._tell(step, status or "gone", *left)
                lost, last = 0 if status else lost + 1, status or "gone"
                if status in step.until and (seen is None or step.config in (None, seen.config)):
                    return
                # What was just made or changed may be seen as it was before for a moment, so that is believed later;
                # at once where it was seen to change.
                if status not in plans.SETTLED and status is not None:
                    before = _POLLS_LOST
                elif status == "InService":
                    before += 1
                stale = lost < _POLLS_LOST
                if seen:
                    stale = seen.status == "InService" and not seen.reason and before < _POLLS_LOST
                if seen is None and not stale:
                    raise EndpointFailedError("it was removed meanwhile", **facts)
                if seen and seen.status in plans.SETTLED and "InService" in step.until and not stale:
                    raise self._failed(seen, step, course.until(now), now - began, facts)
            if self._clock.now() - began > WAIT_S:
                cure = "Run the same command again to go on waiting."
                late = DeployError(f"still {last} after {WAIT_S / 60:.0f} minutes", cure=cure, **facts)
                late.seconds_in = course.until(self._clock.now())
                raise late
            self._clock.sleep(pause_s)
            pause_s = min(_SLOWEST_POLL_S, pause_s * 1.5)
        raise StoppedError

    def _failed(
        self, seen: Seen, step: Wait, spent: Mapping[str, float], waited_s: float, facts: Mapping[str, Any]
    ) -> DeployError:
        """Why it failed, with how long it took and the end of its log."""
        undone = f"the update was undone: {seen.config} serves, not {step.config}" if step.config else ""
        error = failure(seen.reason or undone, **facts)
        error.seconds_in = {status: seconds for status, seconds in spent.items() if status != seen.status}
        since = seen.created  # of an endpoint that serves on, only what this run has brought up
        if seen.status != "Failed":
            since = max(since, datetime.now(UTC) - timedelta(seconds=waited_s + _SKEW_S))
        self.control.explain(error, facts["target"], since - timedelta(seconds=_SKEW_S))
        return error


def _model_of(steps: Iterable[Step]) -> str:
    """The model that the steps make something of, by the tags that they give it."""
    tags = (tag for step in steps if isinstance(step, Call) for tag in step.params.get("Tags") or ())
    found = (tag["Value"] for tag in tags if isinstance(tag, Mapping) and tag.get("Key") == plans.MODEL_TAG)
    return next(found, "MODEL")


def _in_service(state: State, name: str) -> bool:
    return any(each.name == name and each.status == "InService" and each.ours for each in state.endpoints)


def raise_if(failed: Mapping[str, JinaSMError], done: Mapping[str, object], what: str, several: bool = False) -> None:
    if len(failed) == 1 and not done and not several:
        raise next(iter(failed.values()))
    if failed:
        named = "; ".join(f"{where}: {error}".removesuffix(".") for where, error in alike(failed))
        stands = f". Done in {', '.join(done)}" if done else ""
        raise PartialError(f"{what}: {named}{stands}", done=tuple(done), failed=failed)


def alike(failed: Mapping[str, JinaSMError]) -> list[tuple[str, JinaSMError]]:
    """What failed, and where: what says the same of several regions is said once."""
    groups: dict[str, dict[str, JinaSMError]] = {}
    for label, error in failed.items():
        bare = copy.copy(error)
        bare.request_id = bare.region = None
        groups.setdefault(str(bare), {})[label] = bare
    return [
        (", ".join(some), failed[first] if len(some) == 1 else some[first])
        for some in groups.values()
        for first in [next(iter(some))]
    ]
