"""
What the server is told, in one place: each field is a flag, an environment variable and a line of the documentation.

A flag goes before its variable, and a variable before the default. What contradicts itself is refused before anything
is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from jina_sm.errors import InputError
from jina_sm.transport.target import Target, parse

PREFIX = "JINA_SM_SERVE_"
STAND_IN = "stand-in"
SAGEMAKERS = Path("/opt/ml/model")
"""Where SageMaker unpacks a model's files for its container."""
SECRET = "api_keys"
"""Has no flag: whoever lists the machine's processes sees their arguments."""


def seconds(given: Any) -> Any:
    """``2s``, ``500ms``, ``1m`` or a number of seconds, as a number."""
    if not isinstance(given, str):
        return given
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m)?", given.strip())
    if not match:
        raise ValueError(f"{given!r} is not a duration such as 2s, 500ms or 1m")
    return float(match[1]) * {"ms": 0.001, "m": 60.0}.get(match[2], 1.0)


def several(given: Any) -> Any:
    """Words separated by blanks or commas, as a list."""
    return re.findall(r"[^\s,]+", given) if isinstance(given, str) else given


_OF_A_LOADED_MODEL = ("device", "dtype", "revision", "trust_remote_code", "offline", "cache")
_OF_A_MODEL = (
    *("model", "reranker", "served_as", *_OF_A_LOADED_MODEL),
    *("threads", "max_text_tokens", "truncate", "batching", "max_tokens", "max_wait_s"),
)
Seconds = Annotated[float, BeforeValidator(seconds)]
Words = Annotated[tuple[str, ...], BeforeValidator(several)]


class Settings(BaseModel):
    """Frozen, and true: whatever was given is within its bounds and nothing in it contradicts the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: str = Field(
        STAND_IN,
        description="What to serve: a model of Hugging Face's, a directory, or stand-in, which needs no download and "
        "whose vectors are not Jina's.",
    )
    reranker: str | None = Field(None, description="A reranker to serve beside it, named in the same way.")
    served_as: str | None = Field(
        None, description="The model's key in the catalogue, where its name does not say it. Of the stand-in: any."
    )
    upstream: Words = Field(
        (),
        description="Serve no model, but stand in front of these: sagemaker://REGION/ENDPOINT?model=KEY, "
        "jina-api://?model=KEY or http(s)://HOST[:PORT]?model=KEY. Those of one model take over for each other.",
    )

    host: str = Field("127.0.0.1", description="The address to listen on; 0.0.0.0 in a container.")
    port: int = Field(8080, ge=0, le=65535, description="The port to listen on; 0: any that is free.")
    tls_cert: str | None = Field(None, description="A certificate chain (PEM): serve https.")
    tls_key: str | None = Field(None, description="Its private key (PEM).")

    device: str | None = Field(None, description="cuda, cuda:1, mps or cpu. Default: a GPU if there is one.")
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, description="Of the weights: float32, float16 or bfloat16. Default: float16 on a GPU, else float32."
    )
    revision: str | None = Field(
        None,
        description="The model's commit or tag. Code of its own that is in another repository is not pinned by it.",
    )
    trust_remote_code: bool = Field(
        False, description="Run the Python code that comes with the model (jina-embeddings-v3 needs it)."
    )
    offline: bool = Field(False, description="Download nothing: the model is a directory or in the cache.")
    cache: str | None = Field(None, description="The directory of downloaded models. Default: Hugging Face's own.")
    threads: int | None = Field(None, ge=1, description="CPU threads of one batch. Default: PyTorch's own choice.")
    max_text_tokens: int | None = Field(
        None, ge=1, description="The longest text taken, in tokens. Default: as the model says."
    )
    truncate: bool = Field(
        False, description="Cut a text that is too long instead of refusing it. A request may ask for that itself."
    )

    batching: Literal["continuous", "window", "none"] = Field(
        "continuous",
        description="continuous: what arrives while the model works is the next batch. window (wait for max-tokens or "
        "max-wait) and none (a request at a time, whole) are for comparison: they run out of memory.",
    )
    max_tokens: int | None = Field(
        None, ge=1, description="A batch's tokens, padding included. Default: 8192 on a GPU, 1024 on a CPU."
    )
    max_wait_s: Seconds | None = Field(None, ge=0, le=60, description="Of --batching window. Default: 2s.")
    max_waiting_tokens: int = Field(2_000_000, ge=1, description="What may wait for the model; more is answered 429.")
    max_waiting_items: int = Field(20_000, ge=1, description="The same, counted in texts.")

    max_items: int = Field(2048, ge=1, description="Texts in one request.")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="Of one request's body; more is answered 413.")
    max_open_bytes: int = Field(
        256 * 1024 * 1024, ge=1024, description="Of all bodies that are being read or worked on; more is answered 429."
    )
    body_timeout_s: Seconds = Field(
        20.0, gt=0, le=600, description="How long a body may take to arrive, and each part of an answer to be read."
    )
    timeout_s: Seconds = Field(60.0, gt=0, le=3600, description="How long a request may take, its wait included.")
    drain_s: Seconds = Field(
        25.0, ge=0, le=3600, description="On SIGTERM: how long what was accepted may still take to be answered."
    )
    drain_delay_s: Seconds = Field(
        0.0,
        ge=0,
        le=600,
        description="On SIGTERM: how long new requests are still taken, until nobody sends any. On Kubernetes: 5s.",
    )
    stuck_after_s: Seconds = Field(300.0, gt=0, description="A batch that takes longer than this turns /live red.")

    api_keys: tuple[SecretStr, ...] = Field(
        (), description="Keys, separated by commas, one of which a request must bring (Authorization: Bearer KEY)."
    )
    api_key_file: str | None = Field(None, description="A file with a key a line, as a Kubernetes secret is mounted.")
    url_hosts: Words = Field(
        (),
        description="With --upstream: hosts (HOST, or HOST:PORT) whose http(s) URLs may be passed on as media. Nothing "
        "is fetched here.",
    )
    access_log: bool = Field(True, description="A line of JSON a request on stderr. It never holds a text or a key.")

    @pydantic.field_validator("api_keys", mode="before")
    @classmethod
    def _keys(cls, given: Any) -> Any:
        return several(given)

    @pydantic.model_validator(mode="after")
    def _of_one_kind(self) -> Settings:
        """A model here, or targets elsewhere."""
        for target in self.upstream:
            parse(target)
        if self.upstream:
            for name in _OF_A_MODEL:
                if name in self.model_fields_set:
                    raise ValueError(f"{flag(name)} is of a model served here, and --upstream serves none")
        elif self.url_hosts:
            raise ValueError("--url-hosts goes with --upstream: the models served here take texts only")
        for name in _OF_A_LOADED_MODEL:
            if getattr(self, name) and not self.upstream and not self._loaded:
                raise ValueError(f"{flag(name)} is of a model that is loaded, and the stand-in is built in")
        return self

    @pydantic.model_validator(mode="after")
    def _batches(self) -> Settings:
        if self.batching != "window" and self.max_wait_s is not None:
            raise ValueError("--max-wait is of --batching window; the others wait for nothing")
        if self.batching == "none" and self.max_tokens is not None:
            raise ValueError("--max-tokens bounds batches, and --batching none makes none")
        if self.dtype == "float16" and self.device == "cpu":
            raise ValueError("float16 on a CPU is slow where it works at all: --dtype bfloat16 or float32")
        return self

    @pydantic.model_validator(mode="after")
    def _doors(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key go together")
        for name in ("model", "reranker"):
            path = getattr(self, name)
            if path is not None and _is_path(path) and not Path(path).is_dir():
                raise ValueError(f"{flag(name)}: there is no directory {path!r}")
        for name in ("tls_cert", "tls_key", "api_key_file"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise ValueError(f"{flag(name)}: there is no file {path!r}")
        if self.max_open_bytes < self.max_body_bytes:
            raise ValueError("--max-open-bytes is less than one body may have (--max-body-bytes)")
        for key in self.keys():
            if not re.fullmatch(r"[!-~]{8,}", key):
                raise ValueError("an API key has 8 characters or more, all of them visible ASCII")
        return self

    @property
    def _loaded(self) -> bool:
        """Whether any model comes from files."""
        return any(name not in (None, STAND_IN) for name in (self.model, self.reranker))

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(parse(target) for target in self.upstream)

    def keys(self) -> tuple[str, ...]:
        """The API keys of the variable and of the file. None: whoever reaches the port may ask."""
        found = [key.get_secret_value() for key in self.api_keys]
        if self.api_key_file is not None:
            try:
                lines = Path(self.api_key_file).read_text(encoding="utf-8").split()
            except OSError as error:
                raise ValueError(f"--api-key-file cannot be read: {error.strerror}") from None
            if not lines:
                raise ValueError("--api-key-file: the file holds no key, and would let everybody in")
            found += lines
        return tuple(dict.fromkeys(found))


def _is_path(model: str) -> bool:
    """Whether it can be no name of Hugging Face's, which is NAME or OWNER/NAME."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1


