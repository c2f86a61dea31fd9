"""Subscribing with what can go wrong on the way, listing what is subscribed to, and ending it."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import boto3
import pytest

from jina_sm import Spec, errors, local
from jina_sm.clock import Clock
from jina_sm.deploy import guards, run, subscriptions
from jina_sm.deploy.marketplace import _check_charges
from tests.conftest import Served, Told

V3, V2 = "jina-embeddings-v3", "jina-embeddings-v2-base-en"
NO_PAUSE = Clock(sleep=lambda _: None)
pytestmark = pytest.mark.usefixtures("account")
Run = Callable[..., Told]


def fault(stack: Served, kind: str, operation: str, **more: Any) -> None:
    local.fault(kind, operation, port=stack.port, **more)


def test_a_free_trial_is_granted_once_and_the_second_time_asked_for_no_more(account: Served) -> None:
    local.change_scenario(account.port, free_trial=True)
    first = run.subscribe(V3)
    assert first.trial
    subscriptions.unsubscribe(V3)
    again = run.subscribe(V3)
    assert (again.new, again.trial) == (True, False)
    assert again.agreement_id != first.agreement_id


def test_who_was_shown_a_free_trial_is_told_that_there_was_none(account: Served, typed: Run) -> None:
    local.change_scenario(account.port, free_trial=True)
    code, out, err = typed("subscribe", V3, "--yes", "--json")
    assert json.loads(out)["free_trial"] is True
    assert "no free trial" not in err
    assert typed("unsubscribe", V3, "--yes")[0] == 0
    code, out, err = typed("subscribe", V3, "--yes", "--json")
    assert (code, json.loads(out)["free_trial"]) == (0, False)
    assert "AWS granted no free trial" in err


@pytest.mark.parametrize(("cut", "hidden"), [(1, 0), (None, 0), (None, 1)])
def test_an_acceptance_whose_answer_gets_lost_is_found_and_not_made_twice(
    account: Served, cut: int | None, hidden: int
) -> None:
    if hidden:
        fault(account, "hidden", "AcceptAgreementRequest", reads=hidden, count=1)
    fault(account, "truncate", "AcceptAgreementRequest", count=cut)
    made = run.subscribe(V3, clock=NO_PAUSE)
    assert made.new
    assert list(account.stack.state.agreements) == [made.agreement_id]


def test_an_acceptance_that_never_arrived_is_an_error(account: Served) -> None:
    fault(account, "reset", "AcceptAgreementRequest")
    with pytest.raises(errors.DeployError, match="could not be reached"):
        run.subscribe(V3, clock=NO_PAUSE)
    assert not account.stack.state.agreements


def test_of_two_who_subscribe_at_once_the_slower_finds_it_done(account: Served) -> None:
    offer = run.offer(V3)
    account.subscribe(V3)
    fault(account, "hidden", "AcceptAgreementRequest")  # nothing more is accepted, so nothing is hidden
    market, row = run.Marketplace(run.default_session()), account.stack.state.catalog.model(V3)
    there = market.subscribe(row, offer, clock=NO_PAUSE)
    assert (there.new, there.agreement_id) == (False, *account.stack.state.agreements)


def test_a_subscription_whose_payment_failed_is_not_called_one(account: Served, typed: Run) -> None:
    local.change_scenario(account.port, payment="INVALID_PAYMENT_INSTRUMENT")
    for _ in range(2):  # the second time there is an agreement, and it entitles to nothing
        code, out, err = typed("subscribe", V3, "--yes")
        assert (code, out) == (1, "")
        assert "INVALID_PAYMENT_INSTRUMENT" in err
        assert "Put a valid payment method on the account." in err
    local.change_scenario(account.port, payment="")
    assert typed("subscribe", V3)[1].startswith("already subscribed")


def test_an_entitlement_that_is_not_on_the_first_page_counts_too(account: Served) -> None:
    local.change_scenario(account.port, payment="INVALID_PAYMENT_INSTRUMENT")
    session = boto3.Session()
    first = iter([{"agreementEntitlements": [{"status": "PROVISIONED"}], "nextToken": "more"}])
    operation = "after-call.marketplace-agreement.GetAgreementEntitlements"
    session.events.register(operation, lambda parsed, **_: parsed.update(next(first, {})))
    with pytest.raises(errors.DeployError, match="INVALID_PAYMENT_INSTRUMENT"):
        run.subscribe(V3, session=session)


def test_a_subscription_that_tells_of_no_entitlement_is_not_waited_for(account: Served) -> None:
    row, offer = account.stack.state.catalog.model(V3), run.offer(V3)
    mine = run.subscribe(V3)
    account.aws("marketplace-agreement").cancel_agreement(agreementId=mine.agreement_id)  # then it is DEPROVISIONED

    def sleep(seconds: float) -> None:
        raise AssertionError("it waits")

    market = run.Marketplace(run.default_session())
    assert market.entitled(row, mine, clock=Clock(sleep=sleep)) is mine
    assert offer.product_id == mine.product_id


def test_what_begins_later_is_said_at_once(account: Served) -> None:
    local.change_scenario(account.port, payment="FUTURE_START_DATE")

    def sleep(seconds: float) -> None:
        raise AssertionError("it waits for what no waiting brings")

    with pytest.raises(errors.DeployError, match="FUTURE_START_DATE"):
        run.subscribe(V3, clock=Clock(sleep=sleep))


def test_who_waits_for_approval_is_told_whom_to_ask_and_which_request(account: Served, typed: Run) -> None:
    local.change_scenario(account.port, approval="required")
    code, out, err = typed("subscribe", V3, "--yes")
    (request,) = account.stack.state.requests
    assert (code, out) == (1, "")
    assert f"must approve the subscription to {V3} first" in err
    assert f"The request is {request}." in err
    assert not account.stack.state.agreements


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ({"expectedCharges": [{"amount": "12.50", "timing": "ON_ACCEPTANCE"}], "currencyCode": "USD"}, "12.50 USD at once"),
        ({"expectedCharges": [{"amount": "1", "timing": "SCHEDULED"}]}, "charge 1 at once"),
        ({"expectedCharges": [{"amount": "1"}]}, "charge 1 at once"),
        ({"expectedCharges": [{"amount": "much", "timing": "ON_ACCEPTANCE"}]}, "charge much at once"),
        ({"currencyCode": "USD"}, "an unknown amount"),
        ({"expectedCharges": [{"amount": "0.00", "timing": "ON_ACCEPTANCE"}]}, ""),
        ({"expectedCharges": []}, ""),
    ],
)  # fmt: skip
def test_what_would_charge_at_once_is_not_accepted(account: Served, summary: dict[str, Any], said: str) -> None:
    row, offer = account.stack.state.catalog.model(V3), run.offer(V3)
    if not said:
        return _check_charges(row, offer, {"chargeSummary": summary})
    with pytest.raises(errors.DeployError, match=said):
        _check_charges(row, offer, {"chargeSummary": summary})
    return None


def test_subscriptions_are_listed_with_the_price_agreed_to(account: Served, typed: Run) -> None:
    assert typed("subscriptions")[1] == "no subscription to a model of the catalogue\n"
    run.subscribe(V2)
    mine = run.subscribe(V3)
    account.subscribe("jina-colbert-v2")  # whose listing the catalogue does not have
    there = subscriptions.subscriptions()
    assert [each.agreement.model for each in there.found] == [V3, V2]
    assert there.found[0].agreement.agreement_id == mine.agreement_id
    assert there.found[0].hourly["ml.g5.xlarge"] == Decimal("2.50")
    assert len(there.others) == 1
    code, out, err = typed("subscriptions")
    head, first, second, _ = out.splitlines()
    assert code == 0
    assert head.split() == ["MODEL", "AGREEMENT", "SINCE", "STATUS", "USD/H"]
    assert first.endswith("ACTIVE  2.50")
    assert second.startswith(V2)
    assert "And 1 to other machine-learning products" in err
    said = json.loads(typed("subscriptions", "--json")[1])
    assert said["subscriptions"][0]["software_usd_per_hour"]["ml.g5.xlarge"] == "2.50"
    assert [each["model"] for each in said["others"]] == [None]


def test_a_look_up_that_failed_is_no_empty_list(typed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "DENIED")
    code, out, err = typed("subscriptions")
    assert (code, out) == (1, "")
    assert "not authorized to perform: aws-marketplace:SearchAgreements" in err
    code, out, err = typed("unsubscribe", V3, "--yes")
    assert (code, out) == (1, "")


def test_a_price_that_may_not_be_asked_is_said_to_be_unknown(account: Served, typed: Run) -> None:
    run.subscribe(V3)
    fault(account, "error", "GetAgreementTerms", status=403, reason="may not")
    code, out, _ = typed("subscriptions")
    assert (code, "may not" in out) == (0, True)


def test_without_a_subscription_there_is_nothing_to_cancel(typed: Run) -> None:
    code, out, _ = typed("unsubscribe", V3)
    assert (code, out.startswith("not subscribed")) == (0, True), "asks nothing"
    assert json.loads(typed("unsubscribe", V3, "--json")[1])["cancelled"] == []


def test_cancelling_says_what_would_bill_on_and_refuses_while_ours_runs(account: Served, typed: Run) -> None:
    mine = run.subscribe(V3)
    run.deploy(Spec(model=V3, regions=("us-east-1", "eu-central-1")))
    guards.pause(V3, regions=["eu-central-1"])
    account.deploy(V3, name="theirs", region="ap-south-1")
    account.deploy(V2, name="others", region="ap-south-1")
    code, out, err = typed("unsubscribe", V3, "--yes")
    assert (code, out) == (1, "")
    assert "jina-sm-embeddings-v3 in us-east-1 would go on running and billing" in err
    rows = {tuple(line.split()) for line in err.splitlines()}
    assert ("us-east-1", "jina-sm-embeddings-v3", "InService", "ours", "bills", "on") in rows
    assert ("eu-central-1", "jina-sm-embeddings-v3", "Paused", "ours") in rows
    assert ("ap-south-1", "theirs", "InService", "not", "ours", "bills", "on") in rows
    assert "others" not in err
    assert all(len(line) <= 80 for line in err.splitlines() if not line.startswith("error"))
    assert run.subscription(V3) is not None
    with pytest.raises(errors.DeployError, match="`jina-sm teardown jina-sm-embeddings-v3` first"):
        subscriptions.unsubscribe(V3)
    code, out, _ = typed("unsubscribe", V3, "--yes", "--leave-running", "--json")
    assert (code, json.loads(out)["cancelled"]) == (0, [mine.agreement_id])
    assert [use["bills"] for use in json.loads(out)["running"]].count(True) == 2
    assert run.subscription(V3) is None
    status = account.aws("sagemaker").describe_endpoint(EndpointName="jina-sm-embeddings-v3")["EndpointStatus"]
    assert status == "InService", "cancelling takes nothing away"


def test_others_that_run_from_it_are_a_matter_of_asking(account: Served, typed: Run) -> None:
    account.deploy(V3, name="theirs")
    code, _, err = typed("unsubscribe", V3)
    assert (code, "theirs" in err, "pass --yes" in err) == (2, True, True)
    assert typed("unsubscribe", V3, "--yes")[0] == 0


def test_a_region_that_could_not_be_looked_at_is_a_reason_not_to_cancel(account: Served, typed: Run) -> None:
    run.subscribe(V3)
    fault(account, "error", "ListEndpoints", region="eu-west-1", status=403, reason="may not list")
    code, out, err = typed("unsubscribe", V3, "--yes")
    assert (code, out) == (1, "")
    assert "error: eu-west-1 could not be looked at" in err
    assert run.subscription(V3) is not None
    assert typed("unsubscribe", V3, "--yes", "--leave-running")[0] == 0


def test_why_an_agreement_cannot_be_cancelled_is_passed_on(account: Served, typed: Run) -> None:
    run.subscribe(V3)
    fault(account, "error", "CancelAgreement", status=400, reason="This agreement is not eligible for cancellation.")
    code, out, err = typed("unsubscribe", V3, "--yes")
    assert (code, out) == (1, "")
    assert "This agreement is not eligible for cancellation" in err
    assert "console.aws.amazon.com/marketplace" in err


@pytest.mark.parametrize("cut", [1, None])
def test_a_cancellation_whose_answer_gets_lost_is_done(account: Served, cut: int | None) -> None:
    run.subscribe(V3)
    fault(account, "truncate", "CancelAgreement", count=cut)
    assert len(subscriptions.unsubscribe(V3)) == 1
    assert run.subscription(V3) is None


def test_the_same_model_in_another_version_of_its_package_is_seen(account: Served) -> None:
    known = account.stack.state.catalog
    row = known.model(V3)
    name = f"{(row.package or '')[:-32]}{'0' * 32}"
    older = f"arn:aws:sagemaker:us-east-1:865070037744:model-package/{name}"
    assert subscriptions._of(known, row, older)
    clip = known.model("jina-clip-v1")
    assert not subscriptions._of(known, clip, f"arn:x:model-package/{known.model('jina-clip-v2').package}")
    assert not subscriptions._of(known, known.model("jina-embeddings-v4"), older)
