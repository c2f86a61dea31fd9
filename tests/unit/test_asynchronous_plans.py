"""Asynchronous endpoints as steps: what they are made of, how they scale to nothing and back, how that ends."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import catalog, errors
from jina_sm.deploy import plan, scaling
from jina_sm.deploy.asynchronous import Asynchronous, described
from jina_sm.deploy.fleetfile import specs
from jina_sm.deploy.plan import Config, State
from jina_sm.deploy.scaling import BACKLOG_POLICY, WAKING_POLICY, Alarm, Scaling, Target
from jina_sm.deploy.spec import checked
from tests.unit.test_guarded_plans import ended
from tests.unit.test_plan import DESIRED, MODEL, NAME, TAGS, endpoint, said

QUEUED = dataclasses.replace(DESIRED, asynchronous=Asynchronous(output="s3://b/out", at_once=6))
SLEEPY = dataclasses.replace(QUEUED, scaling=Scaling(least=0, most=3, target=5.0, asynchronous=True))
AWAKE = dataclasses.replace(SLEEPY, scaling=Scaling(least=1, most=3, target=5.0, asynchronous=True))
ARNS = {name: f"arn/{name}" for name in (BACKLOG_POLICY, WAKING_POLICY)}
TARGET = Target(endpoint=NAME, least=0, most=3, policies={BACKLOG_POLICY: 5.0, WAKING_POLICY: None}, arns=ARNS)
ALARM = Alarm(endpoint=NAME, actions=(ARNS[WAKING_POLICY],))
CONFIG = SLEEPY.config_params["EndpointConfigName"]
RUNNING = State(
    endpoints=(endpoint(config=CONFIG),),
    configs=(CONFIG,),
    models=(MODEL,),
    targets=(TARGET,),
    alarms=(ALARM,),
    known={CONFIG: Config(arn=f"arn/{CONFIG}", tags=TAGS)},
)


def test_what_is_not_asynchronous_is_named_as_it_was() -> None:
    assert "AsyncInferenceConfig" not in DESIRED.config_params
    assert QUEUED.config_params["EndpointConfigName"] != DESIRED.config_params["EndpointConfigName"]
    assert QUEUED.model_params == DESIRED.model_params


def test_the_config_says_where_results_go_and_how_many_at_once() -> None:
    assert QUEUED.config_params["AsyncInferenceConfig"] == {
        "OutputConfig": {"S3OutputPath": "s3://b/out"},
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 6},
    }
    more = Asynchronous(output="s3://b/o", at_once=1, failure="s3://b/f", success_topic="done", error_topic="failed")
    assert more.config["OutputConfig"] == {
        "S3OutputPath": "s3://b/o",
        "S3FailurePath": "s3://b/f",
        "NotificationConfig": {"SuccessTopic": "done", "ErrorTopic": "failed"},
    }
    assert described(more.config) == "to s3://b/o, failures to s3://b/f, 1 at once, tells done, tells failed"


def test_scaling_to_nothing_takes_two_policies_and_an_alarm() -> None:
    calls = [step for step in plan.deployment(SLEEPY, State()) if isinstance(step, plan.Call)][3:]
    assert [call.operation for call in calls] == [
        "register_scalable_target",
        "put_scaling_policy",
        "put_scaling_policy",
        "put_metric_alarm",
    ]
    register, backlog, waking, alarm = (call.params for call in calls)
    assert (register["MinCapacity"], register["MaxCapacity"]) == (0, 3)
    tracking = backlog["TargetTrackingScalingPolicyConfiguration"]
    assert tracking["TargetValue"] == 5.0
    metric = tracking["CustomizedMetricSpecification"]
    assert (metric["Namespace"], metric["MetricName"]) == ("AWS/SageMaker", "ApproximateBacklogSizePerInstance")
    assert metric["Dimensions"] == alarm["Dimensions"] == [{"Name": "EndpointName", "Value": NAME}]
    steps = waking["StepScalingPolicyConfiguration"]
    assert (steps["AdjustmentType"], steps["StepAdjustments"][0]["ScalingAdjustment"]) == ("ChangeInCapacity", 1)
    assert (alarm["MetricName"], alarm["Period"], alarm["TreatMissingData"]) == (
        "HasBacklogWithoutCapacity",
        60,
        "missing",
    )
    assert alarm["AlarmActions"] == [scaling.ARN_OF + WAKING_POLICY]
    assert str(calls[-1]) == f"put metric alarm {NAME}-from-zero"
    assert str(calls[-2]) == f"put scaling policy {NAME}: jina-sm-from-zero", "of several, which"


def test_with_an_instance_always_there_one_policy_is_enough() -> None:
    assert said(plan.deployment(AWAKE, State()))[-2:] == ["register_scalable_target", "put_scaling_policy"]


def test_deploying_the_same_twice_does_nothing() -> None:
    assert plan.deployment(SLEEPY, RUNNING) == []


def test_an_alarm_that_is_gone_or_sets_off_another_policy_is_put_again() -> None:
    for alarms in ((), (Alarm(endpoint=NAME, actions=("arn/of-before",)),), (Alarm(endpoint=NAME),)):
        assert said(plan.deployment(SLEEPY, dataclasses.replace(RUNNING, alarms=alarms))) == ["put_metric_alarm"]


def test_what_may_not_sleep_any_more_loses_its_alarm() -> None:
    steps = said(plan.deployment(AWAKE, RUNNING))
    assert steps == ["register_scalable_target", "delete_scaling_policy", "delete_alarms"]
    assert plan.deployment(AWAKE, ended(plan.deployment(AWAKE, RUNNING), RUNNING)) == []


def test_without_scaling_all_of_it_goes() -> None:
    assert said(plan.deployment(QUEUED, RUNNING)) == [
        "delete_scaling_policy",
        "delete_scaling_policy",
        "deregister_scalable_target",
        "delete_alarms",
    ]


def test_teardown_ends_the_policies_then_the_alarm_then_the_endpoint() -> None:
    steps = said(plan.teardown(RUNNING))
    places = [steps.index(each) for each in ("deregister_scalable_target", "delete_alarms", "delete_endpoint")]
    assert places == sorted(places)
    assert said(plan.teardown(State(alarms=(ALARM,)))) == ["delete_alarms"]
    assert not State(alarms=(ALARM,)).empty
    assert [part.alarms for part in State(alarms=(ALARM,)).by_endpoint()] == [(ALARM,)]


def test_pausing_remembers_that_it_scaled_by_its_queue_and_resuming_brings_that_back() -> None:
    paused = ended(plan.pause(RUNNING), RUNNING)
    assert (paused.targets, paused.alarms, paused.paused) == ((), (), (NAME,))
    assert paused.known[CONFIG].tags[plan.PAUSED_TAG] == "0-3@5 waiting"
    back = ended(plan.resume(paused), paused)
    assert (back.targets, back.alarms) == ((TARGET,), (ALARM,))


def test_a_plan_says_what_is_different() -> None:
    serving = {**DESIRED.model_params, **DESIRED.config_params}
    changes = plan.changes(SLEEPY, State(serving=serving))
    assert "asynchronous: none -> to s3://b/out, 6 at once" in changes
    assert "autoscaling: none -> 0-3@5 waiting" in changes


ALARMS = st.sampled_from([(), (ALARM,), (Alarm(endpoint=NAME, actions=("arn/old",)),)])
TARGETS = st.sampled_from(
    [(), (TARGET,), (dataclasses.replace(TARGET, policies={}, arns={}),), (dataclasses.replace(TARGET, least=1),)]
)
STATUSES = st.sampled_from([(), *((endpoint(status, CONFIG),) for status in ("InService", "Creating", "Failed"))])


@given(STATUSES, TARGETS, ALARMS, st.sampled_from([DESIRED, QUEUED, SLEEPY, AWAKE]), st.data())
def test_from_any_state_stopped_anywhere_deploying_again_ends_the_same(
    endpoints: Any, targets: Any, alarms: Any, desired: plan.Desired, data: st.DataObject
) -> None:
    now = dataclasses.replace(RUNNING, endpoints=endpoints, targets=targets, alarms=alarms)
    steps = plan.deployment(desired, now)
    now = ended(steps[: data.draw(st.integers(0, len(steps)))], now)
    now = ended(plan.deployment(desired, now), now)
    assert [each.scaling for each in now.targets] == ([desired.scaling] if desired.scaling else [])
    sleepy = desired is SLEEPY
    assert now.alarms == ((ALARM,) if sleepy else ())
    assert (WAKING_POLICY in now.targets[0].policies if now.targets else False) is sleepy
    assert plan.deployment(desired, now) == []


@given(STATUSES, TARGETS, ALARMS, st.data())
def test_from_any_state_stopped_anywhere_teardown_leaves_nothing(
    endpoints: Any, targets: Any, alarms: Any, data: st.DataObject
) -> None:
    now = dataclasses.replace(RUNNING, endpoints=endpoints, targets=targets, alarms=alarms)
    steps = plan.teardown(now)
    now = ended(steps[: data.draw(st.integers(0, len(steps)))], now)
    assert ended(plan.teardown(now), now).empty


KNOWN = catalog.load(environ={})
V3 = {"model": "jina-embeddings-v3", "regions": ["us-east-1", "eu-west-1"]}
TO = {"s3_output": "s3://bucket-{region}/out"}


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"autoscaling": {"min": 0, "max": 2}}, "autoscaling.min=0 is for async_inference alone"),
        ({"async_inference": {}}, "async_inference"),
        ({"async_inference": {"s3_output": "bucket/out"}}, "async_inference.s3_output='bucket/out'"),
        ({"async_inference": {"s3_output": "s3://B/out"}}, "async_inference.s3_output='s3://B/out'"),
        ({"async_inference": {**TO, "max_concurrent": 0}}, "async_inference.max_concurrent=0"),
        ({"async_inference": {**TO, "success_topic": "done"}}, "async_inference.success_topic='done'"),
        ({"async_inference": {**TO, "error_topic": "arn:aws:sns:us-east-1:123456789012:x"}}, "is not in eu-west-1"),
        ({"async_inference": {**TO, "topics": "x"}}, "async_inference.topics is unknown"),
    ],
)
def test_what_cannot_be_asynchronous_is_refused_by_name(more: dict[str, Any], named: str) -> None:
    with pytest.raises(errors.InputError) as caught:
        checked(KNOWN, **V3, **more)
    assert named in str(caught.value)


def test_a_file_may_say_the_queue_for_all_and_the_scaling_for_one() -> None:
    said_in_file = {
        "defaults": {"async_inference": {**TO, "error_topic": "arn:aws:sns:{region}:123456789012:x"}},
        "models": [{**V3, "autoscaling": {"min": 0, "max": 2}}],
    }
    (spec,) = specs(said_in_file, KNOWN, tuple)
    assert spec.autoscaling is not None
    assert spec.autoscaling.min == 0
