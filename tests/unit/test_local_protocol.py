"""What botocore's models say of a request, in AWS's words; and pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm.local.protocol import Refusal, check, page, service


def test_every_operation_of_ours_is_one_that_the_service_has() -> None:
    from botocore import xform_name

    from jina_sm.local.marketplace import Agreements, Discovery, PriceList
    from jina_sm.local.sagemaker import Hosting

    rooms = {
        "sagemaker": Hosting,
        "marketplace-discovery": Discovery,
        "marketplace-agreement": Agreements,
        "pricing": PriceList,
    }
    for name, room in rooms.items():
        known = {xform_name(operation) for operation in service(name).operation_names}
        assert {act for act in vars(room) if not act.startswith("_")} <= known


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "Value null at 'resourceArn' failed to satisfy constraint: Member must not be null"),
        (
            {"Tags": [{"Key": "", "Value": "v"}]},
            "at 'tags.1.member.key' failed to satisfy constraint: Member must have",
        ),
        ({"Tags": [{"Key": "k", "Value": "*"}]}, r"pattern: ([\p{L}\p{Z}\p{N}_.:/=+\-@]*)"),
        ({"Tags": [{"Key": str(n), "Value": ""} for n in range(51)]}, "have length less than or equal to 50"),
    ],
)
def test_each_violation_names_its_member_and_its_rule(asked: dict[str, object], words: str) -> None:
    with pytest.raises(Refusal) as caught:
        check(service("sagemaker").operation_model("AddTags").input_shape, asked)
    assert caught.value.code == "ValidationException"
    assert words in caught.value.message


def test_what_is_not_ascii_or_not_printable_is_seen() -> None:
    shape = service("sagemaker-runtime").operation_model("InvokeEndpoint").input_shape
    fine = {"EndpointName": "e", "Body": "", "CustomAttributes": "a\n", "InferenceId": "a b"}
    check(shape, fine)
    for wrong in ({"CustomAttributes": "é"}, {"InferenceId": "a\nb"}, {"InferenceId": " a"}):
        with pytest.raises(Refusal, match="pattern"):
            check(shape, fine | wrong)


def test_letters_of_any_script_are_letters() -> None:
    asked = {
        "ResourceArn": "arn:aws:sagemaker:us-east-1:123456789012:model/m",
        "Tags": [{"Key": "ключ", "Value": "値"}],
    }
    check(service("sagemaker").operation_model("AddTags").input_shape, asked)


@given(st.lists(st.integers(-(2**53), 2**53), unique=True), st.integers(1, 7), st.booleans())
def test_pages_hold_everything_once_and_in_order(items: list[int], size: int, descending: bool) -> None:
    seen: list[int] = []
    more: dict[str, str] = {}
    for _ in range(len(items) + 1):
        found, more = page(items, lambda item: [item], {"maxResults": size, **more}, most=10, descending=descending)
        assert len(found) <= size
        seen += found
        if not more:
            break
    assert seen == sorted(items, reverse=descending)


@given(st.text(min_size=1))
def test_a_token_of_ones_own_making_is_refused(token: str) -> None:
    with pytest.raises(Refusal, match="Invalid NextToken"):
        page([1], lambda item: [item], {"nextToken": token}, most=10)
