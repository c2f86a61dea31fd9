"""``jina-sm cost`` and ``jina-sm advise`` as typed: piped, at 80 columns, and on a real terminal."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pexpect
import pytest

from jina_sm.advise import capacity
from jina_sm.bench import report
from jina_sm.bench.metrics import Setting
from jina_sm.cli import cli
from jina_sm.local import fault
from jina_sm.serve import settings
from tests.bench.made import measured
from tests.conftest import Served, Told

Run = Callable[..., Told]
V3 = "jina-embeddings-v3"


@pytest.fixture
def run(typed: Run) -> Run:
    return typed


def test_cost_without_words_is_the_published_table(run: Run) -> None:
    code, out, err = run("cost")
    assert (code, err) == (0, "")
    found = [re.split(r"\s{2,}", line)[:4] for line in out.splitlines() if line.startswith(("sage", "self", "jina"))]
    assert found == [
        ["jina_api", "-", "-", "0.02"],
        ["jina_api", "-", "-", "0.018"],
        ["sagemaker", "us-east-1", "3.908", "0.07"],
        ["sagemaker", "eu-central-1", "4.261", "0.08"],
        ["self_hosted", "us-east-1", "3.288", "0.35"],
        ["self_hosted", "eu-central-1", "3.540", "0.38"],
    ]
    assert "first 1,000,000 tokens are free, once" in out
    assert "2025-01-31" in out
    assert "self_hosted in the summary: printed 0.32" in out


def test_cost_as_json_has_the_rows(run: Run) -> None:
    said = json.loads(run("cost", "--json")[1])
    rows = said["rows"]
    assert all({"system", "region", "usd_per_hour", "usd_per_1m_tokens"} <= set(row) for row in rows)
    assert [round(row["usd_per_1m_tokens"], 2) for row in rows] == [0.02, 0.02, 0.07, 0.08, 0.35, 0.38]
    assert rows[0]["region"] is rows[0]["usd_per_hour"] is None
    assert len(said["not_explained"]) == 5
    assert "months" not in said


def test_a_month_is_itemised_and_says_where_another_way_is_cheaper(run: Run) -> None:
    words = ("cost", "--tokens-per-month", "50B", "-r", "eu-central-1", "--vectors", "100M", "--dimensions", "256")
    more = ("--quantisation", "int8", "--staff", "self_hosted=4000", "--egress-gb", "300")
    code, out, _ = run(*words, *more)
    assert code == 0
    assert "50,000,000,000 tokens a month, eu-central-1" in out
    assert re.search(r"^storage +0\.59 +0\.59 +0\.59$", out, re.MULTILINE)
    assert re.search(r"^egress +- +18\.00 +18\.00$", out, re.MULTILINE)
    assert re.search(r"^instances +- +2 +8$", out, re.MULTILINE)
    assert "jina_api and sagemaker: always jina_api" in out
    said = json.loads(run(*words, *more, "--json")[1])
    hosted = next(month for month in said["months"] if month["way"] == "sagemaker")
    assert hosted["usd"] == {"instances": 2571.06, "software": 3650.0, "egress": 18.0, "storage": 0.59}
    assert hosted["usd_total"] == 6239.65
    assert said["break_even"][0]["cheaper"] == [{"from_tokens": 0, "way": "jina_api"}]


def test_prices_of_ones_own_are_marked_as_given(run: Run) -> None:
    code, out, _ = run("cost", "-r", "us-east-1", "--software-usd", "1.00", "--tokens-per-s", "sagemaker=28800")
    assert code == 0
    assert "1.408 + 1.00 software" in out
    assert re.search(r"^  given \((software|throughput)", out, re.MULTILINE)
    assert "The article prints" not in out, "it is no longer its table"


@pytest.mark.usefixtures("account")
def test_live_prices_are_asked_of_aws_and_the_marketplace(run: Run) -> None:
    code, out, err = run("cost", "--live", "--json")
    assert (code, err) == (0, "")
    sources = json.loads(out)["sources"]
    for region in ("us-east-1", "eu-central-1"):
        assert sources[region]["instance"] == sources[region]["ec2"] == "AWS Pricing API, live"
        assert sources[region]["software"] == "AWS Marketplace, live"
        assert "2025-01-31" in sources[region]["licence"]
    assert [row["usd_per_hour"] for row in json.loads(out)["rows"]][2:] == [3.908, 4.261, 3.288, 3.54]


def test_a_live_price_that_cannot_be_had_is_said_and_the_published_stands(account: Served, run: Run) -> None:
    fault("error", "GetListing", port=account.port)
    code, out, err = run("cost", "--live", "-r", "ap-south-1", "--json")
    assert code == 0
    assert "No live price of ml.g5.xlarge in ap-south-1" in err
    assert "No live price of g5.xlarge in ap-south-1" in err
    assert "No live price of jina-embeddings-v3 on ml.g5.xlarge" in err
    assert err.count("the published one stands") == 3
    assert "none is published for ap-south-1" in json.loads(out)["sources"]["ap-south-1"]["instance"]


@pytest.mark.usefixtures("account")
def test_the_price_of_one_type_never_stands_for_another(run: Run) -> None:
    other = ("cost", "--live", "-r", "us-east-1", "--instance-type", "ml.g6.xlarge")
    code, out, err = run(*other)
    assert (code, out) == (2, "")
    assert "--instance-usd for ml.g6.xlarge in us-east-1" in err
    assert "--ec2-usd for g6.xlarge in us-east-1" in err
    code, out, err = run(*other, "--instance-usd", "1.2", "--ec2-usd", "0.9", "--software-usd", "2")
    assert (code, "1.2 + 2 software" in out) == (0, True)
    assert "The throughput stays that of ml.g5.xlarge" in err


def test_advice_by_options_ends_in_the_next_command(run: Run) -> None:
    words = (
        "--usage",
        "search",
        "--security",
        "account",
        "--p99",
        "0.5",
        "--requests-per-s",
        "40",
        "-r",
        "eu-central-1",
    )
    code, out, err = run("advise", *words)
    assert (code, err) == (0, "")
    assert out.startswith("Take AWS SageMaker (sagemaker).\n")
    for part in ("Runner-up: none", "What would flip it", "In figures:", "Security:", "Licence:", "off by 15%"):
        assert part in " ".join(out.split())
    *_, subscribe, deploy = out.splitlines()
    assert subscribe == f"  $ jina-sm subscribe {V3}"
    assert deploy == f"  $ jina-sm deploy {V3} --region eu-central-1 --instance-count 2 --plan"
    again = next(line for line in out.splitlines() if "jina-sm advise" in line).split()[2:]
    assert run(*again)[1] == out


def test_advice_as_json(run: Run) -> None:
    said = json.loads(run("advise", "--usage", "indexing", "--tokens-per-month", "20B", "--json")[1])
    assert (said["recommendation"], said["runner_up"]) == ("jina_api", "sagemaker")
    assert said["figures"]["jina_api"]["usd_per_month"] == 363.64
    assert {"answer": "security", "value": "account", "way": "sagemaker"} in said["flips"]
    assert said["reason"]["source"]
    nothing = json.loads(run("advise", "--security", "perimeter", "--json")[1])
    assert (nothing["recommendation"], nothing["next"]) == (None, [])


def test_a_measurement_is_read_and_its_error_shown(run: Run, tmp_path: Path) -> None:
    rows = [vars(row) for row in capacity.published("sagemaker")]
    (tmp_path / "bench.json").write_text(json.dumps({"rows": rows}))
    code, out, _ = run("advise", "--usage", "search", "--measured", str(tmp_path / "bench.json"))
    assert code == 0
    assert "the model of what you measured, against 27 measured settings off by" in " ".join(out.split())


def test_a_run_is_a_measurement_and_says_itself_of_what(run: Run, tmp_path: Path) -> None:
    settings = tuple(
        Setting(batch_size=batch, passage_tokens=tokens, concurrency=callers)
        for batch in (1, 32)
        for tokens in (64, 128)
        for callers in (1, 5)
    )
    file = tmp_path / "run.json"

    def made(changes: Mapping[str, object] = {}, **kinds: str) -> None:
        run = measured(dict.fromkeys(kinds, 0.1), settings=settings, kinds=kinds, changes=changes)
        file.write_bytes(report.encoded(run))

    def sources(*words: str) -> dict[str, bool]:
        code, out, err = run("advise", "--usage", "search", "--measured", str(file), *words, "--json")
        assert (code, err) == (0, "")
        capacities = {way: each["capacity"] for way, each in json.loads(out)["figures"].items()}
        return {way: "what you measured" in each["source"] for way, each in capacities.items() if each}

    made(ours="http", theirs="jina-api")
    assert sources() == {"sagemaker": False, "self_hosted": True}
    assert sources("--measured-way", "sagemaker") == {"sagemaker": True, "self_hosted": False}
    made(ours="http", aws="sagemaker")
    assert sources() == {"sagemaker": True, "self_hosted": True}
    made(one="sagemaker", two="sagemaker")
    assert sources("--measured-target", "two") == {"sagemaker": True, "self_hosted": False}

    def refused(*words: str) -> str:
        code, out, err = run("advise", "--usage", "search", "--measured", str(file), *words)
        assert (code, out) == (2, "")
        return err

    assert "several targets of sagemaker: one, two. Name one by --measured-target" in refused()
    assert "'three' is none of one, two" in refused("--measured-target", "three")
    made(theirs="jina-api")
    assert "only the API" in refused()
    made({"stand_in": True}, ours="http")
    code, _, err = run("advise", "--usage", "search", "--measured", str(file))
    assert (code, err.strip()) == (0, "ours: a stand-in answered, whose speed says nothing of the model's")
    file.write_text('{"samples": []}')
    assert "is no run of `jina-sm bench run`" in refused()


@pytest.mark.parametrize(
    ("model", "commands"),
    [
        (V3, ["jina-sm serve --model jinaai/jina-embeddings-v3 --trust-remote-code ", "jina-sm embed 'Bees"]),
        ("jina-reranker-m0", ["jina-sm serve --model jinaai/jina-reranker-m0", "jina-sm rerank 'What"]),
        ("jina-colbert-v2", ["jina-sm embed 'Bees"]),
    ],
)
def test_ones_own_server_is_begun_before_it_is_asked(run: Run, model: str, commands: list[str]) -> None:
    words = ("--security", "perimeter", "--operations", "gpu", "--cloud", "none", "--model", model)
    said = json.loads(run("advise", *words, "--json")[1])
    assert said["recommendation"] == "self_hosted"
    for told, command in zip(said["next"], commands, strict=True):
        assert told.startswith(command)
        name, *rest = shlex.split(told, comments=True)[1:]
        known = cli.get_command(click.Context(cli), name)
        assert known is not None
        context = known.make_context(name, rest)
        if name == "serve":  # whose settings are checked too
            settings.load({key: value for key, value in context.params.items() if key not in ("check", "as_json")})


def test_everything_fits_into_eighty_columns(run: Run) -> None:
    told = [run("cost")[1], run("cost", "--tokens-per-month", "1.5T")[1]]
    told.append(run("advise", "--usage", "search", "--cloud", "none", "--operations", "gpu", "--tokens", "4000")[1])
    told.append(run("advise", "--usage", "search", "--security", "account", "--tokens-per-month", "500B")[1])
    wide = [line for out in told for line in out.splitlines() if len(line) > 80 and not line.startswith("  $ ")]
    assert wide == []


BAD: list[tuple[tuple[str, ...], str]] = [
    (("cost", "-r", "us-east1"), "no model packages in region 'us-east1'; did you mean 'us-east-1'"),
    (("cost", "--tokens-per-month", "many"), "'many' is not a count like 2000000, 2M or 1.5B"),
    (("cost", "--tokens-per-month", "-5"), "'-5' is not a count"),
    (("cost", "--tokens-per-month", "1.2345"), "'1.2345' is no whole number"),
    (("cost", "--tokens-per-month", "9" * 40), "is not a count"),
    (("cost", "--tokens-per-month", "9999T"), "tokens per month is from"),
    (("cost", "--tokens-per-month", "1B", "--utilisation", "half"), "'half' is not a number"),
    (("cost", "--tokens-per-month", "1B", "--utilisation", "1.5"), "utilisation is from"),
    (("cost", "--tokens-per-month", "1B", "--hours", "nan"), "'nan' is not a number"),
    (("cost", "--tokens-per-month", "1B", "--autoscaling", "4"), "'4' is not like 1-4"),
    (("cost", "--tokens-per-month", "900B", "--autoscaling", "1-2"), "need 23 instances at the peak, and 2 may be used"),
    (("cost", "--tokens-per-month", "1B", "--autoscaling", "1-2", "--instances", "2"), "not both"),
    (("cost", "--tokens-per-month", "1B", "--vectors", "1M", "--quantisation", "int4"), "no quantisation 'int4'"),
    (("cost", "--tokens-per-month", "1B", "--staff", "me=4"), "'me=4' is not WAY=NUMBER"),
    (("cost", "--tokens-per-month", "1B", "--staff", "sagemaker"), "'sagemaker' is not WAY=NUMBER"),
    (("cost", "--tokens-per-s", "sagemaker=0"), "tokens per second of sagemaker"),
    (("cost", "--instance-usd", "-1"), "instance is from"),
    (("cost", "--vectors", "1M"), "--vectors belongs to a month: say --tokens-per-month"),
    (("cost", "--live", "--model", "jina"), "no model 'jina'"),
    (("cost", "--instance-type", "ml.g6.xlarge"), "'ml.g6.xlarge' says whose live prices: say --live too"),
    (("advise", "--usage", "serch"), "no usage 'serch'; did you mean 'search'"),
    (("advise", "--p99", "0"), "p99_s is from"),
    (("advise", "--p99", "nan"), "p99_s is from"),
    (("advise", "--residency"), "residency needs the region"),
    (("advise", "--region", "mars"), "'mars' is not the name of an AWS region"),
    (("advise", "--model", "jina-embeddings-v33"), "no model 'jina-embeddings-v33'"),
    (("advise", "--measured", "none.json"), "none.json"),
    (("advise", "--usage", "rag", "--measured", __file__), "is not JSON"),
    (("advise", "--measured", "x", "--measured-way", "jina_api"), "neither sagemaker nor self_hosted"),
    (("advise", "--measured-target", "x"), "give one"),
    (("advise", "--ask"), "There is no terminal to ask on"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "named"), BAD, ids=[" ".join(words)[:50] for words, _ in BAD])
def test_what_cannot_be_is_one_line_that_names_it(run: Run, words: tuple[str, ...], named: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.lower().startswith("error")]
    assert named in line
    assert "Traceback" not in err


Terminal = Callable[..., Any]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """``terminal(*words)``: the command on a terminal of 80 columns."""
    opened = []

    def command(*words: str) -> Any:
        environ = {**os.environ, "TERM": "dumb", "PYTHONWARNINGS": "ignore"}
        child = pexpect.spawn(
            sys.executable, ["-m", "jina_sm", *words], env=environ, dimensions=(60, 80), encoding="utf-8", timeout=60
        )
        opened.append(child)
        return child

    yield command
    for child in opened:
        child.close(force=True)


def test_questions_are_asked_on_a_terminal_and_a_wrong_answer_again(terminal: Terminal) -> None:
    child = terminal("advise")
    child.expect("What is it for")
    child.expect("number or word .rag.: ")
    child.sendline("serch")
    child.expect("'serch' is none of them")
    child.expect("number or word .rag.: ")
    child.sendline("1")
    child.expect("Who may have the texts")
    child.expect("number or word .vendor.: ")
    child.sendline("account")
    child.expect("number or word .aws.: ")
    child.sendline("")
    child.expect("number or word .none.: ")
    child.sendline("2")
    child.expect("tokens a month.* .1B.: ")
    child.sendline("lots")
    child.expect("'lots' is not a number")
    child.expect("tokens a month.* .1B.: ")
    child.sendline("5B")
    child.expect("requests a second.*: ")
    child.sendline("40")
    child.expect("tokens has a text. .128.: ")
    child.sendline("")
    child.expect("how many seconds|Within how many seconds")
    child.sendline("0")
    child.expect("p99_s is from")
    child.expect("Within how many seconds.*: ")
    child.sendline("0.5")
    child.expect("In which AWS region.*: ")
    child.sendline("us-east1")
    child.expect("did you mean 'us-east-1'")
    child.expect("In which AWS region.*: ")
    child.sendline("eu-central-1")
    child.expect("stay in that region.*: ")
    child.sendline("y")
    child.expect("Take AWS SageMaker")
    child.expect("jina-sm deploy jina-embeddings-v3 --region eu-central-1 --instance-count 2 --plan")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_only_what_was_not_told_is_asked(terminal: Terminal) -> None:
    child = terminal(
        "advise", "--ask", "--usage", "indexing", "--security", "vendor", "--cloud", "aws", "--operations", "none"
    )
    child.expect("How many tokens a month")
    child.sendline("20B")
    child.expect("tokens has a text")
    assert "requests a second" not in child.before, "nobody waits for an index"
    child.sendline("")
    child.expect("Within how many seconds")
    child.sendline("")
    child.expect("In which AWS region")
    child.sendline("")
    child.expect("Take Jina's API")
    assert "stay in that region" not in child.before
    child.expect(pexpect.EOF)


def test_options_on_a_terminal_are_not_questioned(terminal: Terminal) -> None:
    child = terminal("advise", "--usage", "search")
    child.expect("Take AWS SageMaker")
    assert "What is it for" not in child.before
    child.expect(pexpect.EOF)


def test_an_interrupted_question_ends_quietly(terminal: Terminal) -> None:
    for key in ("\x03", "\x04"):
        child = terminal("advise")
        child.expect("number or word")
        child.send(key)
        child.expect("interrupted")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 130
        assert "Traceback" not in child.before
