"""Our tables against AWS's own descriptions: the service models that botocore ships."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore
import botocore.session
import botocore.validate
import orjson
import pytest

from jina_sm import catalog, errors, retry
from jina_sm.deploy import aws, marketplace, plan, ttl
from jina_sm.deploy.asynchronous import Asynchronous
from jina_sm.deploy.plan import Call, Desired, State
from jina_sm.deploy.scaling import POLICY, Alarm, Scaling, Target
from jina_sm.deploy.ttl import Ttl
from jina_sm.local.protocol import check
from jina_sm.transport import sagemaker
from jina_sm.transport.session import DENIED, STALE, UNKNOWN


def service(name: str) -> Any:
    return botocore.session.get_session().get_service_model(name)


@pytest.mark.parametrize("operation", ["InvokeEndpoint", "InvokeEndpointWithResponseStream"])
def test_every_error_of_an_invocation_has_a_meaning(operation: str) -> None:
    called = service("sagemaker-runtime").operation_model(operation)
    modelled = {shape.error_code for shape in called.error_shapes}
    events = called.output_shape.members["Body"]
    if "Stream" in operation:
        modelled |= {name for name, shape in events.members.items() if shape.metadata.get("exception")}
        assert {"ModelStreamError", "InternalStreamFailure"} <= modelled
    assert "ModelError" in modelled
    assert modelled - {"ModelError"} <= set(sagemaker.MEANINGS)


def test_every_kind_of_invocation_error_can_come_of_a_meaning() -> None:
    kinds = {*sagemaker.MEANINGS.values(), *sagemaker.CONTAINER.values()}
    raised_elsewhere = {errors.EndpointNotFoundError, errors.ProtocolError, errors.DeadlineExceededError}
    assert kinds | raised_elsewhere == set(errors.InvocationError.__subclasses__())


def test_what_has_a_rule_is_an_error_of_an_invocation() -> None:
    assert set(retry.RULES) <= set(errors.InvocationError.__subclasses__())


def said(code: str, message: str = "why", status: int = 400, **more: Any) -> dict[str, Any]:
    return {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "r-1", "HTTPHeaders": {}},
        **more,
    }


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (said("ThrottlingException", "", 400), errors.ThrottledError),
        (said("ModelNotReadyException", "loading", 429), errors.ModelUnavailableError),
        (said("InternalDependencyException", "x", 530), errors.ModelUnavailableError),
        (said("ValidationError", "Endpoint x of account 1 not found."), errors.EndpointNotFoundError),
        (said("ValidationError", "Bad header"), errors.BadRequestError),
        (said("413", "too large", 413), errors.PayloadTooLargeError),
        (said("SomethingNew", "x", 500), errors.ModelUnavailableError),
        (said("SomethingNew", "x", 400), errors.BadRequestError),
        (said("AccessDeniedException", "not authorized", 403), errors.AuthError),
        (said("ExpiredTokenException", "expired", 403), errors.AuthError),
        ({"Error": {"Code": "ModelStreamError", "Message": "Your invocation timed out."}}, errors.ModelTimeoutError),
        ({"Error": {"Code": "ModelStreamError", "Message": "reset"}}, errors.ModelUnavailableError),
        ({"Error": {"Code": "InternalStreamFailure", "Message": ""}}, errors.ModelUnavailableError),
        (said("ModelError", status=424, OriginalStatusCode=0, OriginalMessage="timed out"), errors.ModelTimeoutError),
        (said("ModelError", status=424, OriginalStatusCode=413, OriginalMessage="x"), errors.PayloadTooLargeError),
        (said("ModelError", status=424, OriginalStatusCode=422, OriginalMessage="x"), errors.BadRequestError),
        (said("ModelError", status=424, OriginalStatusCode=429, OriginalMessage="x"), errors.ThrottledError),
        (said("ModelError", status=424, OriginalStatusCode=500, OriginalMessage="x"), errors.ModelFailedError),
        (said("ModelError", status=424, OriginalStatusCode=503, OriginalMessage="x"), errors.ModelUnavailableError),
    ],
)
def test_an_answer_means_what_its_code_says(answer: dict[str, Any], kind: type[errors.JinaSMError]) -> None:
    meant = sagemaker.meaning(answer, target="jina-sm-x", region="us-east-1")
    assert type(meant) is kind
    assert (meant.target, meant.region) == ("jina-sm-x", "us-east-1")
    assert "jina-sm-x in us-east-1" in str(meant)


def test_a_models_error_carries_its_status_and_the_way_to_its_logs() -> None:
    logs = "https://us-east-1.console.aws.amazon.com/cloudwatch/home?region=us-east-1#logEventViewer:group=/x"
    answer = said("ModelError", status=424, OriginalStatusCode=422, OriginalMessage='{"detail":"no"}')
    answer["Message"] = f'Received client error (422) from primary with message "no". See {logs} in account 1'
    meant = sagemaker.meaning(answer, target="e", region="us-east-1")
    assert (meant.status, meant.log_link, meant.request_id) == (422, logs, "r-1")
    assert '{"detail":"no"}' in str(meant)


def test_how_long_to_wait_is_read() -> None:
    answer = said("ThrottlingException")
    answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"] = "3"
    assert sagemaker.meaning(answer, target="e", region="r").retry_after_s == 3.0


def test_codes_of_credentials_are_of_one_kind_each() -> None:
    assert not STALE & UNKNOWN
    assert not (STALE | UNKNOWN) & DENIED


@pytest.mark.parametrize(
    ("code", "message", "kind", "cure"),
    [
        ("ValidationException", "Caller is not subscribed to the marketplace offering.", errors.NotSubscribedError, "subscribe"),
        ("ResourceLimitExceeded", "The account-level service limit 'ml.g5.xlarge for endpoint usage' is 0 Instances, with current utilization of 0 Instances and a request delta of 2 Instances.", errors.QuotaError, "`jina-sm quota request --instance-type ml.g5.xlarge --value 2 -r us-east-1`"),
        ("ResourceLimitExceeded", "You have too many endpoints", errors.QuotaError, "`jina-sm quota -r us-east-1`"),
        ("ValidationException", 'Cannot create already existing endpoint "arn"', errors.NameTakenError, "--name"),
        ("ValidationException", 'Cannot update in-progress endpoint "arn"', aws.BusyError, "settled"),
        ("ValidationException", 'Could not find endpoint "arn"', aws.NotThereError, ""),
        ("ValidationException", "ModelPackage arn:x does not exist.", errors.DeployError, "console"),
        ("AccessDeniedException", "not authorized to perform: sagemaker:CreateModel", errors.AuthError, "jina-sm iam operator"),
    ],
)  # fmt: skip
def test_a_refusal_of_the_control_plane_is_ours_with_a_cure(
    code: str, message: str, kind: type[errors.JinaSMError], cure: str
) -> None:
    meant = aws.meaning(said(code, message), target="jina-sm-x", region="us-east-1")
    assert type(meant) is kind
    assert cure in (meant.cure or "")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error.", errors.CapacityError),
        ("The primary container for production variant AllTraffic did not pass the ping health check.", errors.HealthCheckError),
        ("The account-level service limit 'ml.g5.xlarge for endpoint usage' is 0 Instances", errors.QuotaError),
        ("Caller is not subscribed to the marketplace offering.", errors.NotSubscribedError),
        ("Could not assume role arn:aws:iam::123456789012:role/x.", errors.RoleError),
        ("The role is not authorized to perform: ecr:BatchGetImage", errors.RoleError),
        ("CannotStartContainerError. Please ensure the model container starts correctly", errors.EndpointFailedError),
        ("Request to service failed. If failure persists after retry, contact customer support.", errors.EndpointFailedError),
        ("", errors.EndpointFailedError),
    ],
)  # fmt: skip
def test_a_failed_endpoint_is_told_by_awss_reason(reason: str, kind: type[errors.DeployError]) -> None:
    meant = aws.failure(reason, target="jina-sm-x", region="us-east-1")
    assert type(meant) is kind
    assert reason.rstrip(".") in str(meant)
    assert (kind is errors.QuotaError) == ("jina-sm quota request --instance-type ml.g5.xlarge" in str(meant))


def test_marketplaces_reason_is_read_beside_the_error_and_in_it() -> None:
    model = catalog.load().model("jina-embeddings-v3")
    beside = said("AccessDeniedException", "no") | {"reason": "MISSING_MFA"}
    inside = said("AccessDeniedException", "no")
    inside["Error"]["reason"] = "MISSING_MFA"
    for answer in (beside, inside):
        assert marketplace.meaning(answer, model).cure == marketplace.CURES["MISSING_MFA"]
    assert isinstance(marketplace.meaning(said("AccessDeniedException", "no"), model), errors.AuthError)


def test_a_frozen_value_stays_as_it_is() -> None:
    call = planned()[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        call.operation = "other"  # type: ignore[misc]


def planned() -> list[Call]:
    """Every kind of call that a plan can hold, with every parameter that it can have."""
    desired = Desired(
        region="us-east-1",
        model="jina-embeddings-v3",
        endpoint="jina-sm-embeddings-v3",
        package_arn="arn:aws:sagemaker:us-east-1:865070037744:model-package/jina-embeddings-v3-380c",
        role_arn="arn:aws:iam::123456789012:role/jina-sm-execution",
        instance_type="ml.g5.xlarge",
        instance_count=1,
        fallbacks=("ml.g5.2xlarge",),
        tags={"team": "search"},
        subnets=("subnet-0123456789abcdef0",),
        security_groups=("sg-0123456789abcdef0",),
        kms_key="alias/search",
        scaling=Scaling(least=1, most=4, target=5.0),
        ttl=Ttl(
            seconds=3600,
            ends=datetime(2030, 1, 1, tzinfo=UTC),
            role_arn=ttl.role_arn("123456789012"),
            role=ttl.role("123456789012", there=False, policy=None),
        ),
    )
    name, config = desired.endpoint, desired.config_params["EndpointConfigName"]
    tags = {tag["Key"]: tag["Value"] for tag in desired.all_tags}
    there = plan.Endpoint(
        name=name, arn="arn", status="InService", config=config, tags=tags, created=datetime(2026, 1, 1, tzinfo=UTC)
    )
    arn = f"arn:aws:sagemaker:us-east-1:123456789012:endpoint-config/{config}"
    running = State(
        endpoints=(there,),
        configs=(config,),
        models=(desired.model_params["ModelName"],),
        targets=(Target(endpoint=name, least=1, most=4, policies={POLICY: 5.0}),),
        schedules=(ttl.Schedule(endpoint=name, seconds=60),),
        logs=(name,),
        known={config: plan.Config(arn=arn, tags=tags)},
    )
    paused = plan.Config(arn=arn, tags={**tags, plan.PAUSED_TAG: "1-4@5"})
    queued = dataclasses.replace(
        desired,
        ttl=None,
        asynchronous=Asynchronous(
            output="s3://bucket/out",
            at_once=6,
            failure="s3://bucket/failed",
            success_topic="arn:aws:sns:us-east-1:123456789012:done",
            error_topic="arn:aws:sns:us-east-1:123456789012:failed",
        ),
        scaling=Scaling(least=0, most=4, target=5.0, asynchronous=True),
    )
    steps = [
        *plan.deployment(queued, State()),
        *plan.teardown(State(alarms=(Alarm(endpoint=name),))),
        *plan.deployment(desired, State()),
        *plan.deployment(dataclasses.replace(desired, instance_count=2), running),
        *plan.deployment(
            dataclasses.replace(desired, scaling=None),
            dataclasses.replace(running, endpoints=(dataclasses.replace(there, wanted=4),)),
        ),
        *plan.pause(running),
        *plan.resume(dataclasses.replace(running, endpoints=(), targets=(), known={config: paused})),
        *plan.teardown(running),
        *ttl.role_removal(),
    ]
    return [step for step in steps if isinstance(step, Call)]


def test_every_planned_call_satisfies_awss_own_model() -> None:
    calls = planned()
    assert len({(call.service, call.operation) for call in calls}) == 26
    for call in calls:
        model = service(call.service)
        names = {botocore.xform_name(name): name for name in model.operation_names}
        shape = model.operation_model(names[call.operation]).input_shape
        report = botocore.validate.ParamValidator().validate(dict(call.params), shape)
        assert not report.has_errors(), f"{call}: {report.generate_report()}"
        check(shape, orjson.loads(orjson.dumps(dict(call.params))))  # lengths, patterns and enumerations too


def test_what_a_schedule_asks_of_sagemaker_is_what_sagemaker_takes() -> None:
    (call,) = [call for call in planned() if call.operation == "create_schedule"]
    target = call.params["Target"]
    operation = target["Arn"].rpartition(":")[2]
    assert target["Arn"].startswith("arn:aws:scheduler:::aws-sdk:sagemaker:")
    shape = service("sagemaker").operation_model(operation[0].upper() + operation[1:]).input_shape
    check(shape, orjson.loads(target["Input"]))


CALLED = ("sagemaker", "application-autoscaling", "scheduler", "iam", "logs", "cloudwatch", "sts", "service-quotas")


@pytest.mark.parametrize("name", CALLED)
def test_every_error_of_an_operation_that_we_call_has_a_meaning(name: str) -> None:
    source = "\n".join(path.read_text() for path in Path(aws.__file__).parent.glob("*.py"))
    called = {
        operation
        for operation in service(name).operation_names
        if re.search(rf"\b(_delete\(\"{botocore.xform_name(operation)[7:]}|{botocore.xform_name(operation)})\b", source)
    }
    assert called
    modelled = {shape.error_code for each in called for shape in service(name).operation_model(each).error_shapes}
    known = {code for code, *_ in aws.MEANINGS} | STALE | UNKNOWN | DENIED
    assert modelled <= known


def test_what_is_waited_for_and_what_is_done_already_is_told_apart() -> None:
    for code in ("ResourceNotFound", "ResourceNotFoundException", "ObjectNotFoundException", "NoSuchEntity"):
        assert type(aws.meaning(said(code), target="x", region="r")) is aws.NotThereError
    words = (
        "Could not assume role arn:aws:iam::1:role/x. Please ensure that the role exists and allows principal "
        "'sagemaker.amazonaws.com' to assume the role."
    )
    meant = aws.meaning(said("ValidationException", words), target="x", region="r")
    assert (type(meant), meant.cure) == (aws.NotYetError, "It must trust sagemaker.amazonaws.com.")
    meant = aws.meaning(said("ValidationException", "1 validation error detected"), target="x", region="r")
    assert type(meant) is errors.DeployError


def test_how_often_aws_was_asked_is_kept() -> None:
    answer = said("ThrottlingException", "Rate exceeded")
    answer["ResponseMetadata"]["RetryAttempts"] = 6
    meant = aws.meaning(answer, target="x", region="r")
    assert meant.attempts == 7
    assert "after 7 attempts" in str(meant)
    assert "fewer calls" in str(meant)
