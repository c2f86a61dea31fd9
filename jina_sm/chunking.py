"""
A long text -> passages with their places in it; and passages -> the windows in which they are embedded jointly.

The text is cut into units no longer than a passage; units are measured together, in bulk, which says about where each
passage ends; then each passage's true length is measured and its end moved until it fits. So the work grows with the
text, and no passage is longer than asked, whoever measures.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from jina_sm import boundaries, tokens
from jina_sm.errors import InputError
from jina_sm.values import Chunk, check_text

By = Literal["sentence", "tokens", "markdown"]
BY = ("sentence", "tokens", "markdown")


class Measure(Protocol):
    """How long texts are, in tokens, special tokens included. The same text has the same length each time."""

    def of(self, texts: Sequence[str]) -> NDArray[np.int64]: ...


def chunk(
    text: str, *, max_tokens: int = 512, overlap: int = 0, by: By = "sentence", lengths: Measure | None = None
) -> tuple[Chunk, ...]:
    """Passages of at most ``max_tokens``, in order, which together are the text.

    ``by`` is where they end: "sentence"; "tokens", as full as whole words allow; "markdown", at headings, then blocks,
    with code and tables in one piece if they fit. What is too long for one passage is cut at clauses, words, then
    characters as a reader sees them; only one of those that is alone too long exceeds ``max_tokens``. ``overlap``:
    each passage begins up to so many tokens before the last one's end, at the beginning of a sentence, clause or word.
    Raises InputError.

        chunk(text, max_tokens=256, overlap=32)[0].text
    """
    check_text(text, "text")
    if by not in BY:
        raise InputError(f"by is {', '.join(BY)}, not {by!r}")
    ruler = _Ruler(text, lengths or tokens.Lengths(), max_tokens)
    if type(max_tokens) is not int or max_tokens <= ruler.specials:
        least = ruler.specials + 1
        raise InputError(
            f"max_tokens is a whole number of {least} or more, special tokens included, not {max_tokens!r}"
        )
    if type(overlap) is not int or not 0 <= overlap < max_tokens:
        raise InputError(f"overlap is a whole number from 0 to max_tokens - 1 ({max_tokens - 1}), not {overlap!r}")
    return _Filling(ruler, _units(ruler, by, overlap), overlap).chunks()


class _Ruler:
    """The text, and how long its parts are. ``specials``: the tokens that every text has on top of its own."""

    def __init__(self, text: str, lengths: Measure, max_tokens: int) -> None:
        self.text = text
        self.lengths = lengths
        self.max_tokens = max_tokens
        self.specials = int(lengths.of([""])[0])

    def of(self, spans: Sequence[tuple[int, int]]) -> list[int]:
        measured: list[int] = self.lengths.of([self.text[start:end] for start, end in spans]).tolist() if spans else []
        return measured

    def one(self, start: int, end: int) -> int:
        return self.of([(start, end)])[0]


class _Unit(NamedTuple):
    """What stays in one piece. ``strength``: how good a place its beginning is to begin a passage.

    ``body``: before it are headings, which stay with what follows. ``first``: its beginning is no mere place to
    overlap to.
    """

    start: int
    end: int
    body: int
    strength: int
    kind: str
    tokens: int
    first: bool = True


# From a whole to its parts. A line of a list or of code is a better place than the end of a sentence.
_Cuts = tuple[tuple[Callable[[str], list[int]], int], ...]
_LAST: _Cuts = (
    (boundaries.clauses, 2),
    (boundaries.words, 1),
    (lambda text: boundaries.graphemes(text)[15::16], 0),  # one by one, a megabyte of base64 would take seconds
    (boundaries.graphemes, 0),
)
_TEXT: _Cuts = ((boundaries.sentences, 4), (boundaries.lines, 3), *_LAST)
_LINES: _Cuts = ((boundaries.lines, 4), (boundaries.sentences, 3), *_LAST)
_WITHIN_WORDS = len(_TEXT) - 2
_BLOCK = 5


def _units(ruler: _Ruler, by: By, overlap: int) -> list[_Unit]:
    whole = _Unit(0, len(ruler.text), 0, _BLOCK, "text", -1)
    if by == "markdown":
        return _overlapping(ruler, _finer(ruler, _blocks(ruler), ruler.max_tokens), overlap)
    # By tokens, a passage may lack the sixteenth part that its next unit is.
    units = _finer(ruler, [whole], ruler.max_tokens // 16 if by == "tokens" else ruler.max_tokens, always=1)
    if by == "tokens":
        units = [unit._replace(strength=0) for unit in units]
    return _overlapping(ruler, units, overlap)


def _blocks(ruler: _Ruler) -> list[_Unit]:
    """The blocks of Markdown, each with its headings; without, where that lets code or a table stay in one piece."""
    found = boundaries.blocks(ruler.text)
    whole = ruler.of([(block.start, block.end) for block in found])
    bodies = ruler.of([(block.body, block.end) for block in found])
    units = []
    for block, length, body in zip(found, whole, bodies, strict=True):
        strength = _BLOCK + 7 - block.heading
        if block.kind == "whole" and body <= ruler.max_tokens < length and block.body > block.start:
            head = ruler.one(block.start, block.body)
            units.append(_Unit(block.start, block.body, block.start, strength, "text", head))
            units.append(_Unit(block.body, block.end, block.body, _BLOCK, "whole", body))
        else:
            units.append(_Unit(block.start, block.end, block.body, strength, block.kind, length))
    return units


def _finer(ruler: _Ruler, units: list[_Unit], limit: int, *, always: int = 0) -> list[_Unit]:
    """The units, those above the limit in parts: sentences, clauses, words; of words, those above max_tokens.

    ``always``: so many levels are cut even if the whole fits.
    """
    for level in range(len(_TEXT)):
        bound = ruler.max_tokens if level >= _WITHIN_WORDS else limit
        parts: list[_Unit] = []
        for unit in units:
            if unit.tokens > bound or level < always:
                parts.extend(_parts(ruler.text, unit, level))
            else:
                parts.append(unit)
        fresh = [place for place, part in enumerate(parts) if part.tokens < 0]
        for place, length in zip(fresh, ruler.of([parts[i][:2] for i in fresh]), strict=True):
            parts[place] = parts[place]._replace(tokens=length)
        units = parts
    return units


def _parts(text: str, unit: _Unit, level: int) -> list[_Unit]:
    """The unit cut at one level; lengths of -1 are still to be measured."""
    cuts_of, strength = (_TEXT if unit.kind == "text" else _LINES)[level]
    piece = text[unit.start : unit.end]
    inner = [unit.start + cut for cut in cuts_of(piece)]
    if strength > 1:  # not within headings, and no piece of whitespace alone
        body = unit.body + len(text[unit.body : unit.end]) - len(text[unit.body : unit.end].lstrip())
        inner = [cut for cut in inner if cut > body]
    if not inner:
        return [unit]
    spans = list(itertools.pairwise([unit.start, *inner, unit.end]))
    first = _Unit(*spans[0], unit.body if unit.body < spans[0][1] else unit.start, unit.strength, unit.kind, -1)
    return [first, *(_Unit(start, end, start, strength, unit.kind, -1) for start, end in spans[1:])]


def _overlapping(ruler: _Ruler, units: list[_Unit], overlap: int) -> list[_Unit]:
    """The units, those longer than the overlap in parts, so that there is a place to overlap to."""
    if not overlap:
        return units
    firsts = {unit.start for unit in units}
    finer = _finer(ruler, units, overlap + ruler.specials)
    return [unit._replace(first=unit.start in firsts) for unit in finer]


class _Filling:
    """Units -> passages. A passage from unit a up to unit b is written (a, b), b not included."""

    def __init__(self, ruler: _Ruler, units: list[_Unit], overlap: int) -> None:
        self.ruler = ruler
        self.units = units
        self.overlap = overlap
        self.starts = [unit.start for unit in units] + [len(ruler.text)]
        # Where each unit begins, in tokens: a forecast, as joined texts are not as long as their parts.
        self.places = np.cumsum([0, *(max(unit.tokens - ruler.specials, 0) for unit in units)]).astype(np.float64)
        self.true_share = 1.0  # how long a joined text was, to the forecast

    def chunks(self) -> tuple[Chunk, ...]:
        chunks: list[Chunk] = []
        begin, done = 0, 0  # the passage's first unit; the first that no passage holds yet
        while done < len(self.units):
            reach = self._reach(begin, self._needed(begin, done))
            end = self._best_end(begin, done, reach)
            length = self._length(begin, end)
            if length > self.ruler.max_tokens:  # a shorter text with more tokens
                end, length = reach, self._length(begin, reach)
            start, stop = self.starts[begin], self.starts[end]
            chunks.append(Chunk(start, stop, self.ruler.text[start:stop], length))
            begin, done = self._next_begin(begin, end), end
        return tuple(chunks)

    def _length(self, begin: int, end: int) -> int:
        return self.ruler.one(self.starts[begin], self.starts[end])

    def _fits(self, begin: int, end: int) -> bool:
        return self._length(begin, end) <= self.ruler.max_tokens

    def _whole_end(self, done: int) -> int:
        """Where what begins at unit ``done`` ends as a whole."""
        return next((i for i in range(done + 1, len(self.units)) if self.units[i].first), len(self.units))

    def _needed(self, begin: int, done: int) -> int:
        whole = self._whole_end(done)
        return whole if whole == done + 1 or self._fits(begin, whole) else done + 1

    def _reach(self, begin: int, known: int) -> int:
        """The last end that fits, ``known`` being one. Forecast, measured, and forecast again from that."""
        room = self.ruler.max_tokens - self.ruler.specials
        fits, too_far = known, len(self.units) + 1
        for attempt in itertools.count():
            if too_far - fits <= 1:
                return fits
            aim = self.places[begin] + room / self.true_share
            guess = int(np.searchsorted(self.places, aim, "right")) - 1
            if attempt >= 6:  # forecasts don't help with this text
                guess = min((fits + too_far) // 2, 2 * fits - begin)
            guess = min(max(guess, fits + 1), too_far - 1)
            length = self._length(begin, guess)
            if length <= self.ruler.max_tokens:
                fits = guess
            else:
                too_far = guess
            forecast = self.places[guess] - self.places[begin]
            if forecast > 0 and length > self.ruler.specials:
                self.true_share = (length - self.ruler.specials) / forecast
        raise AssertionError("unreachable")

    def _best_end(self, begin: int, done: int, reach: int) -> int:
        """The best place to end in the passage's second half; if there is none, the last that cuts no whole unit."""
        if reach == len(self.units):
            return reach
        ends = [end for end in range(done + 1, reach + 1) if self.units[end].first]
        half = (self.places[begin] + self.places[reach]) / 2
        late = [end for end in ends if self.places[end] >= half]
        return max(late or ends[-1:] or [reach], key=lambda end: (self.units[end].strength, end))

    def _next_begin(self, begin: int, end: int) -> int:
        """The earliest unit from which the overlap suffices, and the next whole unit still fits."""
        if not self.overlap or end == len(self.units):
            return end
        allowed = self.overlap + self.ruler.specials
        # What begins twice as far back as forecast need not be measured.
        earliest = int(np.searchsorted(self.places, self.places[end] - 2 * self.overlap / self.true_share))
        earliest = min(max(earliest, begin + 1), end)
        near = bisect_left(range(end), True, earliest, key=lambda i: self._length(i, end) <= allowed)
        whole = self._whole_end(end)
        if not self._fits(near, whole):
            near = bisect_left(range(end), True, near, key=lambda i: self._fits(i, whole))
        return near


