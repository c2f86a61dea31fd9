"""
What an instance-hour costs: AWS's price from its Pricing API, else the figure Jina AI published, with its date.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from jina_sm.catalog import Catalog
from jina_sm.transport.session import client

REGION = "us-east-1"  # the API's, not the instance's


@dataclass(frozen=True)
class Price:
    """USD an hour, and where the figure is from. ``usd=None``: not known."""

    usd: Decimal | None
    source: str


def instance_price(aws: Any, known: Catalog, instance_type: str, region: str) -> Price:
    """USD an hour of one hosting instance, without the software. Never raises: an unknown price is said to be."""
    wanted = {"instanceName": instance_type, "component": "Hosting", "regionCode": region}
    try:
        found = client(aws, "pricing", REGION).get_products(
            ServiceCode="AmazonSageMaker",
            Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()],
        )["PriceList"]
        for product in found:
            for term in orjson.loads(product)["terms"]["OnDemand"].values():
                for dimension in term["priceDimensions"].values():
                    if dimension["unit"].lower().startswith(("hr", "hour")):
                        return Price(Decimal(dimension["pricePerUnit"]["USD"]), "AWS Pricing API")
        reason = "not in the Pricing API"
    except Exception as error:  # denied, unreachable, or a shape we do not know: the deploy does not depend on it
        reason = f"Pricing API: {type(error).__name__}"
    published = known.prices.instances.get(instance_type, {}).get(region)
    if published:
        return Price(Decimal(published), f"published {known.prices.date} ({reason})")
    return Price(None, reason)
