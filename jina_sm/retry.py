"""
When to try again, and where.

One retry loop, ours: botocore is told one attempt, since two loops multiply. What to do depends on what went wrong,
by kind and never by status, and every bound is in requests and in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jina_sm import errors


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one kind of failure allows.

    ``repeats``: how often the same items may be sent again for this reason. ``base_s``: the first wait, doubling
    after. ``elsewhere``: another region may do better. ``split``: half of it may do better. ``isolate``: one item
    may be to blame for the others; halves tell which.
    """

    repeats: int = 0
    base_s: float = 0.0
    elsewhere: bool = False
    split: bool = False
    isolate: bool = False

    @property
    def alone(self) -> bool:
        """Whether one item may be to blame by itself, and the rest go on without it."""
        return self.split or self.isolate


HEDGE_AFTER = 2.5
NEVER = Rule()
RULES: Mapping[type[errors.JinaSMError], Rule] = {
    errors.ThrottledError: Rule(repeats=5, base_s=1.0, elsewhere=True),
    errors.ModelUnavailableError: Rule(repeats=4, base_s=0.5, elsewhere=True),
    # The container goes on with what timed out, so the same again only doubles its load: halves, or elsewhere.
    errors.ModelTimeoutError: Rule(repeats=1, base_s=1.0, elsewhere=True, split=True),
    errors.PayloadTooLargeError: Rule(split=True),
    errors.BadRequestError: Rule(isolate=True),
    # Older containers say 500 for bad input too: once more, then believe it.
    errors.ModelFailedError: Rule(repeats=1, base_s=0.5, isolate=True),
    errors.ProtocolError: Rule(repeats=1, base_s=0.1, isolate=True),
    errors.EndpointNotFoundError: Rule(elsewhere=True),
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The bounds of trying again.

    ``attempts`` and ``seconds`` count from when the items were first sent; ``seconds`` ends trying, not a request
    under way. ``longest_s`` bounds one wait, a ``Retry-After`` too. ``rest_s``: for how long a target that failed is
    passed over while others are there, doubling up to ten times that while it goes on failing.

    ``budget``: all calls of a client share so many repeats; five answers earn one back. With everything failing,
    retries then end instead of adding to the load. Turning to a target that is well costs none. ``hedge_after``: with
    nothing else to send, a request that has taken so many times as long as usual is sent once more, and the first
    answer counts; 0: never. None: 2.5, but never by a client that asks Jina's API, which bills the tokens of both.
    """

    attempts: int = 6
    seconds: float = 180.0
    longest_s: float = 20.0
    rest_s: float = 30.0
    budget: int = 100
    hedge_after: float | None = None

    def __post_init__(self) -> None:
        rest = (self.seconds, self.longest_s, self.rest_s, self.budget, self.hedge_after or 0.0)
        if not (self.attempts >= 1 and all(each >= 0 for each in rest)):  # so put, NaN is refused too
            raise errors.InputError(f"{self!r}: attempts is 1 or more, and nothing is negative")


def rule(error: errors.JinaSMError) -> Rule:
    """The rule for what went wrong. Whatever is not listed is never repeated."""
    return RULES.get(type(error), NEVER)


def wait_s(policy: Policy, error: errors.JinaSMError, failures: int, random: float) -> float:
    """Seconds to wait after so many failures: full jitter, or what the service asked for."""
    if error.retry_after_s is not None:
        return min(error.retry_after_s, policy.longest_s)
    return random * min(rule(error).base_s * 2.0 ** (failures - 1), policy.longest_s)
