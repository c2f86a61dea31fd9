"""
Models from files: SentenceTransformers and CrossEncoders, as the batcher's driver wants them.

An encoder says how long texts are, with the model's own tokenizer, and turns one batch into one row an item. It is
called from one thread, except for the lengths. How Jina's models are told their task is in ``_TASKED``; it was read in
their published code, and no such model was run here.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jina_sm.catalog import Catalog, Model
from jina_sm.errors import InputError, JinaSMError, MissingExtraError
from jina_sm.serve.settings import STAND_IN, Settings
from jina_sm.values import Vectors, normalized

CHARACTERS_A_TOKEN = 64
"""A text that is longer than this times the limit is not read to its end to find that it is too long."""
_MEMORY = re.compile(
    r"out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED|DefaultCPUAllocator", re.IGNORECASE
)


class Encoder(Protocol):
    """One model. ``model`` is its row, ``max_tokens`` the longest text it reads; ``stand_in``: it only plays it."""

    stand_in: bool

    @property
    def model(self) -> Model: ...

    @property
    def max_tokens(self) -> int: ...

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included. Called from any thread."""

    def release(self) -> None:
        """Memory ran out: gives back what is only kept for speed."""


class Embedder(Encoder, Protocol):
    """Texts to vectors."""

    def prompt_tokens(self, task: str | None) -> int:
        """How many tokens the model reads before each text for that task. Called from any thread."""

    def embed(self, texts: Sequence[str], task: str | None) -> Vectors:
        """(n, d), as the model gives them."""

    def embed_late(self, chunks: Sequence[str], task: str | None) -> Vectors:
        """(n, d): each chunk of one document, read with the others in sight. Raises InputError."""


