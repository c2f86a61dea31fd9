"""
What each call to AWS takes of permissions, and the policies that follow; so no policy is written by hand.

One row an operation; another, where policies have it of other resources. A row's needs are IAM's actions, which are not
always called as the operation is, each within a scope: the resources, and the condition. A call that is new needs a
row; a test says which, and that every action of a policy is one that some command cannot do without.

Resource types and condition keys are as AWS's Service Authorization Reference has them. What it does not tell, that is
which calls AWS makes in the caller's name, carries the reason instead. None of it was tried in a real account.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import orjson

from jina_sm import catalog
from jina_sm.deploy import roles, ttl
from jina_sm.deploy.steps import OWNER

VIEWER, OPERATOR, CALLER, ROLE_MAKER = "viewer", "operator", "caller", "role-maker"
POLICIES: Mapping[str, str] = {
    VIEWER: "looks: status, orphans, deploy --plan, prices; changes nothing",
    OPERATOR: "subscribes, deploys, pauses, tears down; needs the viewer's too",
    CALLER: "embeds, reranks and reads through endpoints, and no more",
    ROLE_MAKER: "makes and removes the two roles, for --create-role and the first --ttl; needs the operator's too",
}
"""Who a policy is for. Looking is apart because one managed policy has no room for all. Making roles is apart because
whoever may write a role's policy and pass the role may do anything."""

LONGEST = 6144  # characters of a managed policy, white space not counted
_NAMES = f"{catalog.PREFIX}*"
_RESOURCE_TAG, _REQUEST_TAG = (f"aws:{kind}Tag/{OWNER[0]}" for kind in ("Resource", "Request"))
_OURS = {"StringEquals": {_RESOURCE_TAG: OWNER[1]}}
_NEW = {"StringEquals": {_REQUEST_TAG: OWNER[1]}}


@dataclass(frozen=True)
class Scope:
    """Resources and a condition, which become a statement of that name. ``{account}``: the account's number.

    ``placed``: it may be held to some regions. Looking and removing are not, or what is forgotten stays so.
    """

    sid: str
    resources: tuple[str, ...] = ("*",)
    condition: Mapping[str, Any] = field(default_factory=dict)
    placed: bool = False


@dataclass(frozen=True)
class Need:
    """An action within a scope. ``because``: no call is called so, and this is why it is needed all the same."""

    action: str
    scope: Scope
    because: str = ""


@dataclass(frozen=True)
class Row:
    """An operation, as AWS spells it, whose policy has its needs."""

    service: str
    operation: str
    needs: tuple[Need, ...] = ()
    policies: tuple[str, ...] = (OPERATOR,)


def _arn(service: str, rest: str, region: str = "*") -> str:
    return f"arn:aws:{service}:{region}:{{account}}:{rest}"


_ROLE, _TTL_ROLE = _arn("iam", f"role/{roles.ROLE}", ""), _arn("iam", f"role/{ttl.ROLE}", "")
_ENDPOINT, _CONFIG, _MODEL = (
    _arn("sagemaker", f"{kind}/{_NAMES}") for kind in ("endpoint", "endpoint-config", "model")
)
_TARGET = _arn("application-autoscaling", "scalable-target/*")  # by a number of AWS's
_GROUP = _arn("scheduler", f"schedule-group/{_NAMES}")
_SCHEDULE = _arn("scheduler", f"schedule/{_NAMES}/{_NAMES}")
_LINKED = "sagemaker.application-autoscaling.amazonaws.com"
_LINKED_ROLE = _arn(
    "iam", f"role/aws-service-role/{_LINKED}/AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint", ""
)
_OF_ENDPOINTS = {"StringEquals": {"application-autoscaling:service-namespace": "sagemaker"}}

