"""What ``deploy`` returns is what a client takes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import AsyncClient, Client, Fleet, Spec, errors, local
from jina_sm.deploy import run
from jina_sm.fleet import Place
from tests.conftest import Served

V3, NAME = "jina-embeddings-v3", "jina-sm-embeddings-v3"
REGIONS = ("eu-central-1", "us-east-1")


def deployed(**more: Any) -> Fleet[run.Endpoint]:
    run.subscribe(V3)
    return run.deploy(Spec(model=V3, regions=REGIONS, **more))


def lanes(client: Client) -> list[tuple[str, str | None, int]]:
    exchange = client._driver._exchange
    return [(lane.name, lane.region, lane.instances) for lane in exchange.lanes]


@pytest.mark.usefixtures("account")
def test_a_deployment_is_a_mapping_and_a_client_takes_it() -> None:
    fleet = deployed(name="mine", instance_count=2)
    assert list(fleet) == list(REGIONS), "home first, as it was asked for"
    assert {region: each.status for region, each in fleet.items()} == dict.fromkeys(REGIONS, "InService")
    assert fleet["us-east-1"].ours
    with fleet.client() as client, Client(fleet) as same:
        assert lanes(client) == lanes(same) == [("jina-sm-mine", region, 2) for region in REGIONS]
        assert len(client.embed(["a", "b"])) == 2

    async def embed() -> int:
        async with fleet.async_client() as client, AsyncClient(fleet) as same:
            return len(await client.embed(["a"])) + len(await same.embed(["a"]))

    assert asyncio.run(embed()) == 2


@pytest.mark.usefixtures("account")
def test_another_region_of_the_fleet_takes_over(aws: Callable[..., Any]) -> None:
    fleet = deployed()
    aws("sagemaker", "eu-central-1").delete_endpoint(EndpointName=NAME)
    with fleet.client() as client:
        assert len(client.embed(["a"])) == 1


@pytest.mark.usefixtures("account")
def test_a_fleet_survives_a_file_and_another_process() -> None:
    fleet = deployed()
    again = Fleet.from_json(fleet.to_json())
    assert again.targets == fleet.targets == tuple(f"sagemaker://{each}/{NAME}?model={V3}" for each in REGIONS)
    with again.client() as client, Client.at(*fleet.targets) as same:
        np.testing.assert_array_equal(client.embed(["a"]).vectors, same.embed(["a"]).vectors)


@pytest.mark.usefixtures("account")
def test_what_is_deployed_is_found_as_a_fleet() -> None:
    deployed()
    found = run.fleet(V3, regions=REGIONS)
    assert found.targets == Fleet.at(*found.targets).targets
    assert list(run.fleet(V3)) == ["us-east-1", "eu-central-1"]
    assert not run.fleet(V3, name="other")


def test_a_region_that_cannot_be_looked_at_is_not_left_out_in_silence(account: Served) -> None:
    deployed()
    local.fault("error", "ListEndpoints", port=account.port, region="us-east-1", status=403, reason="may not")
    with pytest.raises(errors.PartialError, match="us-east-1"):
        run.fleet(V3, regions=REGIONS)


@pytest.mark.usefixtures("account")
def test_several_plans_are_several_fleets() -> None:
    reranker = "jina-reranker-v2-base-multilingual"
    for model in (V3, reranker):
        run.subscribe(model)
    plans = [run.plan(Spec(model=model, regions=("us-east-1",))) for model in (V3, reranker)]
    fleets = run.deploy_all(plans)
    assert [each.model for each in fleets.values()] == [V3, reranker]
    with fleets["jina-sm-reranker-v2-base-multilingual"].client() as client:
        assert client.rerank("dog", ["dog biscuits", "tyres"])[0].document == "dog biscuits"


def place(status: str = "InService", instances: int = 1) -> Place:
    return Place(name="e", status=status, instances=instances)


def test_what_does_not_answer_is_no_target() -> None:
    fleet = Fleet(V3, {"us-east-1": place("Failed"), "eu-west-1": place("Updating", 3), "us-west-2": place("Creating")})
    with Client(fleet, session=_session()) as client:
        assert lanes(client) == [("e", "eu-west-1", 3)]
    with pytest.raises(errors.InputError, match=r"nothing of the fleet answers.*us-east-1 e Failed"):
        Client(Fleet(V3, {"us-east-1": place("Failed")}))
    with pytest.raises(errors.InputError, match="nowhere"):
        Client(Fleet(V3, {}))


def _session() -> Any:
    import boto3

    return boto3.Session("local", "local", region_name="us-east-1")


def test_instances_that_are_said_count_more_than_the_fleets_and_none_is_one() -> None:
    fleet = Fleet(V3, {"us-east-1": place(instances=4), "eu-west-1": place(instances=0)})
    with Client(fleet, session=_session()) as client, Client(fleet, session=_session(), instances=2) as told:
        assert [lane[2] for lane in lanes(client)] == [4, 1]
        assert [lane[2] for lane in lanes(told)] == [2, 2]


@pytest.mark.parametrize("settings", [{"regions": ["us-east-1"]}, {"name": "x"}, {"transports": []}])
def test_a_fleet_says_itself_where_it_is(settings: dict[str, Any]) -> None:
    with pytest.raises(errors.InputError, match="a fleet says itself where it is"):
        Client(Fleet(V3, {"us-east-1": place()}), **settings)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not: "),
        ("[]", '"model" and "endpoints"'),
        ('{"model": 3, "endpoints": {}}', '"model" and "endpoints"'),
        ('{"model": "m", "endpoints": {"us-east-1": {}}}', "endpoint in us-east-1 has a name"),
        ('{"model": "m", "endpoints": {"us-east-1": {"name": "e", "status": "x", "instances": true}}}', "us-east-1"),
        ('{"model": "m", "endpoints": {"us-east-1": {"name": "e", "status": "x", "instances": -1}}}', "-1 instances"),
        ('{"model": "m", "endpoints": {"mars": {"name": "e", "status": "x", "instances": 1}}}', "region"),
        ('{"model": "m", "endpoints": {"us-east-1": {"name": "a/b", "status": "x", "instances": 1}}}', "name of one"),
    ],
)
def test_what_is_no_fleet_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(errors.InputError, match=named):
        Fleet.from_json(text)


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        ((), "of one model"),
        (("jina-api://?model=m",), "of SageMaker"),
        (("sagemaker://us-east-1/a?model=m", "sagemaker://us-east-1/b?model=m"), "named twice"),
        (("sagemaker://us-east-1/a?model=m", "sagemaker://us-east-2/b?model=n"), "of one model"),
    ],
)
def test_targets_that_are_no_fleet_are_refused(targets: tuple[str, ...], named: str) -> None:
    with pytest.raises(errors.InputError, match=named):
        Fleet.at(*targets)


names = st.from_regex(r"[a-zA-Z0-9](-?[a-zA-Z0-9]){0,20}", fullmatch=True)


@given(
    st.dictionaries(
        st.sampled_from(["us-east-1", "eu-central-1", "ap-south-1", "sa-east-1"]),
        st.builds(Place, name=names, status=st.sampled_from(["InService", "Failed"]), instances=st.integers(0, 100)),
    )
)
def test_what_is_written_is_what_is_read_in_its_order(endpoints: dict[str, Place]) -> None:
    fleet = Fleet(V3, endpoints)
    again = Fleet.from_json(fleet.to_json())
    assert (again.model, list(again.items())) == (V3, list(endpoints.items()))
    assert again == fleet == endpoints
    assert json.loads(fleet.to_json())["model"] == V3


def test_reading_a_fleet_imports_nothing_heavy() -> None:
    code = (
        "import sys, jina_sm; jina_sm.Fleet.at('sagemaker://us-east-1/e?model=m');"
        "print(sorted({'boto3', 'botocore', 'pydantic', 'numpy', 'click'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
