"""A real Chromium, headless: what a page says on its console, its DOM, and a picture of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next((path for name in NAMES if (path := shutil.which(name))), None)
needed = pytest.mark.skipif(FOUND is None, reason=f"no Chromium here: none of {', '.join(NAMES)} is on the PATH")


def _run(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert FOUND is not None
    with tempfile.TemporaryDirectory() as profile:
        return subprocess.run(
            [
                FOUND, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-extensions",
                "--disable-background-networking", "--no-first-run", "--enable-logging=stderr", "--v=0",
                "--allow-file-access-from-files", f"--user-data-dir={profile}", *options, page.as_uri(),
            ],
            capture_output=True, text=True, timeout=100, check=True,
        )  # fmt: skip


def opened(page: Path, *options: str) -> tuple[str, list[str]]:
    """The DOM once everything has run, and what was said on the console."""
    done = _run(page, "--dump-dom", *options)
    return done.stdout, re.findall(r"CONSOLE\W.*", done.stderr)


def picture(page: Path, file: Path, *, width: int, height: int, dark: bool = False) -> None:
    """A PNG of so many CSS pixels."""
    options = ["--blink-settings=preferredColorScheme=0"] if dark else []
    _run(page, f"--screenshot={file}", f"--window-size={width},{height}", *options)
