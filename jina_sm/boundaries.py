"""
Where a text may be cut, from the places a reader would choose to the ones that only do no harm.

Each function gives the inner cuts of a text, as rising character offsets: whitespace and closing quotes stay with what
they follow. All of it is linear in the text's length. There is no dictionary: in Thai, Lao, Khmer and Burmese, which
write neither spaces nor full stops, a space ends a clause and every syllable-like cluster may end a word.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from unicodedata import category, combining

_CLOSERS = r"""["'”’»›」』）)】］\]〉》〕}*_]"""
# Full stops that need no space after them: CJK, Indic, Arabic, Urdu, Armenian, Ethiopic, Burmese, Khmer, Tibetan.
_STOPS = "。！？｡．‼⁇⁈⁉।॥؟۔։።፧။។៕།༎"
_SENTENCE = re.compile(
    rf"(?P<stop>[{_STOPS}][{_STOPS}.!?…]*){_CLOSERS}*\s*"
    rf"|(?<![.!?…])(?P<point>[.!?…]++){_CLOSERS}*+(?P<space>\s+)|\n[ \t\r]*\n\s*"
)
_SHORT = re.compile(
    r"(?i)(mrs?|ms|drs?|prof|st|sr|jr|vs|cf|figs?|eqs?|vol|pp|eds?|al|approx|dept|inc|ltd|gov|gen|e\.g|i\.e|z\.b|d\.h"
    r"|u\.a|p\.ex|bzw|usw|sra|núm|pág|a\.m|p\.m)"
)
_NUMBERED = re.compile(r"(?i)(nos?|nr|n|p|ch|sec|art|ref)")  # abbreviations before a number, else perhaps words
_LAST_WORD = re.compile(r"(?:(\A|[\n.!?])\s*)?([^\s(\[\"'“«]*)\Z")
_LINE = re.compile(r"\r\n?|[\n\v\f\u2028\u2029\x85]")
_CLAUSE = re.compile(
    rf"[，、；：،؛፣፤]{_CLOSERS}*\s*|[,;:]{_CLOSERS}*\s+|\s[-–—]+\s+|—+|[)\]}}]\s+"
    r"|(?<=[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\s+"
)
_SPACE = re.compile(r"[\s\u200b\u0f0b\u1361]+")
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)


def sentences(text: str) -> list[int]:
    """Where a sentence or paragraph ends."""
    return _inner(text, (m.end() for m in _SENTENCE.finditer(text) if m["point"] is None or _ends_a_sentence(text, m)))


def _ends_a_sentence(text: str, match: re.Match[str]) -> bool:
    after = text[match.end() : match.end() + 1]
    if after.islower():
        return False
    if match["point"] != "." or "\n" in match["space"]:
        return True
    start = match.start()
    word = _LAST_WORD.search(text, max(0, start - 12), start)
    begins, last = word.groups() if word else (None, "")
    if last.isdecimal():
        return begins is None  # "1." by itself numbers what follows
    initial = len(last) == 1 and last.isupper()
    return not (initial or _SHORT.fullmatch(last) or (after.isdecimal() and _NUMBERED.fullmatch(last)))


def lines(text: str) -> list[int]:
    """Where a line ends."""
    return _inner(text, (match.end() for match in _LINE.finditer(text)))


def clauses(text: str) -> list[int]:
    """After commas, colons, dashes and closing brackets; in Thai, Lao, Khmer and Burmese after a space."""
    return _inner(text, (match.end() for match in _CLAUSE.finditer(text)))


def words(text: str) -> list[int]:
    """After whitespace; between any two clusters of a script written without it, as its line-breaking rules allow."""
    cuts = {match.end() for match in _SPACE.finditer(text)}
    if _UNSPACED.search(text):
        cuts.update(cut for cut in graphemes(text) if _breaks_unspaced(text, cut))
    return _inner(text, iter(sorted(cuts)))


def _breaks_unspaced(text: str, cut: int) -> bool:
    if not (_UNSPACED.match(text, cut) or _UNSPACED.match(text, cut - 1)) or _SPACE.match(text, cut):
        return False
    return category(text[cut]) not in {"Pe", "Pf", "Po", "Pd", "Lm"} and category(text[cut - 1]) not in {"Ps", "Pi"}


