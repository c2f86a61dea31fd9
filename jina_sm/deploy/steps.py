"""
What a plan is made of: calls, as boto3 spells them, and waiting; and the tags that make a thing ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OWNER = ("managed-by", "jina-sm")
MODEL_TAG = "jina-sm:model"
ENDPOINT_TAG = "jina-sm:endpoint"
VARIANT = "AllTraffic"

# Who is named by which parameter; the first that a call has.
_NAMED_BY = (
    "RoleName",
    "EndpointName",
    "EndpointConfigName",
    "ModelName",
    "ResourceId",
    "ResourceArn",
    "logGroupName",
    "AlarmName",
    "AlarmNames",
)


@dataclass(frozen=True)
class Call:
    """One call to an AWS service, as boto3 spells it."""

    operation: str
    params: Mapping[str, Any]
    service: str = "sagemaker"

    @property
    def name(self) -> str:
        """The name of what is made, changed or removed; of a scaling target or policy, its endpoint's."""
        named = next((self.params[key] for key in _NAMED_BY if key in self.params), None) or self.params["Name"]
        said = ", ".join(named) if isinstance(named, list) else str(named)
        if "ResourceId" in self.params:  # endpoint/NAME/variant/VARIANT
            return said.split("/")[1]
        return said.rpartition("/")[2]

    def __str__(self) -> str:
        said = f"{self.operation.replace('_', ' ')} {self.name}"
        if "ResourceId" in self.params and "PolicyName" in self.params:
            said += f": {self.params['PolicyName']}"
        if when := self.params.get("ScheduleExpression"):
            said += f": delete endpoint {when} UTC"
        for each in self.params.get("DesiredWeightsAndCapacities", ()):
            said += f": {each['DesiredInstanceCount']} instances"
        return said


@dataclass(frozen=True)
class Wait:
    """Until the endpoint's status is one of these; ``None`` stands for gone.

    ``config``: and it serves this one. An update that failed ends in service too, with the config from before.
    """

    endpoint: str
    until: frozenset[str | None]
    config: str | None = None

    def __str__(self) -> str:
        ends = {GONE: "is gone", IN_SERVICE: "is in service"}
        return f"wait until {self.endpoint} {ends.get(self.until, 'has settled')}"


Step = Call | Wait
GONE: frozenset[str | None] = frozenset({None})
IN_SERVICE: frozenset[str | None] = frozenset({"InService"})


def is_ours(tags: Mapping[str, str]) -> bool:
    return tags.get(OWNER[0]) == OWNER[1]


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
