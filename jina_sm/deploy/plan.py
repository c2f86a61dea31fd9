"""
From what should be and what is, the calls between. Touches nothing.

We choose every name, and the name of a model or of an endpoint config ends in a hash of its parameters. So no call
needs the result of another, deploying twice finds nothing to do, and an interrupted run goes on from what is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

import orjson

from jina_sm.deploy import scaling as autoscaling
from jina_sm.deploy import ttl
from jina_sm.deploy.asynchronous import Asynchronous, described
from jina_sm.deploy.scaling import Alarm, Scaling, Target
from jina_sm.deploy.steps import (
    ENDPOINT_TAG,
    GONE,
    IN_SERVICE,
    MODEL_TAG,
    OWNER,
    VARIANT,
    Call,
    Step,
    Wait,
    is_ours,
    tag_list,
)
from jina_sm.deploy.ttl import Schedule, Ttl
from jina_sm.errors import DeployError, EndpointFailedError, NameTakenError

__all__ = [  # the words of a plan too, so that one import has all
    "ENDPOINT_TAG",
    "GONE",
    "IN_SERVICE",
    "LOGS",
    "MODEL_TAG",
    "OWNER",
    "PAUSED_TAG",
    "SETTLED",
    "VARIANT",
    "Call",
    "Config",
    "Desired",
    "Endpoint",
    "State",
    "Step",
    "Wait",
    "changes",
    "deployment",
    "is_ours",
    "package_of",
    "pause",
    "resume",
    "rollback",
    "teardown",
]

PAUSED_TAG = "jina-sm:paused"
_LIVES = "ttl="
LOGS = "/aws/sagemaker/Endpoints/"

SETTLED = frozenset({"InService", "Failed", "OutOfService", "UpdateRollbackFailed"})
_BROKEN = frozenset({"OutOfService", "UpdateRollbackFailed"})


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint as AWS describes it. ``pending``: the config that an update under way is to end with.

    ``wanted``: how many instances it is to have, and mostly has; None: AWS does not say.
    """

    name: str
    arn: str
    status: str
    config: str
    tags: Mapping[str, str]
    created: datetime
    instances: int = 0
    wanted: int | None = None
    reason: str = ""
    asynchronous: bool = False
    variants: tuple[str, ...] = ()
    pending: str = ""

    @property
    def ours(self) -> bool:
        return is_ours(self.tags)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What there is to know of an endpoint config, beside its name. ``pauses``: its endpoint was taken away for now."""

    arn: str
    tags: Mapping[str, str]

    @property
    def pauses(self) -> bool:
        return PAUSED_TAG in self.tags

    @property
    def scaling(self) -> Scaling | None:
        """How its endpoint scaled when it was paused."""
        return Scaling.read(self.tags.get(PAUSED_TAG, "").partition(_LIVES)[0].strip())

    @property
    def ttl_s(self) -> int | None:
        """How long its endpoint was to live, from when that was set, when it was paused; None: it had no end."""
        seconds = self.tags.get(PAUSED_TAG, "").partition(_LIVES)[2]
        return int(seconds) if seconds.isdecimal() else None


@dataclass(frozen=True, kw_only=True)
class State:
    """What is there, in one region, of what carries our tags; and the endpoint of a name, whoever's it is.

    ``known`` tells more of the configs, by name. ``logs`` are the endpoints that log groups belong to, where they were
    asked for. ``serving``: the parameters that the endpoint was made from, as AWS tells them.
    ``foreign``: models and configs whose names are like ours and whose tags are not.
    """

    endpoints: tuple[Endpoint, ...] = ()
    configs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    logs: tuple[str, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    known: Mapping[str, Config] = field(default_factory=lambda: MappingProxyType({}))
    serving: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    foreign: frozenset[str] = frozenset()

    @property
    def empty(self) -> bool:
        there = (self.endpoints, self.configs, self.models, self.targets, self.schedules, self.logs, self.alarms)
        return not any(there)

    @property
    def paused(self) -> tuple[str, ...]:
        """The endpoints that were taken away for now."""
        there = {endpoint.name for endpoint in self.endpoints}
        bases = (_base(name) for name in self.configs if name in self.known and self.known[name].pauses)
        return tuple(base for base in dict.fromkeys(bases) if base not in there)

    def of(self, base: str) -> State:
        """What belongs to one endpoint."""
        return State(
            endpoints=tuple(each for each in self.endpoints if each.name == base),
            configs=tuple(name for name in self.configs if _base(name) == base),
            models=tuple(name for name in self.models if _base(name) == base),
            targets=tuple(each for each in self.targets if each.endpoint == base),
            schedules=tuple(each for each in self.schedules if each.endpoint == base),
            logs=tuple(name for name in self.logs if name == base),
            alarms=tuple(each for each in self.alarms if each.endpoint == base),
            known={name: each for name, each in self.known.items() if _base(name) == base},
        )

    def by_endpoint(self) -> list[State]:
        """The same, taken apart by the endpoint that a name belongs to; what is settled first."""
        bases = [
            *(endpoint.name for endpoint in self.endpoints),
            *(_base(name) for name in (*self.configs, *self.models)),
            *(target.endpoint for target in self.targets),
            *(schedule.endpoint for schedule in self.schedules),
            *(alarm.endpoint for alarm in self.alarms),
            *self.logs,
        ]
        parts = [self.of(base) for base in dict.fromkeys(bases)]
        return sorted(parts, key=lambda part: any(endpoint.status not in SETTLED for endpoint in part.endpoints))


@dataclass(frozen=True, kw_only=True)
class Desired:
    """What should be in one region, with every name chosen. ``fallbacks``: instance types for want of the first.

    ``making``: the calls that make the role, none where it is there.
    """

    region: str
    model: str
    endpoint: str
    package_arn: str
    role_arn: str
    instance_type: str
    instance_count: int
    fallbacks: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    kms_key: str | None = None
    scaling: Scaling | None = None
    ttl: Ttl | None = None
    asynchronous: Asynchronous | None = None
    making: tuple[Call, ...] = ()

    @property
    def all_tags(self) -> list[dict[str, str]]:
        return tag_list({**self.tags, OWNER[0]: OWNER[1], MODEL_TAG: self.model, ENDPOINT_TAG: self.endpoint})

    @property
    def model_params(self) -> dict[str, Any]:
        params: dict[str, Any] = {
            "PrimaryContainer": {"ModelPackageName": self.package_arn},
            "ExecutionRoleArn": self.role_arn,
            "EnableNetworkIsolation": True,  # AWS requires it of Marketplace packages
        }
        if self.subnets:
            params["VpcConfig"] = {"SecurityGroupIds": self.security_groups, "Subnets": self.subnets}
        return {"ModelName": _named(self.endpoint, params), **params, "Tags": self.all_tags}

    @property
    def config_params(self) -> dict[str, Any]:
        types = (self.instance_type, *self.fallbacks)
        pools = [{"InstanceType": each, "Priority": place} for place, each in enumerate(types, 1)]
        variant = {
            "VariantName": VARIANT,
            "ModelName": self.model_params["ModelName"],
            # AWS goes on to the next pool where it has no such instance to give, also when it adds one later.
            **({"InstancePools": pools} if self.fallbacks else {"InstanceType": self.instance_type}),
            "InitialInstanceCount": self.instance_count,
            "InitialVariantWeight": 1.0,
            "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        }
        params: dict[str, Any] = {"ProductionVariants": [variant]}
        if self.kms_key:
            params["KmsKeyId"] = self.kms_key
        if self.asynchronous:
            params["AsyncInferenceConfig"] = self.asynchronous.config
        return {"EndpointConfigName": _named(self.endpoint, params), **params, "Tags": self.all_tags}

    @property
    def endpoint_params(self) -> dict[str, Any]:
        return {
            "EndpointName": self.endpoint,
            "EndpointConfigName": self.config_params["EndpointConfigName"],
            "Tags": self.all_tags,
        }


def deployment(desired: Desired, state: State) -> list[Step]:
    """The steps that make what should be of what is. Raises NameTakenError or EndpointFailedError.

    What an earlier run made and nothing uses any more is removed at the end.
    """
    name, desired = desired.endpoint, _as_begun(desired, state)
    steps, there = _usable(desired, state)
    model, config = desired.model_params, desired.config_params
    steps += desired.making
    if model["ModelName"] not in state.models:
        steps.append(Call("create_model", model))
    if config["EndpointConfigName"] not in state.configs:
        steps.append(Call("create_endpoint_config", config))
    target = next((each for each in state.targets if each.endpoint == name), None)
    alarm = next((each for each in state.alarms if each.endpoint == name), None)
    schedule = next((each for each in state.schedules if each.endpoint == name), None)
    if desired.ttl:  # before what it guards, so that nothing is ever billed without it
        tags = {tag["Key"]: tag["Value"] for tag in desired.all_tags}
        steps += ttl.set_to(name, desired.ttl, schedule, tags, anew=there is None)
    if there is None:
        steps += autoscaling.removal(target, alarm)  # of an endpoint before this one
        target = alarm = None
        steps += [Call("create_endpoint", desired.endpoint_params), Wait(name, IN_SERVICE)]
    elif there.pending == config["EndpointConfigName"]:  # an earlier run has asked for it
        steps[steps.index(Wait(name, IN_SERVICE))] = Wait(name, IN_SERVICE, there.pending)
    elif (there.pending or there.config) != config["EndpointConfigName"]:
        update: dict[str, Any] = {"EndpointName": name, "EndpointConfigName": config["EndpointConfigName"]}
        if _scales_already(desired, there, target):
            update["RetainAllVariantProperties"] = True  # as many instances as the load had it have
        if target:  # AWS changes the instance type of no endpoint that is scaled
            steps += autoscaling.removal(target, alarm)
            target = alarm = None
        steps += [Call("update_endpoint", update), Wait(name, IN_SERVICE, config["EndpointConfigName"])]
    steps += autoscaling.set_to(name, desired.scaling, target, alarm)
    if there and _astray(desired, there):  # once nothing scales it any more
        count = {"VariantName": VARIANT, "DesiredInstanceCount": desired.instance_count}
        resize = {"EndpointName": name, "DesiredWeightsAndCapacities": [count]}
        steps += [Call("update_endpoint_weights_and_capacities", resize), Wait(name, IN_SERVICE)]
    if schedule and not desired.ttl:
        steps += ttl.removal(schedule)
    if (kept := state.known.get(config["EndpointConfigName"])) and kept.pauses:
        steps.append(_unpaused(kept))
    steps += [_delete("endpoint_config", old) for old in state.configs if old != config["EndpointConfigName"]]
    steps += [_delete("model", old) for old in state.models if old != model["ModelName"]]
    return steps


def changes(desired: Desired, state: State) -> tuple[str, ...]:
    """What is different from what serves now, in words; nothing where nothing of ours serves."""
    if not state.serving:
        return ()
    desired = _as_begun(desired, state)
    target, schedule = next(iter(state.targets), None), next(iter(state.schedules), None)
    before = _facts(state.serving, target.scaling if target else None, schedule.seconds if schedule else None)
    made_of = {**desired.model_params, **desired.config_params}
    after = _facts(made_of, desired.scaling, desired.ttl.seconds if desired.ttl else None)
    there = next(iter(state.endpoints), None)
    if there and there.wanted is not None and desired.scaling is None:  # the config knows how many it began with
        before["instances"] = str(there.wanted)
    return tuple(f"{name}: {before[name]} -> {after[name]}" for name in after if before[name] != after[name])


def teardown(state: State) -> list[Step]:
    """The steps that remove all of it: autoscaling and endpoints first, then the logs, the configs and the models.

    AWS deletes no endpoint that is being made or changed, so that is waited for. The schedule that would delete an
    endpoint goes after it, so that a run that stops leaves it in force. Log groups carry no tags, so they go while what
    they are found by is there.
    """
    steps = _without_endpoints(state)
    steps += [Call("delete_log_group", {"logGroupName": LOGS + name}, "logs") for name in state.logs]
    steps += [_delete("endpoint_config", name) for name in state.configs]
    return steps + [_delete("model", name) for name in state.models]


def pause(state: State) -> list[Step]:
    """The steps that take the endpoints away and leave what they were made from, marked with how they scaled and lived.

    Raises DeployError for one that could not be brought back.
    """
    steps: list[Step] = []
    for endpoint in state.endpoints:
        target = next((each for each in state.targets if each.endpoint == endpoint.name), None)
        schedule = next((each for each in state.schedules if each.endpoint == endpoint.name), None)
        config = state.known.get(endpoint.pending or endpoint.config)
        if config is None and endpoint.status != "Deleting":
            raise DeployError(
                f"endpoint {endpoint.name} could not be brought back: its config is gone, or is not ours any more",
                cure=f"`jina-sm deploy` makes the config again; `jina-sm teardown {endpoint.name}` removes it.",
            )
        if config and not config.pauses and endpoint.status != "Deleting":
            mark = _mark(target.scaling if target else None, schedule.seconds if schedule else None)
            steps.append(Call("add_tags", {"ResourceArn": config.arn, "Tags": tag_list({PAUSED_TAG: mark})}))
    return steps + _without_endpoints(state)


def resume(state: State) -> list[Step]:
    """The steps that bring back one endpoint from what it was made from. Raises DeployError where that is not clear."""
    there = next(iter(state.endpoints), None)
    marked = [name for name in state.configs if name in state.known and state.known[name].pauses]
    if there and not marked:
        return []
    if len(marked or state.configs) != 1:
        found = ", ".join(marked or state.configs) or "none is there"
        raise DeployError(f"it takes one endpoint config to resume from, and {found}", cure="Run `jina-sm deploy`.")
    (name,) = marked or state.configs
    endpoint, config = _base(name), state.known[name]
    steps: list[Step] = []
    if there and there.status in _BROKEN:  # which somebody had begun to pause
        raise EndpointFailedError(
            f"endpoint {endpoint} is {there.status}{': ' + there.reason if there.reason else ''}",
            cure=f"`jina-sm pause {endpoint} --region {there.arn.split(':')[3]}` takes it away, then resume.",
        )
    if there and there.status == "Failed":
        steps.append(_delete("endpoint", endpoint))
    if there and there.status in ("Failed", "Deleting"):
        steps.append(Wait(endpoint, GONE))
        there = None
    target, alarm = next(iter(state.targets), None), next(iter(state.alarms), None)
    scaled = config.scaling or (target.scaling if target else None)
    if there is None:
        steps += autoscaling.removal(target, alarm)  # of the endpoint that has gone
        target = alarm = None
        tags = {key: value for key, value in config.tags.items() if key != PAUSED_TAG}
        params = {"EndpointName": endpoint, "EndpointConfigName": name, "Tags": tag_list(tags)}
        steps += [Call("create_endpoint", params), Wait(endpoint, IN_SERVICE)]
    elif there.status not in SETTLED:
        steps.append(Wait(endpoint, IN_SERVICE))
    if scaled:
        steps += autoscaling.set_to(endpoint, scaled, target, alarm)
    return [*steps, _unpaused(config)] if config.pauses else steps


def rollback(made: Iterable[Step], state: State) -> list[Step]:
    """The steps that remove what these calls made, and nothing else of the state; none of what still serves.

    An endpoint that is in service stays, and so do its config and model: what failed then was something after it. One
    that has failed and that another run made is for that run to remove, and needs neither.
    """
    names = {(step.operation, step.name) for step in made if isinstance(step, Call)}
    scheduled = {name for operation, name in names if operation.startswith("create_schedule")}
    stay = [each for each in state.endpoints if each.status != "Failed" or ("create_endpoint", each.name) not in names]
    serving = [each for each in stay if each.status != "Failed"]
    if any(("create_endpoint_config", each.config) in names or each.status in _BROKEN for each in serving):
        return []
    return teardown(
        State(
            endpoints=tuple(each for each in state.endpoints if each not in stay),
            configs=tuple(name for name in state.configs if ("create_endpoint_config", name) in names),
            models=tuple(name for name in state.models if ("create_model", name) in names),
            schedules=tuple(each for each in state.schedules if each.endpoint in scheduled and not stay),
        )
    )


def _usable(desired: Desired, state: State) -> tuple[list[Step], Endpoint | None]:
    """The endpoint if it can be gone on from, and the steps until it can, or until its name is free."""
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
            cure=f"`jina-sm teardown {name} --region {desired.region}`, then deploy again.",
            region=desired.region,
        )
    if there and there.status == "Failed":  # deletion is all that AWS allows on a failed endpoint
        steps.append(_delete("endpoint", name))
    elif there and there.status not in SETTLED and there.status != "Deleting":
        steps.append(Wait(name, IN_SERVICE))
    if there and there.status in ("Failed", "Deleting"):
        steps.append(Wait(name, GONE))
        there = None
    return steps, there


def _scales_already(desired: Desired, there: Endpoint, target: Target | None) -> bool:
    """Whether the load says how many instances there are, or can be left to: no more are asked for to begin with.

    AWS itself sees to the fewest. A run that ended after it took the scaling off has left no target.
    """
    if desired.scaling is None:
        return False
    return target is not None or max(there.instances, desired.scaling.least) >= desired.instance_count


def _as_begun(desired: Desired, state: State) -> Desired:
    """What should be; with as many instances to begin with as what serves began with, if that is all that differs.

    What scales has begun: other bounds are registered, and AWS brings it within them then. Another config would
    replace every instance.
    """
    there = next((each for each in state.endpoints if each.name == desired.endpoint), None)
    target = next((each for each in state.targets if each.endpoint == desired.endpoint), None)
    if there is None or there.status in ("Failed", "Deleting") or there.pending or not state.serving:
        return desired
    began = state.serving["ProductionVariants"][0].get("InitialInstanceCount")
    if not began or not _scales_already(desired, there, target):
        return desired
    begun = replace(desired, instance_count=began)
    return begun if begun.config_params["EndpointConfigName"] == there.config else desired


def _astray(desired: Desired, there: Endpoint) -> bool:
    """Whether it has another count than its config says, and nothing that should scale it: by hand, or from before."""
    serves = there.config == desired.config_params["EndpointConfigName"] and not there.pending
    return desired.scaling is None and serves and there.wanted not in (None, desired.instance_count)


def _without_endpoints(state: State) -> list[Step]:
    steps: list[Step] = []
    for endpoint in state.endpoints:
        if endpoint.status not in SETTLED and endpoint.status != "Deleting":
            steps.append(Wait(endpoint.name, SETTLED | GONE))
    for target in state.targets:
        steps += autoscaling.removal(target)
    for alarm in state.alarms:
        steps += autoscaling.removal(None, alarm)
    steps += [_delete("endpoint", endpoint.name) for endpoint in state.endpoints if endpoint.status != "Deleting"]
    steps += [Wait(endpoint.name, GONE) for endpoint in state.endpoints]
    for schedule in state.schedules:
        steps += ttl.removal(schedule)
    return steps


def types_of(variant: Mapping[str, Any]) -> tuple[str, ...]:
    """The instance types of a config's variant, in the order in which they are tried."""
    pools = sorted(variant.get("InstancePools", ()), key=lambda pool: int(pool["Priority"])) or [variant]
    return tuple(pool["InstanceType"] for pool in pools if "InstanceType" in pool)