class Scorer(Encoder, Protocol):
    """Pairs of a query and a document to scores."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> Vectors:
        """(n,)."""


def is_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, ran out of it."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or bool(_MEMORY.search(str(error))))
    )


def named(name: str, served_as: str | None, known: Catalog) -> Model | None:
    """The catalogue's row of a model: by ``served_as``, else by the name's last part, else None."""
    if served_as is not None:
        return known.model(served_as)
    last = name.rstrip("/").rpartition("/")[2].lower()
    return next((model for key, model in known.models.items() if key.lower() == last), None)


def load(settings: Settings, known: Catalog) -> tuple[Embedder | None, Scorer | None]:
    """The models from files that the settings name, loaded. Raises JinaSMError."""
    embedder: Embedder | None = None
    scorer: Scorer | None = None
    if settings.offline:  # read when the libraries are first imported, and heeded by code that comes with a model too
        os.environ["HF_HUB_OFFLINE"] = "1"
    if settings.model != STAND_IN:
        row = named(settings.model, settings.served_as, known)
        if row is not None:
            check_kind(row)
        if (row.kind == "reranker") if row else _is_cross_encoder(settings.model):
            scorer = CrossEncoderScorer.load(settings.model, row, settings)
        else:
            embedder = SentenceTransformersEmbedder.load(settings.model, row, settings)
    if settings.reranker not in (None, STAND_IN):
        assert settings.reranker is not None
        if scorer is not None:
            raise InputError("--model and --reranker are both rerankers", cure="Leave one out.")
        row = named(settings.reranker, None, known)
        if row is not None:
            check_kind(row)
        scorer = CrossEncoderScorer.load(settings.reranker, row, settings)
    return embedder, scorer


def check_kind(row: Model) -> None:
    """Raises InputError for a model of the catalogue that this server cannot load from files."""
    if row.kind not in ("embedding", "reranker"):
        raise InputError(f"{row.key} is a {row.kind} model, and this server has embedding models and rerankers")
    if row.kind == "reranker" and row.dialect not in _CROSS_ENCODERS:
        raise InputError(
            f"{row.key} is no cross-encoder, and other rerankers are not loaded here",
            cure="--upstream stands in front of an endpoint of it.",
        )


class SentenceTransformersEmbedder:
    """What SentenceTransformers loads: with LoRA tasks, prompts, or neither."""

    stand_in = False

    def __init__(self, loaded: Any, row: Model | None, *, name: str, max_tokens: int | None = None) -> None:
        self._loaded = loaded
        self._prompts: Mapping[str, str] = dict(loaded.prompts or {})
        self._prompt_tokens: dict[str | None, int] = {}
        own = int(loaded.max_seq_length or (row.max_tokens if row else 512))
        if max_tokens is not None:
            _check_reads(name, max_tokens, row, own, loaded)
            loaded.max_seq_length = own = max_tokens
        self.max_tokens = own
        width = int(_dimension(loaded))
        self.model = row or _row_of(name, "embedding", "embeddings-v3", self.max_tokens, width, tuple(self._prompts))
        if width != self.model.dimensions:
            raise InputError(
                f"{name} gives {width} dimensions, and {self.model.key} has {self.model.dimensions}",
                cure="--served-as names another model of the catalogue, or leave it out.",
            )
        self.model = dataclasses.replace(self.model, max_tokens=self.max_tokens)
        self._lengths = _Tokenizer(loaded.tokenizer, self.max_tokens)

    @classmethod
    def load(cls, name: str, row: Model | None, settings: Settings) -> SentenceTransformersEmbedder:
        from_files = _library()
        device = _device(settings)
        loaded = _loaded(name, settings, lambda **how: from_files.SentenceTransformer(name, **how), device)
        return cls(loaded, row, name=name, max_tokens=settings.max_text_tokens)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return self._lengths.of(texts)

    def prompt_tokens(self, task: str | None) -> int:
        if task not in self._prompt_tokens:
            prompt = self._prompts.get(self._tasked(task).get("prompt_name", ""), "")
            self._prompt_tokens[task] = self._lengths.bare(prompt) if prompt else 0
        return self._prompt_tokens[task]

    def embed(self, texts: Sequence[str], task: str | None) -> Vectors:
        rows = self._loaded.encode(
            list(texts), batch_size=len(texts), convert_to_numpy=True, show_progress_bar=False, **self._tasked(task)
        )
        return np.asarray(rows, np.float32)

    def embed_late(self, chunks: Sequence[str], task: str | None) -> Vectors:
        """Each chunk's vector is the mean of its tokens', of which each has seen the whole document."""
        told = self._tasked(task)
        prompt = self._prompts.get(told.get("prompt_name", ""), "")
        document = " ".join(chunks)
        (rows,) = self._loaded.encode(
            [document], output_value="token_embeddings", convert_to_numpy=False, show_progress_bar=False, **told
        )
        tokens = np.asarray(rows.detach().float().cpu(), np.float32)
        spans = self._lengths.spans(prompt + document)
        if len(spans) != len(tokens):
            raise InputError(
                f"the model gave {len(tokens)} vectors for {len(spans)} tokens, so chunks cannot be told apart"
            )
        starts, ends = np.array(spans).T
        found = np.empty((len(chunks), tokens.shape[1]), np.float32)
        start = len(prompt)
        for place, chunk in enumerate(chunks):
            inside = (starts < start + len(chunk)) & (ends > start) & (ends > starts)
            if not inside.any():
                raise InputError(f"item {place} has no token of its own in the document")
            found[place] = tokens[inside].mean(axis=0)
            start += len(chunk) + 1
        return normalized(found)

    def release(self) -> None:
        _empty_caches()

    def _tasked(self, task: str | None) -> dict[str, Any]:
        task = task or self.model.default_task
        if task is None:
            return {}
        told = dict(_TASKED.get(self.model.dialect, _prompted)(task))
        if told.get("prompt_name") not in self._prompts:
            told.pop("prompt_name", None)
        return told


class CrossEncoderScorer:
    """What SentenceTransformers' CrossEncoder loads."""

    stand_in = False

    def __init__(self, loaded: Any, row: Model | None, *, name: str, max_tokens: int | None = None) -> None:
        self._loaded = loaded
        own = int(getattr(loaded, "max_length", None) or (row.max_tokens if row else 512))
        if max_tokens is not None:
            _check_reads(name, max_tokens, row, own, loaded)
        self.max_tokens = min(max_tokens or own, row.max_tokens if row else own)
        if hasattr(loaded, "max_length"):
            loaded.max_length = self.max_tokens
        self.model = dataclasses.replace(
            row or _row_of(name, "reranker", "reranker-v2", self.max_tokens, None, ()), max_tokens=self.max_tokens
        )
        self._lengths = _Tokenizer(loaded.tokenizer, self.max_tokens)

    @classmethod
    def load(cls, name: str, row: Model | None, settings: Settings) -> CrossEncoderScorer:
        from_files = _library()
        device = _device(settings)
        loaded = _loaded(name, settings, lambda **how: from_files.CrossEncoder(name, **how), device)
        return cls(loaded, row, name=name, max_tokens=settings.max_text_tokens)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return self._lengths.of(texts)

    def score(self, pairs: Sequence[tuple[str, str]]) -> Vectors:
        scores = self._loaded.predict(
            [list(pair) for pair in pairs], batch_size=len(pairs), convert_to_numpy=True, show_progress_bar=False
        )
        found = np.asarray(scores, np.float32)
        if found.ndim != 1:
            raise InputError(f"{self.model.key} gives {found.shape[1:]} numbers a pair, and a reranker gives one")
        return found

    def release(self) -> None:
        _empty_caches()


