"""The server over real sockets: its doors, who may pass them, and what happens when something goes wrong behind them."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import numpy as np
import openai
import pytest
from fastapi import BackgroundTasks, Body, FastAPI, HTTPException, Response
from serving import EMBEDS, RERANKS, Obedient, Served, served, vector

from jina_sm import AsyncClient, Client, errors, local
from jina_sm.bench.endpoint import told
from jina_sm.serve.app import create_app
from jina_sm.serve.batcher import Limits, TooLargeError
from jina_sm.serve.gateway import Gateway, _places
from jina_sm.serve.settings import Settings
from jina_sm.transport.target import parse
from jina_sm.values import normalized

DEFAULT = "text-matching"
KEY = "a-key-of-the-test"


@pytest.fixture(scope="module")
def up() -> Iterator[Served]:
    with served() as it:
        yield it


dies = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def wait_for(true: Any) -> None:
    """Until it is; the suite's own time-out bounds it."""
    while not true():
        time.sleep(0)


def same(given: Any, text: str, task: str = DEFAULT) -> bool:
    return bool(np.allclose(np.asarray(given, np.float32), vector(text, task), atol=1e-6))


# ---- the doors


def test_openais_own_client_gets_its_vectors_in_either_encoding(up):
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key="any", max_retries=0) as client:
        for encoding in ("float", "base64", openai.NOT_GIVEN):
            told = client.embeddings.create(model=EMBEDS, input=["red", "blue"], encoding_format=encoding)
            assert [row.index for row in told.data] == [0, 1]
            if encoding == "base64":
                rows = [np.frombuffer(base64.b64decode(row.embedding), "<f4") for row in told.data]
            else:
                rows = [row.embedding for row in told.data]
            assert same(rows[0], "red")
            assert same(rows[1], "blue")
            assert told.usage.total_tokens == 6
        assert [model.id for model in client.models.list()] == [EMBEDS, RERANKS]


def test_routes_of_a_teams_own_stand_behind_the_same_gate():
    def add(app: FastAPI) -> None:
        @app.post("/mine")
        def mine(text: Annotated[str, Body(embed=True)]) -> dict[str, str]:
            return {"upper": text.upper()}

        @app.get("/kept/{number}")
        def kept(number: int) -> None:
            raise HTTPException(409 if number else 404, f"there is no {number}")

    with served(add=add, api_keys=KEY, max_body_bytes=1024) as up:
        known = f"Bearer {KEY}"
        assert up.ask("/mine", {"text": "red"}, Authorization=known)[::2] == (200, {"upper": "RED"})
        assert up.ask("/mine", {"text": 1}, Authorization=known)[0] == 422
        assert up.ask("/mine", {"text": "red"})[0] == 401
        for number, status in ((0, 404), (5, 409)):
            told = up.ask(f"/kept/{number}", method="GET", Authorization=known)
            assert (told[0], told[2]["detail"]) == (status, f"there is no {number}")
        assert up.ask("/none", method="GET", Authorization=known)[2]["error"]["code"] == "no_such_path"
        assert up.ask("/mine", {"text": "r" * 1024}, Authorization=known)[0] == 413


def test_openais_client_reads_our_errors(up):
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key="any", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            client.embeddings.create(model="text-embedding-3-small", input="red")
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.UnprocessableEntityError) as numbers:
            client.embeddings.create(model=EMBEDS, input=[[1, 2, 3]])
        assert "check_embedding_ctx_length=False" in str(numbers.value)
        with pytest.raises(openai.UnprocessableEntityError) as empty:
            client.embeddings.create(model=EMBEDS, input=["red", " "])
        assert empty.value.param == "input[1]"


