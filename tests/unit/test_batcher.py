"""The batcher, driven by a model and a clock that exist only here: whatever happens, what was accepted is answered."""

from __future__ import annotations

import contextlib
import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jina_sm.errors import InputError
from jina_sm.serve.batcher import (
    ALONE_ATTEMPTS,
    FLOOR,
    Batch,
    Batcher,
    ClosedError,
    ExpiredError,
    FullError,
    ItemError,
    Limits,
    Ticket,
    TooLargeError,
    Wake,
)

POISON = "poison"


def row(payload: Any) -> tuple[str, Any]:
    """The only right answer to a payload."""
    return ("row of", payload)


def run(batcher: Batcher, now: float, batch: Batch) -> None:
    """The model that raises where it finds poison."""
    if any(POISON in str(payload) for payload in batch.payloads):
        batcher.failed(batch, ValueError("poisoned"), now)
    else:
        batcher.answered(batch, [row(payload) for payload in batch.payloads], now)


def drain(batcher: Batcher, now: float = 0.0, most: int = 10_000) -> list[Batch]:
    """Every batch until nothing is left to run, a second each."""
    seen = []
    while (step := batcher.next(now)) is not None:
        if isinstance(step, Wake):
            now = step.at
            continue
        now += 1
        run(batcher, now, step)
        seen.append(step)
        assert len(seen) < most, "it never ends"
    return seen


def batcher_of(padded_tokens: int = 1024, **settings: Any) -> Batcher:
    policy = settings.pop("policy", "continuous")
    return Batcher(Limits(padded_tokens=padded_tokens, **settings), policy=policy, rate=1000.0)


def test_items_of_like_length_share_a_batch_and_rows_come_back_in_order():
    batcher = batcher_of()
    first = batcher.submit(0, ["a", "b", "c"], [10, 400, 12])
    second = batcher.submit(0, ["d", "e"], [420, 9])
    batches = drain(batcher)
    assert sorted(sorted(batch.payloads) for batch in batches) == [["a", "c", "e"], ["b", "d"]]
    assert (first.rows, second.rows) == ([row("a"), row("b"), row("c")], [row("d"), row("e")])
    assert batcher.ended() == [first, second]
    assert batcher.ended() == []
    assert batcher.idle


def test_lengths_in_a_batch_lie_within_thirty_percent_of_the_first():
    batcher = batcher_of(100_000)
    for size in range(17, 3000, 7):
        batcher.submit(0, [size], [size])
    for batch in drain(batcher):
        first = batch.items[0].tokens
        assert all(0.7 * first <= item.tokens <= 1.31 * first for item in batch.items)


def test_only_items_of_one_group_share_a_batch():
    batcher = batcher_of()
    for task in ("query", "passage", "query"):
        batcher.submit(0, [task], [10], group=task)
    assert sorted(len(batch) for batch in drain(batcher)) == [1, 2]


def test_an_item_larger_than_the_budget_goes_alone():
    batcher = batcher_of(100)
    ticket = batcher.submit(0, ["long", "long too"], [5000, 5000])
    assert [len(batch) for batch in drain(batcher)] == [1, 1]
    assert ticket.rows == [row("long"), row("long too")]


def test_one_poisoned_item_fails_its_own_request_and_nobody_elses():
    batcher = batcher_of()
    good = [batcher.submit(0, [f"good {number}"], [10]) for number in range(40)]
    bad = batcher.submit(0, ["fine", POISON, "fine too"], [10, 10, 10])
    batches = drain(batcher)
    assert all(ticket.error is None and ticket.rows == [row(f"good {n}")] for n, ticket in enumerate(good))
    assert isinstance(bad.error, ItemError)
    assert (bad.error.index, bad.error.memory) == (1, False)
    assert isinstance(bad.error.__cause__, ValueError)
    assert len(batches) <= 2 + 2 * 6  # halves of halves, not one by one


