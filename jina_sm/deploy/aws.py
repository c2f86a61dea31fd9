"""
AWS's control plane in one region, in our words: what is there, and taking one call.

Beside SageMaker it is Application Auto Scaling, EventBridge Scheduler, CloudWatch and its Logs, as far as endpoints
have to do with them.

Foreign errors become ours here, by the words AWS uses: its ValidationException stands for a dozen things.
"""

from __future__ import annotations

import dataclasses
import os
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from jina_sm import catalog, errors
from jina_sm.deploy import scaling, ttl
from jina_sm.deploy.plan import ENDPOINT_TAG, LOGS, MODEL_TAG, Call, Config, Endpoint, State, is_ours, package_of
from jina_sm.transport.session import auth_error, client, line, translated

ROLE = "jina-sm-execution"
_STUDIO_ROLE = "AmazonSageMaker-ExecutionRole-"
_LINES, _STREAMS, _LONGEST = 20, 10, 500  # of a log's end: how many lines, of how many instances, how long each
_QUERIES = 500  # the most that one request for metrics may hold
_clients: weakref.WeakKeyDictionary[Any, dict[tuple[str, str], Any]] = weakref.WeakKeyDictionary()


class NotThereError(errors.DeployError):
    """AWS could not find it, which often is no error."""


class ThereAlreadyError(errors.DeployError):
    """What was to be made has been made, perhaps by a run beside this one."""


class NotYetError(errors.DeployError):
    """AWS does not see yet what was made a moment ago."""


# (code or "", words in the message, what it is, the cure); the first that fits.
MEANINGS: tuple[tuple[str, str, type[errors.DeployError], str], ...] = (
    ("ValidationException", "Could not find", NotThereError, ""),
    ("ValidationException", "not subscribed", errors.NotSubscribedError, "`jina-sm subscribe MODEL` subscribes."),
    (
        "ResourceLimitExceeded",
        "",
        errors.QuotaError,
        "Ask for more in Service Quotas (SageMaker, '<instance type> for endpoint usage').",
    ),
    (
        "ValidationException",
        "Cannot create already existing",
        errors.NameTakenError,
        "Another run may be at work, or it was made by hand: choose another with --name, or remove it.",
    ),
    ("ValidationException", "Cannot update in-progress", errors.DeployError, "Try again when it has settled."),
    ("ValidationException", "ModelPackage", errors.DeployError, "Give the ARN from the Marketplace console."),
    ("ValidationException", "to assume the role", NotYetError, "It must trust scheduler.amazonaws.com."),
    ("ResourceNotFoundException", "", NotThereError, ""),
    ("ObjectNotFoundException", "", NotThereError, ""),
    ("ResourceNotFound", "", NotThereError, ""),
    ("NoSuchEntity", "", NotThereError, ""),
    ("NoSuchEntityException", "", NotThereError, ""),
    ("ConflictException", "", ThereAlreadyError, "Another run may be at work: try again when it is done."),
    ("EntityAlreadyExists", "", ThereAlreadyError, ""),
    ("EntityAlreadyExistsException", "", ThereAlreadyError, ""),
    ("ValidationException", "enum value set", errors.DeployError, "Take ml.g5.xlarge."),
    ("", "", errors.DeployError, ""),
)
_LACKING = "Name other --instance-type as well, take another region, or deploy again later."
# Why an endpoint failed, by AWS's words, whatever their case; the first that fits.
FAILURES: tuple[tuple[str, type[errors.DeployError], str], ...] = (
    ("insufficientinstancecapacity", errors.CapacityError, _LACKING),
    ("unable to provision requested ml compute", errors.CapacityError, _LACKING),
    ("account-level service limit", errors.QuotaError, "Ask for more in Service Quotas."),
    ("not subscribed", errors.NotSubscribedError, "`jina-sm subscribe MODEL` subscribes."),
    (
        "ping health check",
        errors.HealthCheckError,
        "Its log says why. Out of memory: take a larger --instance-type. Else deploy again: it may have been slow.",
    ),
    ("assume role", errors.RoleError, "The role must trust sagemaker.amazonaws.com."),
    ("assume the role", errors.RoleError, "The role must trust sagemaker.amazonaws.com."),
    ("not authorized to perform", errors.RoleError, "Give the execution role that permission, or another --role-arn."),
    ("access denied", errors.RoleError, "Give the execution role that permission, or another --role-arn."),
    ("accessdenied", errors.RoleError, "Give the execution role that permission, or another --role-arn."),
    (
        "cannotstartcontainer",
        errors.EndpointFailedError,
        "Take an instance type that the package supports, with a GPU; if it is one, tell Jina AI.",
    ),
    ("download", errors.EndpointFailedError, "Deploy again: what is slow to come is mostly quicker the next time."),
    ("", errors.EndpointFailedError, "See its log group, /aws/sagemaker/Endpoints/NAME."),
)
_NEVER_LAUNCHED = (
    "It has no log, so its container never launched, which mostly is for want of instances: deploy again, later, in "
    "another region or with another --instance-type."
)


