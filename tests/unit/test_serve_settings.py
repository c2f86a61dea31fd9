"""The server's settings: one place, three ways to say them, and no contradiction gets through."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from jina_sm import cli
from jina_sm.cli.serve import serve
from jina_sm.errors import InputError
from jina_sm.serve import settings
from jina_sm.serve.settings import SECRET, Settings, flag, load, variable

ROOT = Path(__file__).parents[2]


def test_a_flag_goes_before_its_variable_and_that_before_the_default():
    told = {"JINA_SM_SERVE_PORT": "9001", "JINA_SM_SERVE_TIMEOUT": "500ms"}
    assert load({}, {}).port == 8080
    assert (load({}, told).port, load({}, told).timeout_s) == (9001, 0.5)
    assert load({"port": 9002, "host": None}, told).port == 9002


def test_every_field_is_a_flag_and_a_variable_and_documented():
    shown = {option for param in serve.get_params(click.Context(serve)) for option in param.opts}
    for name, field in Settings.model_fields.items():
        assert field.description
        assert variable(name).startswith("JINA_SM_SERVE_")
        assert (flag(name) in shown) == (name != SECRET), name


def test_the_documentation_is_what_the_settings_say():
    assert settings.table() in (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def test_a_variable_that_is_none_of_ours_is_a_slip():
    with pytest.raises(InputError, match="JINA_SM_SERVE_PROT"):
        load({}, {"JINA_SM_SERVE_PROT": "1"})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"port": 70_000}, "--port"),
        ({"port": "http"}, "--port"),
        ({"batching": "greedy"}, "--batching"),
        ({"max_wait_s": "2s"}, "--max-wait"),
        ({"max_wait_s": "soon", "batching": "window"}, "--max-wait"),
        ({"batching": "none", "max_tokens": 10}, "--max-tokens"),
        ({"upstream": ("jina-api://?model=jina-embeddings-v3",), "device": "cpu"}, "--device"),
        ({"upstream": ("ftp://x",)}, "no target"),
        ({"url_hosts": ("a.example",)}, "--url-hosts"),
        ({"device": "cuda"}, "--device"),
        ({"model": "m", "dtype": "float16", "device": "cpu"}, "float16"),
        ({"tls_cert": __file__}, "--tls-key"),
        ({"tls_cert": "/no/such", "tls_key": "/no/such"}, "--tls-cert"),
        ({"api_key_file": "/no/such"}, "--api-key-file"),
        ({"max_body_bytes": 10**9}, "--max-open-bytes"),
        ({"timeout_s": float("nan")}, "--timeout"),
        ({"timeout_s": 0}, "--timeout"),
        ({"threads": 0, "model": "m"}, "--threads"),
        ({"model": "./no/such"}, "--model: there is no directory"),
        ({"model": "no/such/directory"}, "--model: there is no directory"),
        ({"reranker": "/no/such"}, "--reranker: there is no directory"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, Any], named: str):
    with pytest.raises(InputError, match=named):
        load(given, {})


def test_what_goes_together_is_taken():
    assert load({"batching": "window", "max_tokens": 8192, "max_wait_s": "2s"}, {}).max_wait_s == 2
    assert load({"model": "a/b", "device": "cuda", "dtype": "float16", "reranker": "stand-in"}, {}).reranker


def test_a_key_is_in_no_error_and_no_print(tmp_path: Path):
    with pytest.raises(InputError) as refused:
        load({}, {"JINA_SM_SERVE_API_KEYS": "short"})
    assert "short" not in str(refused.value)
    told = load({}, {"JINA_SM_SERVE_API_KEYS": "a-long-secret, another-secret"})
    assert told.keys() == ("a-long-secret", "another-secret")
    assert "secret" not in repr(told)
    empty = tmp_path / "keys"
    empty.write_text("\n")
    with pytest.raises(InputError, match="let everybody in"):
        load({"api_key_file": str(empty)}, {})


@pytest.mark.parametrize("none", ["", ",", " "])
def test_a_variable_of_keys_that_holds_none_is_not_an_open_door(none: str):
    with pytest.raises(InputError, match="let everybody in"):
        load({}, {"JINA_SM_SERVE_API_KEYS": none})


def test_what_sagemaker_unpacked_is_served_unless_something_else_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(settings, "SAGEMAKERS", tmp_path)
    assert load({}, {}).model == "stand-in"  # nothing was unpacked
    (tmp_path / "config.json").write_text("{}")
    assert load({}, {}).model == str(tmp_path)
    assert load({"model": "stand-in"}, {}).model == "stand-in"
    assert load({}, {"JINA_SM_SERVE_MODEL": "a/b"}).model == "a/b"
    assert load({}, {"JINA_SM_SERVE_UPSTREAM": "http://x?model=jina-embeddings-v3"}).model == "stand-in"


def test_the_keys_file_and_variable_add_up(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("first-of-file\nsecond-of-file\n")
    told = load({"api_key_file": str(file)}, {"JINA_SM_SERVE_API_KEYS": "of-the-variable"})
    assert told.keys() == ("of-the-variable", "first-of-file", "second-of-file")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.cli, ["serve", *arguments])


def test_check_says_what_would_be_served():
    told = run("--check")
    assert told.output.splitlines() == [
        "model: stand-in as jina-embeddings-v3",
        "reranker: stand-in as jina-reranker-v2-base-multilingual",
        "batching: continuous, 1024 tokens a batch",
    ]
    told = run("--check", "--upstream", "sagemaker://eu-west-1/mine?model=jina-embeddings-v3")
    assert "models: jina-embeddings-v3" in told.output
    assert '"port": 8080' in run("--check", "--json").output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--served-as", "jina-clip-v2"),
        ("--served-as", "jina-embeddings-v33"),
        ("--model", "jinaai/ReaderLM-v2"),
        ("--model", "jinaai/jina-reranker-v3"),
        ("--reranker", "jinaai/jina-reranker-m0"),
        ("--upstream", "http://x?model=none-such"),
        ("--upstream", "http://x?model=ReaderLM-v2"),
        ("--max-wait", "2s"),
        ("--tls-cert", __file__, "--tls-key", __file__),
    ],
)
def test_check_refuses_what_could_not_be_served(arguments: tuple[str, ...]):
    told = run("--check", *arguments)
    assert isinstance(told.exception, InputError)


def test_the_help_of_all_commands_needs_no_settings():
    """pydantic takes as long to import as all of the rest."""
    import subprocess
    import sys

    code = "import sys; from jina_sm import cli; sys.argv=['jina-sm','--help']\ntry: cli.main()\nexcept SystemExit: pass\nprint('pydantic' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "False"


def test_no_two_fields_share_a_flag():
    for one, other in itertools.combinations(Settings.model_fields, 2):
        assert flag(one) != flag(other)
