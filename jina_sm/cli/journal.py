"""
What of a run is finished, in a file beside its output, so that nothing is paid for twice.

A line for each text: the vector, and a key made of all that it depends on. So lines of the input may be mended, added
or taken out before a run goes on, and what was asked of another model, or otherwise, is never taken for the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from jina_sm.cli import show
from jina_sm.errors import InputError


class Journal:
    """The vectors of texts. ``about``: what else they depend on. ``whole``: it has served its purpose."""

    def __init__(self, file: BinaryIO, about: Sequence[Any] = ()) -> None:
        import orjson

        self.whole = False
        self._file = file
        self._about = about
        self._places: dict[str, int] = {}
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break  # the run ended while it was written
            try:
                self._places[orjson.loads(line)["key"]] = end
            except (orjson.JSONDecodeError, KeyError, TypeError):
                raise InputError(
                    f"{getattr(file, 'name', '')} holds something else", cure="Name another --output."
                ) from None
            end += len(line)
        file.seek(end)
        file.truncate()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, text: str) -> bool:
        return self._key(text) in self._places

    def __getitem__(self, text: str) -> list[float]:
        import orjson

        self._file.seek(self._places[self._key(text)])
        vector: list[float] = orjson.loads(self._file.readline())["embedding"]
        return vector

    def add(self, text: str, vector: Any) -> None:
        import orjson

        key = self._key(text)
        line = orjson.dumps({"key": key, "embedding": vector}, option=orjson.OPT_SERIALIZE_NUMPY)
        self._places[key] = self._file.seek(0, io.SEEK_END)
        self._file.write(line + b"\n")

    def flush(self) -> None:
        self._file.flush()

    def _key(self, text: str) -> str:
        return hashlib.sha256(json.dumps([*self._about, text]).encode()).hexdigest()[:32]


@contextlib.contextmanager
def opened(output: str, about: Sequence[Any], *, resume: bool) -> Iterator[Journal]:
    """The journal of an output, which stays while it is not ``whole``; of stdout, one in memory. Raises InputError."""
    if output == "-":
        yield Journal(io.BytesIO(), about)
        return
    if Path(output).is_dir():
        raise InputError(f"--output {output!r} is a folder")
    path = Path(f"{output}.part")
    try:
        file = path.open("r+b" if resume and path.exists() else "x+b")
    except FileExistsError:
        raise InputError(
            f"{path} is there: an earlier run did not end, or one is under way",
            cure="--resume goes on from what it has; else delete it.",
        ) from None
    except OSError as error:
        raise InputError(f"--output {output!r} cannot be written: {error.strerror}") from None
    journal: Journal | None = None
    try:
        with file:
            journal = Journal(file, about)
            yield journal
    finally:
        if journal is not None and len(journal) and not journal.whole:
            show.say(f"What is finished is in {path}: the same with --resume asks only for the rest.")
        elif journal is not None:
            path.unlink(missing_ok=True)
