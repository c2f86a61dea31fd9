"""
IAM's SimulatePrincipalPolicy, which moto has not: everything is allowed, but nothing to the access key DENIED.
"""

from __future__ import annotations

import urllib.parse
from xml.sax.saxutils import escape

from jina_sm.local.protocol import Reply

_BEGIN = '<SimulatePrincipalPolicyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">'


def simulated(body: bytes, *, denied: bool) -> Reply | None:
    """The answer; None: the form asks for something else."""
    form = urllib.parse.parse_qs(body.decode(errors="replace"))
    if form.get("Action") != ["SimulatePrincipalPolicy"]:
        return None
    resources = [form[name][0] for name in sorted(form) if name.startswith("ResourceArns.")] or ["*"]
    decision = "implicitDeny" if denied or form["PolicySourceArn"][0].endswith("/DENIED") else "allowed"
    members = "".join(
        f"<member><EvalActionName>{escape(form[name][0])}</EvalActionName>"
        f"<EvalResourceName>{escape(resource)}</EvalResourceName><EvalDecision>{decision}</EvalDecision>"
        "<MatchedStatements/><MissingContextValues/></member>"
        for name in sorted(form, key=lambda name: (len(name), name))
        if name.startswith("ActionNames.")
        for resource in resources
    )
    said = (
        f"{_BEGIN}<SimulatePrincipalPolicyResult><IsTruncated>false</IsTruncated>"
        f"<EvaluationResults>{members}</EvaluationResults></SimulatePrincipalPolicyResult>"
        "<ResponseMetadata><RequestId>local</RequestId></ResponseMetadata></SimulatePrincipalPolicyResponse>"
    )
    return Reply(said.encode(), 200, {"Content-Type": "text/xml"})
