"""What the ways cost: the published table to the cent, and arithmetic that holds for any workload."""

from __future__ import annotations

import dataclasses
import itertools
import re
from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jina_sm import catalog
from jina_sm.advise import Prices, Vectors, Workload, break_even, monthly, published, rows
from jina_sm.advise.cost import REGIONS, searched, unexplained
from jina_sm.advise.figures import WAYS, figures
from jina_sm.errors import InputError

CENT = Decimal("0.01")


def test_the_published_table_comes_out_to_the_cent() -> None:
    table = {(row.system, row.region): row for row in rows() if row.region}
    assert {place: row.usd_per_1m_tokens.quantize(CENT) for place, row in table.items()} == {
        ("sagemaker", "us-east-1"): Decimal("0.07"),
        ("sagemaker", "eu-central-1"): Decimal("0.08"),
        ("self_hosted", "us-east-1"): Decimal("0.35"),
        ("self_hosted", "eu-central-1"): Decimal("0.38"),
    }
    hours = {place: row.usd_per_hour for place, row in table.items()}
    assert hours == {
        ("sagemaker", "us-east-1"): Decimal("3.908"),
        ("sagemaker", "eu-central-1"): Decimal("4.261"),
        ("self_hosted", "us-east-1"): Decimal("3.288"),
        ("self_hosted", "eu-central-1"): Decimal("3.540"),
    }


def test_the_api_has_two_prepaid_packages() -> None:
    small, large = (row for row in rows() if row.system == "jina_api")
    assert small.usd_per_1m_tokens == Decimal("0.02")
    assert large.usd_per_1m_tokens.quantize(Decimal("0.001")) == large.printed == Decimal("0.018")
    assert small.region is small.usd_per_hour is None
    assert figures()["api"]["free_tokens"] == 1_000_000


def test_what_the_inputs_do_not_give_is_reported_and_not_forced() -> None:
    said = unexplained(rows())
    assert len(said) == 5
    assert any("sagemaker in us-east-1: printed 0.0723, the inputs give 0.0722" in line for line in said)
    assert "printed 0.32" in said[-1]
    assert all(row.usd_per_1m_tokens.quantize(CENT) != Decimal("0.32") for row in rows())


def test_every_price_says_where_it_is_from() -> None:
    for region in catalog.load(environ={}).regions:
        prices = published(region)
        named = {field.name for field in dataclasses.fields(Prices)} - {
            "region",
            "sources",
            "licence_per_instance",
            "egress_free_gb",
        }
        assert named <= set(prices.sources)
        assert all(re.search(r"20\d\d-\d\d-\d\d", source) for source in prices.sources.values())
        assert ("none is published for" in prices.sources["instance"]) == (region not in REGIONS)
    assert published().over("me", instance=Decimal(9)).sources["instance"] == "me"
    assert published().over("me", instance=None) == published()


def test_a_month_by_hand() -> None:
    """20 billion tokens on SageMaker, half usable: 39,535,632,000 an instance-month at most, so two instances."""
    cost = monthly("sagemaker", Workload(tokens_per_month=20_000_000_000, utilisation=Decimal("0.5")))
    assert (cost.instances, cost.instance_hours) == (2, 1460)
    assert cost.items == {"instances": Decimal("2055.680"), "software": Decimal("3650.00")}
    assert cost.per_1m == Decimal("0.285284")
    assert cost.idle is not None
    assert float(cost.idle) == pytest.approx(1 - 20_000_000_000 / (1460 * 3600 * 15044))


def test_autoscaling_pays_for_the_load_and_a_fixed_fleet_for_the_peak() -> None:
    load = Workload(tokens_per_month=60_000_000_000, peak=Decimal(4))
    fixed = monthly("sagemaker", load)
    scaled = monthly("sagemaker", dataclasses.replace(load, autoscaling=True))
    assert fixed.instances == scaled.instances == 7
    assert fixed.instance_hours == 7 * 730
    assert float(scaled.instance_hours) == pytest.approx(60_000_000_000 / 15044 / 3600)
    least = monthly("sagemaker", dataclasses.replace(load, autoscaling=True, least=3))
    assert least.instance_hours == 3 * 730
    with pytest.raises(InputError, match="need 7 instances at the peak, and 6 may be used"):
        monthly("sagemaker", dataclasses.replace(load, autoscaling=True, most=6))


