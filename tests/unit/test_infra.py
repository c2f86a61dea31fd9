"""The images and the manifests: valid, and true to the server that they run. Nothing is built or applied here."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import orjson
import pytest
import yaml
from serving import Obedient, served
from starlette.routing import Match

from jina_sm.serve import app, settings
from jina_sm.serve.backend import Local
from jina_sm.serve.batcher import Batcher
from jina_sm.serve.engine import Engine
from jina_sm.serve.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "infra/docker").glob("*.Dockerfile"))
BASE = ROOT / "infra/kubernetes/base"
OVERLAYS = sorted(path.parent for path in (ROOT / "infra/kubernetes/overlays").glob("*/kustomization.yaml"))
UNCHECKED = {"Kustomization"}
"""Kinds of which kubernetes-validate has no schema. Any other is a slip."""
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders the overlays")


def documents(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


def rendered(overlay: Path) -> dict[str, dict[str, Any]]:
    told = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True)
    return {each["kind"]: each for each in documents(told.stdout)}


def check(document: dict[str, Any]) -> None:
    if document["kind"] not in UNCHECKED:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def pod(found: dict[str, dict[str, Any]]) -> Any:
    return found["Deployment"]["spec"]["template"]["spec"]


def routes() -> dict[str, int]:
    """What the app answers on each path to a GET, when it is ready."""
    model = Obedient()
    backend = Local(model, None, lambda work: Engine(Batcher(), work))
    served = app.create_app(Settings(), backend)
    told: dict[str, int] = {}

    async def ask(path: str) -> None:
        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            told.setdefault(path, message.get("status", 0))

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [],
            "query_string": b"",
            "state": {"request_id": "x"},
        }
        assert any(route.matches(scope)[0] is Match.FULL for route in served.routes), path
        await served(scope, receive, send)

    for path in ("/live", "/ready", "/metrics", "/ping"):
        asyncio.run(ask(path))
    return told


@pytest.mark.parametrize("path", sorted(BASE.glob("*.yaml")), ids=lambda path: path.name)
def test_each_manifest_is_valid(path: Path):
    for document in documents(path.read_text()):
        check(document)


def test_an_unknown_kind_and_an_unknown_field_are_slips():
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        check({"apiVersion": "v1", "kind": "Unicorn"})
    with pytest.raises(kubernetes_validate.ValidationError):
        check({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}})


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
class TestOverlay:
    def test_what_it_renders_is_valid(self, overlay: Path):
        found = rendered(overlay)
        for document in found.values():
            check(document)
        assert set(found) == {
            *("ServiceAccount", "ConfigMap", "Service", "Deployment"),
            *("PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"),
        }

    def test_its_settings_are_settings(self, overlay: Path):
        told = settings.load({}, rendered(overlay)["ConfigMap"]["data"])
        assert told.host == "0.0.0.0"
        assert told.cache in {mount["mountPath"] for mount in pod(rendered(overlay))["containers"][0]["volumeMounts"]}
        assert app.check(told)

    def test_its_probes_and_ports_are_the_apps(self, overlay: Path):
        found = rendered(overlay)
        (container,) = pod(found)["containers"]
        told = settings.load({}, found["ConfigMap"]["data"])
        (port,) = container["ports"]
        assert port["containerPort"] == told.port
        answers = routes()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["port"] == port["name"]
            assert answers[asked["path"]] == 200
        assert container["livenessProbe"]["httpGet"]["path"] == "/live"
        assert found["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
        ingress = found["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]
        assert ingress["port"] == port["name"]
        notes = found["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        assert (notes["prometheus.io/port"], notes["prometheus.io/path"]) == (str(told.port), "/metrics")

    def test_the_pod_outlives_the_drain(self, overlay: Path):
        found = rendered(overlay)
        told = settings.load({}, found["ConfigMap"]["data"])
        assert pod(found)["terminationGracePeriodSeconds"] > told.drain_delay_s + told.drain_s + 5
        # Whoever routes has noticed by then that it is not ready.
        probe = pod(found)["containers"][0]["readinessProbe"]
        assert told.drain_delay_s >= probe["periodSeconds"] * probe["failureThreshold"]

    def test_it_runs_with_as_little_as_it_needs(self, overlay: Path):
        spec = pod(rendered(overlay))
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert spec["automountServiceAccountToken"] is False
        # JINA_SM_SERVE_PORT=tcp://... would be made of a service of that name.
        assert spec["enableServiceLinks"] is False
        assert not rendered(overlay)["Service"]["metadata"]["name"].startswith("jina-sm-serve")

    def test_its_selectors_select_its_pods(self, overlay: Path):
        found = rendered(overlay)
        labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
        chosen = [
            found["Service"]["spec"]["selector"],
            found["Deployment"]["spec"]["selector"]["matchLabels"],
            found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
            found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        ]
        assert all(each and each.items() <= labels for each in chosen)
        # The label that the documentation names is enough, and no other is asked for.
        pods, namespaces = found["NetworkPolicy"]["spec"]["ingress"][0]["from"]
        label = {"key": "jina-sm/client", "operator": "In", "values": ["true"]}
        assert pods == {"podSelector": {"matchExpressions": [label]}}
        assert namespaces == {"namespaceSelector": {"matchLabels": {"jina-sm/client": "true"}}}
        target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
        assert target["name"] == found["Deployment"]["metadata"]["name"]


@needs_kubectl
def test_the_gpu_overlay_asks_for_a_gpu_and_scales_by_a_figure_that_there_is():
    found = rendered(ROOT / "infra/kubernetes/overlays/eks-g5")
    (container,) = pod(found)["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod(found)["nodeSelector"] == {"node.kubernetes.io/instance-type": "g5.xlarge"}
    (metric,) = found["HorizontalPodAutoscaler"]["spec"]["metrics"]
    server = app.Server(Settings(), Local(Obedient(), None, lambda work: Engine(Batcher(), work)))
    assert f"\n{metric['pods']['metric']['name']} ".encode() in server.metrics.exposition()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
class TestImage:
    def test_it_passes_the_linter(self, path: Path):
        linter = Path(sys.executable).parent / "hadolint"
        told = subprocess.run([str(linter), "--no-color", str(path)], capture_output=True, text=True, check=False)
        assert (told.returncode, told.stdout) == (0, "")

    def test_what_it_says_is_true(self, path: Path):
        text = path.read_text()
        assert f"EXPOSE {Settings().port}\n" in text
        (check,) = re.findall(r"^    CMD (\[.+\])$", text, re.MULTILINE)
        _, *told = orjson.loads(check)
        with served() as up:
            variables = {**os.environ, "JINA_SM_SERVE_PORT": str(up.port)}
            assert subprocess.run([sys.executable, *told], env=variables, check=False).returncode == 0
            up.server.failure = ValueError("it is broken")
            dead = subprocess.run([sys.executable, *told], env=variables, capture_output=True, check=False)
            assert dead.returncode != 0
        assert re.search(r"^USER (?!0|root)\d+$", text, re.MULTILINE)
        variables = dict(re.findall(r"(JINA_SM_SERVE_\w+)=(\S+)", text))
        assert settings.load({}, variables).host == "0.0.0.0"
        for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
            for name in source.split():
                assert (ROOT / name).exists()
                assert f"!{name}\n" in Path(f"{path}.dockerignore").read_text()
        assert text.endswith('ENTRYPOINT ["jina-sm"]\nCMD ["serve"]\n')  # SageMaker's one word
