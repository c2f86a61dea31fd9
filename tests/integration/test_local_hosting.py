"""SageMaker's control plane on the local stack, as plain boto3 sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from jina_sm import catalog
from tests.conftest import SLOW_S, Aws, Served, Time, variant

V3 = "arn:aws:sagemaker:us-east-1:865070037744:model-package/jina-embeddings-v3-380c5162a0bb3239903a3ca66ce3cb80"
ARN = "arn:aws:sagemaker:us-east-1:123456789012"


def refused(act: Callable[..., Any], **params: Any) -> tuple[str, str]:
    """The code and the words with which a call is refused."""
    with pytest.raises(ClientError) as caught:
        act(**params)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def model(**more: Any) -> dict[str, Any]:
    return {
        "ModelName": "m",
        "PrimaryContainer": {"ModelPackageName": V3},
        "EnableNetworkIsolation": True,
        **more,
    }


def test_what_was_made_is_described_as_it_was_made(stack: Served) -> None:
    stack.deploy()
    sagemaker = stack.aws("sagemaker")
    made = sagemaker.describe_model(ModelName="e")
    assert (made["ModelArn"], made["EnableNetworkIsolation"]) == (f"{ARN}:model/e", True)
    assert made["PrimaryContainer"] == {"ModelPackageName": V3}
    config = sagemaker.describe_endpoint_config(EndpointConfigName="e")
    assert config["EndpointConfigArn"] == f"{ARN}:endpoint-config/e"
    assert config["ProductionVariants"] == [variant("e", InitialVariantWeight=1.0)]
    endpoint = sagemaker.describe_endpoint(EndpointName="e")
    assert (endpoint["EndpointStatus"], endpoint["EndpointConfigName"]) == ("InService", "e")
    assert endpoint["EndpointArn"] == f"{ARN}:endpoint/e"
    assert endpoint["ProductionVariants"] == [
        {
            "VariantName": "AllTraffic",
            "CurrentWeight": 1.0,
            "DesiredWeight": 1.0,
            "CurrentInstanceCount": 1,
            "DesiredInstanceCount": 1,
        }
    ]
    assert endpoint["LastModifiedTime"] >= endpoint["CreationTime"]


def test_an_endpoint_is_creating_until_its_time_and_then_in_service(slow: Served, time: Time) -> None:
    slow.deploy()
    sagemaker = slow.aws("sagemaker")
    began = sagemaker.describe_endpoint(EndpointName="e")
    assert began["EndpointStatus"] == "Creating"
    assert began["ProductionVariants"][0]["CurrentInstanceCount"] == 0
    time.move(SLOW_S - 1)
    assert sagemaker.describe_endpoint(EndpointName="e")["EndpointStatus"] == "Creating"
    time.move(1)
    ended = sagemaker.describe_endpoint(EndpointName="e")
    assert ended["EndpointStatus"] == "InService"
    assert (ended["LastModifiedTime"] - ended["CreationTime"]).total_seconds() == pytest.approx(SLOW_S)


def test_nothing_may_be_done_to_an_endpoint_in_progress(slow: Served, time: Time) -> None:
    slow.deploy()
    sagemaker = slow.aws("sagemaker")
    words = (
        "ValidationException",
        'Cannot update in-progress endpoint "arn:aws:sagemaker:us-east-1:210987654321:endpoint/e".',
    )
    sagemaker.create_endpoint_config(EndpointConfigName="new", ProductionVariants=[variant("e")])
    changes: tuple[tuple[Any, dict[str, str]], ...] = (
        (sagemaker.delete_endpoint, {"EndpointName": "e"}),
        (sagemaker.update_endpoint, {"EndpointName": "e", "EndpointConfigName": "new"}),
    )
    for act, params in changes:
        assert refused(act, **params) == words
    time.move(SLOW_S)
    sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="new")
    for act, params in changes:
        assert refused(act, **params) == words


def test_an_update_shows_the_old_config_until_it_is_done(slow: Served, time: Time) -> None:
    slow.deploy()
    time.move(SLOW_S)
    sagemaker = slow.aws("sagemaker")
    sagemaker.create_endpoint_config(
        EndpointConfigName="new", ProductionVariants=[variant("e", InitialInstanceCount=3)]
    )
    sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="new")
    during = sagemaker.describe_endpoint(EndpointName="e")
    assert (during["EndpointStatus"], during["EndpointConfigName"]) == ("Updating", "e")
    assert during["PendingDeploymentSummary"]["EndpointConfigName"] == "new"
    time.move(SLOW_S)
    after = sagemaker.describe_endpoint(EndpointName="e")
    assert (after["EndpointStatus"], after["EndpointConfigName"]) == ("InService", "new")
    assert after["ProductionVariants"][0]["CurrentInstanceCount"] == 3


def counts(sagemaker: Any) -> tuple[str, int, int]:
    """The status, and how many instances there are and should be."""
    found = sagemaker.describe_endpoint(EndpointName="e")
    (there,) = found["ProductionVariants"]
    return found["EndpointStatus"], there["CurrentInstanceCount"], there["DesiredInstanceCount"]


def resize(sagemaker: Any, count: int, name: str = "AllTraffic") -> None:
    wanted = [{"VariantName": name, "DesiredInstanceCount": count}]
    sagemaker.update_endpoint_weights_and_capacities(EndpointName="e", DesiredWeightsAndCapacities=wanted)


def test_another_count_leaves_the_config(slow: Served, time: Time) -> None:
    slow.deploy()
    time.move(SLOW_S)
    sagemaker = slow.aws("sagemaker")
    resize(sagemaker, 3)
    assert counts(sagemaker) == ("Updating", 1, 3)
    during = sagemaker.describe_endpoint(EndpointName="e")
    assert (during["EndpointConfigName"], "PendingDeploymentSummary" in during) == ("e", False)
    assert refused(resize, sagemaker=sagemaker, count=2)[1].startswith("Cannot update in-progress endpoint")
    time.move(SLOW_S)
    assert counts(sagemaker) == ("InService", 3, 3)
    assert (
        sagemaker.describe_endpoint_config(EndpointConfigName="e")["ProductionVariants"][0]["InitialInstanceCount"] == 1
    )
    assert "no variant other" in refused(resize, sagemaker=sagemaker, count=2, name="other")[1]


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ({}, 2),
        ({"RetainAllVariantProperties": False}, 2),
        ({"RetainAllVariantProperties": True}, 3),
        (
            {
                "RetainAllVariantProperties": True,
                "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DesiredInstanceCount"}],
            },
            2,
        ),
    ],
)
def test_an_update_keeps_the_count_if_it_is_told_to(stack: Served, more: dict[str, Any], count: int) -> None:
    stack.deploy()
    sagemaker = stack.aws("sagemaker")
    resize(sagemaker, 3)
    variants = [variant("e", InitialInstanceCount=2, InstanceType="ml.g5.2xlarge")]
    sagemaker.create_endpoint_config(EndpointConfigName="new", ProductionVariants=variants)
    sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="new", **more)
    assert counts(sagemaker) == ("InService", count, count)


def test_a_deleted_endpoint_keeps_its_name_until_it_is_gone(slow: Served, time: Time) -> None:
    slow.deploy()
    time.move(SLOW_S)
    sagemaker = slow.aws("sagemaker")
    sagemaker.delete_endpoint(EndpointName="e")
    assert sagemaker.describe_endpoint(EndpointName="e")["EndpointStatus"] == "Deleting"
    _, words = refused(sagemaker.create_endpoint, EndpointName="e", EndpointConfigName="e")
    assert words.startswith('Cannot create already existing endpoint "arn:')
    time.move(5)
    assert refused(sagemaker.describe_endpoint, EndpointName="e") == (
        "ValidationException",
        'Could not find endpoint "arn:aws:sagemaker:us-east-1:210987654321:endpoint/e".',
    )
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="e")


def test_a_failed_endpoint_says_why_and_can_only_be_deleted(slow: Served, time: Time) -> None:
    agreement = slow.subscribe()
    sagemaker = slow.aws("sagemaker")
    sagemaker.create_model(**model())
    for name in ("c", "other"):
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant("m")])
    slow.aws("marketplace-agreement").cancel_agreement(agreementId=agreement)
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c")
    time.move(SLOW_S)
    found = sagemaker.describe_endpoint(EndpointName="e")
    assert found["EndpointStatus"] == "Failed"
    assert found["FailureReason"] == "Caller is not subscribed to the marketplace offering."
    _, words = refused(sagemaker.update_endpoint, EndpointName="e", EndpointConfigName="other")
    assert words.startswith("Cannot update failed endpoint")
    sagemaker.delete_endpoint(EndpointName="e")
    time.move(5)
    assert sagemaker.list_endpoints()["Endpoints"] == []


def test_a_name_is_given_once(stack: Served) -> None:
    stack.deploy()
    sagemaker = stack.aws("sagemaker")
    again: tuple[tuple[Any, dict[str, Any], str], ...] = (
        (sagemaker.create_model, model(ModelName="e"), f'model "{ARN}:model/e"'),
        (
            sagemaker.create_endpoint_config,
            {"EndpointConfigName": "e", "ProductionVariants": [variant("e")]},
            f'endpoint configuration "{ARN}:endpoint-config/e"',
        ),
        (
            sagemaker.create_endpoint,
            {"EndpointName": "e", "EndpointConfigName": "e"},
            f'endpoint "{ARN}:endpoint/e"',
        ),
    )
    for act, params, words in again:
        assert refused(act, **params) == ("ValidationException", f"Cannot create already existing {words}.")


def test_what_is_not_there_could_not_be_found(aws: Aws) -> None:
    sagemaker = aws("sagemaker")
    missing = {
        "model": ("model", "ModelName", {}),
        "endpoint_config": ("endpoint configuration", "EndpointConfigName", {}),
        "endpoint": ("endpoint", "EndpointName", {}),
    }
    for kind, (said, field, more) in missing.items():
        words = f'Could not find {said} "{ARN}:{kind.replace("_", "-")}/x".'
        for verb in ("describe", "delete"):
            act = getattr(sagemaker, f"{verb}_{kind}")
            assert refused(act, **{field: "x"}, **more) == ("ValidationException", words)
    assert refused(sagemaker.list_tags, ResourceArn=f"{ARN}:endpoint/x")[1].startswith("Could not find endpoint")


def test_a_config_needs_its_model_and_an_endpoint_its_config(stack: Served) -> None:
    sagemaker = stack.aws("sagemaker")
    lonely = {"EndpointConfigName": "c", "ProductionVariants": [variant("x")]}
    assert refused(sagemaker.create_endpoint_config, **lonely)[1] == f'Could not find model "{ARN}:model/x".'
    words = f'Could not find endpoint configuration "{ARN}:endpoint-config/x".'
    assert refused(sagemaker.create_endpoint, EndpointName="e", EndpointConfigName="x")[1] == words
    stack.deploy()
    assert refused(sagemaker.update_endpoint, EndpointName="e", EndpointConfigName="x")[1] == words
    assert "currently in use" in refused(sagemaker.update_endpoint, EndpointName="e", EndpointConfigName="e")[1]


def test_a_variant_needs_instances_and_a_name_of_its_own(stack: Served) -> None:
    create = stack.aws("sagemaker").create_endpoint_config
    bare = {"VariantName": "v"}
    assert refused(create, EndpointConfigName="c", ProductionVariants=[bare])[1] == "Variant v has no InstanceType."
    pools = {**bare, "InstancePools": [{"InstanceType": "ml.g5.xlarge", "Priority": 1}], "InitialInstanceCount": 1}
    assert "must be different" in refused(create, EndpointConfigName="c", ProductionVariants=[pools, pools])[1]


def test_an_endpoint_is_described_with_its_pools_and_where_its_answers_go(stack: Served) -> None:
    sagemaker = stack.aws("sagemaker")
    sagemaker.create_model(ModelName="m", PrimaryContainer={"Image": "repository/image:1"})
    types = {"ml.g6.xlarge": 2, "ml.g5.xlarge": 1}
    pools = [{"InstanceType": kind, "Priority": priority} for kind, priority in types.items()]
    config = {"OutputConfig": {"S3OutputPath": "s3://bucket/out"}}
    pooled = {"VariantName": "v", "ModelName": "m", "InitialInstanceCount": 2, "InstancePools": pools}
    sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[pooled], AsyncInferenceConfig=config)
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c")
    found = sagemaker.describe_endpoint(EndpointName="e")
    assert found["AsyncInferenceConfig"] == config
    assert found["ProductionVariants"][0]["InstancePools"] == [
        {"InstanceType": "ml.g5.xlarge", "CurrentInstanceCount": 2},
        {"InstanceType": "ml.g6.xlarge", "CurrentInstanceCount": 0},
    ]


def test_config_and_model_may_be_deleted_under_an_endpoint_but_then_it_cannot_be_updated(stack: Served) -> None:
    stack.deploy()
    sagemaker = stack.aws("sagemaker")
    sagemaker.create_endpoint_config(EndpointConfigName="new", ProductionVariants=[variant("e")])
    sagemaker.delete_endpoint_config(EndpointConfigName="e")
    _, words = refused(sagemaker.update_endpoint, EndpointName="e", EndpointConfigName="new")
    assert words == f'Could not find endpoint configuration "{ARN}:endpoint-config/e".'
    sagemaker.delete_model(ModelName="e")
    assert sagemaker.describe_endpoint(EndpointName="e")["EndpointStatus"] == "InService"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"EnableNetworkIsolation": False}, "EnableNetworkIsolation must be true"),
        (
            {"PrimaryContainer": {"ModelPackageName": V3, "Environment": {"A": "1"}}},
            "Environment variable map cannot be specified when using a ModelPackage subscribed from AWS Marketplace.",
        ),
        (
            {"PrimaryContainer": {"ModelPackageName": V3.replace("us-east-1:865070037744", "eu-west-1:985815980388")}},
            "does not exist.",
        ),
        ({"PrimaryContainer": {"ModelPackageName": V3[:-1] + "x"}}, f"ModelPackage {V3[:-1]}x does not exist."),
        ({"Containers": [{"ModelPackageName": V3}]}, "Exactly one of"),
    ],
)
def test_a_marketplace_model_is_made_as_aws_wants_it(stack: Served, more: dict[str, Any], words: str) -> None:
    stack.subscribe()
    code, said = refused(stack.aws("sagemaker").create_model, **model(**more))
    assert (code, words in said) == ("ValidationException", True)
    stack.aws("sagemaker").create_model(**model())


def test_a_model_needs_a_subscription_which_one_can_cancel(stack: Served) -> None:
    sagemaker = stack.aws("sagemaker")
    words = "ValidationException", "Caller is not subscribed to the marketplace offering."
    assert refused(sagemaker.create_model, **model()) == words
    agreement = stack.subscribe()
    sagemaker.create_model(**model())
    stack.aws("marketplace-agreement").cancel_agreement(agreementId=agreement)
    assert refused(sagemaker.create_model, **model(ModelName="n")) == words


def test_a_package_is_described_without_a_subscription(stack: Served) -> None:
    found = stack.aws("sagemaker").describe_model_package(ModelPackageName=V3)
    assert found["ModelPackageStatus"] == "Completed"
    specification = found["InferenceSpecification"]
    assert "ml.g5.xlarge" in specification["SupportedRealtimeInferenceInstanceTypes"]
    row = catalog.load(environ={}).model("jina-embeddings-v3")
    listing = stack.aws("marketplace-discovery").get_listing(listingId=row.listing)
    product = listing["associatedEntities"][0]["product"]["productId"]
    assert specification["Containers"][0]["ProductId"] == product


@pytest.mark.parametrize(
    ("operation", "params", "words"),
    [
        (
            "create_endpoint",
            {"EndpointName": "a_b", "EndpointConfigName": "c"},
            "1 validation error detected: Value 'a_b' at 'endpointName' failed to satisfy constraint: Member must "
            "satisfy regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}",
        ),
        (
            "create_endpoint_config",
            {"EndpointConfigName": "c", "ProductionVariants": [variant("m", InstanceType="ml.g99.xlarge")]},
            "1 validation error detected: Value 'ml.g99.xlarge' at 'productionVariants.1.member.instanceType' failed "
            "to satisfy constraint: Member must satisfy enum value set: [ml.t2.medium, ",
        ),
        (
            "create_endpoint_config",
            {"EndpointConfigName": "c", "ProductionVariants": [variant("m", InitialInstanceCount=0)]},
            "Value '0' at 'productionVariants.1.member.initialInstanceCount' failed to satisfy constraint: Member "
            "must have value greater than or equal to 1",
        ),
        ("delete_endpoint", {}, "Value null at 'endpointName' failed to satisfy constraint: Member must not be null"),
        (
            "describe_endpoint",
            {"EndpointName": "e" * 64},
            "2 validation errors detected: Value",
        ),
        ("list_endpoints", {"StatusEquals": "Well"}, "at 'statusEquals' failed to satisfy constraint"),
        ("list_endpoints", {"NextToken": "?"}, "Invalid NextToken."),
    ],
)
def test_input_is_refused_in_awss_words(stack: Served, operation: str, params: dict[str, Any], words: str) -> None:
    import botocore.config

    raw = botocore.config.Config(parameter_validation=False, retries={"total_max_attempts": 1})
    code, said = refused(getattr(stack.aws("sagemaker", config=raw), operation), **params)
    assert (code, words in said) == ("ValidationException", True)


def test_lists_come_in_pages_newest_first_and_can_be_filtered(stack: Served) -> None:
    stack.subscribe()
    sagemaker = stack.aws("sagemaker")
    for number in range(12):
        sagemaker.create_model(**model(ModelName=f"m-{number:02}"))
    first = sagemaker.list_models()
    assert len(first["Models"]) == 10
    assert len(sagemaker.list_models(NextToken=first["NextToken"])["Models"]) == 2
    pages = sagemaker.get_paginator("list_models").paginate(
        SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 5}
    )
    assert [each["ModelName"] for page in pages for each in page["Models"]] == [f"m-{n:02}" for n in range(12)]
    assert [each["ModelName"] for each in sagemaker.list_models(NameContains="-1")["Models"]] == ["m-11", "m-10"]
    made = sagemaker.describe_model(ModelName="m-05")["CreationTime"]
    before = {each["ModelName"] for each in sagemaker.list_models(CreationTimeBefore=made, MaxResults=100)["Models"]}
    after = {each["ModelName"] for each in sagemaker.list_models(CreationTimeAfter=made, MaxResults=100)["Models"]}
    assert before <= {f"m-{n:02}" for n in range(5)}
    assert after <= {f"m-{n:02}" for n in range(6, 12)}


def test_a_page_is_not_shifted_by_what_is_deleted_meanwhile(stack: Served) -> None:
    stack.subscribe()
    sagemaker = stack.aws("sagemaker")
    for name in "abcd":
        sagemaker.create_model(**model(ModelName=name))
    order = {"SortBy": "Name", "SortOrder": "Ascending", "MaxResults": 2}
    first = sagemaker.list_models(**order)
    sagemaker.delete_model(ModelName="a")
    second = sagemaker.list_models(**order, NextToken=first["NextToken"])
    assert [each["ModelName"] for each in second["Models"]] == ["c", "d"]
    assert "NextToken" not in second


def test_endpoints_are_listed_by_status_and_by_change(slow: Served, time: Time) -> None:
    slow.deploy()
    time.move(SLOW_S)
    slow.deploy(name="later")
    sagemaker = slow.aws("sagemaker")

    def names(**filters: Any) -> list[str]:
        return [each["EndpointName"] for each in sagemaker.list_endpoints(**filters)["Endpoints"]]

    assert names(SortBy="Status") == ["e", "later"]
    assert names(StatusEquals="Creating") == ["later"]
    changed = sagemaker.describe_endpoint(EndpointName="later")["LastModifiedTime"]
    assert names(LastModifiedTimeAfter=changed) == ["e"]
    assert names(LastModifiedTimeBefore=changed) == []


def test_tags_are_added_replaced_and_removed(aws: Aws, stack: Served) -> None:
    stack.subscribe()
    sagemaker = aws("sagemaker")
    arn = sagemaker.create_model(**model(Tags=[{"Key": "a", "Value": "1"}]))["ModelArn"]
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "2"}, {"Key": "ключ", "Value": ""}])
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=["none", "ключ"])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "2"}]


def test_regions_know_nothing_of_each_other(stack: Served) -> None:
    stack.deploy()
    stack.deploy(region="eu-central-1")
    stack.aws("sagemaker").delete_endpoint(EndpointName="e")
    assert stack.aws("sagemaker").list_endpoints()["Endpoints"] == []
    assert [each["EndpointName"] for each in stack.aws("sagemaker", "eu-central-1").list_endpoints()["Endpoints"]] == [
        "e"
    ]


def test_an_operation_that_is_not_here_says_so(aws: Aws) -> None:
    assert refused(aws("sagemaker").list_domains) == (
        "UnknownOperationException",
        "the local stack does not know sagemaker ListDomains",
    )
