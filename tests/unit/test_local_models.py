"""The stand-in model's geometry, and the thread that runs it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import catalog
from jina_sm.local import container
from jina_sm.local.constant import Constant
from jina_sm.local.models import (
    MAX_WAITING,
    ROUND_CHARACTERS,
    WIDTH,
    FullError,
    Rounds,
    fitted,
    markdown,
    of_bytes,
    relevance,
    words,
)
from jina_sm.values import EmbedRequest, Media, MultiRows, Rows, Vectors
from jina_sm.wire.embeddings import Embeddings

KNOWN = catalog.load(environ={})
V3 = KNOWN.model("jina-embeddings-v3")


def unit(seed: int, count: int = 6) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass
class Held:
    """An encoder that works when it is let, and keeps what it was given."""

    rounds: list[list[str]] = field(default_factory=list)
    let: threading.Event = field(default_factory=threading.Event)

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.let.wait(30)
        self.rounds.append(list(texts))
        if "poison" in texts:
            raise ValueError("poisoned")
        return np.ones((len(texts), WIDTH), np.float32)

    def tokens(self, text: str) -> int:
        return len(text)


@given(st.integers(0, 2**32 - 1))
def test_cosines_are_kept_at_full_length(seed: int) -> None:
    small = unit(seed)
    wide = fitted(small, V3, None)
    assert wide.shape == (6, 1024)
    np.testing.assert_allclose(wide @ wide.T, small @ small.T, atol=1e-4)


@given(st.integers(0, 2**32 - 1), st.sampled_from(V3.matryoshka))
def test_a_shorter_vector_is_the_start_of_the_longer_made_unit_again(seed: int, dimensions: int) -> None:
    full, short = fitted(unit(seed), V3, None), fitted(unit(seed), V3, dimensions)
    cut = full[:, :dimensions]
    np.testing.assert_allclose(short, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-4)
    assert short.dtype == np.float32


@pytest.mark.parametrize("key", [key for key, row in KNOWN.models.items() if row.dimensions])
def test_every_models_vectors_have_its_length_and_its_norm(key: str) -> None:
    row = KNOWN.model(key)
    rows = fitted(unit(1), row, None)
    assert rows.shape == (6, row.dimensions)
    norms = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(norms, 16 if row.normalized is False else 1, rtol=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_relevance_is_between_0_and_1_in_the_order_of_the_cosines(seed: int) -> None:
    rows = unit(seed)
    scores, cosines = relevance(rows), rows[1:] @ rows[0]
    assert ((scores > 0) & (scores < 1)).all()
    assert (np.diff(scores[np.argsort(cosines)]) >= 0).all()  # cosines that differ by less than a float may tie


def test_bytes_have_a_unit_vector_of_their_own() -> None:
    one, same, other = (of_bytes(Media("image", source)) for source in (b"a", b"a", b"b"))
    np.testing.assert_array_equal(one, same)
    assert (one.dtype, one.shape) == (np.float32, (WIDTH,))
    assert abs(np.linalg.norm(one) - 1) < 1e-5
    assert abs(one @ other) < 0.3


@given(st.text())
def test_a_text_has_at_least_one_word_and_none_with_a_space(text: str) -> None:
    found = words(text)
    assert found
    assert found == [text] or not any(char.isspace() for word in found for char in word)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<h1>A</h1><p>b <a href='u'>c</a></p>", "A\n=\n\nb [c](u)"),
        ("<title>t</title><script>x()</script><style>b{}</style><p>a</p>", "a"),
        ("<script>x()", ""),
        ("<head><p>a</p>", "a"),
        ("no HTML", "no HTML"),
        ("https://example.com", "https://example.com"),
        ("page.html", "page.html"),
        ("", ""),
    ],
)
def test_html_becomes_markdown(html: str, text: str) -> None:
    assert markdown(html) == text


@pytest.mark.parametrize("html", ["<![", "<b>" * 5000])
def test_html_that_cannot_be_read_is_refused(html: str) -> None:
    with pytest.raises(ValueError, match="HTML"):
        markdown(html)


def test_what_arrives_while_a_round_runs_shares_the_next() -> None:
    encoder = Held()
    rounds = Rounds(encoder)
    rounds.start()
    results = [rounds.submit(["a", "b"]), rounds.submit(["c"])]
    encoder.let.set()
    assert [len(each.result(30)) for each in results] == [2, 1]
    rounds.stop()
    assert sorted(text for each in encoder.rounds for text in each) == ["", "a", "b", "c"]
    assert len(encoder.rounds) <= 2


def test_a_request_of_one_text_does_not_wait_for_one_of_many() -> None:
    encoder = Held()
    rounds = Rounds(encoder)
    many = rounds.submit(["x" * ROUND_CHARACTERS] * 20)
    one = rounds.submit(["y"])
    encoder.let.set()
    rounds.start()
    one.result(30)
    many.result(30)
    rounds.stop()
    assert [number for number, texts in enumerate(encoder.rounds) if "y" in texts] <= [1]


def test_a_very_long_text_is_read_in_pieces_and_has_their_mean() -> None:
    encoder = Held()
    encoder.let.set()
    rounds = Rounds(encoder)
    rounds.start()
    rows = rounds.submit(["x" * (3 * ROUND_CHARACTERS - 1), "y"]).result(30)
    rounds.stop()
    assert max(sum(map(len, texts)) for texts in encoder.rounds) <= ROUND_CHARACTERS
    assert "".join(text for texts in encoder.rounds for text in texts if text != "y") == "x" * (
        3 * ROUND_CHARACTERS - 1
    )
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_a_round_that_fails_fails_its_own_and_nobody_after() -> None:
    encoder = Held()
    encoder.let.set()
    rounds = Rounds(encoder)
    rounds.start()
    poisoned = rounds.submit(["poison"])
    with pytest.raises(ValueError, match="poisoned"):
        poisoned.result(30)
    assert rounds.submit(["a"]).result(30).shape == (1, WIDTH)
    rounds.stop()


class Told(Rounds):
    """Rounds that write down what is begun, and when an answer made of them may go."""

    def __init__(self) -> None:
        super().__init__(Constant())
        self.said: list[str] = []
        self.begun: list[tuple[int, int]] = []

    def begin(self, items: int, counted: int) -> None:
        self.begun.append((items, counted))

    async def due(self) -> None:
        self.said.append("due")


@dataclass(frozen=True, kw_only=True)
class Writing(Embeddings):
    """A dialect that tells the rounds when it writes."""

    rounds: Told

    def encode_response(self, request: EmbedRequest, rows: Rows | MultiRows) -> bytes:
        self.rounds.said.append("written")
        return super().encode_response(request, rows)


def test_an_answer_is_written_before_it_is_due() -> None:
    rounds = Told()
    rounds.start()
    dialect = Writing(generation="A", rounds=rounds)
    asyncio.run(container.answer_in(V3, dialect, "application/json", b'{"data": {"text": "a"}}', rounds))
    rounds.stop()
    assert rounds.said == ["written", "due"]


@pytest.mark.parametrize(
    ("key", "body", "begun"),
    [
        ("jina-embeddings-v3", {"data": [{"text": "a b"}, {"text": "c"}]}, (2, 6)),
        ("jina-clip-v2", {"data": [{"bytes": "aGk="}]}, (1, container.MEDIA_TOKENS)),
        ("jina-colbert-v2", {"data": [{"text": "a b c d"}]}, (1, 5)),
        ("jina-reranker-v2-base-multilingual", {"data": {"query": "a", "documents": [{"text": "b"}]}}, (2, 6)),
        ("ReaderLM-v2", {"model": "ReaderLM-v2", "prompt": "<p>a</p>"}, (1, 9)),
    ],
)
def test_whatever_is_asked_is_begun_with_its_items_and_its_tokens(
    key: str, body: object, begun: tuple[int, int]
) -> None:
    rounds = Told()
    rounds.start()
    asyncio.run(container.answer(KNOWN.model(key), "application/json", json.dumps(body).encode(), rounds))
    rounds.stop()
    assert rounds.begun == [begun]


def test_who_comes_when_all_places_are_taken_is_told_at_once() -> None:
    rounds = Rounds(Held())
    for _ in range(MAX_WAITING):
        rounds.submit(["a"])
    with pytest.raises(FullError):
        rounds.submit(["a"])
