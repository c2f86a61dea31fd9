"""
From what should be and what is, the calls between. Touches nothing.

We choose every name, and the name of a model or of an endpoint config ends in a hash of its parameters. So no call
needs the result of another, deploying twice finds nothing to do, and an interrupted run goes on from what is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

import orjson

from jina_sm.errors import EndpointFailedError, NameTakenError

OWNER = ("managed-by", "jina-sm")
MODEL_TAG = "jina-sm:model"
ENDPOINT_TAG = "jina-sm:endpoint"
VARIANT = "AllTraffic"

SETTLED = frozenset({"InService", "Failed", "OutOfService", "UpdateRollbackFailed"})
_BROKEN = frozenset({"OutOfService", "UpdateRollbackFailed"})


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint as AWS describes it."""

    name: str
    arn: str
    status: str
    config: str
    tags: Mapping[str, str]
    created: datetime
    instances: int = 0
    reason: str = ""

    @property
    def ours(self) -> bool:
        return is_ours(self.tags)


@dataclass(frozen=True, kw_only=True)
class State:
    """What is there, in one region, of what carries our tags; and the endpoint of a name, whoever's it is."""

    endpoints: tuple[Endpoint, ...] = ()
    configs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.endpoints or self.configs or self.models)

    def by_endpoint(self) -> list[State]:
        """The same, taken apart by the endpoint that a name belongs to; what is settled first."""
        named = {endpoint.name: (endpoint,) for endpoint in self.endpoints}
        bases = dict.fromkeys([*named, *(name.rpartition("-")[0] for name in (*self.configs, *self.models))])
        parts = [
            State(
                endpoints=named.get(base, ()),
                configs=tuple(name for name in self.configs if name.rpartition("-")[0] == base),
                models=tuple(name for name in self.models if name.rpartition("-")[0] == base),
            )
            for base in bases
        ]
        return sorted(parts, key=lambda part: any(endpoint.status not in SETTLED for endpoint in part.endpoints))


