"""Invoking endpoints of the local stack: vectors, ranks, and every way it goes wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

from jina_sm import catalog, local
from jina_sm.local.constant import Constant
from jina_sm.values import Vectors
from tests.conftest import SLOW_S, Served, Time, variant

RERANKER = "jina-reranker-v2-base-multilingual"
GERMAN = "Der Hund schläft auf dem Sofa."
ENGLISH = "The dog is sleeping on the couch."
OTHER = "Interest rates rose by half a percent in March."


def invoke(stack: Served, body: object, *, name: str = "e", content_type: str = "application/json", **more: Any) -> Any:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    runtime = stack.aws("sagemaker-runtime")
    return runtime.invoke_endpoint(EndpointName=name, Body=sent, ContentType=content_type, **more)


def vectors(stack: Served, texts: list[str], **parameters: Any) -> Vectors:
    said = invoke(stack, {"data": [{"text": text} for text in texts], "parameters": parameters})
    rows: Vectors = np.array([row["embedding"] for row in json.loads(said["Body"].read())["data"]], np.float32)
    return rows


def refused(stack: Served, body: object, **more: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        invoke(stack, body, **more)
    response: dict[str, Any] = caught.value.response
    return response


def one(text: str = "a", **parameters: Any) -> dict[str, Any]:
    return {"data": [{"text": text}], "parameters": parameters}


def test_what_means_the_same_lies_close_in_another_language_too(stack: Served) -> None:
    stack.deploy()
    german, english, other = vectors(stack, [GERMAN, ENGLISH, OTHER])
    assert german.shape == (1024,)
    assert german @ english > german @ other + 0.3
    shorter = vectors(stack, [GERMAN, ENGLISH, OTHER], dimensions=256)
    assert shorter.shape == (3, 256)
    assert shorter[0] @ shorter[1] > shorter[0] @ shorter[2]
    np.testing.assert_allclose(np.linalg.norm(shorter, axis=1), 1, atol=1e-5)
    cut = german[:256] / np.linalg.norm(german[:256])
    np.testing.assert_allclose(shorter[0], cut, atol=1e-5)


def test_a_text_has_the_same_vector_in_any_company_and_any_region(stack: Served) -> None:
    stack.deploy()
    stack.deploy(region="eu-central-1")
    alone = vectors(stack, [GERMAN])
    together = vectors(stack, [OTHER * 30, GERMAN, ENGLISH])
    np.testing.assert_allclose(together[1], alone[0], atol=1e-4)
    far = stack.aws("sagemaker-runtime", "eu-central-1").invoke_endpoint(
        EndpointName="e", Body=json.dumps(one(GERMAN)), ContentType="application/json"
    )
    np.testing.assert_allclose(json.loads(far["Body"].read())["data"][0]["embedding"], alone[0], atol=1e-5)


def test_an_answer_says_its_variant_and_that_a_stand_in_gave_it(stack: Served) -> None:
    stack.deploy()
    said = invoke(stack, one(), CustomAttributes="trace")
    assert (said["InvokedProductionVariant"], said["ContentType"]) == ("AllTraffic", "application/json")
    assert said["CustomAttributes"] == "trace"
    headers = said["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-jina-sm-stand-in"] == "true"
    assert headers["x-amzn-requestid"]


def test_the_document_that_answers_comes_first(stack: Served) -> None:
    stack.deploy(RERANKER)
    documents = [{"text": text} for text in (OTHER, GERMAN)]
    said = invoke(stack, {"data": {"query": ENGLISH, "documents": documents, "top_n": 2}})
    results = json.loads(said["Body"].read())["data"][0]["results"]
    assert [result["index"] for result in results] == [1, 0]
    assert 1 > results[0]["relevance_score"] > results[1]["relevance_score"] > 0


def test_an_endpoint_that_does_not_serve_is_not_found(slow: Served, time: Time) -> None:
    words = "Endpoint e of account 210987654321 not found."

    def found() -> tuple[str, str, int]:
        said = refused(slow, one())
        return said["Error"]["Code"], said["Error"]["Message"], said["ResponseMetadata"]["HTTPStatusCode"]

    assert found() == ("ValidationError", words, 400)
    slow.deploy()
    assert found() == ("ValidationError", words, 400)
    time.move(SLOW_S)
    assert vectors(slow, ["a"]).shape == (1, 1024)
    slow.aws("sagemaker").delete_endpoint(EndpointName="e")
    assert found() == ("ValidationError", words, 400)


def test_an_updating_endpoint_serves_its_old_config(slow: Served, time: Time) -> None:
    slow.deploy()
    slow.deploy(RERANKER, name="other")
    time.move(SLOW_S)
    slow.aws("sagemaker").update_endpoint(EndpointName="e", EndpointConfigName="other")
    assert vectors(slow, ["a"]).shape == (1, 1024)
    time.move(SLOW_S)
    assert refused(slow, one())["OriginalStatusCode"] == 422


@pytest.mark.parametrize(
    ("body", "more", "status", "detail"),
    [
        ({"texts": ["a"]}, {}, 422, "field required"),
        (b"{", {}, 422, "unexpected"),
        (one(), {"content_type": "application/json; charset=utf-8"}, 400, "Unsupported content type"),
        (one(task="poetry"), {}, 500, "no task 'poetry'"),
        (one(dimensions=3), {}, 500, "cannot give 3 dimensions"),
        (one("word " * 9000), {}, 500, "takes 8192"),
    ],
)
def test_what_the_container_refuses_is_a_model_error(
    stack: Served, body: object, more: dict[str, Any], status: int, detail: str
) -> None:
    stack.deploy()
    said = refused(stack, body, **more)
    side = "client" if status < 500 else "server"
    assert (said["Error"]["Code"], said["ResponseMetadata"]["HTTPStatusCode"]) == ("ModelError", 424)
    assert said["OriginalStatusCode"] == status
    assert detail in said["OriginalMessage"]
    assert "detail" in json.loads(said["OriginalMessage"])
    assert said["LogStreamArn"] == "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/e"
    assert said["Error"]["Message"] == (
        f'Received {side} error ({status}) from primary with message "{said["OriginalMessage"]}". See '
        "https://us-east-1.console.aws.amazon.com/cloudwatch/home?region=us-east-1#logEventViewer:group="
        "/aws/sagemaker/Endpoints/e in account 123456789012 for more information."
    )


def test_a_body_over_six_mebibytes_is_too_large_and_one_below_is_not(stack: Served) -> None:
    stack.deploy()
    assert refused(stack, b"x" * 6_291_457)["Error"]["Code"] == "413"
    assert refused(stack, b"x" * 6_291_456)["OriginalStatusCode"] == 422


def test_an_answer_over_six_mebibytes_is_too_large(slow: Served, time: Time) -> None:
    slow.deploy()
    time.move(SLOW_S)
    said = refused(slow, {"data": [{"text": "a"}] * 700})
    assert (said["Error"]["Code"], said["OriginalStatusCode"]) == ("ModelError", 413)


def test_a_container_of_ones_own_does_not_run_here(stack: Served) -> None:
    sagemaker = stack.aws("sagemaker")
    sagemaker.create_model(ModelName="own", PrimaryContainer={"Image": "repository/image:1"})
    sagemaker.create_endpoint_config(EndpointConfigName="own", ProductionVariants=[variant("own")])
    sagemaker.create_endpoint(EndpointName="own", EndpointConfigName="own")
    assert refused(stack, one(), name="own")["OriginalStatusCode"] == 500


def test_a_request_may_name_its_variant(stack: Served) -> None:
    stack.deploy(name="m")
    sagemaker = stack.aws("sagemaker")
    sagemaker.create_model(ModelName="own", PrimaryContainer={"Image": "repository/image:1"})
    variants = [variant("own", VariantName="own"), variant("m", VariantName="jina")]
    sagemaker.create_endpoint_config(EndpointConfigName="two", ProductionVariants=variants)
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="two")
    assert refused(stack, one())["OriginalStatusCode"] == 500
    assert invoke(stack, one(), TargetVariant="jina")["InvokedProductionVariant"] == "jina"
    said = refused(stack, one(), TargetVariant="none")
    assert said["Error"] == {"Code": "ValidationError", "Message": "Variant none of endpoint e not found."}


@pytest.mark.parametrize(
    ("body", "more", "words"),
    [
        (b"", {}, "Value null at 'body' failed to satisfy constraint: Member must not be null"),
        (one(), {"name": "ünï"}, "'endpointName' failed to satisfy constraint"),
        (one(), {"CustomAttributes": "é"}, "'customAttributes' failed to satisfy constraint"),
        (one(), {"TargetModel": "a.tar.gz"}, "Endpoint e takes no TargetModel."),
        (one(), {"InferenceComponentName": "a"}, "Endpoint e takes no InferenceComponentName."),
    ],
)
def test_what_the_runtime_does_not_take_never_reaches_the_container(
    stack: Served, body: object, more: dict[str, Any], words: str
) -> None:
    stack.deploy()
    said = refused(stack, body, **more)
    assert (said["Error"]["Code"], words in said["Error"]["Message"]) == ("ValidationError", True)


def test_a_container_that_breaks_answers_500_and_serves_on() -> None:
    class Breaking(Constant):
        def embed(self, texts: Sequence[str]) -> Vectors:
            if "poison" in texts:
                raise ValueError("poisoned")
            return super().embed(texts)

    stack = local.Stack(catalog=catalog.load(environ={}), model=Breaking())
    with local.serving(stack) as url:
        broken = Served(stack, url)
        broken.deploy()
        said = refused(broken, one("poison"))
        assert (said["Error"]["Code"], said["OriginalStatusCode"]) == ("ModelError", 500)
        assert "poisoned" in said["OriginalMessage"]
        assert vectors(broken, ["a"]).shape == (1, 1024)


def test_many_callers_at_once_each_get_their_own(stack: Served) -> None:
    stack.deploy()
    texts = [f"{number} apples and {number * 7} pears" for number in range(40)]
    expected = vectors(stack, texts)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: vectors(stack, [text])[0], texts))
    np.testing.assert_allclose(np.array(found), expected, atol=1e-3)
