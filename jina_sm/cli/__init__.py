"""
Words in, words out.

Each command parses, calls one public function and prints: data to stdout, talk to stderr. Nothing heavy is imported
before a command needs it. Exit codes: 0 done, 1 it failed, 2 it was asked wrongly, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import click

from jina_sm import __version__
from jina_sm.cli import (
    advise,
    bench,
    cost,
    deployment,
    export,
    guards,
    iam,
    local,
    models,
    preflight,
    search,
    serve,
    subscriptions,
)
from jina_sm.errors import JinaSMError

_debugging: list[click.Context] = []


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


for _command in (
    models.models,
    deployment.subscribe,
    subscriptions.subscriptions,
    subscriptions.unsubscribe,
    guards.init,
    preflight.doctor,
    preflight.quota,
    deployment.deploy,
    deployment.status,
    guards.pause,
    guards.resume,
    guards.orphans,
    deployment.teardown,
    search.embed,
    search.rerank,
    search.read,
    cost.cost,
    advise.advise,
    iam.iam,
    export.export,
    bench.bench,
    serve.serve,
    local.local,
):
    cli.add_command(_command)


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
