"""The commands, as typed: what goes to stdout, what to stderr, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from jina_sm import cli
from tests.conftest import Told

V3 = "jina-embeddings-v3"
Run = Callable[..., Told]


@pytest.fixture
def run(typed: Run) -> Run:
    return typed


@pytest.fixture
def deployed(account: None, run: Run) -> None:
    for words in (("subscribe", V3, "--yes"), ("deploy", V3, "-r", "us-east-1", "--yes")):
        assert run(*words)[0] == 0


@pytest.mark.usefixtures("account")
def test_the_main_job_from_the_first_word_to_the_last(run: Run) -> None:
    code, out, err = run("subscribe", V3, "--yes")
    assert (code, out.startswith(f"subscribed: {V3} (")) == (0, True)
    assert "2.50 USD an hour on ml.g5.xlarge" in err
    assert "licence        https://" in err
    assert run("subscribe", V3)[1].startswith("already subscribed"), "needs no answer, so asks nothing"
    code, out, err = run("deploy", V3, "-r", "us-east-1", "-r", "eu-central-1", "--plan")
    assert "create endpoint jina-sm-embeddings-v3" in out
    assert "In service: 8.169 USD an hour, 196.06 a day, 5963.37 a month." in out
    assert json.loads(run("status", "-r", "us-east-1", "--json")[1])["us-east-1"]["endpoints"] == []
    code, out, err = run("deploy", V3, "-r", "us-east-1", "-r", "eu-central-1", "--yes")
    assert (code, out) == (
        0,
        "us-east-1: jina-sm-embeddings-v3 InService\neu-central-1: jina-sm-embeddings-v3 InService\n",
    )
    assert "us-east-1       create model jina-sm-embeddings-v3-" in err, "plain lines into a pipe"
    code, out, err = run("status")
    assert len([line for line in out.splitlines() if line[:14].rstrip().count("-") == 2]) == 16, "sixteen regions"
    assert "All of it: 8.169 USD an hour, about " in out
    assert "jina-sm-embeddings-v3" in out
    code, out, err = run("teardown", "--all", "--yes")
    assert (code, out.count("- (nothing)")) == (0, 16)
    looked = "looked again in 16 regions for endpoints, configs, models, autoscaling, schedules of ours: none is left\n"
    assert out.endswith(looked)


@pytest.mark.usefixtures("deployed")
def test_texts_become_json_lines_on_stdout(run: Run) -> None:
    code, out, err = run("embed", "a", "b", "--dimensions", "32", "-r", "us-east-1")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, [row["text"] for row in rows], [len(row["embedding"]) for row in rows]) == (0, ["a", "b"], [32, 32])
    assert "2 x 32" in err


@pytest.mark.usefixtures("deployed")
def test_a_file_of_lines_becomes_an_array(run: Run, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.npy"
    source.write_text('{"id": 7, "text": "eins"}\n\n{"id": 8, "text": "zwei"}\n')
    assert run("embed", "-i", str(source), "-o", str(target), "-r", "us-east-1")[0] == 0
    vectors = np.load(target)
    assert (vectors.shape, vectors.dtype) == ((2, 1024), np.float32)
    assert run("embed", "-i", str(source), "-o", str(tmp_path / "out.jsonl"), "-r", "us-east-1")[0] == 0
    kept = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in kept] == [7, 8]
    np.testing.assert_allclose(kept[1]["embedding"], vectors[1], atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.npy"]


@pytest.mark.usefixtures("account")
def test_documents_come_back_ranked(run: Run) -> None:
    model = "jina-reranker-v2-base-multilingual"
    assert run("subscribe", model, "--yes")[0] == run("deploy", model, "-r", "us-east-1", "--yes")[0] == 0
    code, out, _ = run("rerank", "food for a dog", "car tyres", "dog biscuits", "--top-n", "1", "-r", "us-east-1")
    assert (code, out.split()[1:]) == (0, ["1", "dog", "biscuits"])
    code, out, _ = run("rerank", "food for a dog", "car tyres", "dog biscuits", "-r", "us-east-1", "--json")
    assert [row["index"] for row in json.loads(out)] == [1, 0]


def test_the_catalogue_is_listed(run: Run) -> None:
    assert V3 in run("models")[1]
    assert len(json.loads(run("models", "--json")[1])) == 31
    assert run("models", "--regions")[1].splitlines()[0] == "us-east-1"


BAD: list[tuple[tuple[str, ...], int, str]] = [
    (("deploy", V3, "-r", "us-east1"), 2, "no model packages in region 'us-east1'; did you mean 'us-east-1'"),
    (("deploy", "jina-embedings-v3", "-r", "us-east-1"), 2, "no model 'jina-embedings-v3'; did you mean"),
    (("deploy", V3, "-r", "us-east-1"), 1, "not subscribed to jina-embeddings-v3"),
    (("deploy", V3, "-r", "us-east-1", "--instance-type", "big"), 2, "instance_type='big'"),
    (("deploy", V3, "-r", "us-east-1", "--instance-count", "0"), 2, "instance_count=0"),
    (("deploy", V3, "-r", "us-east-1", "--role-arn", "me"), 2, "role_arn='me'"),
    (("deploy", V3, "-r", "us-east-1", "--name", "a_b"), 2, "name='a_b'"),
    (("deploy", V3, "-r", "us-east-1", "--package-arn", "arn:x"), 2, "neither the name nor the ARN"),
    (("deploy", V3, "-r", "us-east-1", "--profile", "nobody"), 2, "nobody"),
    (("deploy", "jina-embeddings-v4", "-r", "us-east-1"), 2, "--package-arn"),
    (("subscribe", "jina-reranker-v3"), 1, "listing of jina-reranker-v3 is not in the catalogue"),
    (("subscribe", V3), 2, "pass --yes"),
    (("teardown",), 2, "Name a model or an endpoint, or pass --all"),
    (("teardown", V3, "--all"), 2, "Name a model or an endpoint, or pass --all"),
    (("teardown", "nothing"), 2, "'nothing' is neither a model nor an endpoint that this tool made"),
    (("teardown", "no thing"), 2, "no model 'no thing'"),
    (("status", "jina-embedings-v3"), 2, "an endpoint that this tool made; did you mean 'jina-embeddings-v3'"),
    (("status", "-r", "mars"), 2, "no model packages in region 'mars'"),
    (("embed", "-r", "us-east-1"), 2, "nothing to read"),
    (("embed", "", "-r", "us-east-1"), 2, "texts[0] is empty"),
    (("embed", "a", "-o", "/"), 2, "neither .npy"),
    (("deploy", V3, "-r", "us-east-1", "--package-arn", "x y/z"), 2, "neither the name nor the ARN"),
    (("embed", "a", "-r", "us-east-1"), 1, "Endpoint jina-sm-embeddings-v3 of account 123456789012 not found"),
    (("embed", "a", "-r", "us-east-1", "--task", "search"), 2, "has no task 'search'"),
    (("embed", "a", "-r", "us-east-1", "--dimensions", "77"), 2, "cannot give 77 dimensions"),
    (("embed", "word " * 20_000, "-r", "us-east-1"), 2, "text 1: has about"),
    (("embed", "a", "--resume"), 2, "--resume goes on with a file"),
    *(((*words, "-r", "us-east-1", "--profile", "nobody"), 2, "nobody") for words in (("embed", "a"), ("rerank", "q", "a"))),
    (("read", os.devnull, "--profile", "nobody"), 2, "nobody"),
    (("bench", "run", "-t", f"sagemaker://us-east-1/e?model={V3}", "--profile", "nobody", "--plan"), 2, "nobody"),
    (("embed", "a", "--target", f"http://127.0.0.1:9?model={V3}", "--profile", "p"), 2, "no --target is a SageMaker"),
    (("embed", "a", "-o", "x.csv"), 2, "neither .npy nor .jsonl"),
    (("embed", "a", "-o", "no/such/folder.npy"), 2, "No such file or directory"),
    (("embed", "-i", "missing.txt"), 2, "missing.txt"),
    (("embed", "-i", "data.csv"), 2, "neither .jsonl nor .txt"),
    (("embed", "a", "-i", "b.txt"), 2, "take one of them"),
    (("embed", "a", "--model", "jina-reranker-v2-base-multilingual", "-r", "us-east-1"), 2, "embed() needs an embedding"),
    (("rerank", "", "a", "-r", "us-east-1"), 2, "query is empty"),
    (("rerank", "q", "a", "--top-n", "0", "-r", "us-east-1"), 2, "top_n is a whole number"),
    (("local", "up", "--ready-after", "soon"), 2, "not a duration"),
    (("local", "up", "--port", "99999"), 2, "99999"),
    (("local", "up", "--time-scale", "0.15"), 2, "none was named"),
    (("dploy",), 2, "No such command 'dploy'"),
]  # fmt: skip


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(("words", "code", "named"), BAD, ids=[" ".join(case[0])[:40] for case in BAD])
def test_bad_input_is_one_line_that_names_it(run: Run, words: tuple[str, ...], code: int, named: str) -> None:
    told, out, err = run(*words)
    assert (told, out) == (code, "")
    assert named in err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.lower().startswith("error")]
    assert named in line
    assert json.loads(run("status", "-r", "us-east-1", "--json")[1])["us-east-1"]["endpoints"] == []


@pytest.mark.usefixtures("account")
def test_a_line_that_does_not_fit_is_named_by_number(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    for text, named in (('{"text": "a"}\n{"body": "b"}', 'line 2 has no "text"'), ('{"text": ', "line 1 is not JSON")):
        source.write_text(text)
        code, _, err = run("embed", "-i", str(source), "-r", "us-east-1")
        assert code == 2
        assert named in err


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("name", "value", "words", "named"),
    [
        ("JINA_SM_LOCAL_PORT", "abc", ("local", "down"), "JINA_SM_LOCAL_PORT='abc' is not a port"),
        ("JINA_SM_LOCAL_PORT", "99999", ("local", "up", "-d"), "JINA_SM_LOCAL_PORT='99999' is not a port"),
        ("JINA_SM_ROLE_ARN", "me", ("deploy", V3, "-r", "us-east-1", "--shared-licence"), "JINA_SM_ROLE_ARN='me'"),
        ("JINA_SM_CATALOG", "none.toml", ("models",), "none.toml"),
        ("JINA_SM_REGIONS", "us-east-1 mars", ("embed", "a"), "'mars'"),
        ("AWS_ENDPOINT_URL", "garbage", ("embed", "a", "-r", "us-east-1"), "the AWS settings do not work"),
        ("AWS_PROFILE", "nobody", ("status",), "nobody"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: tuple[str, ...], named: str
) -> None:
    monkeypatch.setenv(name, value)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert named in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("deployed")
def test_lines_end_at_line_feeds_and_a_byte_order_mark_is_no_text(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes("\ufeffeins\u2028zwei\r\n\ndrei\x0cvier\n".encode())
    code, out, _ = run("embed", "-i", str(source), "--dimensions", "32", "-r", "us-east-1")
    assert (code, [json.loads(line)["text"] for line in out.split("\n") if line]) == (
        0,
        ["eins\u2028zwei", "drei\x0cvier"],
    )


@pytest.mark.usefixtures("deployed")
def test_an_output_that_cannot_be_is_refused_before_anything_is_sent(run: Run, tmp_path: Path) -> None:
    (tmp_path / "dir.npy").mkdir()
    for output in (tmp_path / "dir.npy", tmp_path / "none" / "x.npy"):
        code, _, err = run("embed", "a", "-o", str(output), "-r", "us-east-1")
        assert code == 2
        assert f"--output '{output}'" in err
    assert [path.name for path in tmp_path.iterdir()] == ["dir.npy"]


@pytest.mark.usefixtures("account")
def test_what_a_row_brings_does_not_hide_the_result(run: Run, tmp_path: Path) -> None:
    model = "jina-reranker-v2-base-multilingual"
    assert run("subscribe", model, "--yes")[0] == run("deploy", model, "-r", "us-east-1", "--yes")[0] == 0
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a", "index": 77, "id": 5}')
    row = json.loads(run("rerank", "q", "-i", str(source), "--json", "-r", "us-east-1")[1])[0]
    assert (row["index"], row["id"]) == (0, 5)


@pytest.mark.usefixtures("account")
def test_a_password_in_a_url_is_not_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:SECRETPW@127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    _, out, err = run("status", "-r", "us-east-1")
    assert "could not be reached" in err
    assert "SECRETPW" not in out + err


@pytest.mark.usefixtures("account")
def test_credentials_that_have_expired_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "EXPIRED")
    for words in (("status",), ("deploy", V3, "-r", "us-east-1"), ("embed", "a", "-r", "us-east-1")):
        code, _, err = run(*words)
        assert (code, "have expired" in err) == (1, True)
        assert "Traceback" not in err
        assert "local" not in err, "no secret in an error"


@pytest.mark.usefixtures("deployed")
def test_the_account_of_a_profile_is_asked(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[profile prod]\nregion = us-east-1\naws_access_key_id = EXPIRED\naws_secret_access_key = x\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    target = ("--target", f"sagemaker://us-east-1/jina-sm-embeddings-v3?model={V3}")
    assert run("embed", "a")[0] == run("embed", "a", *target)[0] == 0
    for words in ((), target, ("--endpoint", "jina-sm-embeddings-v3")):
        code, _, err = run("embed", "a", *words, "--profile", "prod")
        assert (code, "have expired" in err) == (1, True), words


@pytest.mark.usefixtures("slow_account")
def test_a_region_that_is_not_enabled_is_skipped_and_said_to_be(run: Run) -> None:
    code, out, _ = run("status")
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("sa-east-1")]
    assert "- (region not enabled)" in line
    assert run("teardown", "--all", "--yes")[0] == 0


@pytest.mark.usefixtures("account")
def test_a_region_that_cannot_be_listed_is_named_and_fails_the_command(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "DENIED")
    code, _, err = run("status", "-r", "us-east-1", "-r", "eu-west-1")
    assert code == 1
    for region in ("us-east-1", "eu-west-1"):
        assert region in err.partition(" could not be listed: ")[0]
    code, _, err = run("teardown", "--all", "--yes", "-r", "us-east-1")
    assert (code, "not authorized" in err) == (1, True)


@pytest.mark.usefixtures("deployed")
def test_one_endpoint_of_a_model_is_looked_at_and_torn_down_by_its_name(run: Run) -> None:
    def names(target: str) -> list[str]:
        said = json.loads(run("status", target, "-r", "us-east-1", "--json")[1])
        return [each["name"] for each in said["us-east-1"]["endpoints"]]

    code, _, err = run("deploy", V3, "-r", "us-east-1", "--yes")
    assert (code, f"Billed until `jina-sm teardown {V3}`." in err) == (0, True)
    code, _, err = run("deploy", V3, "-r", "us-east-1", "--name", "staging", "--yes")
    assert (code, "Billed until `jina-sm teardown jina-sm-staging`." in err) == (0, True)
    assert (names("staging"), len(names(V3))) == (["jina-sm-staging"], 2)
    code, out, err = run("teardown", "jina-sm-staging", "--yes")
    assert (code, "jina-sm-embeddings-v3" in err) == (0, False)
    assert out.endswith("schedules of jina-sm-staging: none is left\n")
    assert names(V3) == ["jina-sm-embeddings-v3"]
    code, out, _ = run("teardown", V3, "--yes", "--logs")
    assert (code, out.endswith(f"schedules, log groups of {V3}: none is left\n")) == (0, True)
    assert names(V3) == []


def test_each_command_is_listed_as_it_says_itself() -> None:
    context = click.Context(cli.cli)
    for name, (_, line) in cli.COMMANDS.items():
        command = cli.cli.get_command(context, name)
        assert command is not None
        assert (command.name, command.get_short_help_str(10_000)) == (name, line)
    assert cli.cli.get_command(context, "none-such") is None


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'boto3', 'botocore', 'numpy', 'pydantic', 'rich', 'moto', 'uvicorn', 'orjson'}"
    code = f"import sys, jina_sm.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_imports_neither_pydantic_nor_boto3() -> None:
    code = "import sys, jina_sm; jina_sm.Client; print(sorted({'boto3', 'botocore', 'pydantic', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, run: Run, free_port: int) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "uvicorn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = run("local", "up", "--port", str(free_port))
    assert (code, 'pip install "jina_sm[local]"' in err) == (2, True)


def test_a_port_in_use_is_named(run: Run, taken_port: int) -> None:
    for words in (("local", "up"), ("local", "up", "--detach")):
        code, _, err = run(*words, "--port", str(taken_port))
        assert (code, f"port {taken_port} is in use" in err) == (2, True)


def test_the_stack_goes_up_and_down(run: Run, free_port: int, tmp_path: Any) -> None:
    port = ("--port", str(free_port))
    assert run("local", "down", *port)[1] == f"nothing runs on port {free_port}\n"
    assert run("local", "up", "--detach", *port)[0] == 0
    assert "already up" in run("local", "up", "--detach", *port)[2]
    assert f"export AWS_ENDPOINT_URL=http://127.0.0.1:{free_port}" in run("local", "env", *port)[1]
    assert run("local", "reset", *port)[1] == "the local stack is as new\n"
    assert run("local", "down", *port)[1] == f"stopped the local stack on port {free_port}\n"
    assert run("local", "down", *port)[1] == f"nothing runs on port {free_port}\n"


def test_what_env_exports_its_unset_takes_away(run: Run, free_port: int) -> None:
    port = ("--port", str(free_port))
    script = f"{run('local', 'env', *port)[1]}\n{run('local', 'env', '--unset', *port)[1]}\nenv"
    left = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True).stdout
    exported = json.loads(run("local", "env", "--unset", *port, "--json")[1])
    assert {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "JINA_API_URL"} <= exported.keys()
    assert set(exported.values()) == {None}
    assert not {line.partition("=")[0] for line in left.splitlines()} & exported.keys()


@pytest.mark.usefixtures("account")
def test_a_fault_is_added_listed_released_and_cleared(run: Run) -> None:
    assert run("local", "fault", "add", "throttle", "List*", "--count", "1")[:2] == (0, "1\n")
    code, listed, _ = run("local", "fault", "list")
    assert (code, json.loads(listed)["operation"], json.loads(listed)["fired"]) == (0, "List*", 0)
    assert run("local", "fault", "release")[1] == "released 0\n"
    assert run("local", "fault", "clear")[0] == 0
    assert run("local", "fault", "list")[1] == ""
    code, _, err = run("local", "fault", "add", "typo")
    assert (code, "there is no fault 'typo'" in err) == (2, True)


@pytest.mark.usefixtures("account")
def test_the_scenario_is_shown_and_changed(run: Run) -> None:
    assert json.loads(run("local", "scenario")[1])["free_trial"] is False
    code, said, _ = run("local", "scenario", "free_trial=true", "payment=INVALID_PAYMENT_INSTRUMENT", "ml.g5.xlarge=0")
    changed = json.loads(said)
    assert (code, changed["free_trial"], changed["quotas"]) == (0, True, {"ml.g5.xlarge": 0})
    assert changed["payment"] == "INVALID_PAYMENT_INSTRUMENT"
    assert json.loads(run("local", "scenario", "quota=08")[1])["quota"] == 8
    for fact, words in (("weather=bad", "no 'weather'"), ("quota=-1", "not -1"), ("quota=\u0663", "quota is like 8")):
        code, _, err = run("local", "scenario", fact)
        assert (code, words in err) == (2, True)


@pytest.mark.usefixtures("deployed")
def test_embedding_as_json_is_one_list_or_what_was_written(run: Run, tmp_path: Path) -> None:
    words = ("embed", "a", "b", "--dimensions", "32", "-r", "us-east-1", "--json")
    assert [(row["text"], len(row["embedding"])) for row in json.loads(run(*words)[1])] == [("a", 32), ("b", 32)]
    for name in ("out.npy", "out.jsonl"):
        said = json.loads(run(*words, "-o", str(tmp_path / name))[1])
        assert (said["output"], said["model"], said["count"], said["dimensions"]) == (str(tmp_path / name), V3, 2, 32)
        assert said["usage"]["requests"] == 1
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


@pytest.mark.usefixtures("account")
def test_reading_as_json_has_the_text_and_what_it_cost(run: Run, tmp_path: Path) -> None:
    model, page = "ReaderLM-v2", tmp_path / "page.html"
    assert run("subscribe", model, "--yes")[0] == run("deploy", model, "-r", "us-east-1", "--yes")[0] == 0
    page.write_text("<h1>Bees</h1>")
    code, out, _ = run("read", str(page), "-r", "us-east-1", "--json")
    said = json.loads(out)
    assert (code, "Bees" in said["text"], said["finish_reason"]) == (0, True, "stop")
    assert said["prompt_tokens"] > 0


def test_the_file_that_was_written_is_named_as_json(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    assert json.loads(run("init", str(file), "--json")[1]) == {"wrote": str(file)}
    assert json.loads(run("init", "--schema", "--json")[1])["title"] == "jina-sm.toml"


@pytest.mark.usefixtures("account")
def test_the_stacks_commands_say_json(run: Run, free_port: int) -> None:
    assert json.loads(run("local", "fault", "add", "throttle", "List*", "--json")[1]) == {"id": 1}
    assert [each["operation"] for each in json.loads(run("local", "fault", "list", "--json")[1])] == ["List*"]
    assert json.loads(run("local", "fault", "release", "--json")[1]) == {"released": 0}
    assert json.loads(run("local", "fault", "clear", "--json")[1]) == {"faults": []}
    assert json.loads(run("local", "fault", "list", "--json")[1]) == []
    assert json.loads(run("local", "scenario", "--json")[1])["free_trial"] is False
    assert json.loads(run("local", "reset", "--json")[1])["reset"] is True
    port = ("--port", str(free_port), "--json")
    assert json.loads(run("local", "down", *port)[1]) == {"port": free_port, "stopped": False}
    said = json.loads(run("local", "env", *port)[1])
    assert (said["AWS_ENDPOINT_URL"], said["AWS_PROFILE"]) == (f"http://127.0.0.1:{free_port}", None)
    said = json.loads(run("local", "up", "--detach", "--vectors", "constant", *port)[1])
    assert said == {"port": free_port, "url": f"http://127.0.0.1:{free_port}", "vectors": "constant"}
    assert json.loads(run("local", "down", *port)[1]) == {"port": free_port, "stopped": True}


def test_a_stack_on_another_port_says_how_it_is_used(run: Run, free_port: int) -> None:
    try:
        _, _, err = run("local", "up", "--detach", "--vectors", "constant", "--port", str(free_port))
        assert f'eval "$(jina-sm local env --port {free_port})"' in err
    finally:
        run("local", "down", "--port", str(free_port))
