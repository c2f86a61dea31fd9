"""Targets: one string, read in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm.errors import InputError
from jina_sm.transport import target
from jina_sm.transport.target import Target, parse

SECRET = "hunter2"
models = st.text(min_size=1).filter(lambda key: bool(key.strip()) and key.isprintable())
hosts = st.sampled_from(["localhost", "127.0.0.1", "[::1]", "models.example.com", "Models.Example.com"])
urls = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https"]),
    hosts,
    st.just("") | st.integers(1, 65535).map(":{}".format),
    st.from_regex(r"(/[a-zA-Z0-9._~%-]+)*", fullmatch=True),
)
targets = (
    st.builds(
        Target,
        st.just("sagemaker"),
        models,
        region=st.from_regex(r"[a-z]{2}(-[a-z]{1,9}){1,2}-[0-9]", fullmatch=True),
        endpoint_name=st.from_regex(r"[a-zA-Z0-9](-?[a-zA-Z0-9]){0,20}", fullmatch=True),
    )
    | st.builds(Target, st.just("jina-api"), models)
    | st.builds(Target, st.just("http"), models, url=urls)
)


@given(targets)
def test_a_target_survives_being_written_down(one: Target) -> None:
    assert parse(str(one)) == one


@given(st.text() | st.from_regex(r"(sagemaker|jina-api|https?)://[!-~]*\?model=[!-~]*", fullmatch=True))
def test_any_text_is_a_target_that_stays_the_same_or_is_refused(text: str) -> None:
    try:
        one = parse(text)
    except InputError:
        return
    assert parse(str(one)) == one


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (
            "sagemaker://eu-central-1/jina-sm-v3?model=jina-embeddings-v3",
            Target("sagemaker", "jina-embeddings-v3", region="eu-central-1", endpoint_name="jina-sm-v3"),
        ),
        ("jina-api://?model=jina-clip-v2", Target("jina-api", "jina-clip-v2")),
        ("http://localhost:8080/?model=a", Target("http", "a", url="http://localhost:8080")),
        ("https://host/models/v3?model=my%20own", Target("http", "my own", url="https://host/models/v3")),
    ],
)
def test_the_forms(text: str, read: Target) -> None:
    assert parse(text) == read


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "printable"),
        ("jina-api:// ?model=a", "printable"),
        ("jina-embeddings-v3", "no ://"),
        ("ftp://host?model=a", "begins with none of"),
        ("sagemaker://us-east-1/e", "names no model"),
        ("sagemaker://us-east-1/e?model=", "names no model"),
        ("sagemaker://us-east-1/e?model=a&model=b", "more than one model"),
        ("sagemaker://us-east-1?model=a", "no endpoint"),
        ("sagemaker://Virginia/e?model=a", "region"),
        ("sagemaker://us-east-1/e_e?model=a", "endpoint"),
        (f"sagemaker://us-east-1/{'e' * 64}?model=a", "endpoint"),
        ("jina-api://api.jina.ai?model=a", "JINA_API_URL"),
        ("http://?model=a", "no host"),
        ("http://:80?model=a", "no host"),
        ("http://host:eighty?model=a", "port"),
        ("http://host:65536?model=a", "port"),
        ("http://[::1?model=a", "host or port"),
        ("http://host/#a?model=a", "fragment"),
    ],
)
def test_what_is_no_target_is_told_why(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        parse(text)
    if "target" in caught.value.message:
        assert target.FORMS in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"http://me:{SECRET}@host?model=a",
        f"https://{SECRET}@host:80/prefix?model=a",
        f"sagemaker://{SECRET}@us-east-1/e?model=a",
        f"jina-api://{SECRET}?model=a",
        f"jina-api://?model=a&key={SECRET}",
        f"jina-api://?{SECRET}&model=a",
        f"{SECRET}?model=a",
        f"http://host:{SECRET}?model=a",
        f"http://host#{SECRET}?model=a",
    ],
)
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert SECRET not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "sagemaker", "region": "us-east-1"},
        {"kind": "jina-api", "url": "http://a"},
        {"kind": "http"},
        {"kind": "grpc", "url": "http://a"},
        {"kind": "http", "url": "http://a", "model": " "},
    ],
)
def test_a_target_is_checked_however_it_is_made(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(InputError):
        Target(**{"model": "a", **wrong})


def test_a_frozen_target_stays_as_it_is() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse("jina-api://?model=a").model = "b"  # type: ignore[misc]


@pytest.mark.parametrize("opens", [target.open_transport, target.open_async])
def test_each_kind_of_target_has_its_transport(opens: Any) -> None:
    environ = {"JINA_API_KEY": "k", "JINA_API_URL": "http://127.0.0.1:1/v1/"}
    sagemaker = opens(parse("sagemaker://us-east-1/e?model=a"), environ=environ)
    assert (sagemaker.name, sagemaker.region, sagemaker.wire) == ("e", "us-east-1", "container")
    hosted = opens(parse("jina-api://?model=a"), environ=environ)
    assert (hosted.name, hosted.region, hosted.wire, hosted.server.api_key) == ("127.0.0.1:1", None, "api", "k")
    assert opens(parse("jina-api://?model=a"), environ={"JINA_API_KEY": "k"}).server.base_url == target.JINA_API
    own = opens(parse("http://localhost:8080/x?model=a"), environ=environ)
    assert (own.name, own.server.api_key) == ("localhost:8080/x", None)  # Jina's key is for Jina
    assert opens(parse("http://localhost:8080?model=a"), api_key="mine").server.api_key == "mine"


@pytest.mark.parametrize("opens", [target.open_transport, target.open_async])
def test_jinas_api_needs_a_key_and_a_right_address(opens: Any) -> None:
    one = parse("jina-api://?model=a")
    with pytest.raises(InputError, match=r"JINA_API_KEY is not set. .*export JINA_API_KEY"):
        opens(one, environ={})
    with pytest.raises(InputError, match="JINA_API_URL is not an http"):
        opens(one, environ={"JINA_API_KEY": "k", "JINA_API_URL": "api.jina.ai"})
    with pytest.raises(InputError, match="the API key is empty, or has") as caught:
        opens(one, environ={"JINA_API_KEY": f"{SECRET}\nx"})
    assert SECRET not in str(caught.value)
