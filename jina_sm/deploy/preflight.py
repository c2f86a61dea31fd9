"""
What would stop a deployment, judged before anything is made. Touches nothing.

A fact that could not be found out is the error that the look met: its verdict is unknown, which refuses nothing. What
is sure to fail is a fail, and each has its cure: the next command, as it is to be typed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from jina_sm import errors
from jina_sm.deploy import plan as plans
from jina_sm.deploy import policies, roles
from jina_sm.deploy.permissions import Decision
from jina_sm.deploy.plan import Call, Desired, State, Step

Verdict = Literal["ok", "warning", "fail", "unknown"]
LISTING = "https://aws.amazon.com/marketplace/pp/"
AWS_SAYS = "AWS says so when the calls are made, and what was made is then removed again."

_TRUST = (
    '{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}'  # to be read
)
# Of EC2's instance types with a GPU, those with an instance store.
_LOCAL_STORAGE = frozenset(
    {"g4dn", "g4ad", "g5", "g6", "g6e", "gr6", "p3dn", "p4d", "p4de", "p5", "p5e", "p5en", "p6-b200"}
)
_HASH = re.compile(r"-[0-9a-f]{8}$")
_LIMIT = re.compile(
    r"'(?P<type>ml\.[\w.-]+) for endpoint usage' is (?P<value>\d+) Instances"
    r"(?:, with current utilization of (?P<used>\d+) Instances and a request delta of (?P<more>\d+) Instances)?"
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a deployment depends on. ``region=None``: it is the account's; ``subject``: what it is about."""

    name: str
    verdict: Verdict
    seen: str
    region: str | None = None
    subject: str = ""
    cure: str = ""

    def __str__(self) -> str:
        about = f"{self.name} {self.subject}".rstrip()
        return f"{about}: {self.seen}" + (f". {self.cure}" if self.cure else "")


# What a failed check is raised as.
RAISED: Mapping[str, type[errors.JinaSMError]] = {
    "credentials": errors.AuthError,
    "region": errors.DeployError,
    "role": errors.DeployError,
    "pass-role": errors.AuthError,
    "permissions": errors.AuthError,
    "subscription": errors.NotSubscribedError,
    "package": errors.DeployError,
    "name": errors.NameTakenError,
    "quota": errors.QuotaError,
}


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks. ``region``: where that was found out."""

    arn: str
    region: str = ""

    @property
    def account(self) -> str:
        return self.arn.split(":")[4]

    @property
    def partition(self) -> str:
        return self.arn.split(":")[1]


@dataclass(frozen=True, kw_only=True)
class Role:
    """An execution role, and who may assume it."""

    arn: str
    trust: Any


@dataclass(frozen=True, kw_only=True)
class Package:
    """A model package. ``types``: the instance types that it is made for; none: it does not say."""

    arn: str
    types: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How many instances of a type the account's endpoints may have in a region.

    ``applied=False``: AWS's default, since none was ever applied. ``metric``: where CloudWatch counts the use.
    """

    instance_type: str
    region: str
    code: str
    value: int
    applied: bool = True
    adjustable: bool = True
    metric: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, kw_only=True)
class Use:
    """How many instances of a type endpoints have, counted endpoint by endpoint; else by CloudWatch, which lags.

    Beside them: ``going``, by endpoint, those that are being deleted; ``unseen``, whose type could not be found out.
    """

    instances: int
    going: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    unseen: int = 0
    counted: bool = True


@dataclass(frozen=True, kw_only=True)
class Increase:
    """A request for a higher quota. ``new``: made just now."""

    instance_type: str
    region: str
    desired: int
    status: str
    request_id: str
    created: str = ""
    new: bool = False


