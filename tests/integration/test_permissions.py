"""
The policies against the calls that every command really makes, over real HTTP.

What is asked is read from the wire and held to AWS's Service Authorization Reference. That the calls which AWS makes in
the caller's name are as the table says, nothing here can tell.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click
import pytest
from click.testing import CliRunner

from jina_sm import AsyncClient, Client, Limits, catalog, local
from jina_sm.cli import cli
from jina_sm.deploy import policies, roles
from jina_sm.deploy.policies import CALLER, OPERATOR, POLICIES, ROLE_MAKER, ROWS, VIEWER
from jina_sm.transport.sagemaker import SageMakerTransport
from tests.conftest import Letters, Served
from tests.recording import Asked, Recorder, allows, demands, several

pytestmark = pytest.mark.timeout(600)  # the first of them runs every command there is

V3, RERANKER, READER = "jina-embeddings-v3", "jina-reranker-v2-base-multilingual", "ReaderLM-v2"
NAME, THERE = "jina-sm-embeddings-v3", ("-r", "us-east-1")
FILE = """
[[models]]
model = "jina-embeddings-v3"
name = "private"
regions = ["us-east-1"]
instance_types = ["ml.g5.xlarge", "ml.g5.2xlarge"]
kms_key = "alias/search"
ttl = "8h"
[models.autoscaling]
max = 3
[models.vpc.us-east-1]
subnets = ["subnet-0123456789abcdef0"]
security_groups = ["sg-0123456789abcdef0"]
"""
NOBODY: tuple[str, ...] = ()
LOOKS, DOES, MAKES_ROLES, CALLS = (VIEWER,), (VIEWER, OPERATOR), (VIEWER, OPERATOR, ROLE_MAKER), (CALLER,)
# Not AWS, but this machine.
OFFLINE = {"local"}


@dataclass(frozen=True)
class Ran:
    """A command, whose policies should do for it, and what it asked."""

    said: str
    policies: tuple[str, ...]
    asked: tuple[Asked, ...]


def without_roles(account: Served) -> None:
    """As an account is before anyone made a role for this tool."""
    account.aws("iam").delete_role(RoleName=roles.ROLE)


def never_given(account: Served) -> None:
    """The account has AWS's own quotas, so that Service Quotas has none of its own to tell."""
    local.change_scenario(account.port, applied_quotas=False)


def given(account: Served) -> None:
    local.change_scenario(account.port, applied_quotas=True)


def foreign(account: Served) -> None:
    """An endpoint that others made of the same package."""
    account.deploy(V3, name="theirs")


def unhealthy(account: Served) -> None:
    """The container does not come up, so that a deployment fails, says what its log ends with, and is rolled back."""
    local.fault("failed", "CreateEndpoint", port=account.port, reason="health")


def no_more_faults(account: Served) -> None:
    local.clear_faults(account.port)


def embed_in_a_loop() -> None:
    async def ask() -> None:
        async with AsyncClient(V3, regions=["us-east-1"]) as client:
            await client.embed(["a"])

    asyncio.run(ask())


class Counted(SageMakerTransport):
    """Says when it has been asked how many instances there are."""

    def __init__(self) -> None:
        super().__init__(NAME, "us-east-1")
        self.asked = threading.Event()

    def instances(self) -> int | None:
        try:
            return super().instances()
        finally:
            self.asked.set()


def embed_more_than_goes_at_once() -> None:
    with Client(V3, transports=[up := Counted()], limits=Limits(items=1), in_flight=1) as client:
        client.embed([f"text {number}" for number in range(20)])
        assert up.asked.wait(60)


def old(account: Served) -> None:
    """Endpoints that have been there for a day, so that CloudWatch is asked whether anyone invoked them."""
    for endpoint in account.stack.state.region("us-east-1").endpoints.values():
        endpoint.created -= 25 * 3600


def scaled_out(account: Served) -> None:
    """The load has had it have more instances than it began with."""
    count = {"VariantName": "AllTraffic", "DesiredInstanceCount": 3}
    account.aws("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=NAME, DesiredWeightsAndCapacities=[count]
    )


def stream() -> None:
    with Client(READER, regions=["us-east-1"]) as client:
        assert [*client.read_stream("<p>a</p>")]


