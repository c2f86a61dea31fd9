"""
AWS's control plane in one region, in our words: what is there, and taking one call.

Beside SageMaker it is Application Auto Scaling, EventBridge Scheduler and CloudWatch Logs, as far as endpoints have to
do with them.

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
from jina_sm.deploy import roles, scaling, ttl
from jina_sm.deploy.plan import ENDPOINT_TAG, LOGS, MODEL_TAG, Call, Config, Endpoint, State, is_ours
from jina_sm.transport.session import auth_error, client, translated

ROLE = roles.ROLE
_STUDIO_ROLE = "AmazonSageMaker-ExecutionRole-"
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
    # SageMaker's words, then the scheduler's.
    ("ValidationException", "ould not assume role", NotYetError, f"It must trust {roles.SERVICE}."),
    ("ValidationException", "to assume the role", NotYetError, f"It must trust {ttl.SERVICE}."),
    ("ResourceNotFoundException", "", NotThereError, ""),
    ("ObjectNotFoundException", "", NotThereError, ""),
    ("NoSuchEntity", "", NotThereError, ""),
    ("NoSuchEntityException", "", NotThereError, ""),
    ("ConflictException", "", ThereAlreadyError, "Another run may be at work: try again when it is done."),
    ("EntityAlreadyExists", "", ThereAlreadyError, ""),
    ("EntityAlreadyExistsException", "", ThereAlreadyError, ""),
    ("ValidationException", "enum value set", errors.DeployError, "Take ml.g5.xlarge."),
    ("", "", errors.DeployError, ""),
)
# Why an endpoint failed, by AWS's words.
FAILURES: tuple[tuple[str, type[errors.DeployError], str], ...] = (
    ("InsufficientInstanceCapacity", errors.CapacityError, "Try another region or --instance-type, or later."),
    ("Unable to provision requested ML compute", errors.CapacityError, "Try another region, or later."),
    ("account-level service limit", errors.QuotaError, "Ask for more in Service Quotas."),
    ("not subscribed", errors.NotSubscribedError, "`jina-sm subscribe MODEL` subscribes."),
    ("", errors.EndpointFailedError, "See the log group /aws/sagemaker/Endpoints/NAME; none means it never started."),
)


class Seen(NamedTuple):
    """What a look at an endpoint tells: its status, the config it serves, and AWS's reason if something failed."""

    status: str
    config: str
    reason: str


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
            with self._translated(call.name):
                getattr(self._of(call.service), call.operation)(**call.params)
        except NotThereError as error:
            if call.operation == "put_role_policy":  # the role was made a moment ago
                raise NotYetError(error.message, target=call.name, region=self.region) from None
            if not call.operation.startswith(("delete_", "deregister_")):
                raise
        except ThereAlreadyError:
            if call.operation not in ("create_role", "create_schedule_group"):
                raise

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
        )

    def seen(self, name: str) -> Seen | None:
        """The endpoint's status just now; None: there is no such endpoint."""
        try:
            said = self._described(name)
        except NotThereError:
            return None
        return Seen(said["EndpointStatus"], said["EndpointConfigName"], said.get("FailureReason", ""))

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
        return dataclasses.replace(state, targets=targets, logs=kept)

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
                        return aws.list_tags_for_resource(ResourceARN=arn)["Tags"] if arn else {}

                    if wanted(name, tags):
                        said = aws.describe_scaling_policies(**scaling.resource(name))["ScalingPolicies"]
                        yield scaling.Target(
                            endpoint=name,
                            least=each["MinCapacity"],
                            most=each["MaxCapacity"],
                            policies={policy["PolicyName"]: _aim(policy) for policy in said},
                        )

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
        cure="Give one with --role-arn or JINA_SM_ROLE_ARN; it must trust sagemaker.amazonaws.com. "
        "Or have one made with --create-role.",
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
    return float(tracking["TargetValue"]) if metric == scaling.METRIC else None


def _trusts_sagemaker(role: Mapping[str, Any]) -> bool:
    return "sagemaker.amazonaws.com" in str(role.get("AssumeRolePolicyDocument", ""))


def failure(reason: str, *, target: str, region: str) -> errors.DeployError:
    """Why an endpoint came up Failed, by AWS's own words."""
    kind, cure = next((kind, cure) for words, kind, cure in FAILURES if words in reason)
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
