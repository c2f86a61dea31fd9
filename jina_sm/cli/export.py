"""The way out: what `deploy` would make, as templates for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import show
from jina_sm.cli.deployment import regions_option
from jina_sm.errors import InputError

if TYPE_CHECKING:
    from jina_sm.deploy.spec import Spec


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("-f", "--file", type=click.Path(path_type=Path), help="What a file says, as with `jina-sm deploy -f`.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["cloudformation"]),
    default="cloudformation",
    show_default=True,
    help="Of what.",
)
@regions_option
@click.option("--create-role", is_flag=True, help="Make the execution role too, instead of taking it as a parameter.")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="DIR", help="A file a region goes there.")
@show.json_option
def export(
    models: tuple[str, ...],
    file: Path | None,
    kind: str,
    regions: tuple[str, ...],
    create_role: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write what `deploy` would make of each MODEL, or of a file, as CloudFormation templates: one a region.

    Needs no AWS account. A MODEL is as `deploy` makes it without options; all else is said in a file (`jina-sm init`).
    What a stack makes is its own: of this tool's commands only those that ask endpoints touch it.
    """
    from jina_sm import catalog
    from jina_sm.deploy import cloudformation

    if bool(models) == bool(file):
        raise click.UsageError("Name a model, or a file with -f.")
    if file and regions:
        raise click.UsageError("With -f, the regions are said in the file.")
    known = catalog.load()
    wanted = _wanted(models, file, regions, known)
    made = {
        region: cloudformation.template(each, create_role=create_role)
        for region, each in _placed(wanted, known).items()
    }
    files = _written(made, output) if output else {}
    if not output and len(made) > 1 and not as_json:
        raise InputError(f"a template each for {', '.join(made)}", cure="Say where with --output DIR.")
    for model in dict.fromkeys(spec.model for spec in wanted):
        show.say(f"$ jina-sm subscribe {model}    # once")
    for region, each in made.items():
        _hint(region, each, files.get(region))
    if as_json:
        return show.json({region: {"file": files.get(region), "template": each} for region, each in made.items()})
    for path in files.values():
        click.echo(path)
    if not output:
        click.echo(cloudformation.text(next(iter(made.values()))), nl=False)
    return None


def _wanted(models: tuple[str, ...], file: Path | None, regions: tuple[str, ...], known: Any) -> list[Spec]:
    from jina_sm.client import regions_of
    from jina_sm.deploy import fleetfile, spec
    from jina_sm.transport.session import session

    def usual() -> list[str]:
        return list(regions_of(regions, session()))

    if file:
        return fleetfile.read(file, known, usual)
    return [spec.checked(known, model=model, regions=tuple(usual())) for model in dict.fromkeys(models)]


def _placed(wanted: list[Spec], known: Any) -> dict[str, list[Any]]:
    """What is wanted, by region."""
    from jina_sm.deploy import run

    found: dict[str, list[Any]] = {}
    for spec in wanted:
        for region in spec.regions:
            desired = run.desired_in(spec, region, role_arn=spec.role_arn or "", known=known)
            found.setdefault(region, []).append((desired, spec.ttl))
    return found


def _written(made: dict[str, Any], output: Path) -> dict[str, Path]:
    from jina_sm.deploy import cloudformation

    files = {region: output / f"jina-sm-{region}.json" for region in made}
    try:
        output.mkdir(parents=True, exist_ok=True)
        for region, path in files.items():
            path.write_bytes(cloudformation.text(made[region]))
    except OSError as error:
        raise InputError(f"--output {output} cannot be written: {error.strerror}") from None
    return files


def _hint(region: str, template: dict[str, Any], path: Path | None) -> None:
    """The command that makes the stack."""
    words = [f"aws cloudformation deploy --region {region} --stack-name jina-sm"]
    words.append(f"--template-file {path or 'TEMPLATE'}")
    if any(each["Type"] == "AWS::IAM::Role" for each in template["Resources"].values()):
        words.append("--capabilities CAPABILITY_IAM")
    if names := template.get("Parameters"):
        words.append("--parameter-overrides " + " ".join(f"{name}=..." for name in names))
    show.say("$ " + " \\\n    ".join(words))
