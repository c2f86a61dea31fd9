"""
The buyer's side of AWS Marketplace: what a model costs, whether it is subscribed to, and subscribing.

Both services live in us-east-1 and an agreement holds for the whole account. A look-up that failed is not a "no":
whether the account is subscribed is yes, no, or an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from jina_sm import errors
from jina_sm.catalog import Model
from jina_sm.clock import Clock
from jina_sm.transport.session import auth_error, client, translated

REGION = "us-east-1"
RESOURCE = "MachineLearningProduct"
CONSOLE = "https://aws.amazon.com/marketplace/pp/"
MANAGED = "https://console.aws.amazon.com/marketplace/home#/subscriptions"
ENTITLEMENT_WAIT_S = 900.0
_LOOKS, _LOOK_S = 3, 2.0  # after an answer that got lost: what it was about is seen a moment later
_AT_ONCE = 8  # look-ups side by side

# AWS's reasons, and what to do about each.
CURES: Mapping[str, str] = {
    "DENIED_BY_PRIVATE_MARKETPLACE_POLICY": "Your organisation must approve the product in its Private Marketplace.",
    "MISSING_ACCOUNT_ADDRESS": "Add an address to the account in the Billing console.",
    "UNSUPPORTED_ACCOUNT_PLAN": "Free-plan accounts cannot subscribe; upgrade the account.",
    "FAILED_KYC_COMPLIANCE": "Complete the account's identity check in the Billing console.",
    "MISSING_MFA": "Sign in with multi-factor authentication.",
    "INVALID_ACCOUNT_STATE": "The account must be active and out of any suspension: see the Billing console.",
    "INVALID_PAYMENT_INSTRUMENT": "Put a valid payment method on the account.",
    "INCOMPATIBLE_CURRENCY": "Put a payment method in the offer's currency on the account.",
    "ACCOUNT_SUSPENDED": "The account is suspended: settle its bill, or ask AWS Support.",
    "PRODUCT_RESTRICTED": "The seller restricts who may buy it: ask Jina AI, or AWS Support.",
    "PENDING_APPROVAL_AGREEMENT_REQUEST": "A request for it waits for your organisation; run this again after that.",
    "REJECTED_BY_AGREEMENT_APPROVAL_POLICY": "Your organisation refuses it: ask whoever approves what it buys.",
    "DUPLICATE_AGREEMENT_IN_ORGANIZATION": "Another account of your organisation has it; where that shares its "
    "licence, deploy with --shared-licence.",
    "EXPIRED_AGREEMENT_PROPOSAL": "The offer has changed meanwhile: run this again.",
    "SUPERSEDED_AGREEMENT_PROPOSAL": "The offer has changed meanwhile: run this again.",
    "MISSING_PURCHASE_ORDER_REFERENCE": "Your organisation asks for a purchase order: subscribe in the console.",
    "FUTURE_START_DATE": "It begins at a later date: run this again then.",
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
    """A subscription. ``new``: made just now. ``trial``: and its free trial was granted."""

    agreement_id: str
    model: str
    new: bool
    since: datetime | None = None
    status: str = "ACTIVE"
    product_id: str | None = None
    trial: bool = False


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """An active agreement, and its price in USD an instance-hour by type; ``price``: why that is unknown."""

    agreement: Agreement
    hourly: Mapping[str, Decimal]
    price: str = ""


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
        return next(iter(self.all_agreements(model, product_id)), None)

    def all_agreements(self, model: Model, product_id: str) -> list[Agreement]:
        """Every active one: what is paid by use and what is paid by contract are two."""
        with _translated(model):
            found = self._search({"ResourceIdentifier": product_id})
            return [_agreement(each, model.key, product_id) for each in found]

    def subscriptions(self, models: Iterable[Model]) -> tuple[list[Subscription], list[Agreement]]:
        """The account's active agreements for those models, and those for other machine-learning products.

        Of a model without a listing in the catalogue nothing can tell which product it is. Raises DeployError.
        """
        # Asked for by status alone, since AWS refuses that beside the type of resource.
        with _translated(None):
            found = [
                (product, summary)
                for summary in self._search({})
                for product in summary.get("proposalSummary", {}).get("resources", [])
            ]
        if not found:
            return [], []
        keys = self._products(models)
        ours, others = [], []
        for product, summary in found:
            if key := keys.get(product["id"]):
                ours.append(_agreement(summary, key, product["id"]))
            elif product.get("type") == RESOURCE:
                others.append(_agreement(summary, "", product["id"]))
        with ThreadPoolExecutor(_AT_ONCE) as beside:
            return list(beside.map(self.subscription, ours)), others

    def cancel(self, model: Model, agreement: Agreement) -> None:
        """Ends a subscription. Raises DeployError with AWS's reason: not every agreement can be ended so."""
        try:
            with _translated(model):
                self._agreements.cancel_agreement(agreementId=agreement.agreement_id)
        except errors.JinaSMError as error:
            # The answer may have got lost after it was done, and another run may have been quicker.
            if not isinstance(error, errors.AuthError) and self._ended(model, agreement):
                return
            error.target = f"{model.key}, {agreement.agreement_id}"
            error.cure = error.cure or f"What AWS does not cancel so, {MANAGED} may."
            raise

    def _ended(self, model: Model, agreement: Agreement) -> bool:
        try:
            with _translated(model):
                said = self._agreements.describe_agreement(agreementId=agreement.agreement_id)
        except errors.JinaSMError:  # then it is the first error that tells
            return False
        return str(said.get("status")) in ("CANCELLED", "TERMINATED")

    def subscribe(self, model: Model, offer: Offer, *, clock: Clock) -> Agreement:
        """Accepts the offer and waits until the account is entitled. Raises DeployError.

        Refused, and nothing is bought, when accepting would charge anything at once: usage-priced offers quote zero.
        An error after the acceptance says so.
        """
        try:
            quote, trial = self._quote(model, offer)
        except errors.DeployError as error:  # another run has been quicker
            if error.code == "ConflictException" and (there := self.agreement(model, offer.product_id)):
                return self.entitled(model, there, clock=clock)
            raise
        _check_approval(model, offer, quote)
        _check_charges(model, offer, quote)
        try:
            with _translated(model):
                said = self._agreements.accept_agreement_request(agreementRequestId=quote["agreementRequestId"])
            if not (agreement_id := said.get("agreementId")):  # an answer cut short is read as an empty one
                raise errors.DeployError(f"whether {model.key} is subscribed to was not answered", cure="Run it again.")
        except errors.JinaSMError as error:
            # Where AWS has not said no, the answer may have got lost after the purchase was made.
            accepted = self._accepted(model, offer.product_id, looks=1 if error.code else _LOOKS, clock=clock)
            if accepted is None:
                raise
            agreement_id = accepted.agreement_id
        made = Agreement(agreement_id=agreement_id, model=model.key, new=True, product_id=offer.product_id, trial=trial)
        self._wait_for_entitlement(model, agreement_id, clock)
        return made

    def entitled(self, model: Model, agreement: Agreement, *, clock: Clock) -> Agreement:
        """The same, once it entitles. Raises DeployError where it never will; who may not ask is told nothing."""
        with suppress(errors.AuthError):
            if self._entitlements(model, agreement.agreement_id):
                self._wait_for_entitlement(model, agreement.agreement_id, clock)
        return agreement

    def _entitlements(self, model: Model, agreement_id: str) -> list[dict[str, Any]]:
        """Those that are there or to come; of an agreement that has ended they are DEPROVISIONED."""
        with _translated(model):
            pages = self._agreements.get_paginator("get_agreement_entitlements").paginate(agreementId=agreement_id)
            found = [each for page in pages for each in page.get("agreementEntitlements", [])]
        return [each for each in found if each["status"] != "DEPROVISIONED"]

    def _accepted(self, model: Model, product_id: str, *, looks: int, clock: Clock) -> Agreement | None:
        """The agreement that an acceptance without an answer may have made."""
        for look in range(looks):
            if look:
                clock.sleep(_LOOK_S)
            try:
                if found := self.agreement(model, product_id):
                    return found
            except errors.JinaSMError:
                continue
        return None

    def _quote(self, model: Model, offer: Offer) -> tuple[dict[str, Any], bool]:
        """A request for the agreement, which buys nothing, and whether it has the free trial.

        That is granted once, and where it is refused the rest is asked for without it.
        """
        wanted = [offer.terms]
        if offer.trial_term:
            wanted.append(tuple(term for term in offer.terms if term != offer.trial_term))
        for last, terms in enumerate(wanted, 1):
            try:
                with _translated(model):
                    quote: dict[str, Any] = self._agreements.create_agreement_request(
                        intent="NEW",
                        agreementProposalIdentifier=offer.proposal_id,
                        requestedTerms=[{"id": term} for term in terms],
                    )
                return quote, offer.trial_term in terms
            except errors.DeployError as error:
                if last == len(wanted) or error.code != "ValidationException":
                    raise
        raise AssertionError("one of the two has returned or raised")

    def _wait_for_entitlement(self, model: Model, agreement_id: str, clock: Clock) -> None:
        began, pause_s = clock.now(), 2.0
        while True:
            found = self._entitlements(model, agreement_id)
            for entitlement in found:
                reason = entitlement.get("statusReasonCode", "")
                if entitlement["status"] == "FAILED" or reason == "FUTURE_START_DATE":
                    kind = "and failed" if entitlement["status"] == "FAILED" else "but not yet active"
                    raise errors.DeployError(
                        f"the subscription to {model.key} is accepted ({agreement_id}) {kind}: {reason}",
                        cure=CURES.get(
                            reason, f"{MANAGED} may say more; `jina-sm unsubscribe {model.key}` cancels it."
                        ),
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

    def _search(self, about: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """The active agreements that the account has accepted. Other combinations of filters are refused."""
        asked = {"PartyType": "Acceptor", "AgreementType": "PurchaseAgreement", **about, "Status": "ACTIVE"}
        filters = [{"name": name, "values": [value]} for name, value in asked.items()]
        pages = self._agreements.get_paginator("search_agreements").paginate(
            catalog="AWSMarketplace", filters=filters, PaginationConfig={"PageSize": 50}
        )
        for each in pages:
            yield from each.get("agreementViewSummaries", [])

    def _products(self, models: Iterable[Model]) -> dict[str, str]:
        """The models' keys by the ids of their products, as far as they are listed."""

        def of(model: Model) -> str | None:
            try:
                return self.product_id(model)
            except errors.AuthError:
                raise
            except errors.DeployError as error:
                if error.code in ("ResourceNotFoundException", None):  # off the Marketplace, or no product
                    return None
                raise

        listed = [model for model in models if model.listing]
        with ThreadPoolExecutor(_AT_ONCE) as beside:
            found = zip(beside.map(of, listed), listed, strict=True)
            return {product: model.key for product, model in found if product}

    def subscription(self, agreement: Agreement) -> Subscription:
        """With the price by the terms that were accepted, which need not be the public offer's."""
        hourly: dict[str, Decimal] = {}
        try:
            with _translated(None):
                pages = self._agreements.get_paginator("get_agreement_terms").paginate(
                    agreementId=agreement.agreement_id
                )
                for term in (term for each in pages for term in each["acceptedTerms"]):
                    hourly |= dict(_real_time_prices(term.get("usageBasedPricingTerm", {})))
        except errors.JinaSMError as error:  # an unknown price is said to be
            return Subscription(agreement=agreement, hourly={}, price=error.message)
        return Subscription(agreement=agreement, hourly=hourly, price="" if hourly else "not paid by the hour")

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


def _agreement(summary: Mapping[str, Any], model: str, product_id: str) -> Agreement:
    return Agreement(
        agreement_id=summary["agreementId"],
        model=model,
        new=False,
        since=summary.get("startTime") or summary.get("acceptanceTime"),
        status=summary.get("status", "ACTIVE"),
        product_id=product_id,
    )


def _check_approval(model: Model, offer: Offer, quote: Mapping[str, Any]) -> None:
    if quote.get("approvalRequirement") == "REQUIRED" and quote.get("status") != "APPROVED":
        raise errors.DeployError(
            f"your organisation must approve the subscription to {model.key} first",
            cure=f"Ask for approval at {offer.url}, then run this again. The request is {quote['agreementRequestId']}.",
        )


def _check_charges(model: Model, offer: Offer, quote: Mapping[str, Any]) -> None:
    """Refuses what would be charged now or on a set date; a usage-priced offer quotes nothing before there is use."""
    summary = quote.get("chargeSummary", {})
    charges = summary.get("expectedCharges")
    fixed = [charge["amount"] for charge in charges or () if charge.get("timing") != "BILLING_PERIOD"]
    if charges is None or any(_usd(amount) > 0 for amount in fixed):
        due = ", ".join(str(amount) for amount in fixed) or "an unknown amount"
        raise errors.DeployError(
            f"accepting the offer of {model.key} would charge {due} {summary.get('currencyCode', '')}".rstrip()
            + " at once",
            cure=f"Subscribe in the console if you mean it: {offer.url}",
        )


def _usd(amount: str) -> Decimal:
    """What cannot be read is too much."""
    try:
        return Decimal(amount)
    except ArithmeticError:
        return Decimal("Infinity")


def _real_time_prices(term: Mapping[str, Any]) -> Iterator[tuple[str, Decimal]]:
    """(instance type, USD an hour): a dimension is spelled ``ml.g5.xlarge.m.i.r`` for real-time inference."""
    for card in term.get("rateCards", []):
        for rate in card.get("rateCard", []):
            instance, ending, _ = rate["dimensionKey"].partition(".m.i.r")
            if ending:
                yield instance, Decimal(rate["price"])


@contextmanager
def _translated(model: Model | None) -> Iterator[None]:
    import botocore.exceptions

    with translated(region=REGION):
        try:
            yield
        except botocore.exceptions.ClientError as error:
            raise meaning(error.response, model) from None


def meaning(answer: Mapping[str, Any], model: Model | None) -> errors.JinaSMError:
    """A ClientError's response as one of ours; AWS's ``reason`` lies beside Error, or in it."""
    code, said = answer["Error"].get("Code", ""), answer["Error"].get("Message") or "no reason given"
    reason = answer.get("reason") or answer["Error"].get("reason") or ""
    cure, target = CURES.get(reason), model.key if model else None
    if cure is None and (refused := auth_error(code, said, region=REGION, target=target)):
        return refused
    facts: dict[str, Any] = {"code": code, "target": target, "region": REGION}
    return errors.DeployError(
        f"AWS Marketplace: {said}".rstrip(".") + (f" [{reason}]" if reason else ""), cure=cure, **facts
    )