def test_an_idle_endpoint_costs_all_the_same() -> None:
    cost = monthly("sagemaker", Workload(tokens_per_month=0))
    assert (cost.total, cost.idle, cost.per_1m) == (Decimal("3.908") * 730, 1, None)
    assert monthly("jina_api", Workload(tokens_per_month=0)).total == 0


def test_the_licence_is_paid_once_unless_each_instance_needs_one() -> None:
    load = Workload(tokens_per_month=0, instances=3)
    assert monthly("self_hosted", load).items["licence"].quantize(CENT) == Decimal("1666.67")
    each = published().over("given", licence_per_instance=True)
    assert monthly("self_hosted", load, each).items["licence"].quantize(CENT) == 5000


@pytest.mark.parametrize(
    ("quantisation", "dimensions", "size"),
    [("float32", 1024, 4096), ("float16", 1024, 2048), ("int8", 256, 256), ("binary", 1024, 128), ("binary", 100, 13)],
)
def test_vectors_take_what_their_type_takes(quantisation: str, dimensions: int, size: int) -> None:
    kept = Vectors(count=10_000_000, dimensions=dimensions, quantisation=quantisation)
    assert kept.gigabytes == Decimal(size) / 100
    stored = monthly("jina_api", Workload(tokens_per_month=1, vectors=kept)).items["storage"]
    assert stored == Decimal(size) / 100 * Decimal("0.023")


def test_what_leaves_aws_is_paid_past_the_free_part() -> None:
    load = Workload(tokens_per_month=1, egress_gb=Decimal(150))
    assert monthly("sagemaker", load).items["egress"] == Decimal("4.50")
    assert monthly("sagemaker", dataclasses.replace(load, egress_gb=Decimal(40))).items["egress"] == 0
    assert "egress" not in monthly("jina_api", load).items


def test_staff_is_counted_where_it_is_given() -> None:
    load = Workload(tokens_per_month=1, staff={"self_hosted": Decimal(4000)})
    assert monthly("self_hosted", load).items["staff"] == 4000
    assert "staff" not in monthly("sagemaker", load).items


def test_a_large_package_is_bought_as_soon_as_it_is_cheaper() -> None:
    spent = {
        billions: monthly("jina_api", Workload(tokens_per_month=billions * 10**9)).total
        for billions in (1, 9, 10, 11, 22)
    }
    assert spent == {1: 20, 9: 180, 10: 200, 11: 200, 22: 400}


def test_the_api_is_cheaper_than_sagemaker_at_every_volume_at_published_prices() -> None:
    load = Workload(tokens_per_month=0)
    assert [each.cheaper for each in break_even("jina_api", "sagemaker", load)] == ["jina_api"]
    dearer = published().over("given", software=Decimal(0), instance=Decimal("0.2"))
    first, then, *_ = break_even("jina_api", "sagemaker", load, dearer)
    assert (first.cheaper, then.cheaper, then.tokens) == ("jina_api", "sagemaker", 7_300_000_000)


def test_one_server_of_ones_own_is_cheaper_than_one_endpoint_until_it_is_full() -> None:
    first, then, *_ = break_even("sagemaker", "self_hosted", Workload(tokens_per_month=0))
    assert (first.cheaper, then.cheaper) == ("self_hosted", "sagemaker")
    assert then.tokens == 2588 * 3600 * 730 + 1