def graphemes(text: str) -> list[int]:
    """Between what a reader sees as characters: combining marks, emoji sequences and flags stay together.

    A little coarser than Unicode's rules: an Indic consonant stays with the one it is joined to, a Thai vowel with
    its consonant.
    """
    seen = sorted(set(text))
    extends = "".join(map(re.escape, filter(_extends, seen)))
    joins = "".join(map(re.escape, (char for char in seen if char == "\u200d" or combining(char) == 9)))
    core = r"(?:\r\n|[\U0001f1e6-\U0001f1ff]{2}|.)"
    leads = r"[\u0e40-\u0e44\u0ec0-\u0ec4\u1100-\u115f\ua960-\ua97c]"
    tail = rf"(?:[{extends}]" + (rf"|(?<=[{joins}])(?!\s){core}" if joins else "") + ")*" if extends else ""
    return _inner(text, (match.end() for match in re.finditer(f"{leads}*{core}{tail}", text, re.DOTALL)))


def _extends(char: str) -> bool:
    return (
        category(char)[0] == "M"
        or char in "\u200c\u200d\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3\uff9e\uff9f"
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= char <= "\U000e007f"  # the tags of a region's flag
        or "\u1160" <= char <= "\u11ff"  # Hangul vowels and finals
        or "\ud7b0" <= char <= "\ud7fb"
    )


def _inner(text: str, cuts: Iterator[int]) -> list[int]:
    return [cut for cut in cuts if 0 < cut < len(text)]


@dataclass(frozen=True)
class Block:
    """A block of Markdown with the headings above it and the blank lines below it.

    ``body`` is where the headings end; ``kind`` is "text", "list", or "whole" (code, a table); ``heading`` is the
    level of the first heading, 1 to 6, or 7 if there is none.
    """

    start: int
    end: int
    body: int
    kind: str
    heading: int


_FENCE = re.compile(r"\s*(?:[-*+]\s+|\d+[.)]\s+|>\s?)?(`{3,}(?=[^`]*$)|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})(?=\s|$)")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)\s*$")
_TABLE_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")
_STARTS = (("list", re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s")), ("whole", re.compile(r"\s*\|")))


def blocks(text: str) -> list[Block]:
    """The Markdown blocks of a text, one after the other; together they are the text."""
    found: list[Block] = []
    for start, end, kind in _parts(text):
        before = found[-1] if found else None
        heading = int(kind) if kind.isdecimal() else 7
        if before and before.body == before.end:  # so far only headings
            body = end if heading < 7 else before.body
            found[-1] = Block(before.start, end, body, "text" if heading < 7 else kind, before.heading)
        else:
            body = end if heading < 7 else start
            found.append(Block(start, end, body, "text" if heading < 7 else kind, heading))
    return found


def _parts(text: str) -> list[tuple[int, int, str]]:
    """(start, end, kind), where the kind of a heading is its level. Blank lines go with what they follow."""
    parts: list[tuple[int, int, str]] = []
    fence = ""  # of the code we are in
    goes_on = ""  # the kind of the block that a line may go on with
    cuts = [0, *lines(text), len(text)]
    for start, end in itertools.pairwise(cuts):
        line = text[start:end]
        bare = line.strip()
        before, _, last = parts[-1] if parts else (0, 0, "")
        if fence:
            kind, joins = "whole", True
            if len(bare) >= len(fence) and set(bare.lstrip("> ")) == {fence[0]}:
                fence = ""
        elif not bare:
            kind, joins, goes_on = last, bool(parts), ""
        elif opened := _FENCE.match(line):
            kind, joins, goes_on, fence = "whole", False, "", opened[1]
        elif goes_on == "text" and _UNDERLINE.match(line) and len(lines(text[before:start])) == 0:
            kind, joins, goes_on = ("1" if bare[0] == "=" else "2"), True, ""
        elif goes_on == "text" and len(bare) < 2000 and "|" in bare and _TABLE_RULE.match(bare):
            kind, joins, goes_on = "whole", True, "whole"
        else:
            kind = _kind(line)
            joins = bool(goes_on) and kind in {"text", goes_on}
            kind = goes_on if joins else kind
            goes_on = "" if kind.isdecimal() else kind
        if joins or not last:  # blank lines at the beginning have no kind, and go with what follows
            parts[-1:] = [(before, end, kind)]
        else:
            parts.append((start, end, kind))
    return parts


def _kind(line: str) -> str:
    if heading := _HEADING.match(line):
        return str(len(heading[1]))
    return next((kind for kind, pattern in _STARTS if pattern.match(line)), "text")
