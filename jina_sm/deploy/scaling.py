"""
Autoscaling of an endpoint, as values and as calls to Application Auto Scaling. Touches nothing.

By requests at once on each instance, which AWS measures every ten seconds: what the model is slow at is then what
counts, not how many requests there are a minute. An asynchronous endpoint has a queue, and is scaled by that: down to
no instance at all, which one policy cannot undo, since with no instance there is no backlog on each. So an alarm on a
queue without instances adds the first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from jina_sm.deploy.steps import ENDPOINT_TAG, OWNER, VARIANT, Call, tag_list

POLICY, BACKLOG_POLICY, WAKING_POLICY = "jina-sm-concurrency", "jina-sm-backlog", "jina-sm-from-zero"
BACKLOG, WAITING = "ApproximateBacklogSizePerInstance", "HasBacklogWithoutCapacity"
_NAMESPACE = "AWS/SageMaker"
ARN_OF = "arn-of-policy:"
"""Stands, with a policy's name, for its ARN, which AWS chooses; it is asked for when the call is taken."""

_WAKING = "-from-zero"
_COOLDOWN_S = 300  # an instance takes minutes, and one alarm is to bring one
METRIC = "SageMakerVariantConcurrentRequestsPerModelHighResolution"
_SERVICE = "application-autoscaling"


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """From how many instances to how many, and at how many requests at once on each AWS adds another.

    ``asynchronous``: at how many waiting for each.
    """

    least: int
    most: int
    target: float
    asynchronous: bool = False

    def __str__(self) -> str:
        return f"{self.least}-{self.most}@{self.target:g}{' waiting' if self.asynchronous else ''}"

    @classmethod
    def read(cls, text: str) -> Scaling | None:
        """Of what ``str`` gave; None: there was none."""
        match = re.fullmatch(r"(\d+)-(\d+)@([0-9.e+]+)( waiting)?", text)
        if not match:
            return None
        return cls(least=int(match[1]), most=int(match[2]), target=float(match[3]), asynchronous=bool(match[4]))


@dataclass(frozen=True, kw_only=True)
class Target:
    """What AWS has of an endpoint's autoscaling. ``policies``: by name, the load it aims at; None: another kind.

    ``arns``: the policies' own, by name.
    """

    endpoint: str
    least: int
    most: int
    policies: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))
    arns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def scaling(self) -> Scaling | None:
        for name in (POLICY, BACKLOG_POLICY):
            if (target := self.policies.get(name)) is not None:
                waiting = name == BACKLOG_POLICY
                return Scaling(least=self.least, most=self.most, target=target, asynchronous=waiting)
        return None


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """The alarm that adds the first instance. ``actions``: the ARNs of the policies that it sets off."""

    endpoint: str
    actions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.endpoint + _WAKING


def alarm_of(name: str) -> str | None:
    """The endpoint that an alarm of that name is of; None: of none of ours."""
    return name.removesuffix(_WAKING) if name.endswith(_WAKING) else None


def resource(endpoint: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def set_to(endpoint: str, wanted: Scaling | None, there: Target | None, alarm: Alarm | None = None) -> list[Call]:
    """The calls that make what should be of what is. A policy that somebody added stays, unless none should be."""
    if wanted is None:
        return removal(there, alarm)
    calls, tags = [], {OWNER[0]: OWNER[1], ENDPOINT_TAG: endpoint}
    if there is None or (there.least, there.most) != (wanted.least, wanted.most):
        bounds = {"MinCapacity": wanted.least, "MaxCapacity": wanted.most}
        # Tags may be given only where there is no target yet.
        named = {**resource(endpoint), **bounds, **({} if there else {"Tags": tags})}
        calls.append(Call("register_scalable_target", named, _SERVICE))
    name, metric = _measured(endpoint, wanted)
    if there is None or there.policies.get(name) != wanted.target:
        policy = {
            "PolicyName": name,
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": {"TargetValue": wanted.target, **metric},
        }
        calls.append(Call("put_scaling_policy", {**resource(endpoint), **policy}, _SERVICE))
    awake = there.arns.get(WAKING_POLICY) if there else None
    if wanted.asynchronous and wanted.least == 0:
        if awake is None:
            calls.append(Call("put_scaling_policy", {**resource(endpoint), **_WAKES}, _SERVICE))
        if alarm is None or awake not in alarm.actions:
            calls.append(Call("put_metric_alarm", _waking(endpoint, tags), "cloudwatch"))
        return calls
    if awake:
        calls.append(Call("delete_scaling_policy", {"PolicyName": WAKING_POLICY, **resource(endpoint)}, _SERVICE))
    return calls + removal(None, alarm)


def removal(there: Target | None, alarm: Alarm | None = None) -> list[Call]:
    """The calls that end it."""
    calls = []
    if there:
        where = resource(there.endpoint)
        calls = [Call("delete_scaling_policy", {"PolicyName": name, **where}, _SERVICE) for name in there.policies]
        calls.append(Call("deregister_scalable_target", where, _SERVICE))
    if alarm:
        calls.append(Call("delete_alarms", {"AlarmNames": [alarm.name]}, "cloudwatch"))
    return calls


_WAKES = {
    "PolicyName": WAKING_POLICY,
    "PolicyType": "StepScaling",
    "StepScalingPolicyConfiguration": {
        "AdjustmentType": "ChangeInCapacity",
        "MetricAggregationType": "Average",
        "Cooldown": _COOLDOWN_S,
        "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
    },
}


def _measured(endpoint: str, wanted: Scaling) -> tuple[str, dict[str, Any]]:
    """The policy's name, and what it holds at its target."""
    if not wanted.asynchronous:
        return POLICY, {"PredefinedMetricSpecification": {"PredefinedMetricType": METRIC}}
    metric = {"MetricName": BACKLOG, "Namespace": _NAMESPACE, "Dimensions": _of(endpoint), "Statistic": "Average"}
    return BACKLOG_POLICY, {"CustomizedMetricSpecification": metric}


def _waking(endpoint: str, tags: Mapping[str, str]) -> dict[str, Any]:
    return {
        "AlarmName": Alarm(endpoint=endpoint).name,
        "AlarmDescription": "Requests wait for an endpoint that has no instance",
        "Namespace": _NAMESPACE,
        "MetricName": WAITING,
        "Dimensions": _of(endpoint),
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 2,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
        "AlarmActions": [ARN_OF + WAKING_POLICY],
        "Tags": tag_list(tags),
    }


def _of(endpoint: str) -> list[dict[str, str]]:
    return [{"Name": "EndpointName", "Value": endpoint}]
