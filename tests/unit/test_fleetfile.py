"""jina-sm.toml: what it may say, and how it is told what it may not."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from jina_sm import catalog, errors
from jina_sm.deploy import fleetfile
from jina_sm.deploy.spec import Settings, Spec, duration, parsed

KNOWN = catalog.load(environ={})
V3 = 'models = [{model = "jina-embeddings-v3", regions = ["us-east-1"]'


def specs(text: str) -> list[Spec]:
    return fleetfile.specs(tomllib.loads(text), KNOWN, lambda: ("eu-west-1",))


def test_the_file_that_init_writes_is_valid_as_it_is_and_with_every_comment_taken_away() -> None:
    (plain,) = specs(fleetfile.TEMPLATE)
    assert (plain.regions, plain.instance_types) == (("us-east-1", "eu-central-1"), ("ml.g5.xlarge", "ml.g5.2xlarge"))
    first, second = specs(re.sub(r"^# (?=[a-z0-9_]+ = |\[)", "", fleetfile.TEMPLATE, flags=re.MULTILINE))
    assert (first.name, first.ttl, first.kms_key, first.tags) == ("search", 28800, "alias/search", {"team": "search"})
    assert first.autoscaling is not None
    assert set(first.vpc) == {"us-east-1", "eu-central-1"}
    assert (second.regions, set(second.vpc), second.ttl) == (("us-east-1",), {"us-east-1"}, 28800)


def test_every_setting_is_in_the_file_that_init_writes() -> None:
    for name in Settings.model_fields.keys() - {"instance_type"}:  # instance_types says it too
        assert re.search(rf"^(# )?(\[\w+\.)?{name}\b", fleetfile.TEMPLATE, re.MULTILINE), name


def test_a_model_may_say_otherwise_than_the_defaults() -> None:
    text = """
    [defaults]
    regions = ["us-east-1"]
    instance_types = ["ml.g5.xlarge", "ml.g6.xlarge"]
    tags = {team = "a", stage = "test"}
    [[models]]
    model = "jina-embeddings-v3"
    instance_type = "ml.g5.2xlarge"
    tags = {team = "b"}
    [[models]]
    model = "jina-reranker-v2-base-multilingual"
    """
    first, second = specs(text)
    assert (first.instance_type, first.instance_types) == ("ml.g5.2xlarge", ())
    assert first.tags == {"team": "b", "stage": "test"}
    assert (second.instance_type, second.instance_types[1:]) == ("ml.g5.xlarge", ("ml.g6.xlarge",))


def test_without_regions_it_is_where_one_is() -> None:
    assert specs('models = [{model = "jina-embeddings-v3"}]')[0].regions == ("eu-west-1",)


BAD = [
    ("model = 1", "model is unknown; did you mean 'models'"),
    ("models = []", "models=[]: list should have at least 1 item"),
    ('models = [{model = "jina-embeddings-v3", instance_typ = "x"}]', "models.0.instance_typ is unknown; did you mean 'instance_type'"),
    ("[defaults]\nregion = 1\n[[models]]\nmodel = ''", "defaults.region is unknown; did you mean 'regions'"),
    ('models = [{model = "jina-embedings-v3", regions = ["us-east-1"]}]', "models.0: no model 'jina-embedings-v3'; did you mean"),
    (V3 + ", autoscaling = {maximum = 3}}]", "models.0.autoscaling.maximum is unknown; did you mean 'max'"),
    (V3 + ", autoscaling = {min = 3, max = 2}}]", "max=2 is less than min=3"),
    (V3 + ", instance_count = 3, autoscaling = {max = 2}}]", "instance_count=3 is more than autoscaling.max=2"),
    (V3 + ', instance_type = "ml.g6.xlarge", instance_types = ["ml.g5.xlarge"]}]', "is not the first of instance_types"),
    (V3 + ', instance_types = ["ml.g5.xlarge", "ml.g5.xlarge"]}]', "named twice"),
    (V3 + ', instance_types = ["ml.g5.xlarge", "ml.m5.xlarge"]}]', "needs a GPU, and ml.m5.xlarge has none"),
    (V3 + ', ttl = "8 hours"}]', "models.0.ttl='8 hours': a duration is like 90m, 8h or 2d"),
    (V3 + ", ttl = 5}]", "models.0.ttl=5: input should be greater than or equal to 60"),
    (V3 + ', vpc = {us-east-1 = {subnet = ["a"]}}}]', "models.0.vpc.us-east-1.subnet is unknown; did you mean 'subnets'"),
    (V3 + ', vpc = {eu-west-1 = {subnets = ["subnet-00000000"], security_groups = ["sg-00000000"]}}}]', "no subnets for us-east-1"),
    (V3 + ', kms_key = "arn:aws:kms:eu-west-1:123456789012:key/a"}]', "is of one region"),
    (V3 + '}, {model = "jina-embeddings-v3", regions = ["us-east-1", "eu-west-1"]}]', "two models would be endpoint jina-sm-embeddings-v3 in us-east-1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "named"), BAD, ids=[named for _, named in BAD])
def test_what_does_not_fit_is_named_by_its_place(text: str, named: str) -> None:
    with pytest.raises(errors.InputError) as caught:
        specs(text)
    assert named in str(caught.value)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("models = [")
    for name in ("none.toml", "bad.toml"):
        with pytest.raises(errors.InputError, match=rf"{name} cannot be read.*jina-sm init"):
            fleetfile.read(tmp_path / name, KNOWN)


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("8h", 28800), ("2d", 172800)])
def test_durations(text: str, seconds: int) -> None:
    assert duration(text) == seconds


def test_the_schema_knows_each_key_and_refuses_others() -> None:
    schema: dict[str, Any] = fleetfile.schema()
    tables = [schema, *schema["$defs"].values()]
    assert {table["title"] for table in tables} == {
        "jina-sm.toml",
        "Settings",
        "Entry",
        "Autoscaling",
        "AsyncInference",
        "Vpc",
    }
    assert all(table["additionalProperties"] is False for table in tables)
    assert set(schema["$defs"]["Settings"]["properties"]) == set(Settings.model_fields)
    assert schema["$defs"]["Settings"]["properties"]["ttl"]["anyOf"][0]["type"] == "string"


@pytest.mark.parametrize(
    ("field", "wrong", "like"),
    [
        ("async_inference", {"s3_output": "http://x"}, r"s3_output='http://x': it is like s3://BUCKET/PREFIX"),
        ("instance_type", "g5", r"instance_type='g5': it is like ml\.g5\.xlarge"),
        ("vpc", {"us-east-1": {"subnets": ["x"], "security_groups": ["y"]}}, r"subnets\.0='x': it is like subnet-"),
    ],
)
def test_what_has_a_form_is_told_by_an_example(field: str, wrong: Any, like: str) -> None:
    with pytest.raises(errors.InputError, match=like):
        parsed(Spec, {"model": "jina-embeddings-v3", "regions": ("us-east-1",), field: wrong})
