"""
A fleet as a file: ``jina-sm.toml``, several models with what they have in common said once.

What does not fit is named by its place in the file, and a key that is unknown with the nearest that is not.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic

from jina_sm import catalog
from jina_sm.deploy.spec import Entry, Settings, Spec, checked, parsed
from jina_sm.errors import InputError

NAME = "jina-sm.toml"


class Fleet(pydantic.BaseModel):
    """What stands in the file."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", title="jina-sm.toml")

    defaults: Settings = Settings()
    models: Annotated[tuple[Entry, ...], pydantic.Field(min_length=1)]


def read(file: Path, known: catalog.Catalog, usual_regions: Callable[[], Sequence[str]] = tuple) -> list[Spec]:
    """What the file asks for, each with the defaults. Raises InputError.

    ``usual_regions``: asked for those of a model that is given none.
    """
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: not TOML, or not UTF-8
        raise InputError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}", cure="`jina-sm init` writes one."
        ) from None
    try:
        return specs(said, known, usual_regions)
    except InputError as error:
        raise InputError(f"{file}: {error.message}", cure=error.cure) from None


def specs(said: dict[str, Any], known: catalog.Catalog, usual_regions: Callable[[], Sequence[str]]) -> list[Spec]:
    """As ``read``, of what is in the file."""
    parsed(Fleet, said)
    found: list[Spec] = []
    for number, entry in enumerate(said["models"]):
        merged = _merged(said.get("defaults", {}), entry)
        if not merged.get("regions"):
            merged["regions"] = usual_regions()
        # Of what they have in common, only what is about the regions where this one is.
        shared = said.get("defaults", {}).get("vpc", {}).keys() - entry.get("vpc", {}).keys()
        vpc = {
            name: each
            for name, each in merged.get("vpc", {}).items()
            if name in merged["regions"] or name not in shared
        }
        try:
            found.append(checked(known, **{**merged, "vpc": vpc}))
        except InputError as error:
            raise InputError(f"models.{number}: {error.message}", cure=error.cure) from None
    places = [
        (region, catalog.endpoint_name(known.model(spec.model), spec.name)) for spec in found for region in spec.regions
    ]
    for region, name in places:
        if places.count((region, name)) > 1:
            raise InputError(f"two models would be endpoint {name} in {region}", cure="Give one of them a name.")
    return found


def schema() -> dict[str, Any]:
    """The file's JSON Schema."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Fleet.model_json_schema()}


def _merged(defaults: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """An entry over the defaults; their tags and subnets together."""
    # An entry's one type is in the place of the defaults' several, and the other way round.
    instead = {"instance_type", "instance_types"} if {"instance_type", "instance_types"} & entry.keys() else set()
    merged = {**{key: value for key, value in defaults.items() if key not in instead}, **entry}
    for name in ("tags", "vpc"):
        if name in merged:
            merged[name] = {**defaults.get(name, {}), **entry.get(name, {})}
    return merged


TEMPLATE = """\
# What `jina-sm deploy -f jina-sm.toml` puts into service; `--plan` shows what it would change, and the price.
# What is taken out of it stays and bills on, and `--plan` tells of it; `--prune` takes that away.
# `jina-sm init --schema > jina-sm.schema.json` writes the schema for an editor:
#:schema ./jina-sm.schema.json

[defaults]                                  # of every model below; each may say otherwise
regions = ["us-east-1", "eu-central-1"]     # an endpoint in each; `jina-sm models --regions` lists all
instance_types = ["ml.g5.xlarge", "ml.g5.2xlarge"]   # tried in turn where AWS has none to give; each needs its quota
# instance_count = 1                        # in each region; with autoscaling, how many it begins with
# role_arn = "arn:aws:iam::123456789012:role/jina-sm-execution"    # default: found by convention
# kms_key = "alias/search"                  # encrypts the storage volume
# ttl = "8h"                                # AWS deletes the endpoint then, whether or not anyone is there (90m, 2d)

# [defaults.tags]                           # on everything that is made
# team = "search"

# [defaults.vpc.us-east-1]                  # by region, since subnets are
# subnets = ["subnet-0123456789abcdef0"]
# security_groups = ["sg-0123456789abcdef0"]
# [defaults.vpc.eu-central-1]
# subnets = ["subnet-0fedcba9876543210"]
# security_groups = ["sg-0fedcba9876543210"]

[[models]]
model = "jina-embeddings-v3"                # `jina-sm models` lists them
# name = "search"                           # the endpoint's, instead of the model's

# [models.autoscaling]
# min = 1
# max = 4
# target = 5                                # requests at once on each instance; asynchronous, waiting for each

# [models.async_inference]                  # not verified for Marketplace packages; autoscaling.min may be 0 then
# s3_output = "s3://my-bucket-{region}/results"    # the execution role must be able to write there
# max_concurrent = 6                        # requests that an instance has at once
# error_topic = "arn:aws:sns:{region}:123456789012:search-failures"

# [[models]]
# model = "jina-reranker-v2-base-multilingual"
# regions = ["us-east-1"]
"""
