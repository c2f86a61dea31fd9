"""
Service Quotas, for SageMaker's endpoints: how many instances of a type, in one region. CreateEndpoint and
UpdateEndpoint hold to them, and so does a change of the count alone, by what it adds. A requested increase stays open
until the scenario's quota reaches it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jina_sm.local.protocol import Answer, Asked, Refusal, page, service
from jina_sm.local.state import Region, State, wall

_SERVICE = {"ServiceCode": "sagemaker", "ServiceName": "Amazon SageMaker"}
_SPELLED = ("NextToken", "MaxResults")
_NOT_REQUESTED = ("Value", "Adjustable", "UsageMetric")
METRIC = ("AWS/Usage", "ResourceCount")


@dataclass(frozen=True)
class Quotas:
    """The quotas of one region."""

    _state: State
    _region: Region

    def get_service_quota(self, asked: Asked) -> Answer:
        kind = self._type(asked)
        if not self._state.scenario.applied_quotas:
            raise _missing()
        return {"Quota": self._quota(kind)}

    def get_aws_default_service_quota(self, asked: Asked) -> Answer:
        return {"Quota": self._default(self._type(asked))}

    def list_service_quotas(self, asked: Asked) -> Answer:
        found, more = self._page(asked)
        if not self._state.scenario.applied_quotas:
            return {"Quotas": []}
        return {"Quotas": [self._quota(each) for each in found], **more}

    def list_aws_default_service_quotas(self, asked: Asked) -> Answer:
        found, more = self._page(asked)
        return {"Quotas": [self._default(each) for each in found], **more}

    def request_service_quota_increase(self, asked: Asked) -> Answer:
        kind, wanted = self._type(asked), asked["DesiredValue"]
        if wanted <= self._state.scenario.limit(kind):
            raise Refusal("IllegalArgumentException", "You must provide a quota value greater than the current value.")
        if any(each["QuotaCode"] == asked["QuotaCode"] and self._open(each) for each in self._region.quota_requests):
            words = "Only one open service quota increase request is allowed per quota."
            raise Refusal("ResourceAlreadyExistsException", words)
        quota = {name: value for name, value in self._quota(kind).items() if name not in _NOT_REQUESTED}
        request = {
            **quota,
            "Id": hashlib.sha256(f"{self._region.name} {len(self._region.quota_requests)}".encode()).hexdigest()[:32],
            "DesiredValue": float(wanted),
            "Created": wall(),
        }
        self._region.quota_requests.append(request)
        return {"RequestedQuota": self._told(request)}

    def get_requested_service_quota_change(self, asked: Asked) -> Answer:
        for request in self._region.quota_requests:
            if request["Id"] == asked["RequestId"]:
                return {"RequestedQuota": self._told(request)}
        raise _missing()

    def list_requested_service_quota_change_history(self, asked: Asked) -> Answer:
        wanted = {name: asked[name] for name in ("ServiceCode", "QuotaCode", "Status") if name in asked}
        told = map(self._told, self._region.quota_requests)
        fitting = [each for each in told if all(each[name] == value for name, value in wanted.items())]
        found, more = page(fitting, lambda each: [each["Created"], each["Id"]], asked, most=100, spelled=_SPELLED)
        return {"RequestedQuotas": found, **more}

    list_requested_service_quota_change_history_by_quota = list_requested_service_quota_change_history

    def _default(self, instance_type: str) -> Answer:
        """AWS's own: none of any type, which is what many accounts have of GPUs."""
        quota = self._quota(instance_type)
        return quota if not self._state.scenario.applied_quotas else {**quota, "Value": 0.0}

    def _quota(self, instance_type: str) -> Answer:
        code = self._code(instance_type)
        return {
            **_SERVICE,
            "QuotaArn": f"arn:aws:servicequotas:{self._region.name}:{self._region.account}:sagemaker/{code}",
            "QuotaCode": code,
            "QuotaName": f"{instance_type} for endpoint usage",
            "Value": float(self._state.scenario.limit(instance_type)),
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
            "UsageMetric": {
                "MetricNamespace": METRIC[0],
                "MetricName": METRIC[1],
                "MetricDimensions": dimensions(instance_type),
                "MetricStatisticRecommendation": "Maximum",
            },
        }

    def _page(self, asked: Asked) -> tuple[list[str], Answer]:
        if asked["ServiceCode"] != _SERVICE["ServiceCode"]:
            raise _missing()
        wanted = [each for each in _types() if asked.get("QuotaCode", self._code(each)) == self._code(each)]
        return page(wanted, lambda each: [each], asked, most=100, spelled=_SPELLED)

    def _type(self, asked: Asked) -> str:
        for instance_type in _types() if asked["ServiceCode"] == _SERVICE["ServiceCode"] else ():
            if self._code(instance_type) == asked["QuotaCode"]:
                return instance_type
        raise _missing()

    def _code(self, instance_type: str) -> str:
        """Of those that the catalogue does not know, one that is made up."""
        known = self._state.catalog.quotas.codes.get(instance_type)
        return known or "L-" + hashlib.sha256(instance_type.encode()).hexdigest()[:8].upper()

    def _open(self, request: Mapping[str, Any]) -> bool:
        return bool(self._told(request)["Status"] == "PENDING")

    def _told(self, request: Mapping[str, Any]) -> Answer:
        granted = self._state.scenario.limit(request["QuotaName"].split()[0]) >= request["DesiredValue"]
        return {**request, "Status": "APPROVED" if granted else "PENDING"}


def check(state: State, region: Region, variants: Iterable[Mapping[str, Any]]) -> None:
    """Raises ResourceLimitExceeded where a deployment needs more instances than are left.

    An update needs its new instances beside the old ones, which go when it is done.
    """
    used = in_use(region)
    for instance_type, more in _counted(variants).items():
        limit, now = state.scenario.limit(instance_type), used.get(instance_type, 0)
        if now + more > limit:
            raise Refusal(
                "ResourceLimitExceeded",
                f"The account-level service limit '{instance_type} for endpoint usage' is {limit} Instances, with "
                f"current utilization of {now} Instances and a request delta of {more} Instances. Please use AWS "
                "Service Quotas to request an increase for this quota. If AWS Service Quotas is not available, contact "
                "AWS support to request an increase for this quota.",
            )


def in_use(region: Region) -> dict[str, int]:
    """Instances by type that the endpoints of a region have or will have; of pools, of the type that was to be had."""
    return _counted(
        {**variant, "InstancePools": [], "InstanceType": deployment.types.get(variant["VariantName"])}
        for endpoint in region.endpoints.values()
        for deployment in ((endpoint.coming,) if endpoint.resizing else (endpoint.serving, endpoint.coming))
        if deployment and endpoint.status != "Failed"
        for variant in deployment.params["ProductionVariants"]
    )


def dimensions(instance_type: str) -> dict[str, str]:
    """How CloudWatch knows what is in use of a quota."""
    return {"Class": "None", "Resource": f"endpoint/{instance_type}", "Service": "SageMaker", "Type": "Resource"}


def _counted(variants: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Instances by type. Of pools each type counts: a type without quota fails the whole, whatever its priority."""
    counted: dict[str, int] = {}
    for variant in variants:
        for each in variant.get("InstancePools") or [variant]:
            if instance_type := each.get("InstanceType"):
                counted[instance_type] = counted.get(instance_type, 0) + variant.get("InitialInstanceCount", 1)
    return counted


def _types() -> Iterator[str]:
    yield from service("sagemaker").shape_for("ProductionVariantInstanceType").enum


def _missing() -> Refusal:
    return Refusal("NoSuchResourceException", "The request failed because the specified resource does not exist.")
