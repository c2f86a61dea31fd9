"""
What goes in and what comes out of a model, as frozen values.

What can be wrong with them is refused when they are made, by name, so nothing downstream checks again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from jina_sm.errors import InputError, JinaSMError

Vectors = NDArray[np.float32]
MEDIA = ("image", "audio", "video", "pdf")


@dataclass(frozen=True)
class Media:
    """An image, audio, video or PDF: its bytes, or the http(s) URL from which the endpoint is to fetch it."""

    kind: str
    source: bytes | str = field(repr=False)

    def __post_init__(self) -> None:
        if self.kind not in MEDIA:
            raise InputError(f"media are {', '.join(MEDIA)}, not {self.kind!r}")
        if isinstance(self.source, str) and not re.fullmatch(r"https?://[!-~]+", self.source):
            raise InputError(f"{self.source[:40]!r} is not an http(s) URL", cure="Pass bytes, or a URL in ASCII.")
        if not self.source:
            raise InputError(f"the {self.kind} is empty")


Item = str | Media


@dataclass(frozen=True, kw_only=True)
class EmbedRequest:
    """Texts and media to embed, and how. A model that does not know a parameter refuses it.

    ``dimensions=None``: the model's full length; ``task=None``: its default (a ColBERT model's are query and
    document). ``multivector``: one vector a token; ``truncate``: cut what is too long rather than refuse it;
    ``base64``: numbers travel as bytes, a quarter of their size in JSON.
    """

    items: tuple[Item, ...]
    task: str | None = None
    dimensions: int | None = None
    late_chunking: bool = False
    multivector: bool = False
    normalized: bool = True
    truncate: bool = False
    base64: bool = False


@dataclass(frozen=True, kw_only=True)
class RerankRequest:
    """Documents to score against one query. ``top_n=None``: all of them come back."""

    query: str
    documents: tuple[Item, ...]
    top_n: int | None = None


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """HTML to turn into Markdown, or into JSON by a schema. ``instruction=None``: the model's usual one."""

    html: str
    instruction: str | None = None
    schema: str | None = None


