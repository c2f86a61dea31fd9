"""What ``chunking`` promises, and where ``boundaries`` lets a text be cut."""

from __future__ import annotations

import itertools
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jina_sm import boundaries, tokens
from jina_sm.chunking import BY, By, chunk, windows
from jina_sm.errors import InputError
from jina_sm.values import Chunk, Document, Usage

FAMILY, ASTRONAUT, FLAGS = "👩‍👩‍👧‍👦", "👩🏽‍🚀", "🇩🇪🇫🇷"
PIECES = [
    "The cat sat. ", "Who? ", "Dr. Who ", "a, b; c ", "\n", "\n\n", " ", "\r\n", "word ", "internationalisation", "3.5 ",
    "今天天气很好。", "我们走吧！", "散步、", "天ぷらを食べた。", "スシ", "สวัสดีครับ ", "เราไปน้ำ", "नमस्ते दुनिया। ", "क्षत्रिय ", "مرحبا بالعالم؟ ", "نعم۔ ",
    "한국어 문장이다. ", FAMILY, ASTRONAUT, FLAGS, "e\u0301", "# Head\n\n", "## Sub\n", "```\ncode, code\n\n# no\n```\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n", "- item\n", "- item\n  - sub\n", "> quote\n", "Title\n=====\n", "~~~", "```",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=40).map("".join) | st.text(min_size=1, max_size=120)
ways = st.sampled_from(BY)


class Estimated:
    def of(self, texts: Sequence[str]) -> NDArray[np.int64]:
        return np.array([tokens.estimate(text) for text in texts], np.int64)


class Characters:
    """A measure of which everything can be known beforehand."""

    def of(self, texts: Sequence[str]) -> NDArray[np.int64]:
        return np.array([len(text) for text in texts], np.int64)


class Moody:
    """Longer texts may have fewer tokens, as with a tokenizer that merges; it counts what it is asked to read."""

    def __init__(self) -> None:
        self.read = 0

    def of(self, texts: Sequence[str]) -> NDArray[np.int64]:
        self.read += sum(map(len, texts))
        return np.array([2 + len(text) + zlib.crc32(text.encode()) % 7 * bool(text) for text in texts], np.int64)


measures = st.sampled_from([Estimated(), Characters(), Moody()])


@given(texts, ways, st.integers(3, 40), measures)
def test_without_overlap_the_chunks_are_the_text(text: str, by: By, most: int, lengths: Estimated) -> None:
    chunks = chunk(text, max_tokens=most, by=by, lengths=lengths)
    assert "".join(each.text for each in chunks) == text
    assert [each.start for each in chunks[1:]] == [each.end for each in chunks[:-1]]


@given(texts, ways, st.integers(3, 40), st.data(), measures)
def test_no_chunk_is_longer_than_asked_but_for_one_character(
    text: str, by: By, most: int, data: st.DataObject, lengths: Estimated
) -> None:
    overlap = data.draw(st.integers(0, most - 1))
    for each in chunk(text, max_tokens=most, overlap=overlap, by=by, lengths=lengths):
        assert each.text == text[each.start : each.end]
        assert each.tokens == lengths.of([each.text])[0]
        assert each.tokens <= most or not boundaries.graphemes(each.text)


@given(texts, ways, st.integers(3, 40), st.data(), measures)
def test_with_overlap_nothing_is_missed_and_every_chunk_goes_on(
    text: str, by: By, most: int, data: st.DataObject, lengths: Estimated
) -> None:
    overlap = data.draw(st.integers(0, most - 1))
    chunks = chunk(text, max_tokens=most, overlap=overlap, by=by, lengths=lengths)
    assert (chunks[0].start, chunks[-1].end) == (0, len(text))
    specials = lengths.of([""])[0]
    for one, following in itertools.pairwise(chunks):
        assert one.start < following.start <= one.end < following.end
        shared = text[following.start : one.end]
        # Of a measure that weighs a whole unlike its parts, only the parts are held to it.
        moods = 6 * isinstance(lengths, Moody)
        assert not shared or lengths.of([shared])[0] - specials <= overlap + moods


@given(texts, ways, st.integers(3, 30), st.integers(0, 2))
def test_no_cut_is_within_a_character(text: str, by: By, most: int, overlap: int) -> None:
    for each in chunk(text, max_tokens=most, overlap=overlap, by=by)[1:]:
        before, after = text[each.start - 1], text[each.start]
        assert before != "\u200d"
        assert after not in "\u200d\ufe0f"
        assert unicodedata.category(after)[0] != "M" or before in "\r\n"
        assert before + after != "\r\n"


