"""
Runs a notebook top to bottom in this interpreter's environment and writes its outputs back: `make notebook`.
With --check nothing is written: `make notebook-sagemaker` does so where the sagemaker SDK is installed too.

Everything but the outputs stays as it was, and what differs at every run (times, ports) is not written, so that a
second run changes nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

CELL_S = 100
# A kernel that hangs says where, before it is given up.
_SAY_WHERE = f"import faulthandler, sys; faulthandler.dump_traceback_later({CELL_S - 30}, file=sys.__stderr__)"


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run. Raises CellExecutionError at the first cell that fails."""
    notebook = nbformat.read(path, as_version=4)
    # The kernel must be this interpreter, whatever kernels the user has installed.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryDirectory() as sockets:
        client = NotebookClient(
            notebook,
            timeout=CELL_S,
            kernel_name="python3",
            record_timing=False,
            config=_unraced(sockets),
            extra_arguments=[f"--IPKernelApp.exec_lines={_SAY_WHERE}"],
        )
        client.execute(cwd=str(path.parent))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def _unraced(sockets: str) -> Config:
    """The kernel is reached by files: a port is chosen a moment before it is used, and may be taken meanwhile."""
    by_files = {"transport": "ipc", "ip": str(Path(sockets) / "kernel")}
    return Config({"KernelManager": by_files} if os.name == "posix" else {})


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """A stream comes in pieces as the kernel happened to flush it; here it is whole."""
    whole: list[nbformat.NotebookNode] = []
    for output in outputs:
        if whole and output.output_type == whole[-1].output_type == "stream" and output.name == whole[-1].name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


if __name__ == "__main__":
    check = "--check" in sys.argv
    for name in (word for word in sys.argv[1:] if word != "--check"):
        ran = executed(Path(name))
        if not check:
            nbformat.write(ran, name)
        print(f"{name}: run top to bottom, {'nothing' if check else 'outputs'} written", file=sys.stderr)
