"""Token lengths, estimated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jina_sm import tokens

# What XLM-RoBERTa's tokenizer gives, special tokens included.
COUNTED = {
    "Organic skincare for sensitive skin with aloe vera and chamomile.": 16,
    "针对敏感肌专门设计的天然有机护肤产品": 14,
    "敏感肌のために特別に設計された天然有機スキンケア製品": 14,
}


def test_estimates_are_as_good_as_said() -> None:
    for text, count in COUNTED.items():
        assert abs(tokens.estimate(text) - count) <= 0.35 * count + 2


@given(st.text(), st.text())
def test_more_text_has_no_fewer_tokens(a: str, b: str) -> None:
    assert 1 <= tokens.estimate(a) <= tokens.estimate(a + " " + b) + 1


@given(st.text(max_size=200), st.integers(1, 100))
def test_a_text_that_may_fit_is_never_called_too_long(text: str, limit: int) -> None:
    assert not (tokens.surely_more_than(limit, text) and tokens.estimate(text) <= limit)


def test_a_text_far_too_long_is_called_so() -> None:
    assert tokens.surely_more_than(8192, "word " * 20_000)
    assert tokens.surely_more_than(8192, "天" * 20_000)


@given(st.text(max_size=300))
def test_a_character_costs_about_a_token_at_most(text: str) -> None:
    # What lets a short text pass without a look at its letters.
    assert tokens.estimate(text) * (1 - tokens.ERROR) <= len(text) + 2
