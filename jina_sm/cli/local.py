"""The local stack, up and down."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from jina_sm.cli import show

_port_option = click.option(
    "--port", type=click.IntRange(1, 65535), default=None, help="Default: JINA_SM_LOCAL_PORT, 8471."
)


def _seconds(context: click.Context, param: click.Parameter, value: str) -> float:
    """``2s``, ``500ms``, ``1m`` or a number of seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m)?", value)
    if not match:
        raise click.BadParameter(f"{value!r} is not a duration such as 2s, 500ms or 1m")
    return float(match[1]) * {"ms": 0.001, "m": 60.0}.get(match[2], 1.0)


@click.group()
def local() -> None:
    """AWS on this machine: SageMaker, the Marketplace and more, with a small stand-in model."""


@local.command()
@_port_option
@click.option("--ready-after", callback=_seconds, default="2s", show_default=True, help="How long an endpoint takes.")
@click.option("--profile", type=click.Choice(["ml.g5.xlarge"]), help="Answer as slowly as this instance would.")
@click.option(
    "--time-scale",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    help="0.15: the profile, but 6.7 times faster.",
)
@click.option("--instances", type=click.IntRange(1), help="Of the profile. Default: as the endpoint's config says.")
@click.option(
    "--vectors",
    type=click.Choice(["stand-in", "constant"]),
    default="stand-in",
    help="constant: a hash of each text, which needs no model.",
)
@click.option("--detach", "-d", is_flag=True, help="Leave it running and come back.")
@show.json_option
def up(
    port: int | None,
    ready_after: float,
    profile: str | None,
    time_scale: float,
    instances: int | None,
    vectors: str,
    detach: bool,
    as_json: bool,
) -> None:
    """Run the stack in the foreground until Ctrl-C, or --detach.

    With --json it says where it is, once it answers.
    """
    from jina_sm import local as stack

    number = _port(port)
    speed = stack.Speed(profile=profile, time_scale=time_scale, instances=instances, vectors=vectors)

    def up_with(vectors: str) -> None:
        _hint(number, vectors)
        if as_json:
            show.json({"port": number, "url": f"http://127.0.0.1:{number}", "vectors": vectors})
            sys.stdout.flush()  # a pipe is told now, not when the stack ends

    if detach:
        if found := stack.running_as(number, speed):
            show.say(f"already up on port {number}")
        else:
            stack.start_detached(number, ready_after, speed=speed)
        up_with((found or speed).vectors)
    else:
        stack.serve(number, ready_after, lambda: up_with(vectors), speed=speed)


@local.command()
@_port_option
@show.json_option
def down(port: int | None, as_json: bool) -> None:
    """End the stack; all it holds is gone."""
    from jina_sm import local as stack

    number = _port(port)
    stopped = stack.stop(number)
    if as_json:
        return show.json({"port": number, "stopped": stopped})
    click.echo(f"stopped the local stack on port {number}" if stopped else f"nothing runs on port {number}")
    return None


@local.command()
@_port_option
@click.option("--unset", is_flag=True, help="Print what takes them away again, so that this shell asks AWS.")
@show.json_option
def env(port: int | None, unset: bool, as_json: bool) -> None:
    """Print shell exports, for `eval "$(jina-sm local env)"`.

    `eval "$(jina-sm local env --unset)"` takes them away again; what was set before is to be set again. As JSON, the
    variables with their values; null is one to take away.
    """
    from jina_sm import local as stack

    found = stack.environment(_port(port))
    if unset:
        if as_json:
            return show.json(dict.fromkeys(found))
        click.echo(f"unset {' '.join(found)}")
        show.say("This shell asks AWS again: set what it had before, such as AWS_PROFILE and AWS_REGION.")
        return None
    # A profile or a session token of a real account would go with every request.
    away = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "JINA_SM_REGIONS")
    if as_json:
        return show.json({**found, **dict.fromkeys(away)})
    for name, value in found.items():
        click.echo(f"export {name}={value}")
    click.echo(f"unset {' '.join(away)}")
    return None


@local.command()
@_port_option
@show.json_option
def reset(port: int | None, as_json: bool) -> None:
    """Forget every endpoint, subscription and role made on the stack."""
    from jina_sm import local as stack

    number = _port(port)
    stack.reset(number)
    if as_json:
        return show.json({"port": number, "reset": True})
    click.echo("the local stack is as new")
    return None


