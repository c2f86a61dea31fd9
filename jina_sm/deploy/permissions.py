"""
What IAM must allow for the calls of a plan, and how that is asked of IAM's simulator. Touches nothing.

The simulator weighs each action on each resource that it is given, so what belongs together is asked together, for
all regions at once. It leaves out the policies of a session; those of an organisation are in what it decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jina_sm.deploy.steps import Call, Step, Wait

_KINDS = {
    "model": "model",
    "endpoint_config": "endpoint-config",
    "endpoint": "endpoint",
    "endpoint_weights_and_capacities": "endpoint",
}
_SERVICES = {"sagemaker.amazonaws.com": True, "scheduler.amazonaws.com": False}


@dataclass(frozen=True, kw_only=True)
class Permission:
    """One action on one resource. ``needed=False``: only to remove again what was made.

    ``passed_to``: of iam:PassRole, the service.
    """

    action: str
    resource: str
    region: str | None = None
    needed: bool = True
    passed_to: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What IAM says of one. ``allowed=None``: it depends on what the simulator was not told, the ``missing`` keys."""

    action: str
    resource: str
    region: str | None = None
    needed: bool = True
    to_sagemaker: bool = False
    allowed: bool | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Question:
    """One call of the simulator: every action on every resource, in these circumstances."""

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    context: tuple[Mapping[str, Any], ...]


def wanted(steps: Iterable[Step], *, region: str, partition: str, account: str) -> list[Permission]:
    """What the steps need, and what removing their work would."""
    home = f"{partition}:{{}}:{region}:{account}"
    found = (each for step in steps for each in _of(step, region, home, f"arn:{partition}:iam::{account}"))
    return [*dict.fromkeys(found)]


def _of(step: Step, region: str, home: str, iam: str) -> Iterator[Permission]:
    def on(service: str, rest: str) -> str:
        return f"arn:{home.format(service)}:{rest}"

    if isinstance(step, Wait):
        endpoint = on("sagemaker", f"endpoint/{step.endpoint}")
        yield Permission(action="sagemaker:DescribeEndpoint", resource=endpoint, region=region)
        return
    if step.service == "sagemaker":
        yield from _hosting(step, region, on)
        return
    params, action = step.params, action_of(step)
    if step.service == "iam":  # roles are the account's
        yield Permission(action=action, resource=f"{iam}:role/{params['RoleName']}")
        return
    group = params.get("GroupName") or params.get("Name", "")
    resource = {
        "application-autoscaling": "scalable-target/*",
        "scheduler": f"schedule-group/{group}" if step.operation.endswith("group") else f"schedule/{group}/{group}",
        "cloudwatch": f"alarm:{params.get('AlarmName') or ''.join(params.get('AlarmNames', ()))}",
        "logs": f"log-group:{params.get('logGroupName')}:*",
    }[step.service]
    yield Permission(action=action, resource=on(step.service, resource), region=region)
    if role := params.get("Target", {}).get("RoleArn"):
        yield Permission(action="iam:PassRole", resource=role, passed_to="scheduler.amazonaws.com")


def _hosting(step: Call, region: str, on: Callable[[str, str], str]) -> Iterator[Permission]:
    verb, _, what = step.operation.partition("_")
    params, action = step.params, action_of(step)
    resource = params.get("ResourceArn") or on("sagemaker", f"{_KINDS[what]}/{step.name}")
    yield Permission(action=action, resource=resource, region=region)
    if what == "endpoint" and (config := params.get("EndpointConfigName")):
        yield Permission(action=action, resource=on("sagemaker", f"endpoint-config/{config}"), region=region)
    if params.get("Tags") and verb != "add":
        yield Permission(action="sagemaker:AddTags", resource=resource, region=region)
    if role := params.get("ExecutionRoleArn"):
        yield Permission(action="iam:PassRole", resource=role, passed_to="sagemaker.amazonaws.com")
    if verb == "create":
        yield Permission(action=f"sagemaker:Delete{_camel(what)}", resource=resource, region=region, needed=False)


