"""
Items of many requests to batches for one model, so that nothing accepted is lost.

While the model works on one batch, what arrives waits and becomes the next: an idle server answers at once, a busy one
batches more, and there is no timer to tune. A batch holds items of like length and is bounded by padded tokens, which
is what memory pays for. A large request is taken in slices, so that a small one passes between them.

No model, no thread and no clock in here: whoever drives it asks ``next`` what to run, and says what came of it. The
self-hosted set-ups of Jina's published comparison (wait for 8,192 tokens or two seconds; one request at a time) are the
policies ``window`` and ``none`` of the same machine, with all their faults.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from jina_sm.errors import InputError

POLICIES = ("continuous", "window", "none")
QUANTUM = 2048
"""Tokens that a request gets at a stretch. Without it equal large requests would all end together."""
PATIENCE = 2.0
"""A slice is due after this many times what the slices before it take, so that newcomers pass between them."""
ALIKE = 1.14
"""From one class of lengths to the next. A batch spans one class and its neighbours, so within 30 % of its first."""
SHORT = 16
"""Tokens up to which lengths are alike: padding there costs less than another call of the model."""
FLOOR = 16
"""Padded tokens below which the budget is not halved: items go one by one by then."""
RECOVERY = 20
"""Full batches without an out-of-memory error after which the budget grows again; doubled by each such error."""
ALONE_ATTEMPTS = 3
"""How often an item for which memory runs out even alone is tried."""
TRUSTED = 8
"""Full batches after which the measured rate is believed enough to refuse work by it."""

_FAR = 1e6
HEADROOM = 0.75
"""The share of its time that a request's work and what waits before it may take, by the measured rate: rates vary."""


class FullError(Exception):
    """What waits already is all that can be answered in time; ``retry_after_s`` is when there should be room."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too much is waiting; there should be room in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class TooLargeError(Exception):
    """The request alone takes longer than it has, by the measured rate: ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it would take about {seconds:.0f} s")
        self.seconds = seconds


class ClosedError(Exception):
    """Nothing more is taken."""


class ExpiredError(Exception):
    """The time that the request had was up before it was answered."""


class ItemError(Exception):
    """The model failed on one item, the request's ``index``th; the cause is the model's own exception.

    ``memory``: because it ran out, even with the item alone.
    """

    def __init__(self, index: int, cause: BaseException, *, memory: bool = False) -> None:
        super().__init__(f"the model failed on item {index}: {type(cause).__name__}")
        self.index = index
        self.memory = memory
        self.__cause__ = cause


@dataclass(frozen=True, kw_only=True)
class Limits:
    """``padded_tokens``: a batch's longest item times its items; an item that is longer goes alone. ``items``: in a
    batch. ``waiting_tokens``, ``waiting_items``: what may wait. ``window_tokens``, ``window_s``: of that policy.
    """

    padded_tokens: int = 8192
    items: int = 1024
    waiting_tokens: int = 2_000_000
    waiting_items: int = 20_000
    window_tokens: int = 8192
    window_s: float = 2.0

    def __post_init__(self) -> None:
        if min(self.padded_tokens, self.items, self.waiting_tokens, self.waiting_items, self.window_tokens) < 1:
            raise InputError(f"{self!r}: every limit is 1 or more")
        if not 0 <= self.window_s < math.inf:
            raise InputError(f"window_s is 0 or more, not {self.window_s!r}")


@dataclass(eq=False)
class Ticket:
    """One request: ``over`` when every item has its row, or when ``error`` says why not.

    ``rows`` are in the order of the items. ``tag`` is the driver's own.
    """

    tag: Any
    group: Hashable
    caller: str
    arrived: float
    deadline: float | None
    rows: list[Any]
    tokens: int
    left: int
    left_tokens: int
    began: float | None = None
    ended: float | None = None
    over: bool = False
    error: Exception | None = None
    items: list[_Item] = field(default_factory=list, repr=False)