# In order: what each finds is what those before it left. (policies, words), or what is done by other hands.
COMMANDS: tuple[tuple[tuple[str, ...], str] | Callable[..., None] | tuple[tuple[str, ...], Callable[[], None]], ...] = (
    *((NOBODY, words) for words in ("models", "init new.toml", "iam", f"export {V3} -r us-east-1")),
    (DOES, f"subscribe {V3} --yes"),
    (DOES, f"subscribe {RERANKER} --yes"),
    (DOES, f"subscribe {READER} --yes"),
    (LOOKS, "subscriptions"),
    (NOBODY, "cost"),
    (LOOKS, "cost --live -r us-east-1"),
    (NOBODY, "advise --usage rag --security account --requests-per-s 20 -r us-east-1"),
    (LOOKS, "quota -r us-east-1"),
    never_given,
    (LOOKS, "quota -r us-east-1"),
    (LOOKS, "quota -r us-east-1 --instance-type ml.g5.24xlarge"),  # whose code is not known
    given,
    (DOES, "quota request --instance-type ml.g5.xlarge --value 99 -r us-east-1 --yes"),
    without_roles,
    (LOOKS, f"deploy {V3} -r us-east-1 --plan !"),  # finds no role
    (LOOKS, f"deploy {V3} -r us-east-1 --create-role --plan"),
    unhealthy,
    (MAKES_ROLES, f"deploy {V3} -r us-east-1 --create-role --yes !"),
    no_more_faults,
    (MAKES_ROLES, f"deploy {V3} -r us-east-1 --create-role --yes"),
    (LOOKS, f"doctor {RERANKER} -r us-east-1"),
    (DOES, f"deploy {V3} -r us-east-1 --create-role --yes"),  # it is there
    (DOES, f"deploy {V3} -r us-east-1 --instance-type ml.g5.2xlarge --instance-type ml.g5.xlarge --yes"),
    (DOES, f"deploy {V3} -r us-east-1 --autoscaling 1-2 --yes"),
    (DOES, f"deploy {V3} -r us-east-1 --autoscaling 1-4 --yes"),
    (MAKES_ROLES, f"deploy {V3} -r us-east-1 --autoscaling 1-4 --ttl 8h --yes"),
    (DOES, f"deploy {V3} -r us-east-1 --autoscaling 1-4 --ttl 9h --yes"),
    scaled_out,
    (DOES, f"deploy {V3} -r us-east-1 --yes"),
    (DOES, "deploy -f FILE --yes"),
    (LOOKS, "deploy -f FILE --plan"),
    (DOES, f"deploy {RERANKER} {READER} -r us-east-1 --yes"),
    (LOOKS, "status"),
    (CALLS, f"embed a b {' '.join(THERE)} -o OUT.npy"),
    (CALLS, f"rerank a b c {' '.join(THERE)}"),
    (CALLS, f"read PAGE {' '.join(THERE)}"),
    (CALLS, embed_in_a_loop),
    (CALLS, embed_more_than_goes_at_once),
    (
        (VIEWER, CALLER),
        f"bench run -t sagemaker://us-east-1/{NAME}?model={V3} --batch 1 --tokens 8 --concurrency 1 "
        "--repetitions 1 --requests 1 --warm-up 0 -o MEASURED --yes",
    ),
    *((NOBODY, f"bench {words}") for words in ("report MEASURED", "compare MEASURED MEASURED", "published")),
    (NOBODY, f"serve --check --upstream sagemaker://us-east-1/{NAME}?model={V3}"),
    (CALLS, stream),
    (DOES, f"teardown {RERANKER} -r us-east-1 --yes"),
    (DOES, f"deploy {V3} -r us-east-1 --name later --async s3://results/out --autoscaling 0-2 --yes"),
    foreign,
    old,
    (LOOKS, "orphans --all-jina"),
    (DOES, f"pause {V3} -r us-east-1 --yes"),
    (LOOKS, "orphans"),
    (DOES, f"resume {V3} -r us-east-1 --ttl 2h --yes"),
    (DOES, "orphans jina-sm-private --remove --idle 1m --yes"),
    (DOES, "deploy -f FILE --prune --yes"),
    (MAKES_ROLES, "teardown --all --logs --yes"),
    (DOES, f"unsubscribe {READER} --yes"),
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Ran]]:
    """Every command, run once, on one account."""
    folder = tmp_path_factory.mktemp("permissions")
    (folder / "FILE").write_text(FILE)
    (folder / "PAGE").write_text("<h1>a</h1>")
    stack = Recorder(ready_after_s=0, catalog=catalog.load(environ={}), model=Letters())
    found: list[Ran] = []
    with pytest.MonkeyPatch.context() as environment, local.serving(stack) as url:
        for name in [*os.environ]:
            if name.startswith(("AWS_", "JINA_")):
                environment.delenv(name)
        account = Served(stack, url)
        for name, value in local.environment(account.port).items():
            environment.setenv(name, value)
        environment.chdir(folder)
        local.reset(account.port)
        local.change_scenario(account.port, quotas={"ml.g5.xlarge": 20})  # room for all that is made here
        for each in COMMANDS:
            if not isinstance(each, tuple):
                each(account)
                continue
            policies, act = each
            stack.asked, stack.recording = [], True
            if callable(act):
                act()
                said = act.__name__
            else:
                said = act
                words = [word for word in act.split() if word != "!"]
                result = CliRunner().invoke(cli, words)
                assert (result.exit_code != 0) == act.endswith("!"), (act, result.output, result.exception)
            stack.recording = False
            found.append(Ran(said, policies, tuple(stack.asked)))
    return found


