"""
The life of a call, with no I/O.

Calls put items in; the machine says what to send where and when, and is told what came of it. Packing is done
before; here are the limit of requests in flight, trying again, splitting what was too large or too slow, and moving
to the next region. It sees no socket, no clock and no thread, so all of it can be tested without one: whoever drives
it holds a lock around each method and tells it the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from jina_sm import retry
from jina_sm.errors import EndpointNotFoundError, JinaSMError
from jina_sm.values import Rows

_Job = TypeVar("_Job")


@dataclass(eq=False)
class Piece:
    """Items of one call that travel together, and what has happened to them so far."""

    items: tuple[int, ...]
    attempts: int = 0
    failures: dict[type[JinaSMError], int] = field(default_factory=dict)
    missing_at: set[int] = field(default_factory=set)
    not_before: float = 0.0


@dataclass(eq=False)
class Call(Generic[_Job]):
    """One caller's request. ``job`` is the caller's own; the machine only hands it back."""

    job: _Job
    began: float
    waiting: deque[Piece]
    under_way: int = 0
    answers: list[tuple[tuple[int, ...], Rows]] = field(default_factory=list)
    requests: int = 0
    error: JinaSMError | None = None

    @property
    def over(self) -> bool:
        """Nothing of it waits and nothing is under way."""
        return not self.waiting and not self.under_way


@dataclass(frozen=True, eq=False)
class Send(Generic[_Job]):
    """Do send these items of the call's job to that target."""

    call: Call[_Job]
    piece: Piece
    target: int


@dataclass(frozen=True)
class Wake:
    """There is nothing to send before this time."""

    at: float


class Exchange(Generic[_Job]):
    """The requests of all calls of one client to its targets, the first of which is home."""

    def __init__(self, targets: int, *, policy: retry.Policy, in_flight: int, random: Callable[[], float]) -> None:
        self._policy = policy
        self._limit = in_flight
        self._random = random
        self._calls: list[Call[_Job]] = []
        self._in_flight = [0] * targets
        self._resting_until = [0.0] * targets

    @property
    def idle(self) -> bool:
        """No call waits or is under way."""
        return not self._calls

    def add(self, job: _Job, batches: Sequence[Sequence[int]], now: float) -> Call[_Job]:
        """A new call: its items, already packed."""
        call = Call(job, now, deque(Piece(tuple(batch)) for batch in batches))
        self._calls.append(call)
        return call

    def next(self, now: float) -> Send[_Job] | Wake | None:
        """What to do now. None: wait for an answer. A Send given is under way until it is answered or failed."""
        if min(self._in_flight) >= self._limit:
            return None  # an answer comes first, whatever else is due
        wake: float | None = None
        for call in self._calls:
            for piece in call.waiting:
                if piece.not_before > now:
                    wake = piece.not_before if wake is None else min(wake, piece.not_before)
                    continue
                target = self._target(piece, now)
                if self._in_flight[target] >= self._limit:
                    continue
                call.waiting.remove(piece)
                call.under_way += 1
                call.requests += 1
                piece.attempts += 1
                self._in_flight[target] += 1
                # The oldest call goes last next time, so that a large one does not keep a small one waiting.
                self._calls.append(self._calls.pop(self._calls.index(call)))
                return Send(call, piece, target)
        return None if wake is None else Wake(wake)

    def answered(self, send: Send[_Job], rows: Rows) -> None:
        """The target gave a row for each item."""
        self._landed(send)
        self._resting_until[send.target] = 0.0
        send.call.answers.append((send.piece.items, rows))
        self._forget(send.call)

    def failed(self, send: Send[_Job], error: JinaSMError, now: float) -> None:
        """The target did not answer, or not usably: try again, elsewhere, in halves, or give the call up."""
        self._landed(send)
        call, piece = send.call, send.piece
        rule = retry.rule(error)
        piece.failures[type(error)] = failures = piece.failures.get(type(error), 0) + 1
        if isinstance(error, EndpointNotFoundError):
            piece.missing_at.add(send.target)
        others = rule.elsewhere and len(self._in_flight) > 1
        elapsed_s = now - call.began
        if others:
            self._resting_until[send.target] = now + self._policy.rest_s
        # A call given up sends nothing more, whatever its other pieces meet.
        if call.error is None:
            if rule.split and len(piece.items) > 1 and elapsed_s < self._policy.seconds:
                half = len(piece.items) // 2
                call.waiting.extend(Piece(items) for items in (piece.items[:half], piece.items[half:]))
            elif self._may_repeat(piece, failures, rule, others, elapsed_s):
                turn_to = self._target(piece, now)
                fresh = others and turn_to != send.target and self._resting_until[turn_to] <= now
                pause = 0.0 if fresh else retry.wait_s(self._policy, error, failures, self._random())
                piece.not_before = now + pause
                call.waiting.append(piece)
            else:
                error.attempts = piece.attempts
                call.error = error
                call.waiting.clear()
        self._forget(call)

    def abandon(self, call: Call[_Job]) -> None:
        """The caller has gone: send nothing more of it."""
        call.waiting.clear()
        self._forget(call)

    def _may_repeat(self, piece: Piece, failures: int, rule: retry.Rule, others: bool, elapsed_s: float) -> bool:
        if piece.attempts >= self._policy.attempts or elapsed_s >= self._policy.seconds:
            return False
        if len(piece.missing_at) == len(self._in_flight):
            return False
        return failures <= rule.repeats or (others and failures < len(self._in_flight))

    def _target(self, piece: Piece, now: float) -> int:
        """The first target that is neither resting nor known to lack the endpoint; else what rests least."""
        here = [target for target in range(len(self._in_flight)) if target not in piece.missing_at]
        for target in here:
            if self._resting_until[target] <= now:
                return target
        return min(here, key=lambda target: self._resting_until[target])

    def _landed(self, send: Send[_Job]) -> None:
        send.call.under_way -= 1
        self._in_flight[send.target] -= 1

    def _forget(self, call: Call[_Job]) -> None:
        if call.over and call in self._calls:
            self._calls.remove(call)
