"""Runs that were never made: samples of the simulation, in the form that a real run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jina_sm.bench.metrics import Sample, Setting
from jina_sm.bench.runs import Facts, Measured
from tests.bench.simulated import Endpoint, simulate, workers

SETTINGS = tuple(
    Setting(batch_size=batch, passage_tokens=128, concurrency=callers) for batch in (1, 32) for callers in (1, 5, 10)
)


def facts(name: str, kind: str = "sagemaker", **more: object) -> Facts:
    spelled = {
        "sagemaker": "sagemaker://us-east-1/e?model=jina-embeddings-v3",
        "jina-api": "jina-api://?model=jina-embeddings-v3",
        "http": "http://127.0.0.1:8080?model=jina-embeddings-v3",
    }
    known: dict[str, object] = {
        "name": name,
        "target": spelled[kind],
        "kind": kind,
        "model": "jina-embeddings-v3",
        "usd_per_hour": 3.908 if kind == "sagemaker" else None,
        "usd_per_1m_tokens": 0.02 if kind == "jina-api" else None,
        "price_source": None if kind == "http" else "as given",
    }
    return Facts(**{**known, **more})  # type: ignore[arg-type]


def measured(
    services: Mapping[str, float],
    *,
    settings: tuple[Setting, ...] = SETTINGS,
    repetitions: int = 5,
    requests: int = 20,
    jitter: float = 0.02,
    kinds: Mapping[str, str] = {},
    fails_every: Mapping[str, int] = {},
    ended: str = "complete",
    told: bool = False,
    changes: Mapping[str, object] = {},
) -> Measured:
    """Targets by the seconds that a text takes there; each repetition is ``jitter`` slower or faster than another."""
    samples: list[Sample] = []
    for target, service in services.items():
        every = fails_every.get(target, 0)
        for number, setting in enumerate(settings):
            for repetition in range(repetitions):
                took = service * (setting.batch_size or 1) ** 0.5 * (1 + jitter * (repetition % 3 - 1))
                endpoint: Endpoint = workers(took)
                found = simulate(
                    setting,
                    endpoint,
                    requests=requests,
                    warm_up=setting.concurrency or 0,
                    tokens=(setting.batch_size or 1) * 128,
                    repetition=repetition,
                    target=target,
                    fails=lambda at, every=every: bool(every) and at % every == 0,  # type: ignore[misc]
                )
                samples += [replace(each, setting=number) for each in found]
                if told:
                    samples = [
                        replace(each, server_queue_s=0.4 * each.response_s, server_work_s=0.5 * each.response_s)
                        for each in samples
                    ]
    return Measured(
        began_at="2026-11-26T11:17:00+00:00",
        took_s=118.0,
        ended=ended,
        settings=settings,
        asked={"repetitions": repetitions, "requests": requests},
        environment={"system": "Linux", "machine": "x86_64", "cpus": 2, "load_average": [0.5, 0.4, 0.3]},
        versions={"python": "3.11.0", "jina_sm": "0.1.0"},
        targets=tuple(facts(name, kinds.get(name, "sagemaker"), **changes) for name in services),
        samples=tuple(samples),
        usd=1.25,
    )