def test_every_command_is_run_here() -> None:
    run_here = [f"{each[1]} " for each in COMMANDS if isinstance(each, tuple) and isinstance(each[1], str)]
    missing = [each for each in commands(cli) if not any(said.startswith(f"{each} ") for said in run_here)]
    assert not missing, f"add {', '.join(missing)} to COMMANDS, with the policies that should do"


def commands(group: click.Group, within: str = "") -> Iterator[str]:
    """Those that ask AWS something, with their words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if within + name in OFFLINE:
            continue
        if isinstance(command, click.Group):
            yield from commands(command, f"{within}{name} ")
        else:
            yield within + name


def test_every_call_has_a_row(ran: list[Ran]) -> None:
    known = {(row.service, row.operation): row for row in ROWS}
    for each in ran:
        for asked in each.asked:
            row = known.get((asked.service, asked.operation))
            words = f"`jina-sm {each.said}` calls {asked.service} {asked.operation}; in jina_sm/deploy/policies.py, "
            assert row, f"{words}add its row to ROWS: the action {asked.action}, and what it is done to"


def test_a_row_has_the_needs_of_its_calls_and_no_others(ran: list[Ran]) -> None:
    asked: dict[tuple[str, str], set[str]] = {}
    calls = [asked for each in ran for asked in each.asked]
    for call, found in zip(calls, demands(calls), strict=True):
        asked.setdefault((call.service, call.operation), set()).update(demand.action for demand in found)
    rows = {(row.service, row.operation): {need.action for need in row.needs if not need.because} for row in ROWS}
    assert {name: rows[name] for name in asked} == asked
    unasked = {
        (row.service, row.operation) for row in ROWS if not (row.needs and all(need.because for need in row.needs))
    } - asked.keys()
    assert not unasked, f"no command calls {unasked}: take the rows out"


def test_the_policies_of_a_command_allow_all_that_it_asks(ran: list[Ran]) -> None:
    for wanted, each in zip(demanded(ran), ran, strict=True):
        held = [policies.policy(who, account="123456789012") for who in each.policies]
        for demand in wanted:
            assert allows(held, demand), f"`jina-sm {each.said}` may not {demand.action} on {demand.resource}"


def test_no_action_can_be_taken_out_of_a_statement(ran: list[Ran]) -> None:
    """But one that AWS does in the caller's name, for which the table has a reason."""
    asked = demanded(ran)
    excused = {(need.scope.sid, need.action) for row in ROWS for need in row.needs if need.because}
    for who in POLICIES:
        for sid, action, less in reduced(policies.policy(who)):
            if (sid, action) in excused:
                continue
            held = {each: policies.policy(each) for each in POLICIES} | {who: less}
            breaks = any(
                not allows([held[name] for name in each.policies], demand)
                for wanted, each in zip(asked, ran, strict=True)
                for demand in wanted
                if demand.action == action
            )
            assert breaks, f"no command needs {action} of the statement {sid} of the {who}: take it out of the table"


def test_no_resource_can_be_taken_out_of_a_statement(ran: list[Ran]) -> None:
    wanted = [demand for each in demanded(ran) for demand in each]
    excused = {need.scope.sid for row in ROWS for need in row.needs if need.because}
    for who in POLICIES:
        for statement in policies.policy(who)["Statement"]:
            for resource in several(statement["Resource"]):
                alone = {"Statement": [{**statement, "Resource": resource}]}
                assert statement["Sid"] in excused or any(allows([alone], each) for each in wanted), (who, resource)


def demanded(ran: list[Ran]) -> list[list[Any]]:
    """What IAM is asked by each command; the tags of what was made before are known."""
    calls = [asked for each in ran for asked in each.asked]
    found = demands(calls)
    return [[demand for _ in each.asked for demand in next(found)] for each in ran]


def reduced(policy: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The policy without each action of each statement in turn."""
    for place, statement in enumerate(policy["Statement"]):
        for action in several(statement["Action"]):
            left = {**statement, "Action": [other for other in several(statement["Action"]) if other != action]}
            statements = [*policy["Statement"][:place], left, *policy["Statement"][place + 1 :]]
            yield statement["Sid"], action, {**policy, "Statement": statements}
