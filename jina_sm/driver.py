"""
The two ways to run the machine: threads, and one event loop.

Each asks ``exchange`` what to do, does it, and says what came of it. What is to be done is decided there, what a
request says in ``calls``; here is only waiting. Bytes are encoded and decoded outside the machine's lock, and large
ones outside the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jina_sm import calls
from jina_sm.calls import Job
from jina_sm.clock import Clock
from jina_sm.errors import InputError, JinaSMError, ProtocolError
from jina_sm.exchange import Call, Event, Exchange, Send, Wake
from jina_sm.tokens import Lengths
from jina_sm.transport import AsyncTransport, Response, Transport

_log = logging.getLogger(__name__)
_IDLE_S = 10.0  # after which a thread that nobody needs ends
_LARGE = 128 * 1024  # bytes whose decoding would hold up an event loop by more than a millisecond


@dataclass(eq=False)
class Ticket:
    """A job under way: who waits for it, and what is kept beside its result."""

    job: Job[Any]
    over: Any  # threading.Event or asyncio.Future
    keep: list[Response] | None = None
    decode_s: float = 0.0


@dataclass(frozen=True, eq=False)
class _Came:
    reply: calls.Reply
    response: Response


class _Target(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def region(self) -> str | None: ...


def _tell(told: Callable[[Event], object] | None, events: Sequence[Event]) -> None:
    """To the log, and to whoever asked."""
    for event in events:
        _log.debug("%s", event)
        if told is not None:
            try:
                told(event)
            except Exception:
                _log.exception("on_event failed at %s", event.kind)


def _learnt(lengths: Lengths, send: Send[Ticket], tokens: int) -> None:
    """The endpoint counted exactly what was only estimated."""
    items = [piece.call.job.job.items[item] for piece in send.pieces for item in piece.items]
    if all(isinstance(item, str) for item in items) and send.pieces[0].call.job.job.named == "texts":
        lengths.learn(items, tokens)


def _broken(error: BaseException, target: _Target) -> JinaSMError:
    """Whatever a transport or a decoder raised, as ours: whoever waits must hear of it rather than wait for ever."""
    if isinstance(error, JinaSMError):
        if isinstance(error, ProtocolError):
            error.target, error.region = target.name, target.region
        return error
    broken = JinaSMError(f"unexpected {type(error).__name__}: {error}")
    broken.__cause__ = error
    return broken


class _Crew:
    """Threads that are made when there is work and end when there is none.

    They are daemons, which concurrent.futures' are not: a request that hangs does not keep a program from ending.
    """

    def __init__(self) -> None:
        self._acts: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def submit(self, act: Callable[[], None]) -> None:
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                threading.Thread(target=self._serve, name="jina_sm", daemon=True).start()
            self._acts.put(act)

    def _serve(self) -> None:
        while True:
            try:
                act = self._acts.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._idle:  # else somebody has just counted on this thread
                        self._idle -= 1
                        return
                continue
            act()
            del act
            with self._lock:
                self._idle += 1


class Threads:
    """Callers wait; threads of a pool send, so an interrupt in one caller upsets nobody else's call."""

    def __init__(
        self,
        transports: Sequence[Transport],
        exchange: Exchange[Ticket],
        *,
        clock: Clock,
        lengths: Lengths,
        ask_instances: bool,
        on_event: Callable[[Event], object] | None,
    ) -> None:
        self._transports = tuple(transports)
        self._exchange = exchange
        self._clock = clock
        self._lengths = lengths
        self._ask_instances = ask_instances
        self._on_event = on_event
        self._changed = threading.Condition()
        self._crew = _Crew()
        self._due: float | None = None
        self._timing = False
        self._closed = False

    @property
    def home(self) -> Transport:
        """The first target."""
        return self._transports[0]

    def run(
        self, job: Job[Any], *, timeout_s: float | None, collect: bool, keep: list[Response] | None = None
    ) -> Call[Ticket]:
        """Hands a call to the machine and waits until it is over."""
        ticket = Ticket(job, threading.Event(), keep)
        with self._changed:
            if self._closed:
                raise InputError("the client is closed")
            now = self._clock.now()
            deadline = None if timeout_s is None else now + timeout_s
            call = self._exchange.add(ticket, job.work, now, deadline=deadline, collect=collect)
            if self._ask_instances and len(job.work.batches) > self._exchange.lanes[0].limit:
                self._ask_instances = False
                self._crew.submit(self._ask)
        try:
            self._crew.submit(self._work)
            ticket.over.wait()
        except BaseException:
            with self._changed:
                self._exchange.abandon(call, self._clock.now())
                self._changed.notify_all()
            raise
        return call

    def close(self) -> None:
        """Calls under way are finished first; a request that nobody waits for any more is not waited for."""
        with self._changed:
            self._closed = True
            while self._exchange.calls:
                self._changed.wait()
        for transport in self._transports:
            transport.close()

    def _work(self) -> None:
        """Sends whatever may be sent, one after another, and calls another thread for what may go beside it."""
        while True:
            with self._changed:
                step = self._exchange.next(self._clock.now())
                if isinstance(step, Wake):
                    self._wake_at(step.at)
                elif isinstance(step, Send):
                    self._crew.submit(self._work)
                events = self._drained()
            _tell(self._on_event, events)
            if not isinstance(step, Send):
                return
            came = self._came(step)
            with self._changed:
                now = self._clock.now()
                if isinstance(came, _Came):
                    _note(step, came)
                    self._exchange.answered(step, came.reply.rows, came.reply.tokens, now, came.response.request_id)
                else:
                    self._exchange.failed(step, came, now)
                events = self._drained()
                self._changed.notify_all()
            _tell(self._on_event, events)
            if isinstance(came, _Came):
                _learnt(self._lengths, step, came.reply.tokens)

    def _drained(self) -> list[Event]:
        for call in self._exchange.ended():
            call.job.over.set()
        return self._exchange.events()

    def _came(self, send: Send[Ticket]) -> _Came | JinaSMError:
        transport = self._transports[send.target]
        try:
            letter = calls.write(send, transport.wire)
            response = transport.send(letter.request)
            return _Came(calls.read(send, transport.wire, letter, response.body), response)
        except BaseException as error:
            return _broken(error, transport)

    def _ask(self) -> None:
        """How many instances there are: a long run should use them all."""
        for number, transport in enumerate(self._transports):
            if (instances := transport.instances()) and instances > 1:
                with self._changed:
                    self._exchange.resize(number, instances)
                self._crew.submit(self._work)

    def _wake_at(self, at: float) -> None:
        """Sees to it that somebody works again at that time. A thread keeps time only while there is some to keep."""
        self._due = at
        if self._timing:
            self._changed.notify_all()
        else:
            self._timing = True
            threading.Thread(target=self._keep_time, name="jina_sm timer", daemon=True).start()

    def _keep_time(self) -> None:
        with self._changed:
            while self._due is not None:
                if (left := self._due - self._clock.now()) > 0:
                    self._clock.wait(self._changed, left)
                    continue
                self._due = None
                self._crew.submit(self._work)
            self._timing = False