@dataclass(frozen=True, kw_only=True)
class Room:
    """The quota of one type in one region, what of it is in use, and the increase that is open, if one is."""

    quota: Quota | errors.JinaSMError
    use: Use | errors.JinaSMError
    open: Increase | None = None


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a deployment asks of a quota: ``more`` instances, later perhaps so many more by ``scaling``.

    ``beside``: an update's new instances stand beside the old for a while. ``fallback``: it is not the first type.
    ``frees``: endpoints that are gone before. ``moving``: what is in use is changing just now. ``has``: how many of
    those in use are its own, and stay.
    """

    instance_type: str
    more: int
    scaling: int = 0
    beside: bool = False
    fallback: bool = False
    frees: frozenset[str] = frozenset()
    moving: bool = False
    has: int = 0


def needs(desired: Desired, state: State, steps: Iterable[Step]) -> tuple[Need, ...]:
    """What the steps ask of the quotas; nothing where they neither make instances nor say how many there may be.

    Each type that is tried is asked of: one without quota fails the endpoint, even if another could be had.
    """
    calls = {step.operation: step for step in steps if isinstance(step, Call)}
    made = next((calls[each] for each in _INSTANCES if each in calls), None)
    there = next((each for each in state.endpoints if each.name == desired.endpoint), None)
    if made is None:
        return _more(desired, there) if calls.keys() & _COUNTS else ()
    beside = made.operation == "update_endpoint"
    count = desired.instance_count
    if there and made.params.get("RetainAllVariantProperties"):
        count = max(count, there.instances)
    peak = max(desired.scaling.most - count, 0) if desired.scaling else 0
    return tuple(
        Need(
            instance_type=each,
            more=count,
            scaling=peak,
            beside=beside,
            fallback=place > 0,
            frees=frozenset() if beside or there is None else frozenset({there.name}),
            moving=there is not None and there.status not in plans.SETTLED,
        )
        for place, each in enumerate((desired.instance_type, *desired.fallbacks))
    )


_INSTANCES = ("create_endpoint", "update_endpoint")
_COUNTS = {"register_scalable_target", "update_endpoint_weights_and_capacities"}


def _more(desired: Desired, there: plans.Endpoint | None) -> tuple[Need, ...]:
    """What another count, or other bounds, ask of the quota: the difference. Of several types, it may be any."""
    if desired.fallbacks or there is None or there.status != "InService":
        return ()
    has, least, most = there.instances, desired.instance_count, desired.instance_count
    if desired.scaling:  # AWS brings what is in service within its bounds
        least, most = desired.scaling.least, desired.scaling.most
    return (
        Need(
            instance_type=desired.instance_type,
            more=max(least - has, 0),
            scaling=max(most - max(least, has), 0),
            has=has,
        ),
    )


def together(wanted: Iterable[Need]) -> tuple[Need, ...]:
    """What several ask of the same region, type by type."""
    by_type: dict[str, list[Need]] = defaultdict(list)
    for each in wanted:
        by_type[each.instance_type].append(each)
    return tuple(
        Need(
            instance_type=kind,
            more=sum(each.more for each in some),
            scaling=sum(each.scaling for each in some),
            beside=any(each.beside for each in some),
            fallback=all(each.fallback for each in some),
            frees=frozenset().union(*(each.frees for each in some)),
            moving=any(each.moving for each in some),
            has=sum(each.has for each in some),
        )
        for kind, some in by_type.items()
    )


def credentials(caller: Caller | errors.JinaSMError) -> Check:
    if isinstance(caller, errors.JinaSMError):
        return _check("credentials", "fail", caller.message, cure=caller.cure)
    return _check("credentials", "ok", f"{caller.arn} in account {caller.account}")


def region_enabled(region: str, error: errors.JinaSMError | None, *, disabled: bool) -> Check:
    """``error``: how the first call there was refused; ``disabled``: for the account has not enabled the region."""
    if error is None:
        return _check("region", "ok", "enabled", region=region)
    if disabled:
        cure = f"`aws account enable-region --region-name {region}`, which takes some minutes."
        return _check("region", "fail", "the account has not enabled it", region=region, cure=cure)
    return _check("region", "unknown", error.message, region=region, cure=error.cure)


def role(found: Role | errors.JinaSMError, account: str, *, missing: bool = False) -> Check:
    """Whether SageMaker may assume the role. ``missing``: the error says that there is none."""
    if isinstance(found, errors.JinaSMError):
        return _check("role", "fail" if missing else "unknown", found.message, cure=found.cure)
    name = found.arn.rpartition("/")[2]
    if (owner := found.arn.split(":")[4]) != account:
        cure = f"Give one of account {account} with --role-arn: AWS passes no role to another account."
        return _check("role", "fail", f"it is of account {owner}", subject=name, cure=cure)
    trusted = trusts(found.trust)
    if trusted is None:
        cure = "See in its trust policy that they hold for SageMaker in this account."
        return _check("role", "unknown", "SageMaker may assume it under conditions", subject=name, cure=cure)
    if trusted:
        return _check("role", "ok", f"{found.arn}, which SageMaker may assume", subject=name)
    cure = f"Add to its trust policy {_TRUST}, or give another with --role-arn."
    return _check("role", "fail", "sagemaker.amazonaws.com may not assume it", subject=name, cure=cure)


def trusts(document: Any, service: str = "sagemaker.amazonaws.com") -> bool | None:
    """Whether a trust policy lets the service assume the role; None: under conditions, or it cannot be read."""
    if not isinstance(document, Mapping):
        return None
    found: dict[str, list[bool]] = {"Allow": [], "Deny": []}
    for each in _listed(document.get("Statement")):
        if not isinstance(each, Mapping) or each.get("Effect") not in found:
            return None
        principal = each.get("Principal", {})
        of = principal if isinstance(principal, Mapping) else {"Service": principal}
        services = [*_listed(of.get("Service")), *_listed(of.get("AWS"))]
        named = service in services or (each["Effect"] == "Deny" and "*" in services)
        acts = {str(action).lower() for action in _listed(each.get("Action"))}
        if named and acts & {"sts:assumerole", "sts:*", "*"}:
            found[each["Effect"]].append(bool(each.get("Condition")))
    if False in found["Deny"] or not found["Allow"]:
        return False
    return None if found["Deny"] or False not in found["Allow"] else True


def passing(found: Sequence[Decision] | errors.JinaSMError, role_arn: str) -> Check:
    """Whether the caller may pass the role to SageMaker."""
    name = role_arn.rpartition("/")[2]
    if isinstance(found, errors.JinaSMError):
        return _check("pass-role", "unknown", _unsimulated(found), subject=name, cure=_to_ask(found))
    asked = [each for each in found if each.action == "iam:PassRole" and each.resource == role_arn]
    if any(each.allowed is False for each in asked):
        given = "" if name == roles.ROLE else f" --role-arn {role_arn}"
        cure = (
            f"Have iam:PassRole allowed on {role_arn} for sagemaker.amazonaws.com: `jina-sm iam operator{given}` "
            "prints a policy that allows it."
        )
        return _check("pass-role", "fail", "the caller may not pass it to SageMaker", subject=name, cure=cure)
    if not asked or any(each.allowed is None for each in asked):
        return _check("pass-role", "unknown", f"it depends on {_conditions(asked)}", subject=name, cure=AWS_SAYS)
    return _check("pass-role", "ok", "the caller may pass it to SageMaker", subject=name)


def permissions(found: Sequence[Decision] | errors.JinaSMError, caller: str) -> tuple[Check, ...]:
    """Whether the caller may make the calls, by region; those of no region are the account's. Not: passing roles."""
    if isinstance(found, errors.JinaSMError):
        return (_check("permissions", "unknown", _unsimulated(found), cure=_to_ask(found)),)
    checks: list[Check] = []
    by_region: dict[str | None, list[Decision]] = defaultdict(list)
    for each in found:
        if each.action != "iam:PassRole" or not each.to_sagemaker:
            by_region[each.region].append(each)
    for region, asked in by_region.items():
        denied = [each for each in asked if each.allowed is False]
        cure = _allow(denied, caller)
        if stops := [each for each in denied if each.needed]:
            cure = _allow(stops, caller)
            checks.append(_check("permissions", "fail", f"not allowed: {_named(stops)}", region=region, cure=cure))
        elif denied:
            seen = f"what fails could not be removed again: {_named(denied)} not allowed"
            checks.append(_check("permissions", "warning", seen, region=region, cure=cure))
        elif vague := [each for each in asked if each.allowed is None]:
            seen = f"{_named(vague)}: it depends on {_conditions(vague)}"
            checks.append(_check("permissions", "unknown", seen, region=region, cure=AWS_SAYS))
        else:
            allowed = len({each.action for each in asked})
            checks.append(_check("permissions", "ok", f"{allowed} actions, all allowed", region=region))
    return tuple(checks)


