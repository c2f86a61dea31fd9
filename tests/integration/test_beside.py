"""What is there and not in the file that is deployed: told, and taken away if that is asked for; over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jina_sm import Spec, local
from jina_sm.deploy import guards, run
from tests.conftest import Served, Told

V3, RERANKER = "jina-embeddings-v3", "jina-reranker-v2-base-multilingual"
NAME, DROPPED, ELSEWHERE = "jina-sm-embeddings-v3", "jina-sm-reranker-v2-base-multilingual", "jina-sm-search"
HOME, FAR = "us-east-1", "ap-south-1"
FILE = f'[[models]]\nmodel = "{V3}"\nregions = ["{HOME}"]\n'
DEPLOY = ("deploy", "-f", "jina-sm.toml")
BESIDE = [(HOME, DROPPED), (FAR, ELSEWHERE)]
Run = Callable[..., Told]


@pytest.fixture(autouse=True)
def _in_service(account: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file names; and a model, and an endpoint of a name elsewhere, that it no longer does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jina-sm.toml").write_text(FILE)
    for model in (V3, RERANKER):
        run.subscribe(model)
    for wanted in (
        Spec(model=V3, regions=(HOME,)),
        Spec(model=RERANKER, regions=(HOME,)),
        Spec(model=V3, regions=(FAR,), name="search"),
    ):
        run.deploy(wanted)


def there(paused: bool = False) -> list[tuple[str, str]]:
    return sorted(
        (region, name)
        for region, found in run.status().found.items()
        for name in (found.state.paused if paused else [each.name for each in found.state.endpoints])
    )


EVERYTHING = sorted([(HOME, NAME), *BESIDE])


def test_a_plan_tells_what_the_file_does_not_name_with_its_price_and_how_it_goes(typed: Run) -> None:
    code, out, err = typed(*DEPLOY, "--plan")
    assert (code, err) == (0, "")
    assert out.endswith(
        f"""\
There, and not in jina-sm.toml:
  {HOME} {DROPPED}: InService, 3.908 USD an hour
    `jina-sm teardown {DROPPED} -r {HOME}` takes it away
  {FAR} {ELSEWHERE}: InService, at a price that is not known
    `jina-sm teardown {ELSEWHERE} -r {FAR}` takes it away
  with --prune, the deployment takes all of it away
