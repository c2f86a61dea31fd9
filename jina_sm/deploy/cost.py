"""
What endpoints cost an hour, and what they may have come to since they were made.

The second is an estimate: AWS's bill knows how many instances there were and when, and this knows how many there are.
Looking costs nothing and never fails: a price that is not known is said to be.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from jina_sm import catalog
from jina_sm.deploy.aws import ControlPlane
from jina_sm.deploy.marketplace import Marketplace
from jina_sm.deploy.plan import MODEL_TAG, Endpoint, brought_back
from jina_sm.deploy.pricing import Price, instance_price
from jina_sm.deploy.run import Inventory, side_by_side
from jina_sm.deploy.steps import Call, Step
from jina_sm.errors import DeployError, JinaSMError
from jina_sm.transport.session import session as default_session

Key = tuple[str, str]
_AT_ONCE = 8
_FREE = frozenset({"Failed", "Deleting"})  # statuses that do not bill, or soon will not
_CENT = Decimal("0.01")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Instances of one type, and what an hour of one costs."""

    instance_type: str
    count: int
    instance: Price
    software: Price

    @property
    def usd_per_hour(self) -> Decimal | None:
        if not self.count:
            return Decimal(0)
        if self.instance.usd is None or self.software.usd is None:
            return None
        return (self.instance.usd + self.software.usd) * self.count


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One endpoint's, by the instances that it has now. ``unknown``: why those could not be found out.

    ``peak``: how many instances of its one type it may scale out to; None: it was not asked, or has several types.
    """

    parts: tuple[Part, ...]
    hours: Decimal
    unknown: str = ""
    peak: int | None = None

    @property
    def usd_per_hour(self) -> Decimal | None:
        """For all instances, software included; None: not known."""
        return None if self.unknown else total(part.usd_per_hour for part in self.parts)

    @property
    def most_usd_per_hour(self) -> Decimal | None:
        """As ``usd_per_hour``, scaled out to the most; None: not known."""
        usd, count = self.usd_per_hour, sum(part.count for part in self.parts)
        return None if usd is None or self.peak is None else usd / count * self.peak

    @property
    def accrued(self) -> Decimal | None:
        """USD since it was made, as if it had always had these instances at these prices."""
        rate = self.usd_per_hour
        return None if rate is None else (rate * self.hours).quantize(_CENT)


def total(each: Iterable[Decimal | None]) -> Decimal | None:
    """The sum; None where one of them is not known."""
    summed = Decimal(0)
    for usd in each:
        if usd is None:
            return None
        summed += usd
    return summed


def check_ceiling(each: Iterable[Decimal | None], ceiling: Decimal | None) -> None:
    """Raises DeployError unless all of it together is known to cost no more an hour than that. None: it may."""
    if ceiling is None:
        return
    usd = total(each)
    if usd is None:
        raise DeployError(
            f"what it would cost an hour at most is not known, and the ceiling is {ceiling} USD",
            cure="Name one instance type, whose price is known.",
        )
    if usd > ceiling:
        raise DeployError(f"it would cost up to {usd:.3f} USD an hour, and the ceiling is {ceiling}")


def sources(spent: Mapping[Key, Cost]) -> dict[str, list[str]]:
    """Where the figures are from, and of what each is the price; what could not be found out is among it."""
    found: dict[str, set[str]] = {}
    for (region, name), each in spent.items():
        if each.unknown:
            found.setdefault(each.unknown, set()).add(f"{name} in {region}")
        for part in each.parts:
            if part.count:
                found.setdefault(part.instance.source, set()).add(f"{part.instance_type} in {region}")
                found.setdefault(part.software.source, set()).add(f"the software of {name}")
    return {source: sorted(about) for source, about in sorted(found.items())}


def costs(
    inventory: Inventory,
    *,
    now: datetime | None = None,
    session: Any = None,
    known: catalog.Catalog | None = None,
) -> dict[Key, Cost]:
    """The costs of the endpoints of an inventory, by region and name."""
    known, aws, until = known or catalog.load(), session or default_session(), now or datetime.now(UTC)
    endpoints = {
        (region, endpoint.name): endpoint
        for region, found in inventory.found.items()
        for endpoint in found.state.endpoints
    }
    if not endpoints:
        return {}

    def at(region: str, _: threading.Event) -> dict[Key, Mapping[str, int] | str]:
        control = ControlPlane(aws, region)
        return {key: _instances(control, endpoint) for key, endpoint in endpoints.items() if key[0] == region}

    done, failed = side_by_side(dict.fromkeys(region for region, _ in endpoints), at)
    instances = {key: said for found in done.values() for key, said in found.items()}
    instances |= {key: str(failed[key[0]]) for key in endpoints if key[0] in failed}
    ages = {
        key: Decimal(str(max((until - endpoint.created).total_seconds(), 0.0))) / 3600
        for key, endpoint in endpoints.items()
    }
    models = {key: endpoint.tags.get(MODEL_TAG, "") for key, endpoint in endpoints.items()}
    return _priced(instances, models, ages, aws, known)


def of_endpoint(
    region: str, name: str, model: str, *, session: Any = None, known: catalog.Catalog | None = None
) -> Cost:
    """What an hour of one endpoint of a model costs, whoever made it. Never raises."""
    known, aws = known or catalog.load(), session or default_session()
    instances: Mapping[str, int] | str = f"there is no endpoint {name} in {region}"
    try:
        control = ControlPlane(aws, region)
        if there := control.endpoint(name):
            instances = _instances(control, there)
    except JinaSMError as error:
        instances = str(error)
    key = (region, name)
    return _priced({key: instances}, {key: model}, {}, aws, known)[key]


def resumed(
    inventory: Inventory,
    steps: Mapping[Key, Iterable[Step]],
    *,
    session: Any = None,
    known: catalog.Catalog | None = None,
) -> dict[Key, Cost]:
    """The costs of the endpoints that these steps make of the configs of an inventory, and their peaks."""
    known, aws = known or catalog.load(), session or default_session()
    instances: dict[Key, Mapping[str, int] | str] = {}
    models: dict[Key, str] = {}
    peaks: dict[Key, int] = {}
    for key, steps_of in steps.items():
        some = [each for each in steps_of if isinstance(each, Call)]
        for call in (each for each in some if each.operation == "create_endpoint"):
            config = str(call.params["EndpointConfigName"])
            models[key] = inventory.found[key[0]].state.known[config].tags.get(MODEL_TAG, "")
            try:
                types, count, most = brought_back(ControlPlane(aws, key[0]).made_from(config), some)
            except JinaSMError as error:
                instances[key] = str(error)
                continue
            instances[key] = {types[0]: count} if types else f"{config}, or the model that it names, is gone"
            if len(types) == 1:
                peaks[key] = most
    found = _priced(instances, models, {}, aws, known)
    return {key: replace(each, peak=peaks.get(key)) for key, each in found.items()}


def _priced(
    instances: Mapping[Key, Mapping[str, int] | str],
    model_of: Mapping[Key, str],
    ages: Mapping[Key, Decimal],
    aws: Any,
    known: catalog.Catalog,
) -> dict[Key, Cost]:
    """The costs of so many instances of each type; a string: why they are not known."""
    kinds = {(kind, key[0]) for key, said in instances.items() if not isinstance(said, str) for kind in said}
    models = {*model_of.values()}
    with ThreadPoolExecutor(_AT_ONCE) as beside:
        prices = dict(zip(kinds, beside.map(lambda each: instance_price(aws, known, *each), kinds), strict=True))
        software = dict(zip(models, beside.map(lambda key: _software(aws, known, key), models), strict=True))

    def of(key: Key, said: Mapping[str, int] | str) -> Cost:
        hours = ages.get(key, Decimal(0))
        if isinstance(said, str):
            return Cost(parts=(), hours=hours, unknown=said)
        hourly, source = software[model_of[key]]
        parts = [
            Part(
                instance_type=kind,
                count=count,
                instance=prices[kind, key[0]],
                software=Price(hourly.get(kind), source if kind in hourly else f"not known of {kind}: {source}"),
            )
            for kind, count in said.items()
        ]
        return Cost(parts=tuple(parts), hours=hours)

    return {key: of(key, said) for key, said in instances.items()}


def _instances(control: ControlPlane, endpoint: Endpoint) -> Mapping[str, int] | str:
    """How many of which type bill now; a string: why that is not known."""
    if endpoint.status in _FREE:
        return {}
    try:
        return control.instances(endpoint)
    except JinaSMError as error:
        return str(error)


def _software(aws: Any, known: catalog.Catalog, key: str) -> tuple[Mapping[str, Decimal], str]:
    """USD an hour by instance type, as agreed to, else as offered, else as published; and which of them it is."""
    try:
        model, market = known.model(key), Marketplace(aws)
        for agreement in market.all_agreements(model, market.product_id(model)):
            if agreed := market.subscription(agreement).hourly:
                return agreed, f"the agreement {agreement.agreement_id}"
        return market.offer(model).hourly, "the Marketplace offer"
    except JinaSMError as error:
        if key == "jina-embeddings-v3":  # the one that a price was published of
            published = Decimal(known.prices.software)
            source = f"published {known.prices.date} (Marketplace: {error.message})"
            return dict.fromkeys(known.model(key).instances, published), source
        return {}, error.message
