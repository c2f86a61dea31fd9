"""
The buyer's side of AWS Marketplace: what a model costs, whether it is subscribed to, and subscribing.

Both services live in us-east-1 and an agreement holds for the whole account. A look-up that failed is not a "no":
whether the account is subscribed is yes, no, or an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from jina_sm import errors
from jina_sm.catalog import Model
from jina_sm.clock import Clock
from jina_sm.transport.session import auth_error, client, translated

REGION = "us-east-1"
CONSOLE = "https://aws.amazon.com/marketplace/pp/"
ENTITLEMENT_WAIT_S = 900.0

# AWS's reasons, and what to do about each.
CURES: Mapping[str, str] = {
    "DENIED_BY_PRIVATE_MARKETPLACE_POLICY": "Your organisation must approve the product in its Private Marketplace.",
    "MISSING_ACCOUNT_ADDRESS": "Add an address to the account in the Billing console.",
    "UNSUPPORTED_ACCOUNT_PLAN": "Free-plan accounts cannot subscribe; upgrade the account.",
    "FAILED_KYC_COMPLIANCE": "Complete the account's identity check in the Billing console.",
    "MISSING_MFA": "Sign in with multi-factor authentication.",
    "INVALID_PAYMENT_INSTRUMENT": "Put a valid payment method on the account.",
}


@dataclass(frozen=True, kw_only=True)
class Offer:
    """The public offer of a model: what it costs and what one agrees to. ``hourly`` is USD an instance-hour by type."""

    model: str
    product: str
    product_id: str
    proposal_id: str
    terms: tuple[str, ...]
    eulas: tuple[str, ...]
    hourly: Mapping[str, Decimal]
    free_trial: str | None
    trial_term: str | None
    url: str


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A subscription. ``new``: made just now."""

    agreement_id: str
    model: str
    new: bool


