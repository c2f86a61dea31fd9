"""
What bills or lingers, in every region: endpoints that nobody asks, that are broken, or that others made of Jina's
packages; what was left of ours when its endpoint went; and what a file of a fleet no longer names.

Looking changes nothing. What our tags don't cover is removed only if it is named.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jina_sm import catalog
from jina_sm.clock import Clock
from jina_sm.deploy import plan as plans
from jina_sm.deploy import scaling, ttl
from jina_sm.deploy.aws import ControlPlane, NotThereError, disabled, identity
from jina_sm.deploy.cloudformation import STACK
from jina_sm.deploy.plan import Endpoint, State, Step
from jina_sm.deploy.pricing import Price, instance_price
from jina_sm.deploy.run import Inventory, Listener, Plan, Walk, raise_if, side_by_side
from jina_sm.deploy.steps import OWNER
from jina_sm.errors import JinaSMError
from jina_sm.transport.session import session as default_session

IDLE_S = 24 * 3600
_JINAS = ("jina-", "reader-lm")


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """One thing that bills or lingers, and why it is listed.

    ``ours``: it carries our tags, as no log group can. ``instance``: what each of its instances costs, without the
    software.
    """

    region: str
    kind: str
    name: str
    why: str
    ours: bool
    steps: tuple[Step, ...]
    endpoint: Endpoint | None = None
    instance: Price | None = None

    @property
    def bills(self) -> bool:
        return self.endpoint is not None and self.endpoint.status not in ("Failed", "Deleting")


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was found, by region; the regions that the account has not enabled; and where looking failed."""

    found: Mapping[str, tuple[Orphan, ...]]
    skipped: tuple[str, ...]
    failed: Mapping[str, JinaSMError]

    @property
    def all(self) -> list[Orphan]:
        return [each for found in self.found.values() for each in found]


def orphans(
    *,
    regions: Sequence[str] | None = None,
    all_jina: bool = False,
    idle_s: int = IDLE_S,
    now: datetime | None = None,
    session: Any = None,
    known: catalog.Catalog | None = None,
) -> Search:
    """Looks in the regions given, or in all of the catalogue's.

    ``all_jina``: also at endpoints that others made of Jina's packages. ``idle_s``: an endpoint older than that, and
    not invoked for so long, is idle.
    """
    known, aws = known or catalog.load(), session or default_session()
    for region in regions or ():
        known.check_region(region)
    looked_at = tuple(regions or known.regions)
    identity(aws, looked_at[0])  # so that a refusal below is the region's, not the credentials'
    until = now or datetime.now(UTC)

    def at(region: str, _: threading.Event) -> tuple[Orphan, ...] | None:
        try:
            return tuple(_region(ControlPlane(aws, region), aws, known, all_jina, idle_s, until))
        except JinaSMError as error:
            if disabled(error):
                return None
            raise

    done, failed = side_by_side(looked_at, at)
    return Search(
        found={region: each for region, each in done.items() if each is not None},
        skipped=tuple(region for region, each in done.items() if each is None),
        failed=failed,
    )


def remove(
    chosen: Iterable[Orphan],
    *,
    session: Any = None,
    on_event: Listener | None = None,
    clock: Clock = Clock(),  # noqa: B008
) -> None:
    """Removes them, whoever's they are: what may be removed is the caller's to decide. Raises as ``teardown`` does."""
    aws = session or default_session()
    by_region: dict[str, list[Orphan]] = {}
    for each in chosen:
        by_region.setdefault(each.region, []).append(each)

    def at(region: str, stop: threading.Event) -> bool:
        walk = Walk(ControlPlane(aws, region), on_event, clock, stop)
        refusals: list[JinaSMError] = []
        for each in by_region[region]:
            try:
                walk.take(each.steps)
            except JinaSMError as error:  # one that cannot be removed keeps no other
                refusals.append(error)
        if refusals:
            raise refusals[0]
        return True

    done, failed = side_by_side(by_region, at)
    raise_if(failed, done, "not all is removed")


def unnamed(agreed: Iterable[Plan], inventory: Inventory) -> dict[tuple[str, str], State]:
    """What is there of ours that none of the plans is for, by region and endpoint, with all that belongs to each.

    Nothing of what is paused: it does not bill, and is there to be resumed.
    """
    named = {(region, there.desired.endpoint) for plan in agreed for region, there in plan.regions.items()}
    return {
        (region, endpoint.name): found.state.of(endpoint.name)
        for region, found in inventory.found.items()
        for endpoint in found.state.endpoints
        if (region, endpoint.name) not in named and endpoint.status != "Deleting"
    }


