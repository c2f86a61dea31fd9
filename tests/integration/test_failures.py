"""Endpoints that fail: which kind of failure it is, how long it took, what the container's log ends with."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from jina_sm import Spec, errors, local
from jina_sm.clock import Clock
from jina_sm.deploy import run
from tests.conftest import Served, Told

V3, NAME = "jina-embeddings-v3", "jina-sm-embeddings-v3"
GROUP = f"/aws/sagemaker/Endpoints/{NAME}"
HERE = Spec(model=V3, regions=("us-east-1",))
Run = Callable[..., Told]
pytestmark = pytest.mark.usefixtures("account")


def failed(stack: Served, reason: str, *, spec: Spec = HERE, kind: type[errors.DeployError], **more: Any) -> Any:
    run.subscribe(V3)
    local.fault("failed", "CreateEndpoint", port=stack.port, reason=reason)
    with pytest.raises(kind) as caught:
        run.deploy(spec, **more)
    assert type(caught.value) is kind
    return caught.value


@pytest.mark.parametrize(
    ("reason", "kind", "cure"),
    [
        ("capacity", errors.CapacityError, "--instance-type"),
        ("quota", errors.QuotaError, "jina-sm quota request"),
        ("health", errors.HealthCheckError, "larger --instance-type"),
        ("not-subscribed", errors.NotSubscribedError, "jina-sm subscribe"),
        ("Could not assume role arn:aws:iam::1:role/x", errors.RoleError, "trust sagemaker.amazonaws.com"),
        ("x is not authorized to perform: ecr:BatchGetImage", errors.RoleError, "permission"),
        ("request", errors.EndpointFailedError, "want of instances"),
        ("the dog ate it", errors.EndpointFailedError, "never launched"),
    ],
)
def test_each_failure_is_of_its_kind_and_has_its_cure(
    account: Served, reason: str, kind: type[errors.DeployError], cure: str
) -> None:
    error = failed(account, reason, kind=kind)
    assert cure in error.cure
    assert (error.target, error.region) == (NAME, "us-east-1")
    assert error.launched is (reason == "health")
    assert run.status(regions=["us-east-1"]).found["us-east-1"].state.empty, "rolled back"


def test_a_container_that_came_up_and_was_not_well_has_its_last_lines_in_the_error(account: Served) -> None:
    error = failed(account, "health", kind=errors.HealthCheckError)
    assert error.log_group == GROUP
    assert error.log_tail[-1] == "INFO: GET /ping 503"
    assert "OutOfMemoryError" in "\n".join(error.log_tail)
    assert pickle.loads(pickle.dumps(error)).log_tail == error.log_tail


def test_how_long_it_was_in_each_status_is_told_as_it_goes_and_in_the_error(slow: Served, slow_account: Clock) -> None:
    run.subscribe(V3)
    local.fault("failed", "CreateEndpoint", port=slow.port, reason="health", seconds=500)
    told: list[run.Event] = []
    with pytest.raises(errors.HealthCheckError) as caught:
        run.deploy(HERE, on_event=told.append, clock=slow_account)
    assert 500 <= caught.value.seconds_in["Creating"] < 520
    (change,) = [each for each in told if each.status == "Failed" and each.before]
    assert (change.before, change.seconds) == ("Creating", caught.value.seconds_in["Creating"])


def test_what_takes_too_long_says_in_which_status(slow: Served, slow_account: Clock) -> None:
    run.subscribe(V3)
    local.fault("never-ready", "CreateEndpoint", port=slow.port)
    with pytest.raises(errors.DeployError, match="still Creating after 60 minutes") as caught:
        run.deploy(HERE, clock=slow_account)
    assert caught.value.seconds_in["Creating"] > 3600


def test_the_log_of_an_endpoint_before_this_one_is_not_its_own(account: Served) -> None:
    logs = account.aws("logs")
    logs.create_log_group(logGroupName=GROUP)
    from moto.logs.models import logs_backends

    logs.create_log_stream(logGroupName=GROUP, logStreamName="AllTraffic/i-0")
    stream = logs_backends["123456789012"]["us-east-1"].groups[GROUP].streams["AllTraffic/i-0"]
    stream.creation_time -= timedelta(hours=1)
    now = int(run.datetime.now(run.UTC).timestamp() * 1000)
    event = {"timestamp": now, "message": "POST /invocations what somebody asked"}
    logs.put_log_events(logGroupName=GROUP, logStreamName="AllTraffic/i-0", logEvents=[event])
    error = failed(account, "request", kind=errors.EndpointFailedError)
    assert (error.launched, error.log_tail) == (False, ())


def test_an_update_that_fails_shows_what_the_new_instances_wrote(account: Served) -> None:
    run.subscribe(V3)
    run.deploy(HERE)
    local.fault("failed", "UpdateEndpoint", port=account.port, reason="health")
    with pytest.raises(errors.HealthCheckError) as caught:
        run.deploy(HERE.model_copy(update={"instance_type": "ml.g5.2xlarge"}))
    assert caught.value.log_tail


def test_a_log_that_may_not_be_read_hides_no_failure(account: Served) -> None:
    logs = account.aws("logs")
    logs.create_log_group(logGroupName=GROUP)
    local.fault("error", "DescribeLogStreams", port=account.port, status=403, reason="may not read logs")
    error = failed(account, "health", kind=errors.HealthCheckError)
    assert error.launched is None
    assert error.log_tail == ("its log could not be read: may not read logs",)


def test_what_a_log_holds_moves_nobodys_cursor_and_shows_no_password(account: Served) -> None:
    run.subscribe(V3)

    def writes(event: run.Event) -> None:
        if isinstance(event.step, run.Wait) and event.status == "Failed":
            logs = account.aws("logs")
            logs.create_log_stream(logGroupName=GROUP, logStreamName="AllTraffic/i-1")
            lines = ["\x1b[2J\x07http://me:SECRET@host/", "y" * 5000]
            now = int(run.datetime.now(run.UTC).timestamp() * 1000) + 1000
            events = [{"timestamp": now, "message": line} for line in lines]
            logs.put_log_events(logGroupName=GROUP, logStreamName="AllTraffic/i-1", logEvents=events)

    local.fault("failed", "CreateEndpoint", port=account.port, reason="health")
    with pytest.raises(errors.HealthCheckError) as caught:
        run.deploy(HERE, on_event=writes)
    first, second = caught.value.log_tail[-2:]
    assert first == "[2J http://***@host/"
    assert len(second) == 501
    assert len(caught.value.log_tail) <= 20


def test_the_command_prints_the_log_and_what_failed_how(account: Served, typed: Run) -> None:
    run.subscribe(V3)
    local.fault("failed", "CreateEndpoint", port=account.port, region="eu-central-1", reason="health")
    local.fault("failed", "CreateEndpoint", port=account.port, region="us-west-2", reason="request")
    regions = ("-r", "us-east-1", "-r", "eu-central-1", "-r", "us-west-2")
    code, out, err = typed("deploy", V3, *regions, "--yes", "--json")
    said = json.loads(out)
    assert (code, said["done"]) == (1, ["us-east-1"])
    details = said["details"]
    assert {region: each["kind"] for region, each in details.items()} == {
        "eu-central-1": "HealthCheckError",
        "us-west-2": "EndpointFailedError",
    }
    assert details["eu-central-1"]["log_tail"][-1] == "INFO: GET /ping 503"
    assert details["us-west-2"]["launched"] is False
    assert f"  {GROUP} ends:\n  | local stack" in err
    assert f"  no log in {GROUP}: the container never launched\n" in err


def test_one_region_that_fails_is_told_as_json_too(account: Served, typed: Run) -> None:
    run.subscribe(V3)
    local.fault("failed", "CreateEndpoint", port=account.port, reason="capacity")
    code, out, _ = typed("deploy", V3, "-r", "us-east-1", "--yes", "--json")
    said = json.loads(out)
    assert (code, said["done"], said["details"]["us-east-1"]["kind"]) == (1, [], "CapacityError")