class Seen(NamedTuple):
    """What a look at an endpoint tells: its status, the config it serves, and AWS's reason if something failed."""

    status: str
    config: str
    reason: str
    created: datetime


class ControlPlane:
    """SageMaker in one region. Thread-safe, as boto3's clients are."""

    def __init__(self, aws: Any, region: str) -> None:
        self.region = region
        self._aws = aws
        self._sagemaker = self._of("sagemaker")

    def take(self, call: Call) -> None:
        """Makes one call of a plan. Raises DeployError or AuthError.

        Deleting what is not there is done already; so is making a role or a group that another run has made.
        """
        try:
            params = self._resolved(call)
            with self._translated(call.name):
                getattr(self._of(call.service), call.operation)(**params)
        except NotThereError:
            if not call.operation.startswith(("delete_", "deregister_")):
                raise
        except ThereAlreadyError:
            if call.operation not in ("create_role", "create_schedule_group"):
                raise

    def _resolved(self, call: Call) -> Mapping[str, Any]:
        """The parameters, with the ARNs that AWS has chosen where a plan could only say whose. Raises NotYetError."""
        actions = call.params.get("AlarmActions", ())
        names = [each.removeprefix(scaling.ARN_OF) for each in actions if each.startswith(scaling.ARN_OF)]
        if not names:
            return call.params
        where = scaling.resource(call.params["Dimensions"][0]["Value"])
        with self._translated(call.name):
            said = self._of("application-autoscaling").describe_scaling_policies(PolicyNames=names, **where)
        arns = [each["PolicyARN"] for each in said["ScalingPolicies"]]
        if len(arns) < len(names):
            raise NotYetError(f"scaling policy {', '.join(names)} is not there", target=call.name, region=self.region)
        return {**call.params, "AlarmActions": arns}

    def _of(self, service: str) -> Any:
        kept = _clients.setdefault(self._aws, {})  # making one takes longer than what most are asked
        if (service, self.region) not in kept:
            kept[service, self.region] = client(self._aws, service, self.region)
        return kept[service, self.region]

    def endpoint(self, name: str) -> Endpoint | None:
        """The endpoint of that name, whoever made it."""
        try:
            said = self._described(name)
            tags = self.tags(said["EndpointArn"])
        except NotThereError:
            return None
        return Endpoint(
            name=name,
            arn=said["EndpointArn"],
            status=said["EndpointStatus"],
            config=said["EndpointConfigName"],
            tags=tags,
            created=said["CreationTime"],
            variants=tuple(each["VariantName"] for each in said.get("ProductionVariants", [])),
            instances=sum(each.get("CurrentInstanceCount", 0) for each in said.get("ProductionVariants", [])),
            reason=said.get("FailureReason", ""),
            asynchronous="AsyncInferenceConfig" in said,
        )

    def seen(self, name: str) -> Seen | None:
        """The endpoint's status just now; None: there is no such endpoint."""
        try:
            said = self._described(name)
        except NotThereError:
            return None
        return Seen(
            said["EndpointStatus"], said["EndpointConfigName"], said.get("FailureReason", ""), said["CreationTime"]
        )

    def ours(self, *, model: str | None = None, endpoint: str | None = None, logs: bool = False) -> State:
        """All that carries our tags, of one model, of one endpoint, or of every one. Raises DeployError.

        ``logs``: and the log groups, which have an endpoint's name and no tag.
        """

        def wanted(tags: Mapping[str, str]) -> bool:
            return (
                is_ours(tags)
                and (model is None or tags.get(MODEL_TAG) == model)
                and (endpoint is None or tags.get(ENDPOINT_TAG) == endpoint)
            )

        prefix = endpoint or catalog.PREFIX
        names: dict[str, list[str]] = {}
        known: dict[str, Config] = {}
        for kind, operation in (("Endpoint", "endpoints"), ("EndpointConfig", "endpoint_configs"), ("Model", "models")):
            names[kind] = []
            for each in self.listed(f"list_{operation}", f"{kind}s", prefix):
                name, arn = each[f"{kind}Name"], each[f"{kind}Arn"]
                try:
                    tags = self.tags(arn)
                except NotThereError:  # gone since it was listed
                    continue
                if wanted(tags):
                    names[kind].append(name)
                    if kind == "EndpointConfig":
                        known[name] = Config(arn=arn, tags=tags)
        found = (self.endpoint(name) for name in names["Endpoint"])
        state = State(
            endpoints=tuple(each for each in found if each),
            configs=tuple(names["EndpointConfig"]),
            models=tuple(names["Model"]),
            schedules=tuple(self._schedules(prefix, wanted)),
            known=MappingProxyType(known),
        )
        bases = {part.name for part in state.endpoints} | {name.rpartition("-")[0] for name in names["EndpointConfig"]}
        everything = model is None and endpoint is None
        targets = tuple(self._targets(prefix, lambda name, tags: name in bases or wanted(tags())))
        grouped = self.log_groups(prefix) if logs else ()
        kept = tuple(name for name in grouped if everything or name in bases or name == endpoint)
        # An alarm says whose it is by its endpoint, not by its model, as a target does.
        alarms = tuple(
            each
            for each in self._alarms(prefix, is_ours)
            if everything or each.endpoint in bases or each.endpoint == endpoint
        )
        return dataclasses.replace(state, targets=targets, logs=kept, alarms=alarms)

    def observe(self, endpoint: str) -> State:
        """What a deployment to that endpoint has to know: ours of that name, and the endpoint whoever's it is."""
        state, there = self.ours(endpoint=endpoint), self.endpoint(endpoint)
        serving: Mapping[str, Any] = {}
        if there and there.config in state.configs:
            serving = self.made_from(there.config)
        return dataclasses.replace(state, endpoints=(there,) if there else (), serving=serving)

    def made_from(self, config: str) -> dict[str, Any]:
        """The parameters of an endpoint config and of its first model; of one that is gone, none."""
        try:
            with self._translated(config):
                said = dict(self._sagemaker.describe_endpoint_config(EndpointConfigName=config))
                if model := said["ProductionVariants"][0].get("ModelName"):
                    said |= self._sagemaker.describe_model(ModelName=model)
        except NotThereError:
            return {}
        return said

    def packages(self, config: str) -> set[str]:
        """The packages that an endpoint config's models are made from; of one that is gone, none."""
        found = set()
        try:
            with self._translated(config):
                said = self._sagemaker.describe_endpoint_config(EndpointConfigName=config)
        except NotThereError:
            return set()
        for name in {each["ModelName"] for each in said.get("ProductionVariants", []) if "ModelName" in each}:
            try:
                with self._translated(name):
                    found.add(package_of(self._sagemaker.describe_model(ModelName=name)))
            except NotThereError:
                continue
        return found - {""}

    def instances(self, endpoint: Endpoint) -> dict[str, int]:
        """How many instances of which type an endpoint has; while it is being made, how many it will have."""
        said = self._described(endpoint.name)
        with self._translated(endpoint.config):
            config = self._sagemaker.describe_endpoint_config(EndpointConfigName=endpoint.config)
        types = {each["VariantName"]: each.get("InstanceType") for each in config["ProductionVariants"]}
        key = "DesiredInstanceCount" if said["EndpointStatus"] == "Creating" else "CurrentInstanceCount"
        found: dict[str, int] = {}
        for variant in said.get("ProductionVariants", []):
            if kind := types.get(variant["VariantName"]):
                found[kind] = found.get(kind, 0) + variant.get(key, 0)
                continue
            pools = variant.get("InstancePools", [])
            for pool in pools:  # tried in turn, so while it is being made the first
                coming = variant.get(key, 0) if key.startswith("Desired") and pool is pools[0] else 0
                kind = pool["InstanceType"]
                found[kind] = found.get(kind, 0) + (coming or pool.get("CurrentInstanceCount", 0))
        return found

    def invoked(self, endpoints: Iterable[Endpoint], since: datetime, until: datetime) -> set[str]:
        """Those that were invoked in that time, by CloudWatch, which counts what reached a container."""
        pairs = [(endpoint.name, variant) for endpoint in endpoints for variant in endpoint.variants]
        found: set[str] = set()
        for first in range(0, len(pairs), _QUERIES):
            some = pairs[first : first + _QUERIES]
            queries = [
                {"Id": f"e{number}", "MetricStat": _invocations(name, variant)}
                for number, (name, variant) in enumerate(some)
            ]
            with self._translated("metrics"):
                pages = self._of("cloudwatch").get_paginator("get_metric_data")
                for page in pages.paginate(MetricDataQueries=queries, StartTime=since, EndTime=until):
                    found |= {some[int(each["Id"][1:])][0] for each in page["MetricDataResults"] if any(each["Values"])}
        return found

    def _targets(
        self, prefix: str, wanted: Callable[[str, Callable[[], Mapping[str, str]]], bool]
    ) -> Iterator[scaling.Target]:
        """The scaling targets of endpoints of ours; of an endpoint that is gone, by the target's own tags."""
        aws, dimension = self._of("application-autoscaling"), scaling.resource("")["ScalableDimension"]
        asked = {"ServiceNamespace": "sagemaker", "ScalableDimension": dimension}
        with self._translated("scaling targets"):
            for page in aws.get_paginator("describe_scalable_targets").paginate(**asked):
                for each in page["ScalableTargets"]:
                    name = each["ResourceId"].split("/")[1]
                    if each["ResourceId"] != scaling.resource(name)["ResourceId"] or not name.startswith(prefix):
                        continue

                    def tags(arn: str = each.get("ScalableTargetARN", "")) -> Mapping[str, str]:
                        return aws.list_tags_for_resource(ResourceARN=arn)["Tags"] if arn else {}

                    if wanted(name, tags):
                        said = aws.describe_scaling_policies(**scaling.resource(name))["ScalingPolicies"]
                        yield scaling.Target(
                            endpoint=name,
                            least=each["MinCapacity"],
                            most=each["MaxCapacity"],
                            policies={policy["PolicyName"]: _aim(policy) for policy in said},
                            arns={policy["PolicyName"]: policy["PolicyARN"] for policy in said},
                        )

    def _alarms(self, prefix: str, wanted: Callable[[Mapping[str, str]], bool]) -> Iterator[scaling.Alarm]:
        aws = self._of("cloudwatch")
        with self._translated("alarms"):
            pages = aws.get_paginator("describe_alarms").paginate(AlarmNamePrefix=prefix, AlarmTypes=["MetricAlarm"])
            for each in (alarm for page in pages for alarm in page.get("MetricAlarms", [])):
                name = scaling.alarm_of(each["AlarmName"])
                if name and wanted(_plain(aws.list_tags_for_resource(ResourceARN=each["AlarmArn"])["Tags"])):
                    yield scaling.Alarm(endpoint=name, actions=tuple(each.get("AlarmActions", [])))

    def _schedules(self, prefix: str, wanted: Callable[[Mapping[str, str]], bool]) -> Iterator[ttl.Schedule]:
        aws = self._of("scheduler")
        with self._translated("schedules"):
            for page in aws.get_paginator("list_schedule_groups").paginate(NamePrefix=prefix):
                for group in page["ScheduleGroups"]:
                    name = group["Name"]
                    said = aws.list_tags_for_resource(ResourceArn=group["Arn"])
                    if group["State"] == "DELETING" or not wanted(_plain(said["Tags"])):
                        continue
                    try:
                        with self._translated(name):
                            yield ttl.read(name, aws.get_schedule(GroupName=name, Name=name))
                    except NotThereError:
                        yield ttl.Schedule(endpoint=name)

    def log_groups(self, prefix: str = catalog.PREFIX) -> Iterator[str]:
        """The endpoints that there are log groups of."""
        with self._translated("log groups"):
            pages = self._of("logs").get_paginator("describe_log_groups").paginate(logGroupNamePrefix=LOGS + prefix)
            for page in pages:
                yield from (each["logGroupName"].removeprefix(LOGS) for each in page["logGroups"])

    def explain(self, error: errors.DeployError, endpoint: str, since: datetime) -> None:
        """Says in the error what the log of an endpoint that failed ends with. Never raises.

        Of the instances that there have been since then, alone: what others wrote is about other things, and may hold
        what they were asked.
        """
        error.log_group = LOGS + endpoint
        try:
            with self._translated(endpoint):
                tail = self._log_tail(error.log_group, since)
            error.launched, error.log_tail = tail is not None, tail or ()
        except NotThereError:
            error.launched = False
        except errors.JinaSMError as unknown:
            error.log_tail = (f"its log could not be read: {unknown.message}",)
        if error.launched is False and type(error) is errors.EndpointFailedError:
            error.cure = _NEVER_LAUNCHED

    def _log_tail(self, group: str, since: datetime) -> tuple[str, ...] | None:
        """None: no instance has written since then; the group is of an endpoint before this one."""
        logs, began = self._of("logs"), int(since.timestamp() * 1000)
        asked = {"logGroupName": group, "orderBy": "LastEventTime", "descending": True, "limit": _STREAMS}
        streams = logs.describe_log_streams(**asked)["logStreams"]
        new = [each["logStreamName"] for each in streams if each.get("creationTime", 0) >= began]
        if not new:
            return None
        found = []
        for name in new:
            found += logs.get_log_events(logGroupName=group, logStreamName=name, limit=_LINES, startTime=began)[
                "events"
            ]
        last = sorted(found, key=lambda event: int(event["timestamp"]))[-_LINES:]
        return tuple(_printable(event["message"]) for event in last)

    def listed(self, operation: str, key: str, prefix: str) -> Iterator[dict[str, Any]]:
        """All that SageMaker lists of a kind, whoever's, whose name begins so."""
        with self._translated(operation):
            asked = {"NameContains": prefix} if prefix else {}
            for page in self._sagemaker.get_paginator(operation).paginate(**asked):
                # NameContains finds the prefix anywhere, and not every service honours it.
                yield from (each for each in page[key] if each[f"{key[:-1]}Name"].startswith(prefix))

    def _described(self, name: str) -> dict[str, Any]:
        with self._translated(name):
            said: dict[str, Any] = self._sagemaker.describe_endpoint(EndpointName=name)
        return said

    def tags(self, arn: str) -> dict[str, str]:
        with self._translated(arn):
            pages = self._sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
            return _plain(tag for page in pages for tag in page["Tags"])

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        import botocore.exceptions

        with translated(region=self.region, target=name):
            try:
                yield
            except botocore.exceptions.ClientError as error:
                raise meaning(error.response, target=name, region=self.region) from None


