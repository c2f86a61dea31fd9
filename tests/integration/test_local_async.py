"""Answers that come in a stream, or later in S3; and whose they are."""

from __future__ import annotations

import contextlib
import json
import time as wall
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EventStreamError

from jina_sm import local
from jina_sm.local.behind import Behind
from tests.conftest import Served, variant
from tests.integration.test_local_hosting import refused
from tests.integration.test_local_profile import paced

__all__ = ["paced"]
BODY = json.dumps({"data": [{"text": f"text {number}"} for number in range(20)]}).encode()


def until(found: Callable[[], Any]) -> Any:
    """What is found in the end."""
    deadline = wall.monotonic() + 30
    while (said := found()) is None:
        assert wall.monotonic() < deadline
    return said


@pytest.fixture
def later(stack: Served) -> Served:
    """A stack with an endpoint ``e`` that answers into the bucket ``bucket``."""
    stack.deploy(name="m")
    asynchronous(stack, S3OutputPath="s3://bucket/out/", S3FailurePath="s3://bucket/failed")
    stack.aws("s3").create_bucket(Bucket="bucket")
    return stack


def asynchronous(stack: Served, **output: str) -> None:
    config = {"OutputConfig": output}
    sagemaker = stack.aws("sagemaker")
    sagemaker.create_endpoint_config(
        EndpointConfigName="a", ProductionVariants=[variant("m")], AsyncInferenceConfig=config
    )
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="a")


def ask(stack: Served, **params: Any) -> Any:
    runtime = stack.aws("sagemaker-runtime")
    return runtime.invoke_endpoint_async(EndpointName="e", ContentType="application/json", **params)


def read(stack: Served, location: str) -> Any:
    bucket, _, key = location.removeprefix("s3://").partition("/")
    s3 = stack.aws("s3")

    def found() -> Any:
        try:
            return json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        except s3.exceptions.NoSuchKey:
            return None

    return until(found)


def test_an_answer_comes_later_in_s3_from_a_body_or_from_s3(later: Served) -> None:
    later.aws("s3").put_object(Bucket="bucket", Key="in.json", Body=BODY)
    for source in ({"Body": BODY}, {"InputLocation": "s3://bucket/in.json"}):
        said = ask(later, **source, InferenceId="mine")
        assert (said["ResponseMetadata"]["HTTPStatusCode"], said["InferenceId"]) == (202, "mine")
        assert said["OutputLocation"].startswith("s3://bucket/out/")
        assert said["FailureLocation"].startswith("s3://bucket/failed/")
        assert len(read(later, said["OutputLocation"])["data"]) == 20


def test_the_place_of_an_answer_can_be_chosen(later: Served) -> None:
    said = ask(later, Body=BODY, S3OutputPathExtension="run/1", Filename="shard-7")
    assert said["OutputLocation"] == "s3://bucket/out/run/1/shard-7.out"
    assert len(read(later, said["OutputLocation"])["data"]) == 20


def test_without_a_place_it_goes_to_the_accounts_own_bucket(stack: Served) -> None:
    stack.deploy(name="m")
    asynchronous(stack)
    said = ask(stack, Body=BODY)
    assert said["OutputLocation"].startswith("s3://sagemaker-us-east-1-123456789012/async-endpoint-outputs/")
    assert len(read(stack, said["OutputLocation"])["data"]) == 20


@pytest.mark.parametrize(
    ("params", "status"), [({"Body": b"{"}, 422), ({"InputLocation": "s3://bucket/none"}, 500)], ids=["bad", "missing"]
)
def test_a_failure_is_written_where_failures_go(later: Served, params: dict[str, Any], status: int) -> None:
    said = read(later, ask(later, **params)["FailureLocation"])
    assert said["OriginalStatusCode"] == status
    assert said["Message"].startswith(
        f"Received {'client' if status < 500 else 'server'} error ({status}) from primary"
    )


def test_what_is_wrong_with_an_async_request_is_said_at_once(later: Served) -> None:
    runtime = later.aws("sagemaker-runtime")
    for params, words in (
        ({}, "Exactly one of"),
        ({"Body": BODY, "InputLocation": "s3://bucket/in.json"}, "Exactly one of"),
        ({"Body": b"x" * 128_001}, "at most 128000"),
    ):
        with pytest.raises(ClientError, match=words):
            ask(later, **params)
    assert "only asynchronously" in refused(runtime.invoke_endpoint, EndpointName="e", Body=BODY)[1]
    said = refused(runtime.invoke_endpoint_async, EndpointName="m", Body=BODY)
    assert (said[0], "no AsyncInferenceConfig" in said[1]) == ("ValidationError", True)
    assert "not found" in refused(runtime.invoke_endpoint_async, EndpointName="none", Body=BODY)[1]


@pytest.mark.parametrize(
    ("params", "member"),
    [
        ({"InputLocation": "bucket/in.json"}, "inputLocation"),
        ({"Body": BODY, "Filename": "no spaces"}, "filename"),
        ({"Body": BODY, "S3OutputPathExtension": "s3://elsewhere"}, "s3OutputPathExtension"),
        ({"Body": BODY, "InvocationTimeoutSeconds": 3601}, "invocationTimeoutSeconds"),
    ],
)
def test_what_awss_model_does_not_allow_is_refused(later: Served, params: dict[str, Any], member: str) -> None:
    with pytest.raises(ClientError, match=f"at '{member}' failed to satisfy constraint") as caught:
        ask(later, **params)
    assert caught.value.response["Error"]["Code"] == "ValidationError"


