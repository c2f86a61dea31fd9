"""
What there is of ours beside what a file names. It bills on when its lines are taken out, so it is told, with the
command that takes it away; and removed, if that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import show
from jina_sm.cli.deployment import cost_json, endpoint_json, show_failures, sign, step_json

if TYPE_CHECKING:
    from jina_sm.catalog import Catalog
    from jina_sm.deploy.cost import Cost, Key
    from jina_sm.deploy.plan import Endpoint, Step
    from jina_sm.deploy.run import Plan
    from jina_sm.errors import JinaSMError


@dataclass(frozen=True, kw_only=True)
class Beside:
    """The endpoints that the file does not name, what they cost, and the steps that remove them, if they are to go.

    ``failed``: where nobody could look.
    """

    file: Path
    prune: bool
    endpoints: Mapping[Key, Endpoint]
    steps: dict[Key, list[Step]]
    spent: Mapping[Key, Cost]
    failed: Mapping[str, JinaSMError]

    def show(self, tell: Callable[[str], None]) -> None:
        """Before anything is done."""
        if self.endpoints:
            tell(f"There, and not in {self.file}:")
        for (region, name), endpoint in self.endpoints.items():
            tell(f"  {'- ' if self.prune else ''}{region} {name}: {endpoint.status}, {self._usd(region, name)}")
            for step in self.steps.get((region, name), ()):
                tell(f"    {sign(step)} {step}")
            if not self.prune:
                tell(f"    `{_command(region, name)}` takes it away")
        if self.endpoints and not self.prune:
            tell("  with --prune, the deployment takes all of it away")
        show_failures(self.failed)

    def remove(self, aws: Any) -> JinaSMError | None:
        """Takes away what is to go; what went wrong with that, to be raised when all that was done is told."""
        from jina_sm.deploy import guards
        from jina_sm.errors import JinaSMError as Failure

        if not self.prune:
            return None
        try:
            with show.progress([*dict.fromkeys(region for region, _ in self.steps)]) as listener:
                guards.take(self.steps, session=aws, on_event=listener)
        except Failure as error:
            return error
        return None

    def check(self) -> None:
        """Raises PartialError where more may be there to remove, since nobody could look."""
        from jina_sm.deploy.run import raise_if

        if self.prune:
            raise_if(self.failed, {}, f"what is not in {self.file} could not be looked for everywhere", several=True)

    def told(self, *, removed: bool) -> None:
        """When all is done."""
        for (region, name), endpoint in self.endpoints.items():
            if removed:
                click.echo(f"{region}: {name} removed")
            else:
                show.say(
                    f"Not in {self.file}: {region} {name} is {endpoint.status}, {self._usd(region, name)}, "
                    f"until `{_command(region, name)}`."
                )

    def json(self, kind: str, said: object, *, removed: bool = False) -> None:
        """Together with what is said of the file's own."""
        beside = [
            endpoint_json(endpoint)
            | {"region": key[0], "command": _command(*key), "removed": removed}
            | {"steps": [step_json(step) for step in self.steps.get(key, ())]}
            | cost_json(self.spent.get(key))
            for key, endpoint in self.endpoints.items()
        ]
        failed = {region: str(error) for region, error in self.failed.items()}
        show.json({kind: said, "unnamed": beside, "failed": failed})

    def _usd(self, region: str, name: str) -> str:
        cost = self.spent.get((region, name))
        if cost is None or cost.usd_per_hour is None:
            return "at a price that is not known"
        return f"{cost.usd_per_hour:.3f} USD an hour"


def found(file: Path, plans: Sequence[Plan], aws: Any, known: Catalog, *, prune: bool) -> Beside:
    """Looks in all regions."""
    from jina_sm.deploy import cost, orphans, run
    from jina_sm.deploy.plan import teardown

    inventory = run.status(session=aws, known=known)
    parts = orphans.unnamed(plans, inventory)
    return Beside(
        file=file,
        prune=prune,
        endpoints={key: endpoint for key, part in parts.items() for endpoint in part.endpoints},
        steps={key: teardown(part) for key, part in parts.items()} if prune else {},
        spent=cost.costs(inventory, session=aws, known=known) if parts else {},
        failed=inventory.failed,
    )


def _command(region: str, name: str) -> str:
    return f"jina-sm teardown {name} -r {region}"
