"""
What should be: one model, where, on what, how many, for how long.

It may come from a file or a form, so it is checked by pydantic, and what does not fit is named.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Self, TypeVar

import pydantic

from jina_sm import catalog
from jina_sm.deploy.steps import OWNER
from jina_sm.errors import InputError


def _free(key: str) -> str:
    """A tag's key that is the user's to choose. Raises ValueError."""
    if key.lower().startswith("aws:"):
        raise ValueError("tags that begin with aws: are AWS's own")
    if key == OWNER[0] or key.startswith("jina-sm:"):
        raise ValueError(f"{OWNER[0]} and tags that begin with jina-sm: say what this tool made")
    return key


# As AWS's own descriptions have it; a schedule's tags may not be empty, so none may.
_Tag = Annotated[
    str, pydantic.StringConstraints(min_length=1, max_length=256, pattern=r"^[\p{L}\p{Z}\p{N}_.:/=+\-@]+$")
]
_Key = Annotated[
    str,
    pydantic.StringConstraints(min_length=1, max_length=128, pattern=r"^[\p{L}\p{Z}\p{N}_.:/=+\-@]+$"),
    pydantic.AfterValidator(_free),
]
_Subnet = Annotated[str, pydantic.StringConstraints(pattern=r"^subnet-[0-9a-f]{8,17}$")]
_SecurityGroup = Annotated[str, pydantic.StringConstraints(pattern=r"^sg-[0-9a-f]{8,17}$")]
_Name = Annotated[
    str, pydantic.StringConstraints(min_length=1, max_length=46, pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*$")
]


_InstanceType = Annotated[str, pydantic.StringConstraints(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")]
_ROLE_ARN = r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[a-zA-Z_0-9+=,.@/-]+$"
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 365 * 86400


def duration(text: str | int) -> int:
    """Seconds of ``90m``, ``8h`` or ``2d``. Raises ValueError."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    if not match:
        raise ValueError("a duration is like 90m, 8h or 2d")
    return int(match[1]) * _UNITS[match[2]]


def seconds(text: str, name: str = "ttl") -> int:
    """As ``duration``, of a setting of that name. Raises InputError."""
    try:
        return duration(text)
    except ValueError as error:
        raise InputError(f"{name}={text!r}: {error}") from None


_S3 = Annotated[str, pydantic.StringConstraints(max_length=512, pattern=r"^s3://[a-z0-9{][a-z0-9.{}-]{2,71}(/.*)?$")]
# What a field that has a form looks like, for whoever got it wrong.
_LIKE = {
    "s3_output": "s3://BUCKET/PREFIX",
    "instance_type": "ml.g5.xlarge",
    "instance_types": "ml.g5.xlarge",
    "role_arn": "arn:aws:iam::123456789012:role/NAME",
    "subnets": "subnet-0123456789abcdef0",
    "security_groups": "sg-0123456789abcdef0",
}
_Topic = Annotated[
    str, pydantic.StringConstraints(max_length=2048, pattern=r"^arn:aws[a-z-]*:sns:[a-z0-9{}-]+:\d{12}:[\w.-]+$")
]
_Duration = Annotated[
    int,
    pydantic.BeforeValidator(duration, json_schema_input_type=str),
    pydantic.Field(ge=60, le=_LONGEST_S),
]


_Parsed = TypeVar("_Parsed", bound=pydantic.BaseModel)


