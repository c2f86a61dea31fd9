"""
Vectors that cost nothing: each is a hash of its text. They say nothing of what it means, but a swapped row shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from jina_sm import tokens
from jina_sm.local.models import WIDTH
from jina_sm.values import Vectors


class Constant:
    """An encoder with nothing to load."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        hashed = b"".join(hashlib.shake_256(text.encode()).digest(WIDTH) for text in texts)
        rows = np.frombuffer(hashed, np.uint8).reshape(-1, WIDTH).astype(np.float32) - 127.5
        unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def tokens(self, text: str) -> int:
        return tokens.estimate(text)