AMOUNTS = st.decimals(min_value="0.01", max_value=20, places=3)
ANY_PRICES = st.builds(
    lambda instance, software, ec2, licence, each: published().over(
        "drawn", instance=instance, software=software, ec2=ec2, licence=licence * 500, licence_per_instance=each
    ),
    AMOUNTS,
    AMOUNTS,
    AMOUNTS,
    AMOUNTS,
    st.booleans(),
)
LOADS = st.builds(
    Workload,
    tokens_per_month=st.integers(0, 10**12),
    hours=st.sampled_from([Decimal(730), Decimal(160), Decimal("12.5")]),
    utilisation=st.sampled_from([Decimal(1), Decimal("0.3")]),
    peak=st.sampled_from([Decimal(1), Decimal("2.5")]),
    autoscaling=st.booleans(),
    least=st.integers(1, 3),
)


@given(way=st.sampled_from(WAYS), load=LOADS, prices=ANY_PRICES)
def test_a_total_is_its_items_and_more_tokens_never_cost_less(way: str, load: Workload, prices: Prices) -> None:
    cost = monthly(way, load, prices)
    assert cost.total == sum(cost.items.values())
    assert min(cost.items.values()) >= 0
    assert cost.idle is None or 0 <= cost.idle <= 1
    if cost.per_1m is not None:
        assert cost.per_1m * cost.tokens / 10**6 == pytest.approx(cost.total)
    more = dataclasses.replace(load, tokens_per_month=load.tokens_per_month * 2 + 1)
    assert monthly(way, more, prices).total >= cost.total


@settings(max_examples=40)
@given(
    pair=st.permutations(WAYS).map(lambda ways: ways[:2]),
    load=LOADS,
    prices=ANY_PRICES,
    probes=st.lists(st.integers(0, 200_000_000_000), min_size=20, max_size=20),
)
def test_what_is_said_to_be_cheaper_is(pair: list[str], load: Workload, prices: Prices, probes: list[int]) -> None:
    found = break_even(pair[0], pair[1], load, prices, most=Decimal(200_000_000_000))
    assume(found)
    assert all(one.cheaper == other.than for one, other in itertools.pairwise(found)), "by turns"
    around = [int(each.tokens) + near for each in found for near in (-1, 0, 1)]
    for tokens in (*probes, *(each for each in around if each >= 0)):
        there = dataclasses.replace(load, tokens_per_month=tokens)
        stretches = [each for each in found if each.tokens <= tokens]
        if stretches and tokens <= searched(load, prices, Decimal(200_000_000_000)):
            cheaper, than = (monthly(way, there, prices).total for way in (stretches[-1].cheaper, stretches[-1].than))
            assert cheaper <= than * (1 + Decimal("1e-12"))


BAD = [
    ({"tokens_per_month": -1}, "tokens per month"),
    ({"utilisation": Decimal(0)}, "utilisation"),
    ({"utilisation": Decimal("1.1")}, "utilisation"),
    ({"utilisation": Decimal("NaN")}, "utilisation"),
    ({"hours": Decimal(0)}, "hours per month"),
    ({"hours": Decimal(745)}, "hours per month"),
    ({"peak": Decimal("0.5")}, "the peak over the mean"),
    ({"instances": 0}, "instances"),
    ({"least": 4, "most": 2}, "at least 4 and at most 2"),
    ({"autoscaling": True, "instances": 2}, "not both"),
    ({"staff": {"api": Decimal(1)}}, "no way 'api'"),
    ({"staff": {"sagemaker": Decimal(-1)}}, "staff of sagemaker"),
    ({"egress_gb": Decimal("Infinity")}, "egress_gb"),
]


@pytest.mark.parametrize(("wrong", "named"), BAD)
def test_what_cannot_be_is_refused_by_name(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        Workload(**({"tokens_per_month": 1} | wrong))  # type: ignore[arg-type]


def test_a_way_or_a_type_that_is_unknown_is_named() -> None:
    with pytest.raises(InputError, match="no way 'sagemakr'; did you mean 'sagemaker'"):
        monthly("sagemakr", Workload(tokens_per_month=1))
    with pytest.raises(InputError, match="no quantisation 'int9'; did you mean 'int8'"):
        Vectors(count=1, quantisation="int9")
    with pytest.raises(InputError, match="instance is from"):
        published().over("given", instance=Decimal(-1))
    with pytest.raises(InputError, match="no model packages in region 'mars'"):
        published("mars")
