"""Pausing, resuming, autoscaling and an end set beforehand, as steps."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import errors
from jina_sm.deploy import plan, ttl
from jina_sm.deploy.plan import PAUSED_TAG, Call, Config, State, Wait
from jina_sm.deploy.scaling import ARN_OF, POLICY, Alarm, Scaling, Target
from jina_sm.deploy.ttl import Schedule, Ttl
from tests.unit.test_plan import CONFIG, DESIRED, MODEL, NAME, TAGS, endpoint, said

BUSY = Scaling(least=1, most=4, target=5.0)
ENDS = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
HOURS = Ttl(seconds=28800, ends=ENDS, role_arn=ttl.role_arn("123456789012"))
GUARDED = dataclasses.replace(DESIRED, scaling=BUSY, ttl=HOURS)
TARGET = Target(endpoint=NAME, least=1, most=4, policies={POLICY: 5.0}, arns={POLICY: f"arn/{POLICY}"})
SCHEDULE = Schedule(endpoint=NAME, seconds=28800, ends=ENDS)


def kept(paused: str | None = None) -> dict[str, Config]:
    tags = TAGS if paused is None else {**TAGS, PAUSED_TAG: paused}
    return {CONFIG: Config(arn=f"arn/{CONFIG}", tags=tags)}


def state(**more: Any) -> State:
    return State(**{"configs": (CONFIG,), "models": (MODEL,), "known": kept(), **more})


RUNNING = state(endpoints=(endpoint(),), targets=(TARGET,), schedules=(SCHEDULE,))


def test_what_ends_an_endpoint_is_there_before_it_and_scaling_after() -> None:
    steps = said(plan.deployment(GUARDED, State()))
    assert steps[2:] == [
        "create_schedule_group", "create_schedule", "create_endpoint", f"wait until {NAME} is in service",
        "register_scalable_target", "put_scaling_policy",
    ]  # fmt: skip


def test_deploying_the_same_twice_does_nothing_and_sets_no_later_end() -> None:
    later = dataclasses.replace(GUARDED, ttl=dataclasses.replace(HOURS, ends=ENDS + timedelta(hours=1)))
    assert plan.deployment(later, RUNNING) == []


def test_another_length_sets_another_end() -> None:
    (call,) = plan.deployment(dataclasses.replace(GUARDED, ttl=Ttl(seconds=60, ends=ENDS, role_arn="arn:r")), RUNNING)
    assert isinstance(call, Call)
    assert (call.operation, call.params["ScheduleExpression"]) == ("update_schedule", "at(2030-01-02T03:04:05)")


def test_what_is_not_asked_for_is_taken_off() -> None:
    assert said(plan.deployment(DESIRED, RUNNING)) == [
        "delete_scaling_policy", "deregister_scalable_target", "delete_schedule", "delete_schedule_group",
    ]  # fmt: skip


def test_a_schedule_that_has_done_its_work_is_made_again_in_its_group() -> None:
    done = state(schedules=(Schedule(endpoint=NAME),))
    steps = said(plan.deployment(GUARDED, done))
    assert "create_schedule" in steps
    assert "create_schedule_group" not in steps


def test_an_end_of_before_is_set_anew_for_an_endpoint_that_is_still_to_be_made() -> None:
    assert "update_schedule" in said(plan.deployment(GUARDED, state(schedules=(SCHEDULE,))))
    over = dataclasses.replace(SCHEDULE, ends=ENDS - timedelta(seconds=HOURS.seconds))
    assert said(plan.deployment(GUARDED, dataclasses.replace(RUNNING, schedules=(over,)))) == ["update_schedule"]


def test_an_update_that_was_asked_for_before_is_waited_for_and_another_is_made_after_it() -> None:
    updating = dataclasses.replace(endpoint("Updating", f"{NAME}-old"), pending=CONFIG)
    assert plan.deployment(DESIRED, state(endpoints=(updating,))) == [Wait(NAME, plan.IN_SERVICE, CONFIG)]
    other = dataclasses.replace(endpoint("Updating"), pending=f"{NAME}-other")
    assert said(plan.deployment(DESIRED, state(endpoints=(other,))))[:2] == [
        f"wait until {NAME} is in service",
        "update_endpoint",
    ]


def test_what_could_not_be_brought_back_is_not_paused() -> None:
    with pytest.raises(errors.DeployError, match="could not be brought back"):
        plan.pause(state(endpoints=(endpoint(config=f"{NAME}-gone"),)))


def test_a_rollback_removes_its_own_beside_an_endpoint_that_another_run_made_and_that_failed() -> None:
    made = [Call("create_endpoint_config", DESIRED.config_params)]
    assert said(plan.rollback(made, state(endpoints=(endpoint("Failed"),)))) == ["delete_endpoint_config"]


def test_other_bounds_are_registered_and_another_load_is_put() -> None:
    more = dataclasses.replace(GUARDED, scaling=dataclasses.replace(BUSY, most=6))
    assert said(plan.deployment(more, RUNNING)) == ["register_scalable_target"]
    hotter = dataclasses.replace(GUARDED, scaling=dataclasses.replace(BUSY, target=8.0))
    assert said(plan.deployment(hotter, RUNNING)) == ["put_scaling_policy"]


def test_an_update_takes_scaling_off_and_keeps_as_many_instances_as_there_are() -> None:
    larger = dataclasses.replace(GUARDED, instance_type="ml.g5.2xlarge")
    steps = plan.deployment(larger, RUNNING)
    assert said(steps) == [
        "create_endpoint_config", "delete_scaling_policy", "deregister_scalable_target", "update_endpoint",
        f"wait until {NAME} is in service", "register_scalable_target", "put_scaling_policy", "delete_endpoint_config",
    ]  # fmt: skip
    (update,) = [step for step in steps if isinstance(step, Call) and step.operation == "update_endpoint"]
    assert update.params["RetainAllVariantProperties"] is True


@pytest.mark.parametrize(
    ("instances", "targets"),
    [
        (4, ()),  # a run that ended after it took the scaling off
        (1, ()),
        (1, (TARGET,)),
    ],
)
def test_an_update_of_what_scales_leaves_no_fewer_instances(instances: int, targets: tuple[Target, ...]) -> None:
    larger = dataclasses.replace(GUARDED, instance_type="ml.g5.2xlarge")
    there = state(endpoints=(dataclasses.replace(endpoint(), instances=instances),), targets=targets)
    assert updating(larger, there)["RetainAllVariantProperties"] is True


def test_an_update_of_what_does_not_scale_has_as_many_instances_as_were_asked_for() -> None:
    larger = dataclasses.replace(DESIRED, instance_type="ml.g5.2xlarge")
    there = state(endpoints=(dataclasses.replace(endpoint(), instances=4),), targets=(TARGET,))
    assert "RetainAllVariantProperties" not in updating(larger, there)
    more = dataclasses.replace(GUARDED, instance_count=3)  # than there are, and nothing scales it yet
    alone = state(endpoints=(dataclasses.replace(endpoint(), instances=1),))
    assert "RetainAllVariantProperties" not in updating(more, alone)


def updating(desired: plan.Desired, there: State) -> Any:
    (call,) = [
        step
        for step in plan.deployment(desired, there)
        if isinstance(step, Call) and step.operation == "update_endpoint"
    ]
    return call.params


def serving(desired: plan.Desired, *, instances: int, **more: Any) -> State:
    """An endpoint of a config of its own, with as many instances as the load has it have."""
    config = desired.config_params["EndpointConfigName"]
    return State(
        **{
            "endpoints": (dataclasses.replace(endpoint(config=config), instances=instances),),
            "configs": (config,),
            "models": (MODEL,),
            "serving": {**desired.model_params, **desired.config_params},
            **more,
        }
    )


@pytest.mark.parametrize("instances", [1, 3, 4])
def test_other_bounds_make_no_other_config(instances: int) -> None:
    there = serving(DESIRED, instances=instances, targets=(TARGET,), schedules=(SCHEDULE,))
    higher = dataclasses.replace(GUARDED, instance_count=2, scaling=dataclasses.replace(BUSY, least=2))
    (call,) = plan.deployment(higher, there)
    assert isinstance(call, Call)
    assert (call.operation, call.params["MinCapacity"], call.params["MaxCapacity"]) == (
        "register_scalable_target",
        2,
        4,
    )
    assert plan.changes(higher, there) == ("autoscaling: 1-4@5 -> 2-4@5",)


def test_what_begins_to_scale_is_registered_as_it_is() -> None:
    two = dataclasses.replace(DESIRED, instance_count=2)
    scaled = dataclasses.replace(DESIRED, scaling=BUSY)
    assert said(plan.deployment(scaled, serving(two, instances=2))) == [
        "register_scalable_target",
        "put_scaling_policy",
    ]
    always = dataclasses.replace(DESIRED, instance_count=3, scaling=dataclasses.replace(BUSY, least=3))
    assert said(plan.deployment(always, serving(two, instances=2))) == [
        "register_scalable_target",
        "put_scaling_policy",
    ]
    # To begin with more than the fewest takes instances that nothing else would bring.
    assert "update_endpoint" in said(
        plan.deployment(dataclasses.replace(two, scaling=BUSY), serving(DESIRED, instances=1))
    )


def test_a_count_that_nothing_scales_is_another_config() -> None:
    there = serving(DESIRED, instances=1, targets=(TARGET,))
    assert "update_endpoint" in said(plan.deployment(dataclasses.replace(DESIRED, instance_count=2), there))


def test_what_nothing_scales_any_more_gets_its_count_back() -> None:
    busy = dataclasses.replace(endpoint(), instances=4, wanted=4)
    there = serving(DESIRED, instances=4, endpoints=(busy,), targets=(TARGET,))
    steps = plan.deployment(DESIRED, there)
    assert [str(step) for step in steps[-2:]] == [
        f"update endpoint weights and capacities {NAME}: 1 instances", f"wait until {NAME} is in service",
    ]  # fmt: skip
    assert "deregister_scalable_target" in said(steps[:-2])
    assert plan.changes(DESIRED, there) == ("instances: 4 -> 1", "autoscaling: 1-4@5 -> none")
    assert plan.deployment(GUARDED, dataclasses.replace(there, schedules=(SCHEDULE,))) == [], "the load has it have 4"
    back = dataclasses.replace(there, endpoints=(dataclasses.replace(busy, wanted=1),), targets=())
    assert plan.deployment(DESIRED, back) == [], "what AWS is about to do is not asked for again"


def test_bounds_that_change_together_with_something_else_come_with_the_new_config() -> None:
    there = serving(DESIRED, instances=1, targets=(TARGET,))
    larger = dataclasses.replace(DESIRED, instance_type="ml.g5.2xlarge", instance_count=2)
    scaled = dataclasses.replace(larger, scaling=dataclasses.replace(BUSY, least=2))
    assert updating(scaled, there)["EndpointConfigName"] == scaled.config_params["EndpointConfigName"]


def test_a_plan_says_what_is_different() -> None:
    serving = {**DESIRED.model_params, **DESIRED.config_params, "CreationTime": ENDS}
    there = dataclasses.replace(RUNNING, serving=serving)
    assert plan.changes(GUARDED, there) == ()
    several = dataclasses.replace(DESIRED, fallbacks=("ml.g5.2xlarge",), instance_count=2, subnets=("subnet-1",))
    assert plan.changes(several, there) == (
        "instance types: ml.g5.xlarge -> ml.g5.xlarge, ml.g5.2xlarge",
        "instances: 1 -> 2",
        "subnets: none -> subnet-1",
        "autoscaling: 1-4@5 -> none",
        "ttl: 8h -> none",
    )
    assert plan.changes(several, State()) == ()


def test_instance_types_for_want_of_the_first_become_pools_in_that_order() -> None:
    several = dataclasses.replace(DESIRED, fallbacks=("ml.g5.2xlarge", "ml.g6.xlarge"))
    (variant,) = several.config_params["ProductionVariants"]
    assert "InstanceType" not in variant
    assert [(each["InstanceType"], each["Priority"]) for each in variant["InstancePools"]] == [
        ("ml.g5.xlarge", 1), ("ml.g5.2xlarge", 2), ("ml.g6.xlarge", 3),
    ]  # fmt: skip


def test_pausing_keeps_what_the_endpoint_was_made_from_and_how_it_scaled() -> None:
    steps = plan.pause(RUNNING)
    assert said(steps) == [
        "add_tags", "delete_scaling_policy", "deregister_scalable_target", "delete_endpoint",
        f"wait until {NAME} is gone", "delete_schedule", "delete_schedule_group",
    ]  # fmt: skip
    assert steps[0] == Call(
        "add_tags", {"ResourceArn": f"arn/{CONFIG}", "Tags": [{"Key": PAUSED_TAG, "Value": "1-4@5 ttl=28800"}]}
    )


@pytest.mark.parametrize("mark", ["1-4@5 ttl=28800", "1-4@5", "0-4@5 waiting ttl=60", "ttl=60", "", "ttl=soon"])
def test_what_a_pause_keeps_is_read_back_as_far_as_there_was_any(mark: str) -> None:
    config = kept(mark)[CONFIG]
    assert (str(config.scaling), config.ttl_s) == {
        "1-4@5 ttl=28800": ("1-4@5", 28800),
        "1-4@5": ("1-4@5", None),
        "0-4@5 waiting ttl=60": ("0-4@5 waiting", 60),
        "ttl=60": ("None", 60),
    }.get(mark, ("None", None))


def test_pausing_on_does_not_forget_how_it_scaled() -> None:
    halfway = state(endpoints=(endpoint(),), known=kept("1-4@5"))
    assert said(plan.pause(halfway)) == ["delete_endpoint", f"wait until {NAME} is gone"]


def test_what_is_paused_says_so_until_it_is_back() -> None:
    assert state(known=kept("")).paused == (NAME,)
    assert state(known=kept(""), endpoints=(endpoint(),)).paused == ()
    assert state().paused == ()


def test_resuming_makes_it_as_it_was() -> None:
    steps = plan.resume(state(known=kept("1-4@5")))
    assert said(steps) == [
        "create_endpoint", f"wait until {NAME} is in service", "register_scalable_target", "put_scaling_policy",
        "delete_tags",
    ]  # fmt: skip
    assert isinstance(steps[0], Call)
    assert {tag["Key"]: tag["Value"] for tag in steps[0].params["Tags"]} == TAGS


def test_what_is_in_service_needs_no_resuming() -> None:
    assert plan.resume(RUNNING) == []


def test_what_was_deleted_by_its_schedule_can_be_resumed_too() -> None:
    left = state(targets=(TARGET,), schedules=(Schedule(endpoint=NAME),))
    assert said(plan.resume(left)) == [
        "delete_scaling_policy", "deregister_scalable_target", "create_endpoint", f"wait until {NAME} is in service",
        "register_scalable_target", "put_scaling_policy",
    ]  # fmt: skip


@pytest.mark.parametrize("configs", [(), (f"{NAME}-11111111", f"{NAME}-22222222")])
def test_resuming_needs_one_config(configs: tuple[str, ...]) -> None:
    with pytest.raises(errors.DeployError, match="one endpoint config"):
        plan.resume(State(configs=configs, known={name: Config(arn="a", tags=TAGS) for name in configs}))


def test_deploying_what_is_paused_brings_it_back() -> None:
    steps = said(plan.deployment(DESIRED, state(known=kept("1-4@5"))))
    assert steps == ["create_endpoint", f"wait until {NAME} is in service", "delete_tags"]


def test_teardown_ends_scaling_first_and_the_schedule_after_the_endpoint() -> None:
    assert said(plan.teardown(dataclasses.replace(RUNNING, logs=(NAME,)))) == [
        "delete_scaling_policy", "deregister_scalable_target", "delete_endpoint", f"wait until {NAME} is gone",
        "delete_schedule", "delete_schedule_group", "delete_log_group", "delete_endpoint_config", "delete_model",
    ]  # fmt: skip


def test_a_rollback_takes_the_schedule_of_what_never_served() -> None:
    made = [step for step in plan.deployment(GUARDED, State()) if isinstance(step, Call)][:5]
    failed = state(endpoints=(endpoint("Failed"),), schedules=(SCHEDULE,))
    assert said(plan.rollback(made, failed))[-4:] == [
        "delete_schedule", "delete_schedule_group", "delete_endpoint_config", "delete_model",
    ]  # fmt: skip
    assert "delete_schedule" not in said(plan.rollback([], failed))


def test_what_aws_tells_of_a_schedule_is_read_back() -> None:
    (_, call) = ttl.set_to(NAME, HOURS, None, TAGS)
    assert ttl.read(NAME, call.params) == SCHEDULE
    assert ttl.read(NAME, {"ScheduleExpression": "rate(1 day)"}) == Schedule(endpoint=NAME, seconds=0)


@given(st.integers(1, 100), st.integers(1, 100), st.floats(0.01, 1000))
def test_how_it_scaled_is_read_back(least: int, most: int, target: float) -> None:
    scaled = Scaling(least=least, most=most, target=float(f"{target:g}"))
    assert Scaling.read(str(scaled)) == scaled


def applied(step: plan.Step, now: State) -> State:  # noqa: PLR0912, PLR0915
    """What AWS holds after a step, in its simplest form."""
    endpoints = {each.name: each for each in now.endpoints}
    configs, models = set(now.configs), set(now.models)
    targets = {each.endpoint: each for each in now.targets}
    schedules = {each.endpoint: each for each in now.schedules}
    alarms = {each.endpoint: each for each in now.alarms}
    known = dict(now.known)
    if isinstance(step, Wait):
        there = endpoints.pop(step.endpoint, None)
        if there and None not in step.until:
            endpoints[step.endpoint] = dataclasses.replace(there, status="InService")
    else:
        match step.operation:
            case "create_endpoint":
                endpoints[step.name] = endpoint("Creating", step.params["EndpointConfigName"])
            case "update_endpoint":
                endpoints[step.name] = endpoint("Updating", step.params["EndpointConfigName"])
            case "delete_endpoint":
                endpoints[step.name] = endpoint("Deleting")
            case "create_endpoint_config":
                configs.add(step.name)
                known[step.name] = Config(arn=f"arn/{step.name}", tags=TAGS)
            case "delete_endpoint_config":
                configs.discard(step.name)
            case "create_model":
                models.add(step.name)
            case "delete_model":
                models.discard(step.name)
            case "add_tags" | "delete_tags":
                tags = {key: value for key, value in known[step.name].tags.items() if key != PAUSED_TAG}
                added = {tag["Key"]: tag["Value"] for tag in step.params.get("Tags", [])}
                known[step.name] = dataclasses.replace(known[step.name], tags={**tags, **added})
            case "register_scalable_target":
                before = targets.get(step.name, Target(endpoint=step.name, least=0, most=0))
                bounds = {"least": step.params["MinCapacity"], "most": step.params["MaxCapacity"]}
                targets[step.name] = dataclasses.replace(before, **bounds)
            case "put_scaling_policy":
                load = step.params.get("TargetTrackingScalingPolicyConfiguration", {}).get("TargetValue")
                policy, there_is = step.params["PolicyName"], targets[step.name]
                policies, arns = {**there_is.policies, policy: load}, {**there_is.arns, policy: f"arn/{policy}"}
                targets[step.name] = dataclasses.replace(there_is, policies=policies, arns=arns)
            case "delete_scaling_policy":
                policy, there_is = step.params["PolicyName"], targets[step.name]
                left = {name: load for name, load in there_is.policies.items() if name != policy}
                arns = {name: arn for name, arn in there_is.arns.items() if name != policy}
                targets[step.name] = dataclasses.replace(there_is, policies=left, arns=arns)
            case "put_metric_alarm":
                of = step.params["Dimensions"][0]["Value"]
                actions = (targets[of].arns[each.removeprefix(ARN_OF)] for each in step.params["AlarmActions"])
                alarms[of] = Alarm(endpoint=of, actions=tuple(actions))
            case "delete_alarms":
                alarms = {of: each for of, each in alarms.items() if each.name not in step.params["AlarmNames"]}
            case "deregister_scalable_target":
                del targets[step.name]
            case "create_schedule_group":
                schedules[step.name] = Schedule(endpoint=step.name)
            case "create_schedule" | "update_schedule":
                schedules[step.name] = ttl.read(step.name, step.params)
            case "delete_schedule":
                schedules[step.name] = Schedule(endpoint=step.name)
            case "delete_schedule_group":
                del schedules[step.name]
            case other:
                raise AssertionError(other)
    return State(
        endpoints=tuple(endpoints.values()),
        configs=tuple(sorted(configs)),
        models=tuple(sorted(models)),
        targets=tuple(targets.values()),
        schedules=tuple(schedules.values()),
        alarms=tuple(alarms.values()),
        known={name: each for name, each in known.items() if name in configs},
    )


OLD = f"{NAME}-old"
states = st.builds(
    lambda endpoints, old, target, schedule, mark: State(
        endpoints=endpoints,
        configs=(CONFIG, OLD) if old else (CONFIG,),
        models=(MODEL,),
        targets=target,
        schedules=schedule,
        known={**kept(mark), OLD: Config(arn="arn/old", tags=TAGS)} if old else kept(mark),
    ),
    st.sampled_from(
        [(), *((endpoint(status),) for status in ("InService", "Creating", "Updating", "Failed", "Deleting"))]
    ),
    st.booleans(),
    st.sampled_from([(), (TARGET,), (dataclasses.replace(TARGET, policies={}),), (dataclasses.replace(TARGET, policies={"x": None}),)]),
    st.sampled_from([(), (SCHEDULE,), (Schedule(endpoint=NAME),), (dataclasses.replace(SCHEDULE, seconds=60),)]),
    st.sampled_from([None, "", "2-3@7"]),
)  # fmt: skip


def ended(steps: list[plan.Step], now: State) -> State:
    for step in steps:
        now = applied(step, now)
    return now


@given(states, st.data(), st.sampled_from([DESIRED, GUARDED, dataclasses.replace(GUARDED, instance_count=2)]))
def test_from_any_state_stopped_anywhere_deploying_again_ends_the_same(
    now: State, data: st.DataObject, desired: plan.Desired
) -> None:
    steps = plan.deployment(desired, now)
    now = ended(steps[: data.draw(st.integers(0, len(steps)))], now)
    now = ended(plan.deployment(desired, now), now)
    (there,) = now.endpoints
    assert (there.status, there.config) == ("InService", desired.config_params["EndpointConfigName"])
    assert [each.scaling for each in now.targets] == ([BUSY] if desired.scaling else [])
    assert [each.seconds for each in now.schedules] == ([28800] if desired.ttl else [])
    assert now.paused == ()
    assert plan.deployment(desired, now) == []


@given(states, st.data())
def test_from_any_state_stopped_anywhere_teardown_leaves_nothing(now: State, data: st.DataObject) -> None:
    steps = plan.teardown(now)
    now = ended(steps[: data.draw(st.integers(0, len(steps)))], now)
    assert ended(plan.teardown(now), now).empty


@given(st.sampled_from([(), (TARGET,)]), st.sampled_from([(), (SCHEDULE,)]), st.data())
def test_stopped_anywhere_pausing_and_resuming_again_brings_back_what_was(
    target: tuple[Target, ...], schedule: tuple[Schedule, ...], data: st.DataObject
) -> None:
    before = now = state(endpoints=(endpoint(),), targets=target, schedules=schedule)
    for act in (plan.pause, plan.resume):
        steps = act(now)
        now = ended(steps[: data.draw(st.integers(0, len(steps)))], now)
        now = ended(act(now), now)
        if act is plan.pause:
            assert (now.endpoints, now.targets, now.schedules, now.paused) == ((), (), (), (NAME,))
    (was,), (there,) = before.endpoints, now.endpoints
    assert (there.name, there.config, there.status) == (was.name, was.config, was.status)
    assert (now.targets, now.configs, now.models, now.known) == (target, before.configs, before.models, before.known)
