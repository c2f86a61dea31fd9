"""What requests are made of: passages of exactly so many tokens, own texts, recorded requests."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import tokens
from jina_sm.bench import workload
from jina_sm.errors import InputError
from jina_sm.local.constant import Constant


def a_word_each(text: str) -> int:
    return len(text.split()) + 2


def two_a_word(text: str) -> int:
    return 2 * len(text.split()) + 2


COUNTS = {"a token a word": a_word_each, "the stack's estimate": Constant().tokens, "ours": tokens.estimate}


@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS)
@given(wanted=st.integers(4, 9000))
def test_a_passage_has_exactly_the_tokens_asked(count: workload.Count, wanted: int) -> None:
    asked = 0

    def counted(text: str) -> int:
        nonlocal asked
        asked += 1
        return count(text)

    fitted = workload.fit(wanted, counted)
    assert asked <= 25
    assert fitted.counted == count(" ".join(fitted.words))
    assert fitted.exact or 0 < wanted - fitted.counted <= 1
    texts = workload.Passages(fitted, 3, random.Random(1)).next()
    assert {count(text) for text in texts} == {fitted.counted}


def test_the_published_lengths_are_exact_however_the_stack_counts() -> None:
    for count in COUNTS.values():
        assert all(workload.fit(wanted, count).exact for wanted in (128, 512, 1024, 8192))


def test_a_length_that_cannot_be_is_the_nearest_below_or_refused() -> None:
    assert workload.fit(129, two_a_word).counted == 128
    with pytest.raises(InputError, match="no passage has 3 tokens here: a single word has 4"):
        workload.fit(3, two_a_word)


def test_no_two_passages_are_alike() -> None:
    passages = workload.Passages(workload.fit(128, a_word_each), 32, random.Random(1))
    texts = [text for _ in range(40) for text in passages.next()]
    assert len(set(texts)) == len(texts) == 1280
    assert len({tuple(sorted(text.split())) for text in texts}) == 1


def test_the_same_seed_asks_the_same() -> None:
    fitted = workload.fit(64, a_word_each)
    one, other = (workload.Passages(fitted, 4, random.Random("7")) for _ in range(2))
    assert [one.next() for _ in range(50)] == [other.next() for _ in range(50)]


def test_lengths_follow_their_distribution() -> None:
    fits = [workload.fit(wanted, a_word_each) for wanted in (16, 4096)]
    spread, chance = workload.distribution("lognormal:120,0.8", 8192), random.Random(3)
    drawn = workload.Drawn(lambda: spread.draw(chance), fits, 4, chance)
    lengths = [a_word_each(text) for _ in range(1000) for text in drawn.next()]
    assert statistics.median(lengths) == pytest.approx(120, rel=0.05)
    assert statistics.quantiles(lengths, n=100)[83] == pytest.approx(120 * 2.718**0.8, rel=0.1)
    even = workload.distribution("uniform:16-64", 8192)
    lengths = [even.draw(chance) for _ in range(2000)]
    assert (min(lengths), max(lengths)) == (16, 64)
    assert str(spread) == "lognormal:120,0.8"
    assert str(even) == "uniform:16-64"


@pytest.mark.parametrize("text", ["uniform:9-4", "uniform:4-9000", "lognormal:0,1", "normal:1,2", "lognormal:x"])
def test_a_distribution_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="It looks like"):
        workload.distribution(text, 8192)


def test_own_texts_are_asked_in_turn(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one\n\ntwo\r\nthree\n", encoding="utf-8")
    (tmp_path / "t.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n', encoding="utf-8")
    for name in ("t.txt", "t.jsonl"):
        own = workload.Own(workload.read_texts(str(tmp_path / name)), 2)
        assert [own.next() for _ in range(3)] == [("one", "two"), ("three", "one"), ("two", "three")]


def test_a_workload_file_has_requests_and_their_times(tmp_path: Path) -> None:
    file = tmp_path / "w.jsonl"
    file.write_text('{"texts": ["a", "b"], "at_s": 0}\n{"texts": ["c"], "at_s": 0.5}\n', encoding="utf-8")
    assert workload.read_requests(str(file)) == workload.Recorded((("a", "b"), ("c",)), (0.0, 0.5))
    file.write_text('{"texts": ["a", "b"]}\n{"texts": ["c"]}\n', encoding="utf-8")
    found = workload.read_requests(str(file))
    assert found.at_s is None
    turn = workload.Requests(found.requests)
    assert [turn.next() for _ in range(3)] == [("a", "b"), ("c",), ("a", "b")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no requests"),
        ("{", "line 1 is not JSON"),
        ("[]", "line 1 is not an object"),
        ('{"texts": "a"}', 'line 1 has no "texts"'),
        ('{"texts": []}', 'line 1 has no "texts"'),
        ('{"texts": ["a"]}\n{"texts": ["a", ""]}', r"line 2: texts\[1\] is empty"),
        ('{"texts": ["a"], "at_s": -1}', "line 1: at_s is seconds"),
        ('{"texts": ["a"], "at_s": true}', "line 1: at_s is seconds"),
        ('{"texts": ["a"], "at_s": 1}\n{"texts": ["b"]}', "at_s in 1 of 2 lines"),
    ],
)
def test_a_workload_file_that_is_wrong_is_refused_by_line(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "w.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        workload.read_requests(str(file))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    for read in (workload.read_texts, workload.read_requests):
        with pytest.raises(InputError, match="cannot be read"):
            read(str(tmp_path / "none.jsonl"))
        with pytest.raises(InputError, match="jsonl"):
            read("some.csv")
    (tmp_path / "t.jsonl").write_text('{"text": 3}', encoding="utf-8")
    with pytest.raises(InputError, match="line 1: text is a int"):
        workload.read_texts(str(tmp_path / "t.jsonl"))