def windows(chunks: Sequence[Chunk], *, max_tokens: int = 8192, max_chunks: int | None = None) -> tuple[range, ...]:
    """Runs of chunks, each at most ``max_tokens`` long together, as few and as even as can be: for late chunking.

    ``max_chunks``: what the answer to one request holds. Lengths are added up with their special tokens, so a little
    is left free. Raises InputError, naming the chunk, where one alone is too long.
    """
    for index, each in enumerate(chunks):
        if each.tokens > max_tokens:
            raise InputError(
                f"chunk {index} has {each.tokens} tokens, and a window holds {max_tokens}",
                cure="Make smaller chunks: chunk(text, max_tokens=...).",
            )
    ends = np.cumsum([0, *(each.tokens for each in chunks)])
    count = len(chunks)
    # How many windows the chunks from here on need, from the last to the first.
    needed = [0] * (count + 1)
    farthest = [
        min(int(np.searchsorted(ends, ends[i] + max_tokens, "right")) - 1, i + (max_chunks or count))
        for i in range(count)
    ]
    for index in range(count - 1, -1, -1):
        needed[index] = 1 + needed[farthest[index]]
    runs: list[range] = []
    begin = 0
    while begin < count:
        left = needed[begin]
        even = ends[begin] + (ends[count] - ends[begin]) / left
        allowed = [end for end in range(begin + 1, farthest[begin] + 1) if needed[end] < left]
        end = min(allowed, key=lambda end: abs(ends[end] - even))
        runs.append(range(begin, end))
        begin = end
    return tuple(runs)