def memory_model(batcher: Batcher, most: int, now: float = 0.0, turns: int = 3000) -> float:
    """A device that fails above ``most`` padded tokens; a second a batch."""
    for _ in range(turns):
        step = batcher.next(now)
        if not isinstance(step, Batch):
            return now
        now += 1
        if step.padded > most:
            batcher.failed(step, MemoryError(), now, memory=True)
        else:
            run(batcher, now, step)
    raise AssertionError("it never ends")


def test_memory_running_out_halves_the_budget_and_fails_nobody():
    batcher = batcher_of(8192)
    tickets = [batcher.submit(0, [number], [100]) for number in range(200)]
    memory_model(batcher, 1500)
    assert all(ticket.rows == [row(number)] for number, ticket in enumerate(tickets))
    assert batcher.budget <= 1500
    assert batcher.out_of_memory >= 3


def test_the_budget_comes_back_slowly():
    batcher = batcher_of(1024)
    now = 0.0
    batcher.submit(now, list(range(10)), [100] * 10)
    now = memory_model(batcher, 600, now)
    low = batcher.budget
    assert low < 1024
    budgets = []
    while batcher.budget < 1024:
        batcher.submit(now, list(range(50)), [100] * 50)
        now = memory_model(batcher, 10_000, now)
        budgets.append(batcher.budget)
        assert len(budgets) < 1000
    assert budgets == sorted(budgets)
    assert len(budgets) > 5


def test_what_does_not_fit_even_alone_is_tried_a_few_times_and_then_says_so():
    batcher = batcher_of(1024)
    giant, other = batcher.submit(0, ["giant"], [9000]), batcher.submit(0, ["other"], [900])
    memory_model(batcher, 5000)
    assert isinstance(giant.error, ItemError)
    assert giant.error.memory
    assert other.rows == [row("other")]
    assert batcher.out_of_memory == ALONE_ATTEMPTS
    assert batcher.budget == 1024  # smaller batches would not have helped


def test_a_model_that_gives_too_few_rows_is_a_model_that_failed():
    batcher = batcher_of()
    ticket = batcher.submit(0, ["a"], [1])
    batch = batcher.next(0)
    assert isinstance(batch, Batch)
    batcher.answered(batch, [], 1)
    assert isinstance(ticket.error, ItemError)


def test_full_is_said_at_once_with_the_time_to_come_back():
    batcher = batcher_of(waiting_items=3)
    batcher.submit(0, [1, 2], [500, 500])
    with pytest.raises(FullError) as full:
        batcher.submit(0, [3, 4], [500, 500])
    assert full.value.retry_after_s == 1.0  # what is too much, by the measured rate
    drain(batcher)
    batcher.submit(9, [3, 4], [500, 500])


def test_what_could_not_be_answered_in_time_is_not_accepted():
    batcher = batcher_of(1000)
    now = 0.0
    for _ in range(10):
        batcher.submit(now, [0], [1000])
        drain(batcher, now)
        now += 1  # a thousand tokens a second
    accepted = []
    for number in range(100):
        try:
            accepted.append(batcher.submit(now, [number], [1000], deadline=now + 20))
        except FullError as full:
            assert full.retry_after_s >= 1
    assert 10 < len(accepted) < 20
    drain(batcher, now)
    assert all(ticket.error is None for ticket in accepted)


def trained(batcher: Batcher, now: float = 0.0) -> float:
    """After enough full batches of a thousand tokens a second each to be believed; the time then."""
    for _ in range(10):
        batcher.submit(now, [0], [1000])
        drain(batcher, now)
        now += 1
    batcher.ended()
    return now


