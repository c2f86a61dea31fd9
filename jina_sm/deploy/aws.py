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
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

from jina_sm import catalog, errors
from jina_sm.deploy import roles, scaling, ttl
from jina_sm.deploy.plan import ENDPOINT_TAG, LOGS, MODEL_TAG, Call, Config, Endpoint, State, is_ours, package_of
from jina_sm.deploy.preflight import over_quota
from jina_sm.transport.session import auth_error, client, line, translated

ROLE = roles.ROLE
_ALWAYS_ENABLED = "us-east-1"
_STUDIO_ROLE = "AmazonSageMaker-ExecutionRole-"
_LINES, _STREAMS, _LONGEST = 20, 10, 500  # of a log's end: how many lines, of how many instances, how long each
_QUERIES = 500  # the most that one request for metrics may hold
_MODELS_ASKED = 500
"""How many models of others are asked in a region whether they use a role; with more, one of them is taken to."""
_clients: weakref.WeakKeyDictionary[Any, dict[tuple[str, str], Any]] = weakref.WeakKeyDictionary()


class NotThereError(errors.DeployError):
    """AWS could not find it, which often is no error."""


class ThereAlreadyError(errors.DeployError):
    """What was to be made has been made, perhaps by a run beside this one."""


class NotYetError(errors.DeployError):
    """AWS does not see yet what was made a moment ago."""


class BusyError(errors.DeployError):
    """The endpoint is being changed, by another run or by its autoscaling."""


_SLOWER = "AWS asks for fewer calls: try again in a minute."
_AGAIN = "It is AWS that failed: try again."
_MEANWHILE = "Something else changes it at this moment: try again when that is done."
_LISTED = "It changed while it was listed: try again."
_OURS = "This should not happen: please report it, with the request id."
_MORE = "Ask for more in Service Quotas, or remove some."
_SCALING = "Application Auto Scaling may not act for the account: its service-linked role needs to be made or mended."
# What AWS says more rarely; a test holds all of these to the errors that its own descriptions know.
_OTHERS: tuple[tuple[str, str, type[errors.DeployError], str], ...] = (
    ("ValidationException", "", errors.DeployError, ""),
    *((code, "", errors.QuotaError, _MORE) for code in (
        "ServiceQuotaExceededException", "LimitExceededException", "LimitExceeded", "QuotaExceededException",
    )),
    ("ResourceNotFound", "", NotThereError, ""),
    *((code, "", errors.DeployError, _SLOWER) for code in (
        "ThrottlingException", "Throttling", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded",
    )),
    *((code, "", errors.DeployError, _AGAIN) for code in (
        "InternalServerException", "InternalServiceError", "InternalServiceException", "InternalFailure",
        "InternalError", "ServiceException", "ServiceFailure", "ServiceUnavailable", "ServiceUnavailableException",
    )),
    *((code, "", errors.DeployError, _MEANWHILE) for code in (
        "ConcurrentUpdateException", "ConcurrentModification", "OperationAbortedException", "ResourceInUse",
        "InvalidResourceStateException", "ResourceConflict",
    )),
    *((code, "", errors.DeployError, _LISTED) for code in (
        "InvalidNextTokenException", "InvalidNextToken", "InvalidPaginationTokenException",
    )),
    *((code, "", errors.DeployError, _OURS) for code in (
        "MalformedPolicyDocument", "InvalidInput", "InvalidParameterException", "InvalidParameterValue",
        "InvalidParameterCombination", "MissingParameter", "IllegalArgumentException", "PolicyEvaluation",
    )),
    ("DependencyAccessDeniedException", "", errors.DeployError, "The caller may not do what this would do in turn."),
    ("FailedResourceAccessException", "", errors.DeployError, _SCALING),
    ("DeleteConflict", "", errors.DeployError, "Something was attached to it by hand: take that off, or let it be."),
    ("UnmodifiableEntity", "", errors.DeployError, "It is AWS's own: take another name for yours."),
)  # fmt: skip

