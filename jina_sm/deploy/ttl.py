"""
An endpoint's end, set beforehand: a one-time schedule at AWS, which deletes the endpoint whether or not anyone is at
their desk. As values and as calls; touches nothing.

Schedules carry no tags, so each is in a group of its own, which does. AWS removes a schedule that has done its work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from jina_sm.deploy.steps import OWNER, Call, tag_list

ROLE = "jina-sm-ttl"
SERVICE = "scheduler.amazonaws.com"
_SERVICE = "scheduler"
_TARGET = "arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint"
_ENDS = "at(%Y-%m-%dT%H:%M:%S)"


@dataclass(frozen=True, kw_only=True)
class Ttl:
    """How long an endpoint may live, and when that is over if it is set now.

    ``role_arn`` is what the schedule acts as; ``role`` are the calls that make it, none where it is there.
    """

    seconds: int
    ends: datetime
    role_arn: str
    role: tuple[Call, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What AWS has of it. ``seconds=None``: only the group is left, since the schedule has done its work."""

    endpoint: str
    seconds: int | None = None
    ends: datetime | None = None


def lasting(seconds: int) -> str:
    """As it would be given: ``8h``."""
    length, unit = next((each for each in ((86400, "d"), (3600, "h"), (60, "m")) if seconds % each[0] == 0), (1, " s"))
    return f"{seconds // length}{unit}"


def described(seconds: int) -> str:
    return f"{seconds} s after it was set"


def read(endpoint: str, said: Mapping[str, Any]) -> Schedule:
    """Of what AWS tells about a schedule."""
    seconds, _, rest = str(said.get("Description", "")).partition(" ")
    known = int(seconds) if seconds.isdecimal() and rest == described(0).partition(" ")[2] else 0
    try:
        ends = datetime.strptime(said["ScheduleExpression"], _ENDS).replace(tzinfo=UTC)
    except ValueError:
        ends = None
    return Schedule(endpoint=endpoint, seconds=known, ends=ends)


def set_to(
    endpoint: str, wanted: Ttl, there: Schedule | None, tags: Mapping[str, str], *, anew: bool = False
) -> list[Call]:
    """The calls that make it so. One of the same length that runs already stays: it counts from when it was set.

    ``anew``: for an endpoint that is still to be made, which an end of before would cut short.
    """
    runs = there is not None and there.ends is not None and there.ends > wanted.ends - timedelta(seconds=wanted.seconds)
    if there and there.seconds == wanted.seconds and runs and not anew:
        return list(wanted.role)
    params = {
        "Name": endpoint,
        "GroupName": endpoint,
        "Description": described(wanted.seconds),
        "ScheduleExpression": wanted.ends.astimezone(UTC).strftime(_ENDS),
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": {
            "Arn": _TARGET,
            "RoleArn": wanted.role_arn,
            "Input": orjson.dumps({"EndpointName": endpoint}).decode(),
            # AWS deletes no endpoint that is being changed, so it is tried for a day.
            "RetryPolicy": {"MaximumEventAgeInSeconds": 86400, "MaximumRetryAttempts": 185},
        },
    }
    calls = list(wanted.role)
    if there is None:
        calls.append(Call("create_schedule_group", {"Name": endpoint, "Tags": tag_list(tags)}, _SERVICE))
    verb = "update" if there and there.seconds is not None else "create"
    return [*calls, Call(f"{verb}_schedule", params, _SERVICE)]


def removal(there: Schedule) -> list[Call]:
    """The calls that take it off."""
    calls = [Call("delete_schedule_group", {"Name": there.endpoint}, _SERVICE)]
    if there.seconds is None:
        return calls
    return [Call("delete_schedule", {"Name": there.endpoint, "GroupName": there.endpoint}, _SERVICE), *calls]


def role_arn(account: str) -> str:
    return f"arn:aws:iam::{account}:role/{ROLE}"


def role(account: str, *, there: bool, policy: Mapping[str, Any] | None) -> tuple[Call, ...]:
    """The calls that make the role, as far as it is not there: it may delete what is ours, and nothing else."""
    may = permissions(account)
    calls = []
    if not there:
        params = {
            "RoleName": ROLE,
            "AssumeRolePolicyDocument": _text(trust(account)),
            "Description": "Lets EventBridge Scheduler delete endpoints that jina-sm made",
            "Tags": tag_list({OWNER[0]: OWNER[1]}),
        }
        calls.append(Call("create_role", params, "iam"))
    if policy not in (may, permissions("*")):  # one who gave it to their account wrote no number
        params = {"RoleName": ROLE, "PolicyName": ROLE, "PolicyDocument": _text(may)}
        calls.append(Call("put_role_policy", params, "iam"))
    return tuple(calls)


def role_removal() -> tuple[Call, ...]:
    return (
        Call("delete_role_policy", {"RoleName": ROLE, "PolicyName": ROLE}, "iam"),
        Call("delete_role", {"RoleName": ROLE}, "iam"),
    )


def trust(account: str | None) -> dict[str, Any]:
    """Whom the role trusts: the scheduler, of one account alone where that is known."""
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"Service": SERVICE},
        "Action": "sts:AssumeRole",
    }
    if account:
        statement["Condition"] = {"StringEquals": {"aws:SourceAccount": account}}
    return {"Version": "2012-10-17", "Statement": [statement]}


def permissions(account: str) -> dict[str, Any]:
    """The role's policy. Deleting an endpoint ends its autoscaling, which is a permission of its own."""
    statements = [
        {
            "Effect": "Allow",
            "Action": "sagemaker:DeleteEndpoint",
            "Resource": f"arn:aws:sagemaker:*:{account}:endpoint/jina-sm-*",
            "Condition": {"StringEquals": {f"aws:ResourceTag/{OWNER[0]}": OWNER[1]}},
        },
        {
            "Effect": "Allow",
            "Action": "application-autoscaling:DeregisterScalableTarget",
            "Resource": f"arn:aws:application-autoscaling:*:{account}:scalable-target/*",
        },
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def _text(policy: Mapping[str, Any]) -> str:
    return orjson.dumps(policy).decode()
