"""What the catalogue knows."""

from __future__ import annotations

import dataclasses

import click

from jina_sm.cli import show


@click.command()
@click.option("--regions", is_flag=True, help="The regions in which model packages exist, instead.")
@show.json_option
def models(regions: bool, as_json: bool) -> None:
    """List the models of the catalogue."""
    from jina_sm import catalog

    known = catalog.load()
    if regions:
        return show.json(known.regions) if as_json else click.echo("\n".join(known.regions))
    if as_json:
        rows = [dataclasses.asdict(dataclasses.replace(model, arns={})) for model in known.models.values()]
        return show.json([row | {"arns": dict(known.model(row["key"]).arns)} for row in rows])
    show.table(
        ("MODEL", "KIND", "DIMENSIONS", "MAX TOKENS", "PACKAGE"),
        [
            (
                each.key,
                each.kind,
                each.dimensions or "-",
                each.max_tokens,
                "known" if each.package or each.arns else "-",
            )
            for each in known.models.values()
        ],
    )
    return None