# AWS knows no resource for these, or what is looked for may be anyone's (orphans --all-jina).
_LIST = Scope("Look")
_LOOK = Scope(
    "LookAtEndpoints", tuple(_arn("sagemaker", f"{kind}/*") for kind in ("endpoint", "endpoint-config", "model"))
)
_LOOK_TARGET = Scope("LookAtAutoscaling", (_TARGET,))
_LOOK_SCHEDULE = Scope("LookAtSchedules", (_GROUP, _SCHEDULE))
_LOOK_ROLES = Scope("LookAtRoles", (_ROLE, _TTL_ROLE))
_LOOK_OFFERS = Scope("LookAtOffers")
_BUY = Scope("Subscribe")  # the conditions there are name product ids, which nobody knows beforehand
_MAKE = Scope("Make", (_MODEL, _CONFIG, _ENDPOINT), _NEW, placed=True)
_TAG_NEW = Scope("TagWhatIsMade", _MAKE.resources, {**_NEW, "Null": {"sagemaker:TaggingAction": "false"}})
_CHANGE = Scope("ChangeOurs", _MAKE.resources, _OURS)
_PASS = Scope("PassToSageMaker", (_ROLE,), {"StringEquals": {"iam:PassedToService": roles.SERVICE}})
_SCALE_NEW = Scope("ScaleNew", (_TARGET,), {"StringEquals": {**_OF_ENDPOINTS["StringEquals"], _REQUEST_TAG: OWNER[1]}})
_TAG_TARGET = Scope("TagAutoscaling", (_TARGET,), _NEW)
_SCALE = Scope("ScaleOurs", (_TARGET,), {"StringEquals": {**_OF_ENDPOINTS["StringEquals"], _RESOURCE_TAG: OWNER[1]}})
_SCALING_ROLE = Scope("LetItScale", (_LINKED_ROLE,), {"StringEquals": {"iam:AWSServiceName": _LINKED}})
_ALARMS = Scope("WatchLoad", (_arn("cloudwatch", f"alarm:TargetTracking-endpoint/{_NAMES}"),))
_OUR_ALARMS = Scope("WatchBacklog", (_arn("cloudwatch", f"alarm:{_NAMES}"),))
_SCALED = Scope("BeScaled", (_ENDPOINT,))
_NEW_GROUP = Scope("ScheduleNew", (_GROUP,), _NEW)
_OUR_GROUP = Scope("UnscheduleOurs", (_GROUP,), _OURS)
_ON_SCHEDULE = Scope("Schedule", (_SCHEDULE,))  # a schedule has no tags; its group has
_PASS_TTL = Scope("PassToScheduler", (_TTL_ROLE,), {"StringEquals": {"iam:PassedToService": ttl.SERVICE}})
_LOGS = Scope("DeleteLogs", (_arn("logs", f"log-group:/aws/sagemaker/Endpoints/{_NAMES}"),))  # a log group has no tag
_LOOK_LOGS = Scope("LookAtLogs", (_LOGS.resources[0], f"{_LOGS.resources[0]}:log-stream:*"))
_INVOKE = Scope("Invoke", (_ENDPOINT,), placed=True)
_KEY = Scope(
    "UseKey",
    (_arn("kms", "key/*"),),  # which, its own policy says
    {"Bool": {"kms:GrantIsForAWSResource": "true"}, "StringLike": {"kms:ViaService": "sagemaker.*.amazonaws.com"}},
)
_NEW_ROLE = Scope("MakeRoles", (_ROLE, _TTL_ROLE), _NEW)
_OUR_ROLE = Scope("ChangeOurRoles", (_ROLE, _TTL_ROLE), _OURS)

_ALARMS_WHY = "Application Auto Scaling asks for its alarms in the caller's name"


def _of(service: str, scope: Scope, *operations: str, prefix: str = "", **more: Any) -> Iterator[Row]:
    """Operations that take the action of their own name and nothing else. Who looks is the viewer."""
    more.setdefault("policies", (VIEWER if scope.sid.startswith("Look") else OPERATOR,))
    for operation in operations:
        yield Row(service, operation, (Need(f"{prefix or service}:{operation}", scope),), **more)


def _market(scope: Scope, service: str, *operations: str, **more: Any) -> Iterator[Row]:
    return _of(service, scope, *operations, prefix="aws-marketplace", **more)