# (code or "", words in the message, what it is, the cure); the first that fits. QUOTA: the command that asks for more.
MEANINGS: tuple[tuple[str, str, type[errors.DeployError], str], ...] = (
    ("ValidationException", "Could not find", NotThereError, ""),
    ("ValidationException", "not subscribed", errors.NotSubscribedError, "`jina-sm subscribe MODEL` subscribes."),
    ("ResourceLimitExceeded", "", errors.QuotaError, "QUOTA"),
    (
        "ValidationException",
        "Cannot create already existing",
        errors.NameTakenError,
        "Another run may be at work, or it was made by hand: choose another with --name, or remove it.",
    ),
    ("ValidationException", "Cannot update in-progress", BusyError, "Try again when it has settled."),
    ("ValidationException", "ModelPackage", errors.DeployError, "Give the ARN from the Marketplace console."),
    # SageMaker's words, then the scheduler's.
    ("ValidationException", "ould not assume role", NotYetError, f"It must trust {roles.SERVICE}."),
    ("ValidationException", "to assume the role", NotYetError, f"It must trust {ttl.SERVICE}."),
    ("ResourceNotFoundException", "", NotThereError, ""),
    ("ObjectNotFoundException", "", NotThereError, ""),
    ("NoSuchResourceException", "", NotThereError, ""),
    ("NoSuchEntity", "", NotThereError, ""),
    ("NoSuchEntityException", "", NotThereError, ""),
    ("ConflictException", "", ThereAlreadyError, "Another run may be at work: try again when it is done."),
    ("ResourceAlreadyExistsException", "", ThereAlreadyError, "It has been asked for already: wait for the answer."),
    ("EntityAlreadyExists", "", ThereAlreadyError, ""),
    ("EntityAlreadyExistsException", "", ThereAlreadyError, ""),
    ("ValidationException", "enum value set", errors.DeployError, "Take ml.g5.xlarge."),
    *_OTHERS,
    ("", "", errors.DeployError, ""),
)
_LACKING = "Name other --instance-type as well, take another region, or deploy again later."
# Why an endpoint failed, by AWS's words, whatever their case; the first that fits.
FAILURES: tuple[tuple[str, type[errors.DeployError], str], ...] = (
    ("insufficientinstancecapacity", errors.CapacityError, _LACKING),
    ("unable to provision requested ml compute", errors.CapacityError, _LACKING),
    ("service limit", errors.QuotaError, "QUOTA"),
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

    def take(self, call: Call) -> bool:
        """Makes one call of a plan; whether it did anything. Raises DeployError or AuthError.

        Deleting what is not there is done already; so is making what is there as it should be: another run may have
        made it, or a call of this one whose answer was lost.
        """
        try:
            if self._serves(call):
                return False
            params = self._resolved(call)
            with self._translated(call.name):
                getattr(self._of(call.service), call.operation)(**params)
        except NotThereError as error:
            if call.operation == "put_role_policy":  # the role was made a moment ago
                raise NotYetError(error.message, target=call.name, region=self.region) from None
            if not call.operation.startswith(("delete_", "deregister_")):
                raise
            return False
        except (ThereAlreadyError, errors.NameTakenError) as error:
            if call.operation == "create_schedule":  # of the same name, in our group; this time is the last word
                return self.take(Call("update_schedule", call.params, call.service))
            if not self._adopted(call, error):
                raise
            return (error.attempts or 1) > 1  # the first of them may have done it
        except errors.DeployError as error:
            if call.operation != "register_scalable_target" or error.code != "ValidationException":
                raise
            if "Tags" not in call.params:
                raise
            # Another run may have registered it, and AWS takes tags only where it is new.
            untagged = {key: value for key, value in call.params.items() if key != "Tags"}
            try:
                return self.take(Call(call.operation, untagged, call.service))
            except errors.DeployError:
                raise error from None
        return True

    def _serves(self, call: Call) -> bool:
        """Whether an update has been made already, or asked for, which AWS would refuse to be asked again."""
        if call.operation == "update_endpoint_weights_and_capacities":
            (count,) = call.params["DesiredWeightsAndCapacities"]
            return bool(_wanted(self._described(call.params["EndpointName"])) == count["DesiredInstanceCount"])
        if call.operation != "update_endpoint":
            return False
        wanted, said = call.params["EndpointConfigName"], self._described(call.params["EndpointName"])
        serves = said.get("EndpointConfigName") == wanted and said["EndpointStatus"] == "InService"
        return bool(serves or _pending(said) == wanted)

    def _adopted(self, call: Call, refusal: errors.DeployError) -> bool:
        """Whether what is in the way of a call is ours and as the call would have made it.

        Raises NameTakenError for what is not ours, NotYetError for what is about to go.
        """
        name = call.name
        if call.operation == "create_role":  # the plan has looked whose it is
            return True
        if call.operation == "create_schedule_group":
            with self._translated(name):
                scheduler = self._of("scheduler")
                group = scheduler.get_schedule_group(Name=name)
                if group["State"] == "DELETING":  # which takes AWS some minutes
                    cure = "It is still being deleted: run the same command again in a few minutes."
                    raise NotYetError(refusal.message, cure=cure, target=name, region=self.region)
                if is_ours(_plain(scheduler.list_tags_for_resource(ResourceArn=group["Arn"])["Tags"])):
                    return True
            words = f"schedule group {name} exists and was not made by this tool"
            raise errors.NameTakenError(words, cure="Remove it yourself.", target=name, region=self.region)
        if call.operation == "create_endpoint":
            there = self.endpoint(name)
            if there is None or there.status == "Deleting":
                raise NotYetError(refusal.message, cure=refusal.cure, target=name, region=self.region)
            return there.ours and there.config == call.params["EndpointConfigName"] and there.status != "Failed"
        if call.operation not in ("create_model", "create_endpoint_config"):
            return False
        try:  # their names are hashes of what they are made from
            with self._translated(name):
                if call.operation == "create_model":
                    arn = self._sagemaker.describe_model(ModelName=name)["ModelArn"]
                else:
                    arn = self._sagemaker.describe_endpoint_config(EndpointConfigName=name)["EndpointConfigArn"]
            return is_ours(self.tags(arn))
        except NotThereError:
            raise NotYetError(refusal.message, cure=refusal.cure, target=name, region=self.region) from None

    def asked(self, service: str, operation: str, **params: Any) -> dict[str, Any]:
        """The answer to a call that changes no endpoint. Raises DeployError or AuthError."""
        with self._translated(""):
            answer: dict[str, Any] = getattr(self._of(service), operation)(**params)
        return answer

    def pages(
        self, service: str, operation: str, *, page_size: int | None = None, **params: Any
    ) -> Iterator[dict[str, Any]]:
        """As ``asked``, of a call whose answers come in pages."""
        with self._translated(""):
            paged = self._of(service).get_paginator(operation)
            yield from paged.paginate(**params, PaginationConfig={"PageSize": page_size})

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
        return _client(self._aws, service, self.region)

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
            config=said.get("EndpointConfigName", ""),
            pending=_pending(said),
            tags=tags,
            created=said["CreationTime"],
            variants=tuple(each["VariantName"] for each in said.get("ProductionVariants", [])),
            instances=sum(each.get("CurrentInstanceCount", 0) for each in said.get("ProductionVariants", [])),
            wanted=_wanted(said),
            reason=said.get("FailureReason", ""),
            asynchronous="AsyncInferenceConfig" in said,
        )

    def seen(self, name: str) -> Seen | None:
        """The endpoint's status just now; None: there is no such endpoint."""
        try:
            said = self._described(name)
        except NotThereError:
            return None
        config = said.get("EndpointConfigName", "")
        return Seen(said["EndpointStatus"], config, said.get("FailureReason", ""), said["CreationTime"])

    def ours(self, *, model: catalog.Model | None = None, endpoint: str | None = None, logs: bool = False) -> State:
        """All that carries our tags, of one model, of one endpoint, or of every one. Raises DeployError.

        ``logs``: and the log groups, which have an endpoint's name and no tag. Of a model whose endpoint is gone, the
        one that has the model's name.
        """

        def wanted(tags: Mapping[str, str]) -> bool:
            return (
                is_ours(tags)
                and (model is None or tags.get(MODEL_TAG) == model.key)
                and (endpoint is None or tags.get(ENDPOINT_TAG) == endpoint)
            )

        prefix = endpoint or catalog.PREFIX
        names: dict[str, list[str]] = {}
        known: dict[str, Config] = {}
        others: set[str] = set()  # endpoints that are not ours, or not the ones wanted
        foreign: set[str] = set()
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
                elif kind == "Endpoint":
                    others.add(name)
                else:
                    foreign.add(name)
        found = (self.endpoint(name) for name in names["Endpoint"])
        state = State(
            endpoints=tuple(each for each in found if each),
            configs=tuple(names["EndpointConfig"]),
            models=tuple(names["Model"]),
            schedules=tuple(self._schedules(prefix, wanted)),
            known=MappingProxyType(known),
            foreign=frozenset(foreign),
        )
        bases = {part.name for part in state.endpoints}
        bases |= {name.rpartition("-")[0] for name in (*names["EndpointConfig"], *names["Model"])}
        everything = model is None and endpoint is None
        named = endpoint or (catalog.endpoint_name(model) if model else None)
        if named in {name.rpartition("-")[0] for name in foreign}:  # paused, of another model or of somebody else
            named = None
        targets = tuple(self._targets(prefix, lambda name, tags: name in bases or wanted(tags())))
        grouped = self.log_groups(prefix) if logs else ()
        kept = tuple(n for n in grouped if (everything or n in bases or n == named) and n not in others)
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
        if not config:  # an endpoint may have none, by AWS's own description
            return {}
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
                # It excludes its end, where what happens in a minute is stamped with its start.
                asked = {"StartTime": since, "EndTime": until + timedelta(minutes=1)}
                for page in pages.paginate(MetricDataQueries=queries, **asked):
                    found |= {some[int(each["Id"][1:])][0] for each in page["MetricDataResults"] if any(each["Values"])}
        return found

    def uses(self, role_arn: str, *, beside: Iterable[str] = ()) -> bool:
        """Whether any model runs as that role, beside those named. Where there are too many to ask: it is said so."""
        known, asked = {*beside}, 0
        for each in self.listed("list_models", "Models", ""):
            name = each["ModelName"]
            if name in known:
                continue
            if (asked := asked + 1) > _MODELS_ASKED:
                return True
            try:
                with self._translated(name):
                    said = self._sagemaker.describe_model(ModelName=name)
            except NotThereError:  # gone since it was listed
                continue
            if said.get("ExecutionRoleArn") == role_arn:
                return True
        return False

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
                        try:
                            with self._translated(arn):
                                return aws.list_tags_for_resource(ResourceARN=arn)["Tags"] if arn else {}
                        except NotThereError:  # gone since it was listed
                            return {}

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
                    try:
                        with self._translated(name):
                            said = aws.list_tags_for_resource(ResourceArn=group["Arn"])
                    except NotThereError:  # gone since it was listed
                        continue
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
    try:
        return str(_asked(aws, "sts", region, "get_caller_identity")["Arn"])
    except errors.AuthError as error:
        if region == _ALWAYS_ENABLED or not disabled(error):
            raise
        # A region that the account has not enabled says the same as to credentials that are no good.
        return str(_asked(aws, "sts", _ALWAYS_ENABLED, "get_caller_identity")["Arn"])


