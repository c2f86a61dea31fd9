"""
Measure any deployment, beside the published figures. Names resolve when first used.

    from jina_sm import bench, catalog

    here = bench.opened("http://127.0.0.1:8080?model=jina-embeddings-v3", catalog.load(), connections=10)
    measured = bench.run([here], bench.Plan(settings=bench.published_grid(batch_sizes=[1])))
    print(measured.summaries[0].latency_s)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jina_sm.bench.endpoint import Endpoint as Endpoint
    from jina_sm.bench.endpoint import Price as Price
    from jina_sm.bench.endpoint import opened as opened
    from jina_sm.bench.endpoint import priced as priced
    from jina_sm.bench.load import Rules as Rules
    from jina_sm.bench.metrics import Setting as Setting
    from jina_sm.bench.plan import Plan as Plan
    from jina_sm.bench.plan import published_grid as published_grid
    from jina_sm.bench.runs import Measured as Measured
    from jina_sm.bench.runs import run as run

_HOMES = {
    "Endpoint": "endpoint",
    "Measured": "runs",
    "Plan": "plan",
    "Price": "endpoint",
    "Rules": "load",
    "Setting": "metrics",
    "opened": "endpoint",
    "priced": "endpoint",
    "published_grid": "plan",
    "run": "runs",
}
__all__ = [*_HOMES]  # noqa: PLE0604  the names are strings


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'jina_sm.bench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jina_sm.bench.{_HOMES[name]}"), name)