@given(texts, ways)
def test_a_text_that_fits_is_one_chunk(text: str, by: By) -> None:
    assert [each.text for each in chunk(text, by=by, max_tokens=tokens.estimate(text) + 2)] == [text]


@given(st.lists(st.sampled_from(["One two three. ", "Is it? ", "今天天气很好。", "यह है। "]), min_size=1, max_size=30))
def test_a_chunk_ends_with_a_sentence_and_holds_as_many_as_fit(sentences: list[str]) -> None:
    chunks = chunk("".join(sentences), max_tokens=20)
    ends = {0, *itertools.accumulate(map(len, sentences))}
    assert all(each.end in ends for each in chunks)
    for one, following in itertools.pairwise(chunks):
        first = min(end for end in ends if end > following.start)
        assert tokens.estimate("".join(sentences)[one.start : first]) > 20


def test_the_overlap_is_whole_sentences_where_they_fit_and_words_where_not() -> None:
    text = "One two three. " * 20
    for one, following in itertools.pairwise(chunk(text, max_tokens=30, overlap=15)):
        assert following.start < one.end
        assert following.text.startswith("One")
    for one, following in itertools.pairwise(chunk(text, max_tokens=30, overlap=2)):
        assert following.start < one.end
        assert following.text.startswith("three.")


def test_by_tokens_chunks_are_full_and_words_whole() -> None:
    text = "A sentence of some words is here. " * 60
    chunks = chunk(text, max_tokens=64, by="tokens")
    assert all(each.tokens >= 58 for each in chunks[:-1])
    assert all(each.text.endswith(" ") for each in chunks)


def test_a_long_sentence_is_cut_at_its_clauses() -> None:
    text = "we went to the sea, and then to the hills, and then we all went home"
    assert [each.text for each in chunk(text, max_tokens=12)] == [
        "we went to the sea, ", "and then to the hills, ", "and then we all went home",
    ]  # fmt: skip


def test_one_huge_word_is_cut() -> None:
    chunks = chunk("a" * 5000, max_tokens=50)
    assert len(chunks) > 10
    assert max(each.tokens for each in chunks) <= 50


def test_whitespace_alone_is_a_chunk() -> None:
    (only,) = chunk(" \n\n \t", max_tokens=8)
    assert (only.start, only.end, only.text) == (0, 5, " \n\n \t")


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("unit", ["This is a sentence, and a word. ", "今天天气很好。", "a", "| 1 | 2 |\n", FAMILY])
@pytest.mark.parametrize("overlap", [0, 20])
def test_the_work_grows_with_the_text(unit: str, by: By, overlap: int) -> None:
    for count in (1000, 4000):
        lengths = Moody()
        chunk(unit * count, max_tokens=100, overlap=overlap, by=by, lengths=lengths)
        assert lengths.read <= 40 * len(unit) * count


MARKDOWN = """# Guide

Intro text here. It is short.

## Install

```sh
pip install it

# not a heading
run it
```

| a | b |
|---|---|
| 1 | 2 |

- one
- two

Title
-----
Last words.
"""


def test_markdown_is_cut_at_headings_where_that_wastes_less_than_half() -> None:
    part = "## Part\n\nOne two three. Four five six.\n\nSeven eight.\n\n"  # 16 tokens
    chunks = chunk(part * 9, by="markdown", max_tokens=46)
    assert [each.text for each in chunks] == [part * 2] * 4 + [part]
    assert not all(each.text.startswith("#") for each in chunk(part * 9, max_tokens=46))


def test_no_heading_is_worth_a_chunk_half_empty() -> None:
    text = "# Guide\n\nShort.\n\n## Sub\n\n" + "One two three four five.\n\n" * 20
    assert all(each.tokens >= 30 for each in chunk(text, by="markdown", max_tokens=60)[:-1])


CODE = MARKDOWN[MARKDOWN.index("```sh") : MARKDOWN.index("| a |")]
TABLE = MARKDOWN[MARKDOWN.index("| a |") : MARKDOWN.index("- one")]


@pytest.mark.parametrize("overlap", [0, 4, 12])
@pytest.mark.parametrize("piece", [CODE, TABLE])
def test_code_and_tables_that_fit_stay_in_one_piece(piece: str, overlap: int) -> None:
    for most in range(tokens.estimate(piece), 80):
        texts = [each.text for each in chunk(MARKDOWN, by="markdown", max_tokens=most, overlap=overlap)]
        assert any(piece in text for text in texts)


@given(st.integers(14, 60))
def test_a_heading_stays_with_what_follows(most: int) -> None:
    text = "# Guide\n\n## First part\n\nSome words are here. And more of them, too.\n\n### Next\n\n- one\n- two\n" * 3
    for each in chunk(text, by="markdown", max_tokens=most):
        assert not each.text.rstrip().split("\n")[-1].startswith("#")


