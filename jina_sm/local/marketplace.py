"""
AWS Marketplace as a buyer sees it, for the whole account: listings, offers, agreements; and AWS's price list.

There is one listing, one product and one public offer for each model with a package. Every id follows from the
model's key, so that two stacks agree. An agreement entitles at once, unless the scenario has it otherwise: then there
are other offers, a free trial, an approval to wait for, or a payment that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from jina_sm.advise.figures import figures
from jina_sm.catalog import Model
from jina_sm.local.offers import MANDATORY, SELLER, TRIAL, Offer, digest, offers
from jina_sm.local.protocol import Answer, Asked, Refusal, invalid, page
from jina_sm.local.state import Agreement, Request, State, wall

_CATALOG = "AWSMarketplace"
_OPTION = "SAGEMAKER_MODEL"
_OPTION_NAME = "Amazon SageMaker Model"
_RESOURCE = "MachineLearningProduct"
_ABOUT = {"ResourceIdentifier", "ResourceType", "OfferId", "OfferSetId"}
_PLAN = "aplan-organisation"
# An entitlement that is not there yet says so by its status; any other reason has failed it.
_ENTITLING = {"PROVISIONING_IN_PROGRESS": "PENDING", "FUTURE_START_DATE": "SCHEDULED"}


def listing_id(model: Model) -> str:
    """The listing's id: the real one where the catalogue knows it, else one made of the model's key."""
    return model.listing or "prodview-" + digest(model, "listing")


def product_id(model: Model) -> str:
    return "prod-" + digest(model, "product")


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
            "associatedEntities": [{"product": _product(model), "offer": _offer(Offer(model))}],
        }

    def list_fulfillment_options(self, asked: Asked) -> Answer:
        model = self._found(product_id, asked["productId"])
        uses = ("recommendedRealtimeInferenceInstanceType", "recommendedBatchTransformInstanceType")
        option = {
            "fulfillmentOptionId": digest(model, "fulfillment"),
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
        facts = {"SELLER_OF_RECORD_PROFILE_ID": SELLER["sellerProfileId"], "PURCHASE_OPTION_TYPE": "OFFER"}

        def wanted(offer: Offer) -> bool:
            status = "AVAILABLE" if offer.in_force else offer.kind.upper()
            own = {"PRODUCT_ID": product_id(offer.model), "VISIBILITY_SCOPE": offer.scope}
            return _fits({**facts, **own, "AVAILABILITY_STATUS": status}, asked)

        found, more = page(filter(wanted, offers(self._state)), lambda offer: [offer.offer_id], asked, most=50)
        options = [
            {
                "purchaseOptionId": offer.offer_id,
                "purchaseOptionType": "OFFER",
                "catalog": _CATALOG,
                "sellerOfRecord": SELLER,
                "badges": offer.badges,
                "associatedEntities": [{"product": _product(offer.model), "offer": _offer(offer)}],
                **offer.times,
            }
            for offer in found
        ]
        return {"purchaseOptions": options, **more}

    def get_offer(self, asked: Asked) -> Answer:
        offer = self._offered(asked["offerId"])
        return {
            **_offer(offer),
            **offer.times,
            "catalog": _CATALOG,
            "associatedEntities": [{"product": _product(offer.model)}],
            "agreementProposalId": offer.proposal_id,
            "pricingModel": {"pricingModelType": "USAGE", "displayName": "Usage"},
            "badges": offer.badges,
        }

    def get_offer_terms(self, asked: Asked) -> Answer:
        offer = self._offered(asked["offerId"])
        model = offer.model
        eula = {"type": "CustomEula", "url": f"https://example.com/eula/{model.key}.txt"}
        options = (("r", "Real-Time", "Model Real-Time Inference"), ("b", "Batch", "Model Batch Transform"))
        rates = [
            {
                "dimensionKey": f"{instance}.m.i.{letter}",
                "displayName": f"{instance} Inference ({name})",
                "dimensionLabels": [{"labelType": "SagemakerOption", "labelValue": option}],
                "unit": "HostHrs",
            }
            for instance in model.instances
            for letter, name, option in options
        ]
        price = offer.price(self._state.catalog.prices.software)
        priced = [{**rate, "price": price} for rate in rates]
        contents: Mapping[str, Answer] = {
            "legal": {"documents": [eula]},
            "support": {"refundPolicy": "Nothing is billed here, so nothing is refunded."},
            "usageBasedPricing": {"currencyCode": "USD", "rateCards": [{"rateCard": priced}]},
            TRIAL: {"duration": "P14D", "grants": rates},
        }
        terms = [
            {f"{kind}Term": {"id": offer.term_id(kind), "type": f"{kind[0].upper()}{kind[1:]}Term", **contents[kind]}}
            for kind in offer.terms(self._state.scenario)
        ]
        return {"offerTerms": terms}

    def _offered(self, offer_id: str) -> Offer:
        for offer in offers(self._state):
            if offer.offer_id == offer_id:
                return offer
        raise _unknown(offer_id)

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
        offer = next((offer for offer in offers(state) if offer.proposal_id == proposal), None)
        if offer is None:
            reason = f"{'INVALID' if proposal else 'MISSING'}_AGREEMENT_PROPOSAL_IDENTIFIER"
            raise invalid("There is no such agreement proposal.", reason=reason)
        if not offer.in_force:
            raise invalid("Provided agreement proposal is inactive.", reason="EXPIRED_AGREEMENT_PROPOSAL")
        given = {term.get("id") for term in asked["requestedTerms"]}
        if given - {offer.term_id(kind) for kind in offer.terms(state.scenario)}:
            raise invalid("A requested term is not of this offer.", reason="INVALID_REQUESTED_TERM_ID")
        if {offer.term_id(kind) for kind in MANDATORY} - given:
            raise invalid("Mandatory terms are missing from the request.", reason="MISSING_MANDATORY_TERMS")
        trial = offer.term_id(TRIAL) in given
        if trial and offer.model.key in state.tried:
            raise invalid("The free trial of this product has been used already.", reason="INCOMPATIBLE_TERMS")
        self._refuse_second(offer.model)
        # A token used again is the same request, unless that one has been accepted.
        found = state.requests.get(state.client_tokens.get(asked.get("clientToken", ""), ""))
        if found is None or found.agreement_id:
            request_id = f"ar-{digest(offer.model, f'request {len(state.requests)}')}"
            found = Request(request_id, offer.model, offer.offer_id, trial)
            state.requests[request_id] = found
            state.client_tokens[asked.get("clientToken", "")] = request_id
        return self._told(found)

    def get_agreement_request(self, asked: Asked) -> Answer:
        request = self._request(asked)
        return {**self._told(request), **({"agreementId": request.agreement_id} if request.agreement_id else {})}

    def get_agreement_request_approval_plans(self, asked: Asked) -> Answer:
        self._request(asked)
        plan = {"planReference": _PLAN, "name": "The organisation approves", "levels": []}
        return {"items": [{"buyerAgreementApprovalPlan": plan}] if self._state.scenario.approval else []}

    def start_agreement_approvals(self, asked: Asked) -> Answer:
        request = self._request(asked)
        given = [each.get("buyerAgreementApprovalPlanInput", {}).get("planReference") for each in asked["planInputs"]]
        if not self._state.scenario.approval or given != [_PLAN]:
            raise invalid("There is no such approval plan for the request.", reason="INVALID_PLAN_INPUTS")
        request.approving = True
        now = wall()
        summary = {
            "approvalType": "BUYER_AGREEMENT_APPROVAL",
            "agreementRequestId": request.request_id,
            "agreementApprovalId": f"apr-{digest(request.model, request.request_id)}",
            "name": "The organisation approves",
            "status": self._status(request),
            "createdAt": now,
            "updatedAt": now,
            "approvalNeededBy": now,
        }
        return {"approvalSummaries": [summary]}

    def cancel_agreement_request(self, asked: Asked) -> Answer:
        request = self._request(asked)
        if self._status(request) not in ("PENDING_APPROVAL", "APPROVED"):
            raise invalid(f"The request is {self._status(request)}.", reason="CLOSED_AGREEMENT_REQUEST")
        request.cancelled = True
        return {}

    def accept_agreement_request(self, asked: Asked) -> Answer:
        state, request = self._state, self._request(asked)
        status = self._status(request)
        if status in ("ACCEPTED", "CANCELLED"):
            raise invalid(f"{request.request_id} is {status} already.", reason="CLOSED_AGREEMENT_REQUEST")
        if status == "REJECTED":
            raise invalid("The organisation has refused.", reason="REJECTED_BY_AGREEMENT_APPROVAL_POLICY")
        if state.scenario.approval and status != "APPROVED":
            raise invalid("The request has to be approved first.", reason="PENDING_APPROVAL_AGREEMENT_REQUEST")
        self._refuse_second(request.model)
        agreement_id = f"agmt-{digest(request.model, f'agreement {len(state.agreements)}')}"
        request.agreement_id = agreement_id
        state.agreements[agreement_id] = Agreement(agreement_id, request.model, request.offer_id, request.trial)
        if request.trial:
            state.tried.add(request.model.key)
        return {"agreementId": agreement_id}

    def get_agreement_entitlements(self, asked: Asked) -> Answer:
        agreement = self._agreement(asked)
        license_arn = f"arn:aws:license-manager::{self._state.account}:license:l-{digest(agreement.model, 'license')}"
        entitlement = {"resource": _resource(agreement), "status": "PROVISIONED", "licenseArn": license_arn}
        if agreement.status != "ACTIVE":
            entitlement |= {"status": "DEPROVISIONED", "statusReasonCode": "AGREEMENT_INACTIVE"}
        elif reason := self._state.scenario.payment:
            entitlement |= {"status": _ENTITLING.get(reason, "FAILED"), "statusReasonCode": reason}
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
                "OfferId": agreement.offer_id,
                "Status": agreement.status,
            }  # no end time: what is paid by use has none
            return all(facts.get(name) == value for name, value in filters.items())

        every = self._state.agreements.values()
        found, more = page(filter(wanted, every), lambda each: [each.accepted, each.agreement_id], asked, most=50)
        return {"agreementViewSummaries": [self._view(agreement) for agreement in found], **more}

    def describe_agreement(self, asked: Asked) -> Answer:
        return self._view(self._agreement(asked))

    def get_agreement_terms(self, asked: Asked) -> Answer:
        agreement = self._agreement(asked)
        offer = next((each for each in offers(self._state) if each.offer_id == agreement.offer_id), None)
        if offer is None:  # in a scenario of before
            return {"acceptedTerms": []}
        terms = Discovery(self._state).get_offer_terms({"offerId": offer.offer_id})["offerTerms"]
        accepted = []
        for term in terms:
            ((kind, told),) = term.items()
            if kind == f"{TRIAL}Term" and not agreement.trial:
                continue
            if kind == "usageBasedPricingTerm":  # by dimension alone, in an agreement
                rates = [
                    {key: rate[key] for key in ("dimensionKey", "price")} for rate in told["rateCards"][0]["rateCard"]
                ]
                told = {**told, "rateCards": [{"rateCard": rates}]}
            accepted.append({kind: told})
        return {"acceptedTerms": accepted}

    def cancel_agreement(self, asked: Asked) -> Answer:
        agreement = self._agreement(asked)
        if agreement.status != "ACTIVE":
            raise invalid(f"The agreement is {agreement.status}.", reason="INACTIVE_AGREEMENT")
        agreement.status = "CANCELLED"
        return {}

    def _refuse_second(self, model: Model) -> None:
        if agreement := self._state.agreement(model):
            words = f"An active agreement exists for {product_id(model)}."
            raise Refusal("ConflictException", words, status=409, resourceId=agreement.agreement_id)

    def _request(self, asked: Asked) -> Request:
        if asked["agreementRequestId"] not in self._state.requests:
            raise _unknown(asked["agreementRequestId"])
        return self._state.requests[asked["agreementRequestId"]]

    def _status(self, request: Request) -> str:
        if request.agreement_id or request.cancelled:
            return "ACCEPTED" if request.agreement_id else "CANCELLED"
        if not request.approving:
            return "DRAFT"
        return {"approved": "APPROVED", "rejected": "REJECTED"}.get(self._state.scenario.approval, "PENDING_APPROVAL")

    def _told(self, request: Request) -> Answer:
        return {
            "agreementRequestId": request.request_id,
            "agreementType": "PurchaseAgreement",
            "status": self._status(request),
            "approvalRequirement": "REQUIRED" if self._state.scenario.approval else "NOT_REQUIRED",
            "chargeSummary": {"currencyCode": "USD", "newAgreementValue": "0.00", "expectedCharges": []},
        }

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
            "proposalSummary": {"resources": [_resource(agreement)], "offerId": agreement.offer_id},
        }


@dataclass(frozen=True)
class PriceList:
    """AWS's own prices, as far as they were published with the models'."""

    _state: State

    def get_products(self, asked: Asked) -> Answer:
        terms = asked.get("Filters", [])
        if any(term["Type"] != "TERM_MATCH" for term in terms):
            raise Refusal("InvalidParameterException", "the local stack knows TERM_MATCH filters only")
        found = []
        for facts, usd in self._rates(asked["ServiceCode"]):
            if all(facts.get(term["Field"]) == term["Value"] for term in terms):
                rate = {"unit": "Hrs", "pricePerUnit": {"USD": usd}}
                product = {
                    "product": {"attributes": facts},
                    "terms": {"OnDemand": {"1": {"priceDimensions": {"1": rate}}}},
                }
                found.append(orjson.dumps(product).decode())
        return {"FormatVersion": "aws_v1", "PriceList": found}

    def _rates(self, service: str) -> Iterator[tuple[Mapping[str, str], str]]:
        if service == "AmazonSageMaker":
            for instance, regions in self._state.catalog.prices.instances.items():
                for region, usd in regions.items():
                    yield {"instanceName": instance, "component": "Hosting", "regionCode": region}, usd
        elif service == "AmazonEC2":
            machine = figures()["ec2"]
            for region in self._state.catalog.regions:
                if region in machine:
                    kind = {"operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA"}
                    place = {"instanceType": machine["instance"], "regionCode": region, "capacitystatus": "Used"}
                    yield kind | place, machine[region]


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


def _offer(offer: Offer) -> Answer:
    return {"offerId": offer.offer_id, "sellerOfRecord": SELLER}


def _resource(agreement: Agreement) -> Answer:
    return {"id": product_id(agreement.model), "type": _RESOURCE}


def _unknown(wanted: str) -> Refusal:
    return Refusal("ResourceNotFoundException", f"{wanted} was not found.", status=404)
