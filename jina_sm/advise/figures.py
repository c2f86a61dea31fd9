"""
The published figures, as the file beside this one has them: each table with its source and date.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WAYS = ("jina_api", "sagemaker", "self_hosted")
NAMES: Mapping[str, str] = {
    "jina_api": "Jina's API",
    "sagemaker": "AWS SageMaker",
    "self_hosted": "one's own servers",
}


@functools.cache
def figures() -> Mapping[str, Any]:
    """The tables of ``figures.toml``."""
    return tomllib.loads((Path(__file__).parent / "figures.toml").read_text(encoding="utf-8"))


def article() -> str:
    """Where and when the figures were published, in one line."""
    about = figures()["article"]
    return f"{about['publisher']}, {about['date']}: {about['title']}"