@dataclass(eq=False, slots=True)
class _Item:
    ticket: Ticket
    index: int
    tokens: int
    payload: Any
    due: float
    waits: bool = True
    out_of_memory: int = 0


_Heap = list[tuple[float, int, _Item]]


@dataclass(slots=True)
class _Caller:
    requests: int = 0
    waiting_tokens: int = 0
    next_due: float = -math.inf


@dataclass(frozen=True, eq=False)
class Batch:
    """What the model is to work on next. ``padded``: what that costs in memory, in tokens."""

    group: Hashable
    items: tuple[_Item, ...] = field(repr=False)
    payloads: tuple[Any, ...] = field(repr=False)
    began: float
    tokens: int
    padded: int

    def __len__(self) -> int:
        return len(self.items)

    @property
    def requests(self) -> int:
        return len({id(item.ticket) for item in self.items})


@dataclass(frozen=True)
class Wake:
    """There is nothing to run before ``at``, unless something arrives."""

    at: float


class Batcher:
    """The machine. ``rate`` is a first guess at the model's tokens a second; what it measures replaces that."""

    def __init__(self, limits: Limits = Limits(), *, policy: str = "continuous", rate: float = 5000.0) -> None:
        if policy not in POLICIES:
            raise InputError(f"a batching policy is {', '.join(POLICIES)}, not {policy!r}")
        self.limits = limits
        self.policy = policy
        self.budget = limits.padded_tokens
        self.waiting_items = 0
        self.waiting_tokens = 0
        self.running: Batch | None = None
        self.closed = False
        self.out_of_memory = 0
        self.bisections = 0
        self._rate = rate
        self._measured = 0
        self._worked = (0.0, 0.0)  # tokens and seconds of late
        self._recovery = RECOVERY
        self._good = 0
        self._numbers = count()
        self._heaps: dict[tuple[Hashable, int], _Heap] = {}
        self._again: deque[tuple[_Item, ...]] = deque()
        self._line: deque[Ticket] = deque()
        self._callers: dict[str, _Caller] = {}
        self._tickets: set[Ticket] = set()
        self._large: list[Ticket] = []  # in slices, with a deadline, and not yet in front of all else
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._ended: list[Ticket] = []

    @property
    def rate(self) -> float:
        """Tokens a second, as measured of late."""
        return self._rate

    @property
    def waiting_requests(self) -> int:
        """Requests that are not yet answered, those being worked on included."""
        return len(self._tickets)

    @property
    def idle(self) -> bool:
        return not self._tickets and self.running is None

    def submit(
        self,
        now: float,
        payloads: Sequence[Any],
        tokens: Sequence[int],
        *,
        group: Hashable = None,
        caller: str = "",
        deadline: float | None = None,
        tag: Any = None,
    ) -> Ticket:
        """Takes a request, to be answered. Only items of one ``group`` share a batch.

        Raises FullError, TooLargeError, ClosedError.
        """
        if self.closed:
            raise ClosedError("the server is going down")
        if not payloads or len(payloads) != len(tokens):
            raise InputError(f"{len(payloads)} items came with {len(tokens)} lengths; there is one each, and an item")
        sizes = [max(1, int(size)) for size in tokens]
        total = sum(sizes)
        self._admit(len(sizes), total, now, deadline)
        ticket = Ticket(tag, group, caller, now, deadline, [None] * len(sizes), total, len(sizes), total)
        self._tickets.add(ticket)
        if deadline is not None and total > QUANTUM and self.policy == "continuous":
            self._large.append(ticket)
        if deadline is not None:
            if len(self._deadlines) > 2 * len(self._tickets) + 64:  # or what is long over would be held until then
                self._deadlines = [each for each in self._deadlines if not each[2].over]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (deadline, next(self._numbers), ticket))
        # A due time is never put off, and no newcomer's lies in the past, so nobody starves, whoever comes. A caller
        # with many requests has each due after the one before, so that another's single one passes them; but never
        # later than all that this caller still has waiting takes.
        known = self._callers.setdefault(caller, _Caller())
        first = min(max(now, known.next_due), now + known.waiting_tokens / self._rate)
        known.requests += 1
        known.next_due = first + min(total, QUANTUM) / self._rate
        done = 0
        for index, (payload, size) in enumerate(zip(payloads, sizes, strict=True)):
            due = first + PATIENCE * (done // QUANTUM) * QUANTUM / self._rate
            ticket.items.append(_Item(ticket, index, size, payload, due))
            done += size
            self._waits(ticket.items[-1], 1)
        if self.policy == "continuous":
            for item in ticket.items:
                self._push(item)
        else:
            self._line.append(ticket)
        return ticket

    def next(self, now: float) -> Batch | Wake | None:
        """What to run; when to ask again; or None: nothing before something arrives or the running batch ends."""
        self.expire(now)
        if self.running is not None:
            return None
        chosen, at = self._formed(now)
        if chosen:
            return self._begin(chosen, now)
        if self._deadlines:
            at = min(at, self._deadlines[0][0])
        return None if at == math.inf else Wake(at)

    def answered(self, batch: Batch, rows: Sequence[Any], now: float) -> None:
        """What the model made of the batch, a row an item."""
        if len(rows) != len(batch):
            self.failed(batch, ValueError(f"the model gave {len(rows)} rows for {len(batch)} items"), now)
            return
        self._over(batch)
        self._measure(batch, now)
        if self.budget < self.limits.padded_tokens and 4 * batch.padded >= 3 * self.budget:
            self._good += 1
            if self._good >= self._recovery:
                self.budget = min(self.limits.padded_tokens, self.budget + max(1, self.limits.padded_tokens // 16))
                self._good = 0
        for item, row in zip(batch.items, rows, strict=True):
            ticket = item.ticket
            if not ticket.over:
                ticket.rows[item.index] = row
                ticket.left -= 1
                ticket.left_tokens -= item.tokens
                item.payload = None
                if not ticket.left:
                    ticket.ended = now
                    self._end(ticket, None)

    def failed(self, batch: Batch, error: BaseException, now: float, *, memory: bool = False) -> None:
        """The model raised, or died. ``memory``: it ran out of it, which is nobody's fault but the budget's."""
        self._over(batch)
        alive = [item for item in batch.items if not item.ticket.over]
        if self.policy != "continuous":  # as the set-ups that they stand for
            for item in alive:
                if not item.ticket.over:
                    self._end(item.ticket, ItemError(item.index, error, memory=memory))
            return
        if memory:
            self._shrink(batch)
            for item in alive:
                item.out_of_memory += len(batch) == 1
                if item.out_of_memory >= ALONE_ATTEMPTS:
                    self._end(item.ticket, ItemError(item.index, error, memory=True))
                else:
                    self._back(item)
                    self._push(item)
            return
        if len(batch) == 1:
            for item in alive:
                self._end(item.ticket, ItemError(item.index, error))
            return
        self.bisections += 1
        for item in alive:
            self._back(item)
        middle = (len(alive) + 1) // 2
        # In front of all else, the first half first: so a poisoned batch is soon over.
        self._again.extendleft(half for half in (tuple(alive[middle:]), tuple(alive[:middle])) if half)

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for it any more: it costs no more work."""
        if not ticket.over:
            self._end(ticket, None, tell=False)

    def close(self) -> None:
        """Takes nothing more; what was accepted is still answered."""
        self.closed = True

    def abandon(self, error: Exception) -> None:
        """Ends whatever is not answered yet with an error: there is no more time."""
        self.close()
        for ticket in list(self._tickets):
            self._end(ticket, error)

    def expire(self, now: float) -> None:
        """Ends the requests whose time is up. ``next`` does so too."""
        while self._deadlines and (self._deadlines[0][2].over or self._deadlines[0][0] <= now):
            ticket = heapq.heappop(self._deadlines)[2]
            if not ticket.over:
                self._end(ticket, ExpiredError("the request was not answered in its time"))

    def ended(self) -> list[Ticket]:
        """The requests that are over since this was asked last, each once."""
        told, self._ended = self._ended, []
        return told

    def _admit(self, items: int, tokens: int, now: float, deadline: float | None) -> None:
        """Raises FullError, or TooLargeError. Where nothing waits, there will not be more room later.

        Where nothing runs either, anything is tried.
        """
        trusted = deadline is not None and self._measured >= TRUSTED
        if not self.waiting_items and self.running is None:
            return  # or a model that was slow for a while would be thought slow for ever
        if deadline is not None and trusted and tokens > (deadline - now) * self._rate:
            raise TooLargeError(tokens / self._rate)
        if not self.waiting_items:
            return
        held = self.waiting_tokens + tokens
        room = float(self.limits.waiting_tokens)
        if deadline is not None and trusted:
            # What waits and what runs is to be answered before this, or this with it: else somebody is late.
            room = min(room, HEADROOM * (deadline - now) * self._rate - (self.running.tokens if self.running else 0))
        if held > room or self.waiting_items + items > self.limits.waiting_items:
            excess = min(held, max(held - room, tokens))
            raise FullError(float(max(1, math.ceil(excess / self._rate))))

    def _formed(self, now: float) -> tuple[tuple[_Item, ...], float]:
        """The items to run now; where there are none, when there may be."""
        if self.policy == "continuous":
            while self._again:
                items = tuple(item for item in self._again.popleft() if not item.ticket.over)
                if len(items) > 1 and len(items) * max(item.tokens for item in items) > self.budget:
                    middle = (len(items) + 1) // 2
                    self._again.extendleft((items[middle:], items[:middle]))
                elif items:
                    return items, now
            self._hurry(now)
            return self._pooled(), math.inf
        while self._line and self._line[0].over:
            self._line.popleft()
        if not self._line:
            return (), math.inf
        first = self._line[0]
        if self.policy == "none":
            self._line.popleft()
            return tuple(first.items), now
        at = first.arrived + self.limits.window_s
        together = [ticket for ticket in self._line if ticket.group == first.group and not ticket.over]
        if now < at and not self.closed and sum(ticket.tokens for ticket in together) < self.limits.window_tokens:
            return (), at
        chosen: list[Ticket] = []
        tokens = 0
        for ticket in together:
            if chosen and tokens + ticket.tokens > self.limits.window_tokens:
                break
            chosen.append(ticket)
            tokens += ticket.tokens
        taken = set(map(id, chosen))
        self._line = deque(ticket for ticket in self._line if id(ticket) not in taken and not ticket.over)
        return tuple(item for ticket in chosen for item in ticket.items), now

    def _hurry(self, now: float) -> None:
        """Puts in front what would be late if it went on at its pace: others have come since it was accepted."""
        late = [ticket for ticket in self._large if not ticket.over and self._is_late(ticket, now)]
        self._large = [ticket for ticket in self._large if not ticket.over and ticket not in late]
        for ticket in late:
            for item in ticket.items:
                item.due = (ticket.deadline or 0.0) - _FAR  # the earliest deadline first, before all that is due by now
        if late:
            for heap in self._heaps.values():
                heap[:] = [(item.due, number, item) for _, number, item in heap]
                heapq.heapify(heap)

    def _is_late(self, ticket: Ticket, now: float) -> bool:
        left = (ticket.deadline or math.inf) - now
        return self._measured >= TRUSTED and ticket.left_tokens > HEADROOM * left * self._rate

    def _pooled(self) -> tuple[_Item, ...]:
        """The item that is due first, and those of like length that fit beside it."""
        heads = [(heap[0][:2], key) for key in list(self._heaps) if (heap := self._live(key))]
        if not heads:
            return ()
        group, near = min(heads)[1]
        pool = [head for head in heads if head[1][0] == group and abs(head[1][1] - near) <= 1]
        heapq.heapify(pool)
        chosen: list[_Item] = []
        longest = 0
        while pool and len(chosen) < self.limits.items:
            _, key = heapq.heappop(pool)
            item = self._heaps[key][0][2]
            if chosen and max(longest, item.tokens) * (len(chosen) + 1) > self.budget:
                continue  # what waits behind it goes another time; a neighbouring class may have shorter ones
            heapq.heappop(self._heaps[key])
            chosen.append(item)
            longest = max(longest, item.tokens)
            if heap := self._live(key):
                heapq.heappush(pool, (heap[0][:2], key))
        return tuple(chosen)

    def _live(self, key: tuple[Hashable, int]) -> _Heap | None:
        """A heap whose first item is wanted; None, and it is gone, when it has none."""
        heap = self._heaps[key]
        while heap and heap[0][2].ticket.over:
            heapq.heappop(heap)
        if heap:
            return heap
        del self._heaps[key]
        return None

    def _push(self, item: _Item) -> None:
        heap = self._heaps.setdefault((item.ticket.group, _class(item.tokens)), [])
        heapq.heappush(heap, (item.due, next(self._numbers), item))

    def _begin(self, items: tuple[_Item, ...], now: float) -> Batch:
        tokens = sum(item.tokens for item in items)
        padded = len(items) * max(item.tokens for item in items)
        for item in items:
            item.waits = False
            self._waits(item, -1)
            if item.ticket.began is None:
                item.ticket.began = now
        payloads = tuple(item.payload for item in items)
        self.running = Batch(items[0].ticket.group, items, payloads, now, tokens, padded)
        return self.running

    def _over(self, batch: Batch) -> None:
        if self.running is not batch:
            raise InputError("this batch is not the one that runs")
        self.running = None

    def _back(self, item: _Item) -> None:
        item.waits = True
        self._waits(item, 1)

    def _waits(self, item: _Item, one: int) -> None:
        self.waiting_items += one
        self.waiting_tokens += one * item.tokens
        self._callers[item.ticket.caller].waiting_tokens += one * item.tokens

    def _measure(self, batch: Batch, now: float) -> None:
        took = now - batch.began
        if took <= 0:
            return
        full = 2 * batch.padded >= self.budget
        if not full and self._measured >= TRUSTED:
            return  # much of a small batch's time is the call's own
        tokens, seconds = self._worked
        self._worked = (0.95 * tokens + batch.tokens, 0.95 * seconds + took)
        self._rate = max(1.0, self._worked[0] / self._worked[1])
        self._measured += full

    def _shrink(self, batch: Batch) -> None:
        self.out_of_memory += 1
        self._good = 0
        self._recovery = min(self._recovery * 2, 32 * RECOVERY)
        if len(batch) > 1:
            self.budget = max(FLOOR, min(self.budget, batch.padded) // 2)

    def _end(self, ticket: Ticket, error: Exception | None, *, tell: bool = True) -> None:
        ticket.over = True
        ticket.error = error
        self._tickets.discard(ticket)
        for item in ticket.items:
            item.payload = None  # the item may stand in a heap for a while, and texts are large
            if item.waits:
                item.waits = False
                self._waits(item, -1)
        ticket.items = []
        if error is not None or not tell:
            ticket.rows = []
        caller = self._callers[ticket.caller]
        caller.requests -= 1
        if not caller.requests:
            del self._callers[ticket.caller]
        if tell:
            self._ended.append(ticket)


def _class(tokens: int) -> int:
    """Lengths of one class, or of neighbours, may share a batch."""
    return 0 if tokens <= SHORT else 1 + int(math.log(tokens / SHORT, ALIKE))