class _Tokenizer:
    """Lengths and places of tokens, by a copy of the model's tokenizer: the model's own is not for two threads."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self._most = CHARACTERS_A_TOKEN * max_tokens
        self._max_tokens = max_tokens
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError("the model has no fast tokenizer (tokenizer.json), which this server needs")
        self._copy = type(backend).from_str(backend.to_str())
        self._copy.no_truncation()
        self._copy.no_padding()

    def of(self, texts: Sequence[str]) -> list[int]:
        found = self._copy.encode_batch([text[: self._most] for text in texts])
        lengths = [len(each.ids) for each in found]
        for place, text in enumerate(texts):
            if len(text) > self._most and lengths[place] <= self._max_tokens:
                lengths[place] = len(self._copy.encode(text).ids)  # nearly all of it blank, say
        return lengths

    def bare(self, text: str) -> int:
        """Tokens without the special ones."""
        return len(self._copy.encode(text, add_special_tokens=False).ids)

    def spans(self, text: str) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = self._copy.encode(text).offsets
        return found


def _prompted(task: str) -> dict[str, Any]:
    return {"prompt_name": task}


def _whole(task: str) -> dict[str, Any]:
    return {"task": task, "prompt_name": task}


def _halves(task: str) -> dict[str, Any]:
    """``retrieval.query``: the adapter of retrieval with the prompt of queries."""
    adapter, _, side = task.partition(".")
    return {"task": adapter, "prompt_name": {"passage": "document"}.get(side, side) or adapter}


def _code(task: str) -> dict[str, Any]:
    return {"prompt_name": task.replace(".passage", ".document").replace(".", "_")}


_CROSS_ENCODERS = frozenset({"reranker-v2"})
"""The dialect of Jina's rerankers that are one; v3 reads its documents in one sequence, m0 has a head of its own."""
_TASKED: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "embeddings-v3": _whole,
    "embeddings-v4": _halves,
    "embeddings-v5": _halves,
    "embeddings-code": _code,
}


def _row_of(name: str, kind: str, dialect: str, max_tokens: int, width: int | None, tasks: tuple[str, ...]) -> Model:
    """A row for a model that is in no catalogue."""
    key = name.rstrip("/").rpartition("/")[2] or name
    return Model(
        key=key,
        kind=kind,
        dialect=dialect,
        dimensions=width,
        matryoshka=(width,) if width else (),
        tasks=tasks,
        max_tokens=max_tokens,
    )


def _dimension(loaded: Any) -> int:
    """Renamed in SentenceTransformers 5.3 or so; either is asked."""
    ask = getattr(loaded, "get_embedding_dimension", None) or loaded.get_sentence_embedding_dimension
    return int(ask())


def _library() -> Any:
    try:
        import sentence_transformers
    except ImportError:
        raise MissingExtraError("Serving a model from files", "torch") from None
    return sentence_transformers