def test_a_request_that_alone_takes_longer_than_it_has_is_refused_at_once():
    batcher = batcher_of(1000)
    batcher.submit(0, list(range(100)), [1000] * 100, deadline=60)  # nobody knows yet
    batcher = batcher_of(1000)
    now = trained(batcher)
    batcher.submit(now, ["running"], [1000])
    running = batcher.next(now)
    with pytest.raises(TooLargeError) as refused:
        batcher.submit(now, list(range(100)), [1000] * 100, deadline=now + 60)
    assert refused.value.seconds == pytest.approx(100, rel=0.01)
    batcher.submit(now, list(range(59)), [1000] * 59, deadline=now + 60)  # nothing waits, so it is tried
    assert isinstance(running, Batch)
    run(batcher, now + 1, running)
    drain(batcher, now + 1)
    # Nothing runs: a model that was slow once may be fast again, and is not refused to for ever.
    batcher.submit(now + 100, list(range(100)), [1000] * 100, deadline=now + 160)


def test_a_large_request_is_not_late_for_those_who_came_after_it():
    """It needs 42 of its 60 seconds; all the while others come with as much as the model can do."""
    batcher = batcher_of(1000)
    now = start = trained(batcher)
    large = batcher.submit(now, list(range(42)), [1000] * 42, deadline=now + 60)
    accepted = []
    while not large.over:
        with contextlib.suppress(FullError):
            accepted.append(batcher.submit(now, ["small"], [900], caller=f"{now}", deadline=now + 60))
        step = batcher.next(now)
        assert isinstance(step, Batch)
        now += step.padded / 1000
        run(batcher, now, step)
    assert large.error is None
    assert now - start <= 60
    assert len(accepted) > 10
    drain(batcher, now)
    assert all(ticket.error is None for ticket in accepted)


def test_small_batches_do_not_make_the_model_look_slow():
    batcher = batcher_of(1000)
    now = trained(batcher)
    for _ in range(100):  # each takes a tenth of a second for ten tokens
        batcher.submit(now, ["a"], [10])
        step = batcher.next(now)
        assert isinstance(step, Batch)
        now += 0.1
        run(batcher, now, step)
    assert batcher.rate == pytest.approx(1000, rel=0.01)


def test_a_request_whose_time_is_up_costs_no_more_work():
    batcher = batcher_of()
    batcher.submit(0, ["running"], [500])
    first = batcher.next(0)
    late = batcher.submit(0, ["late"], [500], deadline=1)
    assert isinstance(first, Batch)
    run(batcher, 2, first)
    assert batcher.next(2) is None
    assert isinstance(late.error, ExpiredError)


def test_whoever_hung_up_costs_no_more_work():
    batcher = batcher_of()
    ticket = batcher.submit(0, list(range(100)), [100] * 100)
    batch = batcher.next(0)
    assert isinstance(batch, Batch)
    batcher.cancel(ticket)
    assert (batcher.waiting_items, batcher.waiting_tokens) == (0, 0)
    run(batcher, 1, batch)
    assert batcher.next(1) is None
    assert batcher.ended() == []  # nobody is there to be told
    assert batcher.idle


def test_small_requests_pass_between_the_slices_of_a_large_one():
    batcher = batcher_of(1024)
    large = batcher.submit(0, list(range(128)), [512] * 128)
    now, waits = 0.0, []
    small: Ticket | None = None
    asked = 0
    while not large.over:
        if small is None or small.over:
            small, asked = batcher.submit(now, ["small"], [10], caller="other"), 0
        step = batcher.next(now)
        assert isinstance(step, Batch)
        now += 1.024
        run(batcher, now, step)
        asked += 1
        if small.over:
            waits.append(asked)
    assert max(waits) <= 3
    assert now < 64 * 1.024 * 2.2  # and the large one was not held up for long


def test_small_requests_pass_the_large_one_of_the_same_caller_too():
    batcher = batcher_of(1024)
    batcher.submit(0, list(range(128)), [512] * 128)
    now, small = 0.0, batcher.submit(0.001, ["small"], [10])
    turns = 0
    while not small.over:
        step = batcher.next(now)
        assert isinstance(step, Batch)
        now += 1.024
        run(batcher, now, step)
        turns += 1
    assert turns <= 3


