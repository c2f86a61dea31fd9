"""Subscribe, deploy, look, tear down: real boto3 over real HTTP against the local stack."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from jina_sm import Client, Spec, errors
from jina_sm.catalog import load
from jina_sm.clock import Clock
from jina_sm.deploy import run
from jina_sm.deploy.plan import Call, State

V3 = "jina-embeddings-v3"
REGIONS = ("us-east-1", "eu-central-1")
BOTH = Spec(model=V3, regions=REGIONS)
pytestmark = pytest.mark.usefixtures("account")


def counts(inventory: run.Inventory) -> dict[str, tuple[int, int, int]]:
    return {
        region: (len(found.state.endpoints), len(found.state.configs), len(found.state.models))
        for region, found in inventory.found.items()
    }


def test_the_offer_says_what_it_costs_and_what_one_agrees_to() -> None:
    offer = run.offer(V3)
    assert offer.hourly["ml.g5.xlarge"] == 2.5
    assert offer.eulas
    assert offer.url.endswith("prodview-kdi3xkt62lo32")
    assert run.subscription(V3) is None, "looking subscribes nothing"


def test_subscribing_twice_is_subscribing_once() -> None:
    first, second = run.subscribe(V3), run.subscribe(V3)
    assert (first.new, second.new) == (True, False)
    assert first.agreement_id == second.agreement_id


def test_without_a_subscription_nothing_is_made_anywhere() -> None:
    with pytest.raises(errors.NotSubscribedError, match=f"jina-sm subscribe {V3}"):
        run.deploy(BOTH)
    assert set(counts(run.status(regions=REGIONS)).values()) == {(0, 0, 0)}


def test_the_plan_is_what_is_done_and_says_its_price() -> None:
    run.subscribe(V3)
    plan = run.plan(BOTH)
    assert {region: there.usd_per_hour for region, there in plan.regions.items()} == {
        "us-east-1": run.Decimal("3.908"),
        "eu-central-1": run.Decimal("4.261"),
    }
    assert plan.subscribed
    assert set(counts(run.status(regions=REGIONS)).values()) == {(0, 0, 0)}, "a plan makes nothing"
    taken: list[run.Event] = []
    run.deploy(plan, on_event=taken.append)
    for region, there in plan.regions.items():
        assert tuple(event.step for event in taken if event.region == region and event.status is None) == there.steps


def test_two_regions_come_into_service_and_are_ours(aws: Callable[..., Any]) -> None:
    run.subscribe(V3)
    endpoints = run.deploy(BOTH)
    assert {region: there.status for region, there in endpoints.items()} == dict.fromkeys(REGIONS, "InService")
    assert set(counts(run.status(regions=REGIONS)).values()) == {(1, 1, 1)}
    for region, there in endpoints.items():
        assert there.ours
        assert there.name == "jina-sm-embeddings-v3"
        sagemaker = aws("sagemaker", region)
        (model,) = sagemaker.list_models()["Models"]
        described = sagemaker.describe_model(ModelName=model["ModelName"])
        assert described["EnableNetworkIsolation"] is True
        assert described["ExecutionRoleArn"].endswith(":role/jina-sm-execution")


def test_deploying_twice_does_nothing() -> None:
    run.subscribe(V3)
    run.deploy(BOTH)
    assert run.plan(BOTH).empty
    taken: list[run.Event] = []
    run.deploy(BOTH, on_event=taken.append)
    assert taken == []


def test_another_instance_type_updates_the_endpoint_and_leaves_nothing_of_the_old() -> None:
    run.subscribe(V3)
    spec = Spec(model=V3, regions=("us-east-1",))
    before = run.deploy(spec)["us-east-1"]
    after = run.deploy(spec.model_copy(update={"instance_type": "ml.g5.2xlarge"}))["us-east-1"]
    assert after.config != before.config
    assert counts(run.status(regions=["us-east-1"])) == {"us-east-1": (1, 1, 1)}


def test_a_run_stopped_before_any_call_is_completed_by_the_next() -> None:
    run.subscribe(V3)
    spec = Spec(model=V3, regions=("us-east-1",))

    class Stopped(BaseException):
        """As a process that ends: nothing is caught, nothing rolled back."""

    for stop_before in ("create_model", "create_endpoint_config", "create_endpoint"):

        def listener(event: run.Event, operation: str = stop_before) -> None:
            if isinstance(event.step, Call) and event.step.operation == operation:
                raise Stopped

        with pytest.raises(Stopped):
            run.deploy(spec, on_event=listener)
        assert run.deploy(spec)["us-east-1"].status == "InService"
        assert counts(run.status(regions=["us-east-1"])) == {"us-east-1": (1, 1, 1)}
        run.teardown(regions=["us-east-1"])


def test_a_region_that_fails_is_rolled_back_and_the_others_stand(aws: Callable[..., Any]) -> None:
    run.subscribe(V3)
    plan = run.plan(BOTH)
    # Somebody takes the endpoint's name between plan and run, in one region.
    blocker = aws("sagemaker", "eu-central-1")
    desired = plan.regions["eu-central-1"].desired
    blocker.create_model(**{**desired.model_params, "ModelName": "other", "Tags": []})
    variant = {**desired.config_params["ProductionVariants"][0], "ModelName": "other"}
    blocker.create_endpoint_config(EndpointConfigName="other", ProductionVariants=[variant])
    blocker.create_endpoint(EndpointName=desired.endpoint, EndpointConfigName="other")
    with pytest.raises(errors.PartialError, match="eu-central-1: Cannot create already existing endpoint") as caught:
        run.deploy(plan)
    assert caught.value.done == ("us-east-1",)
    assert isinstance(caught.value.failed["eu-central-1"], errors.NameTakenError)
    assert counts(run.status(regions=REGIONS)) == {"us-east-1": (1, 1, 1), "eu-central-1": (0, 0, 0)}
    assert [each["EndpointName"] for each in blocker.list_endpoints()["Endpoints"]] == [desired.endpoint]


def test_somebody_elses_endpoint_is_neither_changed_nor_removed(aws: Callable[..., Any]) -> None:
    run.subscribe(V3)
    run.deploy(Spec(model=V3, regions=("us-east-1",)))
    sagemaker = aws("sagemaker", "us-east-1")
    arn = sagemaker.describe_endpoint(EndpointName="jina-sm-embeddings-v3")["EndpointArn"]
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=["managed-by"])
    with pytest.raises(errors.NameTakenError, match="was not made by this tool"):
        run.deploy(Spec(model=V3, regions=("us-east-1",)))
    run.teardown(model=V3, regions=["us-east-1"])
    run.teardown(name="embeddings-v3", regions=["us-east-1"])
    assert sagemaker.describe_endpoint(EndpointName="jina-sm-embeddings-v3")["EndpointStatus"] == "InService"


def test_an_endpoint_of_another_model_is_not_taken_over() -> None:
    reranker = "jina-reranker-v2-base-multilingual"
    for model in (V3, reranker):
        run.subscribe(model)
    run.deploy(Spec(model=V3, regions=("us-east-1",)))
    with pytest.raises(errors.NameTakenError, match=f"serves {V3}, not {reranker}"):
        run.deploy(Spec(model=reranker, regions=("us-east-1",), name="embeddings-v3"))


def test_a_listener_that_fails_stops_nothing() -> None:
    run.subscribe(V3)

    def broken(event: run.Event) -> None:
        raise BrokenPipeError

    assert run.deploy(Spec(model=V3, regions=("us-east-1",)), on_event=broken)["us-east-1"].status == "InService"


def test_an_account_that_shares_anothers_licence_leaves_the_last_word_to_aws() -> None:
    plan = run.plan(Spec(model=V3, regions=("us-east-1",)), shared_licence=True)
    assert plan.subscribed is None
    with pytest.raises(errors.NotSubscribedError, match="Caller is not subscribed"):
        run.deploy(plan)
    assert counts(run.status(regions=["us-east-1"])) == {"us-east-1": (0, 0, 0)}


def test_an_interrupted_run_makes_no_further_call(slow_account: Clock) -> None:
    run.subscribe(V3)
    polling, go_on = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        polling.set()
        go_on.wait()

    raise_in_main = threading.Thread(
        target=lambda: (polling.wait(), signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    )
    told: list[run.Event] = []
    spec = Spec(model=V3, regions=("us-east-1",))
    raise_in_main.start()
    with pytest.raises(KeyboardInterrupt):
        run.deploy(spec, on_event=told.append, clock=Clock(now=slow_account.now, sleep=sleep))
    before = len(told)
    go_on.set()
    for thread in threading.enumerate():
        if thread.daemon and thread.name.endswith("(at)"):
            thread.join()
    assert len(told) == before
    assert [each.status for each in run.status(regions=["us-east-1"]).found["us-east-1"].state.endpoints] == [
        "Creating"
    ]


def test_teardown_removes_one_model_and_leaves_the_other() -> None:
    reranker = "jina-reranker-v2-base-multilingual"
    for model in (V3, reranker):
        run.subscribe(model)
        run.deploy(Spec(model=model, regions=("us-east-1",)))
    run.teardown(model=V3)
    left = run.status().found["us-east-1"].state
    assert [endpoint.name for endpoint in left.endpoints] == ["jina-sm-reranker-v2-base-multilingual"]
    assert (len(left.configs), len(left.models)) == (1, 1)
    run.teardown()
    assert all(found.state.empty for found in run.status().found.values())


def test_teardown_removes_one_endpoint_of_a_model_and_nothing_of_the_others(aws: Callable[..., Any]) -> None:
    run.subscribe(V3)
    for name in (None, "staging", "staging-2"):
        run.deploy(Spec(model=V3, regions=("us-east-1",), name=name, autoscaling={"max": 2}, ttl="8h"))

    def there() -> dict[str, State]:
        return {part.endpoints[0].name: part for part in run.status().found["us-east-1"].state.by_endpoint()}

    before = there()
    assert {each: len(part.schedules) + len(part.targets) for each, part in before.items()} == {
        "jina-sm-embeddings-v3": 2,
        "jina-sm-staging": 2,
        "jina-sm-staging-2": 2,
    }
    made_from = [name for part in before.values() for name in (*part.configs, *part.models)]
    assert len(set(made_from)) == 6, "no two share a config or a model"
    assert run.status(name="staging").found["us-east-1"].state.by_endpoint() == [before.pop("jina-sm-staging")]
    assert run.teardown(name="staging").endpoint == "jina-sm-staging"
    assert there() == before
    run.teardown(name="jina-sm-staging")  # a second time there is nothing to do
    run.teardown(name="embeddings-v3", model="jina-reranker-v2-base-multilingual")  # nor of another model
    assert there() == before
    assert aws("iam").get_role(RoleName="jina-sm-ttl"), "the others need it"
    run.teardown(name="embeddings-v3")
    assert list(there()) == ["jina-sm-staging-2"]


@pytest.mark.parametrize("words", [{"model": ""}, {"name": ""}, {"name": "a_b"}, {"name": "jina-sm-"}])
def test_what_can_be_no_name_is_not_taken_for_everything(words: dict[str, str]) -> None:
    run.subscribe(V3)
    run.deploy(Spec(model=V3, regions=("us-east-1",)))
    with pytest.raises(errors.InputError):
        run.teardown(**words, regions=["us-east-1"])
    assert counts(run.status(regions=["us-east-1"])) == {"us-east-1": (1, 1, 1)}


def test_status_looks_in_every_region_and_names_each() -> None:
    assert tuple(run.status().found) == load().regions


def test_a_name_of_ones_own_and_tags_of_ones_own(aws: Callable[..., Any]) -> None:
    run.subscribe(V3)
    there = run.deploy(Spec(model=V3, regions=("us-east-1",), name="search", tags={"team": "a"}))["us-east-1"]
    assert there.name == "jina-sm-search"
    assert there.tags["team"] == "a"
    with Client(V3, regions=["us-east-1"], name="search") as client:
        assert len(client.embed(["a"])) == 1


def test_the_local_client_needs_no_aws_settings(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run.subscribe(V3)
    run.deploy(Spec(model=V3, regions=("us-east-1",)))
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    with Client.local() as client:
        assert client.embed(["a", "b"], dimensions=64).vectors.shape == (2, 64)


def test_an_endpoint_made_otherwise_is_named_and_embeds_by_meaning(stack: Any) -> None:
    stack.deploy(V3, name="by-hand")
    with Client.sagemaker("by-hand", model=V3, region="us-east-1") as client:
        bees, rust, bienen = client.embed(["Bees make honey.", "Steel rusts.", "Bienen machen Honig."]).vectors
    assert bees @ bienen > 0.6 > rust @ bienen


def test_a_container_that_refuses_is_told_with_its_status_and_its_words(stack: Any) -> None:
    stack.deploy("jina-reranker-v2-base-multilingual", name="reranks")
    with Client.sagemaker("reranks", model=V3, region="us-east-1") as client:
        with pytest.raises(errors.BadRequestError, match=r"reranks in us-east-1, status 422.*logs: https://") as caught:
            client.embed(["a"])
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": "jina-embedings-v3"}, "did you mean 'jina-embeddings-v3'"),
        ({"regions": ("us-east1",)}, "did you mean 'us-east-1'"),
        ({"regions": ("us-east-1", "us-east-1")}, "named twice"),
        ({"instance_type": "ml.m5.xlarge"}, "needs a GPU, and ml.m5.xlarge has none"),
        ({"model": "jina-embeddings-v4"}, "package ARN of jina-embeddings-v4 is not in the catalogue"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_before_anything_is_asked(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(errors.InputError, match=named):
        run.plan(Spec(**{"model": V3, "regions": ("us-east-1",), **fields}))


def test_an_instance_type_that_aws_does_not_know_is_refused_by_aws_and_rolled_back() -> None:
    run.subscribe(V3)
    with pytest.raises(errors.DeployError, match=r"ml\.g99\.xlarge"):
        run.deploy(Spec(model=V3, regions=("us-east-1",), instance_type="ml.g99.xlarge"))
    assert counts(run.status(regions=["us-east-1"])) == {"us-east-1": (0, 0, 0)}


@pytest.mark.parametrize(("key", "named"), [("EXPIRED", "have expired"), ("DENIED", "not authorized")])
def test_credentials_that_do_not_do_are_named_and_nothing_is_made(
    key: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.subscribe(V3)
    with monkeypatch.context() as other:
        other.setenv("AWS_ACCESS_KEY_ID", key)
        with pytest.raises(errors.AuthError, match=named) as caught:
            run.deploy(BOTH)
        assert caught.value.cure
    assert set(counts(run.status(regions=REGIONS)).values()) == {(0, 0, 0)}


def test_no_credentials_at_all_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(errors.AuthError, match="no AWS credentials"):
        run.status()
    with Client(V3, regions=["us-east-1"]) as client, pytest.raises(errors.AuthError, match="no AWS credentials"):
        client.embed(["a"])


def test_a_stack_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(errors.DeployError, match="AWS could not be reached"):
        run.status(regions=["us-east-1"])


def test_waiting_ends_and_says_how_to_go_on(slow_account: Clock) -> None:
    run.subscribe(V3)
    hasty = Clock(now=slow_account.now, sleep=lambda seconds: slow_account.sleep(seconds * 600), random=lambda: 0.5)
    with pytest.raises(errors.DeployError, match=r"still Creating after 60 minutes.*run the same command to go on"):
        run.deploy(Spec(model=V3, regions=("us-east-1",)), clock=hasty)
