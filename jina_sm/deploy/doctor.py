"""
Whether a deployment would come up, found out without one: every reason why not, of every region, side by side.

And the quotas by themselves: what they are, what of them is in use, and asking for more.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jina_sm import catalog, errors
from jina_sm.deploy import facts, preflight
from jina_sm.deploy import plan as plans
from jina_sm.deploy.aws import ROLE, ControlPlane, disabled, execution_role
from jina_sm.deploy.plan import Desired, State, Step
from jina_sm.deploy.preflight import Caller, Check, Increase, Need, Room
from jina_sm.deploy.quotas import Quotas, TooManyError, uses
from jina_sm.deploy.run import desired_in, end_of, raise_if, side_by_side
from jina_sm.deploy.spec import Spec, checked
from jina_sm.deploy.ttl import Ttl
from jina_sm.transport.session import session as default_session

_ANY = "jina-sm-any"  # what is deployed where no model is named: permissions are given to names that begin so


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was looked at, the account's checks first, and then region by region."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(each for each in self.checks if each.verdict == "fail")


def doctor(
    specs: Sequence[Spec] = (),
    *,
    regions: Sequence[str] = (),
    instance_types: Sequence[str] = (),
    shared_licence: bool = False,
    session: Any = None,
    known: catalog.Catalog | None = None,
) -> Report:
    """Every check of what the specs ask for; without any, of what every model needs in the regions. Changes nothing.

    >>> doctor([Spec(model="jina-embeddings-v3", regions=("us-east-1",))]).failed
    ()
    """
    aws, known = session or default_session(), known or catalog.load()
    specs = [checked(known, **each.model_dump()) for each in specs]
    where = [*dict.fromkeys(region for each in specs for region in each.regions)] or [*regions]
    if not where:
        raise errors.InputError("no region to look at", cure="Name one.")
    for region in where:
        known.check_region(region)
    who = facts.attempt(lambda: facts.caller(aws, where))
    found = [preflight.credentials(who)]
    if isinstance(who, errors.JinaSMError):  # and with none, nothing else can be found out
        return Report(checks=tuple(found))
    roles = {each: _role(aws, who, each) for each in [spec.role_arn for spec in specs] or [None]}
    types = tuple(instance_types) or ("ml.g5.xlarge",)
    seen = _Look(aws=aws, known=known, who=who, specs=specs, types=types, roles=roles)
    looks: dict[str, Callable[[], Sequence[Check]]] = {"account": functools.partial(seen.account, where)}
    for model in dict.fromkeys(each.model for each in specs):
        looks[f"subscription {model}"] = functools.partial(seen.subscription, model, shared_licence)
    looks |= {region: functools.partial(seen.region, region) for region in where}
    done, broken = side_by_side(looks, lambda label, _: looks[label]())
    for label, error in broken.items():  # what was not foreseen keeps nobody from the rest
        there = label if label in where else None
        name = "region" if there else "account"
        done[label] = [Check(name=name, verdict="unknown", seen=str(error), region=there)]
    return Report(checks=(*found, *(check for label in looks for check in done[label])))


def rooms(
    *,
    regions: Sequence[str],
    instance_types: Sequence[str] = ("ml.g5.xlarge",),
    session: Any = None,
    known: catalog.Catalog | None = None,
) -> dict[str, dict[str, Room]]:
    """By region and type: the quota, what of it is in use, and the increase that is open.

    What could not be read is the error that it met. Raises AuthError where there are no good credentials.
    """
    aws, known = session or default_session(), known or catalog.load()
    _check(regions, instance_types, known)
    facts.caller(aws, regions)

    def of_region(region: str, _: threading.Event) -> dict[str, Room]:
        control = ControlPlane(aws, region)
        quotas = Quotas(control, known.quotas.codes)
        return quotas.rooms(instance_types, facts.attempt(lambda: uses(control)), pending=True)

    done, failed = side_by_side(regions, of_region)
    raise_if(failed, {}, "not every quota could be looked at")
    return done


def ask(
    instance_type: str,
    value: int,
    *,
    regions: Sequence[str],
    session: Any = None,
    known: catalog.Catalog | None = None,
) -> dict[str, Increase]:
    """Asks AWS to raise a quota to so many, in each region; a request that is open already is not made twice.

    Raises its error; with several regions, PartialError, and the others are asked.
    """
    aws, known = session or default_session(), known or catalog.load()
    _check(regions, (instance_type,), known)

    def of_region(region: str, _: threading.Event) -> Increase:
        return Quotas(ControlPlane(aws, region), known.quotas.codes).ask(instance_type, value)

    done, failed = side_by_side(regions, of_region)
    raise_if(failed, done, "not every increase could be asked for")
    return done


def _check(regions: Iterable[str], instance_types: Iterable[str], known: catalog.Catalog) -> None:
    """Raises InputError for what is no region, or no type, rather than asking AWS about it."""
    for region in regions:
        known.check_region(region)
    for kind in instance_types:
        if not kind.startswith("ml."):
            raise errors.InputError(f"{kind!r} is no instance type of SageMaker's", cure="They are like ml.g5.xlarge.")


def _role(aws: Any, who: Caller, given: str | None) -> str | errors.JinaSMError:
    return facts.attempt(lambda: given or execution_role(aws, who.region))


@dataclass(frozen=True, kw_only=True)
class _Look:
    aws: Any
    known: catalog.Catalog
    who: Caller
    specs: Sequence[Spec]
    types: tuple[str, ...]
    roles: Mapping[str | None, str | errors.JinaSMError]

    def account(self, regions: Iterable[str]) -> list[Check]:
        """The role and the permissions, as if nothing were there yet."""
        home = ControlPlane(self.aws, self.who.region)
        checks: list[Check] = []
        for given, role in self.roles.items():
            if isinstance(role, errors.JinaSMError):
                missing = isinstance(role, errors.InputError)
                checks.append(preflight.role(role, self.who.account, missing=missing))
            some = [(each, self._end(each, checks)) for each in self.specs if each.role_arn == given]
            steps = {region: self._steps(region, self._role(given), some) for region in regions}
            # What the caller may do is asked all the same.
            checks += facts.of_account(home, self.who, role if isinstance(role, str) else "", steps)
        return checks

    def subscription(self, model: str, shared: bool) -> list[Check]:
        row = self.known.model(model)
        found = True if row.arns else facts.attempt(lambda: facts.subscribed(self.aws, row))
        return [preflight.subscription(row.key, found, listing=row.listing, own=bool(row.arns), shared=shared)]

    def region(self, region: str) -> list[Check]:
        control = ControlPlane(self.aws, region)
        counted = facts.attempt(lambda: uses(control))
        refused = counted if isinstance(counted, errors.JinaSMError) and not isinstance(counted, TooManyError) else None
        off = refused is not None and disabled(refused)
        checks = [preflight.region_enabled(region, refused, disabled=off)]
        if off:
            return checks
        needs: list[Need] = []
        for spec in self.specs:
            if region in spec.regions:
                desired = desired_in(spec, region, role_arn=self._role(spec.role_arn), known=self.known)
                more, found = self._of(control, desired)
                needs += more
                checks += found
        if not self.specs:
            needs = [Need(instance_type=kind, more=1, fallback=place > 0) for place, kind in enumerate(self.types)]
        wanted = preflight.together(needs)
        there = facts.rooms(control, self.known, wanted, counted)
        return [*checks, *(preflight.quota(region, each, there[each.instance_type]) for each in wanted)]

    def _role(self, given: str | None) -> str:
        """The role; were there none, the one that there should be."""
        role = self.roles[given]
        return role if isinstance(role, str) else f"arn:{self.who.partition}:iam::{self.who.account}:role/{ROLE}"

    def _end(self, spec: Spec, checks: list[Check]) -> Ttl | None:
        """Its end; where the role of schedules is not to be had, that is a check."""
        try:
            return end_of(spec, self.aws, self.who.region)
        except errors.JinaSMError as error:
            failed = isinstance(error, errors.NameTakenError)
            checks.append(
                Check(
                    name="role",
                    verdict="fail" if failed else "unknown",
                    seen=error.message,
                    subject="of schedules",
                    cure=error.cure or "",
                )
            )
            return None

    def _steps(self, region: str, role: str, specs: Iterable[tuple[Spec, Ttl | None]]) -> list[Step]:
        if self.specs:
            wanted = [
                desired_in(spec, region, role_arn=role, known=self.known, ttl=end)
                for spec, end in specs
                if region in spec.regions
            ]
        else:
            wanted = [
                Desired(
                    region=region,
                    model=_ANY,
                    endpoint=_ANY,
                    package_arn="",
                    role_arn=role,
                    instance_type=self.types[0],
                    instance_count=1,
                )
            ]
        return [step for each in wanted for step in plans.deployment(each, State())]

    def _of(self, control: ControlPlane, desired: Desired) -> tuple[tuple[Need, ...], list[Check]]:
        """What one model needs of the region's quotas, and its own checks there."""
        types = (desired.instance_type, *desired.fallbacks)
        found = facts.attempt(lambda: facts.package(control, desired.package_arn))
        checks = [preflight.package(control.region, desired.model, found, types, missing=facts.missing(found))]
        checks += preflight.storage(desired)
        state = facts.attempt(lambda: facts.observed(control, desired.endpoint))
        if isinstance(state, errors.JinaSMError):
            unseen = Check(
                name="name", verdict="unknown", seen=state.message, region=control.region, cure=state.cure or ""
            )
            return preflight.needs(desired, State(), plans.deployment(desired, State())), [*checks, unseen]
        checks.append(preflight.name(desired, state))
        if checks[-1].verdict == "fail":
            return (), checks
        return preflight.needs(desired, state, plans.deployment(desired, state)), checks