def subscription(
    model: str, found: bool | errors.JinaSMError, *, listing: str | None, own: bool = False, shared: bool = False
) -> Check:
    """Whether the account has subscribed to a model's package.

    ``own``: the package is one's own; ``shared``: another account shares its licence, which the Marketplace does not
    tell.
    """
    if own:
        return _check("subscription", "ok", "a package of one's own needs none", subject=model)
    if found is True:
        return _check("subscription", "ok", "subscribed", subject=model)
    if shared:
        return _check("subscription", "unknown", "another account's licence; AWS has the last word", subject=model)
    if isinstance(found, errors.JinaSMError):
        seen = f"it could not be found out: {found.message}"
        return _check("subscription", "unknown", seen, subject=model, cure=found.cure)
    page = f", or {LISTING}{listing}" if listing else ""
    cure = (
        f"`jina-sm subscribe {model}` shows the price and subscribes{page}. "
        "If another account shares its licence with this one, pass --shared-licence."
    )
    return _check("subscription", "fail", f"the account is not subscribed to {model}", subject=model, cure=cure)


def package(
    region: str, model: str, found: Package | errors.JinaSMError, types: Iterable[str], *, missing: bool = False
) -> Check:
    """Whether the model's package is there and made for the instance types. ``missing``: the error says it is not."""
    if isinstance(found, errors.JinaSMError):
        cure = "Copy its ARN from the Marketplace console and give it with --package-arn." if missing else found.cure
        verdict: Verdict = "fail" if missing else "unknown"
        return _check("package", verdict, found.message, region=region, subject=model, cure=cure)
    wrong = [each for each in types if found.types and each not in found.types]
    if wrong:
        first = "ml.g5.xlarge" if "ml.g5.xlarge" in found.types else found.types[0]
        seen = f"it is not made for {', '.join(wrong)}, but for {_some(found.types)}"
        cure = f"`--instance-type {first}`."
        return _check("package", "fail", seen, region=region, subject=model, cure=cure)
    made = f", for {', '.join(types)}" if found.types else ""
    return _check("package", "ok", f"there{made}", region=region, subject=model)


