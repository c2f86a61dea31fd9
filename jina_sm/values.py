"""
What goes in and what comes out of a model, as frozen values.

What can be wrong with them is refused when they are made, by name, so nothing downstream checks again.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

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


class Picture(Protocol):
    """What a PIL image can."""

    def save(self, fp: io.BytesIO, /, *, format: str) -> object: ...  # noqa: A002  PIL's own word


Source = bytes | bytearray | str | os.PathLike[str]
"""Bytes; the path of a file; an http(s) URL, from which the endpoint is to fetch; or a ``data:`` URI."""


def image(source: Source | Picture) -> Media:
    """An image to embed or to rank: ``image("cat.png")``. One of PIL's is sent as PNG. Raises InputError."""
    save = getattr(source, "save", None)
    if save is None:
        return _media("image", source)
    png = io.BytesIO()
    try:
        save(png, format="PNG")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"the image cannot be written as PNG: {error}", cure="Convert it to RGB first.") from None
    return Media("image", png.getvalue())


def audio(source: Source) -> Media:
    """A recording. Raises InputError."""
    return _media("audio", source)


def video(source: Source) -> Media:
    """A video. Raises InputError."""
    return _media("video", source)


def pdf(source: Source) -> Media:
    """A PDF, which becomes a row a page. Raises InputError."""
    return _media("pdf", source)


_IMAGES = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|BM|II\*\0|MM\0\*", re.DOTALL)
_TYPES = {"pdf": "application/pdf"}


def _media(kind: str, source: object) -> Media:
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return Media(kind, source)
    if isinstance(source, bytes | bytearray):
        content = bytes(source)
    elif isinstance(source, str) and source.startswith("data:"):
        content = _in_uri(kind, source)
    elif isinstance(source, str | os.PathLike):
        content = _in_file(kind, source)
    else:
        raise InputError(f"the {kind} is a {type(source).__name__}, and neither bytes, a path, a URL nor a data: URI")
    if kind == "image" and content and not _IMAGES.match(content):
        raise InputError(f"the image begins {content[:12]!r}, as no PNG, JPEG, GIF, WebP, BMP or TIFF does")
    return Media(kind, content)


def _in_file(kind: str, path: str | os.PathLike[str]) -> bytes:
    named = repr(os.fspath(path))
    named = named if len(named) < 100 else f"{named[:80]}…"
    if (scheme := re.match(r"([a-z][a-z0-9+.-]+)://", str(path))) is not None:
        raise InputError(f"an endpoint cannot fetch {named}", cure=f"Fetch it from {scheme[1]} and pass the bytes.")
    try:
        return Path(path).read_bytes()
    except IsADirectoryError:
        raise InputError(f"{named} is a directory, and no {kind}") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"the {kind} {named} cannot be read: {why}") from None


def _in_uri(kind: str, uri: str) -> bytes:
    head, comma, written = uri.removeprefix("data:").partition(",")
    said, *options = head.split(";")
    expected = _TYPES.get(kind, f"{kind}/")
    if not comma or (said and not said.startswith(expected)):
        raise InputError(f"{uri[:40]!r} is not the data: URI of {kind}s; one begins data:{expected}")
    content = urllib.parse.unquote_to_bytes(written)
    try:
        return base64.b64decode(content, validate=True) if "base64" in options else content
    except binascii.Error as error:
        raise InputError(f"the data: URI of the {kind} is not base64: {error}") from None


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
    """Documents to score against one query. ``top_n=None``: all of them are scored.

    ``return_documents``: the answer repeats them, where that can be chosen (Jina's API); the containers always do.
    """

    query: str
    documents: tuple[Item, ...]
    top_n: int | None = None
    return_documents: bool = False


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """HTML to turn into Markdown, or into JSON by a schema. ``instruction=None``: the model's usual one.

    ``stream``: the answer is to come in pieces, as it is written.
    """

    html: str
    instruction: str | None = None
    schema: str | None = None
    stream: bool = False


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


