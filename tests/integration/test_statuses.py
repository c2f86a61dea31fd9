"""
Every status that AWS knows of an endpoint, met by every command.

Each cell of the table says which steps the command takes, or how it refuses; and after each, nothing is left without
its endpoint, and what is not ours is as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import boto3
import botocore.session
import pytest

from jina_sm import Spec, errors
from jina_sm.clock import Clock
from jina_sm.deploy import guards, orphans, run
from jina_sm.deploy.plan import Call
from jina_sm.local.state import Endpoint
from tests.conftest import SLOW_S, Served, Time, Told

V3, REGION, NAME = "jina-embeddings-v3", "us-east-1", "jina-sm-embeddings-v3"
AWS = boto3.Session("local", "local", region_name=REGION)  # one for all: making clients takes longer than asking
SMALL = Spec(model=V3, regions=(REGION,))
LARGE = Spec(model=V3, regions=(REGION,), instance_type="ml.g5.2xlarge")
LASTS_S = 120.0

MOVING = ("Creating", "Updating", "SystemUpdating", "RollingBack")
BROKEN = ("OutOfService", "UpdateRollbackFailed")
STATUSES = (*MOVING, "InService", "Deleting", "Failed", *BROKEN)

UP, GONE, SETTLED = f"wait until {NAME} is in service", f"wait until {NAME} is gone", f"wait until {NAME} has settled"
MADE = ("create_endpoint", UP)
CHANGED = ("create_endpoint_config", "update_endpoint", UP, "delete_endpoint_config")
AWAY = ("delete_endpoint", GONE)
REST = ("delete_endpoint_config", "delete_model")
BRINGS_BACK = ("create_endpoint", UP, "delete_tags")

# What each command does to an endpoint of each status: its steps, or the kind of its refusal and words of it.
Cell = tuple[str, ...] | tuple[type[errors.JinaSMError], str]
DEPLOY: dict[str, Cell] = {
    "Creating": (UP,),
    "Updating": (UP, "update_endpoint", UP, "delete_endpoint_config"),  # to another config, which is undone
    "SystemUpdating": (UP,),
    "RollingBack": (UP,),
    "InService": (),
    "Deleting": (GONE, *MADE),
    "Failed": (*AWAY, *MADE),
    **dict.fromkeys(BROKEN, (errors.EndpointFailedError, f"`jina-sm teardown {NAME} --region {REGION}`, then deploy")),
}
CHANGE: dict[str, Cell] = {
    "Creating": (UP, *CHANGED),
    "Updating": (UP, "delete_endpoint_config"),  # an earlier run has asked for this very change
    "SystemUpdating": (UP, *CHANGED),
    "RollingBack": (UP, *CHANGED),
    "InService": CHANGED,
    "Deleting": (GONE, "create_endpoint_config", *MADE, "delete_endpoint_config"),
    "Failed": (*AWAY, "create_endpoint_config", *MADE, "delete_endpoint_config"),
    **dict.fromkeys(BROKEN, (errors.EndpointFailedError, f"`jina-sm teardown {NAME} --region {REGION}`, then deploy")),
}
PAUSE: dict[str, Cell] = {
    **dict.fromkeys(MOVING, ("add_tags", SETTLED, *AWAY)),
    "InService": ("add_tags", *AWAY),
    "Deleting": (GONE,),
    **dict.fromkeys(("Failed", *BROKEN), ("add_tags", *AWAY)),
}
RESUME: dict[str, Cell] = {
    **dict.fromkeys(MOVING, (UP, "delete_tags")),
    "InService": ("delete_tags",),
    "Deleting": (GONE, *BRINGS_BACK),
    "Failed": (*AWAY, *BRINGS_BACK),
    **dict.fromkeys(BROKEN, (errors.EndpointFailedError, f"`jina-sm pause {NAME} --region {REGION}` takes it away")),
}
TEARDOWN: dict[str, Cell] = {
    **dict.fromkeys(MOVING, (SETTLED, *AWAY, *REST)),
    "Updating": (SETTLED, *AWAY, "delete_endpoint_config", *REST),  # the config before, and the one to come
    "Deleting": (GONE, *REST),
    **dict.fromkeys(("InService", "Failed", *BROKEN), (*AWAY, *REST)),
}
ORPHANS: dict[str, Cell] = {
    **dict.fromkeys((*MOVING, "InService", "Deleting"), ()),
    **dict.fromkeys(("Failed", *BROKEN), (*AWAY, *REST)),
}
TABLE = {
    "deploy": DEPLOY,
    "change": CHANGE,
    "pause": PAUSE,
    "resume": RESUME,
    "resume what is not paused": dict.fromkeys(STATUSES, ()),
    "teardown": TEARDOWN,
    "orphans": ORPHANS,
}  # fmt: skip


def test_the_table_has_every_status_that_aws_knows() -> None:
    known = botocore.session.get_session().get_service_model("sagemaker").shape_for("EndpointStatus").enum
    assert set(known) == set(STATUSES)
    assert all(set(row) == set(STATUSES) for row in TABLE.values())


@pytest.fixture
def foreign(slow: Served) -> Callable[[], Any]:
    """What others have in the region, called as ours are or not; as it is now, with all that is known of it."""
    slow.deploy(name="jina-sm-theirs")
    slow.deploy(name="theirs")
    region = slow.stack.state.region(REGION)

    def now() -> Any:
        kinds: tuple[dict[str, Any], ...] = (region.models, region.configs, region.endpoints)
        return [{name: (each.tags, each.modified if isinstance(each, Endpoint) else "") for name, each in kind.items() if name.endswith("theirs")} for kind in kinds]  # fmt: skip

    return now


@pytest.fixture
def at(slow_account: Clock, slow: Served, time: Time) -> Callable[[str, bool], None]:
    """``at(status, marked)``: our endpoint has that status; ``marked``: pausing it was begun."""

    def become(status: str, marked: bool) -> None:
        run.subscribe(V3, session=AWS)
        region = slow.stack.state.region(REGION)
        region.ready_after_s = LASTS_S
        params = run.plan(SMALL, session=AWS).regions[REGION].desired
        sagemaker = slow.aws("sagemaker")
        sagemaker.create_model(**params.model_params)
        sagemaker.create_endpoint_config(**params.config_params)
        sagemaker.create_endpoint(**params.endpoint_params)
        if marked:
            arn = region.arn("endpoint-config", params.config_params["EndpointConfigName"])
            sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "jina-sm:paused", "Value": ""}])
        endpoint = region.endpoints[NAME]
        if status == "Failed":
            endpoint.failure = "The primary container did not pass the ping health check."
        if status != "Creating":
            time.move(LASTS_S)
            assert region.endpoints[NAME].doing is None
        if status == "Updating":
            larger = run.plan(LARGE, session=AWS).regions[REGION].desired
            sagemaker.create_endpoint_config(**larger.config_params)
            sagemaker.update_endpoint(EndpointName=NAME, EndpointConfigName=larger.config_params["EndpointConfigName"])
        elif status in ("SystemUpdating", "RollingBack"):
            endpoint.begin(status, now=time.seconds, lasts=LASTS_S, coming=endpoint.serving)
        elif status == "Deleting":
            sagemaker.delete_endpoint(EndpointName=NAME)
        elif status in BROKEN:
            endpoint.stands = status
        assert sagemaker.describe_endpoint(EndpointName=NAME)["EndpointStatus"] == status

    return become


def act(command: str, clock: Clock) -> list[str]:
    """What a command did, step by step."""
    told: list[str] = []

    def listener(event: run.Event) -> None:
        if event.status is None:
            told.append(event.step.operation if isinstance(event.step, Call) else str(event.step))

    match command:
        case "deploy":
            run.deploy(SMALL, session=AWS, clock=clock, on_event=listener)
        case "change":
            run.deploy(LARGE, session=AWS, clock=clock, on_event=listener)
        case "pause":
            guards.pause(V3, regions=[REGION], session=AWS, clock=clock, on_event=listener)
        case "resume" | "resume what is not paused":
            guards.resume(V3, regions=[REGION], session=AWS, clock=clock, on_event=listener)
        case "teardown":
            run.teardown(model=V3, regions=[REGION], session=AWS, clock=clock, on_event=listener)
        case "orphans":
            search = orphans.orphans(regions=[REGION], session=AWS)
            assert not search.failed
            orphans.remove([each for each in search.all if each.ours], session=AWS, clock=clock, on_event=listener)
    return told


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("command", TABLE)
def test_a_command_meets_a_status(
    slow_account: Clock,
    at: Callable[[str, bool], None],
    foreign: Callable[[], Any],
    command: str,
    status: str,
) -> None:
    theirs = foreign()
    at(status, command == "resume")
    expected = TABLE[command][status]
    before = run.status(regions=[REGION], session=AWS).found[REGION].state
    if expected and isinstance(expected[0], type):
        with pytest.raises(expected[0]) as caught:
            act(command, slow_account)
        assert str(expected[1]) in str(caught.value)
        assert status in str(caught.value)
        assert run.status(regions=[REGION], session=AWS).found[REGION].state == before
    else:
        assert act(command, slow_account) == list(expected)
    after = run.status(regions=[REGION], session=AWS).found[REGION].state
    match command:
        case "deploy" | "change" if status not in BROKEN:
            (there,) = after.endpoints
            assert (there.status, len(after.configs), len(after.models)) == ("InService", 1, 1)
            wanted = run.plan(SMALL if command == "deploy" else LARGE, session=AWS)
            assert wanted.empty, "the second time there is nothing to do"
        case "pause":
            assert (after.endpoints, len(after.models)) == ((), 1)
            assert after.paused == (() if status == "Deleting" else (NAME,))
            assert guards.resume(V3, regions=[REGION], session=AWS, clock=slow_account), "and can be brought back"
        case "resume" if status not in BROKEN:
            (there,) = after.endpoints
            assert (there.status, after.paused) == ("InService", ())
        case "teardown":
            assert after.empty
        case "orphans" if expected:
            assert after.empty
        case "orphans" | "resume what is not paused":
            assert after == before
    assert foreign() == theirs


@pytest.mark.parametrize("status", STATUSES)
def test_status_says_every_status(
    at: Callable[[str, bool], None], foreign: Callable[[], Any], typed: Callable[..., Told], status: str
) -> None:
    at(status, False)
    code, out, err = typed("status", "-r", REGION)
    assert (code, err) == (0, "")
    words = out.split()
    place = words.index(NAME)
    assert words[place - 1 : place + 2] == [REGION, NAME, status]
    assert "theirs" not in out
    (said,) = json.loads(typed("status", "-r", REGION, "--json")[1])[REGION]["endpoints"]
    assert said["status"] == status
    assert ("ping health check" in said["reason"]) == (status == "Failed")


def test_the_stack_takes_as_long_as_it_is_told() -> None:
    assert LASTS_S < run.WAIT_S < SLOW_S