def name(desired: Desired, state: State) -> Check:
    """Whether the names that will be used are free, or ours."""
    region, endpoint = desired.region, desired.endpoint
    try:
        steps = plans.deployment(desired, state)
    except (errors.NameTakenError, errors.EndpointFailedError) as error:
        return _check("name", "fail", error.message, region=region, subject=endpoint, cure=error.cure)
    made = {step.name for step in steps if isinstance(step, Call) and step.operation.startswith("create_")}
    if taken := sorted(made & state.foreign):
        seen = f"{', '.join(taken)} is there without this tool's tags"
        cure = "Choose another with --name, or remove it yourself."
        return _check("name", "fail", seen, region=region, subject=endpoint, cure=cure)
    there = "free" if not state.endpoints else "ours" if steps else "in service as it should be"
    return _check("name", "ok", there, region=region, subject=endpoint)


def storage(desired: Desired) -> tuple[Check, ...]:
    """A key of one's own encrypts no local storage, by AWS's documentation, and most GPU instances have some."""
    kinds = [each for each in (desired.instance_type, *desired.fallbacks) if each.split(".")[1] in _LOCAL_STORAGE]
    if not desired.kms_key or not kinds:
        return ()
    seen = (
        f"{', '.join(kinds)} has local storage, which by AWS's documentation its own hardware encrypts and kms_key "
        "does not; earlier editions of it say that AWS refuses the two together (not tried)"
    )
    cure = "Leave kms_key away where AWS refuses."
    return (_check("kms-key", "warning", seen, region=desired.region, subject=desired.kms_key, cure=cure),)


def quota(region: str, need: Need, room: Room) -> Check:
    """Whether the quota has room for what is needed."""
    kind, limit, use = need.instance_type, room.quota, room.use

    def check(verdict: Verdict, seen: str, cure: str | None = "") -> Check:
        return _check("quota", verdict, seen, region=region, subject=kind, cure=cure)

    if isinstance(limit, errors.JinaSMError):
        return check("unknown", limit.message, limit.cure)
    counted, needed = isinstance(use, Use), f"needed {need.more}"
    used = use.instances if isinstance(use, Use) else 0
    going = sum(count for name, count in use.going.items() if name not in need.frees) if isinstance(use, Use) else 0
    said = (
        f"{limit.value}{'' if limit.applied else ' (the default)'}, in use {used if counted else 'unknown'}, {needed}"
    )
    if need.beside:
        said += ", as an update has new and old at once"
    least = used + need.more
    ask = _asked_for(room.open) or increase(kind, least, region) + (
        f"; or do without {kind}." if need.fallback else "."
    )
    if need.more and limit.value < least:
        if need.fallback:
            said += "; a fallback without enough fails the whole endpoint"
        certain = limit.value < need.more or (isinstance(use, Use) and use.counted and not need.moving)
        return check("fail" if certain else "warning", said, ask)
    if isinstance(use, errors.JinaSMError):
        return check("unknown", f"{said} ({use.message})")
    doubts = (
        (going, f", and {going} being deleted", "Deploy when they are gone."),
        (use.unseen, f", and {use.unseen} in use are of a type that cannot be seen", ask),
        (need.scaling, f"; scaling out would silently stop at {limit.value - used + need.has}", None),
    )
    for count, words, cure in doubts:
        least += count
        if count and limit.value < least:
            more = _asked_for(room.open) or f"{increase(kind, least, region)}."
            return check("warning", said + words, more if cure is None else cure)
    return check("ok", said)


