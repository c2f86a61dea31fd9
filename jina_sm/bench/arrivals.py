"""
When requests are due, in seconds from the start, whatever becomes of those before. Pure.

A schedule that waits for answers hides a stall: the requests that would have met it are never sent. These do not wait.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from jina_sm.errors import InputError


def constant(rate: float) -> Iterator[float]:
    """One every 1/rate seconds, for ever."""
    return (number / rate for number in itertools.count())


def poisson(rate: float, random: Callable[[], float]) -> Iterator[float]:
    """At random, ``rate`` a second on average, as independent users would, for ever."""
    now = 0.0
    while True:
        now += -math.log(1 - random()) / rate
        yield now


def ramp(rate: float, rate_to: float, duration_s: float) -> Iterator[float]:
    """Evenly more (or fewer) a second, from ``rate`` to ``rate_to`` over the duration, where it ends."""
    slope = (rate_to - rate) / duration_s
    for number in itertools.count():
        # By then rate * t + slope * t^2 / 2 requests were due: which t?
        inner = rate * rate + 2 * slope * number
        if inner < 0:
            return
        at = 2 * number / (rate + math.sqrt(inner)) if number else 0.0
        if at >= duration_s:
            return
        yield at


def trace(due: Sequence[float]) -> Iterator[float]:
    """As recorded. Raises InputError for times that go back."""
    for before, after in itertools.pairwise(due):
        if after < before:
            raise InputError(f"a request is due at {after} s, after one at {before} s", cure="Sort them by at_s.")
    return iter(due)