class Tasks:
    """The same on one event loop: a task a request, none waiting for a thread."""

    def __init__(
        self,
        transports: Sequence[AsyncTransport],
        exchange: Exchange[Ticket],
        *,
        clock: Clock,
        lengths: Lengths,
        ask_instances: bool,
        on_event: Callable[[Event], object] | None,
    ) -> None:
        self._transports = tuple(transports)
        self._exchange = exchange
        self._clock = clock
        self._lengths = lengths
        self._ask_instances = ask_instances
        self._on_event = on_event
        self._sending: dict[Send[Ticket], asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False
        self._closed = False
        self._last: asyncio.Future[None] | None = None

    async def run(
        self, job: Job[Any], *, timeout_s: float | None, collect: bool, keep: list[Response] | None = None
    ) -> Call[Ticket]:
        """Hands a call to the machine and waits until it is over. Cancelled, it sends nothing more."""
        if self._closed:
            raise InputError("the client is closed")
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        now = self._clock.now()
        deadline = None if timeout_s is None else now + timeout_s
        call = self._exchange.add(Ticket(job, over, keep), job.work, now, deadline=deadline, collect=collect)
        if self._ask_instances and len(job.work.batches) > self._exchange.lanes[0].limit:
            self._ask_instances = False
            self._start(self._ask(), self._others)
        self._step_soon()
        try:
            await over
        except asyncio.CancelledError:
            self._exchange.abandon(call, self._clock.now())
            self._drain()
            self._step_soon()
            raise
        return call

    async def close(self) -> None:
        """Calls under way are finished first."""
        self._closed = True
        if self._exchange.calls:
            self._last = asyncio.get_running_loop().create_future()
            await self._last
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
        while isinstance(step := self._exchange.next(self._clock.now()), Send):
            task = asyncio.get_running_loop().create_task(self._send(step))
            self._sending[step] = task
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
        if self._last and not self._exchange.calls and not self._last.done():
            self._last.set_result(None)
        _tell(self._on_event, self._exchange.events())

    async def _send(self, send: Send[Ticket]) -> None:
        transport = self._transports[send.target]
        try:
            letter = await _aside(send.tokens > _LARGE // 8, calls.write, send, transport.wire)
            response = await transport.send(letter.request)
            large = len(response.body) > _LARGE
            reply = await _aside(large, calls.read, send, transport.wire, letter, response.body)
            came = _Came(reply, response)
            _note(send, came)
            self._exchange.answered(send, reply.rows, reply.tokens, self._clock.now(), response.request_id)
            _learnt(self._lengths, send, reply.tokens)
        except asyncio.CancelledError:
            self._exchange.dropped(send)
            raise
        except Exception as error:
            self._exchange.failed(send, _broken(error, transport), self._clock.now())
        finally:
            del self._sending[send]
            self._drain()
            self._step_soon()

    async def _ask(self) -> None:
        for number, transport in enumerate(self._transports):
            if (instances := await transport.instances()) and instances > 1:
                self._exchange.resize(number, instances)
                self._step_soon()

    @staticmethod
    def _start(work: Coroutine[Any, Any, None], kept: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        kept.add(task)
        task.add_done_callback(kept.discard)


async def _aside(aside: bool, act: Callable[..., Any], *given: Any) -> Any:
    return await asyncio.to_thread(act, *given) if aside else act(*given)


def _note(send: Send[Ticket], came: _Came) -> None:
    for ticket in {id(piece.call): piece.call.job for piece in send.pieces}.values():
        ticket.decode_s += came.reply.decode_s
        if ticket.keep is not None:
            ticket.keep.append(came.response)
