"""Documents are run, or held to what they describe."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import click
import pytest

from jina_sm import Spec, catalog
from jina_sm.deploy import run

REGIONS = ("us-east-1", "eu-central-1")
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.usefixtures("account")
def test_the_readmes_python_runs_as_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JINA_API_KEY", "jina_test")
    monkeypatch.setenv("JINA_API_URL", os.environ["AWS_ENDPOINT_URL"])
    served: set[str] = set()
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
        if "deploy(" in block:
            found = run.status(regions=REGIONS).found.values()
            assert {endpoint.name for each in found for endpoint in each.state.endpoints} == served, (
                "it stays and bills"
            )
            run.deploy(Spec(model="jina-embeddings-v3", regions=REGIONS))  # the other blocks ask one that is there
            served = {"jina-sm-embeddings-v3"}
    said = iter(capsys.readouterr().out.splitlines())
    for expected in (
        r"\(1, 1024\)",
        "InService",
        r"\(2, 256\) float32 \d+",
        "0",
        "True",
        "100 queries",
        r"\{\} answer True",
        r"texts\[1\] is empty",
        r"\d+ 1024",
        "1 dog biscuits",
        r"make \*\*honey\*\*",
        "as it is written",
    ):
        assert re.fullmatch(expected, line := next(said)), line


def test_the_readmes_first_try_runs_as_written(tmp_path: Path, free_port: int) -> None:
    (block,) = [block for block in blocks("console") if "local up --detach" in block]
    script = re.sub(r"^\$ ", "", block, flags=re.MULTILINE)
    (tmp_path / "jina-sm").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m jina_sm "$@"\n')
    (tmp_path / "jina-sm").chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "JINA_SM_LOCAL_PORT": str(free_port),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["bash", "-eu", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "us-east-1: jina-sm-embeddings-v3 InService" in done.stdout
    assert "stopped the local stack" in done.stdout
    assert (tmp_path / "vectors.npy").stat().st_size > 2 * 1024 * 4


def test_every_option_the_readme_names_exists() -> None:
    from jina_sm.cli import cli

    context = click.Context(cli)
    for line in re.findall(r"^\$ jina-sm (.*?)(?:  +#.*)?$", README, re.MULTILINE):
        words = line.split()
        command: click.Command = cli
        while words and isinstance(command, click.Group) and (found := command.get_command(context, words[0])):
            words, command = words[1:], found
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, line


def test_the_page_of_commands_is_current() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "commands.py"))["page"]
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_command_has_json_and_says_what_it_does() -> None:
    from jina_sm.cli import cli

    leaves = runpy.run_path(str(ROOT / "docs" / "commands.py"))["leaves"]
    everything = dict(leaves(cli))
    assert len(everything) > 15
    assert {"jina-sm quota", "jina-sm quota request"} <= everything.keys(), "a group that does something is one too"
    for path, command in everything.items():
        assert "--json" in {name for parameter in command.params for name in parameter.opts}, path
        assert command.help, path
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{path} {option.name}"


def test_the_readmes_counts_are_the_catalogues() -> None:
    known = catalog.load()
    assert f"{len(known.models)} rows" in README
    assert len(known.regions) == 16


def test_the_readmes_clients_are_those_that_make_third_party_runs() -> None:
    named = set(re.findall(r"^\| (\S+) \| (\d\S+) \|", README, re.MULTILINE))
    pinned = [
        re.match(r"(\S+)==(\S+)\n", requirements.read_text(encoding="utf-8"))
        for requirements in (ROOT / "tests" / "third_party").glob("*.txt")
    ]
    assert named == {found.groups() for found in pinned if found}


def test_the_passages_are_as_described() -> None:
    rows = [json.loads(line) for line in (ROOT / "demo" / "passages.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 450
    assert set(Counter(row["lang"] for row in rows).values()) == {30}
    assert len({row["id"] for row in rows}) == 450
    assert all(row["text"].strip() for row in rows)


def test_the_picture_names_every_module() -> None:
    picture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for file in (ROOT / "jina_sm").rglob("*.py"):
        home = file.relative_to(ROOT / "jina_sm")
        if file.stem not in ("__init__", "__main__") and home.parts[0] not in ("cli", "wire", "local"):
            assert file.name in picture, f"{home} is not in docs/architecture.md"
