"""Service Quotas on the local stack, and that what gives endpoints instances holds to them."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta

import pytest

from jina_sm import local
from jina_sm.errors import InputError
from jina_sm.local.scenario import Scenario
from tests.conftest import SLOW_S, Served, Time, variant
from tests.integration.test_local_hosting import refused

G5 = {"ServiceCode": "sagemaker", "QuotaCode": "L-1928E07B"}
WORDS = (
    "ResourceLimitExceeded",
    "The account-level service limit 'ml.g5.xlarge for endpoint usage' is {limit} Instances, with current utilization "
    "of {used} Instances and a request delta of {more} Instances. Please use AWS Service Quotas to request an increase "
    "for this quota. If AWS Service Quotas is not available, contact AWS support to request an increase for this quota.",
)


def test_an_endpoint_over_the_quota_is_refused_in_awss_words(stack: Served) -> None:
    local.change_scenario(stack.port, quotas={"ml.g5.xlarge": 1})
    stack.deploy()
    said = refused(stack.aws("sagemaker").create_endpoint, EndpointName="f", EndpointConfigName="e")
    assert said == (WORDS[0], WORDS[1].format(limit=1, used=1, more=1))
    stack.aws("sagemaker").delete_endpoint(EndpointName="e")
    stack.aws("sagemaker").create_endpoint(EndpointName="f", EndpointConfigName="e")
    stack.deploy(region="eu-central-1")  # a quota is a region's


def test_an_update_needs_its_instances_beside_the_old_ones(slow: Served, time: Time) -> None:
    local.change_scenario(slow.port, quota=3)
    slow.deploy()
    time.move(SLOW_S)
    sagemaker = slow.aws("sagemaker")
    for count in (2, 3):
        variants = [variant("e", InitialInstanceCount=count)]
        sagemaker.create_endpoint_config(EndpointConfigName=f"c{count}", ProductionVariants=variants)
    said = refused(sagemaker.update_endpoint, EndpointName="e", EndpointConfigName="c3")
    assert said == (WORDS[0], WORDS[1].format(limit=3, used=1, more=3))
    sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="c2")


def test_another_count_needs_what_it_adds(slow: Served, time: Time) -> None:
    local.change_scenario(slow.port, quota=3)
    slow.deploy(instances=2)
    time.move(SLOW_S)
    resize = functools.partial(slow.aws("sagemaker").update_endpoint_weights_and_capacities, EndpointName="e")
    said = refused(resize, DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 4}])
    assert said == (WORDS[0], WORDS[1].format(limit=3, used=2, more=2))
    resize(DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 3}])
    assert refused(slow.aws("sagemaker").create_endpoint, EndpointName="f", EndpointConfigName="e")[1] == WORDS[
        1
    ].format(limit=3, used=3, more=2)
    time.move(SLOW_S)
    local.change_scenario(slow.port, quota=1)  # less than there are: fewer are allowed all the same
    resize(DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}])


def test_quotas_are_found_by_code_and_by_name(stack: Served) -> None:
    quotas = stack.aws("service-quotas")
    quota = quotas.get_service_quota(**G5)["Quota"]
    assert (quota["QuotaName"], quota["Value"], quota["Adjustable"]) == ("ml.g5.xlarge for endpoint usage", 4.0, True)
    assert quotas.get_aws_default_service_quota(**G5)["Quota"]["Value"] == 0
    for operation in ("list_service_quotas", "list_aws_default_service_quotas"):
        pages = list(quotas.get_paginator(operation).paginate(ServiceCode="sagemaker"))
        assert len(pages) > 1
        names = [each["QuotaName"] for page in pages for each in page["Quotas"]]
        assert names.count("ml.g5.xlarge for endpoint usage") == 1
    for asked in ({**G5, "QuotaCode": "L-0"}, {**G5, "ServiceCode": "ec2"}):
        assert refused(quotas.get_service_quota, **asked)[0] == "NoSuchResourceException"


def test_an_increase_stays_open_until_it_is_granted(stack: Served) -> None:
    quotas = stack.aws("service-quotas")
    assert refused(quotas.request_service_quota_increase, **G5, DesiredValue=4)[0] == "IllegalArgumentException"
    asked = quotas.request_service_quota_increase(**G5, DesiredValue=8)["RequestedQuota"]
    assert (asked["Status"], asked["DesiredValue"]) == ("PENDING", 8.0)
    said = refused(quotas.request_service_quota_increase, **G5, DesiredValue=9)
    assert said[0] == "ResourceAlreadyExistsException"
    history = quotas.list_requested_service_quota_change_history
    assert [each["Id"] for each in history(ServiceCode="sagemaker", Status="PENDING")["RequestedQuotas"]] == [
        asked["Id"]
    ]
    local.change_scenario(stack.port, quotas={"ml.g5.xlarge": 8})
    assert quotas.get_requested_service_quota_change(RequestId=asked["Id"])["RequestedQuota"]["Status"] == "APPROVED"
    assert history(Status="PENDING")["RequestedQuotas"] == []
    by_quota = quotas.list_requested_service_quota_change_history_by_quota(**G5)["RequestedQuotas"]
    assert [each["Status"] for each in by_quota] == ["APPROVED"]
    assert quotas.get_service_quota(**G5)["Quota"]["Value"] == 8


def test_a_quota_that_was_never_applied_is_only_among_the_defaults(stack: Served) -> None:
    quotas = stack.aws("service-quotas")
    local.change_scenario(stack.port, applied_quotas=False)
    assert refused(quotas.get_service_quota, **G5)[0] == "NoSuchResourceException"
    assert quotas.list_service_quotas(ServiceCode="sagemaker")["Quotas"] == []
    assert quotas.get_aws_default_service_quota(**G5)["Quota"]["Value"] == 4


def test_what_is_in_use_is_told_by_the_metric_that_the_quota_names(stack: Served) -> None:
    stack.deploy(instances=3)
    metric = stack.aws("service-quotas").get_service_quota(**G5)["Quota"]["UsageMetric"]
    now = datetime.now(UTC)
    points = stack.aws("cloudwatch").get_metric_statistics(
        Namespace=metric["MetricNamespace"],
        MetricName=metric["MetricName"],
        Dimensions=[{"Name": name, "Value": value} for name, value in metric["MetricDimensions"].items()],
        StartTime=now - timedelta(minutes=15),
        EndTime=now + timedelta(minutes=1),
        Period=300,
        Statistics=["Maximum"],
    )["Datapoints"]
    assert [point["Maximum"] for point in points] == [3.0]


def test_an_update_tells_of_what_is_on_its_way(slow: Served, time: Time) -> None:
    slow.deploy()
    time.move(SLOW_S)
    sagemaker = slow.aws("sagemaker")
    variants = [variant("e", InitialInstanceCount=2, InstanceType="ml.g5.2xlarge")]
    sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=variants)
    sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="c")
    (coming,) = sagemaker.describe_endpoint(EndpointName="e")["PendingDeploymentSummary"]["ProductionVariants"]
    assert (coming["InstanceType"], coming["DesiredInstanceCount"]) == ("ml.g5.2xlarge", 2)


def test_of_pools_only_the_type_that_was_had_counts_afterwards(stack: Served) -> None:
    local.change_scenario(stack.port, quota=1)
    stack.deploy()
    sagemaker = stack.aws("sagemaker")
    pools = [
        {"InstanceType": f"ml.g5.{size}", "Priority": place} for place, size in enumerate(("2xlarge", "4xlarge"), 1)
    ]
    pooled = {**variant("e", InstancePools=pools)}
    del pooled["InstanceType"]
    sagemaker.create_endpoint_config(EndpointConfigName="pooled", ProductionVariants=[pooled])
    sagemaker.create_endpoint(EndpointName="pooled", EndpointConfigName="pooled")
    sagemaker.create_endpoint_config(
        EndpointConfigName="f", ProductionVariants=[variant("e", InstanceType="ml.g5.4xlarge")]
    )
    sagemaker.create_endpoint(EndpointName="f", EndpointConfigName="f")


def test_what_the_scenario_denies_is_refused_and_simulated_alike(stack: Served) -> None:
    local.change_scenario(stack.port, denied=["sagemaker:List*", "iam:GetRole", "sagemaker:CreateModel@eu-west-1"])
    words = "is not authorized to perform: {} on resource: * because no identity-based policy allows the {} action"
    for service, operation, params, action in (
        ("sagemaker", "list_models", {}, "sagemaker:ListModels"),
        ("iam", "get_role", {"RoleName": "jina-sm-execution"}, "iam:GetRole"),
    ):
        code, said = refused(getattr(stack.aws(service), operation), **params)
        assert code in ("AccessDenied", "AccessDeniedException")
        assert said.endswith(words.format(action, action))
    asked = {
        "PolicySourceArn": "arn:aws:iam::123456789012:user/ada",
        "ActionNames": ["sagemaker:ListModels", "sagemaker:CreateModel", "sagemaker:CreateEndpoint"],
        "ResourceArns": [
            "arn:aws:sagemaker:eu-west-1:123456789012:model/a",
            "arn:aws:sagemaker:eu-west-1:123456789012:model/b",
        ],
    }

    def decided(**context: str) -> list[tuple[str, str, list[str], int]]:
        entries = [
            {"ContextKeyName": f"aws:{key}", "ContextKeyValues": [value], "ContextKeyType": "string"}
            for key, value in context.items()
        ]
        said = stack.aws("iam").simulate_principal_policy(**asked, ContextEntries=entries)["EvaluationResults"]
        return [
            (
                each["EvalActionName"],
                each["EvalDecision"],
                each["MissingContextValues"],
                len(each["ResourceSpecificResults"]),
            )
            for each in said
        ]

    assert decided() == [
        ("sagemaker:ListModels", "implicitDeny", [], 2),
        ("sagemaker:CreateModel", "implicitDeny", ["aws:RequestedRegion"], 2),
        ("sagemaker:CreateEndpoint", "allowed", [], 2),
    ]
    assert decided(RequestedRegion="eu-west-1")[1] == ("sagemaker:CreateModel", "implicitDeny", [], 2)
    assert decided(RequestedRegion="us-east-1")[1] == ("sagemaker:CreateModel", "allowed", [], 2)
    code, _ = refused(
        stack.aws("iam").simulate_principal_policy,
        PolicySourceArn="arn:aws:sts::123456789012:assumed-role/Deployer/ada",
        ActionNames=["sagemaker:CreateModel"],
    )
    assert code == "InvalidInput"


def test_what_is_no_scenario_is_refused(stack: Served) -> None:
    for facts, words in (
        ({"weather": "bad"}, "no 'weather'"),
        ({"quota": "many"}, "quota is like 4"),
        ({"approval": "maybe"}, "approval is one of required, approved, rejected"),
        ({"payment": "SOON"}, "payment is one of PROVISIONING_IN_PROGRESS"),
        ({"quota": -1}, "quota is a number of instances, not -1"),
        ({"quotas": {"ml.g5.xlarge": "x"}}, "ml.g5.xlarge is a number of instances, not 'x'"),
        ({"denied": ["everything"]}, "denied is of actions such as iam:PassRole, not 'everything'"),
        ({"denied": "iam:PassRole"}, "denied is like"),
    ):
        with pytest.raises(InputError, match=words):
            local.change_scenario(stack.port, **facts)
    with pytest.raises(InputError, match="a scenario is an object"):
        Scenario().changed([])  # type: ignore[arg-type]
    assert local.change_scenario(stack.port, free_trial=True)["free_trial"] is True
    local.reset(stack.port)
    assert local.change_scenario(stack.port)["free_trial"] is False
