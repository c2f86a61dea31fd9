"""
What goes wrong on request: which fault meets which call, and what it makes of an answer. No clock, no I/O.

Whether a fault strikes follows from the call, from how many it has met, and from a number that is a hash of the seed
and that count. So the same calls meet the same faults, in whatever order their answers come.

    throttle     ThrottlingException, status 400                    stall        waits ``seconds``, then goes on
    error        a ``status`` of AWS's own, 500 by default          reset        the connection breaks, unanswered
    model-error  ModelError with the container's ``status``; 0:     truncate     ... or after half of the answer
                 it did not answer in time
    reorder      rows come back in another order                    drop         the last row is missing
    never-ready  an endpoint stays Creating, or Updating            failed       it fails for ``reason``
    hidden       what is made is not seen by the next ``reads``     pause        waits, ``when`` before or after it
                                                                                 takes effect, until released
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import orjson

from jina_sm.errors import InputError

# Which operations each kind strikes, unless it is told.
KINDS: Mapping[str, str] = {
    "throttle": "*",
    "error": "*",
    "model-error": "InvokeEndpoint*",
    "stall": "*",
    "reset": "*",
    "truncate": "InvokeEndpoint",
    "reorder": "InvokeEndpoint",
    "drop": "InvokeEndpoint",
    "never-ready": "*",
    "failed": "*",
    "hidden": "*",
    "pause": "*",
}
# Where a kind can strike at all, as the beginnings of operations' names.
_MUTATING = (
    "Create",
    "Update",
    "Delete",
    "Add",
    "Accept",
    "Cancel",
    "Start",
    "Request",
    "Put",
    "Register",
    "Deregister",
)
_MEETS: Mapping[str, tuple[str, ...]] = {
    "model-error": ("InvokeEndpoint",),
    "reorder": ("InvokeEndpoint",),
    "drop": ("InvokeEndpoint",),
    "never-ready": ("CreateEndpoint", "UpdateEndpoint"),
    "failed": ("CreateEndpoint", "UpdateEndpoint"),
    "hidden": ("CreateModel", "CreateEndpoint", "AcceptAgreementRequest"),
    "pause": _MUTATING,
}
_ENDPOINTS = ("CreateEndpoint", "UpdateEndpoint")
_ENDING = frozenset({"throttle", "error", "model-error", "reset"})  # the call comes no further

# What each fact may be, also where it comes over HTTP.
_KINDS_OF_FACT: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("kind", "operation", "region", "reason", "when"), str),
    **dict.fromkeys(("nth", "reads"), int),
    **dict.fromkeys(("count", "status"), (int, type(None))),
    "rate": (int, float),
    "seconds": (int, float, type(None)),
}
# Why endpoints come up Failed, in AWS's words. {name}: the endpoint's; {type}: its instances'.
REASONS: Mapping[str, str] = {
    "capacity": "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error. Please "
    "retry using a different ML instance type or after some time.",
    "request": "Request to service failed. If failure persists after retry, contact customer support.",
    "health": "The primary container for production variant AllTraffic did not pass the ping health check. Please "
    "check CloudWatch logs for this endpoint.",
    "container": "CannotStartContainerError. Please ensure the model container for variant AllTraffic starts correctly "
    "when invoked with 'docker run <image> serve'.",
    "download": "The model data download for the primary container of production variant AllTraffic timed out.",
    "quota": "The account-level service limit 'ml.g5.xlarge for endpoint usage' is 0 Instances, with current "
    "utilization of 0 Instances and a request delta of 1 Instances. Please use AWS Service Quotas to request an "
    "increase for this quota.",
    "not-subscribed": "Caller is not subscribed to the marketplace offering.",
}


# What a container writes that fails for "health"; the other reasons keep it from being started.
UNHEALTHY = (
    "local stack: no container ran here; this is what one might have written",
    "INFO: starting the model server on 0.0.0.0:8080",
    "INFO: loading the weights",
    "ERROR: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "INFO: GET /ping 503",
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong. ``operation`` and ``region`` are patterns; it skips the first ``nth - 1`` calls it
    meets, then strikes at ``rate``, ``count`` times at most."""

    kind: str
    operation: str = ""
    region: str = "*"
    rate: float = 1.0
    count: int | None = None
    nth: int = 1
    status: int | None = None
    seconds: float | None = None
    reads: int = 1
    reason: str = ""
    when: str = "before"

    def __post_init__(self) -> None:
        for name, kind in _KINDS_OF_FACT.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise InputError(f"{name} cannot be {value!r}")
        if self.kind not in KINDS:
            raise InputError(f"there is no fault {self.kind!r}; there are {', '.join(KINDS)}")
        if not 0 <= self.rate <= 1 or self.nth < 1 or self.reads < 1 or (self.count is not None and self.count < 1):
            raise InputError("a rate is from 0 to 1; count, nth and reads are at least 1")
        if self.status is not None and not (
            400 <= self.status <= 599 or (self.kind == "model-error" and not self.status)
        ):
            raise InputError("a status is from 400 to 599; that of a model-error may be 0, which is a time-out")
        if self.kind == "stall" and not self.seconds:
            raise InputError("a stall needs its seconds")
        if self.seconds is not None and not 0 <= self.seconds < float("inf"):
            raise InputError(f"seconds cannot be {self.seconds}")
        if self.when not in ("before", "after"):
            raise InputError(f"a pause is before or after the call takes effect, not {self.when!r}")

    def meets(self, operation: str, region: str) -> bool:
        """Whether the fault is about such calls at all."""
        return fnmatchcase(region, self.region) and self.fits(operation)

    def fits(self, operation: str) -> bool:
        """Whether it is about such an operation, in some region."""
        return (
            fnmatchcase(operation, self.operation or KINDS[self.kind])
            and operation.startswith(_MEETS.get(self.kind, ("",)))
            and not (self.kind in ("never-ready", "failed") and operation not in _ENDPOINTS)
        )

    @property
    def most(self) -> int | None:
        """A pause is for one call unless it is told."""
        return 1 if self.kind == "pause" and self.count is None else self.count

    @property
    def why(self) -> str:
        """AWS's words for the reason, or the reason as it was given."""
        return REASONS.get(self.reason, self.reason) or REASONS["request"]


