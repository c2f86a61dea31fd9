"""
Where the parts of a deployment meet: several models, a role that is yet to be made, a licence that is another's.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jina_sm import Spec, errors, local
from jina_sm.deploy import doctor as looking
from jina_sm.deploy import run
from tests.conftest import Served, Told

V3, RERANKER = "jina-embeddings-v3", "jina-reranker-v2-base-multilingual"
US, EU = "us-east-1", "eu-central-1"
NO_ROLE = "jina-sm-execution"


def spec(model: str = V3, *regions: str, **fields: object) -> Spec:
    return Spec(**{"model": model, "regions": regions or (US, EU), **fields})


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.fixture
def roleless(account: Served) -> Served:
    iam = account.aws("iam")
    for policy in iam.list_attached_role_policies(RoleName=NO_ROLE)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=NO_ROLE, PolicyArn=policy["PolicyArn"])
    iam.delete_role(RoleName=NO_ROLE)
    account.subscribe()
    return account


def test_every_model_that_is_refused_is_named_at_once(account: Served) -> None:
    with pytest.raises(errors.NotSubscribedError) as caught:
        run.plan_all([spec(V3), spec(RERANKER)])
    assert f"subscribed to {V3}; the account is not subscribed to {RERANKER}" in caught.value.message
    assert f"`jina-sm subscribe {V3}`" in str(caught.value)
    assert f"`jina-sm subscribe {RERANKER}`" in str(caught.value)
    account.subscribe(RERANKER)
    with pytest.raises(errors.NotSubscribedError) as caught:
        run.plan_all([spec(V3), spec(RERANKER)])
    assert RERANKER not in str(caught.value)


def test_what_refuses_every_model_alike_is_said_once(account: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "EXPIRED")
    with pytest.raises(errors.AuthError) as caught:
        run.plan_all([spec(V3), spec(RERANKER), spec(V3, name="again")])
    assert str(caught.value).count("have expired") == 1


def test_models_that_together_leave_no_room_to_scale_are_told_in_the_plan_as_by_the_doctor(account: Served) -> None:
    account.subscribe(V3)
    account.subscribe(RERANKER)
    specs = [spec(V3, autoscaling={"min": 1, "max": 4}), spec(RERANKER)]
    seen = "4, in use 0, needed 2; scaling out would silently stop at 4"
    told = [check.seen for plan in run.plan_all(specs) for each in plan.regions.values() for check in each.checks]
    assert told.count(seen) == 4  # of each model in each region
    assert [each.seen for each in looking.doctor(specs).checks if each.name == "quota"] == [seen, seen]


def test_a_role_that_may_not_be_passed_is_not_made(roleless: Served) -> None:
    local.change_scenario(roleless.port, denied=["iam:PassRole"])
    with pytest.raises(errors.AuthError, match=r"may not pass it .*`jina-sm iam operator` prints"):
        run.plan(spec(), create_role=True)
    local.change_scenario(roleless.port, denied=[])
    assert [each.name for each in run.plan(spec(), create_role=True).checks if each.verdict != "ok"] == []


def test_permissions_that_lack_are_in_a_policy_that_is_named(account: Served) -> None:
    account.subscribe()
    local.change_scenario(account.port, denied=["sagemaker:CreateModel"])
    with pytest.raises(errors.AuthError, match=r"Have sagemaker:CreateModel allowed to .*: `jina-sm iam operator` has"):
        run.plan(spec())


def test_a_shared_licence_that_there_is_not_names_the_model_to_subscribe_to(account: Served) -> None:
    plan = run.plan(spec(V3, US), shared_licence=True)
    with pytest.raises(errors.NotSubscribedError) as caught:
        run.deploy(plan)
    assert caught.value.cure == f"`jina-sm subscribe {V3}` subscribes."


def test_a_key_that_encrypts_no_local_storage_is_warned_of(account: Served) -> None:
    account.subscribe()
    wanted = spec(V3, US, kms_key="alias/search")
    (check,) = (each for each in run.plan(wanted).regions[US].checks if each.name == "kms-key")
    assert (check.verdict, check.subject) == ("warning", "alias/search")
    assert check.seen.startswith("ml.g5.xlarge has local storage, which by AWS's documentation")
    assert [each for each in looking.doctor([wanted]).checks if each.name == "kms-key"] == [check]
    without = spec(V3, US, kms_key="alias/search", instance_type="ml.p3.2xlarge")
    assert "kms-key" not in {each.name for each in looking.doctor([without]).checks}


@pytest.mark.parametrize(
    ("message", "said"),
    [("no such; did you mean 'b'?", "no such; did you mean 'b'? Do."), ("it broke", "it broke. Do."), ("x.", "x. Do.")],
)
def test_a_cure_follows_one_full_stop(message: str, said: str) -> None:
    assert str(errors.JinaSMError(message, cure="Do.")) == said


def test_quotas_are_asked_of_known_regions_and_of_what_can_be_a_type(account: Served) -> None:
    for regions, kind, words in (("mars-1", "ml.g5.xlarge", "'mars-1'"), (US, "g5", "'g5' is no instance type")):
        with pytest.raises(errors.InputError, match=words):
            looking.rooms(regions=[regions], instance_types=[kind])
        with pytest.raises(errors.InputError, match=words):
            looking.ask(kind, 9, regions=[regions])


def test_what_all_regions_refuse_alike_is_said_once(account: Served, typed: Callable[..., Told]) -> None:
    local.change_scenario(account.port, denied=["sagemaker:ListEndpoints"])
    for command in (("status",), ("resume", V3, "--yes"), ("orphans",), ("teardown", "--all", "--yes")):
        code, _, err = typed(*command)
        assert (code, err.count("jina-sm iam viewer")) == (1, 1), command
        assert err.count("us-east-1") == 1
        assert "sa-east-1: User" in err or "sa-east-1 could not be listed: User" in err


def test_what_differs_is_said_of_each_region() -> None:
    failed = {
        US: errors.DeployError("no room", region=US, request_id="a"),
        EU: errors.DeployError("no room", region=EU, request_id="b"),
        "us-east-2": errors.DeployError("no room", region="us-east-2", cure="`jina-sm quota -r us-east-2`"),
        "us-west-2": errors.DeployError("throttled", region="us-west-2", request_id="c"),
    }
    said = [(where, str(error)) for where, error in run.alike(failed)]
    assert said == [
        (f"{US}, {EU}", "no room"),
        ("us-east-2", "no room (us-east-2). `jina-sm quota -r us-east-2`"),
        ("us-west-2", "throttled (us-west-2, request id c)"),
    ]
    assert str(failed[US]) == "no room (us-east-1, request id a)"
