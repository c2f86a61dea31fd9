"""The templates: the same parameters as the plan's calls, taken by cfn-lint, and the files as they are generated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cfnlint.api
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import catalog
from jina_sm.deploy import cloudformation, fleetfile, run, scaling, spec, ttl
from jina_sm.deploy.cloudformation import STACK, template
from jina_sm.deploy.plan import Desired

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "cloudformation"
ROLE = "arn:aws:iam::123456789012:role/service-role/search"
KNOWN = catalog.load(environ={})
VPC = {"us-east-1": {"subnets": ["subnet-0123456789abcdef0"], "security_groups": ["sg-0123456789abcdef0"]}}
Typed = Callable[..., tuple[int, str, str]]


def wanted(role_arn: str = "", **more: Any) -> Desired:
    said = {"model": "jina-embeddings-v3", "regions": ("us-east-1",), **more}
    return run.desired_in(spec.checked(KNOWN, **said), "us-east-1", role_arn=role_arn, known=KNOWN)


FULL = wanted(
    instance_types=("ml.g5.xlarge", "ml.g5.2xlarge"),
    instance_count=2,
    autoscaling={"max": 4},
    vpc=VPC,
    kms_key="alias/search",
    tags={"team": "search"},
)
VARIANTS: dict[str, tuple[list[tuple[Desired, int | None]], bool]] = {
    "plain": ([(wanted(), None)], False),
    "a role given": ([(wanted(ROLE), None)], False),
    "a role made": ([(wanted(), None)], True),
    "everything": ([(FULL, 28800)], True),
    "everything, and a role given": ([(FULL, 28800)], False),
    "many": ([(wanted(name=f"a-name-as-long-as-they-are-allowed-to-be-no-{n}"), None) for n in range(30)], False),
    "several": ([(wanted(), None), (wanted(name="a-b"), 3600), (wanted(name="aB"), 7200)], True),
}


def linted(made: dict[str, Any], region: str = "us-east-1") -> list[str]:
    return [str(each) for each in cfnlint.api.lint(cloudformation.text(made).decode(), None, [region])]


@pytest.mark.parametrize("name", VARIANTS)
def test_cfn_lint_takes_every_kind_of_template(name: str) -> None:
    endpoints, create_role = VARIANTS[name]
    assert linted(template(endpoints, create_role=create_role)) == []


def test_cfn_lint_would_mind() -> None:
    made = template(VARIANTS["plain"][0])
    made["Resources"]["EmbeddingsV3Model"]["Properties"]["PrimaryContainr"] = {}
    assert "PrimaryContainr" in str(linted(made))


def test_what_a_stack_makes_is_what_a_plan_makes() -> None:
    """But for what CloudFormation names, what refers to it, and the owner."""
    properties = {name: each["Properties"] for name, each in template([(FULL, None)])["Resources"].items()}
    model, config, endpoint = (properties[f"EmbeddingsV3{kind}"] for kind in ("Model", "Config", "Endpoint"))
    for made, call in ((model, FULL.model_params), (config, FULL.config_params), (endpoint, FULL.endpoint_params)):
        assert [tag for tag in made.pop("Tags") if tag["Key"] != "managed-by"] == [
            tag for tag in call["Tags"] if tag["Key"] != "managed-by"
        ]
    role = {"Ref": "ExecutionRoleArn"}
    assert model == {**without(FULL.model_params, "ModelName", "Tags"), "ExecutionRoleArn": role}
    (variant,), (called,) = config.pop("ProductionVariants"), FULL.config_params["ProductionVariants"]
    assert without(variant, "ModelName") == without(called, "ModelName")
    assert config == without(FULL.config_params, "EndpointConfigName", "ProductionVariants", "Tags")
    assert endpoint["EndpointName"] == FULL.endpoint
    assert FULL.scaling is not None
    target, policy = scaling.set_to(FULL.endpoint, FULL.scaling, None)
    place = ("ServiceNamespace", "ResourceId", "ScalableDimension")
    assert without(properties["EmbeddingsV3Scaling"], "Tags", "ResourceId") == without(
        target.params, "Tags", "ResourceId"
    )
    assert without(properties["EmbeddingsV3ScalingPolicy"], "ScalingTargetId") == without(policy.params, *place)


def without(params: Any, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key not in keys}


def test_an_end_is_told_when_the_stack_is_made_and_its_role_may_delete_that_endpoint_alone() -> None:
    made = template([(FULL, 28800)])
    assert made["Parameters"].keys() == {"ExecutionRoleArn", "EmbeddingsV3DeleteAt"}
    resources = made["Resources"]
    schedule = resources["EmbeddingsV3Schedule"]["Properties"]
    assert schedule["ScheduleExpression"] == {"Fn::Sub": "at(${EmbeddingsV3DeleteAt})"}
    assert orjson.loads(schedule["Target"]["Input"]) == {"EndpointName": FULL.endpoint}
    delete, _ = resources["TtlRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    (where,) = delete["Resource"]
    assert where["Fn::Sub"].endswith("${AWS::Region}:${AWS::AccountId}:endpoint/jina-sm-embeddings-v3")
    assert delete["Action"] == ttl.permissions("*")["Statement"][0]["Action"]
    assert resources["EmbeddingsV3Endpoint"]["DependsOn"] == "EmbeddingsV3Schedule", "never billed without its end"


def test_nothing_that_bills_outlives_its_stack_and_all_is_the_stacks() -> None:
    for name, each in template([(FULL, 28800)], create_role=True)["Resources"].items():
        if each["Type"] == "AWS::SageMaker::Endpoint":
            assert (each["DeletionPolicy"], each["UpdateReplacePolicy"]) == ("Delete", "Delete")
        if "Tags" in each["Properties"]:
            owners = [tag["Value"] for tag in each["Properties"]["Tags"] if tag["Key"] == "managed-by"]
            assert owners == [STACK], name


def test_the_target_of_an_output_is_one_that_a_client_takes() -> None:
    from jina_sm.transport.target import parse

    (value,) = [
        each["Value"]["Fn::Sub"] for name, each in template([(FULL, None)])["Outputs"].items() if "Target" in name
    ]
    said = value.replace("${AWS::Region}", "us-east-1").replace("${EmbeddingsV3Endpoint.EndpointName}", FULL.endpoint)
    assert str(parse(said)) == said


@given(
    st.lists(st.from_regex(r"[a-zA-Z0-9](-{0,2}[a-zA-Z0-9]){0,8}", fullmatch=True), unique=True, min_size=1, max_size=8)
)
def test_names_within_a_template_are_letters_and_digits_and_no_two_the_same(names: list[str]) -> None:
    endpoints = [f"jina-sm-{name}" for name in names]
    found = cloudformation._logical(endpoints)
    assert len(set(found.values())) == len(endpoints)
    assert all(name.isalnum() for name in found.values())


def test_the_files_are_what_is_generated() -> None:
    endpoints: dict[str, list[tuple[Desired, int | None]]] = {}
    for each in fleetfile.read(FOLDER / "jina-sm.toml", KNOWN):
        for region in each.regions:
            desired = run.desired_in(each, region, role_arn="", known=KNOWN)
            endpoints.setdefault(region, []).append((desired, each.ttl))
    files = {each.name: each.read_bytes() for each in FOLDER.glob("*.json")}
    assert files == {
        f"jina-sm-{region}.json": cloudformation.text(template(each)) for region, each in endpoints.items()
    }


def test_a_fleet_is_a_file_a_region_and_takes_no_account(tmp_path: Path, typed: Typed) -> None:
    code, out, err = typed("export", "-f", str(FOLDER / "jina-sm.toml"), "-o", str(tmp_path / "out"))
    assert code == 0, err
    assert [Path(line).name for line in out.splitlines()] == ["jina-sm-us-east-1.json", "jina-sm-eu-central-1.json"]
    for file in FOLDER.glob("*.json"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert "aws cloudformation deploy --region eu-central-1" in err
    assert "jina-sm subscribe jina-reranker-v2-base-multilingual" in err


def test_one_region_goes_to_stdout_and_several_say_where_to(typed: Typed) -> None:
    code, out, err = typed("export", "jina-embeddings-v3", "-r", "us-east-1", "--create-role")
    assert code == 0
    assert "ExecutionRole" in orjson.loads(out)["Resources"]
    assert "--capabilities CAPABILITY_IAM" in err
    both = ("export", "jina-embeddings-v3", "-r", "us-east-1", "-r", "eu-central-1")
    code, out, err = typed(*both)
    assert (code, out, "Say where with --output DIR" in err) == (2, "", True)
    code, out, err = typed(*both, "--json")
    assert (code, [*orjson.loads(out)]) == (0, ["us-east-1", "eu-central-1"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Name a model, or a file"),
        (("jina-embeddings-v3", "-f", "x"), "Name a model, or a file"),
        (("-f", "x", "-r", "us-east-1"), "the regions are said in the file"),
        (("jina-embedings-v3", "-r", "us-east-1"), "did you mean 'jina-embeddings-v3'"),
        (("jina-embeddings-v3", "-r", "us-east1"), "did you mean 'us-east-1'"),
        (("jina-embeddings-v3", "-r", "us-east-1", "-o", __file__), "cannot be written"),
        (("-f", "nowhere.toml"), "cannot be read"),
        (("jina-embeddings-v4", "-r", "us-east-1"), "not in the catalogue"),
    ],
)
def test_what_cannot_be_exported_is_named(words: tuple[str, ...], said: str, typed: Typed) -> None:
    code, out, err = typed("export", *words)
    assert (code, out) == (2, "")
    assert said in err
