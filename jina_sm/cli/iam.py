"""The policies and roles that this tool takes, as IAM reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jina_sm.cli import show
from jina_sm.errors import InputError

_ROLES = {"execution-role": "what endpoints run as", "ttl-role": "what the end of an endpoint acts as (--ttl)"}
_WHO = ("viewer", "operator", "caller", "role-maker", *_ROLES)


@click.command()
@click.argument("who", required=False, type=click.Choice(_WHO), metavar="[WHO]")
@click.option("--account", metavar="ID", help="The account's number; default: whichever it is attached in.")
@click.option(
    "--region",
    "-r",
    "regions",
    multiple=True,
    metavar="REGION",
    help="Make and invoke endpoints only there; again for each.",
)
@click.option("--role-arn", help="The execution role that is passed, and looked at, instead of jina-sm-execution.")
@click.option("--vpc", is_flag=True, help="Let the execution role stand in a VPC.")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="DIR", help="Write all as files instead.")
@show.json_option
def iam(
    who: str | None,
    account: str | None,
    regions: tuple[str, ...],
    role_arn: str | None,
    vpc: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Print the policy of WHO: viewer, operator, caller, role-maker, execution-role or ttl-role; without, all.

    They are made from the calls that the commands make, need no AWS account, and fit a managed policy each. Of a role
    there are two documents: what it may do, and whom it trusts. With --json, also what each action is for.
    """
    from jina_sm.deploy import policies

    _check(account, regions, role_arn)
    made = policies.documents(account, regions, role_arn, vpc=vpc)
    named = {name: each for name, each in made.items() if who is None or name.removesuffix("-trust") == who}
    if output:
        return _write(named, output)
    if as_json:
        return show.json({name: _explained(name, each) for name, each in named.items()})
    _remark(named)
    if len(named) == 1:
        return show.json(next(iter(named.values())))
    return show.json(named)


def _check(account: str | None, regions: tuple[str, ...], role_arn: str | None) -> None:
    import re

    from jina_sm import catalog

    if account and not re.fullmatch(r"\d{12}", account):
        raise InputError(f"--account {account!r} is not the number of an account", cure="It has 12 digits.")
    if role_arn and not re.fullmatch(r"arn:aws[a-z-]*:iam::(\d{12}|\*):role/.+", role_arn):
        raise InputError(f"--role-arn {role_arn!r} is not the ARN of a role")
    known = catalog.load()
    for region in regions:
        known.check_region(region)


def _write(named: dict[str, dict[str, Any]], output: Path) -> None:
    import orjson

    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, each in named.items():
            (output / f"{name}.json").write_bytes(orjson.dumps(each, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise InputError(f"--output {output} cannot be written: {error.strerror}") from None
    for name in named:
        click.echo(output / f"{name}.json")


def _explained(name: str, document: dict[str, Any]) -> dict[str, Any]:
    from jina_sm.deploy import policies

    said: dict[str, Any] = {"document": document, "characters": policies.length(document)}
    if name in policies.POLICIES:
        said |= {"for": policies.POLICIES[name], "actions": policies.reasons(name)}
    return said


def _remark(named: dict[str, dict[str, Any]]) -> None:
    from jina_sm.deploy import policies

    for name in named:
        said = policies.POLICIES.get(name) or _ROLES.get(name)
        if said:
            show.say(f"{name}: {said}")
    if "role-maker" in named:
        show.say("Whoever has the role-maker's policy can give a role anything: for who looks after the account.")
    if "ttl-role" in named:
        show.say("Who makes the ttl-role by hand calls it jina-sm-ttl, its policy too, and tags it managed-by=jina-sm.")
