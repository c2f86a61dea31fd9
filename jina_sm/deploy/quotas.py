"""
Service Quotas for endpoints: how many instances of a type one region allows, how many are in use, asking for more.

A quota is looked up by its code, then by its name, then among AWS's defaults, for one that was never applied is in no
list of the account's. What is in use is counted endpoint by endpoint, since CloudWatch lags by minutes; with a great
many endpoints CloudWatch must do.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from jina_sm import errors
from jina_sm.deploy.aws import ControlPlane, NotThereError
from jina_sm.deploy.plan import types_of
from jina_sm.deploy.preflight import Increase, Quota, Room, Use

SERVICE = "sagemaker"
COUNTED = 60
"""The most endpoints that are counted one by one, at two calls each."""

OPEN = ("PENDING", "CASE_OPENED")
_NAME = "{} for endpoint usage"
_THREADS = 8
_METRIC_S = 900  # how far back CloudWatch is asked


class TooManyError(errors.DeployError):
    """There are so many endpoints that they are not counted one by one."""


class Quotas:
    """The quotas of one region. ``codes``: those that are known, by instance type."""

    def __init__(self, control: ControlPlane, codes: Mapping[str, str]) -> None:
        self._control = control
        self._codes = codes

    def rooms(
        self, types: Iterable[str], counted: Mapping[str, Use] | errors.JinaSMError, *, pending: bool = False
    ) -> dict[str, Room]:
        """By type: the quota, and what of it is in use; where looking failed, the error.

        ``counted``: what ``uses`` told. ``pending``: and the increase that is open.
        """
        wanted = [*dict.fromkeys(types)]
        found = self._found(wanted)
        return {
            kind: Room(
                quota=found[kind],
                use=self._use(kind, found[kind], counted),
                open=self._pending(found[kind]) if pending else None,
            )
            for kind in wanted
        }

    def with_pending(self, room: Room) -> Room:
        """The room, and the increase that is open."""
        return Room(quota=room.quota, use=room.use, open=self._pending(room.quota))

    def ask(self, instance_type: str, value: int) -> Increase:
        """Asks for so many; the request that is open already, if one is. Raises InputError for no more than it is."""
        (found,) = self._found([instance_type]).values()
        region = self._control.region
        if isinstance(found, errors.JinaSMError):
            raise found
        if pending := self._pending(found):
            return pending
        if value <= found.value:
            raise errors.InputError(
                f"{value} is not more than the {found.value} {instance_type} that the quota in {region} allows"
            )
        if not found.adjustable:
            raise errors.QuotaError(
                f"the quota of {instance_type} cannot be raised", cure="Ask AWS Support.", region=region
            )
        try:
            said = self._control.asked(
                "service-quotas",
                "request_service_quota_increase",
                ServiceCode=SERVICE,
                QuotaCode=found.code,
                DesiredValue=float(value),
                SupportCaseAllowed=True,
            )["RequestedQuota"]
        except errors.DeployError as error:
            if error.code == "ResourceAlreadyExistsException" and (pending := self._pending(found)):
                return pending
            raise
        return _increase(instance_type, region, said, new=True)

    def _found(self, types: Iterable[str]) -> dict[str, Quota | errors.JinaSMError]:
        """By code, else by name, in one walk through the account's and one through AWS's list for all of them."""
        found: dict[str, Quota | errors.JinaSMError] = {}
        unknown: list[str] = []
        for kind in types:
            try:
                known = self._by_code(kind)
            except errors.JinaSMError as error:
                found[kind] = error
            else:
                if known:
                    found[kind] = known
                else:
                    unknown.append(kind)
        for operation, applied in (("list_service_quotas", True), ("list_aws_default_service_quotas", False)):
            try:
                named = {_NAME.format(kind): kind for kind in unknown if kind not in found}
                for said in self._listed(operation) if named else ():
                    if kind := named.pop(said["QuotaName"], ""):
                        found[kind] = self._quota(kind, said, applied=applied)
                        if not named:
                            break
            except errors.JinaSMError as error:
                found |= {kind: error for kind in unknown if kind not in found}
        for kind in unknown:
            found.setdefault(
                kind,
                NotThereError(
                    f"AWS has no quota named {_NAME.format(kind)!r} in {self._control.region}",
                    cure="Perhaps it has no such instances for endpoints there: take another type or region.",
                ),
            )
        return found

    def _by_code(self, kind: str) -> Quota | None:
        code = self._codes.get(kind)
        for operation, applied in (("get_service_quota", True), ("get_aws_default_service_quota", False)):
            try:
                said = code and self._control.asked("service-quotas", operation, ServiceCode=SERVICE, QuotaCode=code)
            except NotThereError:
                continue
            # A code that has come to mean something else is as good as none.
            if said and said["Quota"]["QuotaName"] == _NAME.format(kind):
                return self._quota(kind, said["Quota"], applied=applied)
        return None

    def _quota(self, kind: str, said: Mapping[str, Any], *, applied: bool) -> Quota:
        if "Value" not in said:
            why = said.get("ErrorReason", {}).get("ErrorMessage") or "no reason given"
            raise errors.DeployError(f"Service Quotas tells no value: {why}", region=self._control.region)
        return Quota(
            instance_type=kind,
            region=self._control.region,
            code=said["QuotaCode"],
            value=int(said["Value"]),
            applied=applied,
            adjustable=said.get("Adjustable", True),
            metric=said.get("UsageMetric") or {},
        )

    def _use(
        self, kind: str, quota: Quota | errors.JinaSMError, counted: Mapping[str, Use] | errors.JinaSMError
    ) -> Use | errors.JinaSMError:
        if not isinstance(counted, errors.JinaSMError):
            return counted.get(kind) or counted[""]
        if isinstance(quota, errors.JinaSMError) or not quota.metric.get("MetricName"):
            return counted
        try:
            return self._measured(quota) or counted
        except errors.JinaSMError:
            return counted

    def _measured(self, quota: Quota) -> Use | None:
        """What CloudWatch told last; None: it tells nothing, which is not none in use."""
        now, metric = datetime.now(UTC), quota.metric
        statistic = metric.get("MetricStatisticRecommendation", "Maximum")
        said = self._control.asked(
            "cloudwatch",
            "get_metric_statistics",
            Namespace=metric["MetricNamespace"],
            MetricName=metric["MetricName"],
            Dimensions=[{"Name": name, "Value": value} for name, value in metric.get("MetricDimensions", {}).items()],
            StartTime=now - timedelta(seconds=_METRIC_S),
            EndTime=now + timedelta(minutes=1),  # it excludes its end, where a minute's point is stamped with its start
            Period=300,
            Statistics=[statistic],
        )["Datapoints"]
        last = max(said, key=lambda point: point["Timestamp"], default=None)
        return Use(instances=int(last[statistic]), counted=False) if last else None

    def _pending(self, quota: Quota | errors.JinaSMError) -> Increase | None:
        """The increase that is open; None: there is none, or it cannot be seen."""
        if isinstance(quota, errors.JinaSMError):
            return None
        try:
            pages = self._control.pages(
                "service-quotas",
                "list_requested_service_quota_change_history_by_quota",
                ServiceCode=SERVICE,
                QuotaCode=quota.code,
            )
            for page in pages:
                for said in page["RequestedQuotas"]:
                    if said["Status"] in OPEN:
                        return _increase(quota.instance_type, quota.region, said)
        except errors.JinaSMError:
            return None
        return None

    def _listed(self, operation: str) -> Iterator[dict[str, Any]]:
        for page in self._control.pages("service-quotas", operation, page_size=100, ServiceCode=SERVICE):
            yield from page["Quotas"]


def uses(control: ControlPlane) -> dict[str, Use]:
    """How many instances endpoints have, by type; of any other type as under "". Raises DeployError or AuthError.

    One that is being made counts as many as it asks for, one that is being updated its old and its new ones.
    """
    pages = control.pages("sagemaker", "list_endpoints", page_size=100)
    listed = (each for page in pages for each in page["Endpoints"] if each["EndpointStatus"] != "Failed")
    found = list(itertools.islice(listed, COUNTED + 1))
    if len(found) > COUNTED:
        raise TooManyError(f"more than {COUNTED} endpoints, too many to count")
    counts: Counter[str] = Counter()
    going: dict[str, Counter[str]] = defaultdict(Counter)
    with ThreadPoolExecutor(_THREADS) as pool:
        instances = pool.map(lambda each: [*_instances(control, each["EndpointName"])], found)
        for each, has in zip(found, instances, strict=True):
            for kind, count in has:
                if each["EndpointStatus"] == "Deleting":
                    going[kind][each["EndpointName"]] += count
                else:
                    counts[kind] += count
    return {
        kind: Use(instances=counts[kind] if kind else 0, going=dict(going[kind]), unseen=counts[""])
        for kind in {"", *counts, *going}
    }


def _instances(control: ControlPlane, endpoint: str) -> Iterator[tuple[str, int]]:
    """(type, how many) of one endpoint; the type is "" where its config is gone, or it is not to be seen."""
    try:
        said = control.asked("sagemaker", "describe_endpoint", EndpointName=endpoint)
    except NotThereError:
        return
    except errors.AuthError:  # who may see only what is ours knows that there is at least one instance
        yield "", 1
        return
    for deployed in (said, said.get("PendingDeploymentSummary", {})):
        variants = deployed.get("ProductionVariants", ())
        known = all("InstanceType" in each for each in variants)  # as AWS tells of what is on its way
        types = {} if known else _types(control, deployed["EndpointConfigName"])
        for variant in variants:
            yield from _instances_of(variant, variant.get("InstanceType") or types.get(variant["VariantName"], ""))


def _types(control: ControlPlane, config: str) -> dict[str, str]:
    """The first type of each variant; nothing where it cannot be seen."""
    try:
        said = control.asked("sagemaker", "describe_endpoint_config", EndpointConfigName=config)
    except (NotThereError, errors.AuthError):  # AWS lets it be deleted, and the endpoint serves on
        return {}
    return {each["VariantName"]: next(iter(types_of(each)), "") for each in said["ProductionVariants"]}


def _instances_of(variant: Mapping[str, Any], first: str) -> Iterator[tuple[str, int]]:
    count = max(variant.get("CurrentInstanceCount", 0), variant.get("DesiredInstanceCount", 0))
    pools = [(each["InstanceType"], each.get("CurrentInstanceCount", 0)) for each in variant.get("InstancePools", ())]
    yield from pools
    # What is not yet there is asked of the first type.
    yield pools[0][0] if pools else first, max(count - sum(has for _, has in pools), 0)


def _increase(instance_type: str, region: str, said: Mapping[str, Any], *, new: bool = False) -> Increase:
    created = said.get("Created")
    return Increase(
        instance_type=instance_type,
        region=region,
        desired=int(said["DesiredValue"]),
        status=said.get("Status", "PENDING"),
        request_id=said.get("Id", ""),
        created=created.isoformat() if created else "",
        new=new,
    )
