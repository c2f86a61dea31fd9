"""
What is known of each model, as rows.

What differs between models is a field here, never a guess from a name or an ARN. The rows are in ``catalog.toml``;
a user adds or overrides them with a file of the same shape (``JINA_SM_CATALOG`` or an argument), and a package ARN
with ``JINA_SM_PACKAGE_<KEY>`` (for example ``JINA_SM_PACKAGE_JINA_EMBEDDINGS_V4``).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jina_sm.errors import InputError

PREFIX = "jina-sm-"
KINDS = ("embedding", "multi-vector", "clip", "reranker", "reader")
_ARN = re.compile(
    r"arn:aws[a-z-]*:sagemaker:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):model-package/(?P<name>[\w.-]+)"
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model: what it takes, what it gives, and where AWS keeps it.

    ``dimensions`` is the full length of a vector, ``matryoshka`` the lengths it can be cut to (empty: none).
    ``normalized`` says whether the container returns unit vectors (None: not known). ``package`` is the name part
    of the model package's ARN, the same in every region; ``arns`` are whole ARNs a user gave, by region.
    """

    key: str
    kind: str
    dialect: str
    dimensions: int | None = None
    matryoshka: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()
    default_task: str | None = None
    max_tokens: int
    modalities: tuple[str, ...] = ("text",)
    normalized: bool | None = None
    instances: tuple[str, ...] = ("ml.g5.xlarge",)
    listing: str | None = None
    package: str | None = None
    arns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"model {self.key!r}: kind {self.kind!r} is not one of {', '.join(KINDS)}")

    def check_task(self, task: str | None) -> None:
        """Raises InputError unless the model knows the task (None: its default)."""
        if task is None or task in self.tasks:
            return
        if not self.tasks:
            raise InputError(f"{self.key} takes no task, and task={task!r} was given", cure="Leave it out.")
        raise InputError(f"{self.key} has no task {task!r}{nearest(task, self.tasks)}")

    def check_dimensions(self, dimensions: int | None) -> None:
        """Raises InputError unless the model can give vectors of that length (None: the full length)."""
        if dimensions is None or (type(dimensions) is int and dimensions in self.matryoshka):
            return
        if not self.matryoshka:
            always = f"always gives {self.dimensions}" if self.dimensions else "gives no vectors"
            raise InputError(
                f"{self.key} {always}, and dimensions={dimensions!r} was given",
                cure="Leave it out.",
            )
        known = ", ".join(str(number) for number in self.matryoshka)
        raise InputError(f"{self.key} cannot give {dimensions!r} dimensions; it gives {known}")


@dataclass(frozen=True)
class Prices:
    """Published prices in USD an hour, as decimal strings, with their date: the fall-back for live ones."""

    date: str
    source: str
    software: str
    instances: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Quotas:
    """The codes of the quotas for endpoints, by instance type, with their date."""

    date: str
    source: str
    codes: Mapping[str, str]


@dataclass(frozen=True)
class Catalog:
    """The rows, the account in which AWS keeps Marketplace packages, by region, the published prices, quotas' codes."""

    models: Mapping[str, Model]
    accounts: Mapping[str, str]
    seller: str
    prices: Prices
    quotas: Quotas

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions in which Marketplace model packages exist."""
        return tuple(self.accounts)

    def model(self, key: str) -> Model:
        """The row of that key, whatever its case. Raises InputError with the nearest keys."""
        if not isinstance(key, str):
            raise InputError(f"a model is named by its key, a string, not {type(key).__name__}")
        for known, model in self.models.items():
            if known.lower() == key.lower():
                return model
        raise InputError(
            f"no model {key!r}{nearest(key, self.models)}",
            cure="`jina-sm models` lists them; JINA_SM_CATALOG=FILE.toml adds your own.",
        )

    def check_region(self, region: str) -> None:
        """Raises InputError, with the nearest names, unless Marketplace packages exist in the region."""
        if region not in self.accounts:
            raise InputError(
                f"no model packages in region {region!r}{nearest(region, self.accounts)}",
                cure="A region of your own goes under [accounts] in the file of JINA_SM_CATALOG.",
            )

    def package_arn(self, model: Model, region: str) -> str:
        """The ARN of the model's package in a region. Raises InputError where it cannot be known."""
        self.check_region(region)  # of an ARN of one's own too: status and teardown look where the catalogue says
        if region in model.arns:
            return model.arns[region]
        if model.package is None:
            raise InputError(
                f"the package ARN of {model.key} is not in the catalogue (it changes with each version)",
                cure=f"Copy it from the Marketplace console and give it with --package-arn or {_variable(model.key)}.",
            )
        return f"arn:aws:sagemaker:{region}:{self.accounts[region]}:model-package/{model.package}"

    def with_package(self, key: str, arn_or_name: str) -> Catalog:
        """This catalogue with another package for one model: a name, or an ARN of any Marketplace region.

        An ARN that AWS or Jina published is the same in every region but for the region and its account, so one is
        enough. An ARN from another account (your own copy of a package) counts for its own region only.
        """
        model = self.model(key)
        if re.fullmatch(r"[\w.-]+", arn_or_name):
            changed = dataclasses.replace(model, package=arn_or_name, arns=MappingProxyType({}))
        elif not (match := _ARN.fullmatch(arn_or_name)):
            raise InputError(
                f"{arn_or_name!r} is neither the name nor the ARN of a model package",
                cure="It looks like arn:aws:sagemaker:REGION:ACCOUNT:model-package/NAME.",
            )
        elif match["account"] in {self.accounts.get(match["region"]), self.seller}:
            changed = dataclasses.replace(model, package=match["name"], arns=MappingProxyType({}))
        else:
            arns = MappingProxyType({**model.arns, match["region"]: arn_or_name})
            changed = dataclasses.replace(model, arns=arns)
        return dataclasses.replace(self, models=MappingProxyType({**self.models, model.key: changed}))