def test_the_typed_client_speaks_to_it_as_one_of_its_ways(up):
    texts = [f"text {number}" for number in range(300)]
    with Client.self_hosted(up.url, model=EMBEDS) as client:
        found = client.embed(texts, task="retrieval.passage")
        assert all(same(row, text, "retrieval.passage") for row, text in zip(found, texts, strict=True))
        small = client.embed(["red"], dimensions=64)
        assert np.allclose(small[0], normalized(vector("red", DEFAULT)[None, :64])[0], atol=1e-6)
        late = client.embed(["one", "two"], late_chunking=True)
        assert same(late[1], "two in 2")
    with Client.self_hosted(up.url, model=RERANKS) as client:
        ranking = client.rerank("pet food", ["car tyres", "pet food", "pet"], top_n=2)
        assert [(each.index, each.relevance_score) for each in ranking] == [(1, 2.0), (2, 1.0)]


def test_a_container_of_sagemakers_is_what_it_is_too(up):
    assert up.get("/ping")[0] == 200
    told = {"data": [{"text": "red"}, {"text": "blue"}], "parameters": {"task": "text-matching", "dimensions": None}}
    status, _, answer = up.ask("/invocations", told)
    assert status == 200
    assert same(answer["data"][1]["embedding"], "blue", "text-matching")
    assert answer["parameters"]["task"] == "text-matching"
    status, headers, raw = up.ask("/invocations", told, Accept="application/x-npy")
    rows = np.load(io.BytesIO(raw), allow_pickle=False)
    assert (headers["content-type"], rows.shape, rows.dtype) == ("application/x-npy", (2, 1024), np.float32)
    assert same(rows[0], "red", "text-matching")
    assert headers["x-total-tokens"] == "6"
    ranked = {"data": {"query": "pet food", "documents": [{"text": "tyres"}, {"text": "pet"}], "top_n": 1}}
    _, _, answer = up.ask("/invocations", ranked)
    assert [each["index"] for each in answer["data"][0]["results"]] == [1]


def test_the_plain_door(up):
    status, headers, answer = up.ask("/embed", {"texts": ["red"], "dimensions": 32, "normalized": False})
    assert (status, headers["x-jina-sm-stand-in"]) == (200, "true")
    assert np.allclose(answer["embeddings"][0], vector("red", DEFAULT)[:32])
    assert (answer["dimensions"], answer["usage"]) == (32, {"total_tokens": 3})
    assert up.ask("/embed", {"texts": "red"})[2]["dimensions"] == 1024
    assert up.get("/health")[2]["models"] == [EMBEDS, RERANKS]


def test_each_model_has_its_own_names(tmp_path):
    for name in ("vectors", "scores"):
        (tmp_path / name).mkdir()
    real = Obedient()
    real.stand_in = False
    with served(real, model=str(tmp_path / "vectors"), reranker=str(tmp_path / "scores")) as up:
        asked = {"query": "pet", "documents": ["pet"]}
        status, headers, _ = up.ask("/v1/embeddings", {"input": "red", "model": "vectors"})
        assert (status, "x-jina-sm-stand-in" in headers) == (200, False)
        assert up.ask("/v1/embeddings", {"input": "red", "model": "scores"})[0] == 404
        status, headers, _ = up.ask("/v1/rerank", {**asked, "model": "scores"})
        assert (status, headers["x-jina-sm-stand-in"]) == (200, "true")
        assert up.ask("/v1/rerank", {**asked, "model": "vectors"})[0] == 404


@pytest.mark.parametrize(
    ("given", "named"),
    [({"dimensions": 256}, "dimensions"), ({"task": "retrieval.query"}, "task"), ({"late_chunking": True}, "late")],
)
def test_what_would_change_the_vector_and_is_not_known_is_refused(given, named):
    with served(Obedient(model="jina-embeddings-v2-base-en")) as up:
        for path, asked in (
            ("/v1/embeddings", {"input": "red", **given}),
            ("/invocations", {"data": [{"text": "red"}], "parameters": given}),
        ):
            status, _, answer = up.ask(path, asked)
            assert (status, answer["error"]["code"]) == (422, "invalid_parameter"), path
            assert named in answer["error"]["param"]
        assert up.ask("/v1/embeddings", {"input": "red", "dimensions": 768, "late_chunking": False})[0] == 200


