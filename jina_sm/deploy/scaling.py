"""
Autoscaling of an endpoint, as values and as calls to Application Auto Scaling. Touches nothing.

By requests at once on each instance, which AWS measures every ten seconds: what the model is slow at is then what
counts, not how many requests there are a minute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from jina_sm.deploy.steps import ENDPOINT_TAG, OWNER, VARIANT, Call

POLICY = "jina-sm-concurrency"
METRIC = "SageMakerVariantConcurrentRequestsPerModelHighResolution"
_SERVICE = "application-autoscaling"


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """From how many instances to how many, and at how many requests at once on each AWS adds another."""

    least: int
    most: int
    target: float

    def __str__(self) -> str:
        return f"{self.least}-{self.most}@{self.target:g}"

    @classmethod
    def read(cls, text: str) -> Scaling | None:
        """Of what ``str`` gave; None: there was none."""
        match = re.fullmatch(r"(\d+)-(\d+)@([0-9.e+]+)", text)
        return cls(least=int(match[1]), most=int(match[2]), target=float(match[3])) if match else None


@dataclass(frozen=True, kw_only=True)
class Target:
    """What AWS has of an endpoint's autoscaling. ``policies``: by name, the load it aims at; None: another kind."""

    endpoint: str
    least: int
    most: int
    policies: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def scaling(self) -> Scaling | None:
        target = self.policies.get(POLICY)
        return None if target is None else Scaling(least=self.least, most=self.most, target=target)


def resource(endpoint: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def set_to(endpoint: str, wanted: Scaling | None, there: Target | None) -> list[Call]:
    """The calls that make what should be of what is. A policy that somebody added stays, unless none should be."""
    if wanted is None:
        return removal(there)
    calls, tags = [], {OWNER[0]: OWNER[1], ENDPOINT_TAG: endpoint}
    if there is None or (there.least, there.most) != (wanted.least, wanted.most):
        bounds = {"MinCapacity": wanted.least, "MaxCapacity": wanted.most}
        # Tags may be given only where there is no target yet.
        named = {**resource(endpoint), **bounds, **({} if there else {"Tags": tags})}
        calls.append(Call("register_scalable_target", named, _SERVICE))
    if there is None or there.policies.get(POLICY) != wanted.target:
        tracking = {"TargetValue": wanted.target, "PredefinedMetricSpecification": {"PredefinedMetricType": METRIC}}
        policy = {
            "PolicyName": POLICY,
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": tracking,
        }
        calls.append(Call("put_scaling_policy", {**resource(endpoint), **policy}, _SERVICE))
    return calls


def removal(there: Target | None) -> list[Call]:
    """The calls that end it."""
    if there is None:
        return []
    where = resource(there.endpoint)
    policies = [Call("delete_scaling_policy", {"PolicyName": name, **where}, _SERVICE) for name in there.policies]
    return [*policies, Call("deregister_scalable_target", where, _SERVICE)]
