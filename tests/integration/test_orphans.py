"""What bills or lingers is found, and only what is ours goes, unless it is named; over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from jina_sm import Client, Spec, local
from jina_sm.deploy import guards, orphans, run
from tests.conftest import Served, Told

V3, REGION, NAME = "jina-embeddings-v3", "us-east-1", "jina-sm-embeddings-v3"
PLAIN = Spec(model=V3, regions=(REGION,))
TOMORROW = datetime.now(UTC) + timedelta(hours=25)
Aws = Callable[..., Any]
Typed = Callable[..., Told]


@pytest.fixture(autouse=True)
def _subscribed(account: Served) -> None:
    run.subscribe(V3)


def found(**more: Any) -> list[tuple[str, str, str, bool]]:
    search = orphans.orphans(**{"regions": [REGION], **more})
    assert not search.failed
    return [(each.kind, each.name, each.why, each.ours) for each in search.all]


def aged(account: Served, hours: float) -> None:
    """Every endpoint is that much older."""
    for endpoint in account.stack.state.region(REGION).endpoints.values():
        endpoint.created -= hours * 3600


def test_what_is_in_use_is_no_orphan(account: Served) -> None:
    run.deploy(PLAIN)
    assert found() == []
    aged(account, 25)
    with Client(V3, regions=[REGION]) as client:
        client.embed(["a"])
    assert found() == []


def test_an_endpoint_that_nobody_asks_is_idle_and_one_that_is_new_is_not(account: Served) -> None:
    run.deploy(PLAIN)
    aged(account, 23)
    assert found() == []
    aged(account, 2)
    assert found() == [("endpoint", NAME, "not invoked for 24 h", True)]
    assert found(idle_s=48 * 3600) == []
    (idle,) = orphans.orphans(regions=[REGION]).all
    assert (idle.bills, idle.instance and idle.instance.usd) == (True, Decimal("1.408"))


def test_what_was_asked_before_the_period_is_idle_in_it() -> None:
    run.deploy(PLAIN)
    with Client(V3, regions=[REGION]) as client:
        client.embed(["a"])
    assert found(now=TOMORROW + timedelta(hours=1)) == [("endpoint", NAME, "not invoked for 24 h", True)]


def test_a_broken_endpoint_is_found_with_its_reason(account: Served, aws: Aws) -> None:
    plan = run.plan(PLAIN).regions[REGION].desired
    local.fault("failed", "CreateEndpoint", port=account.port, reason="health")
    aws("sagemaker").create_model(**plan.model_params)
    aws("sagemaker").create_endpoint_config(**plan.config_params)
    aws("sagemaker").create_endpoint(**plan.endpoint_params)
    ((kind, name, why, ours),) = found()
    assert (kind, name, ours) == ("endpoint", NAME, True)
    assert why.startswith("Failed: The primary container")


def test_what_is_left_of_an_endpoint_is_found_and_removed(account: Served, aws: Aws) -> None:
    run.deploy(Spec(model=V3, regions=(REGION,), autoscaling={"max": 2}, ttl="8h"))
    aws("sagemaker").delete_endpoint(EndpointName=NAME)
    search = orphans.orphans(regions=[REGION])
    assert [each.kind for each in search.all] == ["scaling target", "schedule", "config", "model"]
    assert not any(each.bills for each in search.all)
    orphans.remove(search.all)
    assert found() == []
    assert run.status(regions=[REGION]).found[REGION].state.empty


def test_a_target_whose_config_has_gone_too_is_known_by_its_own_tags(aws: Aws) -> None:
    run.deploy(Spec(model=V3, regions=(REGION,), autoscaling={"max": 2}))
    state = run.status(regions=[REGION]).found[REGION].state
    aws("sagemaker").delete_endpoint(EndpointName=NAME)
    aws("sagemaker").delete_endpoint_config(EndpointConfigName=state.configs[0])
    assert [kind for kind, *_ in found()] == ["scaling target", "model"]


def test_a_log_without_endpoint_is_found_and_removed_only_if_it_is_named(
    account: Served, aws: Aws, typed: Typed
) -> None:
    group, theirs = f"/aws/sagemaker/Endpoints/{NAME}", "/aws/sagemaker/Endpoints/jina-sm-by-hand"
    account.deploy(name="jina-sm-by-hand")
    for each in (group, theirs):
        aws("logs").create_log_group(logGroupName=each)
    run.deploy(PLAIN)
    aged(account, 25)
    logs = lambda: [name for kind, name, *_ in found() if kind == "log group"]  # noqa: E731
    assert logs() == []
    guards.pause(V3, regions=[REGION])
    assert logs() == [], "it may come back"
    guards.resume(V3, regions=[REGION])
    aged(account, 25)
    assert typed("orphans", "-r", REGION, "--remove", "--yes")[0] == 0
    assert ("log group", group, "without endpoint", False) in found(), "it stays where its endpoint is removed"
    assert typed("orphans", "-r", REGION, "--remove", "--yes")[0] == 0
    assert logs() == [group]
    code, out, _ = typed("orphans", group, "-r", REGION, "--remove", "--yes")
    assert (code, out.endswith("removed 1\n")) == (0, True)
    (left,) = aws("logs").describe_log_groups()["logGroups"]
    assert left["logGroupName"] == theirs


def test_what_is_paused_is_no_orphan() -> None:
    run.deploy(PLAIN)
    guards.pause(V3)
    assert found() == []


@pytest.fixture
def others(account: Served, aws: Aws) -> None:
    """Endpoints that this tool did not make: one of a package of Jina's, one of a container, one called as ours."""
    account.deploy(name="theirs")
    account.deploy(name="jina-sm-made-by-hand")
    aws("sagemaker").create_model(ModelName="plain", PrimaryContainer={"Image": "1.dkr.ecr/x"})
    variants = [{"VariantName": "v", "ModelName": "plain", "InstanceType": "ml.g5.xlarge", "InitialInstanceCount": 1}]
    aws("sagemaker").create_endpoint_config(EndpointConfigName="plain", ProductionVariants=variants)
    aws("sagemaker").create_endpoint(EndpointName="plain", EndpointConfigName="plain")