def disabled(error: errors.JinaSMError) -> bool:
    """Whether this is how AWS refuses a region that the account has not enabled (its credentials being good)."""
    return error.code in {"UnrecognizedClientException", "InvalidClientTokenId", "OptInRequired"}


def identity(aws: Any, region: str) -> str:
    """The account and who is asking, as an ARN. Raises AuthError where there are no good credentials."""
    return str(_asked(aws, "sts", region, "get_caller_identity")["Arn"])


def execution_role(aws: Any, region: str, environ: Mapping[str, str] = os.environ) -> str:
    """The role that endpoints run as, found by convention. Raises InputError if there is none."""
    if given := environ.get("JINA_SM_ROLE_ARN"):
        if not re.fullmatch(r"arn:aws[a-z-]*:iam::\d{12}:role/.+", given):
            raise errors.InputError(f"JINA_SM_ROLE_ARN={given!r} is not the ARN of a role")
        return given
    names = [ROLE]
    who = identity(aws, region)
    if ":assumed-role/" in who:  # in a SageMaker notebook one is the execution role
        names.append(who.split("/")[1])
    denied = ""
    for name in names:
        try:
            role = _asked(aws, "iam", region, "get_role", RoleName=name)["Role"]
        except errors.DeployError:
            continue
        except errors.AuthError as error:  # one who may not look can still be told
            denied = f" ({error.message})"
            continue
        if _trusts_sagemaker(role):
            return str(role["Arn"])
    try:
        for role in _asked(aws, "iam", region, "list_roles", MaxItems=1000)["Roles"]:
            if role["RoleName"].startswith(_STUDIO_ROLE) and _trusts_sagemaker(role):
                return str(role["Arn"])
    except errors.AuthError as error:
        denied = f" ({error.message})"
    raise errors.InputError(
        f"no execution role for SageMaker: there is no role {ROLE} and none named {_STUDIO_ROLE}*{denied}",
        cure="Give one with --role-arn or JINA_SM_ROLE_ARN; it must trust sagemaker.amazonaws.com.",
    )