def _device(settings: Settings) -> str:
    import torch

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.device is not None:
        kind = settings.device.partition(":")[0]
        there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(
            kind, lambda: kind == "cpu"
        )
        if not there():
            raise InputError(f"there is no device {settings.device!r} here", cure="--device cpu, or leave it out.")
        return settings.device
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _loaded(name: str, settings: Settings, open_: Callable[..., Any], device: str) -> Any:
    """The model, or a JinaSMError that says what to do. Weights are read as safetensors: a pickle is a program."""
    import torch

    dtype = settings.dtype or ("float16" if device.startswith("cuda") else "float32")
    how: dict[str, Any] = {
        "device": device,
        "trust_remote_code": settings.trust_remote_code,
        "revision": settings.revision,
        "cache_folder": settings.cache,
        "local_files_only": settings.offline or Path(name).is_dir(),
        "model_kwargs": {_dtype_word(): getattr(torch, dtype), "use_safetensors": True},
    }
    if Path(name).is_dir() and settings.revision is not None:
        raise InputError(f"{name!r} is a directory, which has no --revision", cure="Leave it out.")
    try:
        loaded = open_(**how)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        if "trust_remote_code" in str(error):
            cure = _CODE
        elif settings.trust_remote_code and _transformers() >= (5, 0):
            cure = "Code that comes with a model may be older than transformers 5: pip install 'transformers<5'."
        elif settings.offline or not Path(name).is_dir():
            cure = "Give a directory, or the name of a model that can be reached; --offline downloads nothing."
        else:
            cure = "Give a directory that SentenceTransformers saved."
        raise JinaSMError(f"the model {name!r} cannot be loaded: {type(error).__name__}: {said}", cure=cure) from error
    if not settings.trust_remote_code and _brings_code(loaded):
        raise JinaSMError(f"the model {name!r} cannot be loaded without its own code", cure=_CODE)
    loaded.eval()
    # It is where it is to be, and stays as it is: `encode` would walk through all its parts each time to make sure.
    loaded.to = loaded.eval = lambda *_, **__: loaded
    return loaded


_CODE = "It comes with code of its own: read it, pin it (docs/serve.md says how), and pass --trust-remote-code."


def _brings_code(loaded: Any) -> bool:
    """Whether the model has another class than was loaded for it, of which the weights would be random."""
    return bool(getattr(_config(loaded), "auto_map", None))


def _config(loaded: Any) -> Any:
    """The description that came with the model inside; None: it has none."""
    inner = loaded[0] if hasattr(loaded, "__getitem__") else loaded
    model = getattr(inner, "auto_model", None) or getattr(loaded, "model", None)
    return getattr(model, "config", None)


def _check_reads(name: str, asked: int, row: Model | None, own: int, loaded: Any) -> None:
    """Raises InputError for more than the model can read: what is beyond its table of places would be read there."""
    config = _config(loaded)
    places = getattr(config, "max_position_embeddings", None)
    if row is not None:
        own = row.max_tokens
    elif isinstance(places, int):
        offset = 2 if re.search("roberta|mpnet", str(getattr(config, "model_type", ""))) else 0  # they count from there
        own = max(own, places - offset)
    if asked > own:
        raise InputError(f"--max-text-tokens: {name} reads {own} tokens at most, not {asked}")


def _dtype_word() -> str:
    """Renamed in transformers 4.56."""
    return "dtype" if _transformers() >= (4, 56) else "torch_dtype"


def _transformers() -> tuple[int, ...]:
    """Its version, to the second number."""
    from importlib.metadata import version

    return tuple(map(int, version("transformers").split(".")[:2]))


def _is_cross_encoder(name: str) -> bool:
    """By the directory's own description; what has none is taken for an embedding model."""
    import orjson

    config, modules = Path(name) / "config.json", Path(name) / "modules.json"
    if modules.is_file() or not config.is_file():
        return False
    try:
        told = orjson.loads(config.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return False
    kinds = told.get("architectures") or [] if isinstance(told, dict) else []
    return any("SequenceClassification" in str(kind) for kind in kinds)


def _empty_caches() -> None:
    import gc
    import sys

    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def accelerated(settings: Settings) -> bool:
    """Whether the model would be on a GPU, as far as can be told without loading anything else."""
    if settings.device is not None:
        return settings.device.partition(":")[0] in ("cuda", "mps")
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available() or torch.backends.mps.is_available())