@pytest.mark.parametrize("location", ["s3://bucket", "s3://bucket/", "s3://none/in.json", "https://bucket/in.json"])
def test_a_place_without_an_object_is_a_failure(later: Served, location: str) -> None:
    said = read(later, ask(later, InputLocation=location)["FailureLocation"])
    assert f"there is no object {location}" in said["OriginalMessage"]


@pytest.mark.parametrize("key", ["ünï/🚲.json", "per%20cent?x=1&y#z.json", "a b+c//d.json"])
def test_an_object_may_have_any_name(later: Served, key: str) -> None:
    later.aws("s3").put_object(Bucket="bucket", Key=key, Body=BODY)
    said = ask(later, InputLocation=f"s3://bucket/{key}")
    assert len(read(later, said["OutputLocation"])["data"]) == 20


def test_an_answer_that_cannot_be_written_is_said_in_the_log(stack: Served, caplog: pytest.LogCaptureFixture) -> None:
    stack.deploy(name="m")
    asynchronous(stack, S3OutputPath="s3://nowhere")
    place = ask(stack, Body=BODY)["OutputLocation"]
    until(lambda: place in caplog.text or None)
    assert "is lost" in caplog.text


def test_the_containers_faults_go_where_its_answers_go(later: Served) -> None:
    local.fault("model-error", "InvokeEndpointAsync", port=later.port, status=503, count=1)
    assert read(later, ask(later, Body=BODY)["FailureLocation"])["OriginalStatusCode"] == 503
    local.fault("drop", "InvokeEndpoint*", port=later.port, count=1)
    assert len(read(later, ask(later, Body=BODY)["OutputLocation"])["data"]) == 19


def test_s3_can_be_asked_before_it_has_started() -> None:
    behind = Behind("123456789012")
    behind.start()
    behind.make_bucket("123456789012", "early")
    assert behind.write("123456789012", "s3://early/a", b"a")
    behind.stop()


def stream(stack: Served, body: bytes = BODY) -> Any:
    runtime = stack.aws("sagemaker-runtime")
    return runtime.invoke_endpoint_with_response_stream(EndpointName="e", Body=body, ContentType="application/json")


def test_an_answer_in_a_stream_is_the_same_in_parts(stack: Served) -> None:
    stack.deploy()
    said = stream(stack)
    assert (said["ContentType"], said["InvokedProductionVariant"]) == ("application/json", "AllTraffic")
    parts = [event["PayloadPart"]["Bytes"] for event in said["Body"]]
    assert len(parts) > 10
    assert len(json.loads(b"".join(parts))["data"]) == 20


def test_a_stream_that_cannot_begin_is_refused_as_a_plain_answer_is(stack: Served) -> None:
    stack.deploy()
    with pytest.raises(ClientError) as caught:
        stream(stack, b"{")
    response: dict[str, Any] = caught.value.response
    assert (response["Error"]["Code"], response["OriginalStatusCode"]) == ("ModelError", 422)


def test_rows_are_dropped_from_a_stream_too(stack: Served) -> None:
    stack.deploy()
    local.fault("drop", "InvokeEndpointWithResponseStream", port=stack.port)
    parts = [event["PayloadPart"]["Bytes"] for event in stream(stack)["Body"]]
    assert len(json.loads(b"".join(parts))["data"]) == 19


def test_a_model_that_takes_too_long_is_told_of_in_the_stream(paced: Served) -> None:
    body = json.dumps({"data": [{"text": "word " * 100}]}).encode()
    with pytest.raises(EventStreamError, match="timed out while waiting") as caught:
        list(stream(paced, body)["Body"])
    response: dict[str, Any] = caught.value.response
    assert response["Error"]["Code"] == "ModelStreamError"


def test_a_role_of_another_account_has_that_accounts_things(stack: Served) -> None:
    stack.deploy()
    role = "arn:aws:iam::111122223333:role/other"
    lent = stack.aws("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    session = boto3.session.Session(lent["AccessKeyId"], lent["SecretAccessKey"], lent["SessionToken"], "us-east-1")

    with contextlib.ExitStack() as open_clients:

        def other(service: str) -> Any:
            client = session.client(service, endpoint_url=stack.url)
            open_clients.callback(client.close)
            return client

        assert other("sts").get_caller_identity()["Account"] == "111122223333"
        assert other("sagemaker").list_endpoints()["Endpoints"] == []
        asked = {"ServiceCode": "sagemaker", "QuotaCode": "L-1928E07B"}
        assert ":111122223333:" in other("service-quotas").get_service_quota(**asked)["Quota"]["QuotaArn"]
        words = "Endpoint e of account 111122223333 not found."
        assert refused(other("sagemaker-runtime").invoke_endpoint, EndpointName="e", Body=BODY) == (
            "ValidationError",
            words,
        )
        local.reset(stack.port)


def test_a_simulated_policy_allows_all_but_to_the_denied(stack: Served) -> None:
    asked = {
        "PolicySourceArn": "arn:aws:iam::123456789012:role/jina-sm-execution",
        "ActionNames": ["sagemaker:CreateEndpoint", "aws-marketplace:Subscribe"],
    }
    for key, decision in (("local", "allowed"), ("DENIED", "implicitDeny")):
        said = stack.aws("iam", key=key).simulate_principal_policy(**asked)
        results = {each["EvalActionName"]: each["EvalDecision"] for each in said["EvaluationResults"]}
        assert results == dict.fromkeys(asked["ActionNames"], decision)
        assert said["IsTruncated"] is False
