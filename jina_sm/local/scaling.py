"""
Application Auto Scaling of endpoints: targets, policies and their tags. No load scales anything; but who registers a
target brings what is in service within its bounds.

What it says of an endpoint that is not there or not in service is in our words: AWS's are not written down.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from jina_sm.local.protocol import Answer, Asked, Refusal, invalid, page
from jina_sm.local.sagemaker import Hosting
from jina_sm.local.state import Region, Scaled

_SPELLED = ("NextToken", "MaxResults")


def ours(body: bytes) -> bool:
    """Whether a request is about SageMaker; one for tags names no service."""
    try:
        said = orjson.loads(body or b"{}")
    except ValueError:
        return True
    return isinstance(said, dict) and said.get("ServiceNamespace", "sagemaker") == "sagemaker"


@dataclass(frozen=True)
class Scaling:
    """The targets of one region, and who changes its endpoints."""

    _region: Region
    _hosting: Hosting

    def register_scalable_target(self, asked: Asked) -> Answer:
        key, tags = _key(asked), asked.pop("Tags", {})
        there = self._region.targets.get(key)
        if there is None:
            _, name, _, variant = [*key[0].split("/"), "", "", ""][:4]
            endpoint = self._region.endpoints.get(name)
            variants = endpoint.serving.params["ProductionVariants"] if endpoint and endpoint.serving else []
            if variant not in {each["VariantName"] for each in variants}:
                raise invalid(f"No variant in service is known by the resource id {key[0]}.")
            if not {"MinCapacity", "MaxCapacity"} <= asked.keys():
                raise invalid("MinCapacity and MaxCapacity are required for a new scalable target.")
            identity = uuid.uuid4().hex
            arn = (
                f"arn:aws:application-autoscaling:{self._region.name}:{self._region.account}:scalable-target/{identity}"
            )
            there = Scaled({}, {}, arn)
        elif tags:
            raise invalid("Tags can be given only where the scalable target is new.")
        params = {**there.params, **asked}
        if not params["MinCapacity"] and not self._queued(key[0]):
            raise invalid("MinCapacity must be at least 1: only a variant for asynchronous inference scales to 0.")
        if params["MinCapacity"] > params["MaxCapacity"]:
            raise invalid("MinCapacity must be less than or equal to MaxCapacity.")
        there.params, there.tags = params, {**there.tags, **tags}
        self._region.targets[key] = there
        self._bring_within(key[0], params["MinCapacity"], params["MaxCapacity"])
        return {"ScalableTargetARN": there.arn}

    def _bring_within(self, resource: str, least: int, most: int) -> None:
        """As AWS does it, afterwards: what its quota has no room for stays as it is, and nobody is told."""
        _, name, _, variant = resource.split("/")
        endpoint = self._region.endpoints.get(name)
        if endpoint is None or endpoint.status != "InService" or endpoint.serving is None:
            return
        for each in endpoint.serving.params["ProductionVariants"]:
            has = each.get("InitialInstanceCount", 1)
            if each["VariantName"] == variant and has != (wanted := min(max(has, least), most)):
                count = {"VariantName": variant, "DesiredInstanceCount": wanted}
                with suppress(Refusal):
                    self._hosting.update_endpoint_weights_and_capacities(
                        {"EndpointName": name, "DesiredWeightsAndCapacities": [count]}
                    )

    def _queued(self, resource: str) -> bool:
        endpoint = self._region.endpoints.get(resource.split("/")[1])
        return bool(endpoint and endpoint.serving and "AsyncInferenceConfig" in endpoint.serving.params)

    def deregister_scalable_target(self, asked: Asked) -> Answer:
        del self._region.targets[self._there(asked)]  # and its policies with it
        return {}

    def describe_scalable_targets(self, asked: Asked) -> Answer:
        def wanted(each: Scaled) -> bool:
            return (
                each.params["ResourceId"] in asked.get("ResourceIds", [each.params["ResourceId"]])
                and asked.get("ScalableDimension", each.params["ScalableDimension"]) == each.params["ScalableDimension"]
            )

        found, more = self._page(asked, filter(wanted, self._region.targets.values()))
        rows = [
            {
                "SuspendedState": dict.fromkeys(
                    ("DynamicScalingInSuspended", "DynamicScalingOutSuspended", "ScheduledScalingSuspended"), False
                ),
                **each.params,
                "RoleARN": f"arn:aws:iam::{self._region.account}:role/aws-service-role/sagemaker",
                "CreationTime": each.created,
                "ScalableTargetARN": each.arn,
            }
            for each in found
        ]
        return {"ScalableTargets": rows, **more}

    def put_scaling_policy(self, asked: Asked) -> Answer:
        there = self._region.targets[self._there(asked)]
        kind = asked.setdefault("PolicyType", "StepScaling")
        if f"{kind}PolicyConfiguration" not in asked:
            raise invalid(f"A policy of type {kind} needs its configuration.")
        name = asked["PolicyName"]
        where = f"{self._region.name}:{self._region.account}:scalingPolicy:{uuid.uuid4()}"
        arn = f"arn:aws:autoscaling:{where}:resource/sagemaker/{asked['ResourceId']}:policyName/{name}"
        arn = there.policies.get(name, {}).get("PolicyARN", arn)
        there.policies[name] = {**asked, "PolicyARN": arn}
        return {"PolicyARN": arn, "Alarms": []}

    def delete_scaling_policy(self, asked: Asked) -> Answer:
        there = self._region.targets.get(_key(asked))
        if there is None or asked["PolicyName"] not in there.policies:
            raise Refusal("ObjectNotFoundException", f"No scaling policy found for {asked['ResourceId']}.")
        del there.policies[asked["PolicyName"]]
        return {}

    def describe_scaling_policies(self, asked: Asked) -> Answer:
        policies = (
            {**policy, "Alarms": [], "CreationTime": each.created}
            for each in self._region.targets.values()
            for policy in each.policies.values()
            if asked.get("ResourceId", policy["ResourceId"]) == policy["ResourceId"]
            and policy["PolicyName"] in asked.get("PolicyNames", [policy["PolicyName"]])
        )
        found, more = page(policies, lambda each: [each["PolicyARN"]], asked, most=50, spelled=_SPELLED)
        return {"ScalingPolicies": found, **more}

    def list_tags_for_resource(self, asked: Asked) -> Answer:
        for each in self._region.targets.values():
            if each.arn == asked["ResourceARN"]:
                return {"Tags": each.tags}
        raise Refusal("ResourceNotFoundException", f"There is no resource {asked['ResourceARN']}.")

    def _page(self, asked: Asked, targets: Any) -> tuple[list[Scaled], Answer]:
        return page(targets, lambda each: [each.created, each.arn], asked, most=50, spelled=_SPELLED)

    def _there(self, asked: Asked) -> tuple[str, str]:
        key = _key(asked)
        if key not in self._region.targets:
            raise Refusal("ObjectNotFoundException", f"No scalable target found for {key[0]} and {key[1]}.")
        return key


def _key(asked: Asked) -> tuple[str, str]:
    return asked["ResourceId"], asked["ScalableDimension"]
