"""
What a Spec may say, AWS takes: every call that can be planned for it satisfies the service models botocore ships,
lengths, patterns and enumerations included. What AWS would refuse, the Spec refuses before anything is asked.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import botocore.session
import botocore.validate
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jina_sm import Spec, catalog, errors
from jina_sm.deploy import plan, ttl
from jina_sm.deploy.plan import PAUSED_TAG, Call, Config, Desired, Endpoint, State
from jina_sm.deploy.scaling import Scaling, Target
from jina_sm.deploy.spec import checked
from jina_sm.deploy.ttl import Schedule, Ttl
from jina_sm.local.protocol import check

KNOWN = catalog.load(environ={})
ACCOUNT = "123456789012"
NOW = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
MODELS = [model.key for model in KNOWN.models.values() if model.package]
# Where AWS's patterns and ours could differ: marks, digits of other scripts, all sorts of blanks, and what ends a line.
LETTERS = "aZ09 _.:/=+-@é語٣①ᛮ\u00a0\u2028\t\n\r\x00‿\u0301#€"


@cache
def service(name: str) -> Any:
    return botocore.session.get_session().get_service_model(name)


def taken(call: Call) -> None:
    """Raises what AWS would raise for its parameters."""
    names = {botocore.xform_name(name): name for name in service(call.service).operation_names}
    shape = service(call.service).operation_model(names[call.operation]).input_shape
    report = botocore.validate.ParamValidator().validate(dict(call.params), shape)
    assert not report.has_errors(), f"{call}: {report.generate_report()}"
    check(shape, orjson.loads(orjson.dumps(dict(call.params))))


def aws_takes_tag(text: str) -> bool:
    return all(letter in "_.:/=+-@" or unicodedata.category(letter)[0] in "LZN" for letter in text)


def desired_of(spec: Spec) -> Iterator[Desired]:
    model = KNOWN.model(spec.model)
    for region in spec.regions:
        scaled = spec.autoscaling
        yield Desired(
            region=region,
            model=model.key,
            endpoint=catalog.endpoint_name(model, spec.name),
            package_arn=KNOWN.package_arn(model, region),
            role_arn=spec.role_arn or f"arn:aws:iam::{ACCOUNT}:role/jina-sm-execution",
            instance_type=spec.instance_type,
            instance_count=max(spec.instance_count, scaled.min if scaled else 1),
            fallbacks=spec.instance_types[1:],
            tags=spec.tags,
            subnets=spec.vpc[region].subnets if region in spec.vpc else (),
            security_groups=spec.vpc[region].security_groups if region in spec.vpc else (),
            kms_key=spec.kms_key,
            scaling=Scaling(least=scaled.min, most=scaled.max, target=scaled.target) if scaled else None,
            ttl=Ttl(
                seconds=spec.ttl,
                ends=NOW + timedelta(seconds=spec.ttl),
                role_arn=ttl.role_arn(ACCOUNT),
                role=ttl.role(ACCOUNT, there=False, policy=None),
            )
            if spec.ttl
            else None,
        )


def planned(desired: Desired) -> Iterator[Call]:
    """Every kind of call that any command can make for it, from nothing, from something else, and back to nothing."""
    name, config = desired.endpoint, desired.config_params["EndpointConfigName"]
    tags = {tag["Key"]: tag["Value"] for tag in desired.all_tags}
    there = Endpoint(name=name, arn=f"arn:aws:sagemaker:{desired.region}:{ACCOUNT}:endpoint/{name}", status="InService", config=config, tags=tags, created=NOW)  # fmt: skip
    arn = f"arn:aws:sagemaker:{desired.region}:{ACCOUNT}:endpoint-config/{config}"
    scaled = desired.scaling or Scaling(least=1, most=2, target=5.0)
    running = State(
        endpoints=(there,),
        configs=(config,),
        models=(desired.model_params["ModelName"],),
        targets=(Target(endpoint=name, least=scaled.least, most=scaled.most, policies={"jina-sm-concurrency": scaled.target}),),
        schedules=(Schedule(endpoint=name, seconds=60, ends=NOW + timedelta(hours=1)),),
        logs=(name,),
        known={config: Config(arn=arn, tags=tags)},
    )  # fmt: skip
    paused = dataclasses.replace(
        running,
        endpoints=(),
        targets=(),
        known={config: Config(arn=arn, tags={**tags, PAUSED_TAG: str(desired.scaling or "")})},
    )
    made = [step for step in plan.deployment(desired, State()) if isinstance(step, Call)]
    for steps in (
        made,
        plan.deployment(dataclasses.replace(desired, instance_count=desired.instance_count + 1), running),
        plan.deployment(desired, paused),
        plan.pause(running),
        plan.resume(paused),
        plan.teardown(running),
        plan.rollback(made, dataclasses.replace(running, endpoints=(dataclasses.replace(there, status="Failed"),))),
    ):
        yield from (step for step in steps if isinstance(step, Call))


regions = st.lists(st.sampled_from(KNOWN.regions), min_size=1, max_size=3, unique=True)
hexadecimal = st.text("0123456789abcdef", min_size=8, max_size=17)
types = st.sampled_from(["ml.g5.xlarge", "ml.g5.2xlarge", "ml.g6.xlarge", "ml.g5.12xlarge", "ml.p4d.24xlarge"])


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    where = draw(regions)
    fields: dict[str, Any] = {"model": draw(st.sampled_from(MODELS)), "regions": where}
    optional: dict[str, st.SearchStrategy[Any]] = {
        "name": st.from_regex(r"\A[a-zA-Z0-9](-{0,3}[a-zA-Z0-9]){0,45}\Z").filter(lambda name: len(name) <= 46),
        "instance_types": st.lists(types, min_size=2, max_size=5, unique=True),
        "instance_count": st.integers(1, 100),
        "role_arn": st.from_regex(r"\Aarn:aws(-cn|-us-gov)?:iam::[0-9]{12}:role/[a-zA-Z_0-9+=,.@/-]{1,64}\Z"),
        "tags": st.dictionaries(
            st.text("aZ09 _.:/=+-@é語", min_size=1, max_size=128).filter(
                lambda key: not key.lower().startswith("aws:")
            ),
            st.text("aZ09 _.:/=+-@é語", min_size=1, max_size=256),
            max_size=40,
        ),
        "kms_key": st.from_regex(r"\A[a-zA-Z0-9:/_-]{1,64}\Z").filter(lambda key: not key.startswith("arn:")),
        "ttl": st.integers(60, 365 * 86400),
        "vpc": st.fixed_dictionaries(
            {
                region: st.fixed_dictionaries(
                    {
                        "subnets": st.lists(hexadecimal.map("subnet-{}".format), min_size=1, max_size=16),
                        "security_groups": st.lists(hexadecimal.map("sg-{}".format), min_size=1, max_size=5),
                    }
                )
                for region in where
            }
        ),
    }
    for name in draw(st.sets(st.sampled_from([*optional, "autoscaling"]))):
        if name == "autoscaling":
            least, more = draw(st.integers(1, 50)), draw(st.integers(0, 50))
            load = draw(st.floats(0.01, 1000, allow_nan=False))
            fields["autoscaling"] = {"min": least, "max": least + more, "target": load}
        else:
            fields[name] = draw(optional[name])
    if "autoscaling" in fields:
        fields["instance_count"] = min(fields.get("instance_count", 1), fields["autoscaling"]["max"])
    return checked(KNOWN, **fields)


@given(specs())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_what_a_spec_may_say_aws_takes(spec: Spec) -> None:
    for desired in desired_of(spec):
        for call in planned(desired):
            taken(call)
            if tags := call.params.get("Tags"):
                assert len(tags) <= 50
                assert all(map(aws_takes_tag, map(str, tags)) if isinstance(tags, dict) else (aws_takes_tag(tag["Key"]) and aws_takes_tag(tag["Value"]) for tag in tags))  # fmt: skip


def accepted(**fields: Any) -> bool:
    try:
        checked(KNOWN, **{"model": MODELS[0], "regions": ("us-east-1",), **fields})
    except errors.InputError:
        return False
    return True


@given(st.text(LETTERS, max_size=260), st.text(LETTERS, max_size=4))
def test_a_tag_is_taken_as_aws_takes_it(value: str, key: str) -> None:
    """A schedule takes no empty value; keys of AWS's own and of this tool's are nobody else's."""
    assert accepted(tags={"k": value}) == (1 <= len(value) <= 256 and aws_takes_tag(value))
    assert accepted(tags={key: "v"}) == (bool(key) and aws_takes_tag(key))


