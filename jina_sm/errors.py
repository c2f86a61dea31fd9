"""
What can go wrong, drawn once.

    JinaSMError
        InputError                  what was asked cannot be done; nothing was sent
            MissingExtraError       an optional part of the package is not installed
        AuthError                   no credentials, stale ones, or ones that may not do this
        InvocationError             an endpoint was asked
            BadRequestError         ... and refused what it was given
            EndpointNotFoundError   ... and is not there
            PayloadTooLargeError    ... and the body was too large, either way
            ThrottledError          ... too often
            ModelTimeoutError       ... and took longer than the service allows (60 s)
            ModelUnavailableError   ... and could not serve: loading, overloaded, unreachable
            ModelFailedError        ... and its model raised (500): perhaps the input, perhaps not
            ProtocolError           ... and what it answered cannot be right
            DeadlineExceededError   ... and had not answered when the caller's time was up
        DeployError                 AWS was asked to make or remove something
            NotSubscribedError      the account has not subscribed to the model package
            NameTakenError          the name belongs to something this tool did not make
            QuotaError              the account may not have that many instances
            CapacityError           AWS has no such instance to give just now
            EndpointFailedError     the endpoint came up Failed; the message is AWS's reason
                HealthCheckError    ... its container started and did not answer /ping in time
                RoleError           ... its execution role may not do what is needed, or cannot be assumed
        PartialError                part is done; it says what is, what is not, and where

Facts are attributes; the message says which, where, how often, and what now.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class JinaSMError(Exception):
    """Every error of this package.

    ``cure`` is the next thing to do, as a sentence or a command. ``code`` is the service's own name of the error,
    ``status`` the HTTP status of the model's container where that answered, else of the service. ``attempts``
    counts requests sent, the first included. ``index`` is the place, in what was given, of the one item that is to
    blame, if one is; ``item`` is its name, as in ``texts[3]``.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        cure: str | None = None,
        target: str | None = None,
        region: str | None = None,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        log_link: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure
        self.target = target
        self.region = region
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.log_link = log_link
        self.attempts: int | None = None
        self.index: int | None = None
        self.item: str | None = None

    def __reduce__(self) -> Any:
        """To copy or to pickle one, whatever its kind takes to be made."""
        return Exception.__new__, (type(self), *self.args), self.__dict__

    def __str__(self) -> str:
        where = " in ".join(fact for fact in (self.target, self.region) if fact)
        facts = [
            where,
            f"status {self.status}" if self.status else "",
            f"after {self.attempts} attempts" if self.attempts and self.attempts > 1 else "",
            f"request id {self.request_id}" if self.request_id else "",
            f"logs: {self.log_link}" if self.log_link else "",
        ]
        known = ", ".join(fact for fact in facts if fact)
        said = f"{self.item}: {self.message}" if self.item else self.message
        whole = said + (f" ({known})" if known else "")
        return whole + ("" if whole.endswith((".", "?", "!")) else ".") + f" {self.cure}" if self.cure else whole


class InputError(JinaSMError, ValueError):
    """What was asked cannot be done; nothing was sent. Names the item and the cure."""

    exit_code = 2


class MissingExtraError(InputError):
    """An optional part of the package is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs an extra: pip install "jina_sm[{extra}]"')


class AuthError(JinaSMError):
    """No credentials, stale ones, or ones that may not do this.

    ``action`` is the permission that is missing, as IAM calls it (``sagemaker:CreateModel``), where AWS named it.
    """

    action: str | None = None


class InvocationError(JinaSMError):
    """An endpoint was asked, and no usable answer came."""


class BadRequestError(InvocationError):
    """The endpoint refused what it was given; sending it again changes nothing."""


class EndpointNotFoundError(InvocationError):
    """There is no endpoint of that name to invoke."""


class PayloadTooLargeError(InvocationError):
    """The body was larger than the service or the container takes."""


class ThrottledError(InvocationError):
    """Too many requests; ``retry_after_s`` where the service said how long to wait."""


class ModelTimeoutError(InvocationError):
    """The model took longer than the service allows. The work goes on in the container, so don't repeat it blindly."""


class ModelUnavailableError(InvocationError):
    """The endpoint could not serve: loading, overloaded, or unreachable."""


class ModelFailedError(InvocationError):
    """The model raised (status 500). Older containers say so for bad input too."""


class ProtocolError(InvocationError):
    """The answer cannot be right: not JSON, the wrong number of rows, not finite."""


class DeadlineExceededError(InvocationError):
    """The time that the caller gave was up before the answer was there."""


class DeployError(JinaSMError):
    """AWS refused to make, change or remove something.

    Where an endpoint was waited for: ``seconds_in``, how long it was in each status; and where it failed,
    ``log_group`` with the last lines of its log in ``log_tail``. ``launched``: whether there is a log at all, without
    which its container never started; None: that could not be found out.
    """

    seconds_in: Mapping[str, float] = MappingProxyType({})
    log_group: str | None = None
    log_tail: tuple[str, ...] = ()
    launched: bool | None = None


class NotSubscribedError(DeployError):
    """The account has not subscribed to the model package."""


class NameTakenError(DeployError):
    """The name belongs to something that carries no tag of this tool."""


class QuotaError(DeployError):
    """The account's quota does not allow that many instances."""


class CapacityError(DeployError):
    """AWS has no such instance to give just now."""


class EndpointFailedError(DeployError):
    """The endpoint came up Failed; the message is AWS's reason."""


class HealthCheckError(EndpointFailedError):
    """The container started, and did not answer its health check in time."""


class RoleError(EndpointFailedError):
    """The execution role may not do what is needed, or SageMaker cannot assume it."""


class PartialError(JinaSMError):
    """Part is done. ``done`` names what is, ``failed`` maps what is not to its error."""

    def __init__(self, message: str, *, done: tuple[str, ...], failed: Mapping[str, JinaSMError]) -> None:
        super().__init__(message)
        self.done = done
        self.failed = failed
