"""A trial in simulated time: the load's machine against an endpoint whose behaviour is a formula."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from jina_sm.bench.load import Load, Send
from jina_sm.bench.metrics import Sample, Setting

Endpoint = Callable[[float], float]
"""When what is sent now is answered. Called in the order of sending."""


def constant(delay_s: float) -> Endpoint:
    """As many at once as may come."""
    return lambda now: now + delay_s


def workers(service_s: float, count: int = 1, *, stall: tuple[float, float] | None = None) -> Endpoint:
    """First come first served by so many workers; during ``stall`` none of them moves."""
    free = [0.0] * count

    def answered(now: float) -> float:
        begin = max(now, heapq.heappop(free))
        if stall and stall[0] <= begin < stall[1]:
            begin = stall[1]
        end = begin + service_s
        if stall and begin < stall[0] < end:
            end += stall[1] - stall[0]
        heapq.heappush(free, end)
        return end

    return answered


def simulate(
    setting: Setting,
    endpoint: Endpoint,
    *,
    fails: Callable[[int], bool] = lambda number: False,
    tokens: int = 100,
    repetition: int = 0,
    target: str = "simulated",
    **how: object,
) -> list[Sample]:
    """Every request of a trial that begins at 0."""
    load = Load(setting, began_s=0.0, **how)  # type: ignore[arg-type]
    now, coming, samples = 0.0, [], []
    order = itertools.count()
    while True:
        step = load.next(now)
        if isinstance(step, Send):
            done = endpoint(now)
            heapq.heappush(coming, (done, next(order)))
            samples.append(
                Sample(
                    target=target,
                    setting=0,
                    repetition=repetition,
                    number=step.number,
                    due_s=step.due_s,
                    sent_s=now,
                    done_s=done,
                    texts=1,
                    tokens=0 if fails(step.number) else tokens,
                    warm_up=step.warm_up,
                    error="ModelFailedError" if fails(step.number) else None,
                )
            )
            continue
        if not coming and step is None:
            return samples
        until = step.until_s if step is not None and step.until_s is not None else None
        if coming and (until is None or coming[0][0] <= until):
            now = max(now, heapq.heappop(coming)[0])
            load.answered(now)
        else:
            assert until is not None
            now = until