def strikes(fault: Fault, *, seen: int, fired: int, chance: float) -> bool:
    """Whether the call, the ``seen``-th that the fault meets, is struck."""
    return seen >= fault.nth and (fault.most is None or fired < fault.most) and chance < fault.rate


@dataclass
class Tally:
    """A fault and what has come of it."""

    number: int
    fault: Fault
    seen: int = 0
    fired: int = 0


class Faults:
    """Those asked for, in the order in which they were."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._added = 0
        self.tallies: list[Tally] = []

    def add(self, asked: Mapping[str, Any], among: Iterable[str] = ()) -> int:
        """The number of a new fault. Raises InputError, also for one that strikes none ``among`` the operations."""
        try:
            fault = Fault(**asked)
        except TypeError as error:
            raise InputError(f"not a fault: {error}") from None
        if among and not any(map(fault.fits, among)):
            raise InputError(
                f"{fault.kind} strikes nothing that {fault.operation!r} fits",
                cure="Operations are spelled as AWS spells them; no fault strikes those of IAM, S3 and others by moto.",
            )
        self._added += 1
        self.tallies.append(Tally(self._added, fault))
        return self._added

    def clear(self) -> None:
        self.tallies.clear()
        self._added = 0  # chance follows from a fault's number: the next run meets what this one met

    def firing(self, operation: str, region: str) -> list[Tally]:
        """Those that strike this call, up to one that ends it; it is counted."""
        struck = []
        for tally in self.tallies:
            if tally.fault.meets(operation, region):
                tally.seen += 1
                digest = hashlib.sha256(f"{self._seed} {tally.number} {tally.seen}".encode()).digest()
                chance = int.from_bytes(digest[:6]) / 2**48
                if strikes(tally.fault, seen=tally.seen, fired=tally.fired, chance=chance):
                    tally.fired += 1
                    struck.append(tally)
                    if tally.fault.kind in _ENDING:
                        break
        return struck


def told(tally: Tally, waiting: int) -> dict[str, Any]:
    """A fault as it is listed: what was asked, and what came of it."""
    given = {name: value for name, value in asdict(tally.fault).items() if value not in (None, "")}
    given.setdefault("operation", KINDS[tally.fault.kind])
    return {"id": tally.number, **given, "seen": tally.seen, "fired": tally.fired, "waiting": waiting}


def disordered(kind: str, body: bytes) -> bytes:
    """An answer with its rows in another order, or without its last one; as it was if it has no rows."""
    try:
        said = orjson.loads(body)
        rows = said["data"]
        if rows and "results" in rows[0]:
            rows = rows[0]["results"]
    except (ValueError, KeyError, TypeError):
        return body
    rows[:] = rows[:-1] if kind == "drop" else rows[1:] + rows[:1]
    return orjson.dumps(said)
