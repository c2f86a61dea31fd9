"""Whatever an endpoint does, each text gets its own vector or an error that names it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jina_sm import AsyncClient, Client, Limits, Policy, catalog, errors, wire
from jina_sm.clock import Clock
from jina_sm.transport import Request, Response
from jina_sm.values import Rows

KNOWN = catalog.load(environ={})
Answer = dict[str, Any]


def _moved(answer: Answer) -> Answer:
    return {**answer, "data": answer["data"][1:] + answer["data"][:1]}


def _doubled(answer: Answer) -> Answer:
    rows = [dict(row) for row in answer["data"]]
    if "index" in rows[0]:
        rows[-1]["index"] = 0
        return {**answer, "data": rows} if len(rows) > 1 else {**answer, "data": rows * 2}
    return {**answer, "data": [*rows, rows[0]]}


def _short(answer: Answer) -> Answer:
    return {**answer, "data": [{**row, "embedding": row["embedding"][:-1]} for row in answer["data"]]}


def _mangled(change: Callable[[Answer], Answer]) -> Callable[[bytes], bytes]:
    return lambda body: orjson.dumps(change(orjson.loads(body)))


# What may come instead of the answer. A row moved cannot be seen where rows carry no index (v3).
WRONG: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda body: body[: len(body) // 2],
    "empty": lambda body: b"",
    "not JSON": lambda body: b"<html>502</html>",
    "a row missing": _mangled(lambda answer: {**answer, "data": answer["data"][:-1]}),
    "a row twice": _mangled(_doubled),
    "not a number": lambda body: body.replace(b'"embedding":[', b'"embedding":[NaN,', 1),
    "null": lambda body: body.replace(b'"embedding":[', b'"embedding":[null,', 1),
    "another dimension": _mangled(_short),
    "rows moved": _mangled(_moved),
}
FAILS: dict[str, Callable[[], errors.JinaSMError]] = {
    "throttle": lambda: errors.ThrottledError("slow down"),
    "unavailable": lambda: errors.ModelUnavailableError("loading"),
    "timeout": lambda: errors.ModelTimeoutError("60 s"),
    "too large": lambda: errors.PayloadTooLargeError("413"),
    "failed": lambda: errors.ModelFailedError("500"),
}


class Bad:
    """An endpoint that does what it is told, then answers; it never answers a text that begins with `poison`."""

    name, region, wire = "bad", None, "container"

    def __init__(self, model: str, does: list[str], poison: str) -> None:
        self._speech = wire.dialect(KNOWN.model(model))
        self._width = KNOWN.model(model).matryoshka[0]
        self._does = list(does)
        self._poison = poison

    def answer(self, request: Request) -> Response:
        asked = self._speech.decode_request(request.body)
        does = self._does.pop() if self._does else ""
        if does in FAILS:
            raise FAILS[does]()
        vectors = np.stack([own(text, self._width) for text in asked.items])
        body = self._speech.encode_response(asked, Rows(vectors, len(asked.items)))
        if any(text.startswith("poison") for text in asked.items):
            if self._poison in WRONG:
                return Response(WRONG[self._poison](body))
            raise errors.ModelFailedError("500") if self._poison == "failed" else errors.BadRequestError("400")
        return Response(WRONG[does](body) if does else body)


class BadThreads(Bad):
    def send(self, request: Request) -> Response:
        return self.answer(request)

    def instances(self) -> int | None:
        return None

    def close(self) -> None: ...


class BadTasks(Bad):
    async def send(self, request: Request) -> Response:
        await asyncio.sleep(0)
        return self.answer(request)

    async def instances(self) -> int | None:
        return None

    async def close(self) -> None: ...


def own(text: str, width: int) -> Any:
    """A vector that no other text has, of numbers that survive JSON exactly."""
    return (np.frombuffer(text.encode().ljust(width, b"\1")[:width], np.uint8) + 1).astype(np.float32) / 8


def check(found: Any, texts: list[str], width: int) -> None:
    for index, text in enumerate(texts):
        if index in found.errors:
            assert found.errors[index].item == f"texts[{index}]"
            assert np.isnan(found.vectors[index]).all()
        else:
            assert not text.startswith("poison")
            np.testing.assert_array_equal(found.vectors[index], own(text, width))


HOW: dict[str, Any] = {
    "clock": Clock(random=lambda: 0.0),  # so that no wait is longer than nothing
    "limits": Limits(items=4),
    "in_flight": 3,
    "retry": Policy(hedge_after=0),
}
texts_of = st.lists(
    st.tuples(st.sampled_from(["bees", "poison"]).filter(bool), st.booleans()), min_size=1, max_size=14
).map(lambda drawn: [f"{kind if rare else 'bees'} {index}" for index, (kind, rare) in enumerate(drawn)])
does_of = st.lists(st.sampled_from([*WRONG, *FAILS]), max_size=8)
poisons = st.sampled_from(["refused", "failed", "truncated", "not a number", "a row missing"])


@pytest.mark.parametrize("model", ["jina-embeddings-v3", "jina-embeddings-v4"])
@settings(max_examples=80)
@given(texts=texts_of, does=does_of, poison=poisons)
def test_a_text_gets_its_own_vector_or_an_error_that_names_it(
    model: str, texts: list[str], does: list[str], poison: str
) -> None:
    if model == "jina-embeddings-v3":  # its rows carry no index: one that is moved cannot be told
        does = [each for each in does if each != "rows moved"]
    width = KNOWN.model(model).matryoshka[0]

    async def in_tasks() -> Any:
        async with AsyncClient(model, transports=[BadTasks(model, does, poison)], **HOW) as client:
            return await client.embed(texts, dimensions=width, on_error="collect")

    def in_threads() -> Any:
        with Client(model, transports=[BadThreads(model, does, poison)], **HOW) as client:
            return client.embed(texts, dimensions=width, on_error="collect")

    for run in (lambda: asyncio.run(in_tasks()), in_threads):
        try:
            check(run(), texts, width)
        except errors.InvocationError:
            pass  # so much went wrong that the whole call was given up, and says so
        except errors.InputError as error:
            raise AssertionError("nothing here was asked wrongly") from error


@pytest.mark.parametrize("poison", ["refused", "failed", "truncated", "not a number", "a row missing"])
def test_with_nothing_else_wrong_just_the_poison_is_named(poison: str) -> None:
    texts = [f"bees {index}" for index in range(30)]
    texts[17] = "poison"
    transport = BadThreads("jina-embeddings-v3", [], poison)
    with Client("jina-embeddings-v3", transports=[transport], **HOW) as client:
        found = client.embed(texts, dimensions=32, on_error="collect")
        check(found, texts, 32)
        assert list(found.errors) == [17]
        with pytest.raises(errors.InvocationError, match=r"^texts\[17\]: ") as caught:
            client.embed(texts, dimensions=32)
        assert caught.value.index == 17