@dataclass(frozen=True)
class Rows:
    """What one answer says of its items, in their order.

    ``values`` is float32: (n, d) vectors or (n,) scores. A score of -inf: the model left that document out
    (top_n). ``tokens`` is what the model says it read.
    """

    values: Vectors
    tokens: int

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class MultiRows:
    """As Rows, where an item has many vectors: ``values`` holds one (tokens, d) array an item."""

    values: tuple[Vectors, ...]
    tokens: int

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a reader wrote. A ``finish_reason`` of ``length``: it ran out of tokens, and the text is cut."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    timings: Timings | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Usage:
    """What a call cost: tokens as the model counted them, and requests sent to get the answer."""

    total_tokens: int
    requests: int


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Where the time of a call went, in seconds: ``queued_s`` until its first request was sent, ``decode_s`` turning
    answers into arrays (of the requests it shared too), and how many requests, retries, halvings and second copies.
    """

    total_s: float
    queued_s: float
    decode_s: float
    requests: int
    retries: int = 0
    splits: int = 0
    hedges: int = 0


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One vector an item, in the order given. ``vectors`` is float32 of shape (n, d).

    ``errors``: with ``on_error="collect"``, what went wrong with the items that have no vector; their rows are NaN.
    """

    vectors: Vectors
    usage: Usage
    model: str
    timings: Timings | None = None
    errors: Mapping[int, JinaSMError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32:
            raise InputError(
                f"vectors are float32 of shape (n, d), not {self.vectors.dtype} of shape {self.vectors.shape}"
            )

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[Vectors]:
        return iter(self.vectors)

    def __getitem__(self, index: int) -> Vectors:
        row: Vectors = self.vectors[index]
        return row

    @property
    def dimensions(self) -> int:
        return int(self.vectors.shape[1])

    def _repr_html_(self) -> str:
        shown = self.vectors[:5, :6]
        rows = [[str(index), *(f"{number:.4f}" for number in row), "…"] for index, row in enumerate(shown)]
        return _html_table(repr(self), ["", *map(str, range(shown.shape[1])), "…"], rows)

    def __repr__(self) -> str:
        return f"Embeddings({len(self)} x {self.dimensions} float32, {self.usage.total_tokens} tokens, {self.model})"


@dataclass(frozen=True)
class Ranked:
    """One document's place: ``index`` is its position in the documents given."""

    index: int
    relevance_score: float
    document: Item


@dataclass(frozen=True, eq=False)
class Ranking:
    """Documents by falling relevance. ``indices`` (n,) int64 and ``scores`` (n,) float32 are in that order.

    ``errors``: with ``on_error="collect"``, what went wrong with the documents that are not among them.
    """

    indices: NDArray[np.int64]
    scores: Vectors
    documents: tuple[Item, ...]
    usage: Usage
    model: str
    timings: Timings | None = None
    errors: Mapping[int, JinaSMError] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        scores: Vectors,
        documents: tuple[Item, ...],
        *,
        top_n: int | None,
        usage: Usage,
        model: str,
        timings: Timings | None = None,
        errors: Mapping[int, JinaSMError] = MappingProxyType({}),
    ) -> Ranking:
        """The ranking that scores (n,), given in the order of the documents, make. Equal scores keep their order.

        A document whose score is NaN has none, and is left out.
        """
        order = np.argsort(-scores, kind="stable")
        order = order[~np.isnan(scores[order])][:top_n]
        return cls(order, scores[order], tuple(documents[i] for i in order), usage, model, timings, errors)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Ranked]:
        for index, score, document in zip(self.indices, self.scores, self.documents, strict=True):
            yield Ranked(int(index), float(score), document)

    def __getitem__(self, place: int) -> Ranked:
        return Ranked(int(self.indices[place]), float(self.scores[place]), self.documents[place])

    def _repr_html_(self) -> str:
        rows = [[f"{each.relevance_score:.4f}", str(each.index), str(each.document)] for each in self]
        return _html_table(repr(self), ["score", "index", "document"], rows)

    def __repr__(self) -> str:
        best = f", best {self[0].relevance_score:.3f} at {self[0].index}" if len(self) else ""
        return f"Ranking({len(self)} documents{best}, {self.usage.total_tokens} tokens, {self.model})"


def _html_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """For notebooks. Texts are escaped: a document may hold anything."""
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def items_of(given: object, *, call: str, name: str) -> tuple[Item, ...]:
    """The texts and media, if that is what they are. Raises InputError that names the item and the cure."""
    if isinstance(given, str | bytes | Media):
        raise InputError(f"{call}() takes a list of {name}; for one, pass [text]")
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise InputError(f"{call}() takes a list of {name}, not {type(given).__name__}")
    found = tuple(given)
    if not found:
        raise InputError(f"{call}() was given no {name}")
    for index, item in enumerate(found):
        if not isinstance(item, Media):
            check_text(item, f"{name}[{index}]")
    return found


def check_text(text: object, item: str) -> None:
    """Raises InputError, which names the item, unless it is a text that can be sent."""
    if not isinstance(text, str):
        cure = "For an image, pass jina_sm.image(...)." if hasattr(text, "save") or isinstance(text, bytes) else None
        raise InputError(f"{item} is a {type(text).__name__}, not a string", cure=cure)
    if not text:
        raise InputError(f"{item} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{item} is not valid Unicode: a lone surrogate at character {error.start}",
            cure="It was probably read with the wrong encoding.",
        ) from None


def check_top_n(top_n: object) -> None:
    """Raises InputError unless top_n is None or a whole number of 1 or more."""
    if top_n is not None and (type(top_n) is not int or top_n < 1):
        raise InputError(f"top_n is a whole number of 1 or more, not {top_n!r}")


class MultiVector: ...


def normalized(vectors: Vectors) -> Vectors:
    return vectors