class _Checked(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Autoscaling(_Checked):
    """From how many instances to how many, and at how many requests at once on each AWS adds another.

    Of an asynchronous endpoint, at how many waiting for each; and only of one may ``min`` be 0.
    """

    min: Annotated[int, pydantic.Field(ge=0, le=100)] = 1
    max: Annotated[int, pydantic.Field(ge=1, le=100)]
    target: Annotated[float, pydantic.Field(gt=0, le=1000)] = 5.0

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max={self.max} is less than min={self.min}")
        return self


class AsyncInference(_Checked):
    """Requests wait in a queue, and results go to S3. Whether Marketplace packages take it is not verified.

    ``{region}`` in a place or a topic is filled in, since both are a region's own. ``max_concurrent``: requests that an
    instance has at once.
    """

    s3_output: _S3
    s3_failure: _S3 | None = None
    max_concurrent: Annotated[int, pydantic.Field(ge=1, le=1000)] = 6
    success_topic: _Topic | None = None
    error_topic: _Topic | None = None


class Vpc(_Checked):
    """Where in one region the endpoint is reached from, and what it may reach."""

    subnets: Annotated[tuple[_Subnet, ...], pydantic.Field(min_length=1, max_length=16)]
    security_groups: Annotated[tuple[_SecurityGroup, ...], pydantic.Field(min_length=1, max_length=5)]


class Settings(_Checked):
    """What every model of a fleet may have in common.

    ``role_arn=None``: found by convention (``JINA_SM_ROLE_ARN``, the role ``jina-sm-execution``, the role of the
    notebook one is in, SageMaker's own ``AmazonSageMaker-ExecutionRole-*``). ``instance_types`` are tried in turn
    where AWS has none of one to give; ``instance_type`` is the first of them. ``vpc`` is by region. ``ttl``, in
    seconds or as ``8h``: AWS deletes the endpoint that long after it was set.
    """

    regions: tuple[str, ...] = ()
    instance_type: _InstanceType = "ml.g5.xlarge"
    instance_types: Annotated[tuple[_InstanceType, ...], pydantic.Field(max_length=5)] = ()
    instance_count: Annotated[int, pydantic.Field(ge=1, le=100)] = 1
    autoscaling: Autoscaling | None = None
    role_arn: Annotated[str, pydantic.StringConstraints(pattern=_ROLE_ARN)] | None = None
    tags: Annotated[dict[_Key, _Tag], pydantic.Field(max_length=40)] = {}
    vpc: dict[str, Vpc] = {}
    kms_key: (
        Annotated[str, pydantic.StringConstraints(min_length=1, max_length=2048, pattern=r"^[a-zA-Z0-9:/_-]+$")] | None
    ) = None
    ttl: _Duration | None = None
    async_inference: AsyncInference | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _first_type(cls, said: Any) -> Any:
        if isinstance(said, dict) and (types := said.get("instance_types")) and isinstance(types, list | tuple):
            if said.get("instance_type", types[0]) != types[0]:
                raise ValueError(f"instance_type={said['instance_type']!r} is not the first of instance_types")
            return {**said, "instance_type": types[0]}
        return said

    @pydantic.model_validator(mode="after")
    def _within(self) -> Self:
        if self.autoscaling and self.instance_count > self.autoscaling.max:
            raise ValueError(
                f"instance_count={self.instance_count} is more than autoscaling.max={self.autoscaling.max}"
            )
        if len({*self.instance_types}) < len(self.instance_types):
            raise ValueError("an instance type is named twice in instance_types")
        return self


class Entry(Settings):
    """One model of a fleet. ``name=None``: named after the model."""

    model: str
    name: _Name | None = None


class Spec(Entry):
    """One model on endpoints of the same name in one region or several."""

    regions: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _scaled_to_nothing(self) -> Self:
        if self.autoscaling and self.autoscaling.min == 0 and not self.async_inference:
            raise ValueError("autoscaling.min=0 is for async_inference alone: AWS keeps an instance of any other")
        return self


def checked(known: catalog.Catalog, **fields: Any) -> Spec:
    """A spec that the catalogue knows the model and the regions of. Raises InputError that names the field."""
    spec = parsed(Spec, fields)
    model = known.model(spec.model)
    for region in spec.regions:
        known.package_arn(model, region)
    if len(set(spec.regions)) < len(spec.regions):
        raise InputError(f"a region is named twice in {', '.join(spec.regions)}")
    for kind in (spec.instance_type, *spec.instance_types):
        if kind not in model.instances and not kind.startswith(("ml.g", "ml.p", "ml.i")):
            raise InputError(f"{model.key} needs a GPU, and {kind} has none", cure="Take ml.g5.xlarge.")
    if spec.vpc and (without := [region for region in spec.regions if region not in spec.vpc]):
        raise InputError(f"vpc has no subnets for {', '.join(without)}", cure="Subnets are a region's own: name each.")
    if astray := [region for region in spec.vpc if region not in spec.regions]:
        raise InputError(f"vpc names {', '.join(astray)}, where {model.key} is not to be")
    if (key := spec.kms_key) and key.startswith("arn:") and {*spec.regions} != {key.split(":")[3]}:
        raise InputError(f"kms_key={key!r} is of one region", cure="Take an alias that each region has: alias/NAME.")
    for name in ("success_topic", "error_topic"):
        topic = getattr(spec.async_inference, name, None) or ""
        astray = [region for region in spec.regions if topic and filled(topic, region).split(":")[3] != region]
        if astray:
            raise InputError(
                f"async_inference.{name}={topic!r} is not in {', '.join(astray)}",
                cure="A topic is a region's own: put {region} in the place of its region.",
            )
    return spec.model_copy(update={"model": model.key})


def filled(text: str, region: str) -> str:
    """With the region where it says ``{region}``."""
    return text.replace("{region}", region)


def parsed(kind: type[_Parsed], said: Any, within: str = "") -> _Parsed:
    """What was said, checked. Raises InputError that names the place, and for an unknown key the nearest known."""
    try:
        return kind.model_validate(said)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)
    # A key that is unknown is often the one that is missing, misspelt.
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    path = [*first["loc"]]
    where = within + ".".join(str(part) for part in path)
    if first["type"] == "extra_forbidden":
        raise InputError(f"{where} is unknown{catalog.nearest(str(path[-1]), _fields(kind, path[:-1]))}")
    message = re.sub("[Tt]uple", "list", first["msg"].removeprefix("Value error, "))
    field = next((part for part in reversed(path) if isinstance(part, str)), "")
    if first["type"] == "string_pattern_mismatch" and field in _LIKE:
        message = f"it is like {_LIKE[field]}"
    if not path or isinstance(first.get("input"), dict):
        raise InputError(f"{where or within.rstrip('.')}: {_lower(message)}".removeprefix(": "))
    raise InputError(f"{where}={first.get('input')!r}: {_lower(message)}")


def _fields(kind: type[pydantic.BaseModel], path: Iterable[Any]) -> list[str]:
    """The keys that a table of that kind may have, at a place within it."""
    for part in path:
        if part in kind.model_fields:  # else it is a number in a list, or a name of the user's
            kind = next(_tables(kind.model_fields[part].annotation), kind)
    return list(kind.model_fields)


def _tables(annotation: Any) -> Iterator[type[_Checked]]:
    if isinstance(annotation, type) and issubclass(annotation, _Checked):
        yield annotation
    for each in typing.get_args(annotation):
        yield from _tables(each)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
