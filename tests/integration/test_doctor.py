"""
Every reason why a deployment would fail, found before anything is made: real boto3 over real HTTP, check by check.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any, Self

import boto3
import orjson
import pytest

from jina_sm import Spec, errors, local
from jina_sm.catalog import load
from jina_sm.clock import Clock
from jina_sm.deploy import doctor as looking
from jina_sm.deploy import run, ttl
from jina_sm.deploy.plan import Call
from jina_sm.deploy.preflight import Check, Room
from tests.conftest import SLOW_S, Served, Time, Told, variant

V3, RERANKER = "jina-embeddings-v3", "jina-reranker-v2-base-multilingual"
NAME = "jina-sm-embeddings-v3"
US, EU = "us-east-1", "eu-central-1"
G5, G5_2 = "ml.g5.xlarge", "ml.g5.2xlarge"
EXECUTION = "arn:aws:iam::123456789012:role/jina-sm-execution"
TRUST = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}


def spec(*regions: str, **fields: Any) -> Spec:
    return Spec(**{"model": V3, "regions": regions or (US,), **fields})


def checks(*specs: Spec, **options: Any) -> dict[tuple[str, str | None], Check]:
    """By name and region."""
    report = looking.doctor(specs or [spec()], **options)
    return {(each.name, each.region): each for each in report.checks}


def made(stack: Served, *regions: str) -> list[str]:
    """All that there is in those regions, by name; and the roles beside the stack's own."""
    found = [each["RoleName"] for each in stack.aws("iam").list_roles()["Roles"]]
    found.remove("jina-sm-execution")
    for region in regions or (US, EU):
        sagemaker = stack.aws("sagemaker", region)
        for kind in ("Endpoint", "EndpointConfig", "Model"):
            listed = getattr(
                sagemaker,
                {"Endpoint": "list_endpoints", "EndpointConfig": "list_endpoint_configs", "Model": "list_models"}[kind],
            )
            found += [each[f"{kind}Name"] for each in listed()[f"{kind}s"]]
        found += [
            each["Name"]
            for each in stack.aws("scheduler", region).list_schedule_groups()["ScheduleGroups"]
            if each["Name"] != "default"
        ]
    return found


def role(stack: Served, name: str, *statements: Any) -> str:
    policy = orjson.dumps({"Version": "2012-10-17", "Statement": statements}).decode()
    made = stack.aws("iam").create_role(RoleName=name, AssumeRolePolicyDocument=policy)
    return str(made["Role"]["Arn"])


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def test_with_everything_in_place_every_check_is_ok_and_nothing_is_made(account: Served) -> None:
    account.subscribe()
    report = looking.doctor([spec(US, EU)])
    assert [each for each in report.checks if each.verdict != "ok"] == []
    names = [each.name for each in report.checks]
    assert {name: names.count(name) for name in dict.fromkeys(names)} == {
        "credentials": 1, "role": 1, "pass-role": 1, "permissions": 2, "subscription": 1,
        "region": 2, "package": 2, "name": 2, "quota": 2,
    }  # fmt: skip
    assert made(account) == []


def test_sixteen_regions_are_looked_at_at_once(account: Served) -> None:
    regions = load(environ={}).regions
    report = looking.doctor([spec(*regions)])
    assert [each.name for each in report.failed] == ["subscription"]
    assert {each.region for each in report.checks if each.name == "quota"} == {*regions}
    began, meeting = threading.Barrier(16), []
    run.side_by_side(regions, lambda region, _: meeting.append(began.wait(30)))
    assert len(meeting) == 16


@pytest.mark.parametrize(("key", "words"), [("EXPIRED", "have expired"), (None, "no AWS credentials")])
def test_without_good_credentials_nothing_else_is_asked(
    account: Served, monkeypatch: pytest.MonkeyPatch, key: str | None, words: str
) -> None:
    if key:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (check,) = looking.doctor([spec()]).checks
    assert (check.name, check.verdict) == ("credentials", "fail")
    assert words in check.seen
    assert "aws sts get-caller-identity" in check.cure


def test_a_region_that_is_not_enabled_is_named_and_the_others_are_looked_at(slow: Served, slow_account: Clock) -> None:
    slow.subscribe()
    found = checks(spec("sa-east-1", US))
    off = found["region", "sa-east-1"]
    assert (off.verdict, off.seen) == ("fail", "the account has not enabled it")
    assert off.cure.startswith("`aws account enable-region --region-name sa-east-1`")
    assert (found["region", US].verdict, found["quota", US].verdict) == ("ok", "ok")
    with pytest.raises(
        errors.DeployError, match=r"sa-east-1 is not enabled for the account .*`aws account enable-region"
    ) as caught:
        run.plan(spec("sa-east-1"))
    assert not isinstance(caught.value, errors.AuthError)
    assert made(slow, US) == []