"""
    )
    assert typed("pause", ELSEWHERE, "-r", FAR, "--yes")[0] == 0
    assert ELSEWHERE not in typed(*DEPLOY, "--plan")[1], "what is paused does not bill"


def test_it_is_told_again_when_all_else_is_done_and_stays(typed: Run) -> None:
    code, out, err = typed(*DEPLOY, "--yes")
    assert (code, out) == (0, f"{HOME}: {NAME} InService\n")
    assert err.endswith(
        f"Not in jina-sm.toml: {FAR} {ELSEWHERE} is InService, at a price that is not known, "
        f"until `jina-sm teardown {ELSEWHERE} -r {FAR}`.\n"
    )
    assert there() == EVERYTHING


def test_pruning_lists_what_goes_asks_and_takes_it_away(typed: Run) -> None:
    code, out, err = typed(*DEPLOY, "--prune")
    assert (code, out) == (2, ""), "there is no terminal to ask on"
    assert "Remove what is not in the file?" in err
    assert f"  - {HOME} {DROPPED}: InService, 3.908 USD an hour\n    - delete endpoint {DROPPED}\n" in err
    assert there() == EVERYTHING
    code, out, _ = typed(*DEPLOY, "--prune", "--yes")
    assert code == 0
    assert out == f"{HOME}: {NAME} InService\n{HOME}: {DROPPED} removed\n{FAR}: {ELSEWHERE} removed\n"
    assert there() == [(HOME, NAME)]
    assert run.status(regions=[FAR]).found[FAR].state.empty
    assert "not in jina-sm.toml" not in typed(*DEPLOY, "--plan")[1]


def test_planning_to_prune_does_nothing(typed: Run) -> None:
    assert f"  - {FAR} {ELSEWHERE}: " in typed(*DEPLOY, "--plan", "--prune")[1]
    assert there() == EVERYTHING


def test_nothing_of_others_is_pruned(account: Served, typed: Run) -> None:
    account.deploy(V3, name="jina-sm-theirs", region=FAR)
    assert "theirs" not in typed(*DEPLOY, "--plan", "--prune")[1]
    assert typed(*DEPLOY, "--prune", "--yes")[0] == 0
    found = account.aws("sagemaker", FAR).list_endpoints()["Endpoints"]
    assert [each["EndpointName"] for each in found] == ["jina-sm-theirs"]


def test_what_is_paused_is_not_pruned(typed: Run) -> None:
    guards.pause("search", regions=[FAR])
    assert typed(*DEPLOY, "--prune", "--yes")[0] == 0
    assert (there(), there(paused=True)) == ([(HOME, NAME)], [(FAR, ELSEWHERE)])


def test_a_deployment_that_fails_prunes_nothing(account: Served, tmp_path: Path, typed: Run) -> None:
    (tmp_path / "jina-sm.toml").write_text(FILE + 'name = "new"\n')
    local.fault("failed", "CreateEndpoint", port=account.port, reason="health")
    assert typed(*DEPLOY, "--prune", "--yes")[0] == 1
    assert there() == EVERYTHING


def test_what_is_to_go_is_asked_about_together_with_what_is_to_come(tmp_path: Path, typed: Run) -> None:
    (tmp_path / "jina-sm.toml").write_text(FILE + 'name = "new"\n')
    assert "Deploy this and remove what is not in the file?" in typed(*DEPLOY, "--prune")[2]
    assert "Deploy this?" in typed(*DEPLOY)[2]


def test_where_it_could_not_be_looked_is_said_and_pruning_is_not_complete(account: Served, typed: Run) -> None:
    local.fault("error", "ListEndpoints", port=account.port, region=FAR, status=403, reason="may not")
    code, out, err = typed(*DEPLOY, "--plan")
    assert code == 0
    assert DROPPED in out
    assert f"error: {FAR} could not be listed" in err
    code, out, err = typed(*DEPLOY, "--prune", "--yes", "--json")
    assert code == 1
    assert "what is not in jina-sm.toml could not be looked for everywhere" in err
    told = json.loads(out)
    assert (list(told["endpoints"]), list(told["failed"])) == ([NAME], [FAR])
    local.clear_faults(account.port)
    assert there() == sorted([(HOME, NAME), (FAR, ELSEWHERE)])


def test_it_is_in_the_json(typed: Run) -> None:
    planned = json.loads(typed(*DEPLOY, "--plan", "--json")[1])
    assert [each["model"] for each in planned["plans"]] == [V3]
    assert [(each["region"], each["name"], each["removed"], each["steps"]) for each in planned["unnamed"]] == [
        (*each, False, []) for each in BESIDE
    ]
    assert planned["unnamed"][0]["cost"]["usd_per_hour"] == "3.908"
    assert planned["failed"] == {}
    pruning = json.loads(typed(*DEPLOY, "--plan", "--prune", "--json")[1])["unnamed"][0]
    assert (pruning["removed"], pruning["steps"][0]["operation"]) == (False, "delete_endpoint")
    done = json.loads(typed(*DEPLOY, "--prune", "--yes", "--json")[1])
    assert list(done["endpoints"]) == [NAME]
    assert [(each["region"], each["name"], each["removed"]) for each in done["unnamed"]] == [
        (*each, True) for each in BESIDE
    ]


def test_without_a_file_nothing_is_looked_for_nor_pruned(typed: Run) -> None:
    code, out, _ = typed("deploy", V3, "-r", HOME, "--plan")
    assert code == 0
    assert DROPPED not in out
    code, _, err = typed("deploy", V3, "-r", HOME, "--prune", "--yes")
    assert (code, "--prune is for a file" in err) == (2, True)
    assert there() == EVERYTHING
