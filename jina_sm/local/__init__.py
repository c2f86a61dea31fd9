"""
AWS on this machine, at the wire: our handlers in front, moto behind. Names resolve when first used.

    from jina_sm import local

    with local.serving(local.Stack()) as url:
        boto3.client("sagemaker", endpoint_url=url, ...)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jina_sm.local.app import Stack as Stack
    from jina_sm.local.marketplace import listing_id as listing_id
    from jina_sm.local.process import Speed as Speed
    from jina_sm.local.process import change_scenario as change_scenario
    from jina_sm.local.process import clear_faults as clear_faults
    from jina_sm.local.process import environment as environment
    from jina_sm.local.process import fault as fault
    from jina_sm.local.process import list_faults as list_faults
    from jina_sm.local.process import release as release
    from jina_sm.local.process import reset as reset
    from jina_sm.local.process import running as running
    from jina_sm.local.process import running_as as running_as
    from jina_sm.local.process import serve as serve
    from jina_sm.local.process import serving as serving
    from jina_sm.local.process import start_detached as start_detached
    from jina_sm.local.process import stop as stop

DEFAULT_PORT = 8471
_HOMES = {"Stack": "app", "listing_id": "marketplace"}
__all__ = [  # noqa: RUF022  in the order of use
    "DEFAULT_PORT",
    "serve",
    "start_detached",
    "running",
    "running_as",
    "environment",
    "reset",
    "stop",
    "fault",
    "list_faults",
    "release",
    "clear_faults",
    "change_scenario",
    "Speed",
    "Stack",
    "serving",
    "listing_id",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'jina_sm.local' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jina_sm.local.{_HOMES.get(name, 'process')}"), name)