def increase(instance_type: str, value: int, region: str) -> str:
    """The command that asks for so many."""
    return f"`jina-sm quota request --instance-type {instance_type} --value {value} -r {region}`"


def over_quota(message: str, region: str) -> str:
    """What to do when AWS refuses for want of quota, by AWS's words."""
    if not (match := _LIMIT.search(message)):
        return f"`jina-sm quota -r {region}` shows value and use; `jina-sm quota request` asks for more."
    wanted = max(int(match["used"] or 0) + int(match["more"] or 0), int(match["value"]) + 1)
    return f"{increase(match['type'], wanted, region)} asks for more."


def refusal(checks: Iterable[Check]) -> errors.JinaSMError | None:
    """What failed, as one error of the first one's kind; None: nothing did."""
    failed = [each for each in checks if each.verdict == "fail"]
    if not failed:
        return None
    said: dict[str, list[str]] = defaultdict(list)
    for each in failed:
        prefix = f"{each.name} {each.subject}: " if each.name in ("role", "pass-role", "package", "quota") else ""
        said[prefix + each.seen].append(each.region or "")
    regions = [*dict.fromkeys(each.region for each in failed if each.region)]
    words = [
        seen if len(said) == 1 or not any(where) else f"{seen} ({', '.join(dict.fromkeys(where))})"
        for seen, where in said.items()
    ]
    error = RAISED[failed[0].name]("; ".join(words), cure=" ".join(cures(failed)) or None)
    error.region = ", ".join(regions) or None if len(said) == 1 else None
    return error


def cures(checks: Iterable[Check]) -> list[str]:
    """The cures, each once; what differs in its region only is said of all regions at once."""
    found: dict[str, list[str]] = defaultdict(list)
    for each in checks:
        if each.cure:
            found[each.cure.replace(f"-r {each.region}", "-r *")].append(each.region or "")
    return [
        cure.replace("-r *", " ".join(f"-r {each}" for each in dict.fromkeys(where))) for cure, where in found.items()
    ]


def _asked_for(pending: Increase | None) -> str:
    if pending is None:
        return ""
    when = f" on {pending.created[:10]}" if pending.created else ""
    return f"An increase to {pending.desired} was asked for{when} and is {pending.status}: deploy when it is granted."


def _check(
    name: str, verdict: Verdict, seen: str, *, region: str | None = None, subject: str = "", cure: str | None = ""
) -> Check:
    return Check(name=name, verdict=verdict, seen=seen.rstrip("."), region=region, subject=subject, cure=cure or "")


def _unsimulated(error: errors.JinaSMError) -> str:
    return f"IAM could not be asked: {error.message}"


def _to_ask(error: errors.JinaSMError) -> str:
    asks = "iam:SimulatePrincipalPolicy, and iam:ListRoles for the path of a role"
    return error.cure or f"To ask it takes {asks}: `jina-sm iam viewer` has both. Else AWS says what is not allowed."


def _allow(denied: Sequence[Decision], caller: str) -> str:
    """Which permissions to ask for, and the commands that print the policies that have them."""
    whose = dict.fromkeys(policies.allowing(each.action, each.resource) for each in denied)
    printed = " and ".join(f"`jina-sm iam {who}`" for who in whose if who)
    return f"Have {_actions(denied)} allowed to {caller}" + (f": {printed} has it." if printed else ".")


def _actions(decisions: Iterable[Decision]) -> str:
    return ", ".join(dict.fromkeys(each.action for each in decisions))


def _named(decisions: Iterable[Decision]) -> str:
    """Each action on what; the hash at the end of a name tells a reader nothing."""
    on: dict[str, dict[str, None]] = defaultdict(dict)
    for each in decisions:
        on[each.action][_HASH.sub("-*", each.resource.split(":", 5)[5])] = None
    return ", ".join(f"{action} on {' and '.join(resources)}" for action, resources in on.items())


def _conditions(decisions: Iterable[Decision]) -> str:
    keys = dict.fromkeys(key for each in decisions for key in each.missing)
    return ", ".join(keys) or "what IAM did not answer"


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