ROWS: tuple[Row, ...] = (
    Row("sts", "GetCallerIdentity", policies=(VIEWER,)),  # takes none
    # SageMaker: all see all of it, change what carries our tag, and make what is called as ours and gets it.
    *_of("sagemaker", _LIST, "ListEndpoints", "ListEndpointConfigs", "ListModels"),
    *_of("sagemaker", _LOOK, "DescribeEndpoint", "DescribeEndpointConfig", "DescribeModel", "ListTags"),
    *_of("sagemaker", _INVOKE, "DescribeEndpoint", policies=(CALLER,)),  # how many instances there are to ask
    Row(
        "sagemaker",
        "CreateModel",
        (
            Need("sagemaker:CreateModel", _MAKE),
            Need("sagemaker:AddTags", _TAG_NEW),
            Need("iam:PassRole", _PASS),
        ),
    ),
    Row(
        "sagemaker",
        "CreateEndpointConfig",
        (
            Need("sagemaker:CreateEndpointConfig", _MAKE),
            Need("sagemaker:AddTags", _TAG_NEW),
            Need("kms:CreateGrant", _KEY, "SageMaker asks for it in the caller's name where there is a --kms-key"),
        ),
    ),
    Row("sagemaker", "CreateEndpoint", (Need("sagemaker:CreateEndpoint", _MAKE), Need("sagemaker:AddTags", _TAG_NEW))),
    *_of(
        "sagemaker",
        _CHANGE,
        "UpdateEndpoint",
        "DeleteEndpoint",
        "DeleteEndpointConfig",
        "DeleteModel",
        "AddTags",
        "DeleteTags",
    ),
    # Application Auto Scaling.
    *_of("application-autoscaling", _LIST, "DescribeScalableTargets", "DescribeScalingPolicies"),
    *_of("application-autoscaling", _LOOK_TARGET, "ListTagsForResource"),
    Row(
        "application-autoscaling",
        "RegisterScalableTarget",
        (
            Need("application-autoscaling:RegisterScalableTarget", _SCALE_NEW),
            Need("application-autoscaling:TagResource", _TAG_TARGET),
            Need("application-autoscaling:RegisterScalableTarget", _SCALE),  # one that is there is changed
            Need("iam:CreateServiceLinkedRole", _SCALING_ROLE, "AWS makes the service's own role the first time"),
            Need(
                "sagemaker:UpdateEndpointWeightsAndCapacities", _SCALED, "AWS lists it for whoever sets up autoscaling"
            ),
        ),
    ),
    Row(
        "application-autoscaling",
        "PutScalingPolicy",
        (
            Need("application-autoscaling:PutScalingPolicy", _SCALE),
            Need("cloudwatch:PutMetricAlarm", _ALARMS, _ALARMS_WHY),
            Need("cloudwatch:DescribeAlarms", _ALARMS, _ALARMS_WHY),
        ),
    ),
    Row(
        "application-autoscaling",
        "DeleteScalingPolicy",
        (
            Need("application-autoscaling:DeleteScalingPolicy", _SCALE),
            Need("cloudwatch:DeleteAlarms", _ALARMS, _ALARMS_WHY),
        ),
    ),
    *_of("application-autoscaling", _SCALE, "DeregisterScalableTarget"),
    *_of("sagemaker", _SCALED, "UpdateEndpointWeightsAndCapacities"),
    # EventBridge Scheduler: the end of an endpoint, set beforehand.
    *_of("scheduler", _LIST, "ListScheduleGroups"),
    Row(
        "scheduler",
        "GetScheduleGroup",
        (Need("scheduler:GetScheduleGroup", _LOOK_SCHEDULE, "whose it is, where a run beside this one made it"),),
        policies=(VIEWER,),
    ),
    *_of("scheduler", _LOOK_SCHEDULE, "ListTagsForResource", "GetSchedule"),
    Row(
        "scheduler",
        "CreateScheduleGroup",
        (Need("scheduler:CreateScheduleGroup", _NEW_GROUP), Need("scheduler:TagResource", _NEW_GROUP)),
    ),
    Row(
        "scheduler",
        "CreateSchedule",
        (Need("scheduler:CreateSchedule", _ON_SCHEDULE), Need("iam:PassRole", _PASS_TTL)),
    ),
    Row(
        "scheduler",
        "UpdateSchedule",
        (Need("scheduler:UpdateSchedule", _ON_SCHEDULE), Need("iam:PassRole", _PASS_TTL)),
    ),
    *_of("scheduler", _ON_SCHEDULE, "DeleteSchedule"),
    *_of("scheduler", _OUR_GROUP, "DeleteScheduleGroup"),
    # Logs and metrics.
    *_of("logs", _LIST, "DescribeLogGroups"),
    *_of("logs", _LOGS, "DeleteLogGroup"),
    *_of("cloudwatch", _LIST, "GetMetricData"),
    *_of("pricing", _LOOK_OFFERS, "GetProducts"),
    # Roles.
    *_of("iam", Scope("LookForRole"), "ListRoles"),
    *_of("iam", _LOOK_ROLES, "GetRole", "GetRolePolicy"),
    Row(
        "iam",
        "CreateRole",
        (Need("iam:CreateRole", _NEW_ROLE), Need("iam:TagRole", _NEW_ROLE)),
        policies=(ROLE_MAKER,),
    ),
    *_of("iam", _OUR_ROLE, "PutRolePolicy", "DeleteRolePolicy", "DeleteRole", policies=(ROLE_MAKER,)),
    # The Marketplace.
    *_market(_LOOK_OFFERS, "marketplace-discovery", "GetListing", "GetOffer", "GetOfferTerms"),
    Row(
        "marketplace-discovery",
        "ListPurchaseOptions",
        (
            Need("aws-marketplace:ListPurchaseOptions", _LOOK_OFFERS),
            Need("aws-marketplace:ListPrivateListings", _LOOK_OFFERS, "AWS checks it too when it lists offers"),
        ),
        policies=(VIEWER,),
    ),
    *_market(_LOOK_OFFERS, "marketplace-agreement", "SearchAgreements", "GetAgreementEntitlements"),
    Row(
        "marketplace-agreement",
        "CreateAgreementRequest",
        (Need("aws-marketplace:CreateAgreementRequest", _BUY),),
    ),
    Row(
        "marketplace-agreement",
        "AcceptAgreementRequest",
        (
            Need("aws-marketplace:AcceptAgreementRequest", _BUY),
            Need("aws-marketplace:Subscribe", _BUY, "AWS names it beside the other two for subscribing"),
        ),
    ),
    # Asking an endpoint.
    *_of(
        "sagemaker-runtime",
        _INVOKE,
        "InvokeEndpoint",
        "InvokeEndpointWithResponseStream",
        prefix="sagemaker",
        policies=(CALLER,),
    ),
    # Before and after: quotas, what the caller may, what a container's log says, subscriptions.
    *_of(
        "sagemaker",
        Scope("LookAtPackages", ("arn:aws:sagemaker:*:*:model-package/*",)),  # the Marketplace's
        "DescribeModelPackage",
    ),
    *_of(
        "service-quotas",
        Scope("LookAtQuotas"),
        "GetServiceQuota",
        "GetAWSDefaultServiceQuota",
        "ListServiceQuotas",
        "ListAWSDefaultServiceQuotas",
        "ListRequestedServiceQuotaChangeHistoryByQuota",
        prefix="servicequotas",
    ),
    *_of(
        "service-quotas",
        Scope("AskForQuota", ("arn:aws:servicequotas:*:{account}:sagemaker/*",)),
        "RequestServiceQuotaIncrease",
        prefix="servicequotas",
    ),
    *_of("iam", Scope("LookAtOneself"), "SimulatePrincipalPolicy"),
    *_of("logs", _LOOK_LOGS, "GetLogEvents", "DescribeLogStreams"),
    Row(
        "cloudwatch",
        "GetMetricStatistics",
        (Need("cloudwatch:GetMetricStatistics", _LIST, "how much of a quota is in use, where that cannot be counted"),),
        policies=(VIEWER,),
    ),
    *_of("cloudwatch", _LIST, "DescribeAlarms", "ListTagsForResource"),
    Row(
        "cloudwatch",
        "PutMetricAlarm",
        (Need("cloudwatch:PutMetricAlarm", _OUR_ALARMS), Need("cloudwatch:TagResource", _OUR_ALARMS)),
    ),
    *_of("cloudwatch", _OUR_ALARMS, "DeleteAlarms"),
    *_market(Scope("Unsubscribe"), "marketplace-agreement", "CancelAgreement"),
    *_market(_LOOK_OFFERS, "marketplace-agreement", "GetAgreementTerms"),
    Row(
        "marketplace-agreement",
        "DescribeAgreement",
        (Need("aws-marketplace:DescribeAgreement", _LOOK_OFFERS, "whether it has ended, where that answer was lost"),),
        policies=(VIEWER,),
    ),
)


