"""
The dialect of the readers: vLLM's completions, HTML in and Markdown out.

reader-lm's prompt is the HTML as it is. ReaderLM-v2's is an instruction, the HTML in a fence and perhaps a JSON
schema in another; its answer mostly comes in a fence too, which is taken off.

A stream is lines of server-sent events, ``data: {json}`` and at last ``data: [DONE]``. Where one part of it ends says
nothing, so a Reading may be fed bytes that are cut anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from jina_sm.errors import InputError, ProtocolError
from jina_sm.values import Completion, ReadRequest
from jina_sm.wire import Unacceptable, expect, parse, parse_request

_TO_MARKDOWN = "Extract the main content from the given HTML and convert it to Markdown format."
_TO_JSON = "Extract the specified information from the given HTML and present it in a structured JSON format."
_HTML, _SCHEMA, _END = "\n```html\n", "\n```\nThe JSON schema is as follows:```json\n", "\n```"
_MARKDOWN, _JSON, _CLOSING = "```markdown\n", "```json\n", "\n```\n"
_PIECE = 20
"""Characters in an event of a stream that is written here; a model's are a token each."""
LINE_LIMIT = 1 << 24
"""Bytes in a line of a stream: more than any body may have."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One dialect. ``instructed``: the prompt is more than the HTML."""

    instructed: bool
    generation: str = "C"
    path: str = "/invocations"
    takes: Mapping[str, str] = field(default_factory=dict)
    model: str = ""

    def encode_request(self, request: ReadRequest) -> bytes:
        prompt = request.html
        if self.instructed:
            instruction = request.instruction or (_TO_MARKDOWN if request.schema is None else _TO_JSON)
            if (instruction + _HTML).index(_HTML) != len(instruction):
                raise InputError("the instruction holds a fence of HTML, which is what follows it")
            prompt = instruction + _HTML + prompt + ("" if request.schema is None else _SCHEMA + request.schema) + _END
        elif request.instruction or request.schema is not None:
            raise InputError(f"{self.model} takes HTML, and neither an instruction nor a schema")
        return orjson.dumps({"model": self.model, "prompt": prompt, "stream": request.stream})

    def decode_request(self, body: bytes) -> ReadRequest:
        asked = parse_request(body)
        if asked.get("model") != self.model:
            raise Unacceptable("model", message=f"The model `{asked.get('model')}` does not exist.")
        prompt = expect(asked.get("prompt"), str, "prompt")
        stream = expect(asked.get("stream") or False, bool, "stream")
        instruction, fence, rest = prompt.partition(_HTML)
        if not (self.instructed and fence and rest.endswith(_END)):
            return ReadRequest(html=prompt, stream=stream)
        html, asked_json, schema = rest.removesuffix(_END).rpartition(_SCHEMA)
        usual = instruction in (_TO_JSON if asked_json else _TO_MARKDOWN, "")
        return ReadRequest(
            html=html if asked_json else schema,
            instruction=None if usual else instruction,
            schema=schema if asked_json else None,
            stream=stream,
        )

    def encode_response(self, request: ReadRequest, told: Completion) -> bytes:
        text = told.text
        if self.instructed:
            text = (_MARKDOWN if request.schema is None else _JSON) + text + _CLOSING
        if not request.stream:
            usage = {
                "prompt_tokens": told.prompt_tokens,
                "total_tokens": told.prompt_tokens + told.completion_tokens,
                "completion_tokens": told.completion_tokens,
            }
            return orjson.dumps({**self._said(text, told.finish_reason), "usage": usage})
        pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
        events = [*(self._said(piece, None) for piece in pieces), self._said("", told.finish_reason)]
        return b"".join(b"data: %b\n\n" % event for event in [*map(orjson.dumps, events), b"[DONE]"])

    def decode_response(self, request: ReadRequest, body: bytes) -> Completion:
        reading = self.reading(request)
        text = reading.feed(body) + reading.end() if request.stream else reading.whole(body)
        return Completion(
            text=text,
            finish_reason=reading.finish_reason or "stop",
            prompt_tokens=reading.prompt_tokens,
            completion_tokens=reading.completion_tokens,
        )

    def reading(self, request: ReadRequest) -> Reading:
        """What reads the stream that answers the request."""
        if not self.instructed:
            return Reading(())
        # A page that begins with JSON is fenced so in its own right, unless JSON may have been asked for.
        usual = request.schema is None and request.instruction is None
        return Reading((_MARKDOWN,) if usual else (_MARKDOWN, _JSON))

    def _said(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {"id": "cmpl-0", "object": "text_completion", "created": 0, "model": self.model, "choices": [choice]}


class Reading:
    """A completion as it comes: bytes in, and the text that they make certain out. Raises ProtocolError.

    ``finish_reason`` is None until the model has said that it is done.
    """

    def __init__(self, fences: Sequence[str]) -> None:
        self.finish_reason: str | None = None
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._line = bytearray()
        self._done = False
        self._fence = _Fence(fences)

    def feed(self, data: bytes) -> str:
        """The text that is certain by now and was not before."""
        *ended, rest = data.split(b"\n")
        told = []
        for part in ended:
            told.append(self._read(bytes(self._line + part)))
            self._line.clear()
        self._line += rest
        if len(self._line) > LINE_LIMIT:
            raise ProtocolError(f"a line of the stream has more than {LINE_LIMIT} bytes")
        return "".join(told)

    def end(self) -> str:
        """The rest of the text, when there are no more bytes. Raises ProtocolError if the model was not done."""
        told = self._read(bytes(self._line))
        if not (self._done or self.finish_reason):
            raise ProtocolError("the stream ended before the model was done")
        return told + self._fence.end()

    def whole(self, body: bytes) -> str:
        """The text of an answer that is no stream."""
        return self._hear(parse(body)) + self._fence.end()

    def _hear(self, said: Any) -> str:
        try:
            if said.get("error") or said.get("object") == "error":
                raise ProtocolError(f"the model broke off: {str(said.get('error') or said.get('message'))[:500]}")
            if usage := said.get("usage"):
                self.prompt_tokens = int(usage.get("prompt_tokens") or 0)
                self.completion_tokens = int(usage.get("completion_tokens") or 0)
            if not said["choices"] and usage:
                return ""
            (choice,) = said["choices"]
            text, reason = choice["text"], choice.get("finish_reason")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ProtocolError(f"the answer has not the shape of a completion: {error!r}") from None
        if not isinstance(text, str) or not isinstance(reason, str | None):
            raise ProtocolError(f"the answer's text is a {type(text).__name__}, its end {reason!r}")
        self.finish_reason = reason or self.finish_reason
        return self._fence.feed(text)

    def _read(self, line: bytes) -> str:
        name, _, value = line.strip().partition(b":")
        if not name or name in (b"event", b"id", b"retry"):  # nothing, or a comment
            return ""
        if self._done:
            raise ProtocolError(f"the stream goes on after its end: {line[:40]!r}")
        if name != b"data" and not line.startswith(b"{"):  # an answer that did not become a stream is one line
            raise ProtocolError(f"{line[:40]!r} is no line of a stream")
        if value.strip() == b"[DONE]":
            self._done = True
            return ""
        return self._hear(parse(value if name == b"data" else line))


class _Fence:
    """Takes the fence off a text that comes in pieces: one of ``openings`` at its start, and then that at its end."""

    def __init__(self, openings: Sequence[str]) -> None:
        self._openings = openings
        self._opened: bool | None = None if openings else False
        self._held = ""

    def feed(self, text: str) -> str:
        self._held += text
        if self._opened is None:
            opening = next((each for each in self._openings if self._held.startswith(each)), "")
            if not opening and any(each.startswith(self._held) for each in self._openings):
                return ""
            self._opened = bool(opening)
            self._held = self._held.removeprefix(opening)
        kept = 0
        if self._opened:
            sizes = range(min(len(self._held), len(_CLOSING)), 0, -1)
            kept = next((size for size in sizes if _CLOSING.startswith(self._held[-size:])), 0)
        told, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return told

    def end(self) -> str:
        return "" if self._opened and self._held in (_CLOSING, _CLOSING[:-1]) else self._held


DIALECTS: Mapping[str, Reader] = {"reader": Reader(instructed=False), "reader-v2": Reader(instructed=True)}
