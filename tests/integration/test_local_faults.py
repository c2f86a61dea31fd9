"""Faults on request, over HTTP, as plain boto3 and our own client meet them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time as wall
from collections.abc import Callable
from typing import Any

import botocore.config
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from jina_sm import Client, Spec, local
from jina_sm.clock import Clock
from jina_sm.deploy.run import deploy
from jina_sm.errors import InputError
from tests.conftest import SLOW_S, Served, Time, variant
from tests.integration.test_local_hosting import model, refused

BODY = json.dumps({"data": [{"text": "a"}, {"text": "b"}, {"text": "c"}]})


def invoke(stack: Served, **options: Any) -> Any:
    runtime = stack.aws("sagemaker-runtime", **options)
    said = runtime.invoke_endpoint(EndpointName="e", Body=BODY, ContentType="application/json")
    return json.loads(said["Body"].read())


def until(true: Callable[[], bool]) -> None:
    """Asks again until it is so."""
    deadline = wall.monotonic() + 30
    while not true():
        assert wall.monotonic() < deadline


def waiting(stack: Served) -> int:
    return sum(each["waiting"] for each in local.list_faults(stack.port))


def test_a_throttle_is_awss_and_the_list_says_how_often_it_fired(stack: Served) -> None:
    stack.deploy()
    local.fault("throttle", "InvokeEndpoint", port=stack.port, count=1)
    with pytest.raises(ClientError, match="Rate exceeded") as caught:
        invoke(stack)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert len(invoke(stack)["data"]) == 3
    (listed,) = local.list_faults(stack.port)
    assert (listed["kind"], listed["operation"], listed["seen"], listed["fired"]) == (
        "throttle",
        "InvokeEndpoint",
        2,
        1,
    )


@pytest.mark.parametrize(
    ("service", "status", "code"),
    [
        ("sagemaker-runtime", 400, "ValidationError"),
        ("sagemaker-runtime", 403, "AccessDeniedException"),
        ("sagemaker-runtime", 413, "413"),  # without a name, as what stands before the service answers
        ("sagemaker-runtime", 429, "ModelNotReadyException"),
        ("sagemaker-runtime", 500, "InternalFailure"),
        ("sagemaker-runtime", 502, "502"),
        ("sagemaker-runtime", 503, "ServiceUnavailable"),
        ("sagemaker-runtime", 530, "InternalDependencyException"),
        ("sagemaker", 429, "ThrottlingException"),
        ("sagemaker", 500, "InternalFailure"),
        ("marketplace-agreement", 402, "ServiceQuotaExceededException"),
        ("marketplace-agreement", 500, "InternalServerException"),
        ("service-quotas", 503, "ServiceUnavailable"),
    ],
)
def test_an_error_has_its_status_and_the_services_name(stack: Served, service: str, status: int, code: str) -> None:
    local.fault("error", port=stack.port, status=status)
    assert struck(stack, service) == (code, status)


@pytest.mark.parametrize(
    ("service", "code", "status"),
    [
        ("sagemaker-runtime", "ThrottlingException", 400),
        ("sagemaker", "ThrottlingException", 400),
        ("marketplace-agreement", "ThrottlingException", 429),
        ("service-quotas", "TooManyRequestsException", 400),
    ],
)
def test_a_throttle_is_the_services_own(stack: Served, service: str, code: str, status: int) -> None:
    local.fault("throttle", port=stack.port)
    assert struck(stack, service) == (code, status)


def struck(stack: Served, service: str) -> tuple[str, int]:
    """The code and the status with which a call of the service fails."""
    aws = stack.aws(service)
    calls: dict[str, Callable[[], Any]] = {
        "sagemaker-runtime": lambda: aws.invoke_endpoint(EndpointName="e", Body=BODY),
        "sagemaker": lambda: aws.list_models(MaxResults=1),
        "marketplace-agreement": lambda: aws.describe_agreement(agreementId="a"),
        "service-quotas": lambda: aws.list_service_quotas(ServiceCode="sagemaker"),
    }
    with pytest.raises(ClientError) as caught:
        calls[service]()
    response: dict[str, Any] = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_model_error_has_the_containers_status(stack: Served) -> None:
    stack.deploy()
    local.fault("model-error", port=stack.port, status=503, reason="loading")
    with pytest.raises(ClientError) as caught:
        invoke(stack)
    said: dict[str, Any] = caught.value.response
    assert (said["Error"]["Code"], said["OriginalStatusCode"]) == ("ModelError", 503)
    assert json.loads(said["OriginalMessage"]) == {"detail": "loading"}


def test_a_model_error_of_status_0_is_a_time_out_and_only_an_endpoint_has_one(stack: Served) -> None:
    stack.deploy()
    local.fault("model-error", port=stack.port, status=0)
    with pytest.raises(ClientError, match="Your invocation timed out") as caught:
        invoke(stack)
    said: dict[str, Any] = caught.value.response
    assert said["OriginalStatusCode"] == 0
    missing = refused(stack.aws("sagemaker-runtime").invoke_endpoint, EndpointName="none", Body=BODY)
    assert missing[0] == "ValidationError"


def test_a_stall_outlasts_an_impatient_caller(stack: Served) -> None:
    stack.deploy()
    local.fault("stall", "InvokeEndpoint", port=stack.port, seconds=600, count=1)
    impatient = botocore.config.Config(read_timeout=1.5, retries={"total_max_attempts": 1})
    with pytest.raises(ReadTimeoutError):
        invoke(stack, config=impatient)
    assert len(invoke(stack)["data"]) == 3


def test_a_reset_breaks_the_connection_and_the_call_has_no_effect(stack: Served) -> None:
    stack.subscribe()
    local.fault("reset", "CreateModel", port=stack.port, count=1)
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        stack.aws("sagemaker").create_model(**model())
    assert stack.aws("sagemaker").list_models()["Models"] == []
    stack.aws("sagemaker").create_model(**model())


def test_a_truncated_answer_ends_too_soon(stack: Served) -> None:
    stack.deploy()
    local.fault("truncate", port=stack.port, count=1)
    with pytest.raises((ResponseStreamingError, HTTPClientError)):
        invoke(stack)
    assert len(invoke(stack)["data"]) == 3


def test_rows_come_back_out_of_order_or_not_at_all(stack: Served) -> None:
    stack.deploy()
    told = invoke(stack)["data"]
    local.fault("reorder", port=stack.port, count=1)
    assert [row["embedding"] for row in invoke(stack)["data"]] != [row["embedding"] for row in told]
    local.fault("drop", port=stack.port, count=1)
    assert len(invoke(stack)["data"]) == 2


def test_our_client_gets_every_vector_through_throttles_and_model_errors(stack: Served) -> None:
    stack.deploy(name="jina-sm-embeddings-v3")
    local.fault("throttle", "InvokeEndpoint", port=stack.port, count=2)
    local.fault("model-error", port=stack.port, status=503, count=1)
    local.fault("reset", "InvokeEndpoint", port=stack.port, count=1)
    clock = Clock(sleep=lambda _: None)
    with Client("jina-embeddings-v3", regions=["us-east-1"], url=stack.url, session=session(), clock=clock) as client:
        assert client.embed(["a", "b"]).vectors.shape == (2, 1024)
    assert all(each["fired"] == each["count"] for each in local.list_faults(stack.port))


def session() -> Any:
    from jina_sm.transport.session import local_session

    return local_session("us-east-1")


def test_an_endpoint_never_comes_into_service(slow: Served, time: Time) -> None:
    local.fault("never-ready", port=slow.port)
    slow.deploy()
    time.move(SLOW_S * 1000)
    assert slow.aws("sagemaker").describe_endpoint(EndpointName="e")["EndpointStatus"] == "Creating"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("capacity", "InsufficientInstanceCapacity"),
        ("quota", "The account-level service limit 'ml.g5.xlarge for endpoint usage' is 0 Instances"),
        ("health", "did not pass the ping health check"),
        ("container", "CannotStartContainerError"),
        ("download", "timed out"),
        ("request", "Request to service failed."),
        ("not-subscribed", "Caller is not subscribed"),
        ("the dog ate it", "the dog ate it"),
    ],
)
def test_an_endpoint_fails_in_awss_words(slow: Served, time: Time, reason: str, words: str) -> None:
    local.fault("failed", "CreateEndpoint", port=slow.port, reason=reason, seconds=100)
    slow.deploy()
    sagemaker = slow.aws("sagemaker")
    assert sagemaker.describe_endpoint(EndpointName="e")["EndpointStatus"] == "Creating"
    time.move(100)
    found = sagemaker.describe_endpoint(EndpointName="e")
    assert (found["EndpointStatus"], words in found["FailureReason"]) == ("Failed", True)


def test_an_update_that_fails_leaves_the_endpoint_as_it_was(slow: Served, time: Time) -> None:
    slow.deploy()
    time.move(SLOW_S)
    sagemaker = slow.aws("sagemaker")
    sagemaker.create_endpoint_config(EndpointConfigName="new", ProductionVariants=[variant("e")])
    local.fault("failed", "UpdateEndpoint", port=slow.port, reason="capacity", count=1)
    for ends, reason in (("e", True), ("new", False)):
        sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="new")
        assert sagemaker.describe_endpoint(EndpointName="e")["EndpointStatus"] == "Updating"
        time.move(SLOW_S)
        found = sagemaker.describe_endpoint(EndpointName="e")
        assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", ends)
        assert ("FailureReason" in found) is reason


def test_what_was_made_is_not_seen_at_once(stack: Served) -> None:
    stack.subscribe()
    sagemaker = stack.aws("sagemaker")
    local.fault("hidden", "CreateModel", port=stack.port, reads=2)
    sagemaker.create_model(**model())
    missing = refused(sagemaker.describe_model, ModelName="m")
    assert missing[1].startswith("Could not find model")
    assert sagemaker.list_models()["Models"] == []
    assert refused(sagemaker.create_model, **model())[1].startswith("Cannot create already existing")
    assert sagemaker.describe_model(ModelName="m")["ModelName"] == "m"


def test_what_is_not_seen_in_one_region_is_no_matter_of_another(stack: Served) -> None:
    stack.subscribe()
    local.fault("hidden", "CreateModel", port=stack.port)
    stack.aws("sagemaker").create_model(**model())
    for _ in range(2):
        assert stack.aws("sagemaker", "eu-west-1").list_models()["Models"] == []
    assert stack.aws("sagemaker").list_models()["Models"] == []
    assert len(stack.aws("sagemaker").list_models()["Models"]) == 1


def test_a_request_that_comes_in_part_only_has_no_effect(stack: Served) -> None:
    stack.subscribe()
    stack.aws("sagemaker").create_model(**model())
    local.fault("throttle", "DeleteModel", port=stack.port)  # it would be counted
    whole = b'{"ModelName": "m"}'
    head = (
        "POST / HTTP/1.1\r\nHost: local\r\nX-Amz-Target: SageMaker.DeleteModel\r\n"
        "Authorization: AWS4-HMAC-SHA256 Credential=local/20250101/us-east-1/sagemaker/aws4_request\r\n"
        f"Content-Length: {len(whole) + 1}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", stack.port)) as connection:
        connection.sendall(head.encode() + whole)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000) == b""
    assert len(stack.aws("sagemaker").list_models()["Models"]) == 1
    assert local.list_faults(stack.port)[0]["seen"] == 0


def test_a_call_that_waits_when_the_stack_goes_down_is_not_answered() -> None:
    served = local.Stack(ready_after_s=0)
    with local.serving(served) as url:
        stack, ended = Served(served, url), []
        stack.subscribe()
        local.fault("pause", "CreateModel", port=stack.port)
        sagemaker = stack.aws("sagemaker")

        def call() -> None:
            try:
                sagemaker.create_model(**model())
            except (ConnectionClosedError, HTTPClientError) as error:
                ended.append(error)

        calling = threading.Thread(target=call)
        calling.start()
        until(lambda: waiting(stack) == 1)
    calling.join()
    assert len(ended) == 1


def test_an_endpoint_may_not_find_its_fresh_config_and_a_model_its_agreement(stack: Served) -> None:
    local.fault("hidden", "AcceptAgreementRequest", port=stack.port)
    local.fault("hidden", "CreateEndpointConfig", port=stack.port)
    stack.subscribe()
    sagemaker = stack.aws("sagemaker")
    assert "not subscribed" in refused(sagemaker.create_model, **model())[1]
    sagemaker.create_model(**model())
    sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant("m")])
    said = refused(sagemaker.create_endpoint, EndpointName="e", EndpointConfigName="c")
    assert said[1].startswith("Could not find endpoint configuration")
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_paused_call_waits_until_released_and_holds_up_nobody(stack: Served, when: str) -> None:
    stack.subscribe()
    local.fault("pause", "CreateModel", port=stack.port, when=when)
    sagemaker = stack.aws("sagemaker")
    calling = threading.Thread(target=sagemaker.create_model, kwargs=model())
    calling.start()
    until(lambda: waiting(stack) == 1)
    assert len(sagemaker.list_models()["Models"]) == (when == "after")
    assert local.release(stack.port) == 1
    calling.join()
    assert waiting(stack) == 0
    assert len(sagemaker.list_models()["Models"]) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_caller_that_dies_in_a_pause_has_called_after_it_and_not_before_it(stack: Served, when: str) -> None:
    stack.subscribe()
    local.fault("pause", port=stack.port, when=when)
    impatient = botocore.config.Config(read_timeout=0.3, retries={"total_max_attempts": 1})
    with pytest.raises(ReadTimeoutError):
        stack.aws("sagemaker", config=impatient).create_model(**model())
    until(lambda: waiting(stack) == 0)
    assert len(stack.aws("sagemaker").list_models()["Models"]) == (when == "after")


@pytest.mark.parametrize(("nth", "when"), [(1, "before"), (2, "after"), (3, "after")])
def test_a_deployment_killed_at_any_step_is_taken_up_where_it_was(account: Served, nth: int, when: str) -> None:
    account.subscribe()
    local.fault("pause", port=account.port, nth=nth, when=when)
    words = [sys.executable, "-m", "jina_sm", "deploy", "jina-embeddings-v3", "--region", "us-east-1", "--yes"]
    killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: waiting(account) == 1)
    killed.kill()
    killed.wait()
    until(lambda: waiting(account) == 0)
    sagemaker = account.aws("sagemaker")
    kinds = {"models": "Models", "endpoint_configs": "EndpointConfigs", "endpoints": "Endpoints"}
    made = [len(getattr(sagemaker, f"list_{kind}")()[key]) for kind, key in kinds.items()]
    assert sum(made) == nth - (when == "before")
    deploy(Spec(model="jina-embeddings-v3", regions=("us-east-1",)))
    assert [each["EndpointStatus"] for each in sagemaker.list_endpoints()["Endpoints"]] == ["InService"]
    assert len(sagemaker.list_models()["Models"]) == len(sagemaker.list_endpoint_configs()["EndpointConfigs"]) == 1


def test_clearing_and_resetting_end_every_fault(stack: Served) -> None:
    for end in (local.clear_faults, local.reset):
        local.fault("throttle", port=stack.port)
        local.fault("pause", port=stack.port)
        end(stack.port)
        assert local.list_faults(stack.port) == []
        assert stack.aws("sagemaker").list_models()["Models"] == []


def test_what_is_no_fault_is_refused_at_the_door(stack: Served) -> None:
    with pytest.raises(InputError, match="there is no fault 'typo'"):
        local.fault("typo", port=stack.port)
    with pytest.raises(InputError, match="unexpected"):
        local.fault("error", port=stack.port, often=3)
