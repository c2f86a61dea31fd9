"""
Taking endpoints away for now, and back: what bills is the endpoint; its config and its model cost nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from jina_sm import catalog
from jina_sm.clock import Clock
from jina_sm.deploy import facts, preflight, ttl
from jina_sm.deploy import plan as plans
from jina_sm.deploy.aws import ControlPlane, schedule_role
from jina_sm.deploy.plan import ENDPOINT_TAG, MODEL_TAG, Call, Endpoint, State, Step
from jina_sm.deploy.preflight import Check, Need
from jina_sm.deploy.run import Inventory, Listener, Walk, found, raise_if, side_by_side
from jina_sm.deploy.ttl import Schedule, Ttl
from jina_sm.errors import DeployError, JinaSMError
from jina_sm.transport.session import session as default_session

Steps = dict[tuple[str, str], list[Step]]


def pausing(inventory: Inventory) -> Steps:
    """The steps that pause what was found, by region and endpoint; of what is paused, what an earlier run left.

    Raises DeployError.
    """
    steps: Steps = {}
    for region, each in inventory.found.items():
        for name in (*(endpoint.name for endpoint in each.state.endpoints), *each.state.paused):
            try:
                steps[region, name] = plans.pause(each.state.of(name))
            except DeployError as error:
                error.target, error.region = name, region
                raise
    return {key: each for key, each in steps.items() if each}


def resuming(inventory: Inventory, *, ttl_s: int | None = None, session: Any = None) -> Steps:
    """The steps that bring back what was paused, or was deleted when its time was up. Raises DeployError.

    ``ttl_s``: for so many seconds; None: for as long as it was to live when it was paused, counted anew.
    """
    steps: Steps = {}
    for region, each in inventory.found.items():
        for part in each.state.by_endpoint():
            if not (part.endpoints or part.configs):
                continue
            name = part.endpoints[0].name if part.endpoints else part.configs[0].rpartition("-")[0]
            try:
                calls = plans.resume(part)
            except DeployError as error:
                error.target, error.region = name, region
                raise
            ending: list[Call] = []
            if lasts_s := ttl_s or next((config.ttl_s for config in part.known.values() if config.pauses), None):
                guard = _ttl(lasts_s, session or default_session(), region)
                there, anew = next(iter(part.schedules), None), _made(calls) is not None
                ending = ttl.set_to(name, guard, there, _tags(part), anew=anew)
            elif part.paused:  # an end that pausing did not come to take off would end it again
                ending = [call for left in part.schedules for call in ttl.removal(left)]
            steps[region, name] = [*ending, *calls]
    return {key: each for key, each in steps.items() if each}


def ends(steps: Steps) -> dict[tuple[str, str], Schedule | None]:
    """The end of each endpoint that these steps bring back; None: it has none, and bills until it is taken away."""
    found: dict[tuple[str, str], Schedule | None] = {}
    for key, each in steps.items():
        if _made(each):
            calls = (step for step in each if isinstance(step, Call))
            ending = next((call for call in calls if call.operation in ("create_schedule", "update_schedule")), None)
            found[key] = ttl.read(key[1], ending.params) if ending else None
    return found


def checked(
    inventory: Inventory, steps: Steps, *, session: Any = None, known: catalog.Catalog | None = None
) -> tuple[Check, ...]:
    """Whether the quotas have room for what these steps bring back, and whether its models are still subscribed to.

    A quota that is surely too small is said before anything is made: raises QuotaError. Whether another account shares
    its licence with this one, nobody can see, so a missing subscription is only told.
    """
    known, aws = known or catalog.load(), session or default_session()
    making = {key: call for key, each in steps.items() if (call := _made(each))}

    def in_region(region: str, _: threading.Event) -> tuple[Check, ...]:
        control, state = ControlPlane(aws, region), inventory.found[region].state
        asked = [
            need
            for (where, name), call in making.items()
            if where == region
            for need in _needs(
                control.made_from(str(call.params["EndpointConfigName"])), state.of(name), steps[where, name]
            )
        ]
        wanted = preflight.together(asked)
        rooms = facts.rooms(control, known, wanted)
        return tuple(preflight.quota(region, need, rooms[need.instance_type]) for need in wanted)

    done, failed = side_by_side(dict.fromkeys(region for region, _ in making), in_region)
    raise_if(failed, {}, "nothing was resumed")
    found = [check for some in done.values() for check in some]
    if refusal := preflight.refusal(found):
        raise refusal
    tags = (inventory.found[region].state.known for region, _ in making)
    configs = (str(call.params["EndpointConfigName"]) for call in making.values())
    models = dict.fromkeys(there[config].tags.get(MODEL_TAG, "") for there, config in zip(tags, configs, strict=True))
    for row in (known.models[key] for key in models if key in known.models):
        bought = True if row.arns else facts.attempt(partial(facts.subscribed, aws, row))
        check = preflight.subscription(row.key, bought, listing=row.listing, own=bool(row.arns))
        if check.verdict == "fail":
            seen = f"{check.seen}, and AWS refuses unless another account shares its licence with this one"
            check = replace(check, verdict="warning", seen=seen, cure=f"`jina-sm subscribe {row.key}` subscribes.")
        found.append(check)
    return tuple(found)


def take(
    steps: Steps,
    *,
    session: Any = None,
    on_event: Listener | None = None,
    clock: Clock = Clock(),  # noqa: B008
) -> dict[str, list[Endpoint]]:
    """Takes the steps, the regions side by side; the endpoints that are there then, by region.

    Nothing is rolled back: the same again goes on from what is there. Raises its error, or PartialError.
    """
    aws = session or default_session()

    def in_region(region: str, stop: threading.Event) -> list[Endpoint]:
        walk = Walk(ControlPlane(aws, region), on_event, clock, stop)
        there: list[Endpoint] = []
        refusals: list[JinaSMError] = []
        for (_, name), each in ((key, each) for key, each in steps.items() if key[0] == region):
            try:
                walk.take(each)
                there += [endpoint for endpoint in (walk.control.endpoint(name),) if endpoint]
            except JinaSMError as error:  # one endpoint that goes wrong keeps no other
                refusals.append(error)
        if refusals:
            raise refusals[0]
        return there

    done, failed = side_by_side(dict.fromkeys(region for region, _ in steps), in_region)
    raise_if(failed, done, "not all is done")
    return done


def pause(target: str, *, regions: Sequence[str] | None = None, session: Any = None, **more: Any) -> Steps:
    """Takes away a model's endpoints, or the one of a name, and keeps what they were made from; the steps taken."""
    aws = session or default_session()
    steps = pausing(found(target, regions=regions, session=aws))
    take(steps, session=aws, **more)
    return steps


