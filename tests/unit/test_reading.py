"""A reader's stream: wherever its bytes are cut, the text is that of the whole; and it is whole, or an error."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import catalog, wire
from jina_sm.errors import ProtocolError
from jina_sm.values import Completion, ReadRequest
from jina_sm.wire.readers import LINE_LIMIT, Reader

KNOWN = catalog.load(environ={})
V1, V2 = (wire.dialect(KNOWN.model(key)) for key in ("reader-lm-0.5b", "ReaderLM-v2"))
ASKED = ReadRequest(html="<p>", stream=True)

fences = st.sampled_from(["```markdown\n", "```json\n", "\n```\n", "\n```", "```", "\n", "`", "é", "# A", "\n\n"])
texts = st.lists(fences | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=8).map("".join)
asked_of = st.builds(
    ReadRequest,
    html=st.just("<p>"),
    stream=st.just(True),
    schema=st.none() | st.just("{}"),
    instruction=st.none() | st.just("x"),
)


def event(text: object = "", **more: Any) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"text": text, "finish_reason": None, **more}]})


DONE = event("", finish_reason="stop") + b"\n\ndata: [DONE]\n\n"


@st.composite
def streams(draw: st.DrawFn, text: str) -> bytes:
    """The text in events of any size, with what else a stream may hold between them."""
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    body, start = b"", 0
    while start < len(text):
        stop = draw(st.integers(start + 1, len(text)))
        body += draw(st.sampled_from([b"", b": ping" + end, b"event: x" + end, b"id:1" + end + end]))
        body += event(text[start:stop]) + end + draw(st.sampled_from([b"", end]))
        start = stop
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}' + end
    return (
        body
        + event("", finish_reason="stop")
        + end
        + end
        + draw(st.sampled_from([b"", usage]))
        + b"data: [DONE]"
        + draw(st.sampled_from([b"", end, end * 2]))
    )


@given(st.data(), st.sampled_from([V1, V2]), asked_of, texts)
def test_wherever_a_stream_is_cut_its_text_is_that_of_the_whole_answer(
    data: st.DataObject, dialect: Reader, asked: ReadRequest, text: str
) -> None:
    body = data.draw(streams(text))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12))), len(body)]
    reading = dialect.reading(asked)
    told = [reading.feed(body[start:stop]) for start, stop in itertools.pairwise(cuts)]
    told.append(reading.end())
    whole = {"choices": [{"text": text, "finish_reason": "stop"}]}
    expected = dialect.decode_response(dataclasses.replace(asked, stream=False), orjson.dumps(whole))
    assert "".join(told) == expected.text == dialect.decode_response(asked, body).text
    assert reading.finish_reason == "stop"
    word = "none" if dialect is V1 else "(?:markdown|json)" if asked.schema or asked.instruction else "markdown"
    if opened := re.match(f"```{word}\n", text):
        text = re.sub(r"\n```\n?\Z", "", text[opened.end() :])
    assert expected.text == text


def test_text_is_told_as_soon_as_it_is_certain() -> None:
    reading = V2.reading(ASKED)
    fed = ["```", "markdown\n", "# A", "\nB\n", "``", "`", "", "python\nC\n```", "\n```", "\n"]
    told = [reading.feed(event(piece) + b"\n\n") for piece in fed]
    assert told == ["", "", "# A", "\nB", "", "", "", "\n```python\nC", "\n```", ""]
    assert reading.feed(DONE) + reading.end() == ""


@pytest.mark.parametrize(
    ("asked", "text", "expected"),
    [
        (ASKED, "```markdown\n# A\n```", "# A"),
        (ASKED, "```markdown\n# A\n```\n", "# A"),
        (ASKED, "```markdown\n# A", "# A"),
        (ASKED, "# A\n```\nB\n```\n", "# A\n```\nB\n```\n"),
        (ASKED, "```json\n{}\n```\nis JSON", "```json\n{}\n```\nis JSON"),
        (ASKED, "```mark", "```mark"),
        (dataclasses.replace(ASKED, schema="{}"), "```json\n{}\n```\n", "{}"),
        (dataclasses.replace(ASKED, instruction="As JSON"), "```json\n{}\n```\n", "{}"),
    ],
)
def test_the_fence_around_an_answer_is_taken_off_and_no_other(asked: ReadRequest, text: str, expected: str) -> None:
    assert V2.decode_response(asked, event(text) + b"\n" + DONE).text == expected


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "ended before"),
        (event("a") + b"\n\n", "ended before"),
        (event("a"), "ended before"),
        (event("a")[:-3], "not JSON"),
        (b"<html>\n", "no line of a stream"),
        (b"data: {}\n", "shape of a completion"),
        (b"data: [1]\n", "shape of a completion"),
        (b"data:\n", "not JSON"),
        (b"data: \xff\n", "not JSON"),
        (event(3) + b"\n", "text is a int"),
        (event("a", finish_reason=1) + b"\n", "its end 1"),
        (DONE + event("a"), "goes on after its end"),
        (event("a") + b'\ndata: {"error":{"message":"CUDA"}}\n', "broke off: .*CUDA"),
        (b'data: {"object":"error","message":"CUDA"}\n', "broke off: CUDA"),
        (b"data: " + b"x" * LINE_LIMIT, "more than 16777216 bytes"),
    ],
)
def test_a_stream_that_is_garbage_or_ends_too_soon_is_an_error(body: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        V2.decode_response(ASKED, body)


def test_an_answer_that_did_not_become_a_stream_is_read_all_the_same() -> None:
    told = Completion(text="# A", finish_reason="stop", prompt_tokens=3, completion_tokens=2)
    body = V2.encode_response(dataclasses.replace(ASKED, stream=False), told)
    assert V2.decode_response(ASKED, body) == V2.decode_response(ASKED, body + b"\n") == told