@local.command()
@click.argument("facts", nargs=-1, metavar="[NAME=VALUE]...")
@_port_option
@click.option("--json", "as_json", is_flag=True, help="It always prints JSON on stdout.")
def scenario(facts: tuple[str, ...], port: int | None, as_json: bool) -> None:
    """Print what sort of account the stack is, some of it changed: free_trial=true, payment=INVALID_PAYMENT_INSTRUMENT.

    ml.g5.xlarge=8 is the quota of an instance type; denied=iam:PassRole,sagemaker:Create* are actions not allowed.
    """
    from jina_sm import local as stack

    asked: dict[str, Any] = {}
    for fact in facts:
        name, _, said = fact.partition("=")
        value = said == "true" if said in ("true", "false") else int(said) if re.fullmatch("-?[0-9]+", said) else said
        if name == "denied":
            asked[name] = [each for each in said.split(",") if each]
        elif name.startswith("ml."):
            asked.setdefault("quotas", {})[name] = value
        else:
            asked[name] = value
    show.json(stack.change_scenario(_port(port), **asked))


@local.group()
def fault() -> None:
    """Make something go wrong on the stack, on request."""


@fault.command(name="add")
@click.argument("kind")
@click.argument("operation", default="")
@_port_option
@click.option("--region", default="*", help="Only there; a pattern.")
@click.option("--rate", type=click.FloatRange(0, 1), default=1.0, help="How often, from 0 to 1.")
@click.option("--count", type=click.IntRange(1), help="So often at most. A pause: once.")
@click.option("--nth", type=click.IntRange(1), default=1, help="From the nth such call on.")
@click.option("--status", type=int, help="Of error and model-error (0: a time-out). Default: 500.")
@click.option("--seconds", type=float, help="How long a stall lasts, or an endpoint takes to fail.")
@click.option("--reads", type=click.IntRange(1), default=1, help="How many reads do not see what is hidden.")
@click.option("--reason", default="", help="Why an endpoint fails: capacity, quota, health, container, ... or words.")
@click.option("--when", type=click.Choice(["before", "after"]), default="before", help="A pause: the call's effect.")
@show.json_option
def add(kind: str, operation: str, port: int | None, as_json: bool, **facts: Any) -> None:
    """KIND: throttle, error, model-error, stall, reset, truncate, reorder, drop, never-ready, failed, hidden, pause.

    OPERATION is as AWS spells it and may be a pattern: InvokeEndpoint, Create*. Default: all that the fault fits.
    """
    from jina_sm import local as stack

    number = stack.fault(kind, operation, port=_port(port), **facts)
    return show.json({"id": number}) if as_json else click.echo(number)


@fault.command(name="list")
@_port_option
@click.option("--json", "as_json", is_flag=True, help="Print one list on stdout, not a line each.")
def listed(port: int | None, as_json: bool) -> None:
    """Each fault as JSON, how often it fired, and how many calls wait in it."""
    import orjson

    from jina_sm import local as stack

    found = stack.list_faults(_port(port))
    if as_json:
        return show.json(found)
    for each in found:
        click.echo(orjson.dumps(each).decode())
    return None


@fault.command()
@_port_option
@show.json_option
def clear(port: int | None, as_json: bool) -> None:
    """Nothing goes wrong any more, and paused calls go on."""
    from jina_sm import local as stack

    stack.clear_faults(_port(port))
    if as_json:
        show.json({"faults": []})


@fault.command()
@_port_option
@show.json_option
def release(port: int | None, as_json: bool) -> None:
    """Let paused calls go on."""
    from jina_sm import local as stack

    released = stack.release(_port(port))
    return show.json({"released": released}) if as_json else click.echo(f"released {released}")


def _port(given: int | None) -> int:
    from jina_sm.transport.session import local_port

    return given or local_port()


def _hint(port: int, vectors: str = "stand-in") -> None:
    from jina_sm.transport.session import local_port

    whence = "are hashes of their texts" if vectors == "constant" else "come from a small stand-in model"
    show.say(f"local stack on http://127.0.0.1:{port}. Vectors {whence}, not Jina's.")
    at = "" if port == local_port() else f" --port {port}"
    show.say(f'Use it in this shell: eval "$(jina-sm local env{at})"')
