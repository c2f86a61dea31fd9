"""
The dialect of the readers: vLLM's completions, HTML in and Markdown out.

reader-lm's prompt is the HTML as it is. ReaderLM-v2's is an instruction, the HTML in a fence and perhaps a JSON
schema in another; its answer mostly comes in a fence too, which is taken off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from jina_sm.errors import InputError, ProtocolError
from jina_sm.values import Completion, ReadRequest
from jina_sm.wire import Unacceptable, expect, parse, parse_request

_TO_MARKDOWN = "Extract the main content from the given HTML and convert it to Markdown format."
_TO_JSON = "Extract the specified information from the given HTML and present it in a structured JSON format."
_HTML, _SCHEMA, _END = "\n```html\n", "\n```\nThe JSON schema is as follows:```json\n", "\n```"
_FENCED = re.compile(r"```(?:markdown|json)\n(.*)\n```\n?", re.DOTALL)


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
        return orjson.dumps({"model": self.model, "prompt": prompt, "stream": False})

    def decode_request(self, body: bytes) -> ReadRequest:
        asked = parse_request(body)
        if asked.get("model") != self.model:
            raise Unacceptable("model", message=f"The model `{asked.get('model')}` does not exist.")
        prompt = expect(asked.get("prompt"), str, "prompt")
        if asked.get("stream"):
            raise Unacceptable("stream", message="only whole answers are given here, not streams")
        instruction, fence, rest = prompt.partition(_HTML)
        if not (self.instructed and fence and rest.endswith(_END)):
            return ReadRequest(html=prompt)
        html, asked_json, schema = rest.removesuffix(_END).rpartition(_SCHEMA)
        usual = instruction in (_TO_JSON if asked_json else _TO_MARKDOWN, "")
        return ReadRequest(
            html=html if asked_json else schema,
            instruction=None if usual else instruction,
            schema=schema if asked_json else None,
        )

    def encode_response(self, request: ReadRequest, told: Completion) -> bytes:
        text = told.text
        if self.instructed:
            text = f"```{'markdown' if request.schema is None else 'json'}\n{text}\n```\n"
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": told.finish_reason}
        usage = {
            "prompt_tokens": told.prompt_tokens,
            "total_tokens": told.prompt_tokens + told.completion_tokens,
            "completion_tokens": told.completion_tokens,
        }
        answer = {"id": "cmpl-0", "object": "text_completion", "created": 0, "model": self.model}
        return orjson.dumps({**answer, "choices": [choice], "usage": usage})

    def decode_response(self, request: ReadRequest, body: bytes) -> Completion:
        answer = parse(body)
        try:
            (choice,) = answer["choices"]
            text, reason = choice["text"], choice.get("finish_reason") or "stop"
            usage = answer.get("usage") or {}
            prompt, written = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ProtocolError(f"the answer has not the shape of a completion: {error!r}") from None
        if not isinstance(text, str) or not isinstance(reason, str):
            raise ProtocolError(f"the answer's text is a {type(text).__name__}, its end {reason!r}")
        if self.instructed and (fenced := _FENCED.fullmatch(text)):
            text = fenced[1]
        return Completion(text=text, finish_reason=reason, prompt_tokens=prompt, completion_tokens=written)


DIALECTS: Mapping[str, Reader] = {"reader": Reader(instructed=False), "reader-v2": Reader(instructed=True)}