def resume(
    target: str, *, regions: Sequence[str] | None = None, ttl_s: int | None = None, session: Any = None, **more: Any
) -> dict[str, list[Endpoint]]:
    """Brings back what was paused; the endpoints by region. Raises QuotaError before anything is made.

    ``ttl_s``: as ``resuming``.
    """
    aws = session or default_session()
    inventory = found(target, regions=regions, session=aws)
    steps = resuming(inventory, ttl_s=ttl_s, session=aws)
    checked(inventory, steps, session=aws)
    return take(steps, session=aws, **more)


def _made(steps: Iterable[Step]) -> Call | None:
    """The call among them that makes an endpoint."""
    calls = (step for step in steps if isinstance(step, Call))
    return next((call for call in calls if call.operation == "create_endpoint"), None)


def _needs(config: Mapping[str, Any], state: State, steps: Iterable[Step]) -> Iterator[Need]:
    """What an endpoint of that config asks of the quotas: of one that is gone nothing, for AWS will say so.

    Each type that is tried is asked of.
    """
    there = frozenset(each.name for each in state.endpoints)  # it has failed or is going, and is gone before
    types, count, most = plans.brought_back(config, steps)
    for place, kind in enumerate(types):
        yield Need(instance_type=kind, more=count, scaling=most - count, fallback=place > 0, frees=there)


def _ttl(seconds: int, aws: Any, region: str) -> Ttl:
    acting, making = schedule_role(aws, region)
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    return Ttl(seconds=seconds, ends=ends, role_arn=acting, role=making)


def _tags(part: State) -> dict[str, str]:
    of = next(iter(part.known.values())).tags
    return {key: value for key, value in of.items() if key in (plans.OWNER[0], MODEL_TAG, ENDPOINT_TAG)}