@given(texts)
def test_markdown_blocks_are_the_text(text: str) -> None:
    found = boundaries.blocks(text)
    assert "".join(text[block.start : block.end] for block in found) == text
    assert all(block.start <= block.body <= block.end for block in found)


def pieces(text: str, cuts: list[int]) -> list[str]:
    return [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. J. Smith paid 3.5 kg (e.g. apples). ", "He said: “Go home!” ", "Then it rained… and stopped. ", "End"],
        ["Wait... ", "What?! ", "1. First item. ", "2. Second of 12. ", "See No. 5 or no. ", "Yes"],
        ["今天天气很好。", "「我们走吧！」", "他说。"],
        ["天気がいい。", "本当ですか？", "はい"],
        ["नमस्ते दुनिया। ", "यह है।"],
        ["مرحبا بالعالم؟ ", "نعم۔ ", "لا"],
        ["A heading\n\n", "and a paragraph\nthat goes on"],
    ],
)
def test_sentences_end_where_a_reader_would_say(sentences: list[str]) -> None:
    text = "".join(sentences)
    assert pieces(text, boundaries.sentences(text)) == sentences


@pytest.mark.parametrize(
    "characters",
    [
        [FAMILY, ASTRONAUT, "🇩🇪", "🇫🇷", "e\u0301", "a"],
        ["क्ष", "त्रि", "य"],
        ["เดิ", "น", "น้ำ"],
        ["\u1112\u1161\u11ab", "국"],
        ["a", "\r\n"],
    ],
)
def test_what_a_reader_sees_as_one_character_is_one(characters: list[str]) -> None:
    text = "".join(characters)
    assert pieces(text, boundaries.graphemes(text)) == characters


def test_words_of_scripts_without_spaces_keep_their_punctuation() -> None:
    assert pieces("（天気）は、いい", boundaries.words("（天気）は、いい")) == ["（天", "気）", "は、", "い", "い"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"text": ""}, "text is empty"),
        ({"text": 5}, "int"),
        ({"text": "a\ud800"}, "surrogate"),
        ({"max_tokens": 2}, "3 or more"),
        ({"max_tokens": 10.0}, "whole number"),
        ({"overlap": 512}, "0 to max_tokens - 1"),
        ({"overlap": -1}, "0 to max_tokens - 1"),
        ({"by": "page"}, "sentence, tokens, markdown"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        chunk(**{"text": "a text", **wrong})  # type: ignore[arg-type]


def of_lengths(lengths: Sequence[int]) -> list[Chunk]:
    return [Chunk(i, i + 1, "a", length) for i, length in enumerate(lengths)]


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 200))
def test_every_chunk_is_in_one_window_and_windows_are_few(lengths: list[int], most: int) -> None:
    found = windows(of_lengths(lengths), max_tokens=most)
    assert [index for run in found for index in run] == list(range(len(lengths)))
    assert all(run and sum(lengths[i] for i in run) <= most for run in found)
    greedy, room = 0, 0
    for length in lengths:
        if length > room:
            greedy, room = greedy + 1, most
        room -= length
    assert len(found) == greedy


@given(st.integers(1, 400), st.integers(1, 50), st.integers(50, 400))
def test_the_last_window_is_not_tiny(count: int, length: int, most: int) -> None:
    sizes = [len(run) for run in windows(of_lengths([length] * count), max_tokens=most)]
    assert max(sizes) - min(sizes) <= 1


def test_a_chunk_no_window_holds_is_named() -> None:
    with pytest.raises(InputError, match="chunk 1 has 9000 tokens"):
        windows(of_lengths([5, 9000]))


def test_a_document_pairs_chunks_and_vectors() -> None:
    chunks = chunk("One. Two & <three>.", max_tokens=6)
    vectors = np.eye(len(chunks), 4, dtype=np.float32)
    document = Document(chunks, vectors, Usage(9, 1), "m")
    assert [(each.text, vector.tolist()) for each, vector in document] == [
        (each.text, row.tolist()) for each, row in zip(chunks, vectors, strict=True)
    ]
    assert document.offsets.dtype == np.int64
    assert document.offsets.tolist() == [[each.start, each.end] for each in chunks]
    assert len(document) == len(chunks)
    assert "9 tokens" in repr(document)
    assert "&lt;three&gt;" in document._repr_html_()
    with pytest.raises(InputError, match="one a chunk"):
        Document(chunks, vectors[:-1], Usage(9, 1), "m")
