"""
Time and chance, passed in.

Whoever decides is told the time; whoever sleeps is a driver. A test hands in its own clock and waits for nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


def _wait(condition: threading.Condition, seconds: float) -> None:
    condition.wait(seconds)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """``now`` in seconds from an arbitrary start (monotonic), ``sleep`` in seconds, ``random`` in [0, 1).

    ``wait`` sleeps on a condition that is held, so that a notification ends it early.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    wait: Callable[[threading.Condition, float], None] = _wait
