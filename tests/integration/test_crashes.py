"""
Killed before or after any mutating call of any command, the same command again ends where an uninterrupted run ends.

The calls are counted from the plan. The process is a real one, killed while the local stack holds its call: before the
call takes effect, or after it did and before the answer came.
"""

from __future__ import annotations

import subprocess
import sys
import time as wall
from collections.abc import Callable
from typing import Any

import pytest

from jina_sm import Spec, local
from jina_sm.deploy import plan as plans
from jina_sm.deploy import run
from tests.conftest import Served

V3, REGION = "jina-embeddings-v3", "us-east-1"
SMALL = Spec(model=V3, regions=(REGION,))
LARGE = Spec(model=V3, regions=(REGION,), instance_type="ml.g5.2xlarge")

Words = tuple[str, ...]
# Of each command: what is there before it, its words, and how many mutating calls it makes.
COMMANDS: dict[str, tuple[Callable[[], object], Words, Callable[[], int]]] = {
    "subscribe": (lambda: None, ("subscribe", V3, "--yes"), lambda: 2),  # a request for the agreement, its acceptance
    "deploy": (
        lambda: run.subscribe(V3),
        ("deploy", V3, "-r", REGION, "--yes"),
        lambda: calls(run.plan(SMALL).regions[REGION].steps),
    ),
    "update": (
        lambda: (run.subscribe(V3), run.deploy(SMALL)),
        ("deploy", V3, "-r", REGION, "--instance-type", "ml.g5.2xlarge", "--yes"),
        lambda: calls(run.plan(LARGE).regions[REGION].steps),
    ),
    "teardown": (
        lambda: (run.subscribe(V3), run.deploy(SMALL)),
        ("teardown", V3, "-r", REGION, "--yes"),
        lambda: calls(plans.teardown(run.status(regions=[REGION]).found[REGION].state)),
    ),
}
CASES = [
    (command, nth, when)
    for command, most in (("subscribe", 2), ("deploy", 3), ("update", 3), ("teardown", 3))
    for nth in range(1, most + 1)
    for when in ("before", "after")
]


def calls(steps: Any) -> int:
    return sum(isinstance(step, plans.Call) for step in steps)


def typed(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "jina_sm", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def there(account: Served) -> dict[str, Any]:
    """Everything that could be left: names, tags, and what refers to what."""
    sagemaker = account.aws("sagemaker")
    found: dict[str, Any] = {}
    for kind in ("Endpoint", "EndpointConfig", "Model"):
        listing = {"Endpoint": "endpoints", "EndpointConfig": "endpoint_configs", "Model": "models"}[kind]
        for each in getattr(sagemaker, f"list_{listing}")(MaxResults=100)[f"{kind}s"]:
            tags = sagemaker.list_tags(ResourceArn=each[f"{kind}Arn"])["Tags"]
            found[each[f"{kind}Name"]] = sorted((tag["Key"], tag["Value"]) for tag in tags)
            if kind == "Endpoint":
                said = sagemaker.describe_endpoint(EndpointName=each["EndpointName"])
                found["serves"] = (said["EndpointStatus"], said["EndpointConfigName"])
    agreement = run.subscription(V3)
    return found | {"subscribed": agreement is not None}


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict[str, Any]]:
    """What each command leaves when nothing stops it; filled as the cases come."""
    return {}


def test_the_cases_are_all_the_calls_that_the_plans_make(account: Served) -> None:
    for command, (before, _, most) in COMMANDS.items():
        local.reset(account.port)
        before()
        assert max(nth for name, nth, _ in CASES if name == command) == most()


@pytest.mark.parametrize(("command", "nth", "when"), CASES)
def test_a_command_killed_at_any_call_is_completed_by_the_same_command(
    account: Served, uninterrupted: dict[str, dict[str, Any]], command: str, nth: int, when: str
) -> None:
    before, words, _ = COMMANDS[command]
    if command not in uninterrupted:
        before()
        first = typed(*words)
        _, said = first.communicate()
        assert first.returncode == 0, said.decode()
        uninterrupted[command] = there(account)
        local.reset(account.port)
    before()
    local.fault("pause", port=account.port, nth=nth, when=when)
    killed = typed(*words)
    assert killed.stderr is not None
    until(lambda: sum(each["waiting"] for each in local.list_faults(account.port)) == 1)
    killed.kill()
    killed.wait()
    killed.stderr.close()
    until(lambda: sum(each["waiting"] for each in local.list_faults(account.port)) == 0)
    local.clear_faults(account.port)
    again = typed(*words)
    _, said = again.communicate()
    assert again.returncode == 0, said.decode()
    assert there(account) == uninterrupted[command]


def until(true: Callable[[], bool]) -> None:
    """Asks again until it is so."""
    deadline = wall.monotonic() + 60
    while not true():
        assert wall.monotonic() < deadline
