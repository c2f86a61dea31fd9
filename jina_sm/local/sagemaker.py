"""
SageMaker's hosting: models, endpoint configs, endpoints and their tags.

It refuses what AWS refuses, in AWS's words, because a tool is made or broken by what it does with those. Not here:
IAM's view of the execution role, and whether an instance type suits the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from jina_sm.local import marketplace, quotas
from jina_sm.local.protocol import Answer, Asked, Refusal, invalid, page, service
from jina_sm.local.state import ORDINARY, Deployment, Endpoint, Fate, Made, Region, State

NOT_SUBSCRIBED = "Caller is not subscribed to the marketplace offering."
_GPUS = ("ml.g4dn.", "ml.g5.", "ml.g6.", "ml.g6e.")  # what a package is made for beside the catalogue's is assumed
# What an update may keep of a variant, and how a config spells it.
_KEPT = {"DesiredInstanceCount": "InitialInstanceCount", "DesiredWeight": "InitialVariantWeight"}
_SAID = {"model": "model", "endpoint-config": "endpoint configuration", "endpoint": "endpoint"}


@dataclass(frozen=True)
class Hosting:
    """The control plane of one region."""

    _state: State
    _region: Region
    _fate: Fate = ORDINARY

    def create_model(self, asked: Asked) -> Answer:
        made = self._new("model", asked["ModelName"], self._region.models, asked)
        containers = asked.get("Containers") or []
        if bool(asked.get("PrimaryContainer")) == bool(containers):
            raise invalid("Exactly one of PrimaryContainer and Containers must be given.")
        for container in containers or [asked["PrimaryContainer"]]:
            if arn := container.get("ModelPackageName"):
                model = self._package(arn)
                if not self._state.subscribed(model):
                    raise invalid(NOT_SUBSCRIBED)
                if container.get("Environment"):
                    raise invalid(
                        "Environment variable map cannot be specified when using a ModelPackage subscribed from AWS "
                        "Marketplace."
                    )
                if not asked.get("EnableNetworkIsolation"):
                    raise invalid(
                        "EnableNetworkIsolation must be true for models using AWS Marketplace model packages."
                    )
        self._region.models[made.name] = made
        return {"ModelArn": made.arn}

    def describe_model(self, asked: Asked) -> Answer:
        made = self._there("model", self._region.models, asked["ModelName"])
        described = {"EnableNetworkIsolation": False, **made.params}
        return {**described, "ModelArn": made.arn, "CreationTime": made.created}

    def delete_model(self, asked: Asked) -> Answer:
        return self._deleted("model", self._region.models, asked["ModelName"])

    def list_models(self, asked: Asked) -> Answer:
        return _listed("Model", self._region.models, asked)

    def create_endpoint_config(self, asked: Asked) -> Answer:
        made = self._new("endpoint-config", asked["EndpointConfigName"], self._region.configs, asked)
        names = [variant["VariantName"] for variant in asked["ProductionVariants"]]
        if len({*names}) < len(names):
            raise invalid(f"The names of the variants must be different: {', '.join(names)}.")
        for variant in asked["ProductionVariants"]:
            if not variant.keys() & {"InstanceType", "InstancePools", "ServerlessConfig"}:
                raise invalid(f"Variant {variant['VariantName']} has no InstanceType.")
            if "ModelName" in variant:
                self._there("model", self._region.models, variant["ModelName"])
            variant.setdefault("InitialVariantWeight", 1.0)
        self._region.configs[made.name] = made
        return {"EndpointConfigArn": made.arn}

    def describe_endpoint_config(self, asked: Asked) -> Answer:
        made = self._there("endpoint-config", self._region.configs, asked["EndpointConfigName"])
        return {**made.params, "EndpointConfigArn": made.arn, "CreationTime": made.created}

    def delete_endpoint_config(self, asked: Asked) -> Answer:
        return self._deleted("endpoint-config", self._region.configs, asked["EndpointConfigName"])

    def list_endpoint_configs(self, asked: Asked) -> Answer:
        return _listed("EndpointConfig", self._region.configs, asked)

    def create_endpoint(self, asked: Asked) -> Answer:
        region, name = self._region, asked["EndpointName"]
        made = self._new("endpoint", name, region.endpoints, asked)
        coming = self._deployment(asked["EndpointConfigName"])
        quotas.check(self._state, region, coming.params["ProductionVariants"])
        endpoint = Endpoint(name, made.arn, made.tags, region.clock.now(), self._lasts, coming)
        endpoint.failure = self._fate.failure or coming.short
        for arn in coming.packages.values():
            model = arn and self._state.packaged(arn, region.name)
            if model and not self._state.subscribed(model):  # cancelled since the model was made
                endpoint.failure = NOT_SUBSCRIBED
        region.endpoints[name] = endpoint
        return {"EndpointArn": endpoint.arn}

    def describe_endpoint(self, asked: Asked) -> Answer:
        endpoint = self._there("endpoint", self._region.endpoints, asked["EndpointName"])
        shown = endpoint.serving or endpoint.coming
        assert shown is not None
        described = {
            "EndpointName": endpoint.name,
            "EndpointArn": endpoint.arn,
            "EndpointConfigName": shown.config,
            "EndpointStatus": endpoint.status,
            "CreationTime": endpoint.created,
            "LastModifiedTime": endpoint.modified,
        }
        if endpoint.failure and not endpoint.doing:
            described["FailureReason"] = endpoint.failure
        if endpoint.status == "Failed":
            return described
        described["ProductionVariants"] = [
            _variant(variant, shown, running=endpoint.serving is not None)
            for variant in shown.params["ProductionVariants"]
        ]
        if endpoint.resizing and endpoint.coming:
            wanted = endpoint.coming.params["ProductionVariants"]
            for told, variant in zip(described["ProductionVariants"], wanted, strict=True):
                told["DesiredInstanceCount"] = variant.get("InitialInstanceCount", 1)
                told["DesiredWeight"] = variant["InitialVariantWeight"]
        if "AsyncInferenceConfig" in shown.params:
            described["AsyncInferenceConfig"] = shown.params["AsyncInferenceConfig"]
        if endpoint.status == "Updating" and endpoint.coming and not endpoint.resizing:
            described["PendingDeploymentSummary"] = {
                "EndpointConfigName": endpoint.coming.config,
                "StartTime": endpoint.modified,
                "ProductionVariants": [
                    {**_variant(variant, endpoint.coming, running=False), "InstanceType": _types(variant)[0]}
                    for variant in endpoint.coming.params["ProductionVariants"]
                ],
            }
        return described

    def update_endpoint(self, asked: Asked) -> Answer:
        region = self._region
        endpoint, serving = self._serving(asked["EndpointName"])
        coming = self._deployment(asked["EndpointConfigName"], _kept(asked, serving))
        if coming.config == serving.config:
            raise invalid("Cannot update endpoint with the currently in use endpoint configuration.")
        # AWS reads the old config too, so an update fails once that has been deleted (terraform-provider-aws#40048).
        self._there("endpoint-config", region.configs, serving.config)
        scaled = {key[0].split("/")[3] for key in region.targets if key[0].split("/")[1] == endpoint.name}
        kinds = ({v["VariantName"]: _types(v) for v in each.params["ProductionVariants"]} for each in (serving, coming))
        before, after = kinds
        if held := sorted(name for name in scaled if before.get(name) != after.get(name)):
            raise invalid(
                f'The variant(s) "[{", ".join(held)}]" must be deregistered as scalable targets with AWS Auto Scaling '
                "before they can be removed or have their instance type updated."
            )
        quotas.check(self._state, region, coming.params["ProductionVariants"])
        fails = self._fate.failure or coming.short
        endpoint.begin("Updating", now=region.clock.now(), lasts=self._lasts, coming=coming, failure=fails)
        return {"EndpointArn": endpoint.arn}

    def update_endpoint_weights_and_capacities(self, asked: Asked) -> Answer:
        region = self._region
        endpoint, serving = self._serving(asked["EndpointName"])
        wanted = {each["VariantName"]: each for each in asked["DesiredWeightsAndCapacities"]}
        variants = serving.params["ProductionVariants"]
        if unknown := sorted(wanted.keys() - {each["VariantName"] for each in variants}):
            raise invalid(f"The endpoint has no variant {', '.join(unknown)}.")
        changed, more = [], []
        for each in variants:
            said = wanted.get(each["VariantName"], {})
            now = {**each, **{spelled: said[name] for name, spelled in _KEPT.items() if name in said}}
            changed.append(now)
            if (added := now.get("InitialInstanceCount", 1) - each.get("InitialInstanceCount", 1)) > 0:
                more.append({**each, "InitialInstanceCount": added})
        quotas.check(self._state, region, more)  # of what is there none is replaced
        coming = replace(serving, params={**serving.params, "ProductionVariants": changed})
        endpoint.begin("Updating", now=region.clock.now(), lasts=self._lasts, coming=coming)
        return {"EndpointArn": endpoint.arn}

    def delete_endpoint(self, asked: Asked) -> Answer:
        endpoint = self._settled(asked["EndpointName"])
        now, lasts = self._region.clock.now(), self._region.deleted_after_s
        endpoint.begin("Deleting", now=now, lasts=lasts, coming=endpoint.coming)
        return {}

    def list_endpoints(self, asked: Asked) -> Answer:
        return _listed("Endpoint", self._region.endpoints, asked)

    def add_tags(self, asked: Asked) -> Answer:
        tags = self._tags(asked["ResourceArn"])
        tags |= {tag["Key"]: tag["Value"] for tag in asked["Tags"]}
        return {"Tags": _spelled(tags)}

    def list_tags(self, asked: Asked) -> Answer:
        return {"Tags": _spelled(self._tags(asked["ResourceArn"]))}  # 50 at most, so one page

    def delete_tags(self, asked: Asked) -> Answer:
        tags = self._tags(asked["ResourceArn"])
        for key in asked["TagKeys"]:
            tags.pop(key, None)
        return {}

    def describe_model_package(self, asked: Asked) -> Answer:
        arn = asked["ModelPackageName"]
        model = self._package(arn)
        known = service("sagemaker").shape_for("ProductionVariantInstanceType").enum
        types = [*model.instances, *(each for each in known if each.startswith(_GPUS) and each not in model.instances)]
        return {
            "ModelPackageName": arn.rpartition("/")[2],
            "ModelPackageArn": arn,
            "ModelPackageDescription": model.key,
            "CreationTime": 1735689600,
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": []},
            "CertifyForMarketplace": True,
            "InferenceSpecification": {
                "Containers": [{"ProductId": marketplace.product_id(model)}],
                "SupportedRealtimeInferenceInstanceTypes": types,
                "SupportedTransformInstanceTypes": types,
                "SupportedContentTypes": ["application/json", "text/csv"],
                "SupportedResponseMIMETypes": ["application/json"],
            },
        }

    @property
    def _lasts(self) -> float:
        return self._region.ready_after_s if self._fate.lasts is None else self._fate.lasts

    def _package(self, arn: str) -> Any:
        model = self._state.packaged(arn, self._region.name)
        if model is None:
            raise invalid(f"ModelPackage {arn} does not exist.")
        return model

    def _new(self, kind: str, name: str, known: Mapping[str, object], asked: Asked) -> Made:
        arn = self._region.arn(kind, name)
        if name in known:
            raise invalid(f'Cannot create already existing {_SAID[kind]} "{arn}".')
        tags = {tag["Key"]: tag["Value"] for tag in asked.pop("Tags", [])}
        return Made(name, arn, asked, tags)

    def _there(self, kind: str, known: Mapping[str, Any], name: str) -> Any:
        if name not in known:
            raise invalid(f'Could not find {_SAID[kind]} "{self._region.arn(kind, name)}".')
        return known[name]

    def _deleted(self, kind: str, known: dict[str, Made], name: str) -> Answer:
        self._there(kind, known, name)
        del known[name]
        return {}

    def _settled(self, name: str) -> Endpoint:
        endpoint: Endpoint = self._there("endpoint", self._region.endpoints, name)
        if endpoint.doing:
            raise invalid(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        return endpoint

    def _serving(self, name: str) -> tuple[Endpoint, Deployment]:
        """The endpoint, and what it serves."""
        endpoint = self._settled(name)
        if endpoint.status == "Failed":  # deletion is all that AWS allows on a failed endpoint
            raise invalid(f'Cannot update failed endpoint "{endpoint.arn}".')
        assert endpoint.serving is not None
        return endpoint, endpoint.serving

    def _deployment(self, config: str, instead: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> Deployment:
        """``instead``: what the variants of a name have in the place of what the config says."""
        said = self._there("endpoint-config", self._region.configs, config).params
        variants = [{**each, **instead.get(each["VariantName"], {})} for each in said["ProductionVariants"]]
        params = {**said, "ProductionVariants": variants}
        packages = {}
        for variant in params["ProductionVariants"]:
            if name := variant.get("ModelName"):
                model = self._there("model", self._region.models, name).params
                container = model.get("PrimaryContainer") or model["Containers"][0]
                packages[name] = container.get("ModelPackageName")
        had = self._state.scenario.capacity
        types: dict[str, str] = {}
        for variant in params["ProductionVariants"]:
            count = variant.get("InitialInstanceCount", 1)
            if found := [each for each in _types(variant) if had.get(each, count) >= count]:
                types[variant["VariantName"]] = found[0]
        return Deployment(config, params, packages, types)

    def _tags(self, arn: str) -> dict[str, str]:
        kind, _, name = arn.split(":", 5)[5].partition("/")
        region = self._region
        known: Mapping[str, Mapping[str, Any]] = {
            "model": region.models,
            "endpoint-config": region.configs,
            "endpoint": region.endpoints,
        }
        if kind not in known:
            raise Refusal("UnknownOperationException", f"the local stack keeps no tags of a {kind}")
        if arn != region.arn(kind, name):
            raise invalid(f'Could not find {_SAID[kind]} "{arn}".')
        tags: dict[str, str] = self._there(kind, known[kind], name).tags
        return tags


def _listed(kind: str, known: Mapping[str, Any], asked: Asked) -> Answer:
    def wanted(each: Any) -> bool:
        modified = getattr(each, "modified", each.created)
        return (
            asked.get("NameContains", "").lower() in each.name.lower()
            and asked.get("StatusEquals") in (None, getattr(each, "status", None))
            and asked.get("CreationTimeAfter", 0) < each.created < asked.get("CreationTimeBefore", 1e12)
            and asked.get("LastModifiedTimeAfter", 0) < modified < asked.get("LastModifiedTimeBefore", 1e12)
        )

    field = {"Name": "name", "Status": "status"}.get(asked.get("SortBy", ""), "created")
    found, more = page(
        filter(wanted, known.values()),
        lambda each: [getattr(each, field), each.name],
        asked,
        most=10,
        spelled=("NextToken", "MaxResults"),
        descending=asked.get("SortOrder") != "Ascending",
    )
    rows = []
    for each in found:
        row = {f"{kind}Name": each.name, f"{kind}Arn": each.arn, "CreationTime": each.created}
        if kind == "Endpoint":
            row |= {"EndpointStatus": each.status, "LastModifiedTime": each.modified}
        rows.append(row)
    return {f"{kind}s": rows, **more}


def _variant(asked: Mapping[str, Any], of: Deployment, *, running: bool) -> Answer:
    wanted, weight = asked.get("InitialInstanceCount", 1), asked["InitialVariantWeight"]
    kept = {name: asked[name] for name in ("ManagedInstanceScaling", "RoutingConfig") if name in asked}
    if "InstancePools" in asked:
        on = of.types.get(asked["VariantName"])
        kept["InstancePools"] = [
            {"InstanceType": each, "CurrentInstanceCount": wanted if running and each == on else 0}
            for each in _types(asked)
        ]
    return {
        "VariantName": asked["VariantName"],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
        "CurrentInstanceCount": wanted if running else 0,
        "DesiredInstanceCount": wanted,
        **kept,
    }


def _kept(asked: Asked, serving: Deployment) -> dict[str, dict[str, Any]]:
    """What an update keeps of what serves, by variant."""
    if not asked.get("RetainAllVariantProperties"):
        return {}
    excluded = {each["VariantPropertyType"] for each in asked.get("ExcludeRetainedVariantProperties", ())}
    names = [spelled for kind, spelled in _KEPT.items() if kind not in excluded]
    return {
        each["VariantName"]: {name: each[name] for name in names if name in each}
        for each in serving.params["ProductionVariants"]
    }


def _types(variant: Mapping[str, Any]) -> list[str]:
    """The instance types of a variant, in the order in which they are tried."""
    pools = sorted(variant.get("InstancePools", ()), key=lambda pool: int(pool["Priority"]))
    return [pool["InstanceType"] for pool in pools] or [variant.get("InstanceType", "")]


def _spelled(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
