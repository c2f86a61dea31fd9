"""
What both ways to run the machine share: who waits for a call, what came of a request, and who is told.

The ways are ``threads`` and ``tasks``. Each asks ``exchange`` what to do, does it, and says what came of it. What is to
be done is decided there, what a request says in ``calls``; with them is only waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jina_sm import calls
from jina_sm.calls import Job
from jina_sm.errors import DeadlineExceededError, JinaSMError, ProtocolError
from jina_sm.exchange import Event, Send
from jina_sm.tokens import Lengths
from jina_sm.transport import Response

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Ticket:
    """A job under way: who waits for it, and what is kept beside its result."""

    job: Job[Any]
    over: Any  # threading.Event or asyncio.Future
    keep: list[Response] | None = None
    decode_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Came:
    reply: calls.Reply
    response: Response


class Target(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def region(self) -> str | None: ...


def tell(told: Callable[[Event], object] | None, events: Sequence[Event]) -> None:
    """To the log, and to whoever asked."""
    for event in events:
        _log.debug("%s", event)
        if told is not None:
            try:
                told(event)
            except Exception:
                _log.exception("on_event failed at %s", event.kind)


def learnt(lengths: Lengths, send: Send[Ticket], tokens: int) -> None:
    """The endpoint counted exactly what was only estimated."""
    items = [piece.call.job.job.items[item] for piece in send.pieces for item in piece.items]
    if all(isinstance(item, str) for item in items) and send.pieces[0].call.job.job.named == "texts":
        lengths.learn(items, tokens)


def broken(error: BaseException, target: Target) -> JinaSMError:
    """Whatever a transport or a decoder raised, as ours: whoever waits must hear of it rather than wait for ever."""
    if isinstance(error, JinaSMError):
        if isinstance(error, ProtocolError):
            error.target, error.region = target.name, target.region
        return error
    ours = JinaSMError(f"unexpected {type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours


def late(timeout_s: float, target: Target) -> JinaSMError:
    """What becomes of a stream whose time is up."""
    return DeadlineExceededError(
        f"not all of it came within {timeout_s:.3g} s", target=target.name, region=target.region
    )


def noted(send: Send[Ticket], came: Came) -> None:
    """Beside what it answers, which is nothing if another copy came before."""
    waiting = [piece.call for piece in send.pieces if not piece.settled and not piece.call.over]
    for ticket in {id(call): call.job for call in waiting}.values():
        ticket.decode_s += came.reply.decode_s
        if ticket.keep is not None:
            ticket.keep.append(came.response)
