"""
Who is to send what, and when: the machine of one trial, with no I/O and no clock of its own.

A driver asks ``next(now)`` and sends, or waits; it says ``answered`` when a request is over. Closed loop: as many
callers as the setting says, each of whom asks again when it has its answer. Open loop: requests are due by a schedule,
and one that cannot be sent yet, since too many are in flight, waits here with its time running. So latency counts from
when a request was due, and a server that stalls cannot hide the requests that it kept from being sent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from jina_sm import errors
from jina_sm.bench.metrics import Setting
from jina_sm.errors import InputError

HOPELESS = (errors.AuthError, errors.EndpointNotFoundError)
"""What another attempt cannot change: the target is given up at once."""


AWAY = (errors.ModelUnavailableError, errors.ThrottledError, errors.AuthError, errors.EndpointNotFoundError)
"""What says that nobody is there to ask. A refusal, a timeout or an out-of-memory is an answer, and may be the finding:
a setting that always fails is measured as such, and the next one may do well."""


@dataclass(frozen=True)
class Send:
    """Request ``number`` is to go now. It was due at ``due_s``."""

    number: int
    due_s: float
    warm_up: bool


@dataclass(frozen=True)
class Wait:
    """Nothing to send until then; None: until an answer comes."""

    until_s: float | None


class Load:
    """One trial. Times are the driver's, in seconds from any start; they never go back.

    It ends after ``requests`` measured ones, or with the first due ``duration_s`` after the warm-up's last was sent,
    whichever is first. ``schedule`` has the times of an open loop, from the trial's begin. ``max_in_flight`` bounds an
    open loop.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        began_s: float,
        requests: int | None = None,
        duration_s: float | None = None,
        warm_up: int = 0,
        schedule: Iterator[float] | None = None,
        max_in_flight: int = 256,
    ) -> None:
        if requests is None and duration_s is None:
            raise InputError("a trial needs a number of requests or a duration")
        if (setting.arrivals == "closed") == (schedule is not None):
            raise InputError("a schedule belongs to an open loop, and an open loop needs one")
        self.began_s = began_s
        self._until = math.inf if requests is None else warm_up + requests
        self._duration_s = duration_s
        self._warm_up = warm_up
        self._ends_s: float | None = None
        self._sent = 0
        self._over = False
        self.in_flight = 0
        self._free: deque[float] = deque()
        self._schedule = schedule
        self._due: float | None = None
        self._limit = max_in_flight
        if schedule is None:
            callers = setting.concurrency
            if not callers:
                raise InputError("a closed loop has 1 caller or more")
            self._free.extend([began_s] * callers)
            self._limit = callers
        else:
            self._advance()

    @property
    def over(self) -> bool:
        """Nothing more is sent and nothing is in flight."""
        return self._over and not self.in_flight

    def stop(self) -> None:
        """Sends nothing more."""
        self._over = True

    def next(self, now_s: float) -> Send | Wait | None:
        """What to do now; None once there is nothing more to send, whatever is in flight."""
        if self._over or self._sent >= self._until:
            self._over = True
            return None
        due = self._due if self._schedule is not None else self._free[0] if self._free else math.inf
        if due is None or self._is_late(due):
            self._over = True
            return None
        if self.in_flight >= self._limit:
            return Wait(None)
        if due > now_s:
            return Wait(due)
        send = Send(self._sent, due, self._sent < self._warm_up)
        self._sent += 1
        self.in_flight += 1
        if self._schedule is None:
            self._free.popleft()
        else:
            self._advance()
        return send

    def answered(self, now_s: float) -> None:
        """A request is over, whatever came of it, and whoever waited for it has read the answer."""
        self.in_flight -= 1
        if self._schedule is None:
            self._free.append(now_s)

    def _is_late(self, due_s: float) -> bool:
        """Whether the trial's time is up by then."""
        if self._duration_s is None or self._sent < self._warm_up or due_s == math.inf:
            return False
        if self._ends_s is None:
            self._ends_s = due_s + self._duration_s
        return due_s >= self._ends_s

    def _advance(self) -> None:
        assert self._schedule is not None
        at = next(self._schedule, None)
        self._due = None if at is None else self.began_s + at


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When to give up. ``None``: never for that reason.

    ``failures_in_a_row`` (unreachable or throttled, not refused) and ``failed_share`` (of the last hundred requests,
    failed however) give up the target; ``usd`` ends the run before a request that would pass it.
    """

    failures_in_a_row: int | None = 50
    failed_share: float | None = None
    usd: float | None = None

    def __post_init__(self) -> None:
        if self.failures_in_a_row is not None and self.failures_in_a_row < 1:
            raise InputError(f"failures_in_a_row is 1 or more, not {self.failures_in_a_row}")
        if self.failed_share is not None and not 0 < self.failed_share <= 1:
            raise InputError(f"failed_share is more than 0 and at most 1, not {self.failed_share}")
        if self.usd is not None and not self.usd > 0:
            raise InputError(f"a ceiling is more than 0 USD, not {self.usd}")


@dataclass
class Watch:
    """Whether to go on with one target: told of each outcome, it says why not."""

    rules: Rules
    why: str | None = None
    _in_a_row: int = 0
    _last: deque[bool] = field(default_factory=lambda: deque(maxlen=100))

    def saw(self, error: BaseException | None) -> str | None:
        """Takes note; the reason to give up, once there is one."""
        self._in_a_row = self._in_a_row + 1 if isinstance(error, AWAY) else 0
        self._last.append(error is not None)
        if self.why is not None:
            return self.why
        if isinstance(error, HOPELESS):
            self.why = str(error)
        elif self.rules.failures_in_a_row is not None and self._in_a_row >= self.rules.failures_in_a_row:
            self.why = f"{self._in_a_row} failures in a row, the last: {error}"
        elif (
            self.rules.failed_share is not None
            and len(self._last) == 100
            and sum(self._last) >= self.rules.failed_share * 100
        ):
            self.why = f"{sum(self._last)} of the last 100 requests failed, the last: {error}"
        return self.why


@dataclass
class Purse:
    """What a run has cost: hours of instances from its begin, whether they were asked or not, and tokens of an API."""

    usd_per_hour: float = 0.0
    ceiling: float | None = None
    tokens_usd: float = 0.0

    def spent(self, elapsed_s: float) -> float:
        return self.usd_per_hour * elapsed_s / 3600 + self.tokens_usd

    def allows(self, elapsed_s: float, next_usd: float = 0.0) -> bool:
        return self.ceiling is None or self.spent(elapsed_s) + next_usd <= self.ceiling
