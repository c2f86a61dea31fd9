"""
How things are printed: tables of plain columns, JSON, and the live view of a run.

rich draws on a terminal and is imported only there; into a pipe go plain lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from jina_sm.deploy.run import Event

_WIDTH, _NARROWEST = 80, 12
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Don't ask.")


def say(text: str = "") -> None:
    """Talk: to stderr, so that stdout stays data."""
    click.echo(text, err=True)


def json(data: object) -> None:
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    click.echo(orjson.dumps(data, default=str, option=options).decode())


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    tell: Callable[[str], None] = click.echo,
    *,
    gives: int | None = None,
) -> None:
    """Columns as wide as their widest word, two blanks between.

    ``gives``: the column that is kept narrow, so that all fit into 80; a word too long for it ends its line, and the
    row goes on in the next.
    """
    lines = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    if gives is not None:
        rest = sum(widths) - widths[gives] + 2 * (len(widths) - 1)
        widths[gives] = max(min(widths[gives], _WIDTH - rest), len(head[gives]), _NARROWEST)
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        if gives is not None and len(line[gives]) > widths[gives] and any(line[gives + 1 :]):
            tell("  ".join(cells[: gives + 1]).rstrip())
            cells[: gives + 1] = [" " * width for width in widths[: gives + 1]]
        tell("  ".join(cells).rstrip())


def confirm(question: str, yes: bool) -> None:
    """Goes on if told so; asks on a terminal, and refuses without one. Raises UsageError or Abort."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask on: pass --yes.")
    click.confirm(question, abort=True, err=True)


@contextmanager
def progress(regions: Sequence[str]) -> Iterator[Callable[[Event], None]]:
    """A listener that shows a run: one line a region that changes in place, or one line an event into a pipe."""
    try:
        with _live(regions) if sys.stderr.isatty() else _lines() as listener:
            yield listener
    except KeyboardInterrupt:
        say("Stopped. The same command goes on from what is there; `jina-sm teardown` removes it.")
        raise


@contextmanager
def _lines() -> Iterator[Callable[[Event], None]]:
    began = time.monotonic()

    def listener(event: Event) -> None:
        say(f"  {time.monotonic() - began:6.1f}s  {event.region:<14}  {event.step}{_status(event)}")

    yield listener


@contextmanager
def _live(regions: Sequence[str]) -> Iterator[Callable[[Event], None]]:
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.table import Table

    rows: dict[str, tuple[str, float]] = {region: ("", time.monotonic()) for region in regions}
    spinner = Spinner("dots")

    def drawn() -> Any:
        grid = Table.grid(padding=(0, 2))
        for region, (text, since) in rows.items():
            grid.add_row(spinner, region, text, f"{time.monotonic() - since:.0f}s")
        return grid

    with Live(get_renderable=drawn, console=Console(stderr=True), refresh_per_second=8, transient=True):

        def listener(event: Event) -> None:  # the seconds are those of the status that is shown
            rows[event.region] = (f"{event.step}{_status(event)}", time.monotonic())

        yield listener


def _status(event: Event) -> str:
    if not event.status:
        return ""
    lasted = f" after {event.seconds:.0f}s {event.before}" if event.before else ""
    return f": {event.status}{lasted}"
