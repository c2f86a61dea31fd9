"""
What requests are made of: passages of so many tokens, texts of one's own, or requests as they were recorded.

A passage is exact by construction. Tokenizers of the families here never join what a blank separates, so a text's
length is the sum of its words', whatever their order: one list of words is fitted to the length, by the model's
tokenizer or by what the endpoint itself says that it read, and every passage is those words in another order.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

from jina_sm import values
from jina_sm.errors import InputError

# Frequent, so a token each in any tokenizer of many languages; whether they are is counted, not assumed.
_WORDS: tuple[str, ...] = tuple(
    re.findall(
        r"\w+",
        "the of and to in is that for it as was with be by on not he his but at are this have from or had an they "
        "which one you were all her she there would their we him been has when who will no more if out so said what up "
        "its about than into them can only other time new some could these two may first then do any like my now over "
        "such our man me even most made after also did many",
    )
)
_PROBES = 24
Count = Callable[[str], int]
"""How many tokens a text is, special tokens included."""


class Texts(Protocol):
    """Where the texts of requests come from."""

    def next(self) -> tuple[str, ...]:
        """Those of another request."""


@dataclass(frozen=True)
class Fitted:
    """Words that together are ``counted`` tokens, where ``wanted`` were asked for."""

    wanted: int
    counted: int
    words: tuple[str, ...]

    @property
    def exact(self) -> bool:
        return self.counted == self.wanted


def fit(wanted: int, count: Count) -> Fitted:
    """Words of exactly so many tokens, or the nearest below that can be had. Counts at most 24 texts.

    Raises InputError for a length that not even one word has.
    """
    known: dict[int, int] = {}

    def counted(words: int) -> int:
        if words not in known:
            known[words] = count(" ".join(_first(words)))
        return known[words]

    below, above = 0, math.inf
    words = max(1, wanted - 2)
    while len(known) < _PROBES:
        got = counted(words)
        if got == wanted:
            return Fitted(wanted, got, _first(words))
        if got < wanted:
            below = max(below, words)
        else:
            above = min(above, words)
        if above - below <= 1:
            break
        aim = words + round((wanted - got) * words / max(got, 1)) or words
        aim += (aim == words) * (1 if got < wanted else -1)
        words = int(min(max(aim, below + 1), above - 1))
    if below == 0:
        raise InputError(
            f"no passage has {wanted} tokens here: a single word has {counted(1)}", cure="Ask for longer passages."
        )
    # One word more is too much: perhaps a longer last word is not.
    for last in ("international", "information", "a", "development"):
        if len(known) < _PROBES and (got := count(" ".join((*_first(below), last)))) == wanted:
            return Fitted(wanted, got, (*_first(below), last))
    return Fitted(wanted, counted(below), _first(below))


def _first(count: int) -> tuple[str, ...]:
    return tuple(itertools.islice(itertools.cycle(_WORDS), count))


class Passages:
    """Requests of ``batch_size`` passages of one length, no two alike as far as the words allow."""

    def __init__(self, fitted: Fitted, batch_size: int, chance: random.Random) -> None:
        self._words = list(fitted.words)
        self._batch_size = batch_size
        self._chance = chance
        self._turned = self._turns()

    def next(self) -> tuple[str, ...]:
        return tuple(next(self._turned) for _ in range(self._batch_size))

    def _turns(self) -> Iterator[str]:
        """A shuffle turned word by word, then another: as different as a shuffle each, and much sooner made."""
        while True:
            self._chance.shuffle(self._words)
            line = " ".join(self._words)
            twice, start = f"{line} {line}", 0
            for word in self._words:
                yield twice[start : start + len(line)]
                start += len(word) + 1


class Drawn:
    """Requests of ``batch_size`` texts whose lengths are drawn, each by itself. Lengths are near what is drawn."""

    def __init__(self, draw: Callable[[], int], fits: Sequence[Fitted], batch_size: int, chance: random.Random) -> None:
        self._draw = draw
        # Tokens by words are a line: through the shortest and the longest that were counted.
        short, long = fits[0], fits[-1]
        self._slope = (len(long.words) - len(short.words)) / max(1, long.counted - short.counted) or 1.0
        self._short = short
        self._batch_size = batch_size
        self._chance = chance

    def next(self) -> tuple[str, ...]:
        return tuple(self._text(self._draw()) for _ in range(self._batch_size))

    def _text(self, tokens: int) -> str:
        words = round(len(self._short.words) + (tokens - self._short.counted) * self._slope)
        return " ".join(self._chance.choices(_WORDS, k=max(1, words)))


class Own:
    """One's own texts, ``batch_size`` at a time, again from the first when all were asked."""

    def __init__(self, texts: Sequence[str], batch_size: int) -> None:
        self._turn = itertools.cycle(texts)
        self._batch_size = batch_size

    def next(self) -> tuple[str, ...]:
        return tuple(itertools.islice(self._turn, self._batch_size))


