"""Pausing, autoscaling, an end set beforehand, instance types in turn, and a fleet from a file; over real HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from jina_sm import Client, Spec, catalog, errors, local
from jina_sm.clock import Clock
from jina_sm.deploy import fleetfile, guards, run, subscriptions
from jina_sm.deploy.plan import PAUSED_TAG, State
from tests.conftest import Served, Told

V3, RERANKER = "jina-embeddings-v3", "jina-reranker-v2-base-multilingual"
REGION, NAME = "us-east-1", "jina-sm-embeddings-v3"
PLAIN = Spec(model=V3, regions=(REGION,))
SCALED: dict[str, Any] = {"autoscaling": {"max": 3}}
Aws = Callable[..., Any]


@pytest.fixture(autouse=True)
def _subscribed(account: Served) -> None:
    run.subscribe(V3)


def spec(**more: Any) -> Spec:
    return Spec(**{"model": V3, "regions": (REGION,), **more})


def there(region: str = REGION) -> State:
    return run.status(regions=[region]).found[region].state


def test_what_is_paused_bills_nothing_and_comes_back_as_it_was(aws: Aws) -> None:
    before = run.deploy(spec(**SCALED, tags={"team": "search"}))[REGION]
    guards.pause(V3, regions=[REGION])
    assert aws("sagemaker").list_endpoints()["Endpoints"] == []
    assert (there().paused, there().targets) == ((NAME,), ())
    assert (len(there().configs), len(there().models)) == (1, 1)
    (after,) = guards.resume(V3, regions=[REGION])[REGION]
    assert (after.name, after.config, after.tags) == (before.name, before.config, before.tags)
    assert [str(each.scaling) for each in there().targets] == ["1-3@5"]
    assert run.plan(spec(**SCALED, tags={"team": "search"})).empty
    with Client(V3, regions=[REGION]) as client:
        assert len(client.embed(["a"])) == 1


def test_pausing_and_resuming_twice_is_doing_it_once() -> None:
    run.deploy(PLAIN)
    assert guards.pause(V3)
    assert not guards.pause(V3)
    assert guards.resume(V3)
    assert guards.resume(V3) == {}


def test_one_of_two_endpoints_is_paused_by_its_name() -> None:
    run.deploy(PLAIN)
    run.deploy(spec(name="other"))
    guards.pause("other", regions=[REGION])
    assert there().paused == ("jina-sm-other",)
    assert [each.name for each in there().endpoints] == [NAME]
    with pytest.raises(errors.InputError, match="'embeddings' is neither a model nor an endpoint"):
        guards.pause("embeddings", regions=[REGION])


def test_deploying_brings_back_what_is_paused_and_teardown_removes_it() -> None:
    run.deploy(PLAIN)
    guards.pause(V3)
    assert run.deploy(PLAIN)[REGION].status == "InService"
    assert there().paused == ()
    guards.pause(V3)
    run.teardown()
    assert there().empty


def test_an_endpoint_scales_between_what_was_said(aws: Aws) -> None:
    run.deploy(spec(autoscaling={"min": 2, "max": 3, "target": 4}))
    scaling = aws("application-autoscaling")
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 3)
    (policy,) = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    tracking = policy["TargetTrackingScalingPolicyConfiguration"]
    assert tracking["TargetValue"] == 4
    metric = tracking["PredefinedMetricSpecification"]["PredefinedMetricType"]
    assert metric == "SageMakerVariantConcurrentRequestsPerModelHighResolution"
    assert there().endpoints[0].instances == 2, "it begins with the fewest that it may have"
    assert run.plan(spec(autoscaling={"min": 2, "max": 3, "target": 4})).empty


def test_what_scales_is_updated_and_scales_again() -> None:
    run.deploy(spec(**SCALED))
    plan = run.plan(spec(**SCALED, instance_type="ml.g5.2xlarge"))
    assert plan.regions[REGION].changes == ("instance types: ml.g5.xlarge -> ml.g5.2xlarge",)
    run.deploy(plan)
    assert [str(each.scaling) for each in there().targets] == ["1-3@5"]
    run.deploy(PLAIN)
    assert there().targets == ()


def resized(aws: Aws, count: int) -> None:
    wanted = [{"VariantName": "AllTraffic", "DesiredInstanceCount": count}]
    aws("sagemaker").update_endpoint_weights_and_capacities(EndpointName=NAME, DesiredWeightsAndCapacities=wanted)


def test_other_bounds_replace_no_instance_and_need_quota_for_what_they_add(account: Served) -> None:
    before, busier = run.deploy(spec(**SCALED))[REGION], spec(autoscaling={"min": 2, "max": 2})
    local.change_scenario(account.port, quotas={"ml.g5.xlarge": 1})
    with pytest.raises(errors.QuotaError, match="1, in use 1, needed 1"):
        run.plan(busier)
    local.change_scenario(account.port, quotas={"ml.g5.xlarge": 2})
    after = run.deploy(busier)[REGION]
    assert (after.config, after.instances) == (before.config, 2)
    assert run.plan(busier).empty
    guards.pause(V3, regions=[REGION])
    guards.resume(V3, regions=[REGION])
    assert (there().endpoints[0].instances, run.plan(busier).empty) == (2, True)


def test_what_scales_keeps_its_instances_when_its_type_changes(aws: Aws) -> None:
    run.deploy(spec(**SCALED))
    resized(aws, 3)
    assert run.deploy(spec(**SCALED, instance_type="ml.g5.2xlarge"))[REGION].instances == 3


def test_what_no_longer_scales_gets_its_count_back(account: Served, aws: Aws) -> None:
    before = run.deploy(spec(**SCALED))[REGION]
    resized(aws, 3)
    assert run.plan(spec(**SCALED)).empty
    plan = run.plan(PLAIN)
    assert plan.regions[REGION].changes == ("instances: 3 -> 1", "autoscaling: 1-3@5 -> none")
    after = run.deploy(plan)[REGION]
    assert (after.config, after.instances) == (before.config, 1)
    resized(aws, 2)  # by hand
    local.change_scenario(account.port, quotas={"ml.g5.xlarge": 2})
    assert run.deploy(PLAIN)[REGION].instances == 1
    assert run.plan(PLAIN).empty


def test_aws_updates_no_endpoint_that_scales(aws: Aws) -> None:
    run.deploy(spec(**SCALED))
    params = run.plan(spec(**SCALED, instance_type="ml.g5.2xlarge")).regions[REGION].desired.config_params
    aws("sagemaker").create_endpoint_config(**params)
    with pytest.raises(Exception, match="must be deregistered as scalable targets"):
        aws("sagemaker").update_endpoint(EndpointName=NAME, EndpointConfigName=params["EndpointConfigName"])


def test_where_aws_has_none_of_the_first_type_it_is_the_next(account: Served, aws: Aws) -> None:
    local.change_scenario(account.port, capacity={"ml.g5.xlarge": 0})
    with pytest.raises(errors.CapacityError):
        run.deploy(PLAIN)
    assert there().empty, "rolled back"
    run.deploy(spec(instance_types=("ml.g5.xlarge", "ml.g5.2xlarge")))
    (variant,) = aws("sagemaker").describe_endpoint(EndpointName=NAME)["ProductionVariants"]
    assert {pool["InstanceType"]: pool["CurrentInstanceCount"] for pool in variant["InstancePools"]} == {
        "ml.g5.xlarge": 0,
        "ml.g5.2xlarge": 1,
    }
    local.change_scenario(account.port, capacity={"ml.g5.2xlarge": 0})
    with pytest.raises(errors.CapacityError):
        run.deploy(spec(instance_types=("ml.g5.xlarge", "ml.g5.2xlarge"), name="b"))


def test_subnets_and_key_reach_aws(aws: Aws) -> None:
    vpc = {REGION: {"subnets": ["subnet-0123456789abcdef0"], "security_groups": ["sg-0123456789abcdef0"]}}
    run.deploy(spec(vpc=vpc, kms_key="alias/search"))
    model, config = there().models[0], there().configs[0]
    described = aws("sagemaker").describe_model(ModelName=model)["VpcConfig"]
    assert described == {"Subnets": ["subnet-0123456789abcdef0"], "SecurityGroupIds": ["sg-0123456789abcdef0"]}
    assert aws("sagemaker").describe_endpoint_config(EndpointConfigName=config)["KmsKeyId"] == "alias/search"


def due(account: Served, region: str = REGION) -> None:
    """The time of every schedule has come."""
    for group in account.stack.state.region(region).groups.values():
        for schedule in group.schedules.values():
            schedule.due = 0.0


def test_aws_deletes_the_endpoint_when_its_time_is_up_and_the_schedule_after(account: Served, aws: Aws) -> None:
    run.deploy(spec(ttl="8h"))
    (schedule,) = there().schedules
    assert schedule.ends is not None
    assert 0 < schedule.ends.timestamp() - there().endpoints[0].created.timestamp() <= 28800
    due(account)
    assert there().endpoints == ()
    assert aws("scheduler").list_schedules()["Schedules"] == []
    assert [str(step) for step in run.plan(PLAIN).regions[REGION].steps] == [
        f"create endpoint {NAME}",
        f"wait until {NAME} is in service",
        f"delete schedule group {NAME}",
    ]
    guards.resume(V3, ttl_s=3600)
    assert [each.seconds for each in there().schedules] == [3600]
    run.teardown()
    assert there().empty


def test_what_had_an_end_has_it_again_when_it_is_resumed_counted_anew(typed: Callable[..., Told]) -> None:
    run.deploy(spec(ttl="8h", **SCALED))
    (before,) = there().schedules
    guards.pause(V3, regions=[REGION])
    assert there().schedules == ()
    code, _, err = typed("resume", V3, "-r", REGION)
    assert (code, f"{NAME}: AWS deletes it after 8h; --ttl sets another end." in err) == (2, True)
    guards.resume(V3, regions=[REGION])
    (after,) = there().schedules
    assert before.ends
    assert after.ends
    assert (after.seconds, after.ends >= before.ends) == (28800, True)
    assert run.plan(spec(ttl="8h", **SCALED)).empty
    guards.pause(V3, regions=[REGION])
    assert typed("resume", V3, "-r", REGION, "--ttl", "1h", "--yes")[0] == 0
    assert [each.seconds for each in there().schedules] == [3600]


def test_what_had_no_end_is_said_to_have_none_when_it_is_resumed(typed: Callable[..., Told]) -> None:
    run.deploy(PLAIN)
    guards.pause(V3, regions=[REGION])
    code, _, err = typed("resume", V3, "-r", REGION, "--yes")
    assert (code, f"{NAME}: no end is set; --ttl 8h sets one." in err) == (0, True)
    assert there().schedules == ()


def test_an_end_is_counted_anew_too_where_the_endpoint_of_before_is_still_going() -> None:
    run.deploy(spec(ttl="8h"))
    found = run.status(regions=[REGION]).found[REGION]
    (endpoint,), ((name, config),) = found.state.endpoints, found.state.known.items()
    marked = replace(config, tags={**config.tags, PAUSED_TAG: "ttl=28800"})
    state = replace(found.state, endpoints=(replace(endpoint, status="Deleting"),), known={name: marked})
    inventory = run.Inventory(found={REGION: replace(found, state=state)}, failed={})
    (steps,) = guards.resuming(inventory).values()
    assert [str(step).partition(":")[0] for step in steps] == [
        f"update schedule {NAME}",
        f"wait until {NAME} is gone",
        f"create endpoint {NAME}",
        f"wait until {NAME} is in service",
        f"delete tags {name}",
    ]


def test_the_role_of_schedules_may_delete_what_is_ours_and_goes_with_the_last_of_it(aws: Aws) -> None:
    run.deploy(spec(ttl="8h"))
    role = aws("iam").get_role(RoleName="jina-sm-ttl")["Role"]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}
    said = aws("iam").get_role_policy(RoleName="jina-sm-ttl", PolicyName="jina-sm-ttl")["PolicyDocument"]["Statement"]
    assert said[0]["Resource"] == "arn:aws:sagemaker:*:123456789012:endpoint/jina-sm-*"
    assert said[0]["Condition"] == {"StringEquals": {"aws:ResourceTag/managed-by": "jina-sm"}}
    assert run.plan(spec(ttl="8h")).empty
    run.teardown(regions=[REGION])
    assert aws("iam").get_role(RoleName="jina-sm-ttl"), "other regions may need it"
    run.teardown()
    with pytest.raises(aws("iam").exceptions.NoSuchEntityException):
        aws("iam").get_role(RoleName="jina-sm-ttl")


def test_a_role_of_that_name_that_is_not_ours_is_left_alone(aws: Aws) -> None:
    aws("iam").create_role(RoleName="jina-sm-ttl", AssumeRolePolicyDocument="{}")
    with pytest.raises(errors.NameTakenError, match="was not made by this tool"):
        run.plan(spec(ttl="8h"))
    run.teardown()
    assert aws("iam").get_role(RoleName="jina-sm-ttl")


def test_a_role_that_is_not_seen_yet_is_waited_for(account: Served) -> None:
    words = "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
    local.fault("error", "CreateSchedule", port=account.port, count=2, status=400, reason=words)
    waits: list[float] = []
    ticks = iter(range(1000))
    clock = Clock(now=lambda: float(next(ticks)), sleep=waits.append)
    assert run.deploy(spec(ttl="8h"), clock=clock)[REGION].status == "InService"
    assert waits[:2] == [5.0, 5.0]


def test_a_region_without_permission_for_schedules_makes_no_endpoint(account: Served, aws: Aws) -> None:
    local.fault("error", "CreateSchedule", port=account.port, status=403, reason="not authorized to perform: x")
    with pytest.raises(errors.AuthError, match="not authorized to perform"):
        run.deploy(spec(ttl="8h"))
    local.clear_faults(account.port)
    assert aws("sagemaker").list_endpoints()["Endpoints"] == []
    assert there().empty


def test_teardown_removes_logs_if_it_is_told_and_everything_else_anyway(aws: Aws) -> None:
    group = f"/aws/sagemaker/Endpoints/{NAME}"
    aws("logs").create_log_group(logGroupName=group)
    aws("logs").create_log_group(logGroupName="/aws/sagemaker/Endpoints/other")
    run.deploy(spec(**SCALED, ttl="8h"))
    run.teardown(model=V3, regions=[REGION])
    assert there().empty
    assert len(aws("logs").describe_log_groups()["logGroups"]) == 2
    assert run.status(regions=[REGION], logs=True).found[REGION].state.logs == (NAME,)
    run.teardown(regions=[REGION], logs=True)
    (left,) = aws("logs").describe_log_groups()["logGroups"]
    assert left["logGroupName"] == "/aws/sagemaker/Endpoints/other"


def groups(aws: Aws) -> list[str]:
    """The endpoints that there are log groups of."""
    found = aws("logs").describe_log_groups()["logGroups"]
    return [each["logGroupName"].removeprefix("/aws/sagemaker/Endpoints/") for each in found]


def test_logs_that_an_earlier_teardown_left_are_found_by_the_name_that_the_endpoint_had(aws: Aws) -> None:
    for name in (NAME, "jina-sm-other"):
        aws("logs").create_log_group(logGroupName=f"/aws/sagemaker/Endpoints/{name}")
    run.deploy(PLAIN)
    run.teardown(model=V3, regions=[REGION])
    run.teardown(model=V3, regions=[REGION], logs=True)
    assert groups(aws) == ["jina-sm-other"]
    run.teardown(name="other", regions=[REGION], logs=True)
    assert groups(aws) == []


def test_logs_of_an_endpoint_that_is_another_models_stay(aws: Aws) -> None:
    run.subscribe(RERANKER)
    aws("logs").create_log_group(logGroupName=f"/aws/sagemaker/Endpoints/{NAME}")
    run.deploy(spec(model=RERANKER, name="embeddings-v3"))
    run.teardown(model=V3, regions=[REGION], logs=True)
    assert groups(aws) == [NAME]
    guards.pause(RERANKER, regions=[REGION])
    run.teardown(model=V3, regions=[REGION], logs=True)
    assert groups(aws) == [NAME]


FILE = f"""
[defaults]
regions = ["us-east-1", "eu-central-1"]
[[models]]
model = "{V3}"
autoscaling = {{max = 2}}
[[models]]
model = "{RERANKER}"
regions = ["us-east-1"]
"""


def test_a_file_becomes_a_fleet_side_by_side_and_the_second_time_nothing(tmp_path: Path) -> None:
    run.subscribe(RERANKER)
    (tmp_path / "jina-sm.toml").write_text(FILE)
    wanted = fleetfile.read(tmp_path / "jina-sm.toml", catalog.load())
    told: list[run.Event] = []
    endpoints = run.deploy_all([run.plan(each) for each in wanted], on_event=told.append)
    assert {name: set(there) for name, there in endpoints.items()} == {
        NAME: {"us-east-1", "eu-central-1"},
        "jina-sm-reranker-v2-base-multilingual": {"us-east-1"},
    }
    assert {event.region for event in told} == {
        f"us-east-1 {NAME}",
        f"eu-central-1 {NAME}",
        "us-east-1 jina-sm-reranker-v2-base-multilingual",
    }
    assert all(run.plan(each).empty for each in wanted)


def test_one_of_a_fleet_that_fails_is_rolled_back_and_the_others_stand(account: Served, tmp_path: Path) -> None:
    run.subscribe(RERANKER)
    (tmp_path / "jina-sm.toml").write_text(FILE)
    plans = [run.plan(each) for each in fleetfile.read(tmp_path / "jina-sm.toml", catalog.load())]
    local.fault("failed", "CreateEndpoint", port=account.port, region="eu-central-1", reason="health")
    with pytest.raises(errors.PartialError) as caught:
        run.deploy_all(plans)
    assert list(caught.value.failed) == [f"eu-central-1 {NAME}"]
    assert there("eu-central-1").empty
    assert len(there("us-east-1").endpoints) == 2


def test_the_stack_tells_schedules_as_aws_does(aws: Aws) -> None:
    scheduler = aws("scheduler")
    target = {
        "Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint",
        "RoleArn": "arn:aws:iam::123456789012:role/r",
    }
    asked: dict[str, Any] = {"FlexibleTimeWindow": {"Mode": "OFF"}, "Target": {**target, "Input": "{}"}}
    with pytest.raises(scheduler.exceptions.ResourceNotFoundException):
        scheduler.create_schedule(Name="a", GroupName="none", ScheduleExpression="rate(1 hour)", **asked)
    scheduler.create_schedule_group(Name="g", Tags=[{"Key": "a", "Value": "b"}])
    with pytest.raises(scheduler.exceptions.ConflictException):
        scheduler.create_schedule_group(Name="g")
    with pytest.raises(scheduler.exceptions.ValidationException, match="Invalid Schedule Expression"):
        scheduler.create_schedule(Name="a", GroupName="g", ScheduleExpression="at(soon)", **asked)
    arn = scheduler.create_schedule(Name="a", GroupName="g", ScheduleExpression="at(2000-01-01T00:00:00)", **asked)
    assert arn["ScheduleArn"] == "arn:aws:scheduler:us-east-1:123456789012:schedule/g/a"
    said = scheduler.get_schedule(Name="a", GroupName="g")
    assert (said["Target"]["Input"], said["ActionAfterCompletion"]) == (orjson.dumps({}).decode(), "NONE")
    assert [each["Name"] for each in scheduler.list_schedule_groups(NamePrefix="g")["ScheduleGroups"]] == ["g"]
    group = scheduler.get_schedule_group(Name="g")
    assert scheduler.list_tags_for_resource(ResourceArn=group["Arn"])["Tags"] == [{"Key": "a", "Value": "b"}]
    scheduler.delete_schedule(Name="a", GroupName="g")
    scheduler.delete_schedule_group(Name="g")
    with pytest.raises(scheduler.exceptions.ResourceNotFoundException):
        scheduler.get_schedule(Name="a", GroupName="g")


def test_what_a_resumed_endpoint_costs_is_said_first(typed: Callable[..., Told]) -> None:
    run.deploy(spec(instance_count=2))
    guards.pause(V3, regions=[REGION])
    code, out, err = typed("resume", V3, "-r", REGION)
    assert (code, out) == (2, "")
    assert "In service: 7.816 USD an hour." in err  # twice 1.408 and 2.50
    assert there(REGION).paused
    assert typed("resume", V3, "-r", REGION, "--yes")[0] == 0


def test_resuming_without_quota_is_refused_before_anything_is_made(account: Served, typed: Callable[..., Told]) -> None:
    run.deploy(spec(instance_count=2))
    guards.pause(V3, regions=[REGION])
    local.change_scenario(account.port, quotas={"ml.g5.xlarge": 1})
    with pytest.raises(errors.QuotaError, match="1, in use 0, needed 2") as refused:
        guards.resume(V3, regions=[REGION])
    assert "jina-sm quota request --instance-type ml.g5.xlarge --value 2" in str(refused.value)
    assert typed("resume", V3, "-r", REGION, "--yes")[0] != 0
    assert not there().endpoints
    assert there().paused
    local.change_scenario(account.port, denied=["servicequotas:*"])  # what cannot be known refuses nothing
    code, _, err = typed("resume", V3, "-r", REGION)
    assert code == 2
    assert "not authorized" in err


def test_what_is_resumed_after_the_subscription_has_ended_is_told_so(typed: Callable[..., Told]) -> None:
    run.deploy(PLAIN)
    guards.pause(V3, regions=[REGION])
    subscriptions.unsubscribe(V3)
    code, _, err = typed("resume", V3, "-r", REGION)
    assert code == 2  # nobody is there to say yes
    assert f"the account is not subscribed to {V3}, and AWS refuses unless another account shares" in " ".join(
        err.split()
    )


def test_one_config_that_is_of_no_use_any_more_keeps_no_other_from_resuming(aws: Aws) -> None:
    run.deploy(PLAIN)
    run.deploy(spec(name="other"))
    guards.pause(V3, regions=[REGION])
    (gone,) = (each for each in there().models if "other" in each)
    aws("sagemaker").delete_model(ModelName=gone)
    with pytest.raises(errors.JinaSMError):
        guards.resume(V3, regions=[REGION])
    assert [each.name for each in there().endpoints if each.status == "InService"] == [NAME]


def test_what_scales_again_asks_quota_for_its_fewest_and_is_told_of_its_most(
    account: Served, typed: Callable[..., Told]
) -> None:
    run.deploy(spec(autoscaling={"min": 1, "max": 2}))
    run.deploy(spec(autoscaling={"min": 2, "max": 6}))  # registered, and the config still begins with one
    guards.pause(V3, regions=[REGION])
    local.change_scenario(account.port, quotas={"ml.g5.xlarge": 1})
    with pytest.raises(errors.QuotaError, match="needed 2"):
        guards.resume(V3, regions=[REGION])
    local.change_scenario(account.port, quotas={"ml.g5.xlarge": 4})
    code, _, err = typed("resume", V3, "-r", REGION)
    assert code == 2
    assert "scaling out would silently stop at 4" in err
    assert "In service: 7.816 USD an hour." in err
