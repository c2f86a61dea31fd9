"""
The model's thread, and who waits for it.

The batcher decides, one thread runs what it says, and whoever asked on an event loop is told there. A thread that dies
is noticed and begun anew, with the batch that it died of halved; one that is stuck, or whose model fails on everything,
is said to be no longer alive, so that the orchestrator begins the whole process anew.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from jina_sm.serve.batcher import Batch, Batcher, Ticket

DEATHS = 5
"""So many deaths of the thread within ``WITHIN_S`` and it is not begun again."""
WITHIN_S = 600.0
SUSPICIOUS = 8
"""Failed batches in a row after which the model is asked something that it must be able to answer."""
TURN_S = 0.25
"""How often the thread is looked after."""
_log = logging.getLogger(__name__)


class DeadError(Exception):
    """The model's thread ended in the middle of a batch."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the thread does. ``run`` gives a row a payload, ``probe`` raises if the model is broken, ``release`` gives
    memory back, ``is_memory`` knows the errors that say there was none.
    """

    run: Callable[[Hashable, Sequence[Any]], Sequence[Any]]
    probe: Callable[[], object]
    release: Callable[[], object]
    is_memory: Callable[[BaseException], bool]


@dataclass(frozen=True)
class Answered:
    """A row a payload, in their order; how long they waited for their first batch, and from then until the last row."""

    rows: list[Any]
    queue_s: float
    work_s: float


class Engine:
    """One model thread behind one batcher. ``submit`` is called on event loops, all else from anywhere."""

    def __init__(
        self,
        batcher: Batcher,
        work: Work,
        *,
        stuck_after_s: float = 300.0,
        now: Callable[[], float] = time.monotonic,
        on_batch: Callable[[Batch, float, str], object] = lambda batch, seconds, outcome: None,
    ) -> None:
        self.batcher = batcher
        self.deaths = 0
        self._work = work
        self._stuck_after_s = stuck_after_s
        self._now = now
        self._on_batch = on_batch
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._died: list[float] = []
        self._failures = 0
        self._broken = False
        self._ever = False

    def start(self) -> None:
        """Begins the thread."""
        self._ever = True
        self._thread = threading.Thread(target=self._run, name="jina_sm model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False: this process is to be replaced, or is about to mend itself."""
        if not self._ever:
            return True
        running = self.batcher.running
        stuck = running is not None and self._now() - running.began > self._stuck_after_s
        return self._thread is not None and self._thread.is_alive() and not stuck and not self._broken

    async def submit(
        self,
        group: Hashable,
        payloads: Sequence[Any],
        tokens: Sequence[int],
        *,
        caller: str = "",
        timeout_s: float | None = None,
    ) -> Answered:
        """A row a payload. Cancelled, it costs no more work.

        Raises FullError, TooLargeError, ClosedError, ExpiredError, ItemError.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        with self._condition:
            now = self._now()
            deadline = None if timeout_s is None else now + timeout_s
            ticket = self.batcher.submit(
                now, payloads, tokens, group=group, caller=caller, deadline=deadline, tag=(loop, future)
            )
            self._condition.notify()
        try:
            rows = await future
        except asyncio.CancelledError:
            with self._condition:
                self.batcher.cancel(ticket)
            raise
        began = ticket.arrived if ticket.began is None else ticket.began  # None, as ended: it asked for nothing
        ended = began if ticket.ended is None else ticket.ended
        return Answered(rows, began - ticket.arrived, ended - began)

    def look_after(self) -> None:
        """Says what expired, and begins a dead thread anew. Called every ``TURN_S`` seconds or so."""
        with self._condition:
            self.batcher.expire(self._now())
            if self._ever and not self._stopping and self._thread is not None and not self._thread.is_alive():
                self._mend()
            self._tell()

    def close(self) -> None:
        """Takes nothing more; what was accepted is still answered."""
        with self._condition:
            self.batcher.close()
            self._condition.notify()

    @property
    def idle(self) -> bool:
        with self._condition:
            return self.batcher.idle

    def stop(self, error: Exception, wait_s: float = 5.0) -> None:
        """Ends the thread after the batch that runs. What is not answered by now gets the error."""
        with self._condition:
            self.batcher.abandon(error)
            self._stopping = True
            self._condition.notify()
            self._tell()
        if self._thread is not None:
            self._thread.join(wait_s)

    def _mend(self) -> None:
        now = self._now()
        self.deaths += 1
        self._died = [*(at for at in self._died if now - at < WITHIN_S), now]
        if (batch := self.batcher.running) is not None:
            self.batcher.failed(batch, DeadError("the model's thread ended in the middle of a batch"), now)
        if len(self._died) > DEATHS:
            if not self._broken:
                _log.error("the model's thread died %d times in %.0f s and is not begun again", DEATHS + 1, WITHIN_S)
            self._broken = True
            self.batcher.abandon(DeadError("the model's thread keeps dying"))
            return
        _log.error("the model's thread died; it is begun anew")
        self.start()

    def _run(self) -> None:
        while True:
            with self._condition:
                batch = self._next()
            if batch is None:
                return
            began = self._now()
            try:
                rows = self._work.run(batch.group, batch.payloads)
            except Exception as error:
                self._failed(batch, error, began)
                del error
                continue
            self._failures = 0
            with self._condition:
                now = self._now()
                self.batcher.answered(batch, rows, now)
                self._tell()
            self._on_batch(batch, now - began, "ok")
            del batch, rows  # or the last of them would be held until the next comes

    def _next(self) -> Batch | None:
        """The next batch, waited for; None: it is time to end."""
        while not self._stopping:
            step = self.batcher.next(self._now())
            self._tell()
            if isinstance(step, Batch):
                return step
            self._condition.wait(None if step is None else max(0.0, step.at - self._now()))
        return None

    def _failed(self, batch: Batch, error: Exception, began: float) -> None:
        memory = self._work.is_memory(error)
        # The message may repeat a text, and is not logged.
        _log.warning(
            "a batch of %d items (%d tokens, padded) failed: %s", len(batch), batch.padded, type(error).__name__
        )
        if memory:
            self._work.release()
        else:
            self._failures += 1
            if self._failures >= SUSPICIOUS:
                self._failures = 0
                self._probe()
        with self._condition:
            now = self._now()
            self.batcher.failed(batch, error, now, memory=memory)
            self._tell()
        self._on_batch(batch, now - began, "memory" if memory else "failed")

    def _probe(self) -> None:
        try:
            self._work.probe()
        except Exception as error:
            _log.error("the model fails on everything (%s)", type(error).__name__)
            self._broken = True

    def _tell(self) -> None:
        """Whoever's request is over, on their own event loops."""
        told: dict[Any, list[Ticket]] = {}
        for ticket in self.batcher.ended():
            told.setdefault(ticket.tag[0], []).append(ticket)
        for loop, tickets in told.items():
            try:
                loop.call_soon_threadsafe(_deliver, tickets)
            except RuntimeError:  # that loop is closed: nobody is there
                _log.debug("nobody waits for %d answers", len(tickets))


def _deliver(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        future: asyncio.Future[list[Any]] = ticket.tag[1]
        if future.done():
            continue
        if ticket.error is not None:
            future.set_exception(ticket.error)
        else:
            rows, ticket.rows = ticket.rows, []  # the ticket may outlive its answer in a heap of deadlines
            future.set_result(rows)
