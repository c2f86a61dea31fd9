"""What endpoints cost an hour and have cost so far, over HTTP against the local stack."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from jina_sm import Spec, local
from jina_sm.clock import Clock
from jina_sm.deploy import cost, guards, run
from jina_sm.deploy.cost import Cost, Part
from jina_sm.deploy.pricing import Price
from tests.conftest import Served, Told

V3, RERANKER = "jina-embeddings-v3", "jina-reranker-v2-base-multilingual"
NAME = "jina-sm-embeddings-v3"
HOME = ("us-east-1", NAME)
Run = Callable[..., Told]
pytestmark = pytest.mark.usefixtures("account")


def deployed(model: str = V3, **more: Any) -> run.Endpoint:
    run.subscribe(model)
    return run.deploy(Spec(model=model, regions=("us-east-1",), **more))["us-east-1"]


def ours(stack: Served, **more: Any) -> None:
    """An endpoint with our tags, whatever becomes of it."""
    stack.deploy(V3, name=NAME, **more)
    arn = stack.aws("sagemaker").describe_endpoint(EndpointName=NAME)["EndpointArn"]
    tags = {"managed-by": "jina-sm", "jina-sm:model": V3, "jina-sm:endpoint": NAME}
    stack.aws("sagemaker").add_tags(ResourceArn=arn, Tags=[{"Key": key, "Value": tag} for key, tag in tags.items()])


def after(hours: float, **given: Any) -> Cost:
    inventory = run.status(regions=["us-east-1"])
    (endpoint,) = inventory.found["us-east-1"].state.endpoints
    return cost.costs(inventory, now=endpoint.created + timedelta(hours=hours), **given)["us-east-1", endpoint.name]


def test_what_accrues_is_instances_times_prices_times_hours() -> None:
    deployed(instance_count=2)
    there = after(10)
    assert there.usd_per_hour == 2 * (Decimal("1.408") + Decimal("2.50"))
    assert there.accrued == Decimal("78.16")
    assert [(part.instance.source, part.count) for part in there.parts] == [("AWS Pricing API", 2)]
    assert there.parts[0].software.source.startswith("the agreement agmt-")
    assert after(-1).accrued == 0, "clocks differ"


def test_the_price_agreed_to_counts_and_without_an_agreement_the_offer(account: Served) -> None:
    deployed()
    account.stack.state.agreements.clear()
    assert after(1).parts[0].software == Price(Decimal("2.50"), "the Marketplace offer")


def test_where_prices_cannot_be_asked_the_published_ones_count_and_say_their_date(account: Served) -> None:
    deployed()
    local.fault("error", "GetProducts", port=account.port, status=400)
    local.fault("error", "GetListing", port=account.port, status=403)
    there = after(1)
    assert there.usd_per_hour == Decimal("3.908")
    (part,) = there.parts
    assert part.instance.source.startswith("published 2025-01-31 (Pricing API: ")
    assert part.software.source.startswith("published 2025-01-31 (Marketplace: ")


def test_a_price_that_is_not_known_is_said_to_be_and_the_rest_is_summed(account: Served, typed: Run) -> None:
    deployed()
    run.subscribe(RERANKER)
    run.deploy(Spec(model=RERANKER, regions=("us-west-2",)))  # of which no instance price is published
    code, out, _ = typed("status", "-r", "us-east-1", "-r", "us-west-2")
    assert code == 0
    assert "  unknown  unknown\n" in out
    assert re.search(r"^All of it: 3.908 USD an hour, about 0.\d\d USD so far, without 1 of unknown price.$", out, re.M)
    assert "  not in the Pricing API: ml.g5.xlarge in us-west-2\n" in out
    assert all(len(line) <= 80 for line in out.splitlines()), out
    told = json.loads(typed("status", "-r", "us-west-2", "--json")[1])["us-west-2"]["endpoints"][0]["cost"]
    assert (told["usd_per_hour"], told["accrued_usd_estimate"]) == (None, None)
    assert told["instances"][0]["instance_price_source"] == "not in the Pricing API"


def test_instances_of_another_pool_have_the_price_of_their_type(account: Served) -> None:
    local.change_scenario(account.port, capacity={"ml.g5.2xlarge": 0})
    deployed(instance_types=("ml.g5.2xlarge", "ml.g5.xlarge"))
    there = after(1)
    assert {part.instance_type: part.count for part in there.parts} == {"ml.g5.2xlarge": 0, "ml.g5.xlarge": 1}
    assert there.usd_per_hour == Decimal("3.908"), "the price of what is not there is not needed"


def test_a_deployment_above_its_ceiling_is_refused_before_anything_is_made(typed: Run) -> None:
    run.subscribe(V3)
    words = ("deploy", V3, "--autoscaling", "1-3", "--yes")
    here, unpriced = ("-r", "us-east-1"), ("-r", "us-west-2")
    for more, said in (
        ((*here, "--max-usd-per-hour", "11.72"), "up to 11.724 USD an hour, and the ceiling is 11.72"),
        ((*here, "--plan", "--max-usd-per-hour", "11.72"), "up to 11.724 USD an hour"),
        ((*here, *unpriced, "--max-usd-per-hour", "999"), "not known, and the ceiling is 999 USD"),
        (
            (*here, "--instance-type", "ml.g5.xlarge", "--instance-type", "ml.g5.2xlarge", "--max-usd-per-hour", "999"),
            "not known",
        ),
    ):
        code, _, err = typed(*words, *more)
        assert (code, said in err) == (1, True), err
    assert all(found.state.empty for found in run.status().found.values())
    assert typed(*words, *here, "--max-usd-per-hour", "11.724")[0] == 0


def test_what_is_resumed_has_a_ceiling_too(typed: Run) -> None:
    deployed(autoscaling={"max": 3})
    guards.pause(V3)
    code, _, err = typed("resume", V3, "--yes", "--max-usd-per-hour", "11")
    assert (code, "up to 11.724 USD an hour, and the ceiling is 11" in err) == (1, True), err
    assert run.status(regions=["us-east-1"]).found["us-east-1"].state.paused == (NAME,)
    assert typed("resume", V3, "--yes", "--max-usd-per-hour", "12")[0] == 0


def test_what_failed_bills_nothing_and_what_is_paused_has_no_row_of_costs(account: Served, typed: Run) -> None:
    deployed()
    guards.pause(V3)
    assert cost.costs(run.status(regions=["us-east-1"])) == {}
    assert "USD an hour" not in typed("status", "-r", "us-east-1")[1]
    run.teardown(model=V3, regions=["us-east-1"])
    local.fault("failed", "CreateEndpoint", port=account.port, reason="health")
    ours(account)
    assert (after(5).usd_per_hour, after(5).accrued) == (0, 0)


def test_what_may_not_be_looked_at_has_a_cost_that_is_not_known(account: Served, typed: Run) -> None:
    deployed()
    local.fault("error", "DescribeEndpointConfig", port=account.port, status=403, reason="may not describe")
    there = after(1)
    assert (there.usd_per_hour, there.accrued) == (None, None)
    assert "may not describe" in there.unknown
    code, out, _ = typed("status", "-r", "us-east-1")
    assert (code, "may not describe" in out) == (0, True), "the endpoints are there to see all the same"


def test_while_it_is_being_made_the_instances_count_that_it_will_have(slow: Served, slow_account: Clock) -> None:
    ours(slow, instances=3)
    assert after(1).usd_per_hour == 3 * Decimal("3.908")


def test_the_table_stays_within_eighty_columns(typed: Run) -> None:
    deployed(RERANKER, name="a-name-as-long-as-a-name-may-be-as-they-go-46x")
    code, out, _ = typed("status")
    assert code == 0
    lines = out.splitlines()
    assert max(len(line) for line in lines) <= 80
    place = next(
        index for index, line in enumerate(lines) if line.endswith("a-name-as-long-as-a-name-may-be-as-they-go-46x")
    )
    assert lines[place + 1].split()[0:4:3] == ["InService", "3.908"]


def test_an_unknown_part_makes_the_whole_unknown() -> None:
    known, unknown = Price(Decimal(1), "here"), Price(None, "nowhere")
    part = Part(instance_type="a", count=1, instance=known, software=unknown)
    assert Cost(parts=(part,), hours=Decimal(1)).accrued is None
    none = Part(instance_type="a", count=0, instance=unknown, software=unknown)
    assert Cost(parts=(none,), hours=Decimal(1)).accrued == 0
