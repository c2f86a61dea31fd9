"""Token lengths: estimated, corrected by what an endpoint counts, and exact."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import errors, tokens
from jina_sm.tokens import Lengths

# What XLM-RoBERTa's tokenizer gives, special tokens included.
COUNTED = {
    "Organic skincare for sensitive skin with aloe vera and chamomile.": 16,
    "针对敏感肌专门设计的天然有机护肤产品": 14,
    "敏感肌のために特別に設計された天然有機スキンケア製品": 14,
}
WORDS = {
    "latin": ["bees", "make", "honey", "für", "große", "réponses"],
    "cyrillic": ["пчёлы", "делают", "мёд"],
    "han": ["针对", "敏感肌", "专门设计"],
    "kana": ["のために", "された", "スキンケア"],
    "digit": ["1984", "3", "100000"],
    "mark": [",", ".", "!?", "()"],
}


def test_estimates_are_as_good_as_said() -> None:
    for text, count in COUNTED.items():
        assert abs(tokens.estimate(text) - count) <= 0.35 * count + 2


@given(st.text(), st.text())
def test_more_text_has_no_fewer_tokens(a: str, b: str) -> None:
    assert 1 <= tokens.estimate(a) <= tokens.estimate(a + " " + b) + 1


def slowly(text: str) -> int:
    """The fit as it is written down, a run at a time."""
    runs = re.findall(
        f"([{tokens._LATIN}]+)|([{tokens._CYRILLIC}]+)|([{tokens._HAN}]+)|([{tokens._KANA}]+)|(.)", text, re.S
    )
    total = 0
    for latin, cyrillic, han, kana, other in runs:
        total += 575 + 152 * len(latin) if latin else 0
        total += 524 + 187 * len(cyrillic) if cyrillic else 0
        total += 733 * len(han) + 545 * len(kana)
        if other and not other.isspace():
            total += 382 if re.match(r"\d", other) else 500 if re.match(r"[^\W_]", other) else 1028
    return 2 + (total + 500) // 1000


@given(st.lists(st.text(st.characters() | st.sampled_from("aб天のカ1 ,_٣\ud800\U0001f600"), max_size=40), max_size=12))
def test_many_texts_at_once_are_estimated_as_one_by_one(texts: list[str]) -> None:
    assert tokens.estimates(texts).tolist() == [slowly(text) for text in texts]
    assert [tokens.estimate(text) for text in texts] == tokens.estimates(texts).tolist()


def test_texts_are_looked_at_in_slabs_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["word " * length for length in (1, 50, 3, 0, 200, 7)]
    whole = tokens.estimates(texts).tolist()
    monkeypatch.setattr(tokens, "_SLAB", 20)
    assert tokens.estimates(texts).tolist() == whole


def text_of(draw: np.random.Generator, scripts: list[str]) -> str:
    return " ".join(str(draw.choice(WORDS[str(draw.choice(scripts))])) for _ in range(int(draw.integers(5, 60))))


@pytest.mark.parametrize("seed", range(5))
def test_what_the_endpoint_counts_corrects_the_estimate_script_by_script(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = Lengths()
    truth._factors = draw.uniform(0.6, 1.4, len(tokens._COST))  # the tokenizer nobody has told us of
    scripts = [*WORDS]
    lengths = Lengths()
    for _ in range(60):
        given = [text_of(draw, [str(script)]) for script in draw.choice(scripts, 8)]
        lengths.learn(given, int(truth.of(given).sum()))
    fresh = [text_of(draw, [script]) for script in scripts for _ in range(20)]
    right = truth.of(fresh)
    learnt, blind = (np.abs(each.of(fresh) - right) / right for each in (lengths, Lengths()))
    assert learnt.mean() < 0.4 * blind.mean()
    assert learnt.mean() < 0.05
    frozen, before = lengths.frozen(), lengths.of(fresh).tolist()
    for _ in range(8):  # it looks at some only, by now
        lengths.learn(fresh, 2 * int(right.sum()))
    assert frozen.of(fresh).tolist() == before != lengths.of(fresh).tolist()


def test_a_script_that_was_never_seen_is_left_as_it_was() -> None:
    lengths, han = Lengths(), ["针对敏感肌专门设计的天然有机护肤产品" * 5]
    for _ in range(50):
        lengths.learn(["plain words only"] * 9, 99)
    assert lengths.of(han).tolist() == tokens.estimates(han).tolist()


@given(st.lists(st.tuples(st.text(max_size=30), st.integers(-(10**6), 10**9)), max_size=30))
def test_nothing_an_endpoint_says_takes_the_estimate_out_of_bounds(said: list[tuple[str, int]]) -> None:
    lengths = Lengths()
    for text, total in said:
        lengths.learn([text], total)
        lengths.learn([], total)
    assert np.all((lengths._factors >= 0.4) & (lengths._factors <= 2.5))
    text = "many words, 天 и 1"
    assert 0.4 * tokens.estimate(text) - 3 <= lengths.of([text])[0] <= 2.5 * tokens.estimate(text) + 3


def test_with_the_tokenizer_lengths_are_exact(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "<s>": 1, "</s>": 2, "bees": 3}, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    made.enable_truncation(8)  # as the files of models have it
    made.enable_padding(length=8)
    made.save(str(tmp_path / "tokenizer.json"))
    lengths = Lengths(tmp_path / "tokenizer.json")
    assert lengths.exact
    assert lengths.of(["bees make honey", "bees", "word " * 900]).tolist() == [5, 3, 902]
    lengths.learn(["bees"], 500)
    assert lengths.of(["bees"]).tolist() == [3]


def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(errors.InputError, match="there is no tokenizer"):
        Lengths(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(errors.InputError, match=r"is not a tokenizer\.json"):
        Lengths(tmp_path / "bad.json")
