"""The response-time profile on a served stack."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

from jina_sm import catalog, local
from jina_sm.errors import InputError
from jina_sm.local.constant import Constant
from jina_sm.profile import Profile
from jina_sm.values import Vectors
from tests.conftest import Served


@pytest.fixture(scope="module")
def paced() -> Iterator[Served]:
    """Constant vectors at a token a second, a million times faster than that."""
    profile = Profile(tokens_per_s=1, time_scale=1e-6)
    stack = local.Stack(catalog=catalog.load(environ={}), model=Constant(), profile=profile)
    with local.serving(stack) as url:
        served = Served(stack, url)
        served.deploy()
        yield served


def embedded(served: Served, *texts: str) -> Vectors:
    body = json.dumps({"data": [{"text": text} for text in texts]})
    said = served.aws("sagemaker-runtime").invoke_endpoint(EndpointName="e", Body=body, ContentType="application/json")
    return np.array([row["embedding"] for row in json.loads(said["Body"].read())["data"]], np.float32)


def test_a_constant_vector_is_its_texts_alone(paced: Served) -> None:
    one, other = embedded(paced, "one", "other")
    assert abs(one @ other) < 0.2
    np.testing.assert_allclose(embedded(paced, "other", "one"), [other, one], atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: embedded(paced, text)[0], ["one", "other"] * 10))
    np.testing.assert_allclose(found, [one, other] * 10, atol=1e-5)


def test_what_takes_over_sixty_seconds_is_a_model_error_of_status_0(paced: Served) -> None:
    with pytest.raises(ClientError) as caught:
        embedded(paced, "word " * 100)
    said: dict[str, Any] = caught.value.response
    assert (said["Error"]["Code"], said["OriginalStatusCode"]) == ("ModelError", 0)
    assert said["Error"]["Message"].startswith(
        'Received server error (0) from primary with message "Your invocation timed out while waiting for a response '
        "from container primary."
    )
    assert said["OriginalMessage"].startswith("Your invocation timed out")


def test_health_says_that_the_vectors_mean_nothing(paced: Served) -> None:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{paced.url}/_jina/health") as answer:
        assert json.load(answer)["vectors"] == "constant: a hash of each text, without meaning"


def test_a_stack_with_a_profile_starts_detached_and_is_taken_for_no_other(free_port: int) -> None:
    speed = local.Speed(profile="ml.g5.xlarge", time_scale=1e-6, instances=2, vectors="constant")
    assert local.running_as(free_port, speed) is None
    local.start_detached(free_port, 0, speed=speed)
    try:
        assert local.running_as(free_port, speed) == local.running_as(free_port, local.Speed()) == speed
        with pytest.raises(InputError, match=f"port {free_port} has a stack of .*time_scale=1e-06"):
            local.running_as(free_port, local.Speed(profile="ml.g5.xlarge"))
    finally:
        assert local.stop(free_port)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"profile": "ml.p5.48xlarge"}, "there is no profile 'ml.p5.48xlarge'; there is ml.g5.xlarge"),
        ({"time_scale": 0.15}, "are a profile's, and none was named"),
        ({"instances": 2}, "are a profile's, and none was named"),
        ({"profile": "ml.g5.xlarge", "time_scale": float("nan")}, "not nan"),
        ({"profile": "ml.g5.xlarge", "time_scale": float("inf")}, "not inf"),
        ({"profile": "ml.g5.xlarge", "time_scale": 1e-300}, "not 1e-300"),
        ({"vectors": "real"}, "stand-in or constant"),
    ],
)
def test_a_speed_that_cannot_be_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        local.Speed(**asked)