def test_a_tasks_prompt_counts_to_what_the_model_reads():
    model = Obedient(max_tokens=20)
    model.prompts = {"retrieval.query": 8}
    with served(model) as up:
        asked = {"input": " ".join(["word"] * 15)}
        told = up.ask("/v1/embeddings", asked)
        assert (told[0], told[2]["usage"]["total_tokens"]) == (200, 17)
        status, _, answer = up.ask("/v1/embeddings", {**asked, "task": "retrieval.query"})
        assert status == 400
        assert "it is 25 tokens" in answer["error"]["message"]
        short = up.ask("/v1/embeddings", {"input": "a word", "task": "retrieval.query"})
        assert (short[0], short[2]["usage"]["total_tokens"]) == (200, 4)
        chunks = {"input": ["one two", "three four"], "late_chunking": True, "task": "retrieval.query"}
        assert up.ask("/v1/embeddings", chunks)[0] == 200  # the prompt is read once
        assert up.ask("/v1/embeddings", {**chunks, "input": [*chunks["input"], "five six seven"]})[0] == 400


def test_rerank_returns_documents_unless_told_not_to(up):
    asked = {"query": "pet", "documents": ["pet", {"text": "tyre"}]}
    assert up.ask("/v1/rerank", asked)[2]["results"][0]["document"] == {"text": "pet"}
    assert "document" not in up.ask("/v1/rerank", {**asked, "return_documents": False})[2]["results"][0]


# ---- what is refused, and how


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/embeddings", b"", 400, None),
        ("/v1/embeddings", b"{", 400, None),
        ("/v1/embeddings", b"\xff\xfe", 400, None),
        ("/v1/embeddings", b"[" * 100_000, 400, None),
        ("/v1/embeddings", b'{"input": "a", "dimensions": NaN}', 400, None),
        ("/v1/embeddings", b'{"input": "\\ud800"}', 400, None),
        ("/v1/embeddings", b"[]", 422, None),
        ("/v1/embeddings", b"{}", 422, "input"),
        ("/v1/embeddings", b'{"input": []}', 422, "input"),
        ("/v1/embeddings", b'{"input": ["a", null]}', 422, "input[1]"),
        ("/v1/embeddings", b'{"input": ["a", {"text": ["b"]}]}', 422, "input[1].text"),
        ("/v1/embeddings", b'{"input": "a", "model": 3}', 422, "model"),
        ("/v1/embeddings", b'{"input": "a", "task": "cooking"}', 422, "task"),
        ("/v1/embeddings", b'{"input": "a", "dimensions": 33}', 422, "dimensions"),
        ("/v1/embeddings", b'{"input": "a", "dimensions": -1e400}', 400, None),
        ("/v1/embeddings", b'{"input": "a", "dimensions": 64.5}', 422, "dimensions"),
        ("/v1/embeddings", b'{"input": "a", "embedding_type": ["float"]}', 422, "embedding_type"),
        ("/v1/embeddings", b'{"input": {"image": "http://169.254.169.254/"}}', 422, "input[0].text"),
        ("/v1/rerank", b'{"query": "", "documents": ["a"]}', 422, "query"),
        ("/v1/rerank", b'{"query": "a", "documents": ["a"], "top_n": 0}', 422, "top_n"),
        ("/v1/rerank", b'{"query": "a", "documents": "abc"}', 422, "documents"),
        ("/invocations", b'{"data": "a"}', 422, "data[0]"),
        ("/invocations", b'{"data": [{"text": "a"}], "parameters": null}', 200, None),
        ("/invocations", b'{"data": [{"text": "a"}], "parameters": false}', 422, "parameters"),
        ("/invocations", b'{"data": [{"text": "a"}], "parameters": [1]}', 422, "parameters"),
        ("/embed", b'{"texts": ["a"], "dimension": 3}', 422, "dimension"),
        ("/embed", b'{"texts": {"a": 1}}', 422, "texts"),
        ("/embed", b'{"texts": ["a", " "]}', 422, "texts[1]"),
        ("/invocations", b'{"data": [{"text": "a"}, {"text": " "}]}', 422, "data[1]"),
    ],
)
def test_bad_input_is_refused_with_its_place(up, path, body, status, param):
    found, headers, answer = up.ask(path, body)
    assert found == status, answer
    if status != 200:
        assert answer["error"]["param"] == param
        assert answer["detail"]
        assert answer["request_id"] == headers["x-request-id"]