def _region(
    control: ControlPlane, aws: Any, known: catalog.Catalog, all_jina: bool, idle_s: int, until: datetime
) -> Iterator[Orphan]:
    region, found = control.region, control.ours(logs=True)
    state = replace(found, logs=())  # an endpoint's own stay with it
    lasts = {endpoint.name for endpoint in state.endpoints}
    others = list(_others(control, known, lasts, all_jina))
    # What AWS may not be asked of a broken endpoint is not asked.
    serving = [each for each in (*state.endpoints, *(each for each, _ in others)) if each.status == "InService"]
    idle = _idle(control, serving, idle_s, until)
    whys = {each.name: why for each, why in others}
    for endpoint in (*state.endpoints, *(each for each, _ in others)):
        why = [
            whys.get(endpoint.name, ""),
            f"not invoked for {_hours(idle_s)}" if endpoint.name in idle else "",
            f"{endpoint.status}{': ' + endpoint.reason if endpoint.reason else ''}" if _broken(endpoint) else "",
        ]
        if any(why):
            ours = endpoint.name in lasts
            part = state.of(endpoint.name) if ours else State(endpoints=(endpoint,))
            yield Orphan(
                region=region,
                kind="endpoint",
                name=endpoint.name,
                why=", ".join(each for each in why if each),
                ours=ours,
                steps=tuple(plans.teardown(part)),
                endpoint=endpoint,
                instance=_price(control, aws, known, endpoint),
            )
    for part in state.by_endpoint():
        if not part.endpoints and not part.paused:
            yield from _left(region, part)
    for name in found.logs:
        if name not in lasts and name not in state.paused:
            group = plans.LOGS + name
            steps = tuple(plans.teardown(State(logs=(name,))))
            yield Orphan(region=region, kind="log group", name=group, why="without endpoint", ours=False, steps=steps)
    yield from _untagged(control, state)


def _left(region: str, part: State) -> Iterator[Orphan]:
    """What is left of ours where the endpoint is gone."""
    kinds: list[tuple[str, str, Sequence[Step]]] = [
        *(("scaling target", each.endpoint, scaling.removal(each)) for each in part.targets),
        *(("alarm", each.name, scaling.removal(None, each)) for each in part.alarms),
        *(("schedule", each.endpoint, ttl.removal(each)) for each in part.schedules),
        *(("config", name, plans.teardown(State(configs=(name,)))) for name in part.configs),
        *(("model", name, plans.teardown(State(models=(name,)))) for name in part.models),
    ]
    for kind, name, steps in kinds:
        yield Orphan(region=region, kind=kind, name=name, why="without endpoint", ours=True, steps=tuple(steps))


def _untagged(control: ControlPlane, state: State) -> Iterator[Orphan]:
    """Configs and models that are called as ours are, and carry no tag of ours."""
    for kind, operation, ours in (
        ("EndpointConfig", "endpoint_configs", state.configs),
        ("Model", "models", state.models),
    ):
        for each in control.listed(f"list_{operation}", f"{kind}s", catalog.PREFIX):
            if (name := each[f"{kind}Name"]) not in ours and not _of_a_stack(_tags(control, each[f"{kind}Arn"])):
                what = "config" if kind == "EndpointConfig" else "model"
                part = State(configs=(name,)) if what == "config" else State(models=(name,))
                yield Orphan(
                    region=control.region,
                    kind=what,
                    name=name,
                    why="called as ours, without our tags",
                    ours=False,
                    steps=tuple(plans.teardown(part)),
                )


def _others(
    control: ControlPlane, known: catalog.Catalog, ours: set[str], all_jina: bool
) -> Iterator[tuple[Endpoint, str]]:
    """Endpoints that are not ours, and why they are listed: their name, or the package that they run."""
    for each in control.listed("list_endpoints", "Endpoints", "" if all_jina else catalog.PREFIX):
        name = each["EndpointName"]
        if name in ours:
            continue
        try:
            endpoint = control.endpoint(name)
            package = control.made_from(endpoint.config) if endpoint and all_jina else {}
        except NotThereError:
            continue
        if endpoint is None:
            continue
        if name.startswith(catalog.PREFIX) and not _of_a_stack(endpoint.tags):
            yield endpoint, "called as ours, without our tags"
        elif run := _jinas(known, package):
            yield endpoint, f"runs {run}"


def _tags(control: ControlPlane, arn: str) -> Mapping[str, str]:
    try:
        return control.tags(arn)
    except NotThereError:  # gone since it was listed
        return {}


def _of_a_stack(tags: Mapping[str, str]) -> bool:
    """Whether a template of ours made it: then its stack is who removes it."""
    return tags.get(OWNER[0]) == STACK


def _jinas(known: catalog.Catalog, made_of: Mapping[str, Any]) -> str:
    """The name of Jina's package that it was made from; "": it is none of theirs."""
    arn = plans.package_of(made_of)
    name = arn.rpartition("/")[2]
    packages = {model.package for model in known.models.values()}
    ours = {arn for model in known.models.values() for arn in model.arns.values()}
    accounts = {*known.accounts.values(), known.seller}
    if (
        arn in ours
        or name in packages
        or (name.startswith(_JINAS) and arn.split(":")[4:5] and arn.split(":")[4] in accounts)
    ):
        return name
    return ""


def _idle(control: ControlPlane, endpoints: Sequence[Endpoint], idle_s: int, until: datetime) -> set[str]:
    """Those that are old enough and were not invoked."""
    since = until - timedelta(seconds=idle_s)
    # What waits in a queue is counted by other metrics, and is not called idle for want of these.
    old = [endpoint for endpoint in endpoints if endpoint.created <= since and not endpoint.asynchronous]
    return {endpoint.name for endpoint in old} - (control.invoked(old, since, until) if old else set())


def _price(control: ControlPlane, aws: Any, known: catalog.Catalog, endpoint: Endpoint) -> Price | None:
    variants = control.made_from(endpoint.config).get("ProductionVariants", [])
    types = [
        each["InstanceType"]
        for variant in variants
        for each in (variant.get("InstancePools") or [variant])
        if "InstanceType" in each
    ]
    return instance_price(aws, known, types[0], control.region) if types else None


def _broken(endpoint: Endpoint) -> bool:
    return endpoint.status in plans.SETTLED and endpoint.status != "InService"


def _hours(seconds: int) -> str:
    return f"{seconds / 3600:g} h"
