"""
AWS Marketplace as a buyer sees it, for the whole account: listings, offers, agreements; and AWS's price list.

There is one listing, one product and one public offer for each model with a package. Every id follows from the
model's key, so that two stacks agree. An agreement entitles at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from jina_sm.catalog import Model
from jina_sm.local.protocol import Answer, Asked, Refusal, invalid, page
from jina_sm.local.state import Agreement, State

SELLER = {"sellerProfileId": "seller-jina-ai", "displayName": "Jina AI"}
_CATALOG = "AWSMarketplace"
_OPTION = "SAGEMAKER_MODEL"
_OPTION_NAME = "Amazon SageMaker Model"
_RESOURCE = "MachineLearningProduct"
_SINCE = 1735689600  # 2025-01-01: when every offer began
_ABOUT = {"ResourceIdentifier", "ResourceType", "OfferId", "OfferSetId"}
_TERMS = ("legal", "support", "usageBasedPricing")


def listing_id(model: Model) -> str:
    """The listing's id: the real one where the catalogue knows it, else one made of the model's key."""
    return model.listing or "prodview-" + _digest(model, "listing")


def product_id(model: Model) -> str:
    return "prod-" + _digest(model, "product")


def offer_id(model: Model) -> str:
    return "offer-" + _digest(model, "offer")


def proposal_id(model: Model) -> str:
    return "at-" + _digest(model, "proposal")


def term_id(model: Model, kind: str) -> str:
    return "term-" + _digest(model, kind)


@dataclass(frozen=True)
class Discovery:
    """Listings and offers."""

    _state: State

    def search_listings(self, asked: Asked) -> Answer:
        words = asked.get("searchText", "").lower().replace("-", " ").split()
        facts = {
            "FULFILLMENT_OPTION_TYPE": _OPTION,
            "PUBLISHER": SELLER["sellerProfileId"],
            "PRICING_MODEL": "USAGE",
            "PRICING_UNIT": "HOSTS",
        }

        def wanted(model: Model) -> bool:
            said = f"jina ai {model.key} {model.kind}".lower()
            return all(word in said for word in words) and _fits(facts, asked)

        found, more = self._page(wanted, asked)
        summaries = [{**_listing(model), "associatedEntities": [{"product": _product(model)}]} for model in found]
        total = sum(map(wanted, self._state.offered()))
        return {"totalResults": total, "listingSummaries": summaries, **more}

    def get_listing(self, asked: Asked) -> Answer:
        model = self._found(listing_id, asked["listingId"])
        empty = ("highlights", "promotionalMedia", "resources", "sellerEngagements", "useCases")
        return {
            **_listing(model),
            **{name: [] for name in empty},
            "longDescription": f"{model.key}, as the local stack stands in for it.",
            "associatedEntities": [{"product": _product(model), "offer": _offer(model)}],
        }

    def list_fulfillment_options(self, asked: Asked) -> Answer:
        model = self._found(product_id, asked["productId"])
        uses = ("recommendedRealtimeInferenceInstanceType", "recommendedBatchTransformInstanceType")
        option = {
            "fulfillmentOptionId": _digest(model, "fulfillment"),
            "fulfillmentOptionType": _OPTION,
            "fulfillmentOptionDisplayName": _OPTION_NAME,
            "recommendation": dict.fromkeys(uses, model.instances[0]),
            "supportedContentTypes": ["application/json"],
            "supportedResponseMimeTypes": ["application/json"],
        }
        return {"fulfillmentOptions": [{"sageMakerModelFulfillmentOption": option}]}

    def list_purchase_options(self, asked: Asked) -> Answer:
        if not {each["filterType"] for each in asked.get("filters", [])} & {"PRODUCT_ID", "VISIBILITY_SCOPE"}:
            words = "Either the PRODUCT_ID or the VISIBILITY_SCOPE filter is required."
            raise invalid(words, reason="MALFORMED_REQUEST_PARAMETERS")
        facts = {
            "SELLER_OF_RECORD_PROFILE_ID": SELLER["sellerProfileId"],
            "PURCHASE_OPTION_TYPE": "OFFER",
            "VISIBILITY_SCOPE": "PUBLIC",
            "AVAILABILITY_STATUS": "AVAILABLE",
        }
        found, more = self._page(lambda model: _fits({**facts, "PRODUCT_ID": product_id(model)}, asked), asked)
        options = [
            {
                "purchaseOptionId": offer_id(model),
                "purchaseOptionType": "OFFER",
                "catalog": _CATALOG,
                "availableFromTime": _SINCE,
                "sellerOfRecord": SELLER,
                "associatedEntities": [{"product": _product(model), "offer": _offer(model)}],
            }
            for model in found
        ]
        return {"purchaseOptions": options, **more}

    def get_offer(self, asked: Asked) -> Answer:
        model = self._found(offer_id, asked["offerId"])
        return {
            **_offer(model),
            "catalog": _CATALOG,
            "availableFromTime": _SINCE,
            "associatedEntities": [{"product": _product(model)}],
            "agreementProposalId": proposal_id(model),
            "pricingModel": {"pricingModelType": "USAGE", "displayName": "Usage"},
            "badges": [],
        }

    def get_offer_terms(self, asked: Asked) -> Answer:
        model = self._found(offer_id, asked["offerId"])
        eula = {"type": "CustomEula", "url": f"https://example.com/eula/{model.key}.txt"}
        options = (("r", "Real-Time", "Model Real-Time Inference"), ("b", "Batch", "Model Batch Transform"))
        rates = [
            {
                "dimensionKey": f"{instance}.m.i.{letter}",
                "displayName": f"{instance} Inference ({name})",
                "dimensionLabels": [{"labelType": "SagemakerOption", "labelValue": option}],
                "unit": "HostHrs",
                "price": self._state.catalog.prices.software,
            }
            for instance in model.instances
            for letter, name, option in options
        ]
        contents: Mapping[str, Answer] = {
            "legal": {"documents": [eula]},
            "support": {"refundPolicy": "Nothing is billed here, so nothing is refunded."},
            "usageBasedPricing": {"currencyCode": "USD", "rateCards": [{"rateCard": rates}]},
        }
        terms = [
            {f"{kind}Term": {"id": term_id(model, kind), "type": f"{kind[0].upper()}{kind[1:]}Term", **contents[kind]}}
            for kind in _TERMS
        ]
        return {"offerTerms": terms}

    def _page(self, wanted: Callable[[Model], bool], asked: Asked) -> tuple[list[Model], Answer]:
        return page(filter(wanted, self._state.offered()), lambda model: [model.key], asked, most=50)

    def _found(self, named: Callable[[Model], str], wanted: str) -> Model:
        for model in self._state.offered():
            if named(model) == wanted:
                return model
        raise _unknown(wanted)


@dataclass(frozen=True)
class Agreements:
    """Quotes and subscriptions."""

    _state: State

    def create_agreement_request(self, asked: Asked) -> Answer:
        state = self._state
        if asked["intent"] != "NEW":
            raise invalid("The local stack makes new agreements only.", reason="UNSUPPORTED_ACTION")
        proposal = asked.get("agreementProposalIdentifier", "")
        model = next((model for model in state.offered() if proposal_id(model) == proposal), None)
        if model is None:
            reason = f"{'INVALID' if proposal else 'MISSING'}_AGREEMENT_PROPOSAL_IDENTIFIER"
            raise invalid("There is no such agreement proposal.", reason=reason)
        mandatory = {term_id(model, kind) for kind in _TERMS}
        given = {term.get("id") for term in asked["requestedTerms"]}
        if given - mandatory:
            raise invalid("A requested term is not of this offer.", reason="INVALID_REQUESTED_TERM_ID")
        if mandatory - given:
            raise invalid("Mandatory terms are missing from the request.", reason="MISSING_MANDATORY_TERMS")
        self._refuse_second(model)
        # A token used again is the same request, unless that one has been accepted.
        request = state.client_tokens.get(asked.get("clientToken", ""), "")
        if not state.requests.get(request):
            request = f"ar-{_digest(model, f'request {len(state.requests)}')}"
        state.requests[request] = model.key
        state.client_tokens[asked.get("clientToken", "")] = request
        return {
            "agreementRequestId": request,
            "agreementType": "PurchaseAgreement",
            "status": "DRAFT",
            "approvalRequirement": "NOT_REQUIRED",
            "chargeSummary": {"currencyCode": "USD", "newAgreementValue": "0.00", "expectedCharges": []},
        }

    def accept_agreement_request(self, asked: Asked) -> Answer:
        state, request = self._state, asked["agreementRequestId"]
        if request not in state.requests:
            raise _unknown(request)
        if not state.requests[request]:
            raise invalid(f"{request} has been accepted already.", reason="CLOSED_AGREEMENT_REQUEST")
        model = state.catalog.models[state.requests[request]]
        self._refuse_second(model)
        state.requests[request] = ""
        agreement = Agreement(f"agmt-{_digest(model, f'agreement {len(state.agreements)}')}", model)
        state.agreements[agreement.agreement_id] = agreement
        return {"agreementId": agreement.agreement_id}

    def get_agreement_entitlements(self, asked: Asked) -> Answer:
        agreement = self._agreement(asked)
        license_arn = f"arn:aws:license-manager::{self._state.account}:license:l-{_digest(agreement.model, 'license')}"
        entitlement = {"resource": _resource(agreement), "status": "PROVISIONED", "licenseArn": license_arn}
        if agreement.status != "ACTIVE":
            entitlement |= {"status": "DEPROVISIONED", "statusReasonCode": "AGREEMENT_INACTIVE"}
        return {"agreementEntitlements": [entitlement]}

    def search_agreements(self, asked: Asked) -> Answer:
        filters = {each.get("name", ""): each.get("values", [""])[0] for each in asked.get("filters", [])}
        if asked.get("catalog", _CATALOG) != _CATALOG:
            raise invalid(f"The catalog is {_CATALOG}.", reason="INVALID_CATALOG")
        if filters.get("PartyType") not in ("Acceptor", "Proposer"):
            raise invalid("PartyType is Acceptor or Proposer.", reason="MISSING_PARTY_TYPE")
        # The combinations that the API documents for an acceptor; each may have an EndTime too.
        rest = filters.keys() - {"PartyType", "AgreementType", "Status", "BeforeEndTime", "AfterEndTime"}
        if "AgreementType" not in filters or len(rest) > 1 or rest - _ABOUT or {"ResourceType", "Status"} <= {*filters}:
            raise invalid("This combination of filters is not supported.", reason="UNSUPPORTED_FILTERS")

        def wanted(agreement: Agreement) -> bool:
            facts = {
                "PartyType": "Acceptor",
                "AgreementType": "PurchaseAgreement",
                "ResourceIdentifier": product_id(agreement.model),
                "ResourceType": _RESOURCE,
                "OfferId": offer_id(agreement.model),
                "Status": agreement.status,
            }  # no end time: what is paid by use has none
            return all(facts.get(name) == value for name, value in filters.items())

        every = self._state.agreements.values()
        found, more = page(filter(wanted, every), lambda each: [each.accepted, each.agreement_id], asked, most=50)
        return {"agreementViewSummaries": [self._view(agreement) for agreement in found], **more}

    def describe_agreement(self, asked: Asked) -> Answer:
        return self._view(self._agreement(asked))

    def cancel_agreement(self, asked: Asked) -> Answer:
        agreement = self._agreement(asked)
        if agreement.status != "ACTIVE":
            raise invalid(f"The agreement is {agreement.status}.", reason="INACTIVE_AGREEMENT")
        agreement.status = "CANCELLED"
        return {}

    def _refuse_second(self, model: Model) -> None:
        if agreement := self._state.subscribed(model):
            words = f"An active agreement exists for {product_id(model)}."
            raise Refusal("ConflictException", words, status=409, resourceId=agreement.agreement_id)

    def _agreement(self, asked: Asked) -> Agreement:
        if asked["agreementId"] not in self._state.agreements:
            raise _unknown(asked["agreementId"])
        return self._state.agreements[asked["agreementId"]]

    def _view(self, agreement: Agreement) -> Answer:
        return {
            "agreementId": agreement.agreement_id,
            "agreementType": "PurchaseAgreement",
            "status": agreement.status,
            "acceptor": {"accountId": self._state.account},
            "proposer": {"accountId": self._state.catalog.seller},
            "acceptanceTime": agreement.accepted,
            "startTime": agreement.accepted,
            "proposalSummary": {"resources": [_resource(agreement)], "offerId": offer_id(agreement.model)},
        }


@dataclass(frozen=True)
class PriceList:
    """AWS's own prices, as far as the catalogue has them."""

    _state: State

    def get_products(self, asked: Asked) -> Answer:
        found = []
        for instance, regions in self._state.catalog.prices.instances.items():
            for region, usd in regions.items():
                facts = {"instanceName": instance, "component": "Hosting", "regionCode": region}
                rate = {"unit": "Hrs", "pricePerUnit": {"USD": usd}}
                product = {
                    "product": {"attributes": facts},
                    "terms": {"OnDemand": {"1": {"priceDimensions": {"1": rate}}}},
                }
                terms = asked.get("Filters", [])
                if any(term["Type"] != "TERM_MATCH" for term in terms):
                    raise Refusal("InvalidParameterException", "the local stack knows TERM_MATCH filters only")
                if asked["ServiceCode"] == "AmazonSageMaker" and all(
                    facts.get(term["Field"]) == term["Value"] for term in terms
                ):
                    found.append(orjson.dumps(product).decode())
        return {"FormatVersion": "aws_v1", "PriceList": found}


