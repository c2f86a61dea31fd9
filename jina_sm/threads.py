"""The machine run by threads: callers wait, a crew sends. Bytes are encoded and decoded outside the machine's lock."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from jina_sm import calls
from jina_sm.calls import Job
from jina_sm.clock import Clock
from jina_sm.driver import Came, Ticket, broken, late, learnt, noted, tell
from jina_sm.errors import InputError, JinaSMError
from jina_sm.exchange import Call, Count, Event, Exchange, Send, Wake
from jina_sm.tokens import Lengths
from jina_sm.transport import Response, Transport

_log = logging.getLogger(__name__)
_LONGEST_WAIT_S = 3600.0  # threading refuses to wait for centuries
_IDLE_S = 10.0  # after which a thread that nobody needs ends


class _Crew:
    """Threads that are made when there is work and end when there is none.

    They are daemons, which concurrent.futures' are not: a request that hangs does not keep a program from ending.
    """

    def __init__(self) -> None:
        self._acts: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0  # less the acts that wait for a thread, where no more can be made

    def submit(self, act: Callable[[], None]) -> None:
        """Raises RuntimeError if there is no thread, and none can be made."""
        with self._lock:
            if self._idle <= 0:
                try:
                    threading.Thread(target=self._serve, name="jina_sm", daemon=True).start()
                    self._threads += 1
                    self._idle += 1
                except RuntimeError:
                    if not self._threads:
                        raise
            self._idle -= 1
            self._acts.put(act)

    def _serve(self) -> None:
        while True:
            try:
                act = self._acts.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._idle > 0:  # else somebody has just counted on this thread
                        self._idle -= 1
                        self._threads -= 1
                        return
                continue
            try:
                act()
            except BaseException:  # others count on this thread
                _log.exception("unexpected")
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
        on_event: Callable[[Event], object] | None,
    ) -> None:
        self._transports = tuple(transports)
        self._exchange = exchange
        self._clock = clock
        self._lengths = lengths
        self._on_event = on_event
        self._changed = threading.Condition()
        self._crew = _Crew()
        self._due: float | None = None
        self._timing = False
        self._closed = False
        self._process: int | None = None

    @property
    def home(self) -> Transport:
        """The first target."""
        return self._transports[0]

    def run(
        self, job: Job[Any], *, timeout_s: float | None, collect: bool, keep: list[Response] | None = None
    ) -> Call[Ticket]:
        """Hands a call to the machine and waits until it is over."""
        if self._forked:
            raise InputError("the client was used before this process was forked", cure="Make one in each process.")
        ticket = Ticket(job, threading.Event(), keep)
        with self._changed:
            self._process = os.getpid()
            if self._closed:
                raise InputError("the client is closed")
            now = self._clock.now()
            deadline = None if timeout_s is None else now + timeout_s
            call = self._exchange.add(ticket, job.work, now, deadline=deadline, collect=collect)
        try:
            self._crew.submit(self._work)
            ticket.over.wait()
        except BaseException:
            with self._changed:
                self._exchange.abandon(call, self._clock.now())
                happened = self._drained()
                self._changed.notify_all()
            self._tell(*happened)
            raise
        return call

    def in_time(self, parts: Generator[bytes, None, None], timeout_s: float | None) -> Generator[bytes, None, None]:
        """The parts of a stream as they come. Raises DeadlineExceededError if one has to be waited for after that.

        A read cannot be broken off, so another thread reads; once nobody waits for it any more, it ends after the next.
        """
        if timeout_s is None:
            yield from parts
            return
        came: deque[bytes | BaseException | None] = deque()  # None: that was all
        changed = threading.Condition()
        left = False

        def say(what: bytes | BaseException | None) -> None:
            with changed:
                came.append(what)
                changed.notify()

        def read() -> None:
            try:
                with contextlib.closing(parts):
                    for part in parts:
                        if left:
                            return
                        say(part)
                say(None)
            except BaseException as error:
                say(error)

        deadline = self._clock.now() + timeout_s
        self._crew.submit(read)
        try:
            while True:
                with changed:
                    while not came:
                        if (rest_s := deadline - self._clock.now()) <= 0:
                            raise late(timeout_s, self.home)
                        self._clock.wait(changed, min(rest_s, _LONGEST_WAIT_S))
                    part = came.popleft()
                if part is None:
                    return
                if isinstance(part, BaseException):
                    raise part
                yield part
        finally:
            left = True

    def close(self) -> None:
        """Calls under way are finished first; a request that nobody waits for any more is not waited for."""
        if self._forked:
            return  # the calls and the connections are the other process's
        with self._changed:
            self._closed = True
            while self._exchange.calls:
                self._changed.wait()
        for transport in self._transports:
            transport.close()

    @property
    def _forked(self) -> bool:
        """A fork has neither our threads nor connections of its own: two would read each other's answers."""
        return self._process not in (None, os.getpid())

    def _work(self) -> None:
        """Sends whatever may be sent, one after another, and calls another thread for what may go beside it."""
        while True:
            with self._changed:
                step = self._exchange.next(self._clock.now())
                if isinstance(step, Wake):
                    self._wake_at(step.at)
                elif isinstance(step, Count):
                    self._crew.submit(partial(self._count, step.target))
                elif isinstance(step, Send):
                    self._crew.submit(self._work)
                happened = self._drained()
            self._tell(*happened)
            if isinstance(step, Count):
                continue
            if not isinstance(step, Send):
                return
            came = self._came(step)
            with self._changed:
                now = self._clock.now()
                if isinstance(came, Came):
                    noted(step, came)
                    self._exchange.answered(step, came.reply.rows, came.reply.tokens, now, came.response.request_id)
                else:
                    self._exchange.failed(step, came, now)
                happened = self._drained()
                self._changed.notify_all()
            self._tell(*happened)
            if isinstance(came, Came):
                learnt(self._lengths, step, came.reply.tokens)
            del came, happened  # an error would keep this frame, and with it what was asked

    def _drained(self) -> tuple[list[Event], list[Call[Ticket]]]:
        return self._exchange.events(), self._exchange.ended()

    def _tell(self, events: list[Event], ended: list[Call[Ticket]]) -> None:
        """Whoever waits goes on when what happened has been told."""
        try:
            tell(self._on_event, events)
        finally:
            for call in ended:
                call.job.over.set()

    def _came(self, send: Send[Ticket]) -> Came | JinaSMError:
        transport = self._transports[send.target]
        try:
            letter = calls.write(send, transport.wire)
            response = transport.send(letter.request)
            return Came(calls.read(send, transport.wire, letter, response.body), response)
        except BaseException as error:
            return broken(error, transport)

    def _count(self, target: int) -> None:
        """How many instances there are: whoever has much to ask should use them all."""
        if instances := self._transports[target].instances():
            with self._changed:
                self._exchange.resize(target, instances)
            self._crew.submit(self._work)

    def _wake_at(self, at: float) -> None:
        """Sees to it that somebody works again at that time. A thread keeps time only while there is some to keep."""
        self._due = at
        if self._timing:
            self._changed.notify_all()
        else:
            self._timing = True
            self._crew.submit(self._keep_time)

    def _keep_time(self) -> None:
        with self._changed:
            while self._due is not None:
                if (left := self._due - self._clock.now()) > 0:
                    self._clock.wait(self._changed, min(left, _LONGEST_WAIT_S))
                    continue
                self._due = None
                self._crew.submit(self._work)
            self._timing = False