def test_a_busy_caller_does_not_lose_its_place_for_having_been_busy():
    """Ten requests at a time for an hour, and then another caller comes who is as busy: each gets about half."""
    batcher, now = batcher_of(1024), 0.0
    served = {"old": 0, "new": 0}
    for turn in range(4000):
        if turn == 2000:
            served["old"] = 0
        for caller in ("old", "new") if turn >= 2000 else ("old",):
            while sum(ticket.caller == caller for ticket in batcher._tickets) < 10:
                batcher.submit(now, [turn], [1024], caller=caller)
        step = batcher.next(now)
        assert isinstance(step, Batch)
        now += 1.024
        run(batcher, now, step)
        for ticket in batcher.ended():
            served[ticket.caller] += 1
    assert 800 < served["old"] < 1200


def test_nobody_starves_behind_newcomers():
    batcher = batcher_of(1024)
    large = batcher.submit(0, list(range(32)), [512] * 32, caller="old")
    now = 0.0
    for number in range(400):
        for each in range(20):  # more than can be done, from callers never seen before
            batcher.submit(now, [number], [300], caller=f"{number}.{each}")
        step = batcher.next(now)
        assert isinstance(step, Batch)
        now += 1.024
        run(batcher, now, step)
        if large.over:
            return
    raise AssertionError("the large request starved")


def test_one_callers_thousand_requests_do_not_hold_up_anothers_one():
    batcher = batcher_of(1024)
    for number in range(1000):
        batcher.submit(0, [number], [300], caller="many")
    single = batcher.submit(0.001, ["single"], [300], caller="one")
    batches = 0
    now = 0.0
    while not single.over:
        step = batcher.next(now)
        assert isinstance(step, Batch)
        now += 1
        run(batcher, now, step)
        batches += 1
    assert batches <= 3


def test_large_requests_end_one_after_the_other_when_there_is_nothing_to_gain():
    """Equal shares would finish all of them together, at the end."""
    batcher = batcher_of(2048)
    tickets = [batcher.submit(0.001 * each, list(range(16)), [128] * 16) for each in range(4)]
    ends: dict[Ticket, int] = {}
    for turn in range(100):
        step = batcher.next(turn)
        if step is None:
            break
        assert isinstance(step, Batch)
        run(batcher, turn + 1, step)
        ends |= dict.fromkeys(batcher.ended(), turn)
    assert [ends[ticket] for ticket in tickets] == [0, 1, 2, 3]


def test_a_closed_batcher_takes_nothing_and_answers_what_it_took():
    batcher = batcher_of()
    ticket = batcher.submit(0, ["a"], [10])
    batcher.close()
    with pytest.raises(ClosedError):
        batcher.submit(0, ["b"], [10])
    drain(batcher)
    assert ticket.rows == [row("a")]


def test_abandoned_requests_are_told():
    batcher = batcher_of()
    ticket = batcher.submit(0, ["a"], [10])
    batch = batcher.next(0)
    assert isinstance(batch, Batch)
    batcher.abandon(ClosedError("no more time"))
    assert batcher.ended() == [ticket]
    assert isinstance(ticket.error, ClosedError)
    run(batcher, 1, batch)  # which still runs, for nobody
    assert batcher.idle
    assert batcher.ended() == []


def test_the_window_waits_for_its_tokens_or_its_time():
    batcher = batcher_of(policy="window", window_tokens=100, window_s=2.0)
    batcher.submit(0, ["a"], [40])
    assert batcher.next(0) == Wake(2.0)
    batcher.submit(1, ["b"], [40])
    assert batcher.next(1) == Wake(2.0)
    batch = batcher.next(2.0)
    assert isinstance(batch, Batch)
    assert batch.payloads == ("a", "b")
    run(batcher, 2.0, batch)
    batcher.submit(3, ["c"], [60])
    batcher.submit(3, ["d"], [50])
    batch = batcher.next(3)
    assert isinstance(batch, Batch)
    assert batch.payloads == ("c",)  # at once, since there is enough; the window's tokens are not exceeded


