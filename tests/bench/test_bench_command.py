"""``jina-sm bench`` as typed, over real HTTP, against the local stack."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jina_sm import catalog, local
from jina_sm.bench import published, report
from jina_sm.local.constant import Constant
from jina_sm.profile import PROFILES, Profile
from tests.bench.made import measured
from tests.conftest import Served, Told

Typed = Callable[..., Told]
SMALL = ("--batch", "1,4", "--tokens", "16", "--concurrency", "1,3", "--repetitions", "2", "--requests", "3")
SCALE = 0.001


@pytest.fixture(scope="module")
def _paced() -> Iterator[Served]:
    """An endpoint as slow as ml.g5.xlarge, a thousand times faster."""
    profile = Profile(**{**PROFILES["ml.g5.xlarge"].__dict__, "time_scale": SCALE})
    stack = local.Stack(ready_after_s=0, catalog=catalog.load(environ={}), model=Constant(), profile=profile)
    stack.speed = {"profile": "ml.g5.xlarge", "time_scale": SCALE, "instances": None, "vectors": "constant"}
    with local.serving(stack) as url:
        served = Served(stack, url)
        served.deploy(instances=2)
        yield served


@pytest.fixture
def paced(_paced: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    for name, value in local.environment(_paced.port).items():
        monkeypatch.setenv(name, value)
    local.clear_faults(_paced.port)
    return _paced


SAGEMAKER = "sagemaker://us-east-1/e?model=jina-embeddings-v3"
API = "jina-api://?model=jina-embeddings-v3"


def test_a_run_of_three_ways_brings_json_a_page_and_a_table(
    paced: Served, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_KEY", "a-key-of-ones-own")
    out, html = tmp_path / "run.json", tmp_path / "run.html"
    own = f"own={paced.url}?model=jina-embeddings-v3"
    words = ("--output", str(out), "--html", str(html), "--api-key-env", "OWN_KEY", "--usd-per-hour", "own=1.5")
    code, said, talk = typed("bench", "run", "-t", SAGEMAKER, "-t", API, "-t", own, *SMALL, *words)
    assert code == 0, talk
    run = report.read(str(out))
    assert (run.ended, len(run.targets), len(run.cells)) == ("complete", 3, 12)
    assert {each.success_rate for each in run.cells} == {1.0}
    assert [each.time_scale for each in run.targets] == [SCALE, 1.0, 1.0]
    assert [each.usd_per_hour for each in run.targets] == [2 * 3.908, None, 1.5]
    assert run.usd == 0.0
    assert all(each.lengths == {"16": 16} for each in run.targets)
    assert {each.tokens for each in run.samples} == {16, 64}
    # Nothing is faster than the profile says: 0.2042 s and a worker's time for the tokens.
    assert all(each.response_s > 0.2042 for each in run.cells if each.target == "e us-east-1")  # type: ignore[operator]
    assert run.targets[0].stand_in
    assert "a stand-in answered: its speed is not the model's" in said
    assert "published SageMaker" in said
    assert "published Self-hosted" in said
    assert "on this machine, nothing is billed" in talk
    assert "<!doctype html>" in html.read_text(encoding="utf-8")
    for file in (out, html):
        assert "a-key-of-ones-own" not in file.read_text(encoding="utf-8")
    assert "a-key-of-ones-own" not in said + talk


def test_a_report_is_made_again_from_the_json(typed: Typed, tmp_path: Path) -> None:
    run = measured({"one": 0.1})
    (tmp_path / "run.json").write_bytes(report.encoded(run))
    code, said, _ = typed("bench", "report", str(tmp_path / "run.json"), "--html", str(tmp_path / "run.html"))
    assert code == 0
    assert "32 x 128" in said
    assert (tmp_path / "run.html").exists()
    code, said, _ = typed("bench", "report", str(tmp_path / "run.json"), "--json")
    assert json.loads(said)["format"] == "jina-sm/bench/1"
    code, said, _ = typed("bench", "report", "--schema")
    assert json.loads(said)["title"]
    assert typed("bench", "report")[0] == 2
    code, said, _ = typed("bench", "report", str(tmp_path / "run.json"), "--rows")
    assert (code, len(json.loads(said)["rows"])) == (0, 6)
    assert typed("bench", "report", str(tmp_path / "run.json"), "--rows", "--of", "nobody")[0] == 2
    assert typed("bench", "report", str(tmp_path / "run.json"), "--of", "one")[0] == 2


def test_comparing_has_an_exit_code(typed: Typed, tmp_path: Path) -> None:
    for name, service in (("a", 0.1), ("b", 0.2)):
        (tmp_path / name).write_bytes(report.encoded(measured({"one": service})))
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    code, said, talk = typed("bench", "compare", a, b)
    assert (code, said.count("worse   one")) == (1, 12)
    assert "12 worse, 0 better, 6 the same" in talk
    assert typed("bench", "compare", b, a)[0] == 0
    code, said, talk = typed("bench", "compare", a, a)
    assert (code, said) == (0, "")
    code, said, _ = typed("bench", "compare", a, b, "--json")
    assert code == 1
    assert {each["verdict"] for each in json.loads(said)["changes"]} == {"worse", "same"}
    assert typed("bench", "compare", a, str(tmp_path / "none"))[0] == 2


def test_the_published_comparison_is_one_command(typed: Typed, tmp_path: Path) -> None:
    code, said, _ = typed("bench", "published", "--html", str(tmp_path / "p.html"))
    assert code == 0
    assert "87.6 %" in said
    assert "published 13,800, by the tables 21,8" in said
    assert "e+0" not in said
    assert max(map(len, said.splitlines())) <= 80
    assert "What does not follow" in (tmp_path / "p.html").read_text(encoding="utf-8")
    code, said, _ = typed("bench", "published", "--json")
    assert len(json.loads(said)) == len(published.reproduce())


def test_the_plan_is_told_and_nothing_is_sent(paced: Served, typed: Typed) -> None:
    local.fault("error", "InvokeEndpoint", port=paced.port)
    code, said, talk = typed("bench", "run", "-t", SAGEMAKER, "--plan")
    assert (code, said) == (0, "")
    assert "27 settings x 5 repetitions x 1 targets: 2,880 requests" in talk
    code, said, _ = typed("bench", "run", "-t", SAGEMAKER, "--plan", "--json")
    assert json.loads(said)["requests"] == 2880
    assert local.list_faults(paced.port)[0]["fired"] == 0


def test_what_costs_money_is_asked_about_first(typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JINA_API_KEY", "jina_secret")
    monkeypatch.chdir(tmp_path)
    code, said, talk = typed("bench", "run", "-t", API)
    assert (code, said) == (2, "")
    # 20 requests of every caller, of which there are 16, for each of the shapes: 85.7 M tokens at 0.02 USD.
    assert "Send 2,880 requests for about 1.71 USD?" in talk
    assert "pass --yes" in talk
    assert "jina_secret" not in talk
    assert list(tmp_path.iterdir()) == []


def test_throttles_are_failures_and_are_not_tried_again(paced: Served, typed: Typed, tmp_path: Path) -> None:
    local.fault("throttle", "InvokeEndpoint", port=paced.port, rate=0.15)
    out = tmp_path / "run.json"
    words = ("--batch", "1", "--tokens", "16", "--concurrency", "3", "--requests", "60", "--repetitions", "2")
    code, _, talk = typed("bench", "run", "-t", SAGEMAKER, *words, "-o", str(out))
    assert code == 0, talk
    (found,) = report.read(str(out)).summaries
    assert found.success_rate is not None
    assert 0.65 < found.success_rate < 0.98
    assert set(found.errors) == {"ThrottledError"}
    assert local.list_faults(paced.port)[0]["fired"] >= found.sent - found.answered


def test_a_stall_of_a_real_server_is_seen_by_all_that_were_due(paced: Served, typed: Typed, tmp_path: Path) -> None:
    """One request hangs and, with one in flight at most, holds up the rest: their time runs from when they were due."""
    local.fault("stall", "InvokeEndpoint", port=paced.port, count=1, nth=40, seconds=0.5)
    out = tmp_path / "run.json"
    code, _, talk = typed(
        "bench", "run", "-t", SAGEMAKER, "--batch", "1", "--tokens", "16", "--rate", "0.1", "--arrivals", "constant",
        "--duration", "2000s", "--requests", "100", "--repetitions", "1", "--max-in-flight", "1", "-o", str(out),
        "--max-failures", "1000",
    )  # fmt: skip
    assert code == 0, talk
    run = report.read(str(out))
    # A request was due every 10 ms; what the stall held up waited here, each 10 ms less than the one before.
    late = [each.response_s for each in run.samples if each.response_s > 0.1]
    assert len(late) > 20
    assert max(late) > 0.4


def test_a_run_that_is_interrupted_keeps_what_it_measured(paced: Served, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    words = ["bench", "run", "-t", SAGEMAKER, *SMALL, "--repetitions", "100", "--output", str(out)]
    command = [sys.executable, "-m", "jina_sm", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=os.environ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if b"answered" in line:
                break
        child.send_signal(signal.SIGINT)
        rest = child.stderr.read().decode()
    assert child.returncode == 130, rest
    assert "not complete: interrupted" in rest
    run = report.read(str(out))
    assert run.ended == "interrupted"
    assert len(run.samples) > 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-t", "nowhere"), "this is no target"),
        (("-t", SAGEMAKER, "--batch", "1,x"), "is not whole numbers"),
        (("-t", SAGEMAKER, "--batch", "0"), "1 text or more"),
        (("-t", SAGEMAKER, "--tokens", "9000"), "longer than jina-embeddings-v3 reads"),
        (("-t", SAGEMAKER, "--tokens", "gauss:3"), "no distribution"),
        (("-t", SAGEMAKER, "--rate", "5"), "needs a duration"),
        (("-t", SAGEMAKER, "--rate", "5", "--concurrency", "1", "--duration", "1s"), "take one of"),
        (("-t", SAGEMAKER, "--ramp", "up", "--duration", "1s"), "is not FROM-TO"),
        (("-t", SAGEMAKER, "--usd-per-hour", "other=1"), "no --target has that name"),
        (("-t", SAGEMAKER, "--usd-per-hour", "1", "--usd-per-1m-tokens", "1"), "not both"),
        (("-t", SAGEMAKER, "--usd-per-hour", "cheap"), "neither a number nor"),
        (("-t", SAGEMAKER, "--time-scale", "0.5"), "has the time scale 0.001, not 0.5"),
        (("-t", SAGEMAKER, "--task", "singing"), "has no task 'singing'"),
        (("-t", SAGEMAKER, "--output", "/nowhere/run.json"), "cannot be written"),
        (("-t", SAGEMAKER, "--texts", "none.txt"), "cannot be read"),
        (("-t", SAGEMAKER, "--api-key-env", "NOT_SET"), "NOT_SET is not set"),
        (("-t", SAGEMAKER, "--max-usd", "0"), "a ceiling is more than 0"),
    ],
)
@pytest.mark.usefixtures("paced")
def test_what_cannot_be_is_refused_before_anything_is_sent(typed: Typed, words: tuple[str, ...], said: str) -> None:
    code, out, talk = typed("bench", "run", *words)
    assert (code, out) == (2, ""), talk
    assert said in talk


def test_own_texts_and_recorded_requests_from_files(paced: Served, typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one text\nand another\n", encoding="utf-8")
    (tmp_path / "w.jsonl").write_text(
        '{"texts": ["a", "b"], "at_s": 0}\n{"texts": ["c"], "at_s": 1}\n', encoding="utf-8"
    )
    out = str(tmp_path / "run.json")
    words: tuple[Any, ...] = ("bench", "run", "-t", SAGEMAKER, "--repetitions", "2", "-o", out)
    assert typed(*words, "--texts", str(tmp_path / "t.txt"), "--batch", "2", "--concurrency", "2")[0] == 0
    run = report.read(out)
    assert [str(each) for each in run.settings] == ["2 x t.txt, 2 at once"]
    assert typed(*words, "--workload", str(tmp_path / "w.jsonl"))[0] == 0
    run = report.read(out)
    assert [str(each) for each in run.settings] == ["* x w.jsonl, as recorded"]
    assert [each.texts for each in run.samples] == [2, 1, 2, 1]


def test_help_names_every_command(typed: Typed) -> None:
    code, said, _ = typed("bench", "--help")
    assert code == 0
    for command in ("run", "report", "compare", "published"):
        assert command in said
