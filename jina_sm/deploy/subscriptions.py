"""
What the account is subscribed to, and ending that.

Cancelling an agreement takes nothing out of service: what runs from the package goes on billing. So that is looked
for in every region first, whoever made it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jina_sm import catalog
from jina_sm.deploy.aws import ControlPlane, NotThereError, disabled, identity
from jina_sm.deploy.marketplace import Agreement, Marketplace, Subscription
from jina_sm.deploy.plan import MODEL_TAG, Endpoint, is_ours
from jina_sm.deploy.run import side_by_side
from jina_sm.errors import DeployError, JinaSMError
from jina_sm.transport.session import session as default_session

_HASH = re.compile(r"-[0-9a-f]{32}$")  # which a version of a package ends in
_ENDED = frozenset({"Failed", "Deleting"})  # statuses that do not bill


@dataclass(frozen=True, kw_only=True)
class Subscriptions:
    """The account's active agreements for the catalogue's models. ``others``: for other machine-learning products."""

    found: tuple[Subscription, ...]
    others: tuple[Agreement, ...]


@dataclass(frozen=True, kw_only=True)
class Use:
    """An endpoint that runs from a model's package, or could be resumed from it (status ``Paused``)."""

    region: str
    name: str
    status: str
    ours: bool
    instances: int = 0

    @property
    def bills(self) -> bool:
        return self.status not in _ENDED and self.status != "Paused"


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """What cancelling would end, and what would go on. ``skipped`` regions are not enabled in the account."""

    model: str
    agreements: tuple[Agreement, ...]
    uses: tuple[Use, ...]
    looked_at: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: Mapping[str, JinaSMError]

    def check(self) -> None:
        """Raises DeployError where ours would go on billing, or where it could not be looked."""
        if ours := [use for use in self.uses if use.ours and use.bills]:
            named = ", ".join(f"{use.name} in {use.region}" for use in ours)
            cures = " and ".join(f"`jina-sm teardown {name}`" for name in dict.fromkeys(use.name for use in ours))
            raise DeployError(
                f"{named} would go on running and billing",
                cure=f"{cures} first, or pass --leave-running.",
            )
        if self.failed:
            named = "; ".join(f"{region}: {error}" for region, error in self.failed.items())
            raise DeployError(
                f"what runs from {self.model} could not be found out everywhere: {named}",
                cure="Try again, or pass --leave-running.",
            )


def subscriptions(*, session: Any = None, known: catalog.Catalog | None = None) -> Subscriptions:
    """What the account is subscribed to. Raises DeployError or AuthError: a look-up that failed is no "nothing"."""
    models = (known or catalog.load()).models.values()
    found, others = Marketplace(session or default_session()).subscriptions(models)
    order = [model.key for model in models]
    return Subscriptions(
        found=tuple(sorted(found, key=lambda each: order.index(each.agreement.model))), others=tuple(others)
    )


def cancellation(model: str, *, session: Any = None, known: catalog.Catalog | None = None) -> Cancellation:
    """What cancelling a model's subscription would end, and what runs from its package in any region. Changes nothing.

    A batch transform job that runs from it is not seen.
    """
    known, aws = known or catalog.load(), session or default_session()
    row, market = known.model(model), Marketplace(aws)
    agreements = market.all_agreements(row, market.product_id(row))
    identity(aws, known.regions[0])  # so that a refusal below is the region's, not the credentials'

    def at(region: str, _: threading.Event) -> tuple[Use, ...] | None:
        try:
            return tuple(_uses(ControlPlane(aws, region), known, row))
        except JinaSMError as error:
            if disabled(error):
                return None
            raise

    done, failed = side_by_side(known.regions, at) if agreements else ({}, {})
    return Cancellation(
        model=row.key,
        agreements=tuple(agreements),
        uses=tuple(use for uses in done.values() for use in uses or ()),
        looked_at=tuple(region for region, uses in done.items() if uses is not None),
        skipped=tuple(region for region, uses in done.items() if uses is None),
        failed=failed,
    )


def unsubscribe(
    model: str,
    *,
    agreed: Cancellation | None = None,
    leave_running: bool = False,
    session: Any = None,
    known: catalog.Catalog | None = None,
) -> tuple[Agreement, ...]:
    """Cancels the account's subscription to a model; the agreements that are cancelled, none if there was none.

    Refused while endpoints of ours run from it, unless they are to be left running. ``agreed``: what was shown, so that
    this and nothing else is cancelled. Raises DeployError, with AWS's reason where it cancels none such.
    """
    known, aws = known or catalog.load(), session or default_session()
    agreed = agreed or cancellation(model, session=aws, known=known)
    if not leave_running:
        agreed.check()
    market, row = Marketplace(aws), known.model(model)
    for agreement in agreed.agreements:
        market.cancel(row, agreement)
    return agreed.agreements


def _uses(control: ControlPlane, known: catalog.Catalog, model: catalog.Model) -> Iterator[Use]:
    state = control.ours(model=model)
    for endpoint in state.endpoints:
        yield _use(control.region, endpoint, ours=True)
    yield from (Use(region=control.region, name=name, status="Paused", ours=True) for name in state.paused)
    ours = {endpoint.name for endpoint in state.endpoints}
    for each in control.listed("list_endpoints", "Endpoints", ""):
        if each["EndpointName"] in ours:
            continue
        try:
            other = control.endpoint(each["EndpointName"])
            if other is None or (is_ours(other.tags) and other.tags.get(MODEL_TAG) != model.key):
                continue
            if any(_of(known, model, arn) for arn in control.packages(other.config)):
                yield _use(control.region, other, ours=False)
        except NotThereError:  # it has gone meanwhile
            continue


def _use(region: str, endpoint: Endpoint, *, ours: bool) -> Use:
    return Use(region=region, name=endpoint.name, status=endpoint.status, ours=ours, instances=endpoint.instances)


def _of(known: catalog.Catalog, model: catalog.Model, arn: str) -> bool:
    """Whether a package is that model's: the one we know, or another version of it that is no other model's."""
    name = arn.rpartition("/")[2]
    if arn in model.arns.values() or name == model.package:
        return True
    if model.package is None or any(name == each.package for each in known.models.values()):
        return False
    return _HASH.sub("", name) == _HASH.sub("", model.package)