def test_a_region_that_does_not_answer_is_unknown_and_refuses_nothing(account: Served) -> None:
    account.subscribe()
    local.fault("error", "ListEndpoints", region=EU, port=account.port)
    found = checks(spec(US, EU))
    assert (found["region", EU].verdict, found["region", US].verdict) == ("unknown", "ok")
    assert found["name", EU].verdict == "unknown"


def test_a_throttled_control_plane_leaves_doubts_and_no_refusals(account: Served) -> None:
    account.subscribe()
    local.fault("throttle", "*", rate=0.5, port=account.port)
    report = looking.doctor([spec(US, EU, "eu-west-1")])
    assert report.failed == ()
    assert "unknown" in {each.verdict for each in report.checks}


# What is wrong in the account: what the check says of it, and what a deployment raises.
WRONG: list[tuple[str, dict[str, Any], str, str, type[errors.JinaSMError]]] = [
    ("pass-role", {"denied": ["iam:PassRole"]}, "may not pass it", "iam:PassRole allowed on arn:aws:iam", errors.AuthError),
    ("permissions", {"denied": ["sagemaker:CreateEndpoint"]}, "sagemaker:CreateEndpoint on endpoint/", "Have sagemaker:CreateEndpoint allowed to arn", errors.AuthError),
    ("permissions", {"denied": ["sagemaker:AddTags"]}, "sagemaker:AddTags on model/", "Have sagemaker:AddTags allowed", errors.AuthError),
    ("quota", {"quota": 0}, "0, in use 0, needed 1", f"`jina-sm quota request --instance-type {G5} --value 1 -r us-east-1", errors.QuotaError),
]  # fmt: skip


@pytest.mark.parametrize(("name", "scenario", "seen", "cure", "kind"), WRONG)
def test_what_is_sure_to_fail_is_a_fail_with_its_cure_and_refuses_before_anything_is_made(
    account: Served, name: str, scenario: dict[str, Any], seen: str, cure: str, kind: type[errors.JinaSMError]
) -> None:
    account.subscribe()
    local.change_scenario(account.port, **scenario)
    report = looking.doctor([spec(US, EU)])
    assert {each.name for each in report.failed} == {name}
    assert all(seen in each.seen for each in report.failed)
    assert cure in report.failed[0].cure
    with pytest.raises(kind) as caught:
        run.deploy(spec(US, EU))
    assert type(caught.value) is kind
    assert seen in str(caught.value)
    assert cure in str(caught.value)
    local.change_scenario(account.port, denied=[], quota=4)
    assert made(account) == []


def test_a_quota_is_asked_for_in_all_regions_with_one_command(account: Served) -> None:
    account.subscribe()
    local.change_scenario(account.port, quotas={G5: 0})
    with pytest.raises(errors.QuotaError, match=rf"--instance-type {G5} --value 2 -r {US} -r {EU}`"):
        run.plan(spec(US, EU, instance_count=2))


def test_without_a_subscription_the_next_command_and_the_listing_are_named(account: Served) -> None:
    check = checks()["subscription", None]
    assert check.verdict == "fail"
    for words in (f"`jina-sm subscribe {V3}`", "https://aws.amazon.com/marketplace/pp/prodview-kdi3xkt62lo32"):
        assert words in check.cure
        with pytest.raises(errors.NotSubscribedError, match=words):
            run.plan(spec())


def test_a_subscription_that_cannot_be_looked_up_is_unknown(account: Served) -> None:
    local.change_scenario(account.port, denied=["aws-marketplace:SearchAgreements"])
    assert checks()["subscription", None].verdict == "unknown"
    local.change_scenario(account.port, denied=[])
    shared = checks(shared_licence=True)["subscription", None]
    assert (shared.verdict, shared.seen) == ("unknown", "another account's licence; AWS has the last word")


def test_a_package_of_ones_own_needs_no_subscription(account: Served) -> None:
    known = load(environ={}).with_package(V3, f"arn:aws:sagemaker:{US}:123456789012:model-package/mine")
    found = checks(known=known)
    assert found["subscription", None].verdict == "ok"
    gone = found["package", US]
    assert (gone.verdict, gone.cure.split(" with ")[1]) == ("fail", "--package-arn.")
    assert "model-package/mine does not exist" in gone.seen