class Requests:
    """Requests as they were recorded, again from the first when all were asked."""

    def __init__(self, requests: Sequence[Sequence[str]]) -> None:
        self._turn = itertools.cycle([tuple(each) for each in requests])

    def next(self) -> tuple[str, ...]:
        return next(self._turn)


@dataclass(frozen=True)
class Distribution:
    """Lengths in tokens: ``uniform:16-512`` or ``lognormal:120,0.8`` (median, and the spread of the logarithm).

    ``low`` and ``high`` bound what is drawn.
    """

    kind: str
    first: float
    second: float
    low: int
    high: int

    def __str__(self) -> str:
        join = "-" if self.kind == "uniform" else ","
        return f"{self.kind}:{self.first:g}{join}{self.second:g}"

    def draw(self, chance: random.Random) -> int:
        if self.kind == "uniform":
            return chance.randint(self.low, self.high)
        length = self.first * math.exp(self.second * chance.gauss(0, 1))
        return round(min(max(length, self.low), self.high))


def distribution(text: str, max_tokens: int) -> Distribution:
    """Raises InputError for what is none."""
    cure = "It looks like uniform:16-512, or lognormal:120,0.8 (median, sigma)."
    if match := re.fullmatch(r"uniform:(\d+)-(\d+)", text):
        low, high = int(match[1]), int(match[2])
        if not 3 <= low <= high <= max_tokens:
            raise InputError(f"{text!r} is not from 3 tokens up to the {max_tokens:,} that the model reads", cure=cure)
        return Distribution("uniform", low, high, low, high)
    if match := re.fullmatch(r"lognormal:(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)", text):
        median, sigma = float(match[1]), float(match[2])
        if not 3 <= median <= max_tokens:
            raise InputError(f"{text!r} has a median outside of 3 to {max_tokens:,} tokens", cure=cure)
        return Distribution("lognormal", median, sigma, 3, max_tokens)
    raise InputError(f"{text!r} is no distribution of lengths", cure=cure)


@dataclass(frozen=True)
class Recorded:
    """A workload file: the texts of each request and, if all lines say so, when each was due."""

    requests: tuple[tuple[str, ...], ...]
    at_s: tuple[float, ...] | None


def read_texts(source: str) -> list[str]:
    """A text a line of .txt, or the ``text`` of each line of .jsonl. Raises InputError that names the line."""
    if not source.endswith((".jsonl", ".txt")):
        raise InputError(f"{source!r} is neither .jsonl nor .txt")
    found = []
    for number, line in _lines(source):
        text = _row(line, source, number).get("text") if source.endswith(".jsonl") else line
        values.check_text(text, f"{source} line {number}: text")
        found.append(str(text))
    if not found:
        raise InputError(f"{source!r} has no texts")
    return found


def read_requests(source: str) -> Recorded:
    """A workload file: .jsonl with a request a line, ``{"texts": ["..."], "at_s": 0.25}``; ``at_s`` in all or none.

    Raises InputError that names the line.
    """
    if not source.endswith(".jsonl"):
        raise InputError(f"a workload file is .jsonl, not {source!r}")
    requests, due = [], []
    for number, line in _lines(source):
        row = _row(line, source, number)
        texts, at = row.get("texts"), row.get("at_s")
        if not isinstance(texts, list) or not texts:
            raise InputError(f'{source} line {number} has no "texts", which is a list')
        for index, text in enumerate(texts):
            values.check_text(text, f"{source} line {number}: texts[{index}]")
        requests.append(tuple(texts))
        if at is not None:
            if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at < math.inf:
                raise InputError(f"{source} line {number}: at_s is seconds from the start, not {at!r}")
            due.append(float(at))
    if not requests:
        raise InputError(f"{source!r} has no requests")
    if due and len(due) != len(requests):
        raise InputError(f"{source!r} says at_s in {len(due)} of {len(requests)} lines", cure="In all of them or none.")
    return Recorded(tuple(requests), tuple(due) or None)


def _lines(source: str) -> Iterator[tuple[int, str]]:
    try:
        content = Path(source).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source!r} cannot be read: {error}") from None
    # At line feeds only: other characters that end a line stand inside texts.
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _row(line: str, source: str, number: int) -> dict[str, object]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{source} line {number} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise InputError(f"{source} line {number} is not an object")
    return row
