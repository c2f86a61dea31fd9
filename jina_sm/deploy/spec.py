"""
What should be: one model, where, on what, how many.

It may come from a file or a form, so it is checked by pydantic, and what does not fit is named.
"""

from __future__ import annotations

from typing import Annotated, Any

import pydantic

from jina_sm import catalog
from jina_sm.errors import InputError

_Tag = Annotated[str, pydantic.StringConstraints(max_length=256, pattern=r"^[\w\s.:/=+\-@]*$")]
_Key = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=128, pattern=r"^[\w\s.:/=+\-@]+$")]
_Name = Annotated[
    str, pydantic.StringConstraints(min_length=1, max_length=46, pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*$")
]


class Spec(pydantic.BaseModel):
    """One model on endpoints of the same name in one region or several.

    ``name=None``: named after the model. ``role_arn=None``: found by convention (``JINA_SM_ROLE_ARN``, the role
    ``jina-sm-execution``, the role of the notebook one is in, SageMaker's own ``AmazonSageMaker-ExecutionRole-*``).
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str
    regions: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    instance_type: Annotated[str, pydantic.StringConstraints(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")] = "ml.g5.xlarge"
    instance_count: Annotated[int, pydantic.Field(ge=1, le=100)] = 1
    name: _Name | None = None
    role_arn: Annotated[str, pydantic.StringConstraints(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$")] | None = None
    tags: Annotated[dict[_Key, _Tag], pydantic.Field(max_length=40)] = {}


def checked(known: catalog.Catalog, **fields: Any) -> Spec:
    """A spec that the catalogue knows the model and the regions of. Raises InputError that names the field."""
    try:
        spec = Spec(**fields)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}={first.get('input')!r}: {_lower(first['msg'])}") from None
    model = known.model(spec.model)
    for region in spec.regions:
        known.package_arn(model, region)
    if len(set(spec.regions)) < len(spec.regions):
        raise InputError(f"a region is named twice in {', '.join(spec.regions)}")
    if spec.instance_type not in model.instances and not spec.instance_type.startswith(("ml.g", "ml.p", "ml.i")):
        raise InputError(f"{model.key} needs a GPU, and {spec.instance_type} has none", cure="Take ml.g5.xlarge.")
    return spec.model_copy(update={"model": model.key})


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