@pytest.mark.usefixtures("others")
def test_others_endpoints_of_jinas_packages_are_found_if_it_is_told() -> None:
    named = "called as ours, without our tags"
    hand = [("config", "jina-sm-made-by-hand", named, False), ("model", "jina-sm-made-by-hand", named, False)]
    assert found() == [("endpoint", "jina-sm-made-by-hand", named, False), *hand]
    runs = "runs jina-embeddings-v3-380c5162a0bb3239903a3ca66ce3cb80"
    assert sorted(found(all_jina=True)) == sorted(
        [("endpoint", "jina-sm-made-by-hand", named, False), ("endpoint", "theirs", runs, False), *hand]
    )


@pytest.mark.usefixtures("others")
def test_only_what_is_ours_is_removed_unless_it_is_named(account: Served, aws: Aws, typed: Typed) -> None:
    run.deploy(PLAIN)
    aged(account, 25)
    code, out, err = typed("orphans", "-r", REGION, "--all-jina", "--remove")
    assert (code, "Remove this? There is no terminal" in err) == (2, True)
    code, out, err = typed("orphans", "-r", REGION, "--all-jina", "--remove", "--yes")
    assert (code, "removed 1" in out) == (0, True)
    names = lambda: {each["EndpointName"] for each in aws("sagemaker").list_endpoints()["Endpoints"]}  # noqa: E731
    assert names() == {"theirs", "jina-sm-made-by-hand", "plain"}
    code, out, err = typed("orphans", "theirs", "-r", REGION, "--all-jina", "--remove")
    assert (code, "Remove this? theirs: not made by this tool!" in err) == (2, True)
    code, out, err = typed("orphans", "theirs", "plain", "-r", REGION, "--all-jina", "--remove", "--yes")
    assert (code, names()) == (0, {"jina-sm-made-by-hand", "plain"})
    assert aws("sagemaker").describe_model(ModelName="theirs"), "named was the endpoint"


def test_the_command_lists_what_it_found_and_where_it_looked(account: Served, typed: Typed) -> None:
    run.deploy(PLAIN)
    aged(account, 25)
    code, out, _ = typed("orphans")
    assert code == 0
    assert "1.408 + software" in out
    assert out.endswith("looked in 16 regions, found 1\n")
    said = json.loads(typed("orphans", "--idle", "30h", "--json")[1])
    assert (said["orphans"], len(said["looked_at"])) == ([], 16)
    (one,) = json.loads(typed("orphans", "--json")[1])["orphans"]
    assert (one["name"], one["ours"], one["instance_usd_per_hour"]) == (NAME, True, "1.408")
    assert json.loads(typed("orphans", "--remove", "--json", "--yes")[1])["removed"][0]["name"] == NAME
    code, _, err = typed("orphans", "--idle", "soon")
    assert (code, "idle='soon': a duration is like 90m, 8h or 2d" in err) == (2, True)


def test_a_region_that_cannot_be_listed_is_named_and_fails_the_command(account: Served, typed: Typed) -> None:
    local.fault("error", "ListEndpoints", port=account.port, region="eu-west-1", status=403)
    code, out, err = typed("orphans")
    assert (code, "error: eu-west-1 could not be listed" in err) == (1, True)
    assert "looked in 15 regions" in out


@pytest.mark.usefixtures("slow_account")
def test_a_region_that_is_not_enabled_is_skipped_and_said_to_be(typed: Typed) -> None:
    code, out, _ = typed("orphans")
    assert (code, "not enabled: sa-east-1" in out) == (0, True)


def test_what_a_stack_made_is_the_stacks(aws: Aws) -> None:
    from jina_sm import Client

    run.deploy(PLAIN)
    kinds = {"Endpoint": "endpoints", "EndpointConfig": "endpoint_configs", "Model": "models"}
    for kind, listing in kinds.items():
        for each in getattr(aws("sagemaker"), f"list_{listing}")()[f"{kind}s"]:
            tags = [{"Key": "managed-by", "Value": "cloudformation"}]
            aws("sagemaker").add_tags(ResourceArn=each[f"{kind}Arn"], Tags=tags)
    assert found() == []
    run.teardown(regions=[REGION])
    with Client(V3, regions=[REGION]) as client:
        assert len(client.embed(["a"])) == 1
    (one,) = found(all_jina=True)
    assert one[2] == "runs jina-embeddings-v3-380c5162a0bb3239903a3ca66ce3cb80"
