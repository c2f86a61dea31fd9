"""
What the caller may not do, as far as the scenario says: IAM's SimulatePrincipalPolicy, which moto has not, and the
refusals of the calls themselves.

Without a scenario everything is allowed, but nothing to the access key DENIED.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from xml.sax.saxutils import escape

from jina_sm.local.protocol import Reply

PATTERN = re.compile(r"[a-z0-9*-]+:[A-Za-z*]+(@[a-z0-9-]+)?")
"""Of an action that is denied, everywhere or, after an @, in one region."""

_SPOKEN = "https://iam.amazonaws.com/doc/2010-05-08/"
_UNSIMULATED = re.compile(r":(root$|assumed-role/|federated-user/)")


def denies(denied: Iterable[str], action: str, region: str) -> bool:
    """Whether the action is denied in that region."""
    for each in denied:
        pattern, _, only = each.partition("@")
        if fnmatchcase(action.lower(), pattern.lower()) and only in ("", region):
            return True
    return False


def simulated(body: bytes, *, denied: Iterable[str]) -> Reply | None:
    """The answer; None: the form asks for something else.

    As AWS answers now: one result an action, which is the strictest of those on each resource. A denial that depends
    on the region is one of a key that is missing, unless the region is told.
    """
    form = {name: value[0] for name, value in urllib.parse.parse_qs(body.decode(errors="replace")).items()}
    if form.get("Action") != "SimulatePrincipalPolicy":
        return None
    source = form.get("PolicySourceArn", "")
    if _UNSIMULATED.search(source):
        return _answer(
            f"<Error><Code>InvalidInput</Code><Message>Invalid Entity Arn: {escape(source)}</Message></Error>"
        )
    if source.endswith("/DENIED"):
        denied = ["*:*"]
    patterns, context = [*denied], _context(form)
    resources = [*_members(form, "ResourceArns")] or ["*"]
    results = [
        _result(action, resources, *_decision(patterns, action, context)) for action in _members(form, "ActionNames")
    ]
    members = "".join(f"<member>{each}</member>" for each in results)
    return _answer(f"<IsTruncated>false</IsTruncated><EvaluationResults>{members}</EvaluationResults>")


def refusal(user: str, action: str) -> str:
    """What AWS says then."""
    return (
        f"User: {user} is not authorized to perform: {action} on resource: * because no identity-based policy allows "
        f"the {action} action"
    )


def _decision(patterns: list[str], action: str, context: Mapping[str, str]) -> tuple[str, str]:
    """The word, and the key that was missing for it."""
    region = context.get("aws:RequestedRegion")
    if denies(patterns, action, region or ""):
        return "implicitDeny", ""
    if region is None and any(denies([each], action, each.partition("@")[2]) for each in patterns):
        return "implicitDeny", "aws:RequestedRegion"
    return "allowed", ""


def _result(action: str, resources: list[str], word: str, missing: str) -> str:
    lacking = f"<member>{missing}</member>" if missing else ""
    whole = f"<MatchedStatements/><MissingContextValues>{lacking}</MissingContextValues>"
    each = "".join(
        f"<member><EvalResourceName>{escape(resource)}</EvalResourceName>"
        f"<EvalResourceDecision>{word}</EvalResourceDecision>{whole}</member>"
        for resource in resources
    )
    return (
        f"<EvalActionName>{escape(action)}</EvalActionName><EvalResourceName>{escape(resources[0])}</EvalResourceName>"
        f"<EvalDecision>{word}</EvalDecision>{whole}<ResourceSpecificResults>{each}</ResourceSpecificResults>"
    )


def _answer(said: str) -> Reply:
    name, status = ("ErrorResponse", 400) if said.startswith("<Error>") else ("SimulatePrincipalPolicyResponse", 200)
    inner = said if status == 400 else f"<SimulatePrincipalPolicyResult>{said}</SimulatePrincipalPolicyResult>"
    words = (
        f'<{name} xmlns="{_SPOKEN}">{inner}<ResponseMetadata><RequestId>local</RequestId></ResponseMetadata></{name}>'
    )
    return Reply(words.encode(), status, {"Content-Type": "text/xml"})


def _members(form: Mapping[str, str], name: str) -> Iterator[str]:
    number = 1
    while (key := f"{name}.member.{number}") in form:
        yield form[key]
        number += 1


def _context(form: Mapping[str, str]) -> dict[str, str]:
    """By key, the first of its values."""
    found, number = {}, 1
    while (key := f"ContextEntries.member.{number}.ContextKeyName") in form:
        value = f"ContextEntries.member.{number}.ContextKeyValues.member.1"
        found[form[key]] = form.get(value, "")
        number += 1
    return found
