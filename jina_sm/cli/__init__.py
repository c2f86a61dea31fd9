"""
Words in, words out.

Each command parses, calls one public function and prints: data to stdout, talk to stderr. Nothing heavy is imported
before a command needs it. Exit codes: 0 done, 1 it failed, 2 it was asked wrongly, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
import textwrap

import click

from jina_sm import __version__
from jina_sm.errors import JinaSMError

COMMANDS = {
    "models": ("models", "List the models of the catalogue."),
    "subscribe": ("deployment", "Subscribe the account to a MODEL's Marketplace package."),
    "subscriptions": ("subscriptions", "List the account's subscriptions to Jina AI's models."),
    "unsubscribe": ("subscriptions", "Cancel the account's subscription to a MODEL's Marketplace package."),
    "init": (
        "guards",
        "Write a FILE that says what should be in service, for `jina-sm deploy -f`; never over one that is there.",
    ),
    "doctor": (
        "preflight",
        "Find every reason why deploying each MODEL, or what a file asks for, would fail; make nothing.",
    ),
    "quota": (
        "preflight",
        "Show how many instances of a type endpoints may have, how many they have, and what is left, per region.",
    ),
    "deploy": ("deployment", "Put each MODEL, or what a file says, into service in one region or several."),
    "status": ("deployment", "Show what this tool has deployed: all of it, a MODEL's endpoints, or the one of a NAME."),
    "pause": ("guards", "Take away a MODEL's endpoints, or the one of a NAME, and keep what they were made from."),
    "resume": (
        "guards",
        "Bring back the endpoints of a MODEL, or the one of a NAME, that were paused, or deleted by their --ttl.",
    ),
    "orphans": (
        "guards",
        "Find what bills or lingers: idle and broken endpoints, and what was left where an endpoint has gone.",
    ),
    "teardown": (
        "deployment",
        "Remove a MODEL's endpoints, or the one of a NAME, or --all, with all that belongs to them, and look again.",
    ),
    "embed": ("search", "Embed each TEXT, or each line of a file."),
    "rerank": ("search", "Order each DOCUMENT, or each line of a file, by relevance to a QUERY."),
    "read": ("search", "Turn a page of HTML, FILE or stdin, into Markdown on stdout."),
    "cost": ("cost", "Compare Jina's API, SageMaker and your own servers by price."),
    "advise": (
        "advise",
        "Recommend Jina's API, SageMaker or your own servers, with reasons, costs and the next command.",
    ),
    "iam": (
        "iam",
        "Print the policy of WHO: viewer, operator, caller, role-maker, execution-role or ttl-role; without, all.",
    ),
    "export": (
        "export",
        "Write what `deploy` would make of each MODEL, or of a file, as CloudFormation templates: one a region.",
    ),
    "bench": ("bench", "Measure any deployment, beside the published figures."),
    "serve": ("serve", "Serve an embedding model and a reranker, or stand in front of an endpoint."),
    "local": ("local", "AWS on this machine: SageMaker, the Marketplace and more, with a small stand-in model."),
}
"""Each command's module and its line of help, which a test holds to the command's own: listing them imports none."""
_debugging: list[click.Context] = []


class _Commands(click.Group):
    """Imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"jina_sm.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        room = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, textwrap.shorten(line, room, placeholder="...")) for name, (_, line) in COMMANDS.items()]
            )


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="jina-sm")
@click.option("--debug", is_flag=True, help="Log each step and request, and show tracebacks.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Jina AI's search models on AWS SageMaker: deploy them, use them, tear them down.

    Try all of it on this machine first: `jina-sm local up --detach`, then `eval "$(jina-sm local env)"`.
    """
    if debug:
        import logging

        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("jina_sm").setLevel(logging.DEBUG)
        _debugging.append(context)


def main() -> None:
    """The console script."""
    try:
        sys.exit(cli.main(prog_name="jina-sm", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:  # whoever read has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # the output, since every other file is named where it is opened
        click.echo(f"error: {error.strerror or error}", err=True)
        os._exit(1)  # a plain exit would fail again, flushing what cannot be written
    except JinaSMError as error:
        if _debugging:
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
