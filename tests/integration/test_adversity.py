"""
AWS at its worst, over real HTTP: every refusal reaches the user with its cure and leaves nothing behind; what is not
seen yet is waited for; a throttled control plane, sixteen regions, two runs at once, and Ctrl-C.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time as wall
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from jina_sm import Spec, catalog, errors, local
from jina_sm.clock import Clock
from jina_sm.deploy import guards, orphans, run
from jina_sm.deploy.plan import Call, State
from tests.conftest import Served, Time, Told

V3, REGION, NAME = "jina-embeddings-v3", "us-east-1", "jina-sm-embeddings-v3"
SMALL = Spec(model=V3, regions=(REGION,))
LARGE = Spec(model=V3, regions=(REGION,), instance_type="ml.g5.2xlarge")
GUARDED = Spec(model=V3, regions=(REGION,), autoscaling={"max": 3}, ttl="8h")
AWS = boto3.Session("local", "local", region_name=REGION)  # one for all: making clients takes longer than asking
Aws = Callable[..., Any]


@pytest.fixture
def subscribed(account: Served) -> Served:
    run.subscribe(V3, session=AWS)
    return account


@pytest.fixture
def told(subscribed: Served) -> list[run.Event]:
    return []


class Hurried:
    """A clock whose sleeps take no time, and are remembered."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: sum(self.slept), sleep=self.slept.append, random=lambda: 0.5)


def there(region: str = REGION) -> State:
    return run.status(regions=[region], session=AWS).found[region].state


def deploy(wanted: Spec = SMALL, **more: Any) -> Any:
    return run.deploy(wanted, session=AWS, **more)


ARN = f"arn:aws:sagemaker:{REGION}:123456789012"
# Which operation AWS refuses, with which status and words; which error that is, and words of its cure.
REFUSALS: list[tuple[str, int, str, type[errors.JinaSMError], str]] = [
    ("CreateModel", 400, "Caller is not subscribed to the marketplace offering.", errors.NotSubscribedError, "jina-sm subscribe"),
    ("CreateModel", 400, "caller is not subscribed to the Marketplace listing.", errors.NotSubscribedError, "jina-sm subscribe"),
    ("CreateModel", 400, "ModelPackage arn:aws:sagemaker:x does not exist.", errors.DeployError, "Marketplace console"),
    ("CreateModel", 400, "Could not assume role arn:aws:iam::1:role/x. Please ensure that the role exists and allows principal 'sagemaker.amazonaws.com' to assume the role.", errors.DeployError, "trust sagemaker.amazonaws.com"),
    ("CreateModel", 403, "User: u is not authorized to perform: iam:PassRole on resource: r", errors.AuthError, "jina-sm iam operator"),
    ("CreateEndpointConfig", 403, "User: u is not authorized to perform: sagemaker:CreateEndpointConfig", errors.AuthError, "jina-sm iam operator"),
    ("CreateEndpointConfig", 400, "Value 'ml.g9' failed to satisfy constraint: Member must satisfy enum value set: [x]", errors.DeployError, "ml.g5.xlarge"),
    ("CreateEndpoint", 400, f'Cannot create already existing endpoint "{ARN}:endpoint/{NAME}".', errors.DeployError, "Another run may be at work"),
    ("CreateEndpoint", 400, f'Could not find endpoint configuration "{ARN}:endpoint-config/x".', errors.DeployError, "same command again"),
    ("CreateEndpoint", 400, "Something nobody has seen before.", errors.DeployError, ""),
    ("CreateEndpoint", 503, "Service is unavailable.", errors.DeployError, "try again"),
    ("CreateScheduleGroup", 402, "too many groups", errors.QuotaError, "Service Quotas"),
    ("CreateSchedule", 400, "The execution role you provide must allow AWS EventBridge Scheduler to assume the role.", errors.DeployError, "trust scheduler.amazonaws.com"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "status", "words", "kind", "cure"), REFUSALS)