@dataclass(frozen=True, kw_only=True)
class Desired:
    """What should be in one region, with every name chosen."""

    region: str
    model: str
    endpoint: str
    package_arn: str
    role_arn: str
    instance_type: str
    instance_count: int
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def all_tags(self) -> list[dict[str, str]]:
        tags = {**self.tags, OWNER[0]: OWNER[1], MODEL_TAG: self.model, ENDPOINT_TAG: self.endpoint}
        return [{"Key": key, "Value": value} for key, value in tags.items()]

    @property
    def model_params(self) -> dict[str, Any]:
        params = {
            "PrimaryContainer": {"ModelPackageName": self.package_arn},
            "ExecutionRoleArn": self.role_arn,
            "EnableNetworkIsolation": True,  # AWS requires it of Marketplace packages
        }
        return {"ModelName": _named(self.endpoint, params), **params, "Tags": self.all_tags}

    @property
    def config_params(self) -> dict[str, Any]:
        variant = {
            "VariantName": VARIANT,
            "ModelName": self.model_params["ModelName"],
            "InstanceType": self.instance_type,
            "InitialInstanceCount": self.instance_count,
            "InitialVariantWeight": 1.0,
            "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        }
        params = {"ProductionVariants": [variant]}
        return {"EndpointConfigName": _named(self.endpoint, params), **params, "Tags": self.all_tags}

    @property
    def endpoint_params(self) -> dict[str, Any]:
        return {
            "EndpointName": self.endpoint,
            "EndpointConfigName": self.config_params["EndpointConfigName"],
            "Tags": self.all_tags,
        }


@dataclass(frozen=True)
class Call:
    """One call to SageMaker, as boto3 spells it."""

    operation: str
    params: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of what is made, changed or removed."""
        keys = {"model": "ModelName", "config": "EndpointConfigName", "endpoint": "EndpointName"}
        return str(self.params[keys[self.operation.rpartition("_")[2]]])

    def __str__(self) -> str:
        return f"{self.operation.replace('_', ' ')} {self.name}"


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


def deployment(desired: Desired, state: State) -> list[Step]:
    """The steps that make what should be of what is. Raises NameTakenError or EndpointFailedError.

    What an earlier run made and nothing uses any more is removed at the end.
    """
    name = desired.endpoint
    steps: list[Step] = []
    there = next((endpoint for endpoint in state.endpoints if endpoint.name == name), None)
    if there and not there.ours:
        raise NameTakenError(
            f"endpoint {name} exists and was not made by this tool",
            cure="Choose another with --name, or remove it yourself.",
            region=desired.region,
        )
    if there and there.tags.get(MODEL_TAG) != desired.model:
        raise NameTakenError(
            f"endpoint {name} serves {there.tags.get(MODEL_TAG)}, not {desired.model}",
            cure="Choose another with --name, or tear that down first.",
            region=desired.region,
        )
    if there and there.status in _BROKEN:
        raise EndpointFailedError(
            f"endpoint {name} is {there.status}{': ' + there.reason if there.reason else ''}",
            cure=f"`jina-sm teardown {desired.model} --region {desired.region}`, then deploy again.",
            region=desired.region,
        )
    if there and there.status == "Failed":  # deletion is all that AWS allows on a failed endpoint
        steps.append(_delete("endpoint", name))
    elif there and there.status not in SETTLED and there.status != "Deleting":
        steps.append(Wait(name, IN_SERVICE))
    if there and there.status in ("Failed", "Deleting"):
        steps.append(Wait(name, GONE))
        there = None
    model, config = desired.model_params, desired.config_params
    if model["ModelName"] not in state.models:
        steps.append(Call("create_model", model))
    if config["EndpointConfigName"] not in state.configs:
        steps.append(Call("create_endpoint_config", config))
    if there is None:
        steps += [Call("create_endpoint", desired.endpoint_params), Wait(name, IN_SERVICE)]
    elif there.config != config["EndpointConfigName"]:
        update = {"EndpointName": name, "EndpointConfigName": config["EndpointConfigName"]}
        steps += [Call("update_endpoint", update), Wait(name, IN_SERVICE, config["EndpointConfigName"])]
    steps += [_delete("endpoint_config", old) for old in state.configs if old != config["EndpointConfigName"]]
    steps += [_delete("model", old) for old in state.models if old != model["ModelName"]]
    return steps


def teardown(state: State) -> list[Step]:
    """The steps that remove all of it: endpoints first, then their configs, then the models.

    AWS deletes no endpoint that is being made or changed, so that is waited for.
    """
    steps: list[Step] = []
    for endpoint in state.endpoints:
        if endpoint.status not in SETTLED and endpoint.status != "Deleting":
            steps.append(Wait(endpoint.name, SETTLED | GONE))
    steps += [_delete("endpoint", endpoint.name) for endpoint in state.endpoints if endpoint.status != "Deleting"]
    steps += [Wait(endpoint.name, GONE) for endpoint in state.endpoints]
    steps += [_delete("endpoint_config", name) for name in state.configs]
    steps += [_delete("model", name) for name in state.models]
    return steps


def rollback(made: Iterable[Step], state: State) -> list[Step]:
    """The steps that remove what these calls made, and nothing else of the state; none of what still serves.

    An endpoint that is in service stays, and so do its config and model: what failed then was something after it.
    """
    names = {(step.operation, step.name) for step in made if isinstance(step, Call)}
    stay = [each for each in state.endpoints if each.status != "Failed" or ("create_endpoint", each.name) not in names]
    if any(("create_endpoint_config", each.config) in names or each.status in _BROKEN for each in stay):
        return []
    return teardown(
        State(
            endpoints=tuple(each for each in state.endpoints if each not in stay),
            configs=tuple(name for name in state.configs if ("create_endpoint_config", name) in names),
            models=tuple(name for name in state.models if ("create_model", name) in names),
        )
    )


def is_ours(tags: Mapping[str, str]) -> bool:
    return tags.get(OWNER[0]) == OWNER[1]


def _delete(kind: str, name: str) -> Call:
    key = {"endpoint": "EndpointName", "endpoint_config": "EndpointConfigName", "model": "ModelName"}[kind]
    return Call(f"delete_{kind}", {key: name})


def _named(endpoint: str, params: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(orjson.dumps(params, option=orjson.OPT_SORT_KEYS)).hexdigest()[:8]
    return f"{endpoint}-{digest}"