def brought_back(config: Mapping[str, Any], steps: Iterable[Step]) -> tuple[tuple[str, ...], int, int]:
    """What resuming makes of a config: its types in turn, its instances, and the most to which the steps let it scale.

    Of a config that is gone there are no types.
    """
    variant: Mapping[str, Any] = next(iter(config.get("ProductionVariants", ())), {})
    bounds = [each.params for each in steps if isinstance(each, Call) and "MaxCapacity" in each.params]
    count = max([variant.get("InitialInstanceCount", 1), *(int(each["MinCapacity"]) for each in bounds)])
    return types_of(variant), count, max([count, *(int(each["MaxCapacity"]) for each in bounds)])


def _facts(made_of: Mapping[str, Any], scaling: Scaling | None, ttl_s: int | None) -> dict[str, str]:
    variant, vpc = made_of["ProductionVariants"][0], made_of.get("VpcConfig", {})
    facts: dict[str, Any] = {
        "package": package_of(made_of),
        "role": made_of.get("ExecutionRoleArn"),
        "instance types": ", ".join(types_of(variant)) or None,
        "instances": variant.get("InitialInstanceCount"),
        "routing": variant.get("RoutingConfig", {}).get("RoutingStrategy"),
        "subnets": ", ".join(vpc.get("Subnets", ())),
        "security groups": ", ".join(vpc.get("SecurityGroupIds", ())),
        "KMS key": made_of.get("KmsKeyId"),
        "autoscaling": scaling,
        "asynchronous": described(made_of.get("AsyncInferenceConfig", {})),
        "ttl": ttl_s and ttl.lasting(ttl_s),
    }
    return {name: str(value or "none") for name, value in facts.items()}