def needs(who: str) -> Iterator[Need]:
    """What a policy is made of."""
    return (need for row in ROWS if who in row.policies for need in row.needs)


def policy(
    who: str, *, account: str | None = None, regions: Sequence[str] = (), role_arn: str | None = None
) -> dict[str, Any]:
    """The policy document of one of ``POLICIES``.

    ``account=None``: the account that it is attached in, whichever that is. ``regions``: endpoints are made and
    invoked only there. ``role_arn``: the execution role that is passed, instead of ours, and looked at beside it.
    """
    statements: dict[str, dict[str, Any]] = {}
    for need in needs(who):
        scope = need.scope
        if scope.sid not in statements:
            statements[scope.sid] = {"Sid": scope.sid, "Effect": "Allow", "Action": [], "Resource": scope.resources}
            if condition := _limited(scope.condition, regions if scope.placed else ()):
                statements[scope.sid]["Condition"] = condition
        if need.action not in (actions := statements[scope.sid]["Action"]):
            actions.append(need.action)
    for statement in statements.values():
        statement["Action"] = _short(sorted(statement["Action"]))
        resources = statement["Resource"]
        if role_arn and statement["Sid"] == _PASS.sid:
            resources = (role_arn,)
        elif role_arn and statement["Sid"] == _LOOK_ROLES.sid:
            resources = (*resources, role_arn)
        statement["Resource"] = _short([each.replace("{account}", account or "*") for each in resources])
    return {"Version": roles.VERSION, "Statement": list(statements.values())}


