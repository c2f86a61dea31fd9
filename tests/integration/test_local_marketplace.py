"""The Marketplace and the price list on the local stack."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Aws, Served


def refused(act: Any, **params: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        act(**params)
    response: dict[str, Any] = caught.value.response
    return response


def by(**filters: str) -> list[dict[str, Any]]:
    return [{"name": name, "values": [value]} for name, value in filters.items()]


def test_a_search_finds_the_models_that_are_sold(aws: Aws) -> None:
    discovery = aws("marketplace-discovery")
    found = discovery.search_listings(
        searchText="jina embeddings v3",
        filters=[{"filterType": "FULFILLMENT_OPTION_TYPE", "filterValues": ["SAGEMAKER_MODEL"]}],
    )
    assert [each["listingName"] for each in found["listingSummaries"]] == ["jina-embeddings-v3"]
    assert found["listingSummaries"][0]["listingId"] == "prodview-kdi3xkt62lo32"
    pages = discovery.get_paginator("search_listings").paginate(PaginationConfig={"PageSize": 3})
    names = [each["listingName"] for page in pages for each in page["listingSummaries"]]
    assert len(names) == len(set(names)) == len(discovery.search_listings()["listingSummaries"]) > 3
    nothing = discovery.search_listings(filters=[{"filterType": "CATEGORY", "filterValues": ["x"]}])
    assert nothing["totalResults"] == 0


def test_an_offer_says_its_price_by_the_hour_and_its_licence(stack: Served) -> None:
    discovery = stack.aws("marketplace-discovery")
    listing = discovery.get_listing(listingId="prodview-kdi3xkt62lo32")
    product = listing["associatedEntities"][0]["product"]["productId"]
    options = discovery.list_purchase_options(
        filters=[
            {"filterType": "PRODUCT_ID", "filterValues": [product]},
            {"filterType": "PURCHASE_OPTION_TYPE", "filterValues": ["OFFER"]},
            {"filterType": "AVAILABILITY_STATUS", "filterValues": ["AVAILABLE"]},
        ]
    )["purchaseOptions"]
    assert [option["purchaseOptionId"] for option in options] == [listing["associatedEntities"][0]["offer"]["offerId"]]
    offer = discovery.get_offer(offerId=options[0]["purchaseOptionId"])
    assert offer["pricingModel"]["pricingModelType"] == "USAGE"
    terms = {
        kind: term
        for each in discovery.get_offer_terms(offerId=offer["offerId"])["offerTerms"]
        for kind, term in each.items()
    }
    assert set(terms) == {"legalTerm", "supportTerm", "usageBasedPricingTerm"}
    assert terms["legalTerm"]["documents"][0]["type"] == "CustomEula"
    assert terms["legalTerm"]["documents"][0]["url"].startswith("https://example.com/")
    rates = {rate["dimensionKey"]: rate for rate in terms["usageBasedPricingTerm"]["rateCards"][0]["rateCard"]}
    assert set(rates) == {"ml.g5.xlarge.m.i.r", "ml.g5.xlarge.m.i.b"}
    assert rates["ml.g5.xlarge.m.i.r"]["price"] == stack.stack.state.catalog.prices.software
    assert {rate["unit"] for rate in rates.values()} == {"HostHrs"}
    (fulfilled,) = discovery.list_fulfillment_options(productId=product)["fulfillmentOptions"]
    recommended = fulfilled["sageMakerModelFulfillmentOption"]["recommendation"]
    assert recommended["recommendedRealtimeInferenceInstanceType"] == "ml.g5.xlarge"


def test_purchase_options_want_a_product_or_a_scope(aws: Aws) -> None:
    said = refused(
        aws("marketplace-discovery").list_purchase_options,
        filters=[{"filterType": "PURCHASE_OPTION_TYPE", "filterValues": ["OFFER"]}],
    )
    assert (said["Error"]["Code"], said["reason"]) == ("ValidationException", "MALFORMED_REQUEST_PARAMETERS")


@pytest.mark.parametrize(
    ("operation", "params"),
    [
        ("get_listing", {"listingId": "prodview-x"}),
        ("get_offer", {"offerId": "offer-x"}),
        ("get_offer_terms", {"offerId": "offer-x"}),
        ("list_fulfillment_options", {"productId": "prod-x"}),
    ],
)
def test_an_unknown_id_is_not_found(aws: Aws, operation: str, params: dict[str, str]) -> None:
    said = refused(getattr(aws("marketplace-discovery"), operation), **params)
    assert said["Error"]["Code"] == "ResourceNotFoundException"
    assert said["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_a_subscription_entitles_at_once_and_can_be_cancelled(stack: Served) -> None:
    agreements = stack.aws("marketplace-agreement")
    agreement = stack.subscribe()
    (entitled,) = agreements.get_agreement_entitlements(agreementId=agreement)["agreementEntitlements"]
    assert (entitled["status"], entitled["resource"]["type"]) == ("PROVISIONED", "MachineLearningProduct")
    described = agreements.describe_agreement(agreementId=agreement)
    assert (described["status"], described["acceptor"]["accountId"]) == ("ACTIVE", "123456789012")
    asked = {
        "PartyType": "Acceptor",
        "AgreementType": "PurchaseAgreement",
        "ResourceIdentifier": entitled["resource"]["id"],
    }

    def active() -> list[str]:
        said = agreements.search_agreements(
            catalog="AWSMarketplace", maxResults=50, filters=by(**asked, Status="ACTIVE")
        )
        return [each["agreementId"] for each in said["agreementViewSummaries"]]

    assert active() == [agreement]
    agreements.cancel_agreement(agreementId=agreement)
    assert active() == []
    assert len(agreements.search_agreements(filters=by(**asked))["agreementViewSummaries"]) == 1
    (entitled,) = agreements.get_agreement_entitlements(agreementId=agreement)["agreementEntitlements"]
    assert entitled["status"] == "DEPROVISIONED"
    assert refused(agreements.cancel_agreement, agreementId=agreement)["reason"] == "INACTIVE_AGREEMENT"
    assert stack.subscribe() != agreement


def test_a_product_is_subscribed_to_once(stack: Served) -> None:
    early = stack.quote()
    stack.subscribe()
    agreements = stack.aws("marketplace-agreement")
    with pytest.raises(ClientError, match="active agreement exists") as caught:
        stack.quote()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 409
    said = refused(agreements.accept_agreement_request, agreementRequestId=early)
    assert said["Error"]["Code"] == "ConflictException"


def test_every_term_of_an_offer_must_be_asked_for(stack: Served) -> None:
    with pytest.raises(ClientError) as caught:
        stack.quote(terms=2)
    response: dict[str, Any] = caught.value.response
    assert response["Error"]["Code"] == "ValidationException"
    assert response["reason"] == "MISSING_MANDATORY_TERMS"
    assert response["message"]


def test_a_request_is_accepted_once(stack: Served) -> None:
    request = stack.quote()
    agreements = stack.aws("marketplace-agreement")
    agreements.accept_agreement_request(agreementRequestId=request)
    said = refused(agreements.accept_agreement_request, agreementRequestId=request)
    assert said["reason"] == "CLOSED_AGREEMENT_REQUEST"
    said = refused(agreements.accept_agreement_request, agreementRequestId="ar-unknown")
    assert said["Error"]["Code"] == "ResourceNotFoundException"
    assert refused(agreements.describe_agreement, agreementId="agmt-x")["ResponseMetadata"]["HTTPStatusCode"] == 404


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"intent": "AMEND"}, "UNSUPPORTED_ACTION"),
        ({"agreementProposalIdentifier": "at-unknown"}, "INVALID_AGREEMENT_PROPOSAL_IDENTIFIER"),
        ({"requestedTerms": [{"id": "term-unknown"}]}, "INVALID_REQUESTED_TERM_ID"),
    ],
)
def test_a_bad_request_for_an_agreement_says_its_reason(stack: Served, changed: dict[str, Any], reason: str) -> None:
    discovery = stack.aws("marketplace-discovery")
    listing = discovery.get_listing(listingId="prodview-kdi3xkt62lo32")
    offer = discovery.get_offer(offerId=listing["associatedEntities"][0]["offer"]["offerId"])
    asked = {
        "intent": "NEW",
        "agreementProposalIdentifier": offer["agreementProposalId"],
        "requestedTerms": [{"id": "t"}],
    }
    said = refused(stack.aws("marketplace-agreement").create_agreement_request, **{**asked, **changed})
    assert said["reason"] == reason


def test_the_same_token_is_the_same_request(stack: Served) -> None:
    discovery, agreements = stack.aws("marketplace-discovery"), stack.aws("marketplace-agreement")
    listing = discovery.get_listing(listingId="prodview-kdi3xkt62lo32")
    offer = discovery.get_offer(offerId=listing["associatedEntities"][0]["offer"]["offerId"])
    terms = discovery.get_offer_terms(offerId=offer["offerId"])["offerTerms"]
    asked = {
        "intent": "NEW",
        "clientToken": "token",
        "agreementProposalIdentifier": offer["agreementProposalId"],
        "requestedTerms": [{"id": next(iter(term.values()))["id"]} for term in terms],
    }
    first, second = (agreements.create_agreement_request(**asked) for _ in range(2))
    assert first["agreementRequestId"] == second["agreementRequestId"]
    assert first["chargeSummary"]["newAgreementValue"] == "0.00"


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        (
            {"PartyType": "Acceptor", "ResourceType": "MachineLearningProduct", "Status": "ACTIVE"},
            "UNSUPPORTED_FILTERS",
        ),
        (
            {"PartyType": "Acceptor", "ResourceType": "MachineLearningProduct", "ResourceIdentifier": "p"},
            "UNSUPPORTED_FILTERS",
        ),
        ({"PartyType": "Acceptor", "OfferId": "o", "LicenseArn": "l"}, "UNSUPPORTED_FILTERS"),
        ({"ResourceIdentifier": "p"}, "MISSING_PARTY_TYPE"),
    ],
)
def test_only_documented_filters_search_agreements(aws: Aws, filters: dict[str, str], reason: str) -> None:
    search = aws("marketplace-agreement").search_agreements
    said = refused(search, filters=by(AgreementType="PurchaseAgreement", **filters))
    assert (said["Error"]["Code"], said["reason"]) == ("ValidationException", reason)


def test_the_price_list_has_the_published_prices_and_no_others(stack: Served) -> None:
    def usd(region: str, service: str = "AmazonSageMaker") -> list[str]:
        wanted = {"instanceName": "ml.g5.xlarge", "component": "Hosting", "regionCode": region}
        found = stack.aws("pricing").get_products(
            ServiceCode=service,
            Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()],
        )
        return [
            dimension["pricePerUnit"]["USD"]
            for product in map(json.loads, found["PriceList"])
            for term in product["terms"]["OnDemand"].values()
            for dimension in term["priceDimensions"].values()
        ]

    published = stack.stack.state.catalog.prices.instances["ml.g5.xlarge"]
    assert usd("us-east-1") == [published["us-east-1"]]
    assert usd("eu-west-3") == []
    assert usd("us-east-1", "AmazonEC2") == []
