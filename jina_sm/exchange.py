"""
The life of a call, with no I/O.

Calls put items in; the machine says what to send where and when, and is told what came of it. Here are decided: who
shares a request, how many are in flight, trying again, halving what was too large, too slow or spoilt by one item,
moving to the next region, and sending a straggler twice. It sees no socket, no clock and no thread, so all of it can
be tested without one: whoever drives it holds a lock around each method and tells it the time.

    call = exchange.add(...)
    while not call.over:
        match exchange.next(now):
            case Send() as send: ...      # send it; then answered(send, ...) or failed(send, ...)
            case Count(target): ...       # ask, beside all else, how many instances it has; then resize(target, ...)
            case Wake(at): ...            # ask again then, or when an answer has come
            case None: ...                # ask again when an answer has come
"""

from __future__ import annotations

import copy
import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, TypeVar

from jina_sm import packing, retry
from jina_sm.errors import DeadlineExceededError, EndpointNotFoundError, JinaSMError, ThrottledError
from jina_sm.lane import Lane
from jina_sm.packing import Limits, Size, Sizes

_Job = TypeVar("_Job")
_WORTH_TOKENS, _WORTH_ITEMS = 4096, 64  # what is worth a request of its own, if that keeps the endpoint busier
_ROUNDS = 2
_SEEN_BEFORE_HEDGING = 5
_SOONEST_HEDGE_S = 0.1
_LEFT_OUT = 64  # who do not fit into a request before it is sent as it is: with thousands waiting, looking takes long
_HOPELESS = 64  # requests refused, and none answered: it is not the items. Refusals come sooner than answers.


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What the machine must know of a call's items.

    ``key``: calls of equal keys may share a request; None: with nobody. ``whole``: its batches may not be divided.
    """

    sizes: Sizes
    overhead: Size
    batches: Sequence[tuple[int, ...]]
    key: Hashable = None
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """What came for some items of a call: ``rows`` from ``start`` on, and their share of the tokens."""

    items: tuple[int, ...]
    rows: Any
    start: int
    tokens: int


@dataclass(eq=False)
class Call(Generic[_Job]):
    """One caller's request. ``job`` is the caller's own; the machine only hands it back. Times as told."""

    job: _Job
    work: Work
    began: float
    collect: bool = False
    waiting: deque[Piece[_Job]] = field(default_factory=deque)
    missing: int = 0
    answers: list[Answer] = field(default_factory=list)
    failures: dict[int, JinaSMError] = field(default_factory=dict)
    error: JinaSMError | None = None
    over: bool = False
    first_sent: float | None = None
    ended: float | None = None
    requests: int = 0
    retries: int = 0
    splits: int = 0
    hedges: int = 0
    timer: _Timer | None = None


@dataclass(eq=False)
class Piece(Generic[_Job]):
    """Items of one call that travel together, and what has happened to them so far.

    ``group``: pieces under suspicion together carry a number of their own until it is known which is to blame.
    """

    call: Call[_Job]
    items: tuple[int, ...]
    size: Size
    group: int = 0
    attempts: int = 0
    failures: dict[type[JinaSMError], int] = field(default_factory=dict)
    missing_at: set[int] = field(default_factory=set)
    first_sent: float | None = None
    under_way: int = 0
    settled: bool = False


@dataclass(frozen=True, eq=False)
class Send(Generic[_Job]):
    """Do send these pieces, of calls that share a key, to that target, in one request."""

    pieces: tuple[Piece[_Job], ...]
    target: int
    began: float
    hedge: bool = False

    @property
    def items(self) -> int:
        return sum(len(piece.items) for piece in self.pieces)

    @property
    def tokens(self) -> int:
        return sum(piece.size.tokens for piece in self.pieces)


@dataclass(frozen=True)
class Count:
    """Do ask how many instances answer at that target: it is full, and something waits. Nothing waits for the answer.

    ``resize`` takes it.
    """

    target: int


@dataclass(frozen=True)
class Wake:
    """There is nothing to do before this time, unless an answer comes."""

    at: float


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened, for whoever watches.

    ``kind``: request, answer, retry, split, hedge, failover, failure. ``seconds``: for an answer or a failure, how
    long the request took; for a retry, how long until it.
    """

    kind: str
    target: str
    region: str | None = None
    items: int = 0
    calls: int = 1
    attempt: int = 1
    seconds: float = 0.0
    request_id: str | None = None
    error: JinaSMError | None = None


