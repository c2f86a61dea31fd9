"""
The same deploy and client code against plain ``moto.mock_aws``, where moto is faithful.

Known gaps of moto 5.2, for which the local stack exists: it refuses ml.g5 instances (so ml.g4dn here), is InService at
once, overwrites duplicates, drops EnableNetworkIsolation, does not check subscriptions, has no UpdateEndpoint, no
Marketplace and no Pricing, invokes endpoints that do not exist, and answers with whatever was queued.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import boto3
import numpy as np
import pytest
import requests
from moto import mock_aws

from jina_sm import Client, Spec, catalog, wire
from jina_sm.deploy import plan as plans
from jina_sm.deploy import run
from jina_sm.deploy.aws import ControlPlane, execution_role, identity
from jina_sm.deploy.pricing import Price
from jina_sm.errors import InputError
from jina_sm.values import EmbedRequest, Rows

REGIONS = ("us-east-1", "eu-central-1")
TRUST = '{"Statement":[{"Effect":"Allow","Principal":{"Service":"sagemaker.amazonaws.com"},"Action":"sts:AssumeRole"}]}'


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield boto3.Session()


def agreed(aws: Any) -> run.Plan:
    """The plan without the price and the subscription, which moto has no notion of."""
    known, unknown = catalog.load(), Price(None, "moto has none")
    model = known.model("jina-embeddings-v3")
    there = {}
    for region in REGIONS:
        desired = plans.Desired(
            region=region,
            model=model.key,
            endpoint=catalog.endpoint_name(model),
            package_arn=known.package_arn(model, region),
            role_arn=execution_role(aws, region),
            instance_type="ml.g4dn.xlarge",
            instance_count=1,
        )
        steps = tuple(plans.deployment(desired, ControlPlane(aws, region).observe(desired.endpoint)))
        there[region] = run.RegionPlan(desired=desired, steps=steps, instance=unknown, software=unknown)
    return run.Plan(spec=Spec(model=model.key, regions=REGIONS), regions=MappingProxyType(there), subscribed=None)


def test_deploying_looking_and_tearing_down_work_on_plain_moto(aws: Any) -> None:
    boto3.client("iam").create_role(RoleName="jina-sm-execution", AssumeRolePolicyDocument=TRUST)
    endpoints = run.deploy(agreed(aws), session=aws)
    assert {region: there.status for region, there in endpoints.items()} == dict.fromkeys(REGIONS, "InService")
    assert agreed(aws).empty, "deploying twice does nothing"
    found = run.status(regions=REGIONS, session=aws).found
    assert all(len(found[region].state.models) == len(found[region].state.configs) == 1 for region in REGIONS)
    run.teardown(model="jina-embeddings-v3", regions=REGIONS, session=aws)
    for region in REGIONS:
        sagemaker = boto3.client("sagemaker", region_name=region)
        assert sagemaker.list_endpoints()["Endpoints"] == []
        assert sagemaker.list_endpoint_configs()["EndpointConfigs"] == []
        assert sagemaker.list_models()["Models"] == []


def test_teardown_leaves_what_is_not_ours(aws: Any) -> None:
    sagemaker = boto3.client("sagemaker")
    sagemaker.create_model(ModelName="jina-sm-by-hand", ExecutionRoleArn="arn:aws:iam::123456789012:role/x")
    run.teardown(regions=["us-east-1"], session=aws)
    assert [model["ModelName"] for model in sagemaker.list_models()["Models"]] == ["jina-sm-by-hand"]


def test_the_execution_role_is_found_by_convention(aws: Any) -> None:
    with pytest.raises(InputError, match="no execution role"):
        execution_role(aws, "us-east-1", {})
    iam = boto3.client("iam")
    studio = "AmazonSageMaker-ExecutionRole-20260101T000000"
    iam.create_role(RoleName=studio, Path="/service-role/", AssumeRolePolicyDocument=TRUST)
    assert execution_role(aws, "us-east-1", {}).endswith(f"/service-role/{studio}")
    iam.create_role(RoleName="jina-sm-execution", AssumeRolePolicyDocument=TRUST)
    assert execution_role(aws, "us-east-1", {}).endswith("role/jina-sm-execution")
    given = "arn:aws:iam::123456789012:role/given"
    assert execution_role(aws, "us-east-1", {"JINA_SM_ROLE_ARN": given}) == given


def test_who_is_asking_is_told_by_sts(aws: Any) -> None:
    assert ":123456789012:" in identity(aws, "us-east-1")


def test_the_client_reads_what_an_endpoint_answers(aws: Any) -> None:
    asked = EmbedRequest(items=("a", "b"), task="text-matching", dimensions=32)
    vectors = np.arange(64, dtype=np.float32).reshape(2, 32)
    body = (
        wire.dialect(catalog.load(environ={}).model("jina-embeddings-v3"))
        .encode_response(asked, Rows(vectors, 6))
        .decode()
    )
    queued = {"results": [{"Body": body, "ContentType": "application/json"}], "region": "us-east-1"}
    requests.post("http://motoapi.amazonaws.com/moto-api/static/sagemaker/endpoint-results", json=queued, timeout=5)
    with Client("jina-embeddings-v3", regions=["us-east-1"]) as client:
        found = client.embed(["a", "b"], dimensions=32)
    assert found.usage.total_tokens == 6
    np.testing.assert_array_equal(found.vectors, vectors)