def test_what_is_too_long_is_refused_or_cut(up):
    long = "word " * 9000
    status, _, answer = up.ask("/v1/embeddings", {"input": ["a", long]})
    assert (status, answer["error"]["code"]) == (400, "INPUT_TOKEN_LIMIT_EXCEEDED")
    assert answer["error"]["param"] == "input[1]"
    status, _, answer = up.ask("/v1/embeddings", {"input": ["a", long], "truncate": True})
    assert (status, answer["usage"]["total_tokens"]) == (200, 3 + 8192)
    up.ask("/v1/embeddings", {"input": "word " * 1_000_000, "truncate": True})
    assert len(up.model.batches[-1][0]) == 64 * 8192  # the model's thread reads no megabytes to cut them
    status, _, answer = up.ask("/v1/embeddings", {"input": ["word " * 5000] * 2, "late_chunking": True})
    assert status == 400


def test_other_paths_methods_and_media_types(up):
    assert up.get("/nothing")[0] == 404
    status, headers, _ = up.get("/v1/embeddings")
    assert (status, headers["allow"]) == (405, "POST")
    assert up.ask("/v1/embeddings", b"input=a", Content_Type="application/x-www-form-urlencoded")[0] == 415
    assert up.ask("/v1/embeddings", {"input": "a"}, Content_Type="application/json; charset=utf-8")[0] == 200