@dataclass(frozen=True, eq=False)
class MultiVector:
    """Many vectors an item, in the order given: ``vectors`` holds a float32 array (tokens, d) each, all of one d.

    ``errors``: with ``on_error="collect"``, what went wrong with the items that have none; theirs is one row of NaN.
    """

    vectors: tuple[Vectors, ...]
    usage: Usage
    model: str
    timings: Timings | None = None
    errors: Mapping[int, JinaSMError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in self.vectors:
            if each.ndim != 2 or each.dtype != np.float32 or not each.size or each.shape[1] != self.dimensions:
                raise InputError(f"vectors are float32 of shape (tokens, d), not {each.dtype} of shape {each.shape}")

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[Vectors]:
        return iter(self.vectors)

    def __getitem__(self, index: int) -> Vectors:
        return self.vectors[index]

    @property
    def dimensions(self) -> int:
        return int(self.vectors[0].shape[-1]) if self.vectors else 0

    def maxsim(self, query: MultiVector | Vectors, *, slab: int = 1 << 22) -> Vectors:
        """How well each document answers the query, as float32 (n,): ``documents.maxsim(queries[0])``.

        For each of the query's vectors (q, d) the greatest dot product with any of the document's, summed. ``slab``:
        numbers in the largest array that is made on the way, unless one document needs a larger. Raises InputError for
        a query of other dimensions, or for more than one.
        """
        if isinstance(query, MultiVector):
            if len(query) != 1:
                raise InputError(f"maxsim() takes one query, not {len(query)}", cure="Pass queries[0], and so on.")
            query = query[0]
        if query.ndim != 2 or (self.vectors and query.shape[1] != self.dimensions):
            raise InputError(f"the query has the shape {query.shape}, and not (tokens, {self.dimensions})")
        scores = np.zeros(len(self), np.float32)
        for first, last in _slabs([len(each) for each in self.vectors], slab // max(1, len(query), self.dimensions)):
            together = self.vectors[first:last]
            starts = np.cumsum([0, *(len(each) for each in together[:-1])])
            products = np.concatenate(together) @ query.astype(np.float32, copy=False).T
            scores[first:last] = np.maximum.reduceat(products, starts, axis=0).sum(axis=1)
        return scores

    def _repr_html_(self) -> str:
        rows = [
            [str(index), str(len(each)), *(f"{number:.4f}" for number in each[0, :5]), "…"]
            for index, each in enumerate(self.vectors[:5])
        ]
        return _html_table(repr(self), ["", "vectors", *map(str, range(min(5, self.dimensions))), "…"], rows)

    def __repr__(self) -> str:
        total = sum(len(each) for each in self.vectors)
        shape = f"{len(self)} items, {total} vectors of {self.dimensions} float32"
        return f"MultiVector({shape}, {self.usage.total_tokens} tokens, {self.model})"


def _slabs(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Where to cut, so that no slab's sizes add up to more than ``most``; what is larger is alone."""
    first = total = 0
    for place, size in enumerate(sizes):
        if place > first and total + size > most:
            yield first, place
            first, total = place, 0
        total += size
    if first < len(sizes):
        yield first, len(sizes)


def normalized(vectors: Vectors) -> Vectors:
    """The rows (..., d) at length 1, as float32; a row of zeros stays as it is."""
    lengths = np.sqrt(np.einsum("...i,...i->...", vectors, vectors, dtype=np.float64))  # float32 would overflow
    lengths = np.where(lengths == 0, 1, lengths)
    unit: Vectors = np.divide(vectors, lengths[..., None], out=np.empty(vectors.shape, np.float32), casting="same_kind")
    return unit


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


@dataclass(frozen=True)
class Chunk:
    """A passage: ``text`` is ``source[start:end]``, in characters; ``tokens`` its length, special tokens included."""

    start: int
    end: int
    text: str
    tokens: int


@dataclass(frozen=True, eq=False)
class Document:
    """A long text as passages, in their order, with one vector each: ``vectors`` is float32 of shape (n, d)."""

    chunks: tuple[Chunk, ...]
    vectors: Vectors
    usage: Usage
    model: str
    timings: Timings | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32 or len(self.vectors) != len(self.chunks):
            raise InputError(
                f"vectors are float32 of shape ({len(self.chunks)}, d), one a chunk, not {self.vectors.dtype} "
                f"of shape {self.vectors.shape}"
            )

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each chunk starts and ends, in characters: int64 of shape (n, 2)."""
        return np.array([(chunk.start, chunk.end) for chunk in self.chunks], np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[tuple[Chunk, Vectors]]:
        return zip(self.chunks, self.vectors, strict=True)

    def _repr_html_(self) -> str:
        rows = [[f"{chunk.start}-{chunk.end}", str(chunk.tokens), chunk.text] for chunk in self.chunks[:20]]
        if len(self) > len(rows):
            rows.append(["…", "", ""])
        return _html_table(repr(self), ["characters", "tokens", "chunk"], rows)

    def __repr__(self) -> str:
        shape = f"{len(self)} chunks x {self.vectors.shape[1]} float32"
        return f"Document({shape}, {self.usage.total_tokens} tokens, {self.model})"
