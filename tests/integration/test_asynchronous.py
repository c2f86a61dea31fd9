"""Asynchronous endpoints over HTTP: deployed, scaled to nothing, paused, torn down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from jina_sm import Spec, errors, local
from jina_sm.clock import Clock
from jina_sm.deploy import guards, orphans, run
from jina_sm.deploy.plan import Call, State
from tests.conftest import Aws, Served, Told

V3, NAME, REGION = "jina-embeddings-v3", "jina-sm-embeddings-v3", "us-east-1"
QUEUED = {"async_inference": {"s3_output": "s3://results-{region}/out", "max_concurrent": 4}}
SLEEPY = {**QUEUED, "autoscaling": {"min": 0, "max": 3}}
Run = Callable[..., Told]


@pytest.fixture(autouse=True)
def _subscribed(account: Served) -> None:
    run.subscribe(V3)


def spec(**more: Any) -> Spec:
    return Spec(model=V3, regions=(REGION,), **more)


def there() -> State:
    return run.status(regions=[REGION]).found[REGION].state


def test_an_asynchronous_endpoint_answers_into_s3(aws: Aws) -> None:
    aws("s3").create_bucket(Bucket="results-us-east-1")
    run.deploy(spec(**QUEUED))
    told = aws("sagemaker").describe_endpoint(EndpointName=NAME)["AsyncInferenceConfig"]
    assert told["OutputConfig"]["S3OutputPath"] == "s3://results-us-east-1/out"
    assert told["ClientConfig"] == {"MaxConcurrentInvocationsPerInstance": 4}
    body = json.dumps({"data": [{"text": "a"}]}).encode()
    said = aws("sagemaker-runtime").invoke_endpoint_async(EndpointName=NAME, Body=body, ContentType="application/json")
    assert said["OutputLocation"].startswith("s3://results-us-east-1/out/")
    assert run.plan(spec(**QUEUED)).empty


def test_it_scales_to_nothing_and_an_alarm_brings_it_back(aws: Aws) -> None:
    run.deploy(spec(**SLEEPY))
    scaling, alarms = aws("application-autoscaling"), aws("cloudwatch")
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 3)
    policies = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    arns = {each["PolicyName"]: each["PolicyARN"] for each in policies}
    assert sorted(arns) == ["jina-sm-backlog", "jina-sm-from-zero"]
    (alarm,) = alarms.describe_alarms()["MetricAlarms"]
    assert alarm["AlarmName"] == f"{NAME}-from-zero"
    assert alarm["AlarmActions"] == [arns["jina-sm-from-zero"]], "by its ARN, which no plan could know"
    assert run.plan(spec(**SLEEPY)).empty
    changed = run.plan(spec(**QUEUED, autoscaling={"min": 1, "max": 3}))
    assert changed.regions[REGION].changes == ("autoscaling: 0-3@5 waiting -> 1-3@5 waiting",)
    run.deploy(changed)
    assert alarms.describe_alarms()["MetricAlarms"] == []
    assert run.plan(spec(**QUEUED, autoscaling={"min": 1, "max": 3})).empty


def test_only_what_is_asynchronous_scales_to_nothing(aws: Aws) -> None:
    run.deploy(spec())
    where = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{NAME}/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    with pytest.raises(ClientError, match="at least 1"):
        aws("application-autoscaling").register_scalable_target(**where, MinCapacity=0, MaxCapacity=1)


def test_teardown_removes_policies_and_alarm_and_looks_again(aws: Aws) -> None:
    run.deploy(spec(**SLEEPY))
    someone = {"Namespace": "a", "MetricName": "b", "Statistic": "Sum", "Period": 60, "EvaluationPeriods": 1}
    for name in ("jina-sm-theirs-from-zero", "unrelated"):
        aws("cloudwatch").put_metric_alarm(
            AlarmName=name, Threshold=1.0, ComparisonOperator="GreaterThanThreshold", **someone
        )
    run.teardown()
    assert there().empty
    left = aws("cloudwatch").describe_alarms()["MetricAlarms"]
    assert [each["AlarmName"] for each in left] == ["jina-sm-theirs-from-zero", "unrelated"], "those are not ours"
    assert (
        aws("application-autoscaling").describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"] == []
    )


def test_pausing_and_resuming_brings_back_how_it_scaled(aws: Aws) -> None:
    run.deploy(spec(**SLEEPY))
    before = there().targets[0].scaling
    guards.pause(V3)
    assert aws("cloudwatch").describe_alarms()["MetricAlarms"] == []
    guards.resume(V3)
    assert there().targets[0].scaling == before
    assert run.plan(spec(**SLEEPY)).empty


def test_an_alarm_whose_endpoint_has_gone_is_an_orphan(aws: Aws) -> None:
    run.deploy(spec(**SLEEPY))
    aws("sagemaker").delete_endpoint(EndpointName=NAME)
    found = orphans.orphans(regions=[REGION]).all
    assert ("alarm", f"{NAME}-from-zero", "without endpoint", True) in [
        (each.kind, each.name, each.why, each.ours) for each in found
    ]
    orphans.remove(found)
    assert there().empty
    assert aws("cloudwatch").describe_alarms()["MetricAlarms"] == []


def test_what_has_a_queue_is_not_called_idle() -> None:
    run.deploy(spec(**QUEUED))
    later = run.datetime.now(run.UTC) + run.timedelta(days=3)
    assert orphans.orphans(regions=[REGION], now=later).all == []
    run.deploy(spec(name="plain"))
    later += run.timedelta(days=1)
    assert [each.name for each in orphans.orphans(regions=[REGION], now=later).all] == ["jina-sm-plain"]


def test_becoming_synchronous_takes_the_queue_and_its_scaling_off(aws: Aws) -> None:
    run.deploy(spec(**SLEEPY))
    run.deploy(spec(autoscaling={"min": 1, "max": 2}))
    assert str(there().targets[0].scaling) == "1-2@5"
    assert aws("cloudwatch").describe_alarms()["MetricAlarms"] == []
    assert run.plan(spec(autoscaling={"min": 1, "max": 2})).empty


def test_a_run_stopped_before_any_call_is_completed_by_the_next() -> None:
    class Stopped(BaseException):
        """As a process that ends: nothing is caught, nothing rolled back."""

    total = len(run.plan(spec(**SLEEPY)).regions[REGION].steps)
    assert total == 8
    for stop_before in range(total):
        left = iter(range(stop_before))

        def listener(event: run.Event, left: Iterator[int] = left) -> None:
            if event.status is None and next(left, None) is None:
                raise Stopped

        with pytest.raises(Stopped):
            run.deploy(spec(**SLEEPY), on_event=listener)
        run.deploy(spec(**SLEEPY))
        assert run.plan(spec(**SLEEPY)).empty
        assert (len(there().targets), len(there().alarms)) == (1, 1)
        run.teardown(regions=[REGION])
        assert there().empty


def test_a_policy_that_aws_does_not_show_yet_is_waited_for(aws: Aws) -> None:
    run.deploy(spec(**QUEUED))
    (alarm,) = [
        step
        for step in run.plan(spec(**SLEEPY)).regions[REGION].steps
        if isinstance(step, Call) and step.operation == "put_metric_alarm"
    ]
    slept: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    control = run.ControlPlane(run.default_session(), REGION)
    walk = run.Walk(control, None, Clock(now=lambda: now[0], sleep=sleep), run.threading.Event())
    with pytest.raises(errors.DeployError, match="scaling policy jina-sm-from-zero is not there"):
        walk.take([alarm])
    assert sum(slept) >= 60


def test_on_the_command_line_it_is_a_flag_and_said_to_be_unverified(account: Served, typed: Run) -> None:
    words = ("deploy", V3, "-r", REGION, "--async", "s3://results-{region}/out", "--autoscaling", "0-2@8")
    code, out, _ = typed(*words, "--plan")
    assert code == 0
    assert "put metric alarm jina-sm-embeddings-v3-from-zero" in out
    assert "asynchronous, to s3://results-us-east-1/out" in out
    assert "not verified" in out
    code, out, err = typed(*words, "--yes")
    assert (code, "InService" in out) == (0, True)
    assert "scales 0-2" in typed("status", "-r", REGION)[1]
    said = json.loads(typed("status", "-r", REGION, "--json")[1])[REGION]
    assert said["alarms"] == [f"{NAME}-from-zero"]
    code, _, err = typed("deploy", V3, "-r", REGION, "--autoscaling", "0-2")
    assert (code, "for async_inference alone" in err) == (2, True)
    assert local.list_faults(account.port) == []
