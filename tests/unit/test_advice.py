"""The choice: every row can decide, every published conclusion comes out, and what is said holds."""

from __future__ import annotations

import dataclasses
import doctest
import itertools
import re
import shlex
from decimal import Decimal
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jina_sm import catalog, wire
from jina_sm.advise import Fit, Measured, Needs, choice, fitted, published, recommend
from jina_sm.advise import capacity as capacities
from jina_sm.advise import cost as costs
from jina_sm.advise.choice import ANSWERS, decided, rules
from jina_sm.advise.figures import WAYS, figures
from jina_sm.cli import cli
from jina_sm.errors import InputError

SOME = [
    Needs(usage=usage, security=security, cloud=cloud, operations=operations, tokens=tokens, texts=texts, p99_s=p99_s, region=region)
    for usage, security, cloud, operations in itertools.product(*ANSWERS.values())
    for tokens, texts, p99_s, region in ((128, 1, None, None), (4000, 1, None, None), (4000, 32, None, "eu-south-1"), (128, 1, 0.3, None), (128, 1, 0.01, None))
]  # fmt: skip


def test_every_leaf_decides_for_someone() -> None:
    found = {decided(needs).id for needs in SOME}
    assert found == {row["id"] for row in rules()["leaf"]}


def test_everything_that_rules_out_and_everything_said_is_reached() -> None:
    asked = [
        *SOME[:: len(SOME) // 8],
        *(
            needs
            for needs in SOME
            if needs.operations == "gpu" and needs.security == "vendor" and needs.usage == "search"
        ),
        Needs(region="us-east-1", residency=True),
        *(
            Needs(
                usage="search",
                security="perimeter",
                operations="gpu",
                model=model,
                commercial=commercial,
                texts=texts,
                tokens=500,
            )
            for model in ("jina-embeddings-v3", "jina-embeddings-v2-base-en", "jina-embeddings-v4")
            for commercial in (True, False)
            for texts in (1, 64)
        ),
        *(
            Needs(texts=32, p99_s=9),
            Needs(usage="search", p99_s=5, cloud="none"),
            Needs(usage="search", region="ap-south-1"),
        ),
        Needs(usage="search", region="eu-west-1", security="perimeter", operations="gpu"),
        Needs(tokens=3000, cloud="none"),
        Needs(model="ReaderLM-v2"),
    ]
    advice = [recommend(needs) for needs in asked]
    ruled_out = {row.id for each in advice for row in each.ruled_out}
    assert ruled_out == {row["id"] for row in rules()["excluded"]}
    said = {row.text for each in advice for row in each.said}
    assert said == {row["text"] for row in rules()["said"]}


@pytest.mark.parametrize("row", rules()["conclusion"], ids=lambda row: row["id"])
def test_what_the_published_figures_conclude_comes_out(row: dict[str, Any]) -> None:
    advice = recommend(Needs(**row["needs"]))
    assert advice.way == row["way"]
    assert advice.reason.source


def test_the_reasons_quote_the_published_figures() -> None:
    summary = figures()["summary"]
    text = next(row["because"] for row in rules()["leaf"] if row["id"] == "search-on-sagemaker")
    assert f"{summary['sagemaker']['success_rate']:.1%}".replace("%", " %") in text
    for way in WAYS:
        assert str(summary[way]["latency_by_success_s"]) in text
    best = min(WAYS, key=lambda way: summary[way]["latency_by_success_s"])
    assert best == max(WAYS, key=lambda way: summary[way]["success_rate"]) == "sagemaker"
    long = next(row["because"] for row in rules()["leaf"] if row["id"] == "long-texts-on-sagemaker")
    assert f"{figures()['success_by_tokens']['jina_api']['8192']:.0%}".replace("%", " %") in long
    worse = figures()["summary"]["self_hosted_dynamic_batching"]["latency_by_success_s"]
    assert any(
        f"({worse} s against {summary['self_hosted']['latency_by_success_s']})" in row["text"]
        for row in rules()["said"]
    )


def test_every_row_has_a_source_and_facts_that_exist() -> None:
    known = {
        *ANSWERS,
        "residency",
        "commercial",
        "length",
        "request",
        "packages",
        "prices",
        "licence",
        "cheapest",
        "kind",
    }
    known |= {f"in_time.{way}" for way in WAYS}
    every = [*rules()["excluded"], *rules()["leaf"], *rules()["said"]]
    for row in every:
        assert row["source"]
        assert set(row["when"]) <= known
        assert row.get("way") in (*WAYS, None)
        for name in set(row["when"]) & set(ANSWERS):
            assert set(row["when"][name]) <= set(ANSWERS[name])
    ids = [row["id"] for row in every if "id" in row]
    assert len(ids) == len(set(ids))
    assert all(row["source"].startswith(("article", "reasoning", "unverified", "the ")) for row in every)


NEEDS = st.builds(
    Needs,
    **{name: st.sampled_from(list(known)) for name, known in ANSWERS.items()},
    # A few of each: every load is simulated once, and what is simulated is kept.
    tokens_per_month=st.sampled_from([1, 10**9, 10**11]),
    texts=st.sampled_from([1, 32]),
    tokens=st.sampled_from([16, 3000]),
    p99_s=st.none() | st.sampled_from([0.2, 0.8, 5.0]),
    region=st.sampled_from(["us-east-1", "eu-central-1", "eu-south-1", "ap-south-1"]),
    residency=st.booleans(),
    commercial=st.booleans(),
)


@settings(max_examples=15)
@given(needs=NEEDS)
def test_what_was_asked_for_is_never_traded_away(needs: Needs) -> None:
    advice = recommend(needs)
    for way in (advice.way, advice.runner_up):
        assert not (needs.security == "perimeter" and way in ("jina_api", "sagemaker"))
        assert not ((needs.security == "account" or needs.residency) and way == "jina_api")
        assert not (needs.cloud != "aws" and way == "sagemaker")
        assert not (needs.operations == "none" and way == "self_hosted")
        assert not (needs.region == "eu-south-1" and way == "sagemaker")
        if way and needs.p99_s and (found := advice.figures[way].capacity):
            assert found.p99_s is not None
            assert found.p99_s <= needs.p99_s
        assert way not in {row.way for row in advice.ruled_out}
    assert advice.way is None or advice.way != advice.runner_up
    assert advice.way or {row.way for row in advice.ruled_out} == set(WAYS)
    assert any(row.id == "security" for row in advice.said) == bool(advice.way)


@settings(max_examples=5)
@given(needs=NEEDS)
def test_each_flip_flips(needs: Needs) -> None:
    advice = recommend(needs)
    for flip in advice.flips:
        value: Any = flip.value
        match flip.answer:
            case "residency" | "commercial":
                value = flip.value == "yes"
            case "p99_s":
                value = None if flip.value == "any" else float(flip.value)
            case "tokens_per_month":
                value = int(flip.value)
        then = recommend(dataclasses.replace(needs, **{flip.answer: value})).way
        assert then == flip.way
        assert then != advice.way


@pytest.mark.parametrize("model", ["ReaderLM-v2", "reader-lm-0.5b"])
def test_a_reader_is_sent_nowhere_that_it_could_not_be_asked(model: str) -> None:
    advice = recommend(Needs(model=model, usage="indexing", operations="gpu"))
    assert (advice.way, advice.runner_up) == ("sagemaker", None)
    assert {row.way for row in advice.ruled_out if "it is a reader" in row.text} == {"jina_api", "self_hosted"}
    advice = recommend(Needs(model=model, usage="rag", security="perimeter", operations="gpu"))
    assert (advice.way, advice.next) == (None, ())


@pytest.mark.parametrize("model", catalog.load(environ={}).models.values(), ids=lambda model: model.key)
def test_a_way_that_is_not_ruled_out_speaks_with_the_model(model: catalog.Model) -> None:
    gone = {row.way for row in recommend(Needs(model=model.key, operations="gpu")).ruled_out}
    if not {"jina_api", "self_hosted"} <= gone:
        assert wire.dialect(model, wire="api")


@settings(max_examples=8)
@given(needs=NEEDS)
def test_the_next_commands_are_commands(needs: Needs) -> None:
    advice = recommend(needs)
    assert bool(advice.next) == bool(advice.way)
    for line in advice.next:
        words = shlex.split(line, comments=True)
        if words[0] == "export":
            assert words[1].startswith("JINA_API_KEY=")
            continue
        assert words[0] == "jina-sm"
        command = cli.get_command(click.Context(cli), words[1])
        assert command is not None
        command.make_context(words[1], words[2:], parent=click.Context(cli))  # parses, runs nothing
        if words[1] == "deploy":
            assert needs.region in words
            assert "--plan" in words, "shown before it is paid for"


def test_the_fleet_recommended_is_the_fleet_priced_and_deployed() -> None:
    advice = recommend(
        Needs(usage="search", security="account", requests_per_s=400, tokens=500, p99_s=0.6, region="eu-central-1")
    )
    found = advice.figures["sagemaker"]
    assert found.cost is not None
    assert found.capacity is not None
    assert found.cost.instances == found.capacity.instances
    assert found.capacity.instances is not None
    assert found.capacity.instances > 1
    assert found.cost.total == Decimal("4.261") * 730 * found.capacity.instances
    assert f"--instance-count {found.capacity.instances}" in advice.next[-1]


def test_a_load_that_no_fleet_answers_is_sent_to_no_fleet() -> None:
    needs = Needs(usage="search", requests_per_s=90_000, tokens=8000, security="account")
    advice = recommend(needs)
    assert advice.way is None
    assert "sagemaker-too-slow" in {row.id for row in advice.ruled_out}


def test_a_fleet_for_the_volume_is_shown_with_its_own_times() -> None:
    found = recommend(
        Needs(usage="search", security="perimeter", operations="gpu", tokens_per_month=10**11, p99_s=10)
    ).figures["self_hosted"]
    assert found.note == "for the volume"
    assert found.cost is not None
    assert found.capacity is not None
    assert found.cost.instances == found.capacity.instances == 15
    assert found.capacity.p99_s is not None
    assert found.capacity.p99_s <= 10


def test_a_measurement_of_ones_own_changes_the_figures() -> None:
    slow = [
        Measured(row.batch, row.tokens, row.concurrency, row.mean_s * 4) for row in capacities.published("sagemaker")
    ]
    needs = Needs(usage="search", security="account", p99_s=0.5, operations="gpu")
    assert recommend(needs).way == "sagemaker"
    fits: dict[str, Fit] = {"sagemaker": fitted(slow)}
    advice = recommend(needs, fits=fits)
    assert advice.way == "self_hosted"
    assert any(row.id == "sagemaker-too-slow" for row in advice.ruled_out)
    assert advice.figures["sagemaker"].capacity is not None
    assert "what you measured" in advice.figures["sagemaker"].capacity.source
    bulk = Needs(usage="indexing", tokens_per_month=10**11)
    cheap = recommend(bulk, fits={"sagemaker": fitted(capacities.published("sagemaker"))}).figures["sagemaker"].cost
    plain = recommend(bulk).figures["sagemaker"].cost
    assert cheap is not None
    assert plain is not None
    assert (cheap.instances, plain.instances) == (2, 3), "at what was measured, not at the published mean"


def test_prices_of_ones_own_change_the_choice() -> None:
    needs = Needs(usage="indexing", tokens_per_month=20_000_000_000)
    assert recommend(needs).way == "jina_api"
    private = published().over("a private offer", software=Decimal("0.01"), instance=Decimal("0.5"))
    assert recommend(needs, prices=private).way == "sagemaker"


def test_weights_that_are_free_cost_no_licence() -> None:
    needs = Needs(usage="search", security="perimeter", operations="gpu")
    spent = {
        name: recommend(dataclasses.replace(needs, **more)).figures["self_hosted"].cost
        for name, more in {
            "v3": {},
            "v2": {"model": "jina-embeddings-v2-base-en"},
            "hobby": {"commercial": False},
        }.items()
    }
    licences = {name: cost.items["licence"] for name, cost in spent.items() if cost}
    assert licences["v2"] == licences["hobby"] == 0
    assert licences["v3"] > 1666


def test_each_licence_is_of_a_model_in_the_catalogue() -> None:
    for name in rules()["licences"]:
        assert any(key.startswith(name) for key in catalog.load(environ={}).models)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"usage": "serch"}, "no usage 'serch'; did you mean 'search'"),
    ({"security": "high"}, "no security 'high'"),
    ({"region": "us-east1"}, "'us-east1' is not the name of an AWS region; did you mean 'us-east-1'"),
    ({"residency": True}, "residency needs the region"),
    ({"tokens_per_month": -5}, "tokens per month"),
    ({"tokens": 0}, "tokens per text"),
    ({"p99_s": 0.0}, "p99_s"),
    ({"requests_per_s": float("nan")}, "requests per second"),
    ({"tokens_per_month": 10**15, "tokens": 1}, "requests per second"),
]


@pytest.mark.parametrize(("wrong", "named"), BAD)
def test_an_answer_that_cannot_be_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        Needs(**wrong)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(InputError, match="no model 'jina-embeddings-v33'; did you mean"):
        recommend(Needs(model="jina-embeddings-v33"))


@pytest.mark.parametrize("module", [capacities, costs, choice], ids=lambda module: module.__name__)
def test_the_calls_in_the_docstrings_give_what_they_show(module: Any) -> None:
    failed, tried = doctest.testmod(module)
    assert failed == 0
    assert tried > 2
