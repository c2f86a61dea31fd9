"""What would stop a deployment, judged by what is known; and what IAM is asked for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import botocore
import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import errors
from jina_sm.deploy import permissions, plan, preflight
from jina_sm.deploy.permissions import Decision, Permission
from jina_sm.deploy.plan import State
from jina_sm.deploy.preflight import Check, Increase, Need, Quota, Role, Room, Use
from jina_sm.deploy.scaling import Scaling, Target
from tests.contract.test_aws_words import planned
from tests.unit.test_plan import CONFIG, DESIRED, MODEL, NAME, endpoint

REGION = "us-east-1"
G5 = "ml.g5.xlarge"
LOST = errors.DeployError("AWS could not be reached")
ONE = Need(instance_type=G5, more=1)
THERE = State(endpoints=(endpoint(),), configs=(CONFIG,), models=(MODEL,))


def room(value: int, used: int | errors.JinaSMError = 0, *, asked: int | None = None, **use: Any) -> Room:
    pending = Increase(
        instance_type=G5,
        region=REGION,
        desired=asked or 0,
        status="PENDING",
        request_id="r",
        created="2026-11-20T10:00",
    )
    return Room(
        quota=Quota(instance_type=G5, region=REGION, code="L-1", value=value),
        use=used if isinstance(used, errors.JinaSMError) else Use(instances=used, **use),
        open=pending if asked else None,
    )


REQUEST = "`jina-sm quota request --instance-type ml.g5.xlarge --value {} -r us-east-1`"


@pytest.mark.parametrize(
    ("need", "there", "verdict", "seen", "cure"),
    [
        (ONE, room(1), "ok", "1, in use 0, needed 1", ""),
        (ONE, room(0), "fail", "0, in use 0, needed 1", REQUEST.format(1)),
        (ONE, room(0, LOST), "fail", "in use unknown", REQUEST.format(1)),
        (ONE, room(2, 2), "fail", "2, in use 2, needed 1", REQUEST.format(3)),
        (ONE, room(2, 2, asked=4), "fail", "2, in use 2", "increase to 4 was asked for on 2026-11-20 and is PENDING"),
        (ONE, room(2, LOST), "unknown", "could not be reached", ""),
        (ONE, Room(quota=LOST, use=Use(instances=0)), "unknown", "could not be reached", ""),
        (ONE, room(2, 2, counted=False), "warning", "in use 2", REQUEST.format(3)),
        (ONE, room(2, 1, unseen=1), "warning", "1 in use are of a type that cannot be seen", REQUEST.format(2)),
        (ONE, room(2, 2, unseen=1), "fail", "2, in use 2", REQUEST.format(3)),
        (Need(instance_type=G5, more=2, beside=True), room(3, 2), "fail", "new and old at once", REQUEST.format(4)),
        (Need(instance_type=G5, more=1, fallback=True), room(0), "fail", "fails the whole endpoint", "do without ml.g5.xlarge"),
        (Need(instance_type=G5, more=1, scaling=3), room(4, 1), "warning", "scaling out would silently stop at 3", REQUEST.format(5)),
        (Need(instance_type=G5, more=1, scaling=3), room(5, 1), "ok", "needed 1", ""),
        (ONE, room(1, 0, going={"theirs": 1}), "warning", "1, in use 0, needed 1, and 1 being deleted", "Deploy when they are gone."),
        (Need(instance_type=G5, more=1, frees=frozenset({NAME})), room(1, 0, going={NAME: 1}), "ok", "in use 0", ""),
        (Need(instance_type=G5, more=1, moving=True), room(2, 2), "warning", "in use 2", REQUEST.format(3)),
    ],
)  # fmt: skip
def test_a_quota_is_judged_by_what_it_leaves(need: Need, there: Room, verdict: str, seen: str, cure: str) -> None:
    check = preflight.quota(REGION, need, there)
    assert check.verdict == verdict
    assert seen in check.seen
    assert cure in check.cure
    assert bool(cure) == bool(check.cure)


@given(value=st.integers(0, 9), used=st.integers(0, 9), more=st.integers(1, 9), unseen=st.integers(0, 3))
def test_what_has_room_is_never_refused_and_what_has_none_never_passes(
    value: int, used: int, more: int, unseen: int
) -> None:
    check = preflight.quota(REGION, Need(instance_type=G5, more=more), room(value, used, unseen=unseen))
    assert (check.verdict == "fail") == (used + more > value)
    assert (check.verdict == "ok") == (used + more + unseen <= value)


def test_what_is_in_service_as_it_should_be_needs_no_quota() -> None:
    assert preflight.needs(DESIRED, THERE, plan.deployment(DESIRED, THERE)) == ()


def test_an_update_needs_its_instances_beside_the_old_and_as_many_as_the_load_has() -> None:
    larger = dataclasses.replace(DESIRED, instance_type="ml.g5.2xlarge", scaling=Scaling(least=1, most=8, target=5.0))
    serving = dataclasses.replace(endpoint(), instances=3)
    state = dataclasses.replace(THERE, endpoints=(serving,), targets=(Target(endpoint=NAME, least=1, most=8),))
    (need,) = preflight.needs(larger, state, plan.deployment(larger, state))
    assert (need.more, need.scaling, need.beside, need.frees) == (3, 5, True, frozenset())


def test_other_bounds_need_what_they_add_to_what_is_there() -> None:
    scaled = dataclasses.replace(DESIRED, instance_count=3, scaling=Scaling(least=3, most=8, target=5.0))
    serving = {**DESIRED.model_params, **DESIRED.config_params}
    there = dataclasses.replace(
        THERE,
        endpoints=(dataclasses.replace(endpoint(), instances=2),),
        targets=(Target(endpoint=NAME, least=1, most=8),),
        serving=serving,
    )
    (need,) = preflight.needs(scaled, there, plan.deployment(scaled, there))
    assert (need.more, need.scaling, need.has, need.beside) == (1, 5, 2, False)
    assert preflight.quota(REGION, need, room(2, 2)).verdict == "fail"
    assert "would silently stop at 4" in preflight.quota(REGION, need, room(4, 2)).seen
    assert preflight.quota(REGION, need, room(8, 2)).verdict == "ok"


def test_a_count_that_went_astray_needs_the_difference() -> None:
    three = dataclasses.replace(DESIRED, instance_count=3)
    config = three.config_params["EndpointConfigName"]
    fewer = dataclasses.replace(endpoint(config=config), instances=1, wanted=1)
    there = State(endpoints=(fewer,), configs=(config,), models=(MODEL,))
    (need,) = preflight.needs(three, there, plan.deployment(three, there))
    assert (need.more, need.scaling, need.has, need.beside) == (2, 0, 1, False)


def test_bounds_that_add_nothing_are_refused_for_no_quota() -> None:
    lower = dataclasses.replace(DESIRED, scaling=Scaling(least=1, most=2, target=5.0))
    busy = dataclasses.replace(endpoint(), instances=4)
    there = dataclasses.replace(THERE, endpoints=(busy,), targets=(Target(endpoint=NAME, least=1, most=8),))
    (need,) = preflight.needs(lower, there, plan.deployment(lower, there))
    assert (need.more, need.scaling) == (0, 0)
    assert preflight.quota(REGION, need, room(3, 4)).verdict == "ok"


def test_one_that_has_to_go_first_frees_its_instances() -> None:
    failed = dataclasses.replace(THERE, endpoints=(endpoint("Deleting"),))
    (need,) = preflight.needs(DESIRED, failed, plan.deployment(DESIRED, failed))
    assert (need.beside, need.frees) == (False, {NAME})


def test_each_type_that_is_tried_needs_its_quota() -> None:
    several = dataclasses.replace(DESIRED, fallbacks=("ml.g5.2xlarge",))
    needs = preflight.needs(several, State(), plan.deployment(several, State()))
    assert [(need.instance_type, need.fallback) for need in needs] == [(G5, False), ("ml.g5.2xlarge", True)]


def test_several_models_need_what_they_need_together() -> None:
    (need,) = preflight.together([ONE, Need(instance_type=G5, more=2, scaling=1, fallback=True)])
    assert (need.more, need.scaling, need.fallback) == (3, 1, False)


def policy(*statements: Any) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [*statements]}


ALLOW = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}


@pytest.mark.parametrize(
    ("document", "trusted"),
    [
        (policy(ALLOW), True),
        ({"Statement": ALLOW}, True),
        (policy({**ALLOW, "Principal": {"Service": ["ec2.amazonaws.com", "sagemaker.amazonaws.com"]}}), True),
        (policy({**ALLOW, "Action": ["sts:TagSession", "sts:*"]}), True),
        (policy({**ALLOW, "Principal": {"Service": "ec2.amazonaws.com"}}), False),
        (policy({**ALLOW, "Principal": {"AWS": "arn:aws:iam::123456789012:root"}}), False),
        (policy({**ALLOW, "Action": "sts:TagSession"}), False),
        (policy(ALLOW, {**ALLOW, "Effect": "Deny"}), False),
        (policy(ALLOW, {**ALLOW, "Effect": "Deny", "Principal": "*"}), False),
        (policy({**ALLOW, "Condition": {"StringEquals": {"aws:SourceAccount": "1"}}}), None),
        (policy(ALLOW, {**ALLOW, "Effect": "Deny", "Condition": {"Bool": {}}}), None),
        (policy(), False),
        ("%7B%7D", None),
        (policy("?"), None),
    ],
)
def test_a_role_is_trusted_by_what_its_policy_says(document: Any, trusted: bool | None) -> None:
    assert preflight.trusts(document) is trusted
    check = preflight.role(Role(arn="arn:aws:iam::1:role/r", trust=document), "1")
    assert check.verdict == {True: "ok", False: "fail", None: "unknown"}[trusted]


def test_a_role_of_another_account_cannot_be_passed() -> None:
    check = preflight.role(Role(arn="arn:aws:iam::2:role/r", trust=policy(ALLOW)), "1")
    assert (check.verdict, check.seen) == ("fail", "it is of account 2")


@pytest.mark.parametrize(
    ("arn", "source"),
    [
        ("arn:aws:iam::1:user/team/ada", "arn:aws:iam::1:user/team/ada"),
        ("arn:aws:sts::1:assumed-role/Deployer/ada@example.com", "arn:aws:iam::1:role/Deployer"),
        ("arn:aws:sts::1:federated-user/ada", None),
        ("arn:aws:iam::1:root", None),
    ],
)
def test_whose_policies_count(arn: str, source: str | None) -> None:
    assert permissions.principal(arn) == source


def test_every_planned_call_has_an_action_and_a_resource_that_iam_knows_how_to_weigh() -> None:
    session = botocore.session.get_session()
    for call in planned():
        wanted = permissions.wanted([call], region=REGION, partition="aws", account="123456789012")
        first = wanted[0]
        assert first.action == permissions.action_of(call)
        operation = first.action.partition(":")[2]
        assert operation in session.get_service_model(call.service).operation_names
        assert all(each.resource.startswith("arn:aws:") and "None" not in each.resource for each in wanted)
        if "ExecutionRoleArn" in call.params or "Target" in call.params:
            assert [each.passed_to for each in wanted if each.action == "iam:PassRole"] == [
                f"{call.service}.amazonaws.com"
            ]
    questions = permissions.questions(
        permissions.wanted(planned(), region=REGION, partition="aws", account="123456789012"),
        permissions.circumstances(planned()),
    )
    shape = session.get_service_model("iam").operation_model("SimulatePrincipalPolicy").input_shape
    for each in questions:
        asked = {
            "PolicySourceArn": "arn:aws:iam::123456789012:user/ada",
            "ActionNames": [*each.actions],
            "ResourceArns": [*each.resources],
            "ContextEntries": [*each.context],
        }
        assert not botocore.validate.ParamValidator().validate(asked, shape).has_errors()


def test_the_endpoint_and_its_config_are_both_weighed_and_so_is_undoing() -> None:
    steps = plan.deployment(DESIRED, State())
    wanted = permissions.wanted(steps, region=REGION, partition="aws", account="1")
    of = f"arn:aws:sagemaker:{REGION}:1:"
    assert {each.resource for each in wanted if each.action == "sagemaker:CreateEndpoint"} == {
        f"{of}endpoint/{NAME}",
        f"{of}endpoint-config/{CONFIG}",
    }
    assert {each.action for each in wanted if not each.needed} == {
        "sagemaker:DeleteModel", "sagemaker:DeleteEndpointConfig", "sagemaker:DeleteEndpoint",
    }  # fmt: skip
    context = {
        each["ContextKeyName"]: each["ContextKeyValues"]
        for each in permissions.questions(wanted, permissions.circumstances(steps))[0].context
    }
    assert context["aws:RequestTag/managed-by"] == ["jina-sm"]
    assert context["aws:RequestedRegion"] == [REGION]
    assert context["sagemaker:InstanceTypes"] == [G5]


@pytest.mark.parametrize(
    ("word", "missing", "allowed"),
    [
        ("allowed", (), True),
        ("implicitDeny", (), False),
        ("explicitDeny", (), False),
        ("explicitDeny", ("aws:SourceIp",), False),
        ("implicitDeny", ("aws:SourceIp",), None),
        ("allowed", ("aws:SourceIp",), None),
        ("", (), None),
    ],
)
def test_what_the_simulator_was_not_told_leaves_it_open(
    word: str, missing: tuple[str, ...], allowed: bool | None
) -> None:
    permission = Permission(action="sagemaker:CreateModel", resource="arn:x", region=REGION)
    said = {("sagemaker:createmodel", "arn:x"): (word, missing)} if word else {}
    assert permissions.decided(permission, said).allowed is allowed


def decision(action: str, allowed: bool | None, **more: Any) -> Decision:
    return Decision(action=action, resource="arn:aws:sagemaker:r:1:endpoint/e", region=REGION, allowed=allowed, **more)


@pytest.mark.parametrize(
    ("decisions", "verdict", "seen"),
    [
        ([decision("sagemaker:CreateModel", True)], "ok", "1 actions"),
        ([decision("sagemaker:CreateModel", False)], "fail", "not allowed: sagemaker:CreateModel on endpoint/e"),
        ([decision("sagemaker:DeleteModel", False, needed=False)], "warning", "could not be removed again"),
        ([decision("sagemaker:CreateModel", None, missing=("aws:SourceIp",))], "unknown", "depends on aws:SourceIp"),
        (errors.AuthError("not authorized"), "unknown", "IAM could not be asked: not authorized"),
    ],
)  # fmt: skip
def test_permissions_are_judged_by_what_iam_decides(decisions: Any, verdict: str, seen: str) -> None:
    (check,) = preflight.permissions(decisions, "arn:aws:iam::1:user/ada")
    assert check.verdict == verdict
    assert seen in check.seen
    assert bool(check.cure) == (verdict != "ok")
    if verdict == "fail":
        assert check.cure == "Have sagemaker:CreateModel allowed to arn:aws:iam::1:user/ada."


def test_passing_a_role_is_judged_by_itself() -> None:
    role = "arn:aws:iam::1:role/r"
    for allowed, verdict in ((True, "ok"), (False, "fail"), (None, "unknown")):
        decided = Decision(action="iam:PassRole", resource=role, to_sagemaker=True, allowed=allowed, missing=("x",))
        assert preflight.passing([decided], role).verdict == verdict
        assert preflight.permissions([decided], "who") == ()
    assert preflight.passing(LOST, role).verdict == "unknown"
    assert preflight.passing([], role).cure == preflight.AWS_SAYS


def test_a_name_is_free_or_ours_or_in_the_way() -> None:
    assert preflight.name(DESIRED, State()).seen == "free"
    assert preflight.name(DESIRED, THERE).seen == "in service as it should be"
    assert preflight.name(dataclasses.replace(DESIRED, instance_count=2), THERE).seen == "ours"
    theirs = State(endpoints=(endpoint(tags={}),))
    assert "was not made by this tool" in preflight.name(DESIRED, theirs).seen
    untagged = preflight.name(DESIRED, State(foreign=frozenset({MODEL})))
    assert (untagged.verdict, untagged.seen) == ("fail", f"{MODEL} is there without this tool's tags")
    assert preflight.name(DESIRED, dataclasses.replace(THERE, foreign=frozenset({MODEL}))).verdict == "ok"


def failed(region: str, name: str = "quota", seen: str = "0, in use 0", cure: str = "`ask -r {}`.") -> Check:
    return Check(name=name, verdict="fail", seen=seen, region=region, subject="x", cure=cure.format(region))


def test_all_that_fails_is_one_error_with_each_cure_once() -> None:
    ok = Check(name="name", verdict="ok", seen="free", region="a")
    assert preflight.refusal([ok]) is None
    alone = preflight.refusal([ok, failed("a"), failed("b")])
    assert isinstance(alone, errors.QuotaError)
    assert str(alone) == "quota x: 0, in use 0 (a, b). `ask -r a -r b`."
    several = preflight.refusal([failed("a"), failed("b", seen="1, in use 1"), failed("b", "name", "taken", "Rename.")])
    assert isinstance(several, errors.QuotaError)
    assert str(several) == "quota x: 0, in use 0 (a); quota x: 1, in use 1 (b); taken (b). `ask -r a -r b`. Rename."


def test_every_check_that_can_fail_has_its_error() -> None:
    for name, kind in preflight.RAISED.items():
        assert type(preflight.refusal([failed("a", name)])) is kind


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("is 0 Instances, with current utilization of 0 Instances and a request delta of 1 Instances. Please", 1),
        ("is 4 Instances, with current utilization of 3 Instances and a request delta of 2 Instances.", 5),
        ("is 4 Instances", 5),
    ],
)
def test_awss_refusal_leads_to_the_command_that_asks_for_more(words: str, value: int) -> None:
    said = f"The account-level service limit 'ml.p4d.24xlarge for endpoint usage' {words}"
    assert f"--instance-type ml.p4d.24xlarge --value {value} -r eu-west-1`" in preflight.over_quota(said, "eu-west-1")


def test_without_a_type_in_it_the_refusal_leads_to_the_quotas() -> None:
    assert "`jina-sm quota -r eu-west-1`" in preflight.over_quota("You have too many endpoints", "eu-west-1")