def test_without_batching_each_request_runs_whole_and_alone_and_may_fail_for_memory():
    batcher = batcher_of(policy="none")
    first = batcher.submit(0, ["a", "b"], [5000, 10])
    second = batcher.submit(0, ["c"], [10])
    memory_model(batcher, 9000)
    assert isinstance(first.error, ItemError)
    assert first.error.memory
    assert second.rows == [row("c")]


@pytest.mark.parametrize("policy", ["", "greedy"])
def test_an_unknown_policy_is_refused(policy):
    with pytest.raises(InputError):
        Batcher(policy=policy)


def test_limits_are_positive():
    with pytest.raises(InputError):
        Limits(padded_tokens=0)
    with pytest.raises(InputError):
        Limits(window_s=float("nan"))


def test_no_more_is_kept_of_requests_than_those_that_are_open():
    batcher = batcher_of()
    for number in range(5000):
        batcher.submit(number, [number], [10], deadline=number + 1e6, caller=str(number))
        drain(batcher, number)
        batcher.ended()
    held = len(batcher._deadlines) + len(batcher._heaps) + len(batcher._callers) + len(batcher._tickets)
    assert held < 200


lengths = st.lists(st.integers(1, 600), min_size=1, max_size=30)


@dataclass
class Promise:
    """What was accepted, and what must come of it."""

    ticket: Ticket
    payloads: list[str]
    deadline: float | None
    cancelled: bool = False
    told: int = 0