def action_of(call: Call) -> str:
    """As IAM spells it: ``sagemaker:CreateModel``."""
    return f"{call.service}:{_camel(call.operation)}"


def circumstances(steps: Iterable[Step]) -> dict[str, tuple[str, ...]]:
    """What is known of the calls beforehand, by IAM's condition keys: the tags they give, and SageMaker's own."""
    known: dict[str, tuple[str, ...]] = {}
    for step in steps:
        if not isinstance(step, Call) or step.service != "sagemaker":
            continue
        for tag in step.params.get("Tags") or ():
            if isinstance(tag, Mapping):
                for kind in ("RequestTag", "ResourceTag"):
                    known.setdefault(f"aws:{kind}/{tag['Key']}", (tag["Value"],))
                known["aws:TagKeys"] = tuple(dict.fromkeys((*known.get("aws:TagKeys", ()), tag["Key"])))
        if "EnableNetworkIsolation" in step.params:
            known["sagemaker:NetworkIsolation"] = ("true",)
        for variant in step.params.get("ProductionVariants", ()):
            types = [each["InstanceType"] for each in variant.get("InstancePools") or [variant]]
            known["sagemaker:InstanceTypes"] = tuple(types)
    return known


def questions(
    asked: Iterable[Permission], known: Mapping[str, tuple[str, ...]], region: str | None = None
) -> list[Question]:
    """The calls of the simulator that answer for all; with a region, as if asked from there."""
    grouped: dict[tuple[str, str, str], list[Permission]] = {}
    for each in asked:
        service, kind = each.resource.split(":")[2], each.resource.split(":")[5].partition("/")[0]
        grouped.setdefault((service, kind, each.passed_to), []).append(each)
    found = []
    for (_, _, passed_to), some in grouped.items():
        context = [_entry(key, values) for key, values in known.items()]
        regions = {region} if region else {each.region for each in some}
        if len(regions) == 1 and (only := next(iter(regions))):
            context.append(_entry("aws:RequestedRegion", (only,)))
        if passed_to:
            context.append(_entry("iam:PassedToService", (passed_to,)))
        found.append(
            Question(
                actions=tuple(dict.fromkeys(each.action for each in some)),
                resources=tuple(dict.fromkeys(each.resource for each in some)),
                context=tuple(context),
            )
        )
    return found


def decided(permission: Permission, said: Mapping[tuple[str, str], tuple[str, tuple[str, ...]]]) -> Decision:
    """What the simulator said of one, by action and resource: its word, and the keys that it missed."""
    word, missing = said.get((permission.action.lower(), permission.resource), ("", ()))
    # A key that was missing may have been what an allowance, or a refusal, depends on.
    allowed = None if not word or (missing and word != "explicitDeny") else word == "allowed"
    return Decision(
        action=permission.action,
        resource=permission.resource,
        region=permission.region,
        needed=permission.needed,
        to_sagemaker=_SERVICES.get(permission.passed_to, False),
        allowed=allowed,
        missing=missing,
    )


def principal(arn: str) -> str | None:
    """Whose policies count for a caller: of an assumed role, the role, were it without a path. None: nobody's.

    IAM simulates users and roles; the account's root user and federated users have no policies to look at.
    """
    _, partition, service, _, account, rest = arn.split(":", 5)
    kind, _, name = rest.partition("/")
    if kind == "assumed-role":
        return f"arn:{partition}:iam::{account}:role/{name.split('/')[0]}"
    if kind in ("user", "role") and service in ("iam", "sts"):
        return arn
    return None


def _entry(key: str, values: tuple[str, ...]) -> dict[str, Any]:
    several = key in ("aws:TagKeys", "sagemaker:InstanceTypes")
    kind = "boolean" if key == "sagemaker:NetworkIsolation" else "stringList" if several else "string"
    return {"ContextKeyName": key, "ContextKeyValues": [*values], "ContextKeyType": kind}


def _camel(operation: str) -> str:
    return "".join(word.capitalize() for word in operation.split("_"))