@dataclass(eq=False)
class _Timer:
    act: Callable[[float], None] | None


class Exchange(Generic[_Job]):
    """The requests of all calls of one client to its targets (name, region), the first of which is home.

    ``counting``: it asks how many instances there are.
    """

    def __init__(
        self,
        targets: Sequence[tuple[str, str | None]],
        *,
        policy: retry.Policy,
        limits: Limits,
        in_flight: int,
        random: Callable[[], float],
        counting: bool = False,
    ) -> None:
        self.lanes = tuple(Lane(name, region, in_flight) for name, region in targets)
        self._policy = policy
        self._limits = limits
        self._random = random
        self._counting = counting
        self._ready: dict[Call[_Job], None] = {}  # in the order in which their turn comes
        self._by_key: dict[Hashable, dict[Call[_Job], None]] = {}  # those of them that may share a request
        self._sends: dict[Send[_Job], None] = {}
        self._calls = 0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._many_timers = 64
        self._number = count(1)
        self._budget = float(policy.budget)
        self._took: dict[int, deque[float]] = {}  # seconds of recent answers, by the power of two of their tokens
        self._ended: list[Call[_Job]] = []
        self._events: list[Event] = []

    @property
    def calls(self) -> int:
        """How many are open."""
        return self._calls

    def add(
        self, job: _Job, work: Work, now: float, *, deadline: float | None = None, collect: bool = False
    ) -> Call[_Job]:
        """A new call. ``collect``: an item that fails is set down in ``failures`` and does not end it."""
        call = Call(job, work, now, collect)
        call.missing = sum(len(batch) for batch in work.batches)
        call.waiting.extend(self._piece(call, batch) for batch in self._spread(work))
        self._calls += 1
        if deadline is not None:
            call.timer = self._at(deadline, lambda now: self._late(call, now))
        self._queue(call)
        return call

    def next(self, now: float) -> Send[_Job] | Count | Wake | None:
        """What to do now. None: wait for an answer. A Send given is under way until it is answered or failed."""
        while self._timers and (self._timers[0][0] <= now or self._timers[0][2].act is None):
            act = heapq.heappop(self._timers)[2].act
            if act is not None:
                act(now)
        lane = self._lane(now)
        if self._ready and self.lanes[lane].room(now):
            return self._sent(self._gathered(), lane, now)
        if self._ready and self._counting and self.lanes[lane].count(now):
            return Count(lane)
        wakes = [self._timers[0][0]] if self._timers else []
        if self._ready:
            wakes += [at for each in self.lanes for at in (each.held_until, each.resting_until) if at > now]
        elif straggler := self._straggler():
            send, at = straggler
            other = self._lane(now, beside=send.target)
            if at <= now and self._budget >= 1:
                if self.lanes[other].room(now):
                    self._budget -= 1
                    return self._sent(send.pieces, other, now, hedge=True)
            elif at > now:
                wakes.append(at)
        return Wake(min(wakes)) if wakes else None

    def answered(self, send: Send[_Job], rows: Any, tokens: int, now: float, request_id: str | None = None) -> None:
        """The target gave a row for each item, and counted so many tokens."""
        lane = self._landed(send)
        lane.answered(now - send.began)
        self._budget = min(self._budget + 0.2, float(self._policy.budget))
        self._took.setdefault(send.tokens.bit_length(), deque(maxlen=32)).append(now - send.began)
        self._tell("answer", send, seconds=now - send.began, request_id=request_id)
        whole, counted, start, given = max(send.tokens, 1), 0, 0, 0
        for piece in send.pieces:
            # A shared request's tokens are told apart by the estimates, so that the shares add up to the count.
            counted += piece.size.tokens
            share = round(tokens * counted / whole) if piece is not send.pieces[-1] else tokens
            call = piece.call
            if not piece.settled and not call.over:
                piece.settled = True
                call.answers.append(Answer(piece.items, rows, start, share - given))
                self._less(call, len(piece.items), now)
            given = share
            start += len(piece.items)

    def failed(self, send: Send[_Job], error: JinaSMError, now: float) -> None:
        """The target did not answer, or not usably: try again, elsewhere, in halves, or give up."""
        lane = self._landed(send)
        rule = retry.rule(error)
        others = rule.elsewhere and len(self.lanes) > 1
        self._tell("failure", send, seconds=now - send.began, error=error)
        lane.failed += rule.elsewhere and not rule.split
        if isinstance(error, ThrottledError):
            lane.throttled(send.began, now)
        if others:
            rest_s = (error.retry_after_s or rule.base_s) if isinstance(error, ThrottledError) else self._policy.rest_s
            lane.rest(rest_s, 10 * self._policy.rest_s, now)
            if (turn_to := self._lane(now)) != send.target:
                self._tell("failover", send, error=error, target=turn_to)
        elif not rule.elsewhere:
            lane.rests, lane.scout, lane.failed = 0, False, 0  # it answers, whatever it says
        for piece in send.pieces:
            piece.failures[type(error)] = piece.failures.get(type(error), 0) + 1
            if isinstance(error, EndpointNotFoundError):
                piece.missing_at.add(send.target)
        # Another copy of it may be under way, and may yet be answered.
        open_ones = [each for each in send.pieces if not each.settled and not each.call.over and not each.under_way]
        if not open_ones:
            return
        if rule.split and self._divided(open_ones, send, error):
            return
        again = [piece for piece in open_ones if self._repeatable(piece, error, rule, others, now)]
        if rule.isolate and len(again) < len(open_ones):
            again = []  # one of them may be to blame for the others: they are told apart first
        if again and not self._repeated(again, send, error, others, now):
            again = []
        rest = [piece for piece in open_ones if piece not in again]
        if rest and rule.isolate and self._divided(rest, send, error):
            return
        for piece in rest:
            self._give_up(piece, error, rule, now)

    def abandon(self, call: Call[_Job], now: float) -> None:
        """The caller has gone: send nothing more of it."""
        self._end(call, now)

    def dropped(self, send: Send[_Job]) -> None:
        """It was broken off, as a rule since nobody waits for it any more."""
        self._landed(send).scout = False
        for piece in send.pieces:
            if not piece.settled and not piece.under_way:
                self._wait(piece)

    def resize(self, target: int, instances: int) -> None:
        """So many instances answer at a target."""
        self.lanes[target].resize(instances)

    def ended(self) -> list[Call[_Job]]:
        """The calls that have ended since this was last asked."""
        ended, self._ended = self._ended, []
        return ended

    def events(self) -> list[Event]:
        """What has happened since this was last asked."""
        events, self._events = self._events, []
        return events

    # What to send

    def _spread(self, work: Work) -> Iterator[tuple[int, ...]]:
        """The call's batches; smaller, if they are too few for two rounds of what may be in flight."""
        enough = _ROUNDS * self.lanes[0].limit
        for batch in work.batches:
            count = 1
            if not work.whole and len(work.batches) < enough:
                worth = max(work.sizes.of(batch).tokens // _WORTH_TOKENS, len(batch) // _WORTH_ITEMS)
                count = max(1, min(-(-enough // len(work.batches)), worth))
            yield from packing.parts(batch, work.sizes, count) if count > 1 else (batch,)

    def _gathered(self) -> tuple[Piece[_Job], ...]:
        """The next piece, with others that may share its request."""
        call = next(iter(self._ready))
        piece = call.waiting.popleft()
        self._requeue(call)
        if call.work.key is None or call.waiting:
            return (piece,)
        together, total, items = [piece], call.work.overhead + piece.size, len(piece.items)
        longest, left_out = piece.size.tokens, 0
        for other in self._by_key.get(call.work.key, ()):
            if other is call or len(other.waiting) != 1 or other.waiting[0].group != piece.group:
                continue
            theirs = other.waiting[0]
            sum_, number = total + theirs.size, items + len(theirs.items)
            # A server may pad all to the longest, and whoever is short should not pay for that.
            padded = max(longest, theirs.size.tokens) * (len(together) + 1)
            if not self._limits.hold(sum_, number) or padded > self._limits.tokens:
                left_out += 1
                if left_out == _LEFT_OUT:
                    break
                continue
            together.append(theirs)
            total, items, longest = sum_, number, max(longest, theirs.size.tokens)
            if items >= self._limits.items:
                break
        for each in together[1:]:
            each.call.waiting.popleft()
            self._requeue(each.call)
        return tuple(together)

    def _sent(self, pieces: tuple[Piece[_Job], ...], target: int, now: float, *, hedge: bool = False) -> Send[_Job]:
        send = Send(pieces, target, now, hedge)
        self.lanes[target].sent()
        self._sends[send] = None
        for piece in pieces:
            piece.under_way += 1
            piece.attempts += 1
            piece.first_sent = now if piece.first_sent is None else piece.first_sent
            call = piece.call
            call.first_sent = now if call.first_sent is None else call.first_sent
            call.requests += 1
            call.hedges += hedge
        self._tell("hedge" if hedge else "request", send)
        return send

    def _straggler(self) -> tuple[Send[_Job], float] | None:
        """The request under way whose time for a second one comes first, and that time."""
        after = retry.HEDGE_AFTER if self._policy.hedge_after is None else self._policy.hedge_after
        if not after or not self._took:
            return None
        due = [
            (send.began + max(after * usual, _SOONEST_HEDGE_S), number, send)
            for number, send in enumerate(self._sends)
            if all(piece.under_way == 1 for piece in send.pieces)
            and any(not piece.settled and not piece.call.over for piece in send.pieces)
            and (usual := self._usual_s(send.tokens)) is not None
        ]
        if not due:
            return None
        at, _, send = min(due)
        return send, at

    def _usual_s(self, tokens: int) -> float | None:
        """The median of recent answers of about that size, or of the next larger; None: too few are known."""
        for bucket in range(tokens.bit_length(), 64):
            if len(seen := self._took.get(bucket, ())) >= _SEEN_BEFORE_HEDGING:
                return sorted(seen)[len(seen) // 2]
        return None

    def _lane(self, now: float, *, beside: int | None = None) -> int:
        """The first target that is well, if there is one other than ``beside``; else what rests least."""
        well = [number for number, lane in enumerate(self.lanes) if lane.well(now)]
        for number in well:
            if number != beside:
                return number
        if well:
            return well[0]
        return min(range(len(self.lanes)), key=lambda number: self.lanes[number].resting_until)

    # What came of it

    def _divided(self, pieces: Sequence[Piece[_Job]], send: Send[_Job], error: JinaSMError) -> bool:
        """Sends the halves of a request, apart from each other and from everybody else. False: it has no halves."""
        if len(pieces) > 1:
            half = len(pieces) // 2
            for some in (pieces[:half], pieces[half:]):
                group = next(self._number)
                for piece in some:
                    piece.group = group
                    self._wait(piece)
        else:
            (piece,) = pieces
            call = piece.call
            if len(piece.items) < 2 or call.work.whole or self._spent(piece, send.began):
                return False
            half = len(piece.items) // 2
            for items in (piece.items[:half], piece.items[half:]):
                part = self._piece(call, items, piece)
                part.group = next(self._number)
                self._wait(part)
        for call in {piece.call for piece in pieces}:
            call.splits += 1
        self._tell("split", send, error=error)
        return True

    def _spent(self, piece: Piece[_Job], now: float) -> bool:
        return piece.first_sent is not None and now - piece.first_sent >= self._policy.seconds

    def _repeatable(self, piece: Piece[_Job], error: JinaSMError, rule: retry.Rule, others: bool, now: float) -> bool:
        failures = piece.failures[type(error)]
        return (
            piece.attempts < self._policy.attempts
            and not self._spent(piece, now)
            and len(piece.missing_at) < len(self.lanes)
            and (failures <= rule.repeats or (others and failures < len(self.lanes)))
        )

    def _repeated(
        self, pieces: Sequence[Piece[_Job]], send: Send[_Job], error: JinaSMError, others: bool, now: float
    ) -> bool:
        """Sends them again, after a pause or elsewhere at once. False: that would be more than all may together."""
        policy, lane, turn_to = self._policy, self.lanes[send.target], self._lane(now)
        fresh = others and turn_to != send.target and self.lanes[turn_to].well(now)
        if self._budget < 1 and not fresh:
            return False
        failures = max(piece.failures[type(error)] for piece in pieces)
        self._budget -= not fresh  # whoever is well may be asked, however long the other stays away
        pause = 0.0 if fresh else retry.wait_s(policy, error, failures, self._random())
        for piece in pieces:
            piece.call.retries += 1
        self._tell("retry", send, seconds=pause, error=error)
        if pause and (lane.failing or error.retry_after_s):
            lane.hold(pause, now)
        if pause:
            self._at(now + pause, lambda _: self._wait(*pieces))
        else:
            self._wait(*pieces)
        return True

    def _give_up(self, piece: Piece[_Job], error: JinaSMError, rule: retry.Rule, now: float) -> None:
        call = piece.call
        cause, error = error.__cause__, copy.copy(error)  # each caller's own: whoever raises it leaves marks on it
        error.__cause__, error.attempts = cause, piece.attempts
        told_apart = len(piece.items) == 1 and not call.work.whole
        hopeless = not call.answers and call.splits + len(call.failures) + 1 >= _HOPELESS
        if call.collect and told_apart and rule.alone and not hopeless:
            piece.settled = True
            call.failures[piece.items[0]] = error
            self._less(call, 1, now)
            return
        if told_apart and rule.alone:
            error.index = piece.items[0]
        self._fail(call, error, now)

    def _late(self, call: Call[_Job], now: float) -> None:
        self._fail(call, DeadlineExceededError(f"no answer within {now - call.began:.3g} s"), now)

    def _fail(self, call: Call[_Job], error: JinaSMError, now: float) -> None:
        """It is no item's fault: the call ends. One that collects keeps what was answered, if anything was."""
        if not call.collect or not call.answers:
            call.error = error
            return self._end(call, now)
        answered = {item for answer in call.answers for item in answer.items}
        for item in (item for batch in call.work.batches for item in batch):
            if item not in answered and item not in call.failures:
                call.failures[item] = copy.copy(error)
                call.failures[item].__cause__, call.failures[item].index = error.__cause__, item
        return self._end(call, now)

    def _less(self, call: Call[_Job], items: int, now: float) -> None:
        call.missing -= items
        if not call.missing:
            self._end(call, now)

    def _end(self, call: Call[_Job], now: float) -> None:
        if call.over:
            return
        call.over, call.ended = True, now
        call.waiting.clear()
        self._requeue(call)
        if call.timer:
            call.timer.act = None
        self._calls -= 1
        self._ended.append(call)

    # Book-keeping

    def _piece(self, call: Call[_Job], items: tuple[int, ...], of: Piece[_Job] | None = None) -> Piece[_Job]:
        piece = Piece(call, items, call.work.sizes.of(items))
        if of is not None:
            piece.first_sent, piece.group = of.first_sent, of.group
        return piece

    def _wait(self, *pieces: Piece[_Job]) -> None:
        """Ahead of what has not been tried yet: they are the oldest."""
        for piece in pieces:
            if not piece.call.over and not piece.settled:
                piece.call.waiting.appendleft(piece)
                self._queue(piece.call)

    def _queue(self, call: Call[_Job]) -> None:
        self._ready.setdefault(call)
        if call.work.key is not None:
            self._by_key.setdefault(call.work.key, {}).setdefault(call)

    def _requeue(self, call: Call[_Job]) -> None:
        """Its turn is over: to the end of the queue, or out of it."""
        self._ready.pop(call, None)
        if call.waiting:
            self._ready[call] = None
        elif (sharing := self._by_key.get(call.work.key)) is not None:
            sharing.pop(call, None)
            if not sharing:
                del self._by_key[call.work.key]

    def _landed(self, send: Send[_Job]) -> Lane:
        del self._sends[send]
        for piece in send.pieces:
            piece.under_way -= 1
        lane = self.lanes[send.target]
        lane.landed()
        return lane

    def _at(self, at: float, act: Callable[[float], Any]) -> _Timer:
        if len(self._timers) >= self._many_timers:  # most are of calls that ended long before their time was up
            self._timers = [each for each in self._timers if each[2].act is not None]
            heapq.heapify(self._timers)
            self._many_timers = 2 * len(self._timers) + 64
        timer = _Timer(act)
        heapq.heappush(self._timers, (at, next(self._number), timer))
        return timer

    def _tell(
        self,
        kind: str,
        send: Send[_Job],
        *,
        target: int | None = None,
        seconds: float = 0.0,
        request_id: str | None = None,
        error: JinaSMError | None = None,
    ) -> None:
        lane = self.lanes[send.target if target is None else target]
        self._events.append(
            Event(
                kind=kind,
                target=lane.name,
                region=lane.region,
                items=send.items,
                calls=len({id(piece.call) for piece in send.pieces}),
                attempt=max(piece.attempts for piece in send.pieces),
                seconds=seconds,
                request_id=request_id,
                error=error,
            )
        )
