"""
What an instance-hour costs: AWS's price from its Pricing API, else the figure Jina AI published, with its date.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    price = _hour(aws, "AmazonSageMaker", wanted)
    published = known.prices.instances.get(instance_type, {}).get(region)
    if price.usd is None and published:
        return Price(Decimal(published), f"published {known.prices.date} ({price.source})")
    return price


def machine_price(aws: Any, instance_type: str, region: str) -> Price:
    """USD an hour of one EC2 machine with plain Linux, on demand. Never raises: an unknown price is said to be.

    The filters are those of public examples, not tried on AWS.
    """
    wanted = {
        "instanceType": instance_type,
        "regionCode": region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",  # others are reservations of capacity
    }
    return _hour(aws, "AmazonEC2", wanted)


def _hour(aws: Any, service: str, wanted: Mapping[str, str]) -> Price:
    try:
        found = client(aws, "pricing", REGION).get_products(
            ServiceCode=service,
            Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()],
        )["PriceList"]
        for product in found:
            for term in orjson.loads(product)["terms"]["OnDemand"].values():
                for dimension in term["priceDimensions"].values():
                    if dimension["unit"].lower().startswith(("hr", "hour")):
                        return Price(Decimal(dimension["pricePerUnit"]["USD"]), "AWS Pricing API")
        return Price(None, "not in the Pricing API")
    except Exception as error:  # denied, unreachable, or a shape we do not know: nothing depends on it
        return Price(None, f"Pricing API: {type(error).__name__}")
