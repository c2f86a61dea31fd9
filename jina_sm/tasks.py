"""The machine run on one event loop: a task a request, no thread waiting. Large bodies are decoded beside it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any

from jina_sm import calls
from jina_sm.calls import Job
from jina_sm.clock import Clock
from jina_sm.driver import Came, Ticket, broken, late, learnt, noted, tell
from jina_sm.errors import InputError
from jina_sm.exchange import Call, Count, Event, Exchange, Send, Wake
from jina_sm.tokens import Lengths
from jina_sm.transport import AsyncTransport, Response

_LARGE = 128 * 1024  # bytes whose decoding would hold up an event loop by more than a millisecond


class Tasks:
    """The same on one event loop: a task a request, none waiting for a thread."""

    def __init__(
        self,
        transports: Sequence[AsyncTransport],
        exchange: Exchange[Ticket],
        *,
        clock: Clock,
        lengths: Lengths,
        on_event: Callable[[Event], object] | None,
    ) -> None:
        self._transports = tuple(transports)
        self._exchange = exchange
        self._clock = clock
        self._lengths = lengths
        self._on_event = on_event
        self._sending: dict[Send[Ticket], asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False
        self._closed = False
        self._finished = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def home(self) -> AsyncTransport:
        """The first target."""
        return self._transports[0]

    async def run(
        self, job: Job[Any], *, timeout_s: float | None, collect: bool, keep: list[Response] | None = None
    ) -> Call[Ticket]:
        """Hands a call to the machine and waits until it is over. Cancelled, it sends nothing more."""
        if self._closed:
            raise InputError("the client is closed")
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise InputError("the client is used on another event loop", cure="Make one on each, in `async with`.")
        over: asyncio.Future[None] = self._loop.create_future()
        now = self._clock.now()
        deadline = None if timeout_s is None else now + timeout_s
        call = self._exchange.add(Ticket(job, over, keep), job.work, now, deadline=deadline, collect=collect)
        self._step_soon()
        try:
            await over
        except asyncio.CancelledError:
            self._exchange.abandon(call, self._clock.now())
            self._drain()
            self._step_soon()
            raise
        return call

    async def in_time(self, parts: AsyncGenerator[bytes, None], timeout_s: float | None) -> AsyncGenerator[bytes, None]:
        """The parts of a stream as they come. Raises DeadlineExceededError if one has to be waited for after that."""
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        async with contextlib.aclosing(parts):
            while True:
                try:
                    async with asyncio.timeout_at(deadline) as limit:
                        part = await anext(parts)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if timeout_s is None or not limit.expired():
                        raise
                    raise late(timeout_s, self.home) from None
                yield part

    async def close(self) -> None:
        """Calls under way are finished first."""
        self._closed = True
        if self._exchange.calls:
            await self._finished.wait()
        under_way = [*self._sending.values(), *self._others]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        if self._timer:
            self._timer.cancel()
        for transport in self._transports:
            await transport.close()

    def _step_soon(self) -> None:
        """Once for all that happens in this turn of the loop, so that those who ask together travel together."""
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        self._soon = False
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while isinstance(step := self._exchange.next(self._clock.now()), Send | Count):
            if isinstance(step, Count):
                self._start(self._count(step.target), self._others)
            else:
                self._sending[step] = asyncio.get_running_loop().create_task(self._send(step))
        if isinstance(step, Wake):
            delay = max(0.0, step.at - self._clock.now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._step)
        self._drain()

    def _drain(self) -> None:
        for call in self._exchange.ended():
            if not call.job.over.done():
                call.job.over.set_result(None)
        for send, task in self._sending.items():
            if all(piece.settled or piece.call.over for piece in send.pieces):
                task.cancel()  # nobody waits for it any more
        if self._closed and not self._exchange.calls:
            self._finished.set()
        tell(self._on_event, self._exchange.events())

    async def _send(self, send: Send[Ticket]) -> None:
        transport = self._transports[send.target]
        try:
            letter = await _aside(send.tokens > _LARGE // 8, calls.write, send, transport.wire)
            response = await transport.send(letter.request)
            large = len(response.body) > _LARGE
            reply = await _aside(large, calls.read, send, transport.wire, letter, response.body)
            came = Came(reply, response)
            noted(send, came)
            self._exchange.answered(send, reply.rows, reply.tokens, self._clock.now(), response.request_id)
            learnt(self._lengths, send, reply.tokens)
        except asyncio.CancelledError:
            self._exchange.dropped(send)
            raise
        except Exception as error:
            self._exchange.failed(send, broken(error, transport), self._clock.now())
        finally:
            del self._sending[send]
            self._drain()
            self._step_soon()

    async def _count(self, target: int) -> None:
        if instances := await self._transports[target].instances():
            self._exchange.resize(target, instances)
            self._step_soon()

    @staticmethod
    def _start(work: Coroutine[Any, Any, None], kept: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        kept.add(task)
        task.add_done_callback(kept.discard)


async def _aside(aside: bool, act: Callable[..., Any], *given: Any) -> Any:
    return await asyncio.to_thread(act, *given) if aside else act(*given)