def schedule_role(aws: Any, region: str) -> tuple[str, tuple[Call, ...]]:
    """The role that schedules act as, and the calls that make it, none where it is there.

    Raises AuthError, or NameTakenError for a role of that name that is not ours.
    """
    account = identity(aws, region).split(":")[4]
    try:
        role = _asked(aws, "iam", region, "get_role", RoleName=ttl.ROLE)["Role"]
    except NotThereError:
        return ttl.role_arn(account), ttl.role(account, there=False, policy=None)
    if not is_ours(_plain(role.get("Tags", []))):
        raise errors.NameTakenError(f"role {ttl.ROLE} exists and was not made by this tool", cure="Remove it yourself.")
    try:
        said = _asked(aws, "iam", region, "get_role_policy", RoleName=ttl.ROLE, PolicyName=ttl.ROLE)
        policy = said["PolicyDocument"]
    except NotThereError:
        policy = None
    return role["Arn"], ttl.role(account, there=True, policy=policy)


def schedule_role_left(aws: Any, region: str) -> tuple[Call, ...]:
    """The calls that remove the role of schedules; none where it is not there, not ours or not to be seen."""
    try:
        role = _asked(aws, "iam", region, "get_role", RoleName=ttl.ROLE)["Role"]
    except (NotThereError, errors.AuthError):
        return ()
    return ttl.role_removal() if is_ours(_plain(role.get("Tags", []))) else ()


