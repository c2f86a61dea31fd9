"""
Asynchronous inference of an endpoint, as a value: requests wait in a queue of AWS's, and results go to S3.

Whether Marketplace packages take it is not settled: AWS's documentation has it so, one vendor says not. So it is only
there where it is asked for, and AWS has the last word when the endpoint is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNVERIFIED = "AWS documents it for Marketplace packages, a vendor says they do not take it: not verified"


@dataclass(frozen=True, kw_only=True)
class Asynchronous:
    """Where results and failures go, and how many requests an instance has at once; topics are told of each."""

    output: str
    at_once: int
    failure: str | None = None
    success_topic: str | None = None
    error_topic: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """As CreateEndpointConfig takes it."""
        topics = {"SuccessTopic": self.success_topic, "ErrorTopic": self.error_topic}
        told = {name: topic for name, topic in topics.items() if topic}
        output: dict[str, Any] = {"S3OutputPath": self.output}
        if self.failure:
            output["S3FailurePath"] = self.failure
        if told:
            output["NotificationConfig"] = told
        return {"OutputConfig": output, "ClientConfig": {"MaxConcurrentInvocationsPerInstance": self.at_once}}


def described(config: Mapping[str, Any]) -> str:
    """What AWS tells of it, in words; "": it is not there."""
    if not config:
        return ""
    output, client = config.get("OutputConfig", {}), config.get("ClientConfig", {})
    topics = output.get("NotificationConfig", {})
    said = [
        f"to {output.get('S3OutputPath', 'the default bucket')}",
        f"failures to {output['S3FailurePath']}" if output.get("S3FailurePath") else "",
        f"{client.get('MaxConcurrentInvocationsPerInstance', 'as many')} at once",
        *(f"tells {topic}" for topic in (topics.get("SuccessTopic"), topics.get("ErrorTopic")) if topic),
    ]
    return ", ".join(each for each in said if each)
