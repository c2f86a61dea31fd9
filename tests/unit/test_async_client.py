"""The client for an event loop, over transports that are ordinary classes."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import numpy as np
import pytest

from jina_sm import AsyncClient, Limits, Policy, catalog, errors, wire
from jina_sm.transport import Request, Response
from jina_sm.values import Rows

V3 = "jina-embeddings-v3"
speech = wire.dialect(catalog.load(environ={}).model(V3))


def vector_of(text: str) -> Any:
    seed = np.frombuffer(text.encode().ljust(8, b"\0")[:8], dtype=np.uint64)[0]
    return np.random.default_rng(seed).standard_normal(32).astype(np.float32)


class FakeTransport:
    """Answers each text with a vector that is its own, after the failures it was given and when it is let go."""

    name, region, wire = "fake", None, "container"

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.asked: list[tuple[Any, ...]] = []
        self.under_way = self.most = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.closed = False

    async def send(self, request: Request) -> Response:
        asked = speech.decode_request(request.body)
        self.asked.append(asked.items)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0)
            await self.go_on.wait()
            if self.failures:
                raise self.failures.pop(0)
        finally:
            self.under_way -= 1
        vectors = np.stack([vector_of(text) for text in asked.items])
        return Response(speech.encode_response(asked, Rows(vectors, len(asked.items))))

    async def instances(self) -> int | None:
        return None

    async def close(self) -> None:
        self.closed = True


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


def client(*transports: FakeTransport, **settings: Any) -> AsyncClient:
    settings.setdefault("retry", Policy(hedge_after=0))
    return AsyncClient(V3, transports=transports, **settings)


def test_one_vector_a_text_in_the_order_given() -> None:
    async def work() -> None:
        async with client(up := FakeTransport(), limits=Limits(items=2)) as asking:
            found = await asking.embed(list("bacde"), dimensions=32)
        np.testing.assert_array_equal(found.vectors, np.stack([vector_of(text) for text in "bacde"]))
        assert (found.usage.total_tokens, found.usage.requests) == (5, 3)
        assert up.closed

    run(work())


def test_those_who_ask_in_the_same_turn_share_a_request() -> None:
    async def work() -> None:
        async with client(up := FakeTransport()) as asking:
            found = await asyncio.gather(*(asking.embed([name], dimensions=32) for name in "abcdefgh"))
        for name, each in zip("abcdefgh", found, strict=True):
            np.testing.assert_array_equal(each.vectors[0], vector_of(name))
        assert [len(items) for items in up.asked] == [8]

    run(work())


def test_a_failure_that_passes_is_not_seen_and_another_place_takes_over() -> None:
    async def work() -> None:
        down = FakeTransport(errors.ModelUnavailableError("down"))
        async with client(down, up := FakeTransport()) as asking:
            await asking.embed(["a"], dimensions=32)
        assert (len(down.asked), len(up.asked)) == (1, 1)

    run(work())


def test_a_bug_in_a_transport_reaches_the_caller_instead_of_hanging_it() -> None:
    async def work() -> None:
        async with client(FakeTransport(ZeroDivisionError("bug"))) as asking:
            with pytest.raises(errors.JinaSMError, match="ZeroDivisionError: bug"):
                await asking.embed(["a"])

    run(work())


def test_who_goes_away_breaks_off_a_request_that_is_nobody_elses() -> None:
    async def work() -> None:
        up = FakeTransport()
        up.go_on.clear()
        async with client(up, in_flight=1) as asking:
            first = asyncio.create_task(asking.embed(["a"], dimensions=32))
            while not up.under_way:
                await asyncio.sleep(0)
            second, third = (asyncio.create_task(asking.embed([name], dimensions=32)) for name in "bc")
            await asyncio.sleep(0)
            first.cancel()
            while up.asked[-1] != ("b", "c"):
                await asyncio.sleep(0)
            second.cancel()
            await asyncio.sleep(0)
            assert up.under_way == 1, "the third still waits for it"
            up.go_on.set()
            np.testing.assert_array_equal((await third).vectors[0], vector_of("c"))

    run(work())


def test_a_call_ends_when_its_time_is_up_and_nothing_is_left() -> None:
    async def work() -> None:
        up = FakeTransport()
        up.go_on.clear()
        async with client(up) as asking:
            with pytest.raises(errors.DeadlineExceededError):
                await asking.embed(["a"], timeout_s=0.01)
        assert up.under_way == 0

    run(work())


def test_ten_thousand_calls_and_their_cancellations_leak_nothing() -> None:
    async def work() -> None:
        threads, tasks = threading.active_count(), len(asyncio.all_tasks())
        up = FakeTransport(*[errors.ThrottledError("no", retry_after_s=0)] * 20)
        async with client(up, limits=Limits(items=50), in_flight=8) as asking:
            calls = [asyncio.create_task(asking.embed([f"{n}"], dimensions=32)) for n in range(10_000)]
            for number, call in enumerate(calls):
                if number % 3 == 0:
                    call.cancel()
                if number % 100 == 0:
                    await asyncio.sleep(0)
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert asking._driver._exchange.calls == 0
            assert not asking._driver._sending
        for number, each in enumerate(found):
            if number % 3:
                np.testing.assert_array_equal(each.vectors[0], vector_of(f"{number}"))
        assert up.most <= 8
        assert up.under_way == 0
        assert len(asyncio.all_tasks()) == tasks
        assert threading.active_count() <= threads + 8  # the loop's own pool, for large answers

    run(work())
    gc.collect()


def test_closing_lets_calls_under_way_finish_also_those_that_are_tried_again() -> None:
    async def work() -> None:
        up = FakeTransport(errors.ThrottledError("no", retry_after_s=0.01))
        asking = client(up)
        call = asyncio.create_task(asking.embed(["a"], dimensions=32))
        await asyncio.sleep(0)
        await asking.close()
        assert len(await call) == 1
        assert up.closed
        with pytest.raises(errors.InputError, match="closed"):
            await asking.embed(["a"])

    run(work())


def test_two_may_close_it_at_once() -> None:
    async def main() -> None:
        up = FakeTransport()
        up.go_on.clear()
        asking = client(up)
        call = asyncio.create_task(asking.embed(["a"], dimensions=32))
        await asyncio.sleep(0.001)
        closing = [asyncio.create_task(asking.close()) for _ in range(2)]
        await asyncio.sleep(0)
        up.go_on.set()
        await asyncio.gather(call, *closing)
        assert up.closed

    run(main())


def test_another_loop_is_told_to_make_its_own() -> None:
    async def once() -> None:
        await asking.embed(["a"], dimensions=32)

    asking = client(FakeTransport())
    run(once())
    with pytest.raises(errors.InputError, match="another event loop"):
        run(once())


class Several(FakeTransport):
    """On four instances, as it says when it is asked."""

    async def instances(self) -> int:
        return 4


def test_single_queries_make_use_of_all_the_instances_that_there_are() -> None:
    async def work() -> None:
        up = Several()
        up.go_on.clear()
        async with client(up, in_flight=1, coalesce=False) as asking:
            calls = [asyncio.create_task(asking.embed([name], dimensions=32)) for name in "abcde"]
            for _ in range(100):
                await asyncio.sleep(0)
            at_once = up.under_way
            up.go_on.set()
            await asyncio.gather(*calls)
        assert at_once == 4

    run(work())


class Streaming(FakeTransport):
    """Gives the beginning of a page, and no more until it is let go."""

    left = False

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        try:
            yield b'data: {"choices": [{"text": "Bees", "finish_reason": null}]}\n'
            await self.go_on.wait()
            yield b'data: {"choices": [{"text": " hum", "finish_reason": "stop"}]}\n'
        finally:
            self.left = True


def test_a_stream_ends_when_its_time_is_up_and_is_hung_up() -> None:
    async def work() -> None:
        up = Streaming()
        up.go_on.clear()
        async with AsyncClient("ReaderLM-v2", transports=[up], timeout_s=0.01) as asking:
            coming = asking.read_stream("<p>Bees hum</p>")
            assert await anext(coming) == "Bees"
            with pytest.raises(errors.DeadlineExceededError, match="not all of it came within"):
                await anext(coming)
            assert up.left
            up.go_on.set()
            assert [piece async for piece in asking.read_stream("<p>a</p>", timeout_s=600)] == ["Bees", " hum"]

    run(work())