def _plain(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


def _invocations(endpoint: str, variant: str) -> dict[str, Any]:
    dimensions = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]
    metric = {"Namespace": "AWS/SageMaker", "MetricName": "Invocations", "Dimensions": dimensions}
    return {"Metric": metric, "Period": 3600, "Stat": "Sum"}  # by the hour, which CloudWatch keeps the longest


def _aim(policy: Mapping[str, Any]) -> float | None:
    """The load that a policy of our kind aims at; None: it is of another kind."""
    tracking = policy.get("TargetTrackingScalingPolicyConfiguration", {})
    metric = tracking.get("PredefinedMetricSpecification", {}).get("PredefinedMetricType")
    queue = tracking.get("CustomizedMetricSpecification", {}).get("MetricName")
    return float(tracking["TargetValue"]) if metric == scaling.METRIC or queue == scaling.BACKLOG else None


def _printable(message: str) -> str:
    """A line of a log, without what would move the cursor of whoever reads it."""
    said = line("".join(each if each.isprintable() else " " for each in message))
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"


def _trusts_sagemaker(role: Mapping[str, Any]) -> bool:
    return "sagemaker.amazonaws.com" in str(role.get("AssumeRolePolicyDocument", ""))


def failure(reason: str, *, target: str, region: str) -> errors.DeployError:
    """Why an endpoint came up Failed, by AWS's own words."""
    kind, cure = next((kind, cure) for words, kind, cure in FAILURES if words in reason.lower())
    return kind(reason or "no reason given", cure=cure.replace("NAME", target), target=target, region=region)


def meaning(answer: Mapping[str, Any], *, target: str | None, region: str) -> errors.JinaSMError:
    """A ClientError's response as one of our errors."""
    code, said = answer["Error"].get("Code", ""), answer["Error"].get("Message") or "no reason given"
    request_id = answer.get("ResponseMetadata", {}).get("RequestId")
    if refused := auth_error(code, said, region=region, target=target):
        return refused
    kind, cure = next((kind, cure) for known, words, kind, cure in MEANINGS if known in ("", code) and words in said)
    return kind(said.rstrip("."), cure=cure or None, code=code, target=target, region=region, request_id=request_id)


def _asked(aws: Any, service: str, region: str, operation: str, **params: Any) -> dict[str, Any]:
    import botocore.exceptions

    with translated(region=region):
        try:
            answer: dict[str, Any] = getattr(client(aws, service, region), operation)(**params)
        except botocore.exceptions.ClientError as error:
            raise meaning(error.response, target=None, region=region) from None
    return answer