def _fits(facts: Mapping[str, str], asked: Asked) -> bool:
    filters: Iterable[Mapping[str, Any]] = asked.get("filters", [])
    return all(facts.get(each["filterType"]) in each["filterValues"] for each in filters)


def _listing(model: Model) -> Answer:
    return {
        "listingId": listing_id(model),
        "listingName": model.key,
        "publisher": SELLER,
        "catalog": _CATALOG,
        "shortDescription": f"{model.key} by Jina AI",
        "logoThumbnailUrl": "https://example.com/logo.png",
        "categories": [],
        "badges": [],
        "fulfillmentOptionSummaries": [{"fulfillmentOptionType": _OPTION, "displayName": _OPTION_NAME}],
        "reviewSummary": {"reviewSourceSummaries": []},
        "pricingModels": [{"pricingModelType": "USAGE", "displayName": "Usage"}],
        "pricingUnits": [{"pricingUnitType": "HOSTS", "displayName": "Hosts"}],
    }


def _product(model: Model) -> Answer:
    return {"productId": product_id(model), "productName": model.key, "manufacturer": SELLER}


def _offer(model: Model) -> Answer:
    return {"offerId": offer_id(model), "sellerOfRecord": SELLER}


def _resource(agreement: Agreement) -> Answer:
    return {"id": product_id(agreement.model), "type": _RESOURCE}


def _unknown(wanted: str) -> Refusal:
    return Refusal("ResourceNotFoundException", f"{wanted} was not found.", status=404)


def _digest(model: Model, what: str) -> str:
    return hashlib.sha256(f"{what} {model.key}".encode()).hexdigest()[:13]
