"""The rows, and what users add to them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jina_sm import catalog
from jina_sm.errors import InputError

V3_US = "arn:aws:sagemaker:us-east-1:865070037744:model-package/jina-embeddings-v3-380c5162a0bb3239903a3ca66ce3cb80"


def test_every_row_is_whole() -> None:
    known = catalog.load()
    assert len(known.models) == 31
    assert len(known.regions) == 16
    for model in known.models.values():
        assert model.default_task is None or model.default_task in model.tasks
        assert not model.matryoshka or max(model.matryoshka) == model.dimensions
        assert model.dimensions or model.kind in ("reranker", "reader")
        assert model.package is None or re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{32}", model.package)
        assert model.listing is None or re.fullmatch(r"prodview-[a-z0-9]{13}", model.listing)


def test_endpoint_names_are_ours_valid_and_distinct() -> None:
    names = [catalog.endpoint_name(model) for model in catalog.load().models.values()]
    assert len(set(names)) == len(names)
    for name in names:
        # Nine more characters make the names of models and configs.
        assert re.fullmatch(r"jina-sm-[a-zA-Z0-9](-*[a-zA-Z0-9])*", name)
        assert len(name) <= 63 - 9
    v3 = catalog.load().model("jina-embeddings-v3")
    assert catalog.endpoint_name(v3) == "jina-sm-embeddings-v3"
    assert catalog.endpoint_name(v3, "search") == catalog.endpoint_name(v3, "jina-sm-search") == "jina-sm-search"


def test_an_arn_is_the_regions_account_and_the_package() -> None:
    known = catalog.load()
    assert known.package_arn(known.model("jina-embeddings-v3"), "us-east-1") == V3_US
    assert ":446921602837:" in known.package_arn(known.model("jina-embeddings-v3"), "eu-central-1")


def test_a_package_that_is_not_known_is_asked_for() -> None:
    known = catalog.load()
    with pytest.raises(InputError, match="JINA_SM_PACKAGE_JINA_EMBEDDINGS_V4"):
        known.package_arn(known.model("jina-embeddings-v4"), "us-east-1")


def test_an_arn_from_the_environment_counts_in_every_region() -> None:
    arn = "arn:aws:sagemaker:us-east-2:057799348421:model-package/jina-embeddings-v4-abc"
    known = catalog.load(environ={"JINA_SM_PACKAGE_JINA_EMBEDDINGS_V4": arn})
    assert known.package_arn(known.model("jina-embeddings-v4"), "eu-west-1") == arn.replace(
        "us-east-2:057799348421", "eu-west-1:985815980388"
    )


def test_the_sellers_own_account_is_replaced_by_the_marketplaces() -> None:
    known = catalog.load().with_package("jina-embeddings-v3", V3_US.replace("865070037744", "253352124568"))
    assert known.package_arn(known.model("jina-embeddings-v3"), "us-east-1") == V3_US


def test_a_copy_in_ones_own_account_counts_in_its_region_only() -> None:
    own = "arn:aws:sagemaker:us-east-1:111122223333:model-package/mine"
    known = catalog.load().with_package("jina-embeddings-v4", own)
    assert known.package_arn(known.model("jina-embeddings-v4"), "us-east-1") == own
    with pytest.raises(InputError, match="package ARN of jina-embeddings-v4"):
        known.package_arn(known.model("jina-embeddings-v4"), "us-west-2")


def test_what_is_no_package_arn_is_refused() -> None:
    with pytest.raises(InputError, match="neither the name nor the ARN"):
        catalog.load().with_package("jina-embeddings-v3", "arn:aws:s3:::bucket")


def test_a_file_adds_rows_and_overrides_fields(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[models.mine]\nkind = "embedding"\ndialect = "embeddings-v3"\nmax_tokens = 512\ndimensions = 8\n'
        '[models."jina-embeddings-v3"]\nmax_tokens = 4096\n[accounts]\nme-south-1 = "111122223333"\n'
    )
    known = catalog.load(environ={"JINA_SM_CATALOG": str(file)})
    assert known.model("mine").dimensions == 8
    assert known.model("jina-embeddings-v3").max_tokens == 4096
    assert known.model("jina-embeddings-v3").dimensions == 1024
    known.check_region("me-south-1")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[models.x]\nkindd = 'embedding'", "unknown field 'kindd'; did you mean 'kind'"),
        ("[models.x]\nkind = 'embedding'", "lacks 'dialect'"),
        ("[models.x]\nkind = 'embeding'\ndialect = 'd'\nmax_tokens = 1", "is not one of"),
        ("[models.x]\nmax_tokens = 'many'", "max_tokens is a str, not a int"),
        ("[modles.x]", "'modles' is unknown here"),
        ("models = 1\n[", "cannot be read"),
        ("[models]\nx = 1", "is not a table"),
        ("models = 3", "'models' is unknown here"),
        ("accounts = ['a']", "'accounts' is unknown here"),
        ("[accounts]\nus-east-1 = 3", "not a string of 12 digits"),
        ("[models.x]\nmax_tokens = -1", "max_tokens is 1 or more, not -1"),
        ("[models.x]\nmatryoshka = ['a']", "'a' in matryoshka is not a int"),
        ("[models.x]\narns = { us-east-1 = 'x' }", "'x' of us-east-1 is not the ARN"),
        ("[models.'']\nmax_tokens = 1", "empty key"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_its_fault(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=named) as caught:
        catalog.load(file)
    assert "mine.toml" in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        catalog.load("nowhere.toml")


def test_a_model_is_found_whatever_its_case() -> None:
    assert catalog.load().model("readerlm-V2").key == "ReaderLM-v2"
    with pytest.raises(InputError, match="not NoneType"):
        catalog.load().model(None)  # type: ignore[arg-type]
