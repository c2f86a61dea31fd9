"""
AWS sessions and clients as we want them, and what any AWS call can meet.

boto3 is imported when the first session is made.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jina_sm.errors import AuthError, DeployError, InputError, JinaSMError

# AWS's names for credentials that are wrong, old or not enough; each service has its own.
STALE = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
UNKNOWN = frozenset(
    {
        "InvalidClientTokenId", "UnrecognizedClientException", "InvalidSignatureException", "SignatureDoesNotMatch",
        "MissingAuthenticationToken", "MissingAuthenticationTokenException", "IncompleteSignature",
        "InvalidAccessKeyId", "AuthFailure", "OptInRequired",
    }
)  # fmt: skip
DENIED = frozenset({"AccessDeniedException", "AccessDenied", "UnauthorizedOperation", "NotAuthorized"})
_NOT_ALLOWED = re.compile(r"not authorized to perform: ([a-z0-9-]+:\w+)(?: on resource: (\S+))?")
# Refusals that no policy of one's own mends, by AWS's words.
_ELSEWHERE = (
    ("service control policy", "A service control policy of the organisation forbids it: ask whoever manages that."),
    ("resource control policy", "A resource control policy of the organisation forbids it: ask whoever manages that."),
    ("permissions boundary", "The permissions boundary of this identity must allow it too."),
    ("session policy", "The policy of this session must allow it too: take a session without one, or a wider one."),
    ("explicit deny", "A policy denies it, which no other policy mends: ask whoever manages the account."),
)
_CURE = "Check `aws sts get-caller-identity`, or sign in again (`aws sso login`, `aws configure`)."

LOCAL_PORT = 8471
ATTEMPTS = 7
_making = threading.Lock()  # boto3 sessions are not thread-safe while they make a client


def session(profile: str | None = None) -> Any:
    """A boto3 session of the profile, else of the environment. Raises InputError for a profile that is not there."""
    import boto3
    import botocore.exceptions

    try:
        return boto3.Session(profile_name=profile)
    except botocore.exceptions.ProfileNotFound as error:
        raise InputError(str(error), cure="`aws configure list-profiles` lists yours.") from None
    except botocore.exceptions.BotoCoreError as error:
        raise InputError(f"the AWS settings cannot be read: {line(error)}") from None


def local_port(environ: Mapping[str, str] = os.environ) -> int:
    """The port of the local stack: JINA_SM_LOCAL_PORT, else 8471. Raises InputError for what is no port."""
    said = environ.get("JINA_SM_LOCAL_PORT", str(LOCAL_PORT))
    if not said.isdecimal() or not 0 < int(said) < 65536:
        raise InputError(f"JINA_SM_LOCAL_PORT={said!r} is not a port")
    return int(said)


def local_session(region: str) -> Any:
    """A session that the local stack accepts, whatever AWS settings are around."""
    import boto3

    return boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name=region)


def client(aws: Any, service: str, region: str, *, url: str | None = None, **settings: Any) -> Any:
    """A client of one service in one region. ``settings`` are botocore's Config, retries left to it unless given.

    It then tries ``ATTEMPTS`` times, or as often as AWS_MAX_ATTEMPTS says: who lists sixteen regions at once is
    throttled, and 7 attempts last 26 s on average, 51 s at most.
    """
    import botocore.config
    import botocore.exceptions

    config = botocore.config.Config(**{"connect_timeout": 5, "retries": _retries(), **settings})
    with _making, translated(region=region):
        try:
            return aws.client(service, region_name=region, endpoint_url=url, config=config)
        except ValueError as error:  # an endpoint that is no URL, a number that is none
            raise InputError(f"the AWS settings do not work: {line(error)}") from None


def _retries() -> dict[str, Any]:
    said = {} if os.environ.get("AWS_MAX_ATTEMPTS") else {"total_max_attempts": ATTEMPTS}
    return {"mode": "standard", **said}


@contextmanager
def translated(
    *, region: str, target: str | None = None, unreachable: type[JinaSMError] = DeployError
) -> Iterator[None]:
    """What stopped a call before any service judged it, in our words. ClientErrors pass through."""
    import botocore.exceptions as boto

    try:
        yield
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError) as error:
        raise AuthError(f"no AWS credentials: {line(error)}", cure=_CURE, target=target, region=region) from None
    except (boto.TokenRetrievalError, boto.SSOError, boto.RefreshWithMFAUnsupportedError) as error:
        raise AuthError(f"AWS sign-in has expired: {line(error)}", cure=_CURE, target=target, region=region) from None
    except boto.ProfileNotFound as error:
        raise InputError(str(error), cure="`aws configure list-profiles` lists yours.") from None
    except (boto.InvalidRegionError, boto.NoRegionError) as error:
        raise InputError(line(error), cure="Name a region such as us-east-1.") from None
    except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError) as error:
        raise unreachable(f"AWS could not be reached: {line(error)}", target=target, region=region) from error
    except boto.BotoCoreError as error:
        raise InputError(f"the AWS settings or parameters do not work: {line(error)}") from error


def auth_error(code: str, message: str, *, region: str | None, target: str | None = None) -> JinaSMError | None:
    """AWS's refusal of who is asking, as ours; None where the code is about something else."""
    facts: dict[str, Any] = {"code": code, "region": region, "target": target}
    if code in STALE:
        return AuthError(f"the AWS credentials have expired: {line(message)}", cure=_CURE, **facts)
    if code in UNKNOWN:
        return AuthError(f"AWS does not accept these credentials: {line(message)}", cure=_CURE, **facts)
    if code in DENIED:
        action, cure = _missing(message)
        refused = AuthError(line(message), cure=cure, **facts)
        refused.action = action
        return refused
    return None


def _missing(message: str) -> tuple[str | None, str]:
    """The permission that is missing, by AWS's words for it, and who can give it."""
    from jina_sm.deploy import policies

    named = _NOT_ALLOWED.search(message)
    if named is None:
        return None, "Ask whoever manages the account for that permission."
    action, resource = named[1], (named[2] or "").rstrip(".,;")
    for words, cure in _ELSEWHERE:
        if words in message:
            return action, cure
    if who := policies.allowing(action, resource):
        return action, f"The policy that `jina-sm iam {who}` prints allows {action} on what this tool makes."
    if action == "iam:PassRole":
        return action, f"`jina-sm iam operator --role-arn {resource}` prints a policy that allows it."
    return action, f"Ask whoever manages the account for {action}" + (f" on {resource}." if resource else ".")


def line(error: object) -> str:
    """One line, and no password that somebody put into a URL."""
    return re.sub(r"//[^/@\s]+@", "//***@", " ".join(str(error).split())).rstrip(".")
