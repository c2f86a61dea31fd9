"""
Ended before or after any mutating call of any command, the same command again ends where an uninterrupted run ends.

Most ends are of a session: from that call on, no request of it is sent any more, nothing is caught and nothing rolled
back, as if the process had ended; what runs again is another session. Some are of real processes, killed while the
local stack holds their call: before it takes effect, or after it did and before the answer came.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time as wall
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import boto3
import pytest

from jina_sm import Spec, local
from jina_sm.deploy import guards, orphans, run
from tests.conftest import Served

V3, RERANKER, REGION = "jina-embeddings-v3", "jina-reranker-v2-base-multilingual", "us-east-1"
NAME, GROUP = "jina-sm-embeddings-v3", "/aws/sagemaker/Endpoints/jina-sm-embeddings-v3"
WHERE = ("-r", REGION)


def spec(**more: Any) -> Spec:
    return Spec(**{"model": V3, "regions": (REGION,), **more})


SMALL, GUARDED = spec(), spec(autoscaling={"max": 3}, ttl="8h")
OTHER = spec(autoscaling={"max": 3}, ttl="8h", name="other")
LARGE = spec(autoscaling={"max": 3}, ttl="8h", instance_type="ml.g5.2xlarge")
BUSIER = spec(autoscaling={"min": 2, "max": 4, "target": 6}, ttl="8h")
FLEET = f'[defaults]\nregions = ["{REGION}"]\n[[models]]\nmodel = "{V3}"\n[[models]]\nmodel = "{RERANKER}"\n'


def subscribed(aws: Any) -> None:
    run.subscribe(V3, session=aws)
    run.subscribe(RERANKER, session=aws)


def deployed(aws: Any, wanted: Spec = GUARDED) -> None:
    subscribed(aws)
    run.deploy(wanted, session=aws)


def scaled_out(aws: Any) -> None:
    """The load has had it have more instances than it began with."""
    deployed(aws)
    counts = [{"VariantName": "AllTraffic", "DesiredInstanceCount": 3}]
    aws.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=NAME, DesiredWeightsAndCapacities=counts
    )


def paused(aws: Any) -> None:
    deployed(aws)
    guards.pause(V3, regions=[REGION], session=aws)


def logged(aws: Any) -> None:
    deployed(aws)
    aws.client("logs").create_log_group(logGroupName=GROUP)


def left(aws: Any) -> None:
    """The endpoint is gone, and what belonged to it is not."""
    deployed(aws)
    aws.client("sagemaker").delete_endpoint(EndpointName=NAME)


def twice(aws: Any) -> None:
    """Two endpoints of one model."""
    deployed(aws)
    run.deploy(OTHER, session=aws)


def fleet(aws: Any) -> None:
    run.deploy_all([run.plan(each, session=aws) for each in (SMALL, spec(model=RERANKER))], session=aws)


def removed(aws: Any) -> None:
    search = orphans.orphans(regions=[REGION], session=aws)
    assert not search.failed
    orphans.remove(search.all, session=aws)


@dataclass(frozen=True)
class Command:
    """What is there before it, how it is called and typed, and how many mutating calls it makes."""

    before: Callable[[Any], object]
    act: Callable[[Any], object]
    words: tuple[str, ...]
    calls: int


COMMANDS: dict[str, Command] = {
    "subscribe": Command(
        lambda aws: None,
        lambda aws: run.subscribe(V3, session=aws),
        ("subscribe", V3, "--yes"),
        2,  # a request for the agreement, its acceptance
    ),
    "deploy": Command(
        subscribed,
        lambda aws: run.deploy(SMALL, session=aws),
        ("deploy", V3, *WHERE, "--yes"),
        3,
    ),
    "deploy -f": Command(subscribed, fleet, ("deploy", "-f", "jina-sm.toml", "--yes"), 6),
    "deploy --ttl --autoscaling": Command(
        subscribed,
        lambda aws: run.deploy(GUARDED, session=aws),
        ("deploy", V3, *WHERE, "--ttl", "8h", "--autoscaling", "1-3", "--yes"),
        9,  # the role and its policy; model, config, group, schedule, endpoint; target and policy
    ),
    "deploy --instance-type": Command(
        scaled_out,
        lambda aws: run.deploy(LARGE, session=aws),
        ("deploy", V3, *WHERE, "--ttl", "8h", "--autoscaling", "1-3", "--instance-type", "ml.g5.2xlarge", "--yes"),
        7,  # the config; policy and target away; the endpoint; target and policy; the old config away
    ),
    "deploy --autoscaling": Command(
        scaled_out,
        lambda aws: run.deploy(BUSIER, session=aws),
        ("deploy", V3, *WHERE, "--ttl", "8h", "--autoscaling", "2-4@6", "--yes"),
        2,  # target and policy, and nothing of the endpoint
    ),
    "deploy again without": Command(
        scaled_out,
        lambda aws: run.deploy(SMALL, session=aws),
        ("deploy", V3, *WHERE, "--yes"),
        5,  # policy and target away; the count; schedule and group away
    ),
    "pause": Command(
        deployed,
        lambda aws: guards.pause(V3, regions=[REGION], session=aws),
        ("pause", V3, *WHERE, "--yes"),
        6,  # the mark; policy, target, endpoint, schedule, group
    ),
    "resume": Command(
        paused,
        lambda aws: guards.resume(V3, regions=[REGION], session=aws),
        ("resume", V3, *WHERE, "--yes"),
        6,  # group and schedule, as before; the endpoint; target and policy; the mark away
    ),
    "resume --ttl": Command(
        paused,
        lambda aws: guards.resume(V3, regions=[REGION], ttl_s=3600, session=aws),
        ("resume", V3, *WHERE, "--ttl", "1h", "--yes"),
        6,
    ),
    "orphans --remove": Command(left, removed, ("orphans", *WHERE, "--remove", "--yes"), 6),
    "teardown --logs": Command(
        logged,
        lambda aws: run.teardown(model=V3, regions=[REGION], logs=True, session=aws),
        ("teardown", V3, *WHERE, "--logs", "--yes"),
        8,
    ),
    "teardown NAME": Command(
        twice,
        lambda aws: run.teardown(name="other", regions=[REGION], session=aws),
        ("teardown", "other", *WHERE, "--yes"),
        7,  # nothing of the other one
    ),
    "teardown --all": Command(
        logged,
        lambda aws: run.teardown(logs=True, session=aws),
        ("teardown", "--all", "--logs", "--yes"),
        10,  # and the role of schedules, with its policy
    ),
}
CASES = [
    (name, nth, when)
    for name, each in COMMANDS.items()
    for nth in range(1, each.calls + 1)
    for when in ("before", "after")
]
PROCESSES = [
    *(("subscribe", nth, when) for nth in (1, 2) for when in ("before", "after")),
    ("deploy", 1, "after"),
    ("deploy", 2, "before"),
    ("deploy", 3, "after"),
    ("deploy --instance-type", 4, "after"),
    ("pause", 4, "before"),
    ("resume", 1, "after"),
    ("orphans --remove", 3, "after"),
    ("teardown --logs", 3, "after"),
    ("teardown NAME", 3, "after"),
]


class Killed(BaseException):
    """The process has ended: nothing of ours catches it."""


class Mortal:
    """A session that ends at its nth mutating call, before or after it takes effect, until it is told to live.

    One for all, since making clients takes longer than asking; it remembers nothing but them.
    """

    def __init__(self) -> None:
        self.session = boto3.Session("local", "local", region_name=REGION)
        self._counting = threading.Lock()
        self.session.events.register("before-send", self._before)
        self.session.events.register("response-received", self._after)
        self.live()

    def live(self) -> None:
        self.dies_at(0, "before")

    def dies_at(self, nth: int, when: str) -> None:
        self.calls = 0
        self._nth, self._when, self._dead = nth, when, False
        self._doomed = -1  # the thread whose call it is

    def _before(self, event_name: str, **_: Any) -> None:
        with self._counting:
            if self._dead:
                raise Killed
            if mutates(event_name):
                self.calls += 1
                if self.calls == self._nth:
                    self._doomed, self._dead = threading.get_ident(), self._when == "before"
                    if self._dead:
                        raise Killed

    def _after(self, event_name: str, **_: Any) -> None:
        with self._counting:
            self._dead = self._dead or (mutates(event_name) and threading.get_ident() == self._doomed)
            if self._dead:
                raise Killed


def mutates(event_name: str) -> bool:
    operation = event_name.rpartition(".")[2]
    return not re.match("Get|List|Describe|Search|Simulate", operation)


@pytest.fixture(scope="module")
def mortal() -> Mortal:
    return Mortal()


@pytest.fixture
def aws(mortal: Mortal) -> Any:
    mortal.live()
    return mortal.session


@pytest.fixture(autouse=True)
def _environment(account: Served, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jina-sm.toml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)
    local.change_scenario(account.port, quota=20)


def there(aws: Any) -> dict[str, Any]:
    """Everything that could be left: names, tags, and what refers to what."""
    sagemaker, scaling, scheduler = (
        client(aws, name) for name in ("sagemaker", "application-autoscaling", "scheduler")
    )
    found: dict[str, Any] = {}
    for kind in ("Endpoint", "EndpointConfig", "Model"):
        listing = {"Endpoint": "endpoints", "EndpointConfig": "endpoint_configs", "Model": "models"}[kind]
        for each in getattr(sagemaker, f"list_{listing}")(MaxResults=100)[f"{kind}s"]:
            tags = sagemaker.list_tags(ResourceArn=each[f"{kind}Arn"])["Tags"]
            found[each[f"{kind}Name"]] = plain(tags)
            if kind == "Endpoint":
                said = sagemaker.describe_endpoint(EndpointName=each["EndpointName"])
                counts = [variant["DesiredInstanceCount"] for variant in said["ProductionVariants"]]
                found[f"{each['EndpointName']} serves"] = (said["EndpointStatus"], said["EndpointConfigName"], counts)
    for each in scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]:
        tags = scaling.list_tags_for_resource(ResourceARN=each["ScalableTargetARN"])["Tags"]
        found[each["ResourceId"]] = (each["MinCapacity"], each["MaxCapacity"], tags)
    for each in scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]:
        found[f"{each['ResourceId']} {each['PolicyName']}"] = each["TargetTrackingScalingPolicyConfiguration"]
    for each in scheduler.list_schedule_groups()["ScheduleGroups"]:
        found[f"group {each['Name']}"] = plain(scheduler.list_tags_for_resource(ResourceArn=each["Arn"])["Tags"])
    for each in scheduler.list_schedules()["Schedules"]:
        said = scheduler.get_schedule(GroupName=each["GroupName"], Name=each["Name"])
        found[f"schedule {each['Name']}"] = (said["Description"], said["Target"])
    for each in client(aws, "logs").describe_log_groups()["logGroups"]:
        found[each["logGroupName"]] = ""
    for each in client(aws, "iam").list_roles()["Roles"]:
        found[each["Arn"]] = client(aws, "iam").list_role_policies(RoleName=each["RoleName"])["PolicyNames"]
    agreement = run.subscription(V3, session=aws)
    return found | {"subscribed": agreement is not None}


def client(aws: Any, service: str, kept: dict[str, Any] = {}) -> Any:  # noqa: B006  kept on purpose
    if service not in kept:
        kept[service] = aws.client(service)
    return kept[service]


def plain(tags: Any) -> list[tuple[str, str]]:
    return sorted((tag["Key"], tag["Value"]) for tag in tags)


@pytest.fixture(scope="module")
def kept() -> dict[str, dict[str, Any]]:
    """What each command leaves when nothing stops it; filled as the cases come."""
    return {}


@pytest.fixture
def uninterrupted(
    account: Served, aws: Any, mortal: Mortal, kept: dict[str, dict[str, Any]]
) -> Callable[[str], dict[str, Any]]:
    def of(name: str) -> dict[str, Any]:
        if name not in kept:
            command = COMMANDS[name]
            command.before(aws)
            mortal.live()
            command.act(aws)
            assert mortal.calls == command.calls, f"{name} makes {mortal.calls} mutating calls"
            kept[name] = there(aws)
            local.reset(account.port)
            local.change_scenario(account.port, quota=20)
        return kept[name]

    return of


@pytest.mark.parametrize(("name", "nth", "when"), CASES)
def test_a_command_that_ends_at_any_call_is_completed_by_the_same_command(
    uninterrupted: Callable[[str], dict[str, Any]], aws: Any, mortal: Mortal, name: str, nth: int, when: str
) -> None:
    expected, command = uninterrupted(name), COMMANDS[name]
    command.before(aws)
    mortal.dies_at(nth, when)
    with pytest.raises(Killed):
        command.act(aws)
    mortal.live()
    command.act(aws)
    assert there(aws) == expected


def typed(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "jina_sm", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(("name", "nth", "when"), PROCESSES)
def test_a_process_killed_at_a_call_is_completed_by_the_same_command(
    account: Served, uninterrupted: Callable[[str], dict[str, Any]], aws: Any, name: str, nth: int, when: str
) -> None:
    expected, command = uninterrupted(name), COMMANDS[name]
    command.before(aws)
    local.fault("pause", port=account.port, nth=nth, when=when)
    killed = typed(*command.words)
    assert killed.stderr is not None
    until(lambda: sum(each["waiting"] for each in local.list_faults(account.port)) == 1)
    killed.kill()
    killed.wait()
    killed.stderr.close()
    until(lambda: sum(each["waiting"] for each in local.list_faults(account.port)) == 0)
    local.clear_faults(account.port)
    again = typed(*command.words)
    _, said = again.communicate()
    assert again.returncode == 0, said.decode()
    assert there(aws) == expected


def until(true: Callable[[], bool]) -> None:
    """Asks again until it is so."""
    deadline = wall.monotonic() + 60
    while not true():
        assert wall.monotonic() < deadline
