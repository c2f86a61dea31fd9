"""One client, three ways to run the models, threads or an event loop: the same calls, results and errors over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.server
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from jina_sm import AsyncClient, Client, Limits, Policy, catalog, errors, local, raw_responses, values
from jina_sm.catalog import Catalog
from tests.conftest import Letters, Served

V3, COLBERT, CLIP, RERANKER, M0 = (
    "jina-embeddings-v3", "jina-colbert-v2", "jina-clip-v2", "jina-reranker-v2-base-multilingual", "jina-reranker-m0",
)  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n of a bicycle"
HTML = "<html><body><h1>Bees</h1><p>make <b>honey</b></p></body></html>"


def packaged() -> Catalog:
    """The catalogue, with a package for the models that have none of a fixed name."""
    known = catalog.load(environ={})
    for model in known.models.values():
        if model.package is None:
            known = known.with_package(model.key, catalog.endpoint_name(model))
    return dataclasses.replace(known)


@pytest.fixture(scope="module")
def _stack() -> Iterator[Served]:
    stack = local.Stack(ready_after_s=0, catalog=packaged(), account="321098765432", model=Letters())
    with local.serving(stack) as url:
        yield Served(stack, url)


@pytest.fixture
def stack(_stack: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    local.reset(_stack.port)
    for name, value in local.environment(_stack.port).items():
        monkeypatch.setenv(name, value)
    return _stack


def target(stack: Served, way: str, model: str) -> str:
    return {
        "sagemaker": f"sagemaker://us-east-1/e?model={model}",
        "api": f"jina-api://?model={model}",
        "self-hosted": f"{stack.url}?model={model}",
    }[way]


def both(
    where: str, ask: Callable[[Client], Any], ask_async: Callable[[AsyncClient], Awaitable[Any]], **settings: Any
) -> list[Any]:
    """What a client of threads and one of an event loop come to: results, or errors."""

    async def asked() -> Any:
        async with AsyncClient.at(where, **settings) as client:
            return await ask_async(client)

    came = []
    for run in (lambda: asyncio.run(asked()), lambda: _asked(where, ask, settings)):
        try:
            came.append(run())
        except errors.JinaSMError as error:
            came.append(error)
    return came


def _asked(where: str, ask: Callable[[Client], Any], settings: dict[str, Any]) -> Any:
    with Client.at(where, **settings) as client:
        return ask(client)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, stack: Served) -> None:
    monkeypatch.setenv("JINA_API_KEY", "jina_test")
    monkeypatch.setenv("JINA_API_URL", stack.url)


@pytest.mark.parametrize("way", ["sagemaker", "api"])
def test_the_same_vectors_wherever_they_come_from(stack: Served, way: str) -> None:
    stack.deploy(V3)
    texts = [f"text {index}" for index in range(9)]

    def ask(client: Any) -> Any:
        return client.embed(texts, task="retrieval.passage", dimensions=128)

    with Client.sagemaker("e", model=V3, region="us-east-1") as client:
        right = ask(client)
    for found in both(target(stack, way, V3), ask, ask, limits=Limits(items=4)):
        np.testing.assert_allclose(found.vectors, right.vectors, atol=1e-6)
        assert found.usage.total_tokens == right.usage.total_tokens == 36
        assert found.timings.requests == 3


@pytest.mark.parametrize("way", ["sagemaker", "api"])
def test_the_same_ranking_wherever_it_comes_from(stack: Served, way: str) -> None:
    stack.deploy(RERANKER)

    def ask(client: Any) -> Any:
        return client.rerank("abc", ["xyz", "abc", "abd"], top_n=2)

    for ranking in both(target(stack, way, RERANKER), ask, ask):
        assert [each.document for each in ranking] == ["abc", "abd"]


def test_a_server_of_ones_own_is_asked_with_its_own_key(stack: Served) -> None:
    with Client.self_hosted(stack.url, model=V3, api_key="mine") as client:
        assert client.embed(["abc"]).vectors.shape == (1, 1024)
    with Client.self_hosted(stack.url, model=V3) as client, pytest.raises(errors.AuthError):
        client.embed(["abc"])


def test_one_way_takes_over_from_another(stack: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINA_SM_TARGETS", f"sagemaker://us-east-1/gone?model={V3}, jina-api://?model={V3}")
    told: list[Any] = []
    with Client.from_env(on_event=told.append) as client:
        assert client.embed(["abc"]).vectors.shape == (1, 1024)
    assert sorted(event.kind for event in told) == ["answer", "failover", "failure", "request", "request", "retry"]
    with pytest.raises(errors.InputError, match="targets of one model"):
        Client.at("jina-api://?model=a", "jina-api://?model=b")
    monkeypatch.delenv("JINA_SM_TARGETS")
    with pytest.raises(errors.InputError, match="JINA_SM_TARGETS names no target"):
        Client.from_env()


FAULTS = [
    ("throttle", {}),
    ("error", {"status": 503}),
    ("model-error", {"status": 400}),
    ("model-error", {"status": 500}),
    ("model-error", {"status": 413}),
    ("reset", {}),
    ("truncate", {}),
    ("drop", {}),
]


@pytest.mark.parametrize(("kind", "facts"), FAULTS, ids=str)
def test_threads_and_event_loops_meet_the_same_errors(stack: Served, kind: str, facts: dict[str, Any]) -> None:
    stack.deploy(V3)
    local.fault(kind, "InvokeEndpoint", port=stack.port, **facts)

    def ask(client: Any) -> Any:
        return client.embed(["abc"])

    first, second = both(target(stack, "sagemaker", V3), ask, ask, retry=Policy(attempts=1))
    assert isinstance(first, errors.InvocationError)
    assert type(first) is type(second)
    for fact in ("target", "region", "status", "code", "attempts", "index"):
        assert getattr(first, fact) == getattr(second, fact), fact


def test_many_vectors_an_item_and_their_scores(stack: Served) -> None:
    stack.deploy(COLBERT)

    async def ask_async(client: AsyncClient) -> Any:
        documents = await client.embed_multi(["bees make honey", "steel rusts"], task="document")
        return documents.maxsim(await client.embed_multi(["honey"], task="query"))

    def ask(client: Client) -> Any:
        documents = client.embed_multi(["bees make honey", "steel rusts"], task="document")
        return documents.maxsim(client.embed_multi(["honey"], task="query"))

    for scores in both(target(stack, "sagemaker", COLBERT), ask, ask_async):
        assert scores.shape == (2,)
        assert scores[0] > scores[1]


def test_images_beside_texts(stack: Served) -> None:
    stack.deploy(CLIP)

    def ask(client: Any) -> Any:
        return client.embed(["a bicycle", values.image(PNG)])

    first, second = both(target(stack, "sagemaker", CLIP), ask, ask)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    np.testing.assert_allclose(np.linalg.norm(first.vectors, axis=1), 1, rtol=1e-5)  # CLIP's own are not of unit length
    with Client.sagemaker("e", model=V3, region="us-east-1") as client:
        with pytest.raises(errors.InputError, match="image"):
            client.embed([values.image(PNG)])
        with pytest.raises(errors.InputError, match=r"texts\[0\] is a bytes, not a string\. For an image"):
            client.embed([PNG])  # type: ignore[list-item]


def test_images_are_ranked_too(stack: Served) -> None:
    stack.deploy(M0)
    with Client.sagemaker("e", model=M0, region="us-east-1") as client:
        ranking = client.rerank("abc", ["abc", values.image(PNG)])
    assert sorted(ranking.indices.tolist()) == [0, 1]


def test_a_page_is_read_whole_or_as_it_is_written(stack: Served) -> None:
    stack.deploy("ReaderLM-v2")

    def ask(client: Any) -> Any:
        return client.read(HTML)

    for written in both(target(stack, "sagemaker", "ReaderLM-v2"), ask, ask):
        assert written.text == "Bees\n====\n\nmake **honey**"
        assert written.timings.requests == 1
    with Client.sagemaker("e", model="ReaderLM-v2", region="us-east-1") as client:
        pieces = list(client.read_stream(HTML * 9))
        assert len(pieces) > 1
        assert "".join(pieces) == client.read(HTML * 9).text
        with pytest.raises(errors.InputError, match="html is empty"):
            client.read_stream("")

    async def streamed() -> list[str]:
        async with AsyncClient.sagemaker("e", model="ReaderLM-v2", region="us-east-1") as client:
            with pytest.raises(errors.InputError, match="html is empty"):
                client.read_stream("")
            return [piece async for piece in client.read_stream(HTML * 9)]

    assert asyncio.run(streamed()) == pieces


def test_answers_can_be_had_as_they_came(stack: Served) -> None:
    stack.deploy(V3)

    async def ask_async(client: AsyncClient) -> Any:
        with raw_responses() as responses:
            await client.embed(["abc"])
        return responses

    def ask(client: Client) -> Any:
        with raw_responses() as responses:
            client.embed(["abc"])
        return responses

    for (response,) in both(target(stack, "sagemaker", V3), ask, ask_async):
        assert response.headers["x-amzn-requestid"] == response.request_id
        assert response.body.startswith(b"{")


def test_a_long_run_uses_all_the_instances_that_there_are(stack: Served) -> None:
    stack.deploy(V3, instances=3)
    for given, expected in ((None, 3), (2, 2)):
        with Client.at(target(stack, "sagemaker", V3), limits=Limits(items=1), instances=given) as client:
            lane = client._driver._exchange.lanes[0]
            for _ in range(50):  # the question is asked beside the run, and answered when it is
                client.embed([f"text {index}" for index in range(20)])
                if lane.instances == expected:
                    break
            assert lane.instances == expected


def test_an_image_on_the_web_is_refused_with_the_reason_or_fetched(stack: Served) -> None:
    stack.deploy(CLIP)
    with Client.sagemaker("e", model=CLIP, region="us-east-1") as client:
        with pytest.raises(errors.InputError, match=r"texts\[1\] is a URL, and the model's container has no network"):
            client.embed(["a bicycle", values.image("https://example.com/a.png")])
        right = client.embed([values.image(PNG)]).vectors

    def ask(client: Any) -> Any:
        return client.embed([values.image(f"{pages}/a.png")])

    def ask_missing(client: Any) -> Any:
        return client.embed(["a bicycle", values.image(f"{pages}/gone.png?signature=secret")])

    with serving({"/a.png": PNG}) as pages:
        for found in both(target(stack, "sagemaker", CLIP), ask, ask, fetch_urls=True):
            np.testing.assert_array_equal(found.vectors, right)
        for error in both(target(stack, "sagemaker", CLIP), ask_missing, ask_missing, fetch_urls=True):
            assert isinstance(error, errors.InputError)
            assert str(error).startswith("texts[1]: ")
            assert str(error).endswith("gone.png answered with status 404")


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[str]:
    """A web server with these files; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in files else 404)
            self.end_headers()
            self.wfile.write(files.get(self.path, b"not here"))

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