def test_a_package_that_is_not_there_refuses_before_anything_is_made(account: Served) -> None:
    account.subscribe()
    known = load(environ={}).with_package(V3, "jina-embeddings-v3-00000000000000000000000000000000")
    with pytest.raises(errors.DeployError, match=r"does not exist.*Marketplace console.*--package-arn"):
        run.deploy(spec(US, EU), known=known)
    assert made(account) == []


def test_a_package_that_is_not_made_for_the_type_says_for_which_it_is(account: Served) -> None:
    account.subscribe()
    check = checks(spec(instance_types=(G5, "ml.p3.2xlarge")))["package", US]
    assert check.verdict == "fail"
    assert check.seen.startswith(f"it is not made for ml.p3.2xlarge, but for {G5}")
    with pytest.raises(errors.DeployError, match=rf"not made for ml.p3.2xlarge.*--instance-type {G5}`"):
        run.deploy(spec(US, EU, instance_type="ml.p3.2xlarge"))
    assert made(account) == []


def test_a_package_that_may_not_be_looked_at_is_unknown_and_deployed_all_the_same(account: Served) -> None:
    account.subscribe()
    local.change_scenario(account.port, denied=["sagemaker:DescribeModelPackage"])
    assert checks()["package", US].verdict == "unknown"
    plan = run.plan(spec())
    assert [each.name for each in plan.regions[US].checks if each.verdict == "unknown"] == ["package"]
    assert run.deploy(plan)[US].status == "InService"


def test_a_role_that_is_not_there_or_not_trusted_or_not_ours_refuses(account: Served) -> None:
    account.subscribe()
    mine = role(account, "untrusted", {**TRUST, "Principal": {"Service": "ec2.amazonaws.com"}})
    for arn, seen in (
        ("arn:aws:iam::123456789012:role/nobody", "there is no role arn:aws:iam::123456789012:role/nobody"),
        ("arn:aws:iam::999999999999:role/jina-sm-execution", "it is of account 999999999999"),
        (mine, "sagemaker.amazonaws.com may not assume it"),
    ):
        check = checks(spec(role_arn=arn))["role", None]
        assert (check.verdict, check.seen) == ("fail", seen)
        assert "--role-arn" in check.cure
        with pytest.raises(errors.DeployError, match=seen):
            run.deploy(spec(US, EU, role_arn=arn))
    account.aws("iam").delete_role(RoleName="untrusted")
    assert made(account) == []


def test_no_role_by_convention_is_a_fail_and_the_rest_is_looked_at(account: Served) -> None:
    account.subscribe()
    account.aws("iam").delete_role(RoleName="jina-sm-execution")
    found = checks()
    assert (found["role", None].verdict, found["permissions", US].verdict) == ("fail", "ok")
    assert "no execution role" in found["role", None].seen
    assert "JINA_SM_ROLE_ARN" in found["role", None].cure


def test_a_role_that_may_be_listed_and_not_looked_at_is_judged_all_the_same(account: Served) -> None:
    trusted = role(account, "hidden", TRUST)
    other = role(account, "untrusted", {**TRUST, "Principal": {"Service": "ec2.amazonaws.com"}})
    local.change_scenario(account.port, denied=["iam:GetRole"])
    assert checks(spec(role_arn=trusted))["role", None].verdict == "ok"
    assert checks(spec(role_arn=other))["role", None].verdict == "fail"


def test_a_role_that_may_not_be_looked_at_is_unknown(account: Served) -> None:
    account.subscribe()
    arn = role(account, "hidden", TRUST)
    local.change_scenario(account.port, denied=["iam:GetRole", "iam:ListRoles"])
    check = checks(spec(role_arn=arn))["role", None]
    assert check.verdict == "unknown"
    assert "`jina-sm iam viewer` prints a policy with iam:ListRoles" in check.cure
    plan = run.plan(spec(role_arn=arn))
    assert [each.name for each in plan.checks if each.verdict == "unknown"] == ["role"]


def test_a_role_trusted_under_conditions_is_unknown(account: Served) -> None:
    arn = role(account, "conditional", {**TRUST, "Condition": {"StringEquals": {"aws:SourceAccount": "1"}}})
    check = checks(spec(role_arn=arn))["role", None]
    assert (check.verdict, "trust policy" in check.cure) == ("unknown", True)