def documents(
    account: str | None = None, regions: Sequence[str] = (), role_arn: str | None = None, *, vpc: bool = False
) -> dict[str, dict[str, Any]]:
    """Every document by the name of its file: the policies, and the two roles with whom they trust."""
    found = {who: policy(who, account=account, regions=regions, role_arn=role_arn) for who in POLICIES}
    return {
        **found,
        "execution-role": roles.permissions(account or "*", vpc=vpc),
        "execution-role-trust": roles.trust(),
        "ttl-role": ttl.permissions(account or "*"),
        "ttl-role-trust": ttl.trust(account),
    }


def allowing(action: str, resource: str = "") -> str | None:
    """The policy that has an action, by IAM's name for it, on that ARN if it is one; None: none of ours has it."""
    for who in POLICIES:
        for need in needs(who):
            patterns = (each.replace("{account}", "*") for each in need.scope.resources)
            if need.action == action and (
                not resource.startswith("arn:") or any(fnmatchcase(resource, each) for each in patterns)
            ):
                return who
    return None


def reasons(who: str) -> dict[str, list[str]]:
    """Of each action of a policy, the calls that it is for, and why, where a call is not called so."""
    found: dict[str, list[str]] = {}
    for row in ROWS:
        for need in row.needs if who in row.policies else ():
            said = f"{row.service} {row.operation}" + (f": {need.because}" if need.because else "")
            if said not in (told := found.setdefault(need.action, [])):
                told.append(said)
    return found


def length(document: Mapping[str, Any]) -> int:
    """How long IAM takes a document to be."""
    return len(orjson.dumps(document))


def _limited(condition: Mapping[str, Any], regions: Sequence[str]) -> dict[str, Any]:
    if not regions:
        return dict(condition)
    equal = {**condition.get("StringEquals", {}), "aws:RequestedRegion": list(regions)}
    return {**condition, "StringEquals": equal}


def _short(values: Sequence[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)