def execution_role(aws: Any, region: str, environ: Mapping[str, str] = os.environ) -> str:
    """The role that endpoints run as, found by convention. Raises InputError if there is none."""
    if given := environ.get("JINA_SM_ROLE_ARN"):
        if not re.fullmatch(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]+", given, re.ASCII):
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
        for page in ControlPlane(aws, region).pages("iam", "list_roles", page_size=1000):
            for role in page["Roles"]:
                if role["RoleName"].startswith(_STUDIO_ROLE) and _trusts_sagemaker(role):
                    return str(role["Arn"])
    except errors.AuthError as error:
        denied = f" ({error.message})"
    raise errors.InputError(
        f"no execution role for SageMaker: there is no role {ROLE} and none named {_STUDIO_ROLE}*{denied}",
        cure="Give one with --role-arn or JINA_SM_ROLE_ARN; it must trust sagemaker.amazonaws.com. "
        "`jina-sm deploy --create-role` makes one.",
    )


def made_role(
    aws: Any, region: str, *, vpc: bool, environ: Mapping[str, str] = os.environ
) -> tuple[str, tuple[Call, ...]]:
    """The execution role of our name, and the calls that make it, none where it is there.

    Raises AuthError, InputError where another is named, or NameTakenError for one that SageMaker cannot assume.
    """
    if environ.get("JINA_SM_ROLE_ARN"):
        raise errors.InputError("JINA_SM_ROLE_ARN names a role and --create-role asks for one; take one of them")
    account = identity(aws, region).split(":")[4]
    role, policy = _ours_of(aws, region, ROLE)
    if role is None:
        return roles.arn(account), roles.making(account, there=False, policy=None, vpc=vpc)
    if not _trusts_sagemaker(role):
        raise errors.NameTakenError(
            f"role {ROLE} exists and does not trust {roles.SERVICE}", cure="Give another with --role-arn, or remove it."
        )
    ours = is_ours(_plain(role.get("Tags", [])))  # else it is whoever's who made it, and as they want it
    return role["Arn"], roles.making(account, there=True, policy=policy, vpc=vpc) if ours else ()


