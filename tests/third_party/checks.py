"""What the scripts beside this say and measure. No dependencies: each script runs in its client's own virtualenv."""

import math
import sys
from collections.abc import Sequence

BEES, STEEL = "Bees make honey.", "Steel rusts in the rain."
QUESTION = "Was machen Bienen?"
"""German for "what do bees do?", so that only meaning can bring it close to BEES."""


def check(rule: str, holds: bool) -> None:
    """Says whether the rule holds; ends the script where it does not."""
    print("ok  " if holds else "FAIL", rule, flush=True)
    if not holds:
        sys.exit(1)


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.hypot(*a) * math.hypot(*b))


def length(vector: Sequence[float]) -> float:
    return math.hypot(*vector)
