"""The example notebook runs top to bottom, and is committed with what it really said."""

from __future__ import annotations

import re
import runpy
import warnings
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytestmark = pytest.mark.timeout(600)  # a cell alone may take a hundred seconds on a busy machine
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def said(notebook: Any) -> list[list[str]]:
    """The outputs by cell, without the numbers, whose last digits differ between processors."""
    return [
        [re.sub(r"-?\d+\.\d+", "#", output.get("text") or output["data"]["text/html"]) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs_top_to_bottom_and_says_what_is_committed(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jupyter's own
        ran = runpy.run_path(str(NOTEBOOKS / "execute.py"))["executed"](path)
    committed = nbformat.read(path, as_version=4)
    assert said(ran) == said(committed)
    assert any(said(committed)), "committed with its outputs"