def test_a_refusal_reaches_the_user_with_its_cure_and_leaves_nothing(
    subscribed: Served,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    status: int,
    words: str,
    kind: type[errors.JinaSMError],
    cure: str,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # of clients made from here on
    aws = boto3.Session("local", "local", region_name=REGION)
    plan = run.plan(GUARDED, session=aws)
    local.fault("error", operation, port=subscribed.port, status=status, reason=words)
    hurried = Hurried()
    with pytest.raises(kind) as caught:
        run.deploy(plan, session=aws, clock=hurried.clock)
    local.clear_faults(subscribed.port)
    assert words.rstrip(".") in str(caught.value)
    assert cure in (caught.value.cure or "")
    assert REGION in str(caught.value)
    assert sum(hurried.slept) < run.WAIT_S / 10
    assert there().empty


# Why an endpoint comes up Failed, which error that is, and words of its cure.
FAILURES: list[tuple[str, type[errors.JinaSMError], str]] = [
    ("capacity", errors.CapacityError, "region"),
    ("quota", errors.QuotaError, ""),
    ("health", errors.EndpointFailedError, ""),
    ("container", errors.EndpointFailedError, ""),
    ("download", errors.EndpointFailedError, ""),
    ("request", errors.DeployError, ""),
    ("not-subscribed", errors.NotSubscribedError, "jina-sm subscribe"),
]


@pytest.mark.parametrize(("reason", "kind", "cure"), FAILURES)
@pytest.mark.parametrize("wanted", [GUARDED, LARGE], ids=["at first", "at an update"])
def test_an_endpoint_that_fails_is_told_with_awss_reason_and_what_was_before_serves_on(
    subscribed: Served, reason: str, kind: type[errors.JinaSMError], cure: str, wanted: Spec
) -> None:
    if wanted is LARGE:
        deploy(GUARDED)
        wanted = Spec(**{**GUARDED.model_dump(), "instance_type": "ml.g5.2xlarge"})
    before = there()
    local.fault("failed", "*Endpoint", port=subscribed.port, reason=reason)
    with pytest.raises(kind) as caught:
        deploy(wanted, clock=Hurried().clock)
    assert caught.value.cure
    assert cure in caught.value.cure
    after = there()
    assert (after.configs, after.models) == (before.configs, before.models)
    assert [each.scaling for each in after.targets] == [each.scaling for each in before.targets]
    assert [each.seconds for each in after.schedules] == [each.seconds for each in before.schedules]
    assert [(each.status, each.config) for each in after.endpoints] == [
        (each.status, each.config) for each in before.endpoints
    ]


def test_a_quota_that_does_not_do_is_told_before_an_endpoint_is_made(subscribed: Served) -> None:
    local.change_scenario(subscribed.port, quotas={"ml.g5.xlarge": 0})
    with pytest.raises(errors.QuotaError, match=r"quota ml\.g5\.xlarge: 0, in use 0, needed 1") as caught:
        deploy()
    assert caught.value.cure
    assert there().empty


def test_an_update_that_aws_undoes_without_a_reason_is_not_waited_for(slow: Served, slow_account: Clock) -> None:
    aws = boto3.Session("local", "local", region_name=REGION)
    run.subscribe(V3, session=aws)
    region = slow.stack.state.region(REGION)
    region.ready_after_s = 60.0
    run.deploy(SMALL, session=aws, clock=slow_account)
    began = slow_account.now()

    def sleep(seconds: float) -> None:
        if slow_account.now() - began > 20:  # AWS has begun to put it back
            endpoint = region.endpoints[NAME]
            if endpoint.doing == "Updating":
                now = slow_account.now()
                endpoint.begin("RollingBack", now=now, lasts=30.0, coming=endpoint.serving)
        slow_account.sleep(seconds)

    with pytest.raises(errors.EndpointFailedError, match="the update was undone"):
        run.deploy(LARGE, session=aws, clock=Clock(now=slow_account.now, sleep=sleep, random=lambda: 0.5))
    state = run.status(regions=[REGION], session=aws).found[REGION].state
    assert (len(state.configs), state.endpoints[0].status, slow_account.now() - began < 300) == (1, "InService", True)


@pytest.mark.parametrize("operation", ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"])
def test_what_aws_does_not_see_yet_is_waited_for(subscribed: Served, operation: str) -> None:
    local.fault("hidden", operation, port=subscribed.port, reads=3)
    hurried = Hurried()
    assert deploy(GUARDED, clock=hurried.clock)[REGION].status == "InService"
    assert sum(hurried.slept) < 60
    assert run.plan(GUARDED, session=AWS).empty


def test_a_role_that_cannot_be_assumed_yet_is_waited_for_and_said(subscribed: Served, told: list[run.Event]) -> None:
    words = "Could not assume role arn:aws:iam::1:role/x. Please ensure that the role exists."
    local.fault("error", "CreateModel", port=subscribed.port, status=400, reason=words, count=2)
    hurried = Hurried()
    assert deploy(clock=hurried.clock, on_event=told.append)[REGION].status == "InService"
    assert hurried.slept[:2] == [5.0, 5.0]
    assert [event.status for event in told if event.status and "not yet" in event.status] == [f"not yet: {words[:-1]}"]


def test_what_is_listed_only_later_is_taken_as_it_is(subscribed: Served) -> None:
    """A run that was killed a moment ago made it, and AWS lists it only after this run's look."""
    desired = run.plan(SMALL, session=AWS).regions[REGION].desired
    plan = run.plan(SMALL, session=AWS)
    sagemaker = subscribed.aws("sagemaker")
    sagemaker.create_model(**desired.model_params)
    sagemaker.create_endpoint_config(**desired.config_params)
    sagemaker.create_endpoint(**desired.endpoint_params)
    assert deploy(plan)[REGION].status == "InService"
    assert run.plan(SMALL, session=AWS).empty


def test_what_is_in_the_way_and_not_ours_is_not_taken(subscribed: Served) -> None:
    plan = run.plan(GUARDED, session=AWS)
    desired = plan.regions[REGION].desired
    subscribed.aws("sagemaker").create_model(**{**desired.model_params, "Tags": []})
    with pytest.raises(errors.NameTakenError, match="already existing model"):
        deploy(plan)
    subscribed.aws("sagemaker").delete_model(ModelName=desired.model_params["ModelName"])
    subscribed.aws("scheduler").create_schedule_group(Name=NAME)
    with pytest.raises(errors.NameTakenError, match=r"schedule group .* was not made by this tool"):
        deploy(plan)
    assert there().empty
    assert NAME in {group["Name"] for group in subscribed.aws("scheduler").list_schedule_groups()["ScheduleGroups"]}


def test_an_answer_that_is_lost_is_no_other_run(subscribed: Served) -> None:
    """The call took effect, its answer never came, and botocore asked again."""
    for operation in ("CreateModel", "CreateEndpointConfig", "CreateEndpoint"):
        local.fault("truncate", operation, port=subscribed.port, count=1)
    local.fault("failed", "CreateEndpoint", port=subscribed.port, reason="health")
    with pytest.raises(errors.EndpointFailedError):
        deploy(clock=Hurried().clock)
    local.clear_faults(subscribed.port)
    assert there().empty, "this run made it, so it removes it"


def test_a_throttled_control_plane_is_coped_with(subscribed: Served) -> None:
    for operation in ("ListEndpoints", "CreateModel", "DescribeEndpoint"):
        local.fault("throttle", operation, port=subscribed.port, count=2)
    aws = boto3.Session("local", "local", region_name=REGION)
    assert run.deploy(GUARDED, session=aws)[REGION].status == "InService"
    assert all(each["fired"] == 2 for each in local.list_faults(subscribed.port))


def test_a_control_plane_that_stays_throttled_is_told(subscribed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    local.fault("throttle", "ListModels", port=subscribed.port)
    with pytest.raises(errors.DeployError, match=r"Rate exceeded .*after 2 attempts.*fewer calls"):
        run.deploy(SMALL, session=boto3.Session("local", "local", region_name=REGION))


def test_sixteen_regions_at_once(subscribed: Served) -> None:
    everywhere = Spec(model=V3, regions=catalog.load().regions)
    local.fault("failed", "CreateEndpoint", port=subscribed.port, region="eu-*", reason="capacity")
    with pytest.raises(errors.PartialError) as caught:
        deploy(everywhere)
    european = {region for region in everywhere.regions if region.startswith("eu-")}
    assert set(caught.value.failed) == european
    assert set(caught.value.done) == {*everywhere.regions} - european
    local.clear_faults(subscribed.port)
    found = run.status(session=AWS).found
    assert {region for region, each in found.items() if each.state.empty} == european
    assert len(deploy(everywhere)) == 16
    run.teardown(session=AWS)
    assert all(each.state.empty for each in run.status(session=AWS).found.values())


def side_by_side(*acts: Callable[[], object]) -> list[Any]:
    """What each gave or raised."""
    ends: list[Any] = [None] * len(acts)

    def at(number: int) -> None:
        try:
            ends[number] = acts[number]()
        except Exception as error:
            ends[number] = error

    threads = [threading.Thread(target=at, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


class Gate:
    """Holds two runs at a step until both are there."""

    def __init__(self, operation: str) -> None:
        self._operation, self._both = operation, threading.Barrier(2, timeout=60)
        self._passed: set[int] = set()

    def __call__(self, event: run.Event) -> None:
        here = isinstance(event.step, Call) and event.step.operation == self._operation
        if here and threading.get_ident() not in self._passed:
            self._passed.add(threading.get_ident())
            self._both.wait()


@pytest.mark.parametrize("operation", ["create_model", "create_endpoint_config", "create_schedule", "create_endpoint"])
def test_two_runs_of_the_same_at_once_both_end_well(subscribed: Served, operation: str) -> None:
    plans = [run.plan(GUARDED, session=AWS) for _ in range(2)]
    gate = Gate(operation)
    ends = side_by_side(*(lambda plan=plan: deploy(plan, on_event=gate) for plan in plans))
    assert [end if isinstance(end, Exception) else end[REGION].status for end in ends] == ["InService"] * 2
    state = there()
    assert [len(each) for each in (state.endpoints, state.configs, state.models, state.targets, state.schedules)] == [
        1
    ] * 5
    assert run.plan(GUARDED, session=AWS).empty


@pytest.mark.parametrize("operation", ["create_endpoint_config", "create_endpoint"])
def test_two_runs_of_the_same_that_fail_leave_nothing(subscribed: Served, operation: str) -> None:
    plans = [run.plan(SMALL, session=AWS) for _ in range(2)]
    local.fault("failed", "CreateEndpoint", port=subscribed.port, reason="health")
    gate = Gate(operation)
    ends = side_by_side(*(lambda plan=plan: deploy(plan, on_event=gate, clock=Hurried().clock) for plan in plans))
    assert all(isinstance(end, errors.DeployError) for end in ends), ends
    assert there().empty


def test_two_changes_at_once_end_as_one_of_them(subscribed: Served) -> None:
    deploy()
    wanted = [LARGE, Spec(model=V3, regions=(REGION,), instance_count=2)]
    plans = [run.plan(each, session=AWS) for each in wanted]
    gate = Gate("update_endpoint")
    ends = side_by_side(*(lambda plan=plan: deploy(plan, on_event=gate, clock=Hurried().clock) for plan in plans))
    assert all(not isinstance(end, Exception) or (isinstance(end, errors.JinaSMError) and end.cure) for end in ends), (
        ends
    )
    (endpoint,) = there().endpoints
    assert endpoint.status == "InService"
    configs = {plan.regions[REGION].desired.config_params["EndpointConfigName"] for plan in plans}
    assert endpoint.config in configs
    assert deploy()[REGION].status == "InService", "and the next run goes on from it"
    assert (len(there().configs), len(there().models)) == (1, 1)


@pytest.mark.parametrize("operation", ["create_endpoint_config", "create_endpoint"])
def test_deploy_and_teardown_at_once_end_as_one_of_them(subscribed: Served, operation: str) -> None:
    plan = run.plan(SMALL, session=AWS)
    torn, going = threading.Event(), threading.Event()

    def listener(event: run.Event) -> None:
        if isinstance(event.step, Call) and event.step.operation == operation and event.status is None:
            going.set()
            assert torn.wait(60)

    def teardown() -> object:
        assert going.wait(60)
        try:
            return run.teardown(model=V3, session=AWS)
        finally:
            torn.set()

    deployed, removed = side_by_side(lambda: deploy(plan, on_event=listener, clock=Hurried().clock), teardown)
    assert isinstance(removed, run.Inventory)
    assert isinstance(deployed, errors.DeployError), "what it had made has gone meanwhile"
    assert "Another run may have removed it" in (deployed.cure or "")
    assert there().empty


def test_what_is_torn_down_while_it_comes_up_is_told(slow: Served, slow_account: Clock, time: Time) -> None:
    aws = boto3.Session("local", "local", region_name=REGION)
    run.subscribe(V3, session=aws)
    slow.stack.state.region(REGION).ready_after_s = 60.0
    removed: list[object] = []

    def sleep(seconds: float) -> None:
        time.move(seconds)
        if not removed:
            removed.append(None)
            removed.append(run.teardown(model=V3, session=aws, clock=slow_account))

    with pytest.raises(errors.EndpointFailedError, match="removed meanwhile"):
        run.deploy(SMALL, session=aws, clock=Clock(now=slow_account.now, sleep=sleep, random=lambda: 0.5))
    assert run.status(regions=[REGION], session=aws).found[REGION].state.empty


@pytest.mark.parametrize("command", ["teardown", "pause", "change"])
def test_an_endpoint_that_begins_to_scale_at_the_wrong_moment_is_waited_for(
    slow: Served, slow_account: Clock, command: str
) -> None:
    aws = boto3.Session("local", "local", region_name=REGION)
    run.subscribe(V3, session=aws)
    region = slow.stack.state.region(REGION)
    region.ready_after_s = 60.0
    run.deploy(SMALL, session=aws, clock=slow_account)
    scaled: list[object] = []

    def listener(event: run.Event) -> None:
        if (
            not scaled
            and isinstance(event.step, Call)
            and event.step.operation in ("delete_endpoint", "update_endpoint")
        ):
            endpoint = region.endpoints[NAME]
            endpoint.begin("Updating", now=slow_account.now(), lasts=30.0, coming=endpoint.serving)
            scaled.append(event)

    more: dict[str, Any] = {"session": aws, "clock": slow_account, "on_event": listener}
    match command:
        case "teardown":
            run.teardown(model=V3, **more)
        case "pause":
            guards.pause(V3, **more)
        case "change":
            assert run.deploy(LARGE, **more)[REGION].status == "InService"
    assert scaled
    state = run.status(regions=[REGION], session=aws).found[REGION].state
    assert [len(state.endpoints), len(state.configs)] == {"teardown": [0, 0], "pause": [0, 1], "change": [1, 1]}[
        command
    ]


def test_what_goes_while_it_is_listed_is_no_error(subscribed: Served) -> None:
    deploy(Spec(model=V3, regions=(REGION,), ttl="8h"))
    local.fault("error", "ListTagsForResource", port=subscribed.port, status=404)
    assert there().schedules == ()
    assert not orphans.orphans(regions=[REGION], session=AWS).failed


def test_an_end_of_before_does_not_end_what_is_made_anew(subscribed: Served) -> None:
    """Somebody removed the endpoint and left its schedule, which has an hour to go."""
    deploy(GUARDED)
    group = subscribed.stack.state.region(REGION).groups[NAME]
    soon = "at(2001-01-01T00:00:00)"
    subscribed.aws("sagemaker").delete_endpoint(EndpointName=NAME)
    group.schedules[NAME].params["ScheduleExpression"] = soon
    group.schedules[NAME].due = None
    deploy(GUARDED)
    assert group.schedules[NAME].params["ScheduleExpression"] > soon
    guards.pause(V3, session=AWS)
    assert there().schedules == ()


def test_what_could_not_be_brought_back_is_not_paused(subscribed: Served) -> None:
    deploy()
    subscribed.aws("sagemaker").delete_endpoint_config(EndpointConfigName=there().configs[0])
    with pytest.raises(errors.DeployError, match="could not be brought back") as caught:
        guards.pause(V3, session=AWS)
    assert "jina-sm deploy" in (caught.value.cure or "")
    assert there().endpoints[0].status == "InService"


def test_the_logs_of_somebody_elses_endpoint_stay(subscribed: Served, aws: Aws) -> None:
    subscribed.deploy(name="jina-sm-theirs")
    deploy()
    for name in (NAME, "jina-sm-theirs"):
        aws("logs").create_log_group(logGroupName=f"/aws/sagemaker/Endpoints/{name}")
    run.teardown(logs=True, session=AWS)
    (left,) = aws("logs").describe_log_groups()["logGroups"]
    assert left["logGroupName"] == "/aws/sagemaker/Endpoints/jina-sm-theirs"


WORDS = ("deploy", V3, "-r", REGION, "--yes")


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("ListEndpoints", WORDS),  # while it looks
        ("CreateModel", WORDS),
        ("CreateEndpoint", WORDS),
        ("DescribeEndpoint", WORDS),  # while it waits
        ("DeleteEndpoint", ("teardown", V3, "-r", REGION, "--yes")),
    ],
)
def test_ctrl_c_ends_a_command_at_once_and_the_same_goes_on(
    subscribed: Served, typed: Callable[..., Told], operation: str, words: tuple[str, ...]
) -> None:
    if words[0] == "teardown":
        deploy()
    nth = 2 if operation == "DescribeEndpoint" else 1  # the first is a look, before anything is made
    local.fault("stall", operation, port=subscribed.port, seconds=3600, count=1, nth=nth)
    process = subprocess.Popen(
        [sys.executable, "-m", "jina_sm", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: local.list_faults(subscribed.port)[0]["waiting"] == 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    if operation != "ListEndpoints":
        assert "The same command goes on from what is there; `jina-sm teardown` removes it." in err
    local.clear_faults(subscribed.port)
    code, _, err = typed(*words)
    assert code == 0, err
    code, _, err = typed("teardown", V3, "-r", REGION, "--yes")
    assert code == 0, err
    assert there().empty


def until(true: Callable[[], bool]) -> None:
    """Asks again until it is so."""
    deadline = wall.monotonic() + 60
    while not true():
        assert wall.monotonic() < deadline


def test_a_failure_in_one_region_says_where_in_json_too(subscribed: Served, typed: Callable[..., Told]) -> None:
    local.fault("failed", "CreateEndpoint", port=subscribed.port, reason="health")
    code, out, err = typed(*WORDS, "--json")
    said = json.loads(out)
    assert (code, said["done"], list(said["failed"])) == (1, [], [REGION])
    assert "ping health check" in said["failed"][REGION]
    assert "error:" in err


@pytest.mark.usefixtures("slow_account")
def test_a_region_that_is_not_enabled_is_named_as_that(typed: Callable[..., Told]) -> None:
    run.subscribe(V3)
    code, out, _ = typed("status", "-r", "sa-east-1")
    assert (code, "region not enabled" in out) == (0, True)
    code, _, err = typed("deploy", V3, "-r", "sa-east-1", "--yes")
    assert (code, "sa-east-1 is not enabled" in err) == (1, True), err