def test_permissions_that_may_not_be_asked_for_are_unknown_and_said_in_the_plan(account: Served) -> None:
    account.subscribe()
    local.change_scenario(account.port, denied=["iam:SimulatePrincipalPolicy"])
    check = checks()["permissions", None]
    assert check.verdict == "unknown"
    assert "not authorized to perform: iam:SimulatePrincipalPolicy" in check.seen
    assert "`jina-sm iam viewer`" in check.cure
    plan = run.plan(spec())
    assert [(each.name, each.verdict) for each in plan.checks] == [("role", "ok"), ("permissions", "unknown")]


def test_a_permission_for_one_region_is_asked_for_from_there(account: Served) -> None:
    account.subscribe()
    local.change_scenario(account.port, denied=[f"sagemaker:CreateModel@{EU}"])
    found = checks(spec(US, EU))
    assert (found["permissions", US].verdict, found["permissions", EU].verdict) == ("ok", "fail")
    with pytest.raises(errors.AuthError, match=rf"CreateModel on model/{NAME}-\* \({EU}\)"):
        run.deploy(spec(US, EU))
    local.change_scenario(account.port, denied=[])
    assert made(account) == []


def test_who_may_make_and_not_remove_is_warned(account: Served) -> None:
    account.subscribe()
    local.change_scenario(account.port, denied=["sagemaker:DeleteEndpoint"])
    check = checks()["permissions", US]
    assert check.verdict == "warning"
    assert "could not be removed again: sagemaker:DeleteEndpoint" in check.seen
    assert run.plan(spec()).checks[-1] == check