@pytest.mark.parametrize("key", ["aws:x", "AWS:x", "managed-by", "jina-sm:model", "jina-sm:paused", "k" * 129])
def test_a_tag_that_says_what_is_whose_is_nobodys_to_give(key: str) -> None:
    assert not accepted(tags={key: "v"})
    assert accepted(tags={key.replace(":", "").replace("-", "")[:128] or "k": "v"})


@given(
    st.text("aZ0-_.é٣ \n", max_size=48),
    st.text("aZ09:/_-é٣ .\n", max_size=40),
    st.text("aZ09+=,.@/_- é٣\n", max_size=40),
    st.text("09٣a", min_size=8, max_size=10),
)
def test_names_keys_roles_and_subnets_are_taken_as_aws_takes_them(name: str, key: str, role: str, digits: str) -> None:
    endpoint = re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", name, re.ASCII)
    assert accepted(name=name) == (endpoint is not None and len(name) <= 46)
    if not key.startswith("arn:"):
        assert accepted(kms_key=key) == bool(key and re.fullmatch("[a-zA-Z0-9:/_-]*", key, re.ASCII))
    arn = f"arn:aws:iam::{ACCOUNT}:role/{role}"
    assert accepted(role_arn=arn) == bool(
        re.fullmatch(r"arn:aws:iam::\d{12}:role/[a-zA-Z_0-9+=,.@\-_/]+", arn, re.ASCII)
    )
    assert accepted(role_arn=f"arn:aws:iam::1234{digits[:8]}:role/x") == bool(re.fullmatch("[0-9]{8}", digits[:8]))
    vpc = {"us-east-1": {"subnets": [f"subnet-{digits}"], "security_groups": [f"sg-{digits}"]}}
    assert accepted(vpc=vpc) == bool(re.fullmatch("[0-9a-f]+", digits))


def test_a_call_that_aws_would_refuse_is_noticed() -> None:
    (desired,) = desired_of(checked(KNOWN, model=MODELS[0], regions=("us-east-1",)))
    for call in planned(dataclasses.replace(desired, endpoint="a_b")):
        if call.operation == "create_endpoint":
            with pytest.raises(Exception, match="pattern"):
                taken(call)
