"""The execution role made on request: shown, made, waited for, and taken away where nothing needs it; over real HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boto3
import pytest

from jina_sm import Spec, errors, local
from jina_sm.clock import Clock
from jina_sm.deploy import roles, run
from jina_sm.deploy.aws import execution_role
from tests.conftest import Served

V3, REGION, OTHER = "jina-embeddings-v3", "us-east-1", "eu-central-1"
PLAIN = Spec(model=V3, regions=(REGION,))
BOTH = Spec(model=V3, regions=(REGION, OTHER))
VPC = {REGION: {"subnets": ["subnet-0123456789abcdef0"], "security_groups": ["sg-0123456789abcdef0"]}}
Aws = Callable[..., Any]
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _subscribed_without_role(account: Served) -> None:
    run.subscribe(V3)
    account.aws("iam").delete_role(RoleName=roles.ROLE)


def role(aws: Aws) -> dict[str, Any] | None:
    """The role as it is; None: it is not there."""
    try:
        return dict(aws("iam").get_role(RoleName=roles.ROLE)["Role"])
    except aws("iam").exceptions.NoSuchEntityException:
        return None


def may(aws: Aws) -> dict[str, Any]:
    return dict(aws("iam").get_role_policy(RoleName=roles.ROLE, PolicyName=roles.ROLE)["PolicyDocument"])


def patient() -> tuple[Clock, list[float]]:
    """A clock on which waiting takes no time, and what was waited."""
    waits: list[float] = []
    ticks = iter(range(100000))
    return Clock(now=lambda: float(next(ticks)), sleep=waits.append), waits


def test_without_a_role_the_error_says_how_to_have_one_made() -> None:
    with pytest.raises(errors.InputError, match="--create-role"):
        run.plan(PLAIN)


def test_a_role_that_is_not_on_the_first_page_is_found(aws: Aws) -> None:
    studio, trust = "AmazonSageMaker-ExecutionRole-20260101T000000", '{"Service": "sagemaker.amazonaws.com"}'
    arn = aws("iam").create_role(RoleName=studio, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    others = 0
    while aws("iam").list_roles(MaxItems=1)["Roles"][0]["RoleName"] == studio:  # the order is nobody's
        others += 1
        aws("iam").create_role(RoleName=f"other-{others}", AssumeRolePolicyDocument="{}")
    session = boto3.Session()
    session.events.register("before-parameter-build.iam.ListRoles", lambda params, **_: params.update(MaxItems=1))
    assert execution_role(session, REGION) == arn


def test_the_role_is_in_the_plan_is_made_and_is_there_the_next_time(aws: Aws, typed: Typed) -> None:
    code, out, _ = typed("deploy", V3, "-r", REGION, "--create-role", "--plan")
    assert (code, role(aws)) == (0, None), "a plan makes nothing"
    lines = [line.strip() for line in out.splitlines()]
    assert lines[1:3] == ["+ create role jina-sm-execution", "~ put role policy jina-sm-execution"]
    assert typed("deploy", V3, "-r", REGION, "--create-role", "--yes")[0] == 0
    made = role(aws)
    assert made is not None
    assert made["AssumeRolePolicyDocument"] == roles.trust()
    assert {tag["Key"]: tag["Value"] for tag in made["Tags"]} == {"managed-by": "jina-sm"}
    assert may(aws) == roles.permissions("123456789012")
    assert run.plan(PLAIN, create_role=True).empty
    assert run.plan(PLAIN).empty, "and it is found by its name"


def test_a_role_that_went_is_made_again_for_what_is_there(aws: Aws) -> None:
    run.deploy(run.plan(PLAIN, create_role=True))
    for call in roles.removal():
        getattr(aws("iam"), call.operation)(**call.params)
    steps = run.plan(PLAIN, create_role=True).regions[REGION].steps
    assert [str(step) for step in steps] == ["create role jina-sm-execution", "put role policy jina-sm-execution"]


def test_in_a_vpc_the_role_may_stand_there_and_keeps_that(aws: Aws) -> None:
    run.deploy(run.plan(PLAIN, create_role=True))
    private = Spec(model=V3, regions=(REGION,), name="private", vpc=VPC)
    run.deploy(run.plan(private, create_role=True))
    assert may(aws) == roles.permissions("123456789012", vpc=True)
    assert run.plan(PLAIN, create_role=True).empty


def test_a_role_of_that_name_that_others_made_is_used_as_it_is(aws: Aws) -> None:
    aws("iam").create_role(RoleName=roles.ROLE, AssumeRolePolicyDocument=roles.making("1", there=False, policy=None, vpc=False)[0].params["AssumeRolePolicyDocument"])  # fmt: skip
    run.deploy(run.plan(PLAIN, create_role=True))
    assert aws("iam").list_role_policies(RoleName=roles.ROLE)["PolicyNames"] == []
    run.teardown()
    assert role(aws), "it is not ours"


def test_one_that_sagemaker_cannot_assume_is_refused(aws: Aws) -> None:
    aws("iam").create_role(RoleName=roles.ROLE, AssumeRolePolicyDocument="{}")
    with pytest.raises(errors.NameTakenError, match=r"does not trust sagemaker\.amazonaws\.com"):
        run.plan(PLAIN, create_role=True)


def test_two_roles_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arn = roles.arn("123456789012")
    with pytest.raises(errors.InputError, match="take one of them"):
        run.plan(PLAIN.model_copy(update={"role_arn": arn}), create_role=True)
    monkeypatch.setenv("JINA_SM_ROLE_ARN", arn)
    with pytest.raises(errors.InputError, match="take one of them"):
        run.plan(PLAIN, create_role=True)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "Could not assume role arn:x. Please ensure that the role exists and allows principal 'sagemaker.amazonaws.com' to assume the role."),
        (403, "User: a is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/jina-sm-execution because no identity-based policy allows it"),
    ],
)  # fmt: skip
def test_a_role_that_is_not_seen_yet_is_waited_for(account: Served, status: int, words: str) -> None:
    local.fault("error", "CreateModel", port=account.port, count=2, status=status, reason=words)
    clock, waits = patient()
    assert run.deploy(run.plan(PLAIN, create_role=True), clock=clock)[REGION].status == "InService"
    assert waits[:2] == [5.0, 5.0]


def test_a_role_that_may_never_be_passed_is_not_waited_for_and_the_permission_is_named(account: Served) -> None:
    run.deploy(run.plan(PLAIN, create_role=True))
    run.teardown(regions=[REGION])
    words = "User: a is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/jina-sm-execution because no identity-based policy allows it"
    local.fault("error", "CreateModel", port=account.port, status=403, reason=words)
    clock, waits = patient()
    with pytest.raises(errors.AuthError, match="jina-sm iam operator") as caught:
        run.deploy(run.plan(PLAIN, create_role=True), clock=clock)
    assert (caught.value.action, waits) == ("iam:PassRole", [])


def test_where_no_region_comes_up_the_role_goes_too(account: Served, aws: Aws) -> None:
    local.fault("failed", "CreateEndpoint", port=account.port, reason="capacity")
    with pytest.raises(errors.PartialError):
        run.deploy(run.plan(BOTH, create_role=True))
    assert role(aws) is None


def test_where_one_region_stands_so_does_the_role(account: Served, aws: Aws) -> None:
    local.fault("failed", "CreateEndpoint", port=account.port, region=OTHER, reason="capacity")
    with pytest.raises(errors.PartialError) as caught:
        run.deploy(run.plan(BOTH, create_role=True))
    assert (caught.value.done, bool(role(aws))) == ((REGION,), True)


def test_a_rollback_leaves_the_role_to_a_run_beside_it(account: Served, aws: Aws) -> None:
    first = run.plan(PLAIN, create_role=True)
    run.deploy(run.plan(Spec(model=V3, regions=(OTHER,), name="beside"), create_role=True))
    local.fault("failed", "CreateEndpoint", port=account.port, reason="capacity")
    with pytest.raises(errors.CapacityError):
        run.deploy(first)
    assert role(aws)


def test_teardown_of_all_takes_the_role_if_nothing_uses_it(aws: Aws) -> None:
    run.deploy(run.plan(PLAIN, create_role=True))
    run.teardown(regions=[REGION])
    assert role(aws), "other regions may need it"
    made = role(aws)
    assert made is not None
    others = aws("sagemaker", "eu-west-1")
    others.create_model(ModelName="theirs", PrimaryContainer={"Image": "1.dkr.ecr/x"}, ExecutionRoleArn=made["Arn"])
    run.teardown()
    assert role(aws), "somebody's model uses it"
    others.delete_model(ModelName="theirs")
    run.teardown()
    assert role(aws) is None


def test_who_may_not_remove_the_role_can_still_tear_down_and_is_told(account: Served, aws: Aws, typed: Typed) -> None:
    run.deploy(run.plan(PLAIN, create_role=True))
    words = "User: a is not authorized to perform: iam:DeleteRolePolicy on resource: role jina-sm-execution"
    local.fault("error", "DeleteRolePolicy", port=account.port, status=403, reason=words)
    code, _, err = typed("teardown", "--all", "--yes")
    assert (code, bool(role(aws))) == (0, True)
    assert "role jina-sm-execution stays: removing it takes the policy that `jina-sm iam role-maker` prints" in err


def test_who_may_not_make_the_role_is_told_which_policy_it_takes(account: Served, aws: Aws) -> None:
    words = "User: a is not authorized to perform: iam:CreateRole on resource: arn:aws:iam::1:role/jina-sm-execution"
    local.fault("error", "CreateRole", port=account.port, status=403, reason=words)
    with pytest.raises(errors.AuthError, match="jina-sm iam role-maker"):
        run.deploy(run.plan(PLAIN, create_role=True))
    assert (role(aws), run.status(regions=[REGION]).found[REGION].state.empty) == (None, True)
