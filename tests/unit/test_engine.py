"""The model's thread: whoever asks is answered, whatever the model does, and whoever else hangs up."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from jina_sm.serve.batcher import Batcher, ClosedError, ItemError, Limits
from jina_sm.serve.engine import DeadError, Engine, Work

dies = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def engine(run: Any, *, memory: int = 10**9, budget: int = 64) -> Engine:
    def work(group: Hashable, payloads: Sequence[Any]) -> Sequence[Any]:
        if len(payloads) * 10 > memory:
            raise MemoryError
        return [run(payload) for payload in payloads]

    def nothing() -> None:
        pass

    made = Engine(
        Batcher(Limits(padded_tokens=budget)),
        Work(run=work, probe=nothing, release=nothing, is_memory=lambda error: isinstance(error, MemoryError)),
    )
    made.start()
    return made


def asked(made: Engine, body: Any) -> Any:
    async def with_a_watchman() -> Any:
        async def watch() -> None:
            while True:
                made.look_after()
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        try:
            return await body()
        finally:
            watching.cancel()
            await asyncio.to_thread(made.stop, ClosedError("over"))

    return asyncio.run(with_a_watchman())


@dies
def test_two_hundred_requests_through_poison_death_memory_and_hanging_up():
    chance = random.Random(6)

    def run(payload: str) -> str:
        if "poison" in payload:
            raise ValueError
        if "deadly" in payload:
            raise SystemExit
        return payload.upper()

    made = engine(run, memory=120, budget=160)
    requests = []
    for number in range(200):
        payloads = [f"{number}.{place}" for place in range(chance.randint(1, 12))]
        if number % 19 == 3:
            payloads[chance.randrange(len(payloads))] += " poison"
        requests.append(payloads)
    requests[50].append("deadly")  # one: more than a few deaths and the engine gives up

    async def body() -> list[Any]:
        tasks = [
            asyncio.ensure_future(made.submit("g", each, [10] * len(each), caller=str(n % 7)))
            for n, each in enumerate(requests)
        ]
        await asyncio.sleep(0)
        for number in range(0, 200, 13):
            tasks[number].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asked(made, body)
    for number, (payloads, answer) in enumerate(zip(requests, answers, strict=True)):
        if number % 13 == 0:
            assert isinstance(answer, asyncio.CancelledError)
        elif any("poison" in each or each == "deadly" for each in payloads):
            assert isinstance(answer, ItemError)
            assert "poison" in payloads[answer.index] or payloads[answer.index] == "deadly"
        else:
            assert answer.rows == [each.upper() for each in payloads]
    assert made.batcher.out_of_memory > 0
    assert made.deaths >= 1


@dies
def test_an_engine_that_keeps_dying_tells_those_who_wait():
    def run(payload: str) -> str:
        raise SystemExit

    made = engine(run)

    async def body() -> list[Any]:
        return await asyncio.gather(*(made.submit("g", [n], [10]) for n in range(30)), return_exceptions=True)

    assert all(isinstance(each, ItemError | DeadError) for each in asked(made, body))
    assert not made.alive


def test_stopping_tells_those_who_wait_and_takes_no_more():
    go, begun = threading.Event(), threading.Event()

    def run(payload: int) -> int:
        begun.set()
        assert go.wait(60)
        return payload

    made = engine(run, budget=16)

    async def body() -> list[Any]:
        tasks = [asyncio.ensure_future(made.submit("g", [n], [10])) for n in range(3)]
        await asyncio.to_thread(begun.wait, 60)
        stopping = asyncio.ensure_future(asyncio.to_thread(made.stop, ClosedError("down")))
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        go.set()
        await stopping
        with pytest.raises(ClosedError):
            await made.submit("g", [1], [10])
        return answers

    assert all(isinstance(each, ClosedError) for each in asked(made, body))


def test_a_loop_that_is_gone_harms_nobody():
    go, begun = threading.Event(), threading.Event()

    def run(payload: Any) -> Any:
        begun.set()
        assert go.wait(60)
        return payload

    made = engine(run, budget=16)

    async def ask_and_leave() -> None:
        asyncio.ensure_future(made.submit("g", ["gone"], [10]))  # noqa: RUF006
        await asyncio.to_thread(begun.wait, 60)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask_and_leave())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # left behind on purpose
    loop.close()
    go.set()

    async def body() -> Any:
        return await made.submit("g", ["still here"], [10])

    assert asked(made, body).rows == ["still here"]