def flag(name: str) -> str:
    """As it stands on the command line: ``--max-wait``."""
    return "--" + name.removesuffix("_s").replace("_", "-")


def variable(name: str) -> str:
    """``JINA_SM_SERVE_MAX_WAIT``."""
    return PREFIX + name.removesuffix("_s").upper()


def load(given: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings by flags (those that are not None) and variables. Raises InputError, which names what is wrong."""
    names = {variable(name): name for name in Settings.model_fields}
    for said in environ:
        if said.startswith(PREFIX) and said not in names:
            raise InputError(f"{said} is no setting", cure="`jina-sm serve --help` shows them all.")
    told: dict[str, Any] = {names[said]: value for said, value in environ.items() if said in names and value != ""}
    if (keys := environ.get(variable(SECRET))) is not None and not several(keys):
        raise InputError(
            f"{variable(SECRET)} is set and holds no key, and would let everybody in", cure="Unset it to have no keys."
        )
    sources = {name: variable(name) for name in told}
    for name, value in (given or {}).items():
        if value is not None and value != ():
            told[name] = value
            sources[name] = flag(name)
    if not told.keys() & {"model", "upstream"} and SAGEMAKERS.is_dir() and any(SAGEMAKERS.iterdir()):
        told["model"] = str(SAGEMAKERS)
    try:
        return Settings(**told)
    except pydantic.ValidationError as error:
        raise InputError("; ".join(_said(each, sources) for each in error.errors())) from None


def _said(wrong: Any, sources: Mapping[str, str]) -> str:
    """One finding, with where it was said. A secret is never repeated: no value is."""
    message = str(wrong["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    where = str(wrong["loc"][0]) if wrong["loc"] else ""
    if where not in sources:
        return f"{where}: {message}" if where else message
    return (
        f"{sources[where]}: should be {message}"
        if "Input should be" in wrong["msg"]
        else f"{sources[where]}: {message}"
    )


def table() -> str:
    """The documentation's table of all settings, in Markdown."""
    lines = ["| flag | variable | default | |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        shown = "`" + flag(name) + "`" if name != SECRET else "(variable only)"
        default = field.default
        said = (
            "" if default in (None, ()) else f"`{'on' if default is True else 'off' if default is False else default}`"
        )
        lines.append(
            f"| {shown} | `{variable(name)}` | {said} | {(field.description or '').replace('|', chr(92) + '|')} |"
        )
    return "\n".join(lines) + "\n"
