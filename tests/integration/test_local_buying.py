"""Buying on the local stack where it is not plain: trials, approvals, payments, other offers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError

from jina_sm import catalog, errors, local
from jina_sm.clock import Clock
from jina_sm.deploy.run import subscribe
from tests.conftest import Served
from tests.integration.test_local_hosting import model
from tests.integration.test_local_marketplace import refused

V3 = "jina-embeddings-v3"


def offers(stack: Served, **filters: str) -> list[dict[str, Any]]:
    discovery, row = stack.aws("marketplace-discovery"), catalog.load(environ={}).model(V3)
    listing = discovery.get_listing(listingId=row.listing)
    wanted = {"PRODUCT_ID": listing["associatedEntities"][0]["product"]["productId"], **filters}
    asked = [{"filterType": name, "filterValues": [value]} for name, value in wanted.items()]
    found: list[dict[str, Any]] = discovery.list_purchase_options(filters=asked)["purchaseOptions"]
    return found


def test_a_free_trial_is_offered_and_taken_once(stack: Served) -> None:
    local.change_scenario(stack.port, free_trial=True)
    agreements = stack.aws("marketplace-agreement")
    first = stack.subscribe()
    agreements.cancel_agreement(agreementId=first)
    with pytest.raises(ClientError, match="free trial") as caught:
        stack.quote()
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    request = stack.quote(terms=3)  # all but the trial
    assert agreements.accept_agreement_request(agreementRequestId=request)["agreementId"] != first


def test_what_must_be_approved_is_accepted_once_it_is(stack: Served) -> None:
    local.change_scenario(stack.port, approval="required")
    agreements = stack.aws("marketplace-agreement")
    request = {"agreementRequestId": stack.quote()}
    assert agreements.get_agreement_request(**request)["approvalRequirement"] == "REQUIRED"
    accept = agreements.accept_agreement_request
    assert refused(accept, **request)["reason"] == "PENDING_APPROVAL_AGREEMENT_REQUEST"
    (plan,) = agreements.get_agreement_request_approval_plans(**request)["items"]
    chosen = {"planReference": plan["buyerAgreementApprovalPlan"]["planReference"]}
    inputs = [{"buyerAgreementApprovalPlanInput": chosen}]
    (begun,) = agreements.start_agreement_approvals(**request, planInputs=inputs)["approvalSummaries"]
    assert begun["status"] == "PENDING_APPROVAL"
    assert refused(accept, **request)["reason"] == "PENDING_APPROVAL_AGREEMENT_REQUEST"
    local.change_scenario(stack.port, approval="rejected")
    assert agreements.get_agreement_request(**request)["status"] == "REJECTED"
    assert refused(accept, **request)["reason"] == "REJECTED_BY_AGREEMENT_APPROVAL_POLICY"
    local.change_scenario(stack.port, approval="approved")
    assert agreements.get_agreement_request(**request)["status"] == "APPROVED"
    agreement = accept(**request)["agreementId"]
    told = agreements.get_agreement_request(**request)
    assert (told["status"], told["agreementId"]) == ("ACCEPTED", agreement)


def test_a_request_that_waits_for_approval_can_be_cancelled(stack: Served) -> None:
    agreements = stack.aws("marketplace-agreement")
    request = {"agreementRequestId": stack.quote()}
    assert refused(agreements.cancel_agreement_request, **request)["reason"] == "CLOSED_AGREEMENT_REQUEST"
    assert agreements.get_agreement_request_approval_plans(**request)["items"] == []
    local.change_scenario(stack.port, approval="required")
    wrong = [{"buyerAgreementApprovalPlanInput": {"planReference": "aplan-other"}}]
    said = refused(agreements.start_agreement_approvals, **request, planInputs=wrong)
    assert said["reason"] == "INVALID_PLAN_INPUTS"
    right = [{"buyerAgreementApprovalPlanInput": {"planReference": "aplan-organisation"}}]
    agreements.start_agreement_approvals(**request, planInputs=right)
    agreements.cancel_agreement_request(**request)
    assert refused(agreements.accept_agreement_request, **request)["reason"] == "CLOSED_AGREEMENT_REQUEST"


@pytest.mark.parametrize(
    ("payment", "status"), [("INVALID_PAYMENT_INSTRUMENT", "FAILED"), ("PROVISIONING_IN_PROGRESS", "PENDING")]
)
def test_a_payment_that_fails_entitles_to_nothing(stack: Served, payment: str, status: str) -> None:
    local.change_scenario(stack.port, payment=payment)
    agreement = stack.subscribe()
    agreements = stack.aws("marketplace-agreement")
    (entitled,) = agreements.get_agreement_entitlements(agreementId=agreement)["agreementEntitlements"]
    assert (entitled["status"], entitled["statusReasonCode"]) == (status, payment)
    assert "not subscribed" in refused(stack.aws("sagemaker").create_model, **model())["Error"]["Message"]
    with pytest.raises(ClientError, match="active agreement exists"):
        stack.quote()
    local.change_scenario(stack.port, payment="")
    stack.aws("sagemaker").create_model(**model())


def test_offers_beside_the_public_one_are_listed_and_marked(stack: Served) -> None:
    (public,) = offers(stack)
    local.change_scenario(stack.port, private_offer=True, expired_offer=True, future_offer=True)
    every = offers(stack)
    assert len(every) == 4
    available = offers(stack, AVAILABILITY_STATUS="AVAILABLE")
    badges = {each["purchaseOptionId"]: [badge["badgeType"] for badge in each["badges"]] for each in available}
    private = next(each for each in badges if each != public["purchaseOptionId"])
    assert badges == {public["purchaseOptionId"]: [], private: ["PRIVATE_PRICING"]}
    (found,) = offers(stack, VISIBILITY_SCOPE="PRIVATE")
    assert found["purchaseOptionId"] == private
    assert sum("expirationTime" in each for each in every) == 1
    assert ["FUTURE_DATED"] in [[badge["badgeType"] for badge in each["badges"]] for each in every]


def test_an_offer_out_of_force_cannot_be_accepted_and_a_private_one_has_its_price(stack: Served) -> None:
    discovery, agreements = stack.aws("marketplace-discovery"), stack.aws("marketplace-agreement")
    local.change_scenario(stack.port, private_offer=True, expired_offer=True, future_offer=True)
    in_force, inactive, prices = [], [], set()
    for option in offers(stack):
        offer = discovery.get_offer(offerId=option["purchaseOptionId"])
        terms = discovery.get_offer_terms(offerId=offer["offerId"])["offerTerms"]
        rates = next(each["usageBasedPricingTerm"] for each in terms if "usageBasedPricingTerm" in each)
        prices.add(Decimal(rates["rateCards"][0]["rateCard"][0]["price"]))
        asked = {
            "intent": "NEW",
            "agreementProposalIdentifier": offer["agreementProposalId"],
            "requestedTerms": [{"id": next(iter(term.values()))["id"]} for term in terms],
        }
        try:
            in_force.append(agreements.create_agreement_request(**asked))
        except ClientError as error:
            inactive.append((error.response["reason"], error.response["message"]))
    assert len(in_force) == 2
    assert inactive == [("EXPIRED_AGREEMENT_PROPOSAL", "Provided agreement proposal is inactive.")] * 2
    public = Decimal(stack.stack.state.catalog.prices.software)
    assert prices == {public, public / 2}


def test_our_own_subscribing_takes_the_public_offer_and_says_what_is_in_its_way(account: Served) -> None:
    clock = Clock(sleep=lambda _: None)
    local.change_scenario(account.port, private_offer=True, expired_offer=True, future_offer=True)
    local.change_scenario(account.port, approval="required")
    with pytest.raises(errors.DeployError, match="must approve"):
        subscribe(V3, clock=clock)
    local.change_scenario(account.port, approval="", payment="INVALID_PAYMENT_INSTRUMENT")
    with pytest.raises(errors.DeployError, match="INVALID_PAYMENT_INSTRUMENT"):
        subscribe(V3, clock=clock)
    agreements = account.aws("marketplace-agreement")
    (found,) = account.stack.state.agreements
    discovery = account.aws("marketplace-discovery")
    offer = discovery.get_offer(offerId=agreements.describe_agreement(agreementId=found)["proposalSummary"]["offerId"])
    assert offer["badges"] == []
