"""Which fault meets which call, decided without a clock or a wire."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from jina_sm.errors import InputError
from jina_sm.local.faults import Fault, Faults, disordered


def fired(faults: Faults, *operations: str, region: str = "us-east-1") -> list[int]:
    return [len(faults.firing(operation, region)) for operation in operations]


def test_a_fault_strikes_what_its_pattern_fits() -> None:
    faults = Faults()
    faults.add({"kind": "throttle", "operation": "Create*", "region": "eu-*"})
    assert fired(faults, "CreateModel", "DescribeModel", region="eu-west-1") == [1, 0]
    assert fired(faults, "CreateModel") == [0]


def test_a_count_ends_it_and_nth_begins_it() -> None:
    faults = Faults()
    faults.add({"kind": "error", "nth": 2, "count": 2})
    assert fired(faults, *["ListModels"] * 5) == [0, 1, 1, 0, 0]


def test_a_rate_is_kept_and_the_same_calls_meet_the_same_faults() -> None:
    first, second, other = Faults(1), Faults(1), Faults(2)
    for faults in (first, second, other):
        faults.add({"kind": "throttle", "rate": 0.1})
    calls = ["InvokeEndpoint"] * 5000
    struck = fired(first, *calls)
    assert 400 < sum(struck) < 600
    assert fired(second, *calls) == struck
    assert fired(other, *calls) != struck


def test_the_same_faults_asked_for_again_strike_the_same_calls() -> None:
    faults, runs = Faults(), []
    for _ in range(2):
        faults.add({"kind": "throttle", "rate": 0.5})
        runs.append(fired(faults, *["InvokeEndpoint"] * 100))
        faults.clear()
    assert runs[0] == runs[1]


def test_a_call_meets_no_more_after_what_ends_it() -> None:
    faults = Faults()
    for kind in ("stall", "throttle", "reset"):
        faults.add({"kind": kind, "count": 1, "seconds": 1})
    assert [[each.fault.kind for each in faults.firing("ListModels", "us-east-1")] for _ in range(3)] == [
        ["stall", "throttle"],
        ["reset"],
        [],
    ]


def test_a_pause_is_for_the_nth_mutating_call_and_for_one() -> None:
    faults = Faults()
    faults.add({"kind": "pause", "nth": 2})
    calls = ("ListModels", "CreateModel", "DescribeModel", "AcceptAgreementRequest", "DeleteModel")
    assert fired(faults, *calls) == [0, 0, 0, 1, 0]


def test_an_endpoint_fails_when_it_is_made_or_changed_and_at_no_other_call() -> None:
    faults = Faults()
    faults.add({"kind": "failed", "reason": "capacity"})
    calls = ("CreateEndpointConfig", "CreateEndpoint", "UpdateEndpoint", "UpdateEndpointWeightsAndCapacities")
    assert fired(faults, *calls) == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"kind": "throtle"}, "there is no fault 'throtle'; there are throttle, error"),
        ({"kind": "error", "rate": 2}, "from 0 to 1"),
        ({"kind": "error", "count": 0}, "at least 1"),
        ({"kind": "error", "often": 2}, "unexpected keyword argument 'often'"),
        ({"kind": "error", "status": 200}, "from 400 to 599"),
        ({"kind": "error", "status": "bad"}, "status cannot be 'bad'"),
        ({"kind": "error", "status": 0}, "from 400 to 599"),
        ({"kind": "error", "operation": 5}, "operation cannot be 5"),
        ({"kind": "error", "region": None}, "region cannot be None"),
        ({"kind": "error", "nth": 1.5}, "nth cannot be 1.5"),
        ({"kind": "error", "rate": True}, "rate cannot be True"),
        ({"kind": "stall"}, "needs its seconds"),
        ({"kind": "stall", "seconds": "5"}, "seconds cannot be '5'"),
        ({"kind": "stall", "seconds": -1}, "seconds cannot be -1"),
        ({"kind": "stall", "seconds": float("nan")}, "seconds cannot be nan"),
        ({"kind": "pause", "when": "soon"}, "before or after"),
    ],
)
def test_what_is_no_fault_is_said(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Faults().add(asked)


@pytest.mark.parametrize(
    ("kind", "operation"), [("throttle", "ListBuckets"), ("drop", "List*"), ("pause", "ListModels")]
)
def test_a_fault_that_could_never_strike_is_refused(kind: str, operation: str) -> None:
    known = ("ListModels", "CreateModel", "InvokeEndpoint")
    with pytest.raises(InputError, match=re.escape(f"{kind} strikes nothing that '{operation}' fits")):
        Faults().add({"kind": kind, "operation": operation}, known)
    assert Faults().add({"kind": kind, "region": "mars-*"}, known) == 1


def test_a_model_error_may_have_the_status_of_a_time_out() -> None:
    assert Fault(kind="model-error", status=0).status == 0


def test_a_reason_is_awss_words_or_ones_own() -> None:
    assert "InsufficientInstanceCapacity" in Fault(kind="failed", reason="capacity").why
    assert Fault(kind="failed", reason="my words").why == "my words"


def test_rows_change_places_or_go() -> None:
    rows = json.dumps({"data": [{"id": 0}, {"id": 1}, {"id": 2}]}).encode()
    assert json.loads(disordered("reorder", rows))["data"] == [{"id": 1}, {"id": 2}, {"id": 0}]
    assert json.loads(disordered("drop", rows))["data"] == [{"id": 0}, {"id": 1}]
    ranked = json.dumps({"data": [{"results": [1, 2]}]}).encode()
    assert json.loads(disordered("reorder", ranked))["data"][0]["results"] == [2, 1]
    assert disordered("drop", b"no json") == b"no json"
    assert disordered("drop", b'{"data": []}') == b'{"data":[]}'