def execution_role_left(aws: Any, region: str) -> tuple[str, tuple[Call, ...]]:
    """The execution role of our name, and the calls that remove it; none where it is not there, not ours or not to
    be seen. Whether anything uses it is another question."""
    try:
        role = _asked(aws, "iam", region, "get_role", RoleName=ROLE)["Role"]
    except (NotThereError, errors.AuthError):
        return "", ()
    return role["Arn"], roles.removal() if is_ours(_plain(role.get("Tags", []))) else ()


def _ours_of(aws: Any, region: str, name: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """A role and its policy of the same name; None: it has none, or there is no such role."""
    try:
        role = _asked(aws, "iam", region, "get_role", RoleName=name)["Role"]
    except NotThereError:
        return None, None
    try:
        said = _asked(aws, "iam", region, "get_role_policy", RoleName=name, PolicyName=name)
    except NotThereError:
        return role, None
    return role, said["PolicyDocument"]


def schedule_role(aws: Any, region: str) -> tuple[str, tuple[Call, ...]]:
    """The role that schedules act as, and the calls that make it, none where it is there.

    Raises AuthError, or NameTakenError for a role of that name that is not ours.
    """
    account = identity(aws, region).split(":")[4]
    role, policy = _ours_of(aws, region, ttl.ROLE)
    if role is None:
        return ttl.role_arn(account), ttl.role(account, there=False, policy=None)
    if not is_ours(_plain(role.get("Tags", []))):
        raise errors.NameTakenError(f"role {ttl.ROLE} exists and was not made by this tool", cure="Remove it yourself.")
    return role["Arn"], ttl.role(account, there=True, policy=policy)


def schedule_role_left(aws: Any, region: str) -> tuple[Call, ...]:
    """The calls that remove the role of schedules; none where it is not there, not ours or not to be seen."""
    try:
        role = _asked(aws, "iam", region, "get_role", RoleName=ttl.ROLE)["Role"]
    except (NotThereError, errors.AuthError):
        return ()
    return ttl.role_removal() if is_ours(_plain(role.get("Tags", []))) else ()


def _pending(said: Mapping[str, Any]) -> str:
    """The config that an endpoint is being updated to; "": it is not, or is being put back."""
    if said["EndpointStatus"] != "Updating":
        return ""
    return str(said.get("PendingDeploymentSummary", {}).get("EndpointConfigName", ""))


def _wanted(said: Mapping[str, Any]) -> int | None:
    """How many instances an endpoint is to have; None: it does not say."""
    counts = [each.get("DesiredInstanceCount") for each in said.get("ProductionVariants", [])]
    return None if None in counts or not counts else sum(counts)


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
    cure = over_quota(reason, region) if cure == "QUOTA" else cure.replace("NAME", target)
    return kind(reason.rstrip(".") or "no reason given", cure=cure, target=target, region=region)


def meaning(answer: Mapping[str, Any], *, target: str | None, region: str) -> errors.JinaSMError:
    """A ClientError's response as one of our errors."""
    code, said = answer["Error"].get("Code", ""), answer["Error"].get("Message") or "no reason given"
    request_id = answer.get("ResponseMetadata", {}).get("RequestId")
    if refused := auth_error(code, said, region=region, target=target):
        return refused
    kind, cure = next((kind, cure) for known, words, kind, cure in MEANINGS if known in ("", code) and words in said)
    cure = over_quota(said, region) if cure == "QUOTA" else cure
    meant = kind(said.rstrip("."), cure=cure or None, code=code, target=target, region=region, request_id=request_id)
    meant.attempts = answer.get("ResponseMetadata", {}).get("RetryAttempts", 0) + 1
    return meant


def _client(aws: Any, service: str, region: str) -> Any:
    region = _ALWAYS_ENABLED if service == "iam" else region  # which is one for all regions
    kept = _clients.setdefault(aws, {})  # making one takes longer than what most are asked
    if (service, region) not in kept:
        kept[service, region] = client(aws, service, region)
    return kept[service, region]


def _asked(aws: Any, service: str, region: str, operation: str, **params: Any) -> dict[str, Any]:
    import botocore.exceptions

    with translated(region=region):
        try:
            answer: dict[str, Any] = getattr(_client(aws, service, region), operation)(**params)
        except botocore.exceptions.ClientError as error:
            raise meaning(error.response, target=None, region=region) from None
    return answer