def package_of(made_of: Mapping[str, Any]) -> str:
    """The package of a model, by the parameters that it was made from; "": it has none."""
    containers = [made_of.get("PrimaryContainer"), *made_of.get("Containers", ())]
    return next((str(each["ModelPackageName"]) for each in containers if each and "ModelPackageName" in each), "")


def _mark(scaling: Scaling | None, ttl_s: int | None) -> str:
    """What a config keeps of an endpoint that is paused, as far as it had that: ``1-4@5 ttl=28800``."""
    return " ".join([*([str(scaling)] if scaling else []), *([f"{_LIVES}{ttl_s}"] if ttl_s else [])])


def _unpaused(config: Config) -> Call:
    return Call("delete_tags", {"ResourceArn": config.arn, "TagKeys": [PAUSED_TAG]})


def _base(name: str) -> str:
    """The endpoint that a model or a config is named after."""
    return name.rpartition("-")[0]


def _delete(kind: str, name: str) -> Call:
    key = {"endpoint": "EndpointName", "endpoint_config": "EndpointConfigName", "model": "ModelName"}[kind]
    return Call(f"delete_{kind}", {key: name})


def _named(endpoint: str, params: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(orjson.dumps(params, option=orjson.OPT_SORT_KEYS)).hexdigest()[:8]
    return f"{endpoint}-{digest}"