def test_a_session_of_a_role_is_asked_for_as_the_role(account: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = orjson.dumps({"Version": "2012-10-17", "Statement": [TRUST]}).decode()
    made = account.aws("iam").create_role(RoleName="Deployer", Path="/team/", AssumeRolePolicyDocument=policy)
    given = account.aws("sts").assume_role(RoleArn=made["Role"]["Arn"], RoleSessionName="ada")["Credentials"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", given["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", given["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", given["SessionToken"])
    aws, asked = boto3.Session(), []
    aws.events.register(
        "before-parameter-build.iam.SimulatePrincipalPolicy",
        lambda params, **_: asked.append(params["PolicySourceArn"]),
    )
    found = checks(session=aws)
    assert ":assumed-role/Deployer/ada" in found["credentials", None].seen
    assert found["permissions", US].verdict == "ok"
    whole = "arn:aws:iam::123456789012:role/team/Deployer"
    for denied, source in (
        ([], whole),
        (["iam:GetRole"], whole),  # the role is among those listed
        (["iam:GetRole", "iam:ListRoles"], "arn:aws:iam::123456789012:role/Deployer"),
    ):
        asked.clear()
        local.change_scenario(account.port, denied=denied)
        assert checks(spec(role_arn=EXECUTION), session=aws)["permissions", US].verdict == "ok"
        assert {*asked} == {source}


def test_a_name_that_is_taken_refuses_in_every_region(account: Served) -> None:
    account.deploy(name=NAME, region=EU)
    check = checks(spec(US, EU))["name", EU]
    assert check.verdict == "fail"
    assert "was not made by this tool" in check.seen
    with pytest.raises(errors.NameTakenError):
        run.deploy(spec(US, EU))
    assert made(account, US) == []


def test_a_model_of_our_name_without_our_tags_refuses(account: Served) -> None:
    account.subscribe()
    model = run.plan(spec()).regions[US].desired.model_params
    account.aws("sagemaker").create_model(**{**model, "Tags": []})
    check = checks()["name", US]
    assert (check.verdict, check.seen) == ("fail", f"{model['ModelName']} is there without this tool's tags")
    with pytest.raises(errors.NameTakenError, match="without this tool's tags"):
        run.plan(spec())


def test_the_role_of_schedules_that_is_somebody_elses_is_a_fail(account: Served) -> None:
    account.subscribe()
    role(account, ttl.ROLE, TRUST)
    found = looking.doctor([spec(ttl=3600)]).checks
    assert [(each.verdict, each.subject) for each in found if each.name == "role"] == [
        ("fail", "of schedules"), ("ok", "jina-sm-execution"),
    ]  # fmt: skip


def test_what_is_in_use_is_counted_whoever_made_it(account: Served) -> None:
    local.change_scenario(account.port, quotas={G5: 3})
    account.deploy(name="theirs", instances=2)
    assert checks()["quota", US].seen == "3, in use 2, needed 1"
    with pytest.raises(errors.QuotaError, match=rf"3, in use 2, needed 2 \({US}\).*--value 4 -r {US}`"):
        run.plan(spec(instance_count=2))


def test_deploying_what_is_in_service_needs_no_quota_and_asks_for_none(account: Served) -> None:
    account.subscribe()
    run.deploy(spec())
    local.change_scenario(account.port, quota=1, denied=["servicequotas:*", "iam:SimulatePrincipalPolicy"])
    plan = run.plan(spec())
    assert (plan.empty, plan.checks, plan.regions[US].checks) == (True, (), ())
    local.change_scenario(account.port, denied=[])
    assert ("quota", US) not in checks()
    with pytest.raises(errors.QuotaError, match=r"1, in use 1, needed 1, as an update has new and old at once"):
        run.plan(spec(tags={"team": "a"}, instance_type=G5, instance_count=1, kms_key="alias/other"))


def test_a_fallback_without_quota_refuses_the_whole(account: Served) -> None:
    account.subscribe()
    local.change_scenario(account.port, quotas={G5_2: 0})
    several = spec(US, EU, instance_types=(G5, G5_2))
    with pytest.raises(errors.QuotaError, match=rf"fails the whole endpoint.*or do without {G5_2}"):
        run.deploy(several)
    assert made(account) == []
    assert run.deploy(spec(US))[US].status == "InService"


def test_autoscaling_that_the_quota_would_stop_is_a_warning(account: Served) -> None:
    account.subscribe()
    plan = run.plan(spec(autoscaling={"min": 1, "max": 9}))
    (check,) = [each for each in plan.regions[US].checks if each.name == "quota"]
    assert (check.verdict, check.seen) == ("warning", "4, in use 0, needed 1; scaling out would silently stop at 4")


def test_a_fleet_needs_its_quota_together(account: Served) -> None:
    local.change_scenario(account.port, quota=1)
    specs = [spec(), spec(model=RERANKER)]
    for each in specs:
        account.subscribe(each.model)
    plans = [run.plan(each) for each in specs]
    for refuses in (lambda: run.plan_all(specs), lambda: run.deploy_all(plans)):
        with pytest.raises(errors.QuotaError, match=rf"1, in use 0, needed 2 \({US}\).*--value 2"):
            refuses()
    assert checks(*specs)["quota", US].verdict == "fail"
    assert made(account) == []


def test_an_endpoint_that_comes_or_goes_counts(slow: Served, slow_account: Clock, time: Time) -> None:
    local.change_scenario(slow.port, quota=3)
    slow.deploy(name="theirs", instances=2)
    assert checks()["quota", US].seen == "3, in use 2, needed 1"
    time.move(SLOW_S)
    sagemaker = slow.aws("sagemaker")
    sagemaker.create_endpoint_config(EndpointConfigName="one", ProductionVariants=[variant("theirs")])
    sagemaker.update_endpoint(EndpointName="theirs", EndpointConfigName="one")
    assert checks()["quota", US].seen == "3, in use 3, needed 1", "an update has new and old at once"
    time.move(SLOW_S)
    assert checks()["quota", US].seen == "3, in use 1, needed 1"
    sagemaker.delete_endpoint(EndpointName="theirs")
    local.change_scenario(slow.port, quota=1)
    check = checks()["quota", US]
    assert (check.verdict, check.seen) == ("warning", "1, in use 0, needed 1, and 1 being deleted")


def test_ours_that_is_being_deleted_is_waited_for_and_needs_no_more(
    slow: Served, slow_account: Clock, time: Time
) -> None:
    slow.subscribe()
    local.change_scenario(slow.port, quota=1)
    sagemaker = slow.aws("sagemaker")
    for step in run.plan(spec()).regions[US].steps:
        if isinstance(step, Call):
            getattr(sagemaker, step.operation)(**step.params)
    time.move(SLOW_S)
    sagemaker.delete_endpoint(EndpointName=NAME)
    assert checks()["quota", US].seen == "1, in use 0, needed 1"
    waiting, making, _ = run.plan(spec()).regions[US].steps
    assert [str(waiting), str(making)] == [f"wait until {NAME} is gone", f"create endpoint {NAME}"]


def test_of_pools_the_type_that_was_had_is_in_use(account: Served) -> None:
    account.subscribe()
    local.change_scenario(account.port, capacity={G5: 0}, quota=1)
    run.deploy(spec(instance_types=(G5, G5_2)))
    found = looking.rooms(regions=[US], instance_types=[G5, G5_2])[US]
    assert [room.use.instances for room in found.values() if not isinstance(room.use, errors.JinaSMError)] == [0, 1]


def test_an_instance_whose_type_cannot_be_seen_is_a_warning(account: Served) -> None:
    account.deploy(name="theirs")
    account.aws("sagemaker").delete_endpoint_config(EndpointConfigName="theirs")
    local.change_scenario(account.port, quota=1)
    check = checks()["quota", US]
    assert check.verdict == "warning"
    assert "1 in use are of a type that cannot be seen" in check.seen


def room_of(found: dict[str, dict[str, Room]], kind: str = G5) -> Room:
    return found[US][kind]


def test_a_quota_is_found_by_code_then_by_name_then_among_the_defaults(account: Served) -> None:
    aws, asked = boto3.Session(), []
    aws.events.register("before-call.service-quotas", lambda model, **_: asked.append(model.name))
    local.change_scenario(account.port, quotas={"ml.g6.2xlarge": 7, G5: 5})

    def value(kind: str) -> tuple[int, bool]:
        asked.clear()
        quota = looking.rooms(regions=[US], instance_types=[kind], session=aws)[US][kind].quota
        assert not isinstance(quota, errors.JinaSMError)
        return quota.value, quota.applied

    assert value(G5) == (5, True)
    assert asked[0] == "GetServiceQuota"
    assert "ListServiceQuotas" not in asked
    assert value("ml.g6.2xlarge") == (7, True)
    assert asked[0] == "ListServiceQuotas"
    local.change_scenario(account.port, applied_quotas=False)
    assert value(G5) == (5, False)
    assert value("ml.g6.2xlarge") == (7, False)
    assert "ListAWSDefaultServiceQuotas" in asked


def test_a_code_that_has_come_to_mean_something_else_is_not_believed(account: Served) -> None:
    known = load(environ={})
    wrong = {**known.quotas.codes, "ml.g6.2xlarge": known.quotas.codes[G5]}
    known = dataclasses.replace(known, quotas=dataclasses.replace(known.quotas, codes=wrong))
    local.change_scenario(account.port, quotas={"ml.g6.2xlarge": 7, G5: 5})
    quota = room_of(looking.rooms(regions=[US], instance_types=["ml.g6.2xlarge"], known=known), "ml.g6.2xlarge").quota
    assert not isinstance(quota, errors.JinaSMError)
    assert quota.value == 7


def test_a_type_that_has_no_quota_is_unknown(account: Served) -> None:
    account.subscribe()
    found = looking.doctor(regions=[US], instance_types=["ml.g99.xlarge"]).checks
    (check,) = [each for each in found if each.name == "quota"]
    assert check.verdict == "unknown"
    assert "no quota named 'ml.g99.xlarge for endpoint usage'" in check.seen


def test_quotas_that_may_not_be_read_are_unknown_and_refuse_nothing(account: Served) -> None:
    account.subscribe()
    local.change_scenario(account.port, denied=["servicequotas:*"])
    assert checks()["quota", US].verdict == "unknown"
    plan = run.plan(spec())
    assert [each.verdict for each in plan.regions[US].checks if each.name == "quota"] == ["unknown"]
    assert run.deploy(plan)[US].status == "InService"


def test_where_endpoints_may_not_be_listed_cloudwatch_tells_what_is_in_use(account: Served) -> None:
    account.deploy(name="theirs", instances=4)
    local.change_scenario(account.port, denied=["sagemaker:ListEndpoints"])
    room = room_of(looking.rooms(regions=[US]))
    assert not isinstance(room.use, errors.JinaSMError)
    assert (room.use.instances, room.use.counted) == (4, False)
    check = checks()["quota", US]
    assert (check.verdict, check.seen) == ("warning", "4, in use 4, needed 1")


def test_what_cloudwatch_tells_counts_from_the_first_moment_of_its_minute(
    account: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Turn(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz).replace(second=0, microsecond=0)

    account.deploy(name="theirs", instances=4)
    local.change_scenario(account.port, denied=["sagemaker:ListEndpoints"])
    for module in ("jina_sm.local.behind", "jina_sm.deploy.quotas"):
        monkeypatch.setattr(f"{module}.datetime", Turn)
    room = room_of(looking.rooms(regions=[US]))
    assert not isinstance(room.use, errors.JinaSMError)
    assert room.use.instances == 4


def test_with_very_many_endpoints_cloudwatch_must_do(account: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    account.deploy(name="theirs", instances=2)
    monkeypatch.setattr("jina_sm.deploy.quotas.COUNTED", 0)
    check = checks()["quota", US]
    assert (check.verdict, check.seen) == ("ok", "4, in use 2, needed 1")
    assert checks()["region", US].verdict == "ok"


def test_what_cloudwatch_does_not_tell_is_not_none_in_use(account: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    account.subscribe()
    monkeypatch.setattr("jina_sm.deploy.quotas.COUNTED", -1)
    check = checks()["quota", US]
    assert (check.verdict, check.seen.partition(" (")[0]) == ("unknown", "4, in use unknown, needed 1")


def test_the_preflight_can_be_left_out_and_aws_refuses_then(account: Served) -> None:
    account.subscribe()
    local.change_scenario(account.port, quota=0)
    plan = run.plan(spec(), preflight=False)
    assert (plan.checks, plan.regions[US].checks) == ((), ())
    with pytest.raises(
        errors.QuotaError, match=rf"is 0 Instances.*`jina-sm quota request --instance-type {G5} --value 1 -r {US}`"
    ):
        run.deploy(plan)
    assert made(account) == []


def test_a_look_that_fails_in_a_way_not_foreseen_stops_no_deployment(account: Served) -> None:
    account.subscribe()
    aws = boto3.Session()

    def strange(parsed: dict[str, Any], **_: Any) -> None:
        parsed.pop("Quota", None)
        parsed.pop("EvaluationResults", None)
        parsed["InferenceSpecification"] = []

    for operation in (
        "service-quotas.GetServiceQuota",
        "iam.SimulatePrincipalPolicy",
        "sagemaker.DescribeModelPackage",
    ):
        aws.events.register(f"after-call.{operation}", strange)
    plan = run.plan(spec(), session=aws)
    doubted = {each.name for each in (*plan.checks, *plan.regions[US].checks) if each.verdict == "unknown"}
    assert doubted == {"permissions", "package", "quota"}
    assert run.deploy(plan, session=aws)[US].status == "InService"


@pytest.fixture
def shown(typed: Callable[..., Told], account: Served) -> Callable[..., Told]:
    return typed


def test_the_doctor_says_all_on_its_lines_and_its_exit_code(shown: Callable[..., Told], account: Served) -> None:
    code, out, err = shown("doctor", V3, "-r", US, "-r", EU)
    assert code == 1
    lines = out.splitlines()
    assert lines[0].startswith("ok       credentials   arn:aws:")
    assert any(line.startswith("fail     subscription  the account is not subscribed") for line in lines)
    assert f"-> `jina-sm subscribe {V3}`" in out
    assert f"in {US}, {EU}: 4, in use 0, needed 1" in out
    assert "1 fail: it would fail" in err
    account.subscribe()
    code, out, err = shown("doctor", V3)
    assert (code, "fail" in out) == (0, False)
    assert "nothing that would stop it was found" in err
    assert shown("doctor")[0] == 0


def test_the_doctor_speaks_json_and_reads_files(shown: Callable[..., Told], tmp_path: Any) -> None:
    file = tmp_path / "jina-sm.toml"
    file.write_text(f'[[models]]\nmodel = "{V3}"\nregions = ["{EU}"]\n', encoding="utf-8")
    code, out, _ = shown("doctor", "-f", str(file), "--json")
    said = orjson.loads(out)
    assert (code, said["ok"]) == (1, False)
    (failed,) = [each for each in said["checks"] if each["verdict"] == "fail"]
    assert set(failed) == {"name", "region", "subject", "verdict", "seen", "cure"}
    assert {each["region"] for each in said["checks"]} == {None, EU}


@pytest.mark.parametrize(
    "words",
    [
        ("doctor", V3, "-f", "x.toml"),
        ("doctor", "--name", "x"),
        ("doctor", "--instance-count", "2"),
        ("doctor", "no-such-model"),
        ("doctor", "-r", "nowhere"),
        ("quota", "--json", "request", "--instance-type", G5, "--value", "9"),
        ("quota", "request", "--instance-type", G5, "--value", "9"),
        ("quota", "request", "--instance-type", G5, "--value", "4", "--yes"),
        ("quota", "request", "--instance-type", G5, "--value", "0", "--yes"),
    ],
)
def test_what_is_asked_wrongly_is_refused_and_asks_aws_for_nothing(
    shown: Callable[..., Told], account: Served, words: tuple[str, ...]
) -> None:
    code, out, err = shown(*words)
    assert (code, out) == (2, "")
    assert "rror: " in err
    assert account.aws("service-quotas").list_requested_service_quota_change_history()["RequestedQuotas"] == []


def test_the_quota_is_shown_with_what_is_in_use_and_left(shown: Callable[..., Told], account: Served) -> None:
    account.deploy(name="theirs", instances=3)
    code, out, _ = shown("quota", "-r", US, "-r", EU, "--instance-type", G5)
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:]] == [
        [US, G5, "4", "3", "1", "-", "L-1928E07B"],
        [EU, G5, "4", "0", "4", "-", "L-1928E07B"],
    ]
    first = orjson.loads(shown("quota", "--json")[1])[0]
    assert (first["quota"], first["in_use"], first["left"], first["in_use_source"]) == (4, 3, 1, "endpoints")
    local.change_scenario(account.port, denied=["servicequotas:GetServiceQuota"])
    code, out, err = shown("quota")
    assert (code, out.splitlines()[1].split()[2:5]) == (1, ["-", "3", "-"])
    assert "not authorized to perform: servicequotas:GetServiceQuota" in err


def test_an_increase_is_shown_asked_for_once_and_named_afterwards(shown: Callable[..., Told], account: Served) -> None:
    asking = ("quota", "request", "--instance-type", G5, "--value", "8", "-r", US, "-r", EU)
    before = datetime.now(UTC).date()
    code, out, err = shown(*asking, "--yes")
    assert code == 0
    assert f"{US}: from 4 to 8 {G5} (quota L-1928E07B)" in err
    assert f"{EU}: asked for 8 {G5}, PENDING (request " in out
    code, out, _ = shown(*asking)
    assert code == 0, "nothing is left to ask for, so nothing is to be confirmed"
    assert out.count("already asked for on ") == 2
    assert "8 (PENDING)" in shown("quota")[1]
    for region in (US, EU):
        history = account.aws("service-quotas", region).list_requested_service_quota_change_history()
        assert len(history["RequestedQuotas"]) == 1
    local.change_scenario(account.port, quota=0)
    account.subscribe()
    days = {before, datetime.now(UTC).date()}
    said = shown("deploy", V3, "--yes")[2]
    assert any(f"An increase to 8 was asked for on {day} and is PENDING" in said for day in days)
    local.change_scenario(account.port, quota=8)
    assert "-" in shown("quota")[1].splitlines()[1].split()


def test_an_increase_that_another_run_asked_for_meanwhile_is_taken_for_it(account: Served) -> None:
    aws = boto3.Session()

    def first(**_: Any) -> None:
        asked = {"ServiceCode": "sagemaker", "QuotaCode": "L-1928E07B", "DesiredValue": 6.0}
        account.aws("service-quotas").request_service_quota_increase(**asked)

    aws.events.register_first("before-call.service-quotas.RequestServiceQuotaIncrease", first)
    (each,) = looking.ask(G5, 9, regions=[US], session=aws).values()
    assert (each.new, each.desired, each.status) == (False, 6, "PENDING")


def test_a_plan_shows_what_could_not_be_found_out(shown: Callable[..., Told], account: Served) -> None:
    account.subscribe()
    local.change_scenario(account.port, denied=["iam:SimulatePrincipalPolicy", "servicequotas:*"])
    code, out, _ = shown("deploy", V3, "--plan")
    assert code == 0
    assert "\n! permissions: IAM could not be asked: User: " in out
    assert f"\n  ! quota {G5}: User: " in out
    said = orjson.loads(shown("deploy", V3, "--plan", "--json")[1])
    assert [each["verdict"] for each in said["checks"]] == ["ok", "unknown"]
    assert {each["name"]: each["verdict"] for each in said["regions"][US]["checks"]}["quota"] == "unknown"
    local.change_scenario(account.port, denied=[], quota=0)
    assert shown("deploy", V3, "--plan", "--no-preflight")[0] == 0
    assert shown("deploy", V3, "--plan")[0] == 1


def test_the_stack_is_told_what_to_deny_by_the_command_line(shown: Callable[..., Told], account: Served) -> None:
    _, out, _ = shown("local", "scenario", "denied=iam:PassRole,sagemaker:Create*")
    assert orjson.loads(out)["denied"] == ["iam:PassRole", "sagemaker:Create*"]
    assert orjson.loads(shown("local", "scenario", "denied=")[1])["denied"] == []