class Marketplace:
    """The buyer's operations of one account."""

    def __init__(self, aws: Any) -> None:
        self._discovery = client(aws, "marketplace-discovery", REGION)
        self._agreements = client(aws, "marketplace-agreement", REGION)

    def product_id(self, model: Model) -> str:
        """The product behind a listing. Raises DeployError."""
        return str(self._product(model)["productId"])

    def offer(self, model: Model) -> Offer:
        """The public offer in force: price, EULA links and terms. Subscribes nothing. Raises DeployError."""
        product = self._product(model)
        product_id = product["productId"]
        with _translated(model):
            offer_id = self._public_offer(product_id)
            if not offer_id:
                raise errors.DeployError(f"{model.key} has no public offer", cure=f"See {CONSOLE}{model.listing}")
            proposal = self._discovery.get_offer(offerId=offer_id)
            pages = self._discovery.get_paginator("get_offer_terms").paginate(offerId=offer_id)
            terms = [next(iter(term.items())) for page in pages for term in page["offerTerms"]]
        hourly: dict[str, Decimal] = {}
        eulas: list[str] = []
        trial = trial_term = None
        for kind, term in terms:
            if kind == "usageBasedPricingTerm":
                hourly |= dict(_real_time_prices(term))
            elif kind == "legalTerm":
                eulas += [document["url"] for document in term.get("documents", []) if document.get("url")]
            elif kind == "freeTrialPricingTerm":
                trial, trial_term = str(term.get("duration", "yes")), term["id"]
        return Offer(
            model=model.key,
            product=product.get("productName") or model.key,
            product_id=product_id,
            proposal_id=proposal["agreementProposalId"],
            terms=tuple(term["id"] for _, term in terms),
            eulas=tuple(eulas),
            hourly=hourly,
            free_trial=trial,
            trial_term=trial_term,
            url=CONSOLE + str(model.listing),
        )

    def agreement(self, model: Model, product_id: str) -> Agreement | None:
        """The account's active agreement for a product; None: it has none of its own.

        An account can also be entitled by another's grant, so only CreateModel knows for sure.
        """
        # Other combinations of filters are refused, so the type of resource is not asked for.
        asked = {
            "PartyType": "Acceptor",
            "AgreementType": "PurchaseAgreement",
            "ResourceIdentifier": product_id,
            "Status": "ACTIVE",
        }
        filters = [{"name": name, "values": [value]} for name, value in asked.items()]
        with _translated(model):
            said = self._agreements.search_agreements(catalog="AWSMarketplace", filters=filters, maxResults=50)
        for found in said.get("agreementViewSummaries", []):
            return Agreement(agreement_id=found["agreementId"], model=model.key, new=False)
        return None

    def subscribe(self, model: Model, offer: Offer, *, clock: Clock) -> Agreement:
        """Accepts the offer and waits until the account is entitled. Raises DeployError.

        Refused, and nothing is bought, when accepting would charge anything at once: usage-priced offers quote zero.
        An error after the acceptance says so.
        """
        quote = self._quote(model, offer)
        if quote.get("approvalRequirement") == "REQUIRED":
            raise errors.DeployError(
                f"your organisation must approve the subscription to {model.key} first",
                cure=f"Ask for approval at {offer.url}, then run this again.",
            )
        charges = quote.get("chargeSummary", {}).get("expectedCharges")
        at_once = [c for c in charges or () if c.get("timing") in ("ON_ACCEPTANCE", "SCHEDULED")]
        if charges is None or any(Decimal(charge["amount"]) > 0 for charge in at_once):
            due = ", ".join(str(charge["amount"]) for charge in at_once) or "an unknown amount"
            currency = quote.get("chargeSummary", {}).get("currencyCode", "")
            raise errors.DeployError(
                f"accepting the offer of {model.key} would charge {due} {currency}".rstrip() + " at once",
                cure=f"Subscribe in the console if you mean it: {offer.url}",
            )
        try:
            with _translated(model):
                said = self._agreements.accept_agreement_request(agreementRequestId=quote["agreementRequestId"])
        except errors.JinaSMError:
            # The answer may have got lost after the purchase was made.
            if accepted := self.agreement(model, offer.product_id):
                return accepted
            raise
        self._wait_for_entitlement(model, said["agreementId"], clock)
        return Agreement(agreement_id=said["agreementId"], model=model.key, new=True)

    def _quote(self, model: Model, offer: Offer) -> dict[str, Any]:
        """A request for the agreement, which buys nothing. A free trial is granted once, and then asked for no more."""
        wanted = [offer.terms]
        if offer.free_trial:
            wanted.append(tuple(term for term in offer.terms if term != offer.trial_term))
        for last, terms in enumerate(wanted, 1):
            try:
                with _translated(model):
                    quote: dict[str, Any] = self._agreements.create_agreement_request(
                        intent="NEW",
                        agreementProposalIdentifier=offer.proposal_id,
                        requestedTerms=[{"id": term} for term in terms],
                    )
                return quote
            except errors.DeployError as error:
                if last == len(wanted) or error.code != "ValidationException":
                    raise
        raise AssertionError("one of the two has returned or raised")

    def _wait_for_entitlement(self, model: Model, agreement_id: str, clock: Clock) -> None:
        began, pause_s = clock.now(), 2.0
        while True:
            with _translated(model):
                said = self._agreements.get_agreement_entitlements(agreementId=agreement_id)
            found = said.get("agreementEntitlements", [])
            for entitlement in found:
                if entitlement["status"] == "FAILED":
                    reason = entitlement.get("statusReasonCode", "")
                    raise errors.DeployError(
                        f"the subscription to {model.key} is accepted ({agreement_id}) and failed: {reason}",
                        cure=CURES.get(reason, CONSOLE),
                    )
            if found and all(entitlement["status"] == "PROVISIONED" for entitlement in found):
                return
            if clock.now() - began > ENTITLEMENT_WAIT_S:
                raise errors.DeployError(
                    f"the subscription to {model.key} is accepted ({agreement_id}) but not yet active",
                    cure="It usually takes a few minutes; run this again later.",
                )
            clock.sleep(pause_s)
            pause_s = min(60.0, pause_s * 2)

    def _product(self, model: Model) -> dict[str, Any]:
        if model.listing is None:
            raise errors.DeployError(
                f"the Marketplace listing of {model.key} is not in the catalogue",
                cure="Subscribe in the Marketplace console, then deploy with --package-arn.",
            )
        with _translated(model):
            listing = self._discovery.get_listing(listingId=model.listing)
        for entity in listing["associatedEntities"]:
            if "product" in entity:
                product: dict[str, Any] = entity["product"]
                return product
        raise errors.DeployError(f"the listing {model.listing} of {model.key} names no product")

    def _public_offer(self, product_id: str) -> str | None:
        """The offer in force now; the list also has expired, future and private ones, in no order."""
        asked = {"PRODUCT_ID": product_id, "PURCHASE_OPTION_TYPE": "OFFER", "AVAILABILITY_STATUS": "AVAILABLE"}
        filters = [{"filterType": name, "filterValues": [value]} for name, value in asked.items()]
        now = datetime.now(UTC)
        pages = self._discovery.get_paginator("list_purchase_options").paginate(filters=filters)
        for option in (option for page in pages for option in page["purchaseOptions"]):
            badges = {badge["badgeType"] for badge in option.get("badges", [])}
            begins, ends = option.get("availableFromTime"), option.get("expirationTime")
            if not badges & {"PRIVATE_PRICING", "FUTURE_DATED"} and not (
                (begins and begins > now) or (ends and ends <= now)
            ):
                return str(option["purchaseOptionId"])
        return None


def _real_time_prices(term: Mapping[str, Any]) -> Iterator[tuple[str, Decimal]]:
    """(instance type, USD an hour): a dimension is spelled ``ml.g5.xlarge.m.i.r`` for real-time inference."""
    for card in term.get("rateCards", []):
        for rate in card.get("rateCard", []):
            instance, ending, _ = rate["dimensionKey"].partition(".m.i.r")
            if ending:
                yield instance, Decimal(rate["price"])


@contextmanager
def _translated(model: Model) -> Iterator[None]:
    import botocore.exceptions

    with translated(region=REGION):
        try:
            yield
        except botocore.exceptions.ClientError as error:
            raise meaning(error.response, model) from None


def meaning(answer: Mapping[str, Any], model: Model) -> errors.JinaSMError:
    """A ClientError's response as one of ours; AWS's ``reason`` lies beside Error, or in it."""
    code, said = answer["Error"].get("Code", ""), answer["Error"].get("Message") or "no reason given"
    reason = answer.get("reason") or answer["Error"].get("reason") or ""
    cure = CURES.get(reason)
    if cure is None and (refused := auth_error(code, said, region=REGION, target=model.key)):
        return refused
    facts: dict[str, Any] = {"code": code, "target": model.key, "region": REGION}
    return errors.DeployError(
        f"AWS Marketplace: {said}".rstrip(".") + (f" [{reason}]" if reason else ""), cure=cure, **facts
    )
