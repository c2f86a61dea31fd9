"""
EventBridge Scheduler: groups and schedules; those that act once, on SageMaker, do so when their time has come.

Nothing runs in the background: whoever calls finds what is due done. AWS is told of the time by the wall.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import botocore
import orjson

from jina_sm.local.protocol import Answer, Asked, Refusal, check, invalid, page, service
from jina_sm.local.state import Group, Region, Schedule, wall

_log = logging.getLogger(__name__)
_SPELLED = ("NextToken", "MaxResults")
_SAGEMAKER = re.compile(r"arn:aws:scheduler:::aws-sdk:sagemaker:(\w+)")


def asked(method: str, path: str, query: Mapping[str, list[str]], body: bytes) -> tuple[str, bytes]:
    """The operation that a request is for ("": none), and its parameters as one JSON object, wherever they were."""
    for name in service("scheduler").operation_names:
        operation = service("scheduler").operation_model(name)
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", operation.http["requestUri"])
        match = re.fullmatch(pattern.replace("<ResourceArn>[^/]+", "<ResourceArn>.+"), path)
        if not match or operation.http["method"] != method:
            continue
        try:
            said = orjson.loads(body or b"{}")
        except ValueError:
            return name, body
        said |= match.groupdict()
        for member, shape in operation.input_shape.members.items():
            if shape.serialization.get("location") == "querystring" and (
                found := query.get(shape.serialization["name"])
            ):
                value = found if shape.type_name == "list" else found[0]
                said[member] = int(found[0]) if shape.type_name == "integer" and found[0].isdecimal() else value
        return name, orjson.dumps(said)
    return "", body


@dataclass(frozen=True)
class Scheduler:
    """The schedules of one region."""

    _region: Region

    def create_schedule_group(self, asked: Asked) -> Answer:
        name = asked["Name"]
        if name in self._region.groups:
            raise _conflict(f"Schedule group {name} already exists.")
        arn = f"arn:aws:scheduler:{self._region.name}:{self._region.account}:schedule-group/{name}"
        tags = {tag["Key"]: tag["Value"] for tag in asked.get("Tags", [])}
        self._region.groups[name] = Group(name, arn, tags)
        return {"ScheduleGroupArn": arn}

    def get_schedule_group(self, asked: Asked) -> Answer:
        return _told(self._group(asked["Name"]))

    def delete_schedule_group(self, asked: Asked) -> Answer:
        name = self._group(asked["Name"]).name
        if name == "default":
            raise invalid("The default schedule group cannot be deleted.")
        del self._region.groups[name]
        return {}

    def list_schedule_groups(self, asked: Asked) -> Answer:
        groups = (each for each in self._region.groups.values() if each.name.startswith(asked.get("NamePrefix", "")))
        found, more = page(groups, lambda each: [each.name], asked, most=100, spelled=_SPELLED)
        return {"ScheduleGroups": [_told(each) for each in found], **more}

    def list_tags_for_resource(self, asked: Asked) -> Answer:
        group = self._group(asked["ResourceArn"].rpartition("/")[2])
        return {"Tags": [{"Key": key, "Value": value} for key, value in group.tags.items()]}

    def create_schedule(self, asked: Asked) -> Answer:
        group, name = self._group(asked.get("GroupName", "default")), asked["Name"]
        if name in group.schedules:
            raise _conflict(f"Schedule {name} already exists.")
        group.schedules[name] = Schedule(_checked(asked), _due(asked))
        return {"ScheduleArn": self._arn(group, name)}

    def update_schedule(self, asked: Asked) -> Answer:
        group, name, _ = self._schedule(asked)
        group.schedules[name] = Schedule(_checked(asked), _due(asked))
        return {"ScheduleArn": self._arn(group, name)}

    def get_schedule(self, asked: Asked) -> Answer:
        group, name, schedule = self._schedule(asked)
        usual = {"State": "ENABLED", "GroupName": group.name, "ActionAfterCompletion": "NONE"}
        return {**usual, **schedule.params, "Arn": self._arn(group, name), "CreationDate": schedule.created}

    def delete_schedule(self, asked: Asked) -> Answer:
        group, name, _ = self._schedule(asked)
        del group.schedules[name]
        return {}

    def list_schedules(self, asked: Asked) -> Answer:
        rows = [
            {
                "Arn": self._arn(group, name),
                "Name": name,
                "GroupName": group.name,
                "State": "ENABLED",
                "Target": {"Arn": each.params["Target"]["Arn"]},
            }
            for group in self._region.groups.values()
            if asked.get("GroupName", group.name) == group.name
            for name, each in group.schedules.items()
            if name.startswith(asked.get("NamePrefix", ""))
        ]
        found, more = page(rows, lambda each: [each["Arn"]], asked, most=100, spelled=_SPELLED)
        return {"Schedules": found, **more}

    def _group(self, name: str) -> Group:
        if name not in self._region.groups:
            raise _missing(f"Schedule group {name} does not exist.")
        return self._region.groups[name]

    def _schedule(self, asked: Asked) -> tuple[Group, str, Schedule]:
        group, name = self._group(asked.get("GroupName", "default")), asked["Name"]
        if name not in group.schedules:
            raise _missing(f"Schedule {name} does not exist.")
        return group, name, group.schedules[name]

    def _arn(self, group: Group, name: str) -> str:
        return f"arn:aws:scheduler:{self._region.name}:{self._region.account}:schedule/{group.name}/{name}"


def fire(region: Region, hosting: Any) -> None:
    """Does what is due. What SageMaker refuses is tried again by the next who calls, as AWS tries it for a while."""
    now = wall()
    for group in region.groups.values():
        for name, schedule in list(group.schedules.items()):
            target = schedule.params["Target"]
            match = _SAGEMAKER.fullmatch(target["Arn"])
            if schedule.due is None or schedule.due > now or not match:
                continue
            act: Callable[[Any], Any] = getattr(hosting, botocore.xform_name(match[1]))
            try:
                said = orjson.loads(target.get("Input", "{}"))
                check(service("sagemaker").operation_model(match[1][0].upper() + match[1][1:]).input_shape, said)
                act(said)
            except Refusal as refusal:
                _log.info("schedule %s: %s", name, refusal.message)
                if "in-progress" in refusal.message:
                    continue
            if schedule.params.get("ActionAfterCompletion") == "DELETE":
                del group.schedules[name]
            else:
                schedule.due = None


def _checked(asked: Asked) -> dict[str, Any]:
    target = asked["Target"]
    if match := _SAGEMAKER.fullmatch(target["Arn"]):
        known = {botocore.xform_name(name) for name in service("sagemaker").operation_names}
        if botocore.xform_name(match[1]) not in known:
            raise invalid(f"The target {target['Arn']} is not valid.")
        try:
            orjson.loads(target.get("Input", "{}"))
        except ValueError:
            raise invalid("The target's Input is not valid JSON.") from None
    return {name: value for name, value in asked.items() if name != "ClientToken"}


def _due(asked: Asked) -> float | None:
    expression = asked["ScheduleExpression"]
    if expression.startswith(("cron(", "rate(")):
        return None
    try:
        at = datetime.strptime(expression, "at(%Y-%m-%dT%H:%M:%S)")
    except ValueError:
        raise invalid(f"Invalid Schedule Expression {expression}.") from None
    return at.replace(tzinfo=UTC).timestamp()


def _told(group: Group) -> Answer:
    return {"Name": group.name, "Arn": group.arn, "State": "ACTIVE", "CreationDate": group.created}


def _missing(words: str) -> Refusal:
    return Refusal("ResourceNotFoundException", words, status=404)


def _conflict(words: str) -> Refusal:
    return Refusal("ConflictException", words, status=409)
