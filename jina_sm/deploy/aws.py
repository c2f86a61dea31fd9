"""
AWS's control plane in one region, in our words: what is there, and taking one call.

Foreign errors become ours here, by the words AWS uses: its ValidationException stands for a dozen things.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from jina_sm import catalog, errors
from jina_sm.deploy.plan import ENDPOINT_TAG, MODEL_TAG, Call, Endpoint, State, is_ours
from jina_sm.transport.session import auth_error, client, translated

ROLE = "jina-sm-execution"
_STUDIO_ROLE = "AmazonSageMaker-ExecutionRole-"


class NotThereError(errors.DeployError):
    """AWS could not find it, which often is no error."""


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
        self._sagemaker = client(aws, "sagemaker", region)

    def take(self, call: Call) -> None:
        """Makes one call of a plan. Deleting what is not there is done already. Raises DeployError or AuthError."""
        try:
            with self._translated(call.name):
                getattr(self._sagemaker, call.operation)(**call.params)
        except NotThereError:
            if not call.operation.startswith("delete_"):
                raise

    def endpoint(self, name: str) -> Endpoint | None:
        """The endpoint of that name, whoever made it."""
        try:
            said = self._described(name)
            tags = self._tags(said["EndpointArn"])
        except NotThereError:
            return None
        return Endpoint(
            name=name,
            arn=said["EndpointArn"],
            status=said["EndpointStatus"],
            config=said["EndpointConfigName"],
            tags=tags,
            created=said["CreationTime"],
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

    def ours(self, *, model: str | None = None, endpoint: str | None = None) -> State:
        """All that carries our tags, of one model, of one endpoint, or of every one. Raises DeployError."""

        def wanted(arn: str) -> bool:
            try:
                tags = self._tags(arn)
            except NotThereError:  # gone since it was listed
                return False
            return (
                is_ours(tags)
                and (model is None or tags.get(MODEL_TAG) == model)
                and (endpoint is None or tags.get(ENDPOINT_TAG) == endpoint)
            )

        prefix = endpoint or catalog.PREFIX
        names = {}
        for kind, operation in (("Endpoint", "endpoints"), ("EndpointConfig", "endpoint_configs"), ("Model", "models")):
            listed = self._listed(f"list_{operation}", f"{kind}s", prefix)
            names[kind] = [each[f"{kind}Name"] for each in listed if wanted(each[f"{kind}Arn"])]
        found = (self.endpoint(name) for name in names["Endpoint"])
        return State(
            endpoints=tuple(each for each in found if each),
            configs=tuple(names["EndpointConfig"]),
            models=tuple(names["Model"]),
        )

    def observe(self, endpoint: str) -> State:
        """What a deployment to that endpoint has to know: ours of that name, and the endpoint whoever's it is."""
        state, there = self.ours(endpoint=endpoint), self.endpoint(endpoint)
        return State(endpoints=(there,) if there else (), configs=state.configs, models=state.models)

    def _listed(self, operation: str, key: str, prefix: str) -> Iterator[dict[str, Any]]:
        with self._translated(operation):
            for page in self._sagemaker.get_paginator(operation).paginate(NameContains=prefix):
                # NameContains finds the prefix anywhere, and not every service honours it.
                yield from (each for each in page[key] if each[f"{key[:-1]}Name"].startswith(prefix))

    def _described(self, name: str) -> dict[str, Any]:
        with self._translated(name):
            said: dict[str, Any] = self._sagemaker.describe_endpoint(EndpointName=name)
        return said

    def _tags(self, arn: str) -> dict[str, str]:
        with self._translated(arn):
            pages = self._sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
            return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}

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