def endpoint_name(model: Model, name: str | None = None) -> str:
    """The endpoint of a model: ``jina-sm-`` and its key, or a name of your own with that prefix.

    Every name of ours begins so: one filter then finds them among a thousand others, and a client finds what
    ``deploy`` made without being told.
    """
    return endpoint_called(re.sub(r"^jina-", "", model.key.lower()) if name is None else name)


def endpoint_called(name: str) -> str:
    """The endpoint of a name of your own, which may have that prefix already."""
    return PREFIX + re.sub(r"[^a-zA-Z0-9]+", "-", name.removeprefix(PREFIX)).strip("-")


def is_name(text: str) -> bool:
    """Whether an endpoint could be called so."""
    return re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", text) is not None and len(text) <= 63


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that says what was meant, perhaps: ``; did you mean 'a' or 'b'?``"""
    names = list(known)
    by_case = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(word).lower(), by_case, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(by_case[name]) for name in close) + "?"
    return "; known are " + ", ".join(sorted(names)) if len(names) <= 16 else ""


def load(file: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ) -> Catalog:
    """The built-in rows, then those of a file (or of ``JINA_SM_CATALOG``), then ``JINA_SM_PACKAGE_<KEY>``."""
    known = _read()
    if source := file or environ.get("JINA_SM_CATALOG"):
        known = _merged(known, str(source))
    for model in known.models.values():
        if package := environ.get(_variable(model.key)):
            known = known.with_package(model.key, package)
    return known


def _variable(key: str) -> str:
    return "JINA_SM_PACKAGE_" + re.sub(r"[^A-Z0-9]", "_", key.upper())


@functools.cache
def _read() -> Catalog:
    rows = tomllib.loads((Path(__file__).parent / "catalog.toml").read_text(encoding="utf-8"))
    return Catalog(
        MappingProxyType({key: _model(key, row) for key, row in rows["models"].items()}),
        MappingProxyType(rows["accounts"]),
        rows["seller"]["account"],
        Prices(**rows["prices"]),
        Quotas(**rows["quotas"]),
    )


def _merged(known: Catalog, source: str) -> Catalog:
    try:
        rows = tomllib.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: not TOML, or not UTF-8
        raise InputError(f"the catalogue {source!r} cannot be read: {error}") from error
    try:
        for table, content in rows.items():
            if table not in ("models", "accounts") or not isinstance(content, dict):
                raise InputError(f"{table!r} is unknown here; there are the tables [models] and [accounts]")
        for region, account in rows.get("accounts", {}).items():
            if not isinstance(account, str) or not re.fullmatch(r"\d{12}", account):
                raise InputError(f"the account of {region!r} is not a string of 12 digits: {account!r}")
        models = dict(known.models)
        for key, row in rows.get("models", {}).items():
            models[key] = _model(key, row, models.get(key))
    except InputError as error:
        raise InputError(f"the catalogue {source!r}: {error.message}") from error
    accounts = {**known.accounts, **rows.get("accounts", {})}
    return dataclasses.replace(known, models=MappingProxyType(models), accounts=MappingProxyType(accounts))


# Of each field its type, and the type of what it holds.
_TYPES: Mapping[str, tuple[type, type]] = {
    "kind": (str, str),
    "dialect": (str, str),
    "dimensions": (int, int),
    "matryoshka": (list, int),
    "tasks": (list, str),
    "default_task": (str, str),
    "max_tokens": (int, int),
    "modalities": (list, str),
    "normalized": (bool, bool),
    "instances": (list, str),
    "listing": (str, str),
    "package": (str, str),
    "arns": (dict, str),
}


def _model(key: str, row: Any, over: Model | None = None) -> Model:
    _check_row(key, row)
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    if "arns" in fields:
        fields["arns"] = MappingProxyType(fields["arns"])
    if over is not None:
        return dataclasses.replace(over, **fields)
    for name in ("kind", "dialect", "max_tokens"):
        if name not in fields:
            raise InputError(f"model {key!r} lacks {name!r}")
    return Model(key=key, **fields)


def _check_row(key: str, row: Any) -> None:
    """Raises InputError that names the field, for whatever a user's file may hold."""
    if not key.strip():
        raise InputError("a model has an empty key")
    if not isinstance(row, dict):
        raise InputError(f'[models."{key}"] is not a table')
    value: Any
    for name, value in row.items():
        if name not in _TYPES:
            raise InputError(f"model {key!r} has an unknown field {name!r}{nearest(name, _TYPES)}")
        kind, inner = _TYPES[name]
        if not _is_a(value, kind):
            raise InputError(f"model {key!r}: {name} is a {type(value).__name__}, not a {kind.__name__}")
        if kind is int and value < 1:
            raise InputError(f"model {key!r}: {name} is 1 or more, not {value}")
        for item in value.values() if kind is dict else value if kind is list else ():
            if not _is_a(item, inner):
                raise InputError(f"model {key!r}: {item!r} in {name} is not a {inner.__name__}")
    for region, arn in row.get("arns", {}).items():
        if not _ARN.fullmatch(arn):
            raise InputError(f"model {key!r}: {arn!r} of {region} is not the ARN of a model package")


def _is_a(value: object, kind: type) -> bool:
    return type(value) is kind  # a bool is no int here
