"""The policies against AWS's Service Authorization Reference, its limits and its grammar; and the files against both."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import botocore.session
import cfnlint.api
import orjson
import pytest

from jina_sm import errors
from jina_sm.deploy import policies, roles
from jina_sm.deploy.policies import POLICIES, ROWS, Scope
from jina_sm.transport.session import auth_error
from tests.recording import DATA, several

ROOT = Path(__file__).parents[2]
ACCOUNT = "123456789012"
Typed = Callable[..., tuple[int, str, str]]
NEEDS = {(need.action, need.scope.sid): need for row in ROWS for need in row.needs}
ALL = policies.documents(ACCOUNT, ["us-east-1", "eu-central-1"], vpc=True)
# Keys of every request, and the resources that AWS lets be named by any pattern.
_EVERYWHERE = {"aws:RequestedRegion"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.service}-{row.operation}")
def test_a_row_is_an_operation_that_aws_has(row: policies.Row) -> None:
    model = botocore.session.get_session().get_service_model(row.service)
    assert row.operation in model.operation_names
    assert set(row.policies) <= POLICIES.keys()


@pytest.mark.parametrize("need", NEEDS.values(), ids=lambda need: f"{need.action}-{need.scope.sid}")
def test_an_action_is_one_of_iams_with_its_resources_and_its_conditions(need: policies.Need) -> None:
    service, name = need.action.split(":")
    assert DATA.actions.action_exists(service, name)
    said = DATA.actions.get_action_details(service, name)
    kinds = {
        each["name"]: DATA.resources.get_resource_type_details(service, each["name"]) for each in said["resourceTypes"]
    }
    keys = {*said["conditionKeys"], *(key for each in said["resourceTypes"] for key in each.get("conditionKeys", ()))}
    if need.scope.resources != ("*",):
        formats = [re.sub(r"\$\{\w+\}", "*", each["arn"]) for each in kinds.values()]
        of_it = [each for each in need.scope.resources if any(alike(each, form) for form in formats)]
        assert of_it, f"AWS knows {need.action} of {[*kinds]} only"
        keys |= {key for each in kinds.values() for key in each.get("conditionKeys", ())}
    for block in need.scope.condition.values():
        for key in block:
            known = {*keys, *(key.replace("${TagKey}", "managed-by") for key in keys)}
            assert key in known, f"AWS has no {key} for {need.action}"


def test_an_action_stands_in_a_scope_with_resources_of_every_kind_that_aws_requires() -> None:
    for need in NEEDS.values():
        service, name = need.action.split(":")
        for each in DATA.actions.get_action_details(service, name)["resourceTypes"]:
            if each.get("required") and need.scope.resources != ("*",):
                arn = DATA.resources.get_resource_type_details(service, each["name"])["arn"]
                form = re.sub(r"\$\{\w+\}", "*", arn)
                assert any(alike(resource, form) for resource in need.scope.resources), (need.action, each["name"])


def alike(pattern: str, form: str) -> bool:
    """Whether a pattern of ours is one of ARNs of that form."""
    return fnmatchcase(pattern.replace("{account}", "*"), form)


def test_a_statement_has_one_scope_and_a_scope_one_statement() -> None:
    scopes: dict[str, Scope] = {}
    for row in ROWS:
        for need in row.needs:
            assert scopes.setdefault(need.scope.sid, need.scope) == need.scope, need.scope.sid


@pytest.mark.parametrize("name", ALL)
def test_a_document_fits_a_managed_policy_whatever_is_given(name: str) -> None:
    longest = policies.documents(ACCOUNT, ["ap-southeast-1"] * 16, f"arn:aws:iam::{ACCOUNT}:role/{'r' * 64}", vpc=True)
    assert policies.length(longest[name]) <= policies.LONGEST


def test_only_what_makes_roles_may_change_what_a_role_may() -> None:
    dangerous = {"iam:PutRolePolicy", "iam:CreateRole", "iam:AttachRolePolicy", "iam:UpdateAssumeRolePolicy"}
    for who in POLICIES:
        has = {action for each in ALL[who]["Statement"] for action in several(each["Action"])} & dangerous
        assert bool(has) == (who == policies.ROLE_MAKER)


def test_whatever_changes_something_is_held_to_our_tag_or_to_our_name() -> None:
    elsewhere = ("Subscribe", "Unsubscribe", "AskForQuota", "UseKey", "LetItScale")  # the account's, or AWS's own
    for who in POLICIES:
        for statement in ALL[who]["Statement"]:
            for action in several(statement["Action"]):
                service, name = action.split(":")
                level = DATA.actions.get_action_details(service, name)["accessLevel"]
                if "Write" not in level and "Permissions management" not in level:
                    continue
                narrow = "jina-sm" in str([statement["Resource"], statement.get("Condition")])
                assert narrow or statement["Sid"] in elsewhere, action


@pytest.mark.parametrize("name", ALL)
def test_aws_takes_the_grammar_of_each_document(name: str) -> None:
    trust = ALL[name] if name.endswith("-trust") else roles.trust()
    role: dict[str, Any] = {"AssumeRolePolicyDocument": trust}
    if not name.endswith("-trust"):
        role["Policies"] = [{"PolicyName": name, "PolicyDocument": ALL[name]}]
    template = {"Resources": {"Role": {"Type": "AWS::IAM::Role", "Properties": role}}}
    found = cfnlint.api.lint(orjson.dumps(template).decode(), None, ["us-east-1"])
    assert not found, [str(each) for each in found]


@pytest.mark.parametrize("name", policies.documents())
def test_the_files_are_what_is_generated(name: str) -> None:
    kept = orjson.loads((ROOT / "infra" / "iam" / f"{name}.json").read_bytes())
    assert kept == orjson.loads(orjson.dumps(policies.documents()[name])), "`make infra` writes them anew"


@pytest.mark.parametrize("name", [name for name in ALL if name not in POLICIES])
def test_a_roles_actions_are_iams(name: str) -> None:
    for statement in ALL[name]["Statement"]:
        for action in several(statement["Action"]):
            assert DATA.actions.action_exists(*action.split(":")), action


def test_there_are_no_other_files() -> None:
    assert {each.stem for each in (ROOT / "infra" / "iam").glob("*.json")} == policies.documents().keys()


def test_one_policy_is_printed_as_iam_takes_it_and_all_by_their_names(typed: Typed) -> None:
    code, out, err = typed("iam", "operator", "--account", ACCOUNT, "-r", "us-east-1", "-r", "eu-central-1")
    assert (code, orjson.loads(out)) == (0, as_json(ALL["operator"]))
    assert "needs the viewer's too" in err
    assert orjson.loads(typed("iam")[1]) == as_json(policies.documents())
    assert [*orjson.loads(typed("iam", "execution-role")[1])] == ["execution-role", "execution-role-trust"]


def test_each_action_is_explained(typed: Typed) -> None:
    said = orjson.loads(typed("iam", "operator", "--json")[1])["operator"]
    assert said["characters"] == policies.length(said["document"])
    assert said["actions"]["sagemaker:CreateModel"] == ["sagemaker CreateModel"]
    assert any("in the caller's name" in why for why in said["actions"]["cloudwatch:PutMetricAlarm"])


def test_a_role_of_ones_own_is_the_one_that_may_be_passed() -> None:
    own = f"arn:aws:iam::{ACCOUNT}:role/service-role/own"
    statements = {each["Sid"]: each for each in policies.policy("operator", role_arn=own)["Statement"]}
    assert statements["PassToSageMaker"]["Resource"] == own
    assert own not in str(policies.policy("role-maker", role_arn=own))


def test_a_role_of_ones_own_may_be_looked_at_beside_ours() -> None:
    own = f"arn:aws:iam::{ACCOUNT}:role/service-role/own"
    looked_at = {each["Sid"]: each["Resource"] for each in policies.policy("viewer", role_arn=own)["Statement"]}
    assert looked_at["LookAtRoles"] == [f"arn:aws:iam::*:role/{name}" for name in (roles.ROLE, "jina-sm-ttl")] + [own]


def test_regions_hold_what_is_made_and_invoked_and_not_what_is_looked_at_or_removed() -> None:
    limited = {
        each["Sid"]
        for who in POLICIES
        for each in ALL[who]["Statement"]
        if "aws:RequestedRegion" in each.get("Condition", {}).get("StringEquals", {})
    }
    assert limited == {"Make", "Invoke"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("operator", "--account", "12"), "not the number of an account"),
        (("operator", "-r", "us-east1"), "did you mean 'us-east-1'"),
        (("operator", "--role-arn", "own"), "not the ARN of a role"),
        (("bogus",), "is not one of 'viewer'"),
        (("-o", __file__), "cannot be written"),
    ],
)
def test_what_cannot_be_a_policy_is_named(words: tuple[str, ...], said: str, typed: Typed) -> None:
    code, out, err = typed("iam", *words)
    assert (code, out, said in err) == (2, "", True)


def as_json(document: Any) -> Any:
    return orjson.loads(orjson.dumps(document))


WHY = "because no identity-based policy allows the action"


@pytest.mark.parametrize(
    ("message", "action", "cure"),
    [
        (f"User: arn:aws:iam::1:user/a is not authorized to perform: sagemaker:CreateModel on resource: arn:aws:sagemaker:us-east-1:1:model/jina-sm-a {WHY}", "sagemaker:CreateModel", "`jina-sm iam operator`"),
        (f"User: arn:aws:sts::1:assumed-role/a/b is not authorized to perform: sagemaker:DescribeEndpoint on resource: arn:aws:sagemaker:us-east-1:1:endpoint/theirs {WHY}", "sagemaker:DescribeEndpoint", "`jina-sm iam viewer`"),
        (f"User: a is not authorized to perform: sagemaker:DeleteEndpoint on resource: arn:aws:sagemaker:us-east-1:1:endpoint/jina-sm-a {WHY}", "sagemaker:DeleteEndpoint", "`jina-sm iam operator`"),
        (f"User: a is not authorized to perform: sagemaker:DeleteEndpoint on resource: arn:aws:sagemaker:us-east-1:1:endpoint/theirs {WHY}", "sagemaker:DeleteEndpoint", "sagemaker:DeleteEndpoint on arn:aws:sagemaker:us-east-1:1:endpoint/theirs."),
        (f"User: a is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/jina-sm-execution {WHY}", "iam:PassRole", "`jina-sm iam operator`"),
        (f"User: a is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/own {WHY}", "iam:PassRole", "`jina-sm iam operator --role-arn arn:aws:iam::1:role/own`"),
        (f"User: a is not authorized to perform: sagemaker:InvokeEndpointWithResponseStream on resource: x {WHY}", "sagemaker:InvokeEndpointWithResponseStream", "`jina-sm iam caller`"),
        (f"User: a is not authorized to perform: iam:PutRolePolicy on resource: role jina-sm-execution {WHY}", "iam:PutRolePolicy", "`jina-sm iam role-maker`"),
        ("User: a is not authorized to perform: iam:PassRole on resource: x because no permissions boundary allows the iam:PassRole action", "iam:PassRole", "permissions boundary"),
        ("User: a is not authorized to perform: sagemaker:CreateEndpoint on resource: x with an explicit deny in a service control policy", "sagemaker:CreateEndpoint", "service control policy"),
        ("User: a is not authorized to perform: sagemaker:CreateEndpoint on resource: x with an explicit deny in an identity-based policy", "sagemaker:CreateEndpoint", "no other policy mends"),
        (f"User: a is not authorized to perform: s3:GetObject on resource: x {WHY}", "s3:GetObject", "for s3:GetObject"),
        ("User: a is not authorized to perform: aws-marketplace:Subscribe", "aws-marketplace:Subscribe", "`jina-sm iam operator`"),
        ("Access denied", None, "for that permission"),
    ],
)  # fmt: skip
def test_a_permission_that_is_missing_is_named_with_the_policy_that_has_it(
    message: str, action: str | None, cure: str
) -> None:
    refused = auth_error("AccessDeniedException", message, region="us-east-1", target="jina-sm-x")
    assert isinstance(refused, errors.AuthError)
    assert refused.action == action
    assert cure in str(refused)
