"""From what should be and what is, the calls between."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import errors
from jina_sm.deploy import plan
from jina_sm.deploy.plan import GONE, IN_SERVICE, Call, Desired, Endpoint, State, Wait

DESIRED = Desired(
    region="us-east-1",
    model="jina-embeddings-v3",
    endpoint="jina-sm-embeddings-v3",
    package_arn="arn:aws:sagemaker:us-east-1:865070037744:model-package/jina-embeddings-v3-380c",
    role_arn="arn:aws:iam::123456789012:role/jina-sm-execution",
    instance_type="ml.g5.xlarge",
    instance_count=1,
)
NAME = DESIRED.endpoint
CONFIG = DESIRED.config_params["EndpointConfigName"]
MODEL = DESIRED.model_params["ModelName"]
TAGS = {tag["Key"]: tag["Value"] for tag in DESIRED.all_tags}


def endpoint(status: str = "InService", config: str = CONFIG, tags: dict[str, str] | None = None) -> Endpoint:
    return Endpoint(
        name=NAME,
        arn="arn",
        status=status,
        config=config,
        tags=TAGS if tags is None else tags,
        created=datetime.now(UTC),
    )


def said(steps: list[plan.Step]) -> list[str]:
    return [step.operation if isinstance(step, Call) else str(step) for step in steps]


def test_the_first_deployment_makes_everything_in_order() -> None:
    steps = plan.deployment(DESIRED, State())
    assert said(steps) == [
        "create_model", "create_endpoint_config", "create_endpoint", f"wait until {NAME} is in service",
    ]  # fmt: skip


def test_deploying_twice_does_nothing() -> None:
    assert plan.deployment(DESIRED, State(endpoints=(endpoint(),), configs=(CONFIG,), models=(MODEL,))) == []


def test_an_interrupted_deployment_goes_on_from_what_is_there() -> None:
    assert said(plan.deployment(DESIRED, State(models=(MODEL,))))[0] == "create_endpoint_config"
    assert said(plan.deployment(DESIRED, State(models=(MODEL,), configs=(CONFIG,))))[0] == "create_endpoint"
    creating = State(endpoints=(endpoint("Creating"),), models=(MODEL,), configs=(CONFIG,))
    assert plan.deployment(DESIRED, creating) == [Wait(NAME, IN_SERVICE)]


def test_other_parameters_make_another_config_and_update_the_endpoint() -> None:
    larger = dataclasses.replace(DESIRED, instance_count=2)
    steps = plan.deployment(larger, State(endpoints=(endpoint(),), configs=(CONFIG,), models=(MODEL,)))
    assert said(steps) == [
        "create_endpoint_config", "update_endpoint", f"wait until {NAME} is in service", "delete_endpoint_config",
    ]  # fmt: skip
    assert steps[-1] == Call("delete_endpoint_config", {"EndpointConfigName": CONFIG})


def test_an_interrupted_update_cleans_up_what_the_first_run_left() -> None:
    there = State(endpoints=(endpoint(),), configs=(CONFIG, f"{NAME}-old"), models=(f"{NAME}-old", MODEL))
    assert said(plan.deployment(DESIRED, there)) == ["delete_endpoint_config", "delete_model"]


def test_a_failed_endpoint_is_made_again() -> None:
    there = State(endpoints=(endpoint("Failed"),), configs=(CONFIG,), models=(MODEL,))
    steps = plan.deployment(DESIRED, there)
    assert said(steps)[:3] == ["delete_endpoint", f"wait until {NAME} is gone", "create_endpoint"]


def test_an_endpoint_being_deleted_is_waited_for_and_made_again() -> None:
    steps = plan.deployment(DESIRED, State(endpoints=(endpoint("Deleting"),)))
    assert steps[0] == Wait(NAME, GONE)
    assert "create_endpoint" in said(steps)


def test_somebody_elses_endpoint_is_not_touched() -> None:
    with pytest.raises(errors.NameTakenError, match="was not made by this tool"):
        plan.deployment(DESIRED, State(endpoints=(endpoint(tags={"team": "other"}),)))


@pytest.mark.parametrize("status", ["OutOfService", "UpdateRollbackFailed"])
def test_an_endpoint_that_needs_a_person_is_left_to_one(status: str) -> None:
    with pytest.raises(errors.EndpointFailedError, match=f"jina-sm teardown {NAME} "):
        plan.deployment(DESIRED, State(endpoints=(endpoint(status),)))


def test_teardown_removes_in_the_order_aws_needs() -> None:
    steps = plan.teardown(State(endpoints=(endpoint("Creating"),), configs=(CONFIG,), models=(MODEL,)))
    assert isinstance(steps[0], Wait)
    assert "Failed" in steps[0].until
    assert said(steps)[1:] == [
        "delete_endpoint",
        f"wait until {NAME} is gone",
        "delete_endpoint_config",
        "delete_model",
    ]


def test_an_endpoint_already_being_deleted_is_only_waited_for() -> None:
    assert plan.teardown(State(endpoints=(endpoint("Deleting"),))) == [Wait(NAME, GONE)]


def test_a_rollback_removes_what_this_run_made_and_nothing_else() -> None:
    made = [Call("create_endpoint_config", DESIRED.config_params), Call("create_endpoint", DESIRED.endpoint_params)]
    there = State(endpoints=(endpoint("Failed"),), configs=(CONFIG, f"{NAME}-other"), models=(MODEL,))
    assert plan.rollback(made, there) == [
        Call("delete_endpoint", {"EndpointName": NAME}),
        Wait(NAME, GONE),
        Call("delete_endpoint_config", {"EndpointConfigName": CONFIG}),
    ]


def test_what_serves_is_never_rolled_back() -> None:
    made = [
        Call("create_model", DESIRED.model_params),
        Call("create_endpoint_config", DESIRED.config_params),
        Call("update_endpoint", DESIRED.endpoint_params),
    ]
    serving = State(endpoints=(endpoint(),), configs=(CONFIG, f"{NAME}-old"), models=(MODEL,))
    assert plan.rollback(made, serving) == []
    assert plan.rollback([*made, Call("create_endpoint", DESIRED.endpoint_params)], serving) == []
    mixed = dataclasses.replace(serving, endpoints=(endpoint("UpdateRollbackFailed", f"{NAME}-old"),))
    assert plan.rollback(made, mixed) == []
    rolled_back_by_aws = dataclasses.replace(serving, endpoints=(endpoint(config=f"{NAME}-old"),))
    assert said(plan.rollback(made, rolled_back_by_aws)) == ["delete_endpoint_config", "delete_model"]


def test_an_endpoint_of_another_model_is_not_taken_over() -> None:
    other = {**TAGS, plan.MODEL_TAG: "jina-reranker-v2-base-multilingual"}
    with pytest.raises(
        errors.NameTakenError, match="serves jina-reranker-v2-base-multilingual, not jina-embeddings-v3"
    ):
        plan.deployment(DESIRED, State(endpoints=(endpoint(tags=other),)))


def test_a_busy_endpoint_keeps_no_other_waiting() -> None:
    busy = dataclasses.replace(endpoint("Updating"), name="jina-sm-a")
    state = State(
        endpoints=(busy, endpoint()), configs=("jina-sm-a-11111111", CONFIG), models=("jina-sm-b-22222222", MODEL)
    )
    first, second, third = state.by_endpoint()
    assert (first.endpoints, first.configs, first.models) == ((endpoint_like(first),), (CONFIG,), (MODEL,))
    assert (second.endpoints, second.models) == ((), ("jina-sm-b-22222222",))
    assert (third.endpoints, third.configs) == ((busy,), ("jina-sm-a-11111111",))


def endpoint_like(part: State) -> Endpoint:
    return next(each for each in part.endpoints if each.name == NAME)


def test_names_follow_from_parameters_and_from_nothing_else() -> None:
    assert dataclasses.replace(DESIRED, tags={"team": "a"}).config_params["EndpointConfigName"] == CONFIG
    assert dataclasses.replace(DESIRED, instance_type="ml.g5.2xlarge").config_params["EndpointConfigName"] != CONFIG
    assert dataclasses.replace(DESIRED, role_arn="arn:other").model_params["ModelName"] != MODEL


def test_our_tags_cannot_be_overridden() -> None:
    tags = {tag["Key"]: tag["Value"] for tag in dataclasses.replace(DESIRED, tags={"managed-by": "me"}).all_tags}
    assert plan.is_ours(tags)


def applied(step: plan.Step, state: State) -> State:
    """What AWS holds after a step, in its simplest form."""
    endpoints = {each.name: each for each in state.endpoints}
    configs, models = set(state.configs), set(state.models)
    if isinstance(step, Wait):
        now = endpoints.pop(step.endpoint, None)
        if now and None not in step.until:
            endpoints[step.endpoint] = dataclasses.replace(now, status="InService")
    elif step.operation == "create_endpoint":
        endpoints[step.name] = endpoint("Creating", step.params["EndpointConfigName"])
    elif step.operation == "update_endpoint":
        endpoints[step.name] = endpoint("Updating", step.params["EndpointConfigName"])
    elif step.operation == "delete_endpoint":
        endpoints[step.name] = endpoint("Deleting")
    else:
        verb, _, kind = step.operation.partition("_")
        names = models if kind == "model" else configs
        (names.add if verb == "create" else names.discard)(step.name)
    return State(endpoints=tuple(endpoints.values()), configs=tuple(sorted(configs)), models=tuple(sorted(models)))


states = st.builds(
    State,
    endpoints=st.sampled_from(
        [(), *((endpoint(status, config),) for status in ("InService", "Creating", "Updating", "Failed", "Deleting") for config in (CONFIG, f"{NAME}-old"))]
    ),
    configs=st.sets(st.sampled_from([CONFIG, f"{NAME}-old"])).map(sorted).map(tuple),
    models=st.sets(st.sampled_from([MODEL, f"{NAME}-old"])).map(sorted).map(tuple),
)  # fmt: skip


@given(states, st.data())
def test_from_any_state_stopped_anywhere_deploying_again_ends_the_same(state: State, data: st.DataObject) -> None:
    steps = plan.deployment(DESIRED, state)
    for step in steps[: data.draw(st.integers(0, len(steps)))]:
        state = applied(step, state)
    for step in plan.deployment(DESIRED, state):
        state = applied(step, state)
    (there,) = state.endpoints
    assert (there.status, there.config, state.configs, state.models) == ("InService", CONFIG, (CONFIG,), (MODEL,))
    assert plan.deployment(DESIRED, state) == []


@given(states, st.data())
def test_from_any_state_stopped_anywhere_teardown_leaves_nothing(state: State, data: st.DataObject) -> None:
    steps = plan.teardown(state)
    for step in steps[: data.draw(st.integers(0, len(steps)))]:
        state = applied(step, state)
    for step in plan.teardown(state):
        state = applied(step, state)
    assert state.empty