class Life(RuleBasedStateMachine):
    """Any order of arrivals, batches, poison, memory, death, cancelling, time and shutdown."""

    @initialize(policy=st.sampled_from(["continuous", "continuous", "window", "none"]), budget=st.integers(16, 4096))
    def begin(self, policy: str, budget: int) -> None:
        limits = Limits(padded_tokens=budget, waiting_items=100, waiting_tokens=20_000, window_tokens=500)
        self.batcher = Batcher(limits, policy=policy, rate=500.0)
        self.budget = budget
        self.memory = 10**9
        self.now = 0.0
        self.promises: list[Promise] = []
        self.batch: Batch | None = None
        self.abandoned = False

    @rule(
        lengths=lengths,
        poisoned=st.sets(st.integers(0, 29), max_size=2),
        group=st.sampled_from("xy"),
        caller=st.sampled_from("abc"),
        wait=st.none() | st.floats(0.01, 100),
    )
    def submit(self, lengths: list[int], poisoned: set[int], group: str, caller: str, wait: float | None) -> None:
        name = len(self.promises)
        payloads = [f"{name}.{i}.{POISON if i in poisoned else 'fine'}" for i in range(len(lengths))]
        deadline = None if wait is None else self.now + wait
        held = self.batcher.waiting_items
        try:
            ticket = self.batcher.submit(
                self.now, payloads, lengths, group=group, caller=caller, deadline=deadline, tag=name
            )
        except FullError as full:
            assert held > 0
            assert full.retry_after_s >= 1
        except TooLargeError as large:
            assert wait is not None
            assert large.seconds > wait
        except ClosedError:
            assert self.batcher.closed
        else:
            self.promises.append(Promise(ticket, payloads, deadline))

    @precondition(lambda self: self.batch is None)
    @rule()
    def form(self) -> None:
        step = self.batcher.next(self.now)
        if isinstance(step, Batch):
            self.batch = step
            assert len({item.ticket.group for item in step.items}) == 1
            if self.batcher.policy == "continuous":
                assert step.padded <= self.batcher.budget or len(step) == 1
            assert all(not item.ticket.over for item in step.items)

    @precondition(lambda self: self.batch is not None)
    @rule(took=st.floats(0.001, 5))
    def end(self, took: float) -> None:
        batch, self.batch = self.batch, None
        assert batch is not None
        self.now += took
        if batch.padded > self.memory:
            self.batcher.failed(batch, MemoryError(), self.now, memory=True)
        else:
            run(self.batcher, self.now, batch)

    @precondition(lambda self: self.batch is not None)
    @rule()
    def die(self) -> None:
        """The model thread: a batch of one would be blamed for it, so only larger ones are tried here."""
        assert self.batch is not None
        if len(self.batch) > 1 and self.batcher.policy == "continuous":
            batch, self.batch = self.batch, None
            self.batcher.failed(batch, SystemExit(), self.now)

    @rule(memory=st.sampled_from([700, 2000, 10**9]))
    def shrink(self, memory: int) -> None:
        self.memory = memory

    @rule(seconds=st.floats(0.01, 50))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.promises)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        promise = data.draw(st.sampled_from(self.promises))
        promise.cancelled |= not promise.ticket.over
        self.batcher.cancel(promise.ticket)

    @rule()
    def close(self) -> None:
        self.batcher.close()

    @rule()
    def abandon(self) -> None:
        self.abandoned = True
        self.batcher.abandon(ClosedError("no more time"))

    @rule()
    def told(self) -> None:
        for ticket in self.batcher.ended():
            self.promises[ticket.tag].told += 1

    @invariant()
    def counts_hold(self) -> None:
        waiting = [item for promise in self.promises for item in promise.ticket.items if item.waits]
        assert self.batcher.waiting_items == len(waiting)
        assert self.batcher.waiting_tokens == sum(item.tokens for item in waiting)
        assert min(FLOOR, self.budget) <= self.batcher.budget <= self.budget

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        self.memory = 10**9
        for _ in range(5000):
            if self.batch is None:
                self.form()
            if self.batch is None:
                step = self.batcher.next(self.now)
                if step is None:
                    break
                assert isinstance(step, Wake)
                self.now = max(self.now, step.at)
                continue
            self.end(0.1)
        self.told()
        assert self.batcher.idle
        assert self.batcher.waiting_items == 0
        for promise in self.promises:
            ticket = promise.ticket
            assert ticket.over
            assert promise.told == (not promise.cancelled), "told once, unless nobody listens"
            if promise.cancelled:
                continue
            if ticket.error is None:
                assert ticket.rows == [row(payload) for payload in promise.payloads]
            elif isinstance(ticket.error, ExpiredError):
                assert promise.deadline is not None
                assert promise.deadline <= self.now
            elif isinstance(ticket.error, ClosedError):
                assert self.abandoned
            else:
                assert isinstance(ticket.error, ItemError)
                if self.batcher.policy == "continuous":
                    at_fault = POISON in promise.payloads[ticket.error.index]
                    assert at_fault or ticket.error.memory
                    # Only an item that is too large for the device by itself may fail for memory.


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@given(
    arrivals=st.lists(st.tuples(st.floats(0, 60), lengths), min_size=1, max_size=40),
    memory=st.integers(600, 5000),
    budget=st.integers(64, 16_384),
)
@settings(max_examples=200, deadline=None)
def test_every_request_is_answered_with_its_own_rows_whatever_memory_there_is(arrivals, memory, budget):
    batcher = batcher_of(budget)
    tickets, _ = simulated(batcher, arrivals, lambda batch: 0.01 + batch.padded / 2000, memory)
    for number, (ticket, (_, sizes)) in enumerate(zip(tickets, sorted(arrivals), strict=True)):
        assert ticket.error is None
        assert ticket.rows == [row((number, index)) for index in range(len(sizes))]