def test_a_body_over_the_limit_is_not_read():
    with served(max_body_bytes=2000, max_items=3, max_open_bytes=4000) as up:
        status, _, answer = up.ask("/v1/embeddings", b" " * 5_000_000)
        assert (status, answer["error"]["code"]) == (413, "too_large")
        with socket.create_connection(("127.0.0.1", up.port)) as raw:  # without saying beforehand how much it is
            raw.sendall(b"POST /embed HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            raw.sendall(b"800\r\n" + b" " * 2048 + b"\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 413")
        status, _, answer = up.ask("/v1/embeddings", {"input": ["a"] * 4})
        assert (status, answer["error"]["code"]) == (413, "too_many_items")
        assert up.ask("/v1/embeddings", {"input": ["a"] * 3})[0] == 200


def test_a_slow_body_is_not_waited_for():
    with served(body_timeout_s=0.2) as up, socket.create_connection(("127.0.0.1", up.port)) as raw:
        raw.sendall(b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        said = raw.recv(1000)
        assert said.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in said.lower()


def test_request_ids_are_kept_if_they_can_be(up):
    assert up.ask("/embed", {"texts": "a"}, X_Request_Id="mine-1")[1]["x-request-id"] == "mine-1"
    assert up.ask("/embed", {"texts": "a"}, X_Request_Id='x"}{' * 50)[1]["x-request-id"] != 'x"}{' * 50


def test_keys_are_asked_for_and_any_of_them_will_do(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\nanother-key-too\n")
    with served(api_key_file=str(file)) as up:
        asked = {"input": "a"}
        assert up.ask("/v1/embeddings", asked)[0] == 401
        assert up.ask("/v1/embeddings", asked, Authorization="Bearer wrong")[0] == 401
        assert up.ask("/v1/embeddings", asked, Authorization=f"Basic {KEY}")[0] == 401
        for key in (KEY, "another-key-too"):
            assert up.ask("/v1/embeddings", asked, Authorization=f"Bearer {key}")[0] == 200
        assert [up.get(path)[0] for path in ("/live", "/ready", "/ping", "/metrics", "/health")] == [200] * 5
        assert up.get("/v1/models")[0] == 401
        with Client.self_hosted(up.url, model=EMBEDS, api_key=KEY) as client:
            client.embed(["a"])
        with Client.self_hosted(up.url, model=EMBEDS) as client, pytest.raises(errors.AuthError):
            client.embed(["a"])


def test_what_needs_no_key_takes_no_body_either():
    with served(api_keys=KEY, max_body_bytes=1024, max_open_bytes=1024) as up:
        assert up.ask("/health", {"input": "a"})[0] == 401
        with socket.create_connection(("127.0.0.1", up.port)) as raw:
            raw.sendall(b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 401")


def test_an_announced_body_takes_no_room_before_it_is_there():
    with (
        served(max_body_bytes=1024, max_open_bytes=1024) as up,
        socket.create_connection(("127.0.0.1", up.port)) as raw,
    ):
        raw.sendall(b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n")
        assert up.ask("/embed", {"texts": ["red"]})[0] == 200
        status, _, answer = up.ask("/embed", b"", Content_Length="9" * 30)
        assert status in (400, 413), answer


def test_what_goes_on_after_its_answer_is_not_broken_off():
    may_end, ended = threading.Event(), threading.Event()

    def add(app: FastAPI) -> None:
        @app.post("/later")
        async def later(tasks: BackgroundTasks) -> None:
            async def work() -> None:
                assert await asyncio.to_thread(may_end.wait, 60)
                ended.set()

            tasks.add_task(work)

    with served(add=add) as up:
        assert up.ask("/later")[0] == 200
        may_end.set()
        assert ended.wait(60)


def scope(**more: Any) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": "/live", "headers": [], "query_string": b"", **more}


def test_websockets_are_refused():
    told: list[Any] = []

    async def send(message: Any) -> None:
        told.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(create_app(Settings())(scope(type="websocket", path="/mine"), receive, send))
    assert [each["type"] for each in told] == ["websocket.close"]


def test_a_large_answer_is_handed_over_in_parts():
    parts: list[bytes] = []

    async def send(message: Any) -> None:
        parts.append(message.get("body", b""))

    async def receive() -> Any:
        return {"type": "http.request"}

    app = create_app(Settings())

    @app.get("/large")
    def large() -> Response:
        return Response(b"x" * 1_000_000)

    asyncio.run(app(scope(path="/large"), receive, send))
    assert max(map(len, parts)) <= 64 * 1024
    assert sum(map(len, parts)) == 1_000_000


def test_no_text_and_no_key_is_in_the_log(caplog):
    caplog.set_level("DEBUG")
    with served(api_keys=KEY) as up:
        up.ask("/v1/embeddings", {"input": ["whisper", "poison whisper"]}, Authorization=f"Bearer {KEY}")
        up.ask("/v1/embeddings", {"input": ["whisper"], "task": "whisper"}, Authorization=f"Bearer {KEY}")
        assert up.ask("/v1/embeddings", b"whisper", Authorization="Bearer whispered-key")[0] == 401
    assert "/v1/embeddings" in caplog.text
    assert "key 1" in caplog.text
    assert "whisper" not in caplog.text
    assert KEY not in caplog.text


# ---- what goes wrong behind the doors


def test_an_answer_says_where_its_time_went():
    with served(limits=Limits(padded_tokens=16)) as up, concurrent.futures.ThreadPoolExecutor(2) as pool:
        up.model.may_go.clear()
        pool.submit(embed, up, ["running"])
        assert up.model.working.wait(30)
        waits = pool.submit(embed, up, ["waiting"])
        batcher = up.server.backend.engine.batcher
        wait_for(lambda: batcher.waiting_items == 1)
        began = time.monotonic()
        wait_for(lambda: time.monotonic() > began + 0.02)  # so long it has waited at least, whatever the machine does
        up.model.may_go.set()
        spent = told(waits.result()[1])
    assert spent.queue_s >= 0.02
    assert spent.work_s > 0
    assert spent.queue_s + spent.work_s <= spent.total_s


def test_a_gateway_tells_only_of_its_own_time():
    with served() as up:
        behind = parse(f"http://127.0.0.1:{up.port}?model={EMBEDS}")
        with served(backend=lambda: Gateway([behind])) as front:
            spent = told(embed(front, ["a"])[1])
    assert (spent.queue_s, spent.work_s) == (None, None)
    assert spent.total_s > 0


def embed(up: Served, texts: list[str], **headers: str) -> tuple[int, dict[str, str], Any]:
    return up.ask("/v1/embeddings", {"input": texts}, **headers)


def test_one_poisoned_text_fails_its_own_request_and_nobody_elses():
    with served() as up, concurrent.futures.ThreadPoolExecutor(20) as pool:
        up.model.may_go.clear()
        first = pool.submit(embed, up, ["first"])
        assert up.model.working.wait(30)
        others = [pool.submit(embed, up, [f"text {number}", "more"]) for number in range(15)]
        bad = pool.submit(embed, up, ["fine", "poison"])
        wait_for(lambda: up.server.backend.engine.batcher.waiting_requests == 17)
        up.model.may_go.set()
        for number, other in enumerate(others):
            status, _, answer = other.result()
            assert status == 200
            assert same(answer["data"][0]["embedding"], f"text {number}")
        status, _, answer = bad.result()
        assert (status, answer["error"]["param"]) == (500, "input[1]")
        assert "poisoned" not in str(answer)  # the model's own words may repeat somebody's text
        assert first.result()[0] == 200


def test_an_accepted_request_does_not_fail_for_memory():
    with served(Obedient(memory=300), limits=Limits(padded_tokens=4096)) as up:
        status, _, answer = embed(up, [f"{number} " + "word " * 20 for number in range(128)])
        assert status == 200
        assert len(answer["data"]) == 128
        assert up.model.released >= 1
        metrics = up.get("/metrics")[2].decode()
        assert "jina_sm_out_of_memory" in metrics
        status, _, answer = embed(up, ["word " * 400])
        assert (status, answer["error"]["code"]) == (413, "out_of_memory")


def test_a_full_queue_is_said_at_once_and_with_a_time():
    limits = Limits(padded_tokens=64, waiting_items=2)
    with served(limits=limits) as up, concurrent.futures.ThreadPoolExecutor(20) as pool:
        up.model.may_go.clear()
        running = pool.submit(embed, up, ["running"])
        assert up.model.working.wait(30)
        waiting = pool.submit(embed, up, ["waiting", "waiting too"])
        wait_for(lambda: up.server.backend.engine.batcher.waiting_items == 2)
        status, headers, answer = embed(up, ["one too many"])
        assert (status, answer["error"]["code"]) == (429, "overloaded")
        assert int(headers["retry-after"]) >= 1
        up.model.may_go.set()
        assert (running.result()[0], waiting.result()[0]) == (200, 200)


def test_whoever_hangs_up_costs_no_more_work():
    with served(limits=Limits(padded_tokens=16)) as up, concurrent.futures.ThreadPoolExecutor(2) as pool:
        up.model.may_go.clear()
        running = pool.submit(embed, up, ["running"])
        assert up.model.working.wait(30)
        body = b'{"input": ["gone 1", "gone 2"]}'
        with socket.create_connection(("127.0.0.1", up.port)) as raw:
            raw.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            wait_for(lambda: up.server.backend.engine.batcher.waiting_items == 2)
        wait_for(lambda: up.server.backend.engine.batcher.waiting_items == 0)
        up.model.may_go.set()
        assert running.result()[0] == 200
        assert not any("gone" in text for batch in up.model.batches for text in batch)


def test_what_alone_takes_longer_than_it_has_is_told_to_come_in_parts():
    with served() as up:

        async def submit(*_: Any, **__: Any) -> Any:
            raise TooLargeError(200.0)

        up.server.backend.engine.submit = submit
        status, _, answer = embed(up, ["a", "b"])
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (413, "too_much", "input")
        assert "about 200 s here, and a request has 60 s" in answer["error"]["message"]


def test_what_takes_too_long_is_said_to():
    with served(timeout_s=0.3, limits=Limits(padded_tokens=16)) as up, concurrent.futures.ThreadPoolExecutor(2) as pool:
        up.model.may_go.clear()
        running = pool.submit(embed, up, ["running"])
        assert up.model.working.wait(30)
        status, _, answer = embed(up, ["waiting"])
        assert (status, answer["error"]["code"]) == (504, "timeout")
        up.model.may_go.set()
        running.result()


@dies
def test_a_dead_model_thread_is_begun_anew_and_blames_what_killed_it():
    with served() as up, concurrent.futures.ThreadPoolExecutor(4) as pool:
        up.model.may_go.clear()
        first = pool.submit(embed, up, ["first"])
        assert up.model.working.wait(30)
        deadly, other = pool.submit(embed, up, ["let it die"]), pool.submit(embed, up, ["innocent one"])
        wait_for(lambda: up.server.backend.engine.batcher.waiting_requests == 3)
        up.model.may_go.set()
        assert first.result()[0] == 200
        assert deadly.result()[0] == 500
        assert other.result()[0] == 200
        assert up.server.backend.engine.deaths >= 1
        assert up.get("/live")[0] == 200


@dies
def test_a_thread_that_keeps_dying_turns_live_red():
    with served() as up:
        for _ in range(6):
            embed(up, ["let it die"])
        wait_for(lambda: up.get("/live")[0] == 503)
        assert up.get("/ready")[0] == 503
        assert embed(up, ["anything"])[0] in (503, 504)


def test_a_model_that_fails_on_everything_turns_live_red():
    with served() as up:
        up.model.broken = True
        for number in range(8):
            assert embed(up, [f"text {number}"])[0] == 500
        wait_for(lambda: up.get("/live")[0] == 503)


def test_poisoned_requests_alone_do_not_turn_live_red():
    with served() as up:
        for number in range(20):
            assert embed(up, [f"poison {number}"])[0] == 500
        assert up.get("/live")[0] == 200
        assert embed(up, ["fine"])[0] == 200


def test_a_stuck_model_turns_live_red():
    with served(stuck_after_s=0.05) as up, concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert up.get("/live")[0] == 200
        up.model.may_go.clear()
        stuck = pool.submit(embed, up, ["stuck"])
        wait_for(lambda: up.get("/live")[0] == 503)
        up.model.may_go.set()
        stuck.result()
        wait_for(lambda: up.get("/live")[0] == 200)


def test_many_at_once_each_get_their_own():
    async def all_of_them(url: str) -> list[Any]:
        client = AsyncClient.self_hosted(url, model=EMBEDS, coalesce=False, in_flight=64)
        async with client:
            return await asyncio.gather(*(client.embed([f"text {number}"]) for number in range(200)))

    with served() as up:
        for number, found in enumerate(asyncio.run(all_of_them(up.url))):
            assert same(found[0], f"text {number}")
        assert max(len(batch) for batch in up.model.batches) > 1


# ---- in front of something else


RERANKING = f"sagemaker://us-east-1/reranks?model={RERANKS}"


def gateway(*targets: str, **settings: Any) -> Callable[[], Gateway]:
    return lambda: Gateway([parse(target) for target in targets], **settings)


def test_a_gateway_makes_a_sagemaker_endpoint_speak_openais_wire(account):
    account.deploy(EMBEDS, name="embeds")
    account.deploy(RERANKS, name="reranks")
    with served(backend=gateway(f"sagemaker://us-east-1/embeds?model={EMBEDS}", RERANKING)) as up:
        with openai.OpenAI(base_url=f"{up.url}/v1", api_key="any", max_retries=0) as client:
            told = client.embeddings.create(model=EMBEDS, input=["red", "blue"], dimensions=256)
            assert [len(row.embedding) for row in told.data] == [256, 256]
        with Client.sagemaker("embeds", model=EMBEDS, region="us-east-1") as direct:
            assert np.allclose(direct.embed(["red"], dimensions=256)[0], told.data[0].embedding, atol=1e-5)
        asked = {"query": "pet food", "documents": ["tyres", "dog biscuits"], "top_n": 1}
        assert [each["index"] for each in up.ask("/v1/rerank", asked)[2]["results"]] == [1]
        with Client.self_hosted(up.url, model=EMBEDS) as client:
            assert client.embed([f"text {number}" for number in range(600)]).vectors.shape == (600, 1024)
        status, _, answer = up.ask("/v1/embeddings", {"input": "a", "task": "cooking"})
        assert (status, answer["error"]["code"]) == (422, "invalid_request")


def test_a_gateway_makes_few_requests_of_many_and_goes_elsewhere_when_one_is_down(free_port):
    dead = f"http://127.0.0.1:{free_port}?model={EMBEDS}"
    with served() as behind, served(backend=gateway(dead, f"{behind.url}?model={EMBEDS}")) as up:
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            behind.model.may_go.clear()
            asked = [pool.submit(embed, up, [f"text {number}"]) for number in range(40)]
            wait_for(lambda: up.server.backend._under_way == 40)
            behind.model.may_go.set()
            for number, told in enumerate(asked):
                status, _, answer = told.result()
                assert status == 200, answer
                assert same(answer["data"][0]["embedding"], f"text {number}")
        (line,) = (
            line
            for line in behind.get("/metrics")[2].decode().splitlines()
            if line.startswith('jina_sm_requests_total{path="/v1/embeddings",status="200"}')
        )
        assert float(line.split()[1]) < 20


def test_a_gateway_says_what_is_wrong_behind_it(account, caplog):
    account.deploy(EMBEDS, name="embeds")
    local.fault("model-error", "InvokeEndpoint", port=account.port, status=400)
    with served(backend=gateway(f"sagemaker://us-east-1/embeds?model={EMBEDS}")) as up:
        status, _, answer = up.ask("/v1/embeddings", {"input": "a"})
        assert (status, answer["error"]["code"]) == (400, "invalid_request")
    with served(backend=gateway(f"sagemaker://us-east-1/nothing?model={EMBEDS}")) as up:
        status, _, answer = up.ask("/v1/embeddings", {"input": "a"})
        assert (status, answer["error"]["code"]) == (502, "upstream_not_found")
        assert "nothing" not in answer["detail"]  # the operator's affair, and in the log
        assert "nothing" in caplog.text
        assert up.ask("/v1/rerank", {"query": "a", "documents": ["a"]})[0] == 404


def test_a_gateway_passes_no_url_on_but_to_hosts_that_were_allowed():
    target = "http://127.0.0.1:9?model=jina-clip-v2"
    with served(backend=gateway(target, url_hosts=["pictures.example"])) as up:
        for url in (
            "http://169.254.169.254/latest",
            "https://pictures.example.evil.example/a.png",
            "http://169.254.169.254\\@pictures.example/latest",
            "http://pictures.example@169.254.169.254/latest",
            "http://somebody@pictures.example/a.png",
            "http://pictures.example:8080/a.png",
            "http://pictures.example:99999/a.png",
        ):
            status, _, answer = up.ask("/v1/embeddings", {"input": [{"image": url}]})
            assert (status, answer["error"]["code"]) == (422, "url_not_allowed")


@pytest.mark.parametrize(
    ("allowed", "url", "passes"),
    [
        ("a.example:443", "https://a.example/x", True),
        ("a.example:443", "https://a.example:443/x", True),
        ("a.example", "https://a.example:443/x", True),
        ("a.example:8080", "http://a.example:8080/x", True),
        ("a.example", "http://a.example:443/x", False),
        ("[::1]:8000", "http://[::1]:8000/x", True),
        ("[::1]", "http://[::1]:8000/x", False),
    ],
)
def test_an_allowed_host_may_have_its_port(allowed, url, passes):
    assert bool(_places(url) & {allowed}) == passes


def test_a_gateway_has_one_model_of_each_kind():
    with pytest.raises(errors.InputError, match="two models that embed"):
        gateway("http://127.0.0.1:9?model=jina-embeddings-v3", "http://127.0.0.1:9?model=jina-embeddings-v4")()
    with pytest.raises(errors.InputError, match="no door"):
        gateway("http://127.0.0.1:9?model=ReaderLM-v2")()
