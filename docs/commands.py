"""
The page of all commands, written from the commands themselves: ``make docs`` writes docs/commands.md.

It reads click's tree and not its help text, whose layout changes from version to version.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from jina_sm.cli import cli

PAGE = Path(__file__).with_suffix(".md")
_HEAD = """\
# The commands

<!-- Written by docs/commands.py from the commands themselves: `make docs` writes it anew. -->

Data goes to stdout, talk to stderr. Every command takes `--json` and `--help`; those that cost or remove something show
what they would do and ask, unless `--yes`. Exit codes: 0 it is done, 1 it failed, 2 it was asked wrongly, 130 it was
interrupted, and the same command goes on from what is there.
"""


def leaves(command: click.Command, path: tuple[str, ...] = ("jina-sm",)) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by the words that are typed, in the order of --help.

    A group may do something by itself, as `jina-sm quota` does.
    """
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in [*command.commands] or command.list_commands(context):
            each = command.get_command(context, name)
            assert each is not None
            yield from leaves(each, (*path, name))


def page() -> str:
    parts = [_HEAD, "| | |\n|---|---|"]
    everything = list(leaves(cli))
    parts[-1] += "".join(f"\n| [`{path}`](#{_anchor(path)}) | {_text(each)[0]} |" for path, each in everything)
    parts += [f"## jina-sm\n\n{_all(cli)}\n\n{_table(cli)}"]
    for path, each in everything:
        arguments = "".join(f" {_argument(one)}" for one in each.params if isinstance(one, click.Argument))
        parts.append(f"## {path}\n\n```\n{path} [OPTIONS]{arguments}\n```\n\n{_all(each)}\n\n{_table(each)}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _text(command: click.Command) -> list[str]:
    """What it says of itself, a paragraph each, on one line."""
    return [" ".join(each.split()) for each in inspect.cleandoc(command.help or "").split("\n\n")]


def _all(command: click.Command) -> str:
    return "\n\n".join(_text(command))


def _table(command: click.Command) -> str:
    rows = [_row(each) for each in command.params if isinstance(each, click.Option) and not each.hidden]
    return "| Option | |\n|---|---|\n" + "\n".join(rows)


def _row(option: click.Option) -> str:
    names = ", ".join(sorted((*option.opts, *option.secondary_opts), key=lambda name: (name.startswith("--"), name)))
    said = [" ".join((option.help or "").split())]
    if option.multiple and "gain for" not in said[0]:
        said.append("May be given again.")
    if option.show_default and option.default is not None:
        said.append(f"Default: {option.default}.")
    words = f"{names} {_takes(option)}".strip()
    return f"| `{words}` | {' '.join(each for each in said if each)} |"


def _takes(option: click.Option) -> str:
    """What is to be given with it; "": nothing."""
    if option.is_flag:
        return ""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        # A bar would end the cell of the table.
        return f"[{', '.join(str(each) for each in option.type.choices)}]"
    return option.type.name.upper().replace(" RANGE", "")


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _anchor(path: str) -> str:
    return path.replace(" ", "-")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(PAGE.read_text(encoding="utf-8") != page() and f"{PAGE.name} is not current: run `make docs`")
    PAGE.write_text(page(), encoding="utf-8")
