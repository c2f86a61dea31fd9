"""
One target as the machine sees it: how much may be in flight there, and whether it is well.

What may be in flight is bounded by the instances behind it, halves on a throttle and grows back request by request.
It begins at half. Where answers take long, it shrinks too: a slow GPU is kept busy by few, and more only wait
towards the 60 s limit.
A target that fails rests while there are others; afterwards one request goes ahead, and the rest follow if it comes
back. Where there are none, what fails again and again is asked by one request at a time, with pauses: otherwise a long
run would spend all its repeats on a short outage.
How many instances there are is worth asking while it is full, and again after a while, since autoscaling changes it.
"""

from __future__ import annotations

from dataclasses import dataclass

SLOW_S = 10.0
"""A sixth of the time that an invocation may take: a stall or a misjudged length has room beside it."""
_FEWEST = 2  # one on the GPU and one on its way
_IN_A_ROW = 3  # failures and no answer between: it is the target, not the request
_COUNT_AGAIN_S, _COUNT_SELDOM_S = 60.0, 3600.0


@dataclass(eq=False)
class Lane:
    """``in_flight`` requests are there now, ``window`` is how many may be; ``known``: it has once been too much.

    Times are in seconds.
    """

    name: str
    region: str | None
    per_instance: int
    instances: int = 1
    in_flight: int = 0
    window: float = 0.0
    known: bool = False
    cut_at: float = float("-inf")
    resting_until: float = float("-inf")
    rests: int = 0
    scout: bool = False
    failed: int = 0
    held_until: float = float("-inf")
    count_at: float = float("-inf")
    uncounted: int = 0

    def __post_init__(self) -> None:
        self.window = float(self._begin)

    @property
    def limit(self) -> int:
        return self.per_instance * self.instances

    @property
    def _begin(self) -> int:
        return min(self.limit, max(_FEWEST, self.limit // 2))

    def room(self, now: float) -> int:
        """How many more requests may go there."""
        most = 0 if self.held_until > now else 1 if self.failing else int(self.window)
        return max(0, most - self.in_flight)

    @property
    def failing(self) -> bool:
        return self.failed >= _IN_A_ROW

    def well(self, now: float) -> bool:
        """Neither resting nor being tried again."""
        return max(self.resting_until, self.held_until) <= now and not self.scout

    def hold(self, seconds: float, now: float) -> None:
        """Nothing may go there for so long, not even if there is nowhere else."""
        self.held_until = max(self.held_until, now + seconds)

    def resize(self, instances: int) -> None:
        """So many instances answer there."""
        self.window = max(1.0, self.window * instances / self.instances)
        self.instances = instances
        self.uncounted = 0

    def count(self, now: float) -> bool:
        """Whether to ask how many instances answer there, now that it is full. Where nobody says, more seldom."""
        if self.failing or max(self.held_until, self.count_at) > now:
            return False
        self.count_at = now + min(_COUNT_AGAIN_S * 2.0 ** min(self.uncounted, 60), _COUNT_SELDOM_S)
        self.uncounted += 1
        return True

    def sent(self) -> None:
        self.in_flight += 1
        self.scout = self.rests > 0

    def landed(self) -> None:
        self.in_flight -= 1

    def answered(self, took_s: float) -> None:
        """It serves."""
        if took_s <= SLOW_S:
            self.window = min(float(self.limit), self.window + (1 / self.window if self.known else 1))
        else:
            self.known = True
            self.window = min(self.window, max(float(_FEWEST), self.window - 1))
        self.rests, self.scout, self.resting_until = 0, False, float("-inf")
        self.failed = 0

    def throttled(self, began: float, now: float) -> None:
        """It was too much. Requests sent before the last cut say nothing new."""
        if began >= self.cut_at:
            self.window = max(1.0, self.window / 2)
            self.known, self.cut_at = True, now

    def rest(self, seconds: float, longest_s: float, now: float) -> None:
        """It does not serve: pass it over, for longer each time in a row."""
        if self.resting_until <= now:  # those that fail together count once
            self.rests += 1
            self.resting_until = now + min(seconds * 2.0 ** min(self.rests - 1, 60), longest_s)
        self.scout = False