@given(
    sizes=st.lists(st.integers(1, 512), min_size=1, max_size=200),
    later=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 512)), max_size=100),
)
@settings(max_examples=100, deadline=None)
def test_no_item_waits_longer_than_what_was_due_before_it_takes(sizes, later):
    """The bound that makes starving impossible: nothing that arrives after an item is due goes before it for long."""
    batcher = batcher_of(1024)
    arrivals = [(0.0, sizes), *((at, [size]) for at, size in later)]
    tickets, ends = simulated(batcher, arrivals, lambda batch: batch.padded / 1000, 10**9)
    first = min(tickets, key=lambda ticket: ticket.arrived)
    total = sum(sizes) + sum(size for _, size in later)
    assert all(ticket.over for ticket in tickets)
    assert first.over
    # Padding adds at most 1.5 to the tokens, and each batch may be one that is barely filled.
    assert max(ends) <= max((at for at, _ in arrivals), default=0) + total * 16 / 1000 + 1


def simulated(
    batcher: Batcher,
    arrivals: Sequence[tuple[float, Sequence[int]]],
    seconds: Callable[[Batch], float],
    memory: int,
) -> tuple[list[Ticket], list[float]]:
    """The tickets of the arrivals in their order, all over, and when: a queue that is never full, one model, a clock that jumps."""
    waiting = [(at, number, sizes) for number, (at, sizes) in enumerate(sorted(arrivals))]
    heapq.heapify(waiting)
    tickets: list[Ticket] = []
    now = 0.0
    ends: list[float] = []
    while waiting or not batcher.idle:
        while waiting and waiting[0][0] <= now:
            _, number, sizes = heapq.heappop(waiting)
            tickets.append(batcher.submit(now, [(number, index) for index in range(len(sizes))], sizes))
        step = batcher.next(now)
        if isinstance(step, Batch):
            now += seconds(step)
            if step.padded > memory:
                batcher.failed(step, MemoryError(), now, memory=True)
            else:
                batcher.answered(step, [row(payload) for payload in step.payloads], now)
            ends += [now] * len(batcher.ended())
        else:
            now = max(now, min([at for at, _, _ in waiting[:1]] + ([step.at] if step else [])))
    return tickets, ends


@dataclass
class Tally:
    done: int = 0
    failed: int = 0


def published_grid(policy: str) -> Tally:
    """The grid of Jina's published comparison, ten at a time, on a device that has room for 16,384 padded tokens."""
    tally = Tally()
    for count in (1, 32, 128):
        for size in (128, 512, 1024, 4096, 8192):
            batcher = batcher_of(8192, policy=policy, waiting_tokens=20_000_000)
            callers = [batcher.submit(0, list(range(count)), [size] * count) for _ in range(10)]
            now = 0.0
            while not batcher.idle:
                step = batcher.next(now)
                if isinstance(step, Wake):
                    now = step.at
                    continue
                assert isinstance(step, Batch)
                now += step.padded / 28_800
                if step.padded > 16_384:
                    batcher.failed(step, MemoryError(), now, memory=True)
                else:
                    batcher.answered(step, step.payloads, now)
            tally.done += sum(ticket.error is None for ticket in callers)
            tally.failed += sum(ticket.error is not None for ticket in callers)
    return tally


def test_the_published_grid_succeeds_whole_where_the_other_set_ups_fail():
    assert published_grid("continuous").failed == 0
    alone, window = published_grid("none"), published_grid("window")
    assert alone.failed >= 0.4 * (alone.done + alone.failed)
    assert window.failed >= 0.4 * (window.done + window.failed)


def test_mixed_lengths_are_padded_little():
    chance = random.Random(6)
    batcher = batcher_of(1024)
    for _ in range(40):
        count = chance.choice([1, 8, 32])
        batcher.submit(0, list(range(count)), [chance.choice([16, 64, 128, 256, 512]) for _ in range(count)])
    tokens = padded = 0
    for batch in drain(batcher):
        tokens, padded = tokens + batch.tokens, padded + batch.padded
    assert tokens / padded > 0.89
