"""What a figure was measured on: one line, printed before the figures."""

from __future__ import annotations

import os
import platform


def line() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"
