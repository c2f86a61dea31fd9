"""The typed client over transports that are ordinary classes."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import Client, Limits, Policy, catalog, errors, wire
from jina_sm.client import raw_responses
from jina_sm.clock import Clock
from jina_sm.exchange import Event
from jina_sm.transport import Request, Response
from jina_sm.transport.sagemaker import SageMakerTransport
from jina_sm.values import EmbedRequest, Media, RerankRequest, Rows

V3 = "jina-embeddings-v3"
RERANKER = "jina-reranker-v2-base-multilingual"
KNOWN = catalog.load(environ={})
embeddings_v3 = wire.dialect(KNOWN.model(V3))
reranker_v2 = wire.dialect(KNOWN.model(RERANKER))


class Fake:
    """What every fake target says of itself."""

    name, region, wire = "fake", None, "container"

    def instances(self) -> int | None:
        return None

    def close(self) -> None: ...


class FakeTransport(Fake):
    """Answers each text with a vector that is its own, after the failures it was given."""

    def __init__(self, *failures: errors.JinaSMError | bytes) -> None:
        self.failures = list(failures)
        self.asked: list[EmbedRequest] = []
        self.closed = False
        self._lock = threading.Lock()

    def send(self, request: Request) -> Response:
        asked: EmbedRequest = embeddings_v3.decode_request(request.body)
        with self._lock:
            self.asked.append(asked)
            failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, bytes):
            return Response(failure)
        if failure is not None:
            raise failure
        vectors = np.stack([vector_of(text, asked.dimensions or 1024) for text in asked.items])
        return Response(embeddings_v3.encode_response(asked, Rows(vectors, len(asked.items))))

    def close(self) -> None:
        self.closed = True


class FakeReranker(Fake):
    """Scores a document by its length."""

    def __init__(self) -> None:
        self.asked: list[RerankRequest] = []

    def send(self, request: Request) -> Response:
        asked = reranker_v2.decode_request(request.body)
        self.asked.append(asked)
        scores = np.array([len(document) for document in asked.documents], dtype=np.float32)
        return Response(reranker_v2.encode_response(asked, Rows(scores, 1)))


def vector_of(text: str, dimensions: int) -> Any:
    seed = np.frombuffer(text.encode().ljust(8, b"\0")[:8], dtype=np.uint64)[0]
    return np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)


class FakeTime:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(
            now=lambda: self.now, sleep=self.sleep, random=lambda: 1.0, wait=lambda _, seconds: self.sleep(seconds)
        )


def client(*transports: Any, model: str = V3, **settings: Any) -> Client:
    settings.setdefault("retry", Policy(hedge_after=0))  # that clock jumps, so everything would be a straggler
    return Client(model, transports=transports, clock=settings.pop("clock_of", None) or FakeTime().clock, **settings)


def test_one_vector_a_text_in_the_order_given() -> None:
    with client(up := FakeTransport()) as asking:
        found = asking.embed(["b", "a", "c" * 50], dimensions=64)
    np.testing.assert_array_equal(found.vectors, np.stack([vector_of(t, 64) for t in ["b", "a", "c" * 50]]))
    assert (found.vectors.shape, found.vectors.dtype) == ((3, 64), np.float32)
    assert (found.usage.total_tokens, found.usage.requests) == (3, 1)
    assert up.closed


def test_the_models_default_task_is_said() -> None:
    client(up := FakeTransport()).embed(["a"])
    assert up.asked[0].task == "text-matching"


@given(st.lists(st.text("abc ", min_size=1, max_size=30), min_size=1, max_size=40), st.integers(1, 7))
def test_order_holds_however_many_requests_it_takes(texts: list[str], items: int) -> None:
    with client(up := FakeTransport(), limits=Limits(items=items)) as asking:
        found = asking.embed(texts, dimensions=32)
    np.testing.assert_array_equal(found.vectors, np.stack([vector_of(text, 32) for text in texts]))
    assert found.usage.requests == len(up.asked) == -(-len(texts) // items)


def test_another_region_takes_over() -> None:
    down = FakeTransport(*[errors.ModelUnavailableError("down")] * 9)
    with client(down, up := FakeTransport()) as asking:
        assert len(asking.embed(["a"])) == 1
    assert (len(down.asked), len(up.asked)) == (1, 1)


def test_a_deleted_endpoint_is_passed_over_until_its_rest_is_over() -> None:
    gone = FakeTransport(*[errors.EndpointNotFoundError("gone")] * 9)
    with client(gone, FakeTransport()) as asking:
        for _ in range(5):
            asking.embed(["a"])
    assert len(gone.asked) == 1


def test_a_failure_that_passes_is_not_seen() -> None:
    flaky = FakeTransport(
        errors.ThrottledError("slow down"),
        errors.ModelUnavailableError("loading"),
        b"{",
        errors.ModelFailedError("oops"),
    )
    with client(flaky) as asking:
        assert asking.embed(["a"]).usage.requests == 5


def test_what_timed_out_comes_back_in_halves_and_whole() -> None:
    with client(slow := FakeTransport(errors.ModelTimeoutError("slow"))) as asking:
        found = asking.embed(["a", "b", "c"], dimensions=32)
    np.testing.assert_array_equal(found.vectors, np.stack([vector_of(text, 32) for text in "abc"]))
    assert [len(asked.items) for asked in slow.asked] in ([3, 1, 2], [3, 2, 1])


def test_a_wrong_answer_is_an_error_that_says_so() -> None:
    with client(FakeTransport(*[b'{"data":[]}'] * 9)) as asking, pytest.raises(errors.ProtocolError, match="0 vectors"):
        asking.embed(["a"])


def test_vectors_of_another_length_are_refused() -> None:
    short = embeddings_v3.encode_response(EmbedRequest(items=("a",)), Rows(np.ones((1, 8), np.float32), 1))
    with client(FakeTransport(*[short] * 9)) as asking, pytest.raises(errors.ProtocolError, match="not of 1024"):
        asking.embed(["a"])


def test_a_bug_in_a_transport_reaches_the_caller_instead_of_hanging_it() -> None:
    class Broken(FakeTransport):
        def send(self, request: Request) -> Response:
            raise ZeroDivisionError("bug")

    with client(Broken(), limits=Limits(items=1)) as asking:
        with pytest.raises(errors.JinaSMError, match="ZeroDivisionError: bug") as caught:
            asking.embed(["a", "b", "c"])
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_many_threads_share_a_client_and_each_gets_its_own() -> None:
    wrong: list[str] = []
    with client(FakeTransport(), limits=Limits(items=2), in_flight=3) as asking:

        def ask(name: str) -> None:
            texts = [f"{name}{index}" for index in range(7)]
            found = asking.embed(texts, dimensions=32)
            if not np.array_equal(found.vectors, np.stack([vector_of(text, 32) for text in texts])):
                wrong.append(name)

        threads = [threading.Thread(target=ask, args=(chr(97 + index),)) for index in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_an_interrupt_ends_the_call_and_upsets_nobody_elses() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FakeTransport):
        def send(self, request: Request) -> Response:
            begun.set()
            go_on.wait()
            return super().send(request)

    with client(slow := Slow(), limits=Limits(items=1), in_flight=1) as asking:
        caller = threading.Thread(target=lambda: asking.embed(["other"]))
        caller.start()
        begun.wait()
        with pytest.raises(KeyboardInterrupt):
            _interrupted(lambda: asking.embed(["a", "b", "c"]), go_on, lambda: asking._driver._exchange.calls == 2)
        caller.join()
        assert len(asking.embed(["after"])) == 1
    assert [asked.items[0] for asked in slow.asked if asked.items[0] in "abc"] == []


def _interrupted(call: Callable[[], object], then: threading.Event, waits: Callable[[], bool]) -> None:
    """Interrupts this thread, as Ctrl-C does, while it waits in the call."""
    main = threading.main_thread()

    def interrupt() -> None:
        wait_for(waits)
        signal.pthread_kill(main.ident or 0, signal.SIGINT)

    try:
        threading.Timer(0.1, interrupt).start()
        call()
    finally:
        then.set()


@pytest.mark.parametrize(
    ("model", "width", "coded", "most"),
    [("jina-embeddings-v5-text-nano", 768, True, 480), ("jina-embeddings-v4", 2048, False, 90)],
)
def test_answers_fit_whether_numbers_travel_as_bytes_or_as_text(model: str, width: int, coded: bool, most: int) -> None:
    speech = wire.dialect(KNOWN.model(model))
    asked: list[EmbedRequest] = []

    class FakeModel(FakeTransport):
        def send(self, request: Request) -> Response:
            asked.append(speech.decode_request(request.body))
            rows = np.ones((len(asked[-1].items), width), np.float32)
            return Response(speech.encode_response(asked[-1], Rows(rows, 1)))

    with client(FakeModel(), model=model, limits=Limits(response_bytes=3_900_000)) as asking:
        assert asking.embed(["a"] * 480 * 13).vectors.shape == (480 * 13, width)
    assert {each.base64 for each in asked} == {coded}
    assert max(len(each.items) for each in asked) in range(most, most + 10)


def test_documents_come_back_by_falling_score_from_several_requests() -> None:
    documents = ["x" * length for length in (3, 9, 1, 7, 5)]
    with client(up := FakeReranker(), model=RERANKER, limits=Limits(items=2)) as asking:
        ranking = asking.rerank("q", documents, top_n=3)
    assert [each.index for each in ranking] == [1, 3, 4]
    assert [each.document for each in ranking] == ["x" * 9, "x" * 7, "x" * 5]
    assert ranking.scores.tolist() == [9, 7, 5]
    assert len(up.asked) == 3
    assert all(asked.query == "q" for asked in up.asked)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda c: c.embed("one"), r"embed\(\) takes a list of texts; for one, pass \[text\]"),
        (lambda c: c.embed(b"one"), r"pass \[text\]"),
        (lambda c: c.embed([]), "no texts"),
        (lambda c: c.embed(7), "not int"),
        (lambda c: c.embed({"a": 1}), "not dict"),
        (lambda c: c.embed(["a", None]), r"texts\[1\] is a NoneType, not a string"),
        (lambda c: c.embed(["a", ""]), r"texts\[1\] is empty"),
        (lambda c: c.embed(["a\ud800"]), r"texts\[0\] is not valid Unicode: a lone surrogate at character 1"),
        (lambda c: c.embed(["a"], task="retrieval"), "no task 'retrieval'; did you mean 'retrieval"),
        (lambda c: c.embed(["a"], dimensions=100), "cannot give 100 dimensions; it gives 32, 64,"),
        (lambda c: c.embed(["a"], dimensions=256.0), "256.0 dimensions"),
        (lambda c: c.embed(["a"], dimensions=True), "True dimensions"),
        (lambda c: c.embed(["a", "word " * 20_000]), r"texts\[1\] has about .* tokens; jina-embeddings-v3 reads 8,192"),
        (lambda c: c.rerank("q", ["a"]), r"rerank\(\) needs a reranker, and jina-embeddings-v3 is a"),
    ],
)
def test_what_can_be_known_beforehand_is_refused_and_nothing_is_sent(
    call: Callable[[Client], object], named: str
) -> None:
    with client(up := FakeTransport()) as asking, pytest.raises(errors.InputError, match=named) as caught:
        call(asking)
    assert up.asked == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda c: c.rerank("q", "abc"), "takes a list of documents"),
        (lambda c: c.rerank("", ["a"]), "query is empty"),
        (lambda c: c.rerank("q", ["a"], top_n=0), "top_n is a whole number of 1 or more, not 0"),
        (lambda c: c.rerank("q", ["a"], top_n=True), "not True"),
        (lambda c: c.rerank("q", ["a", "word " * 3000]), r"documents\[1\] has about .* tokens and the query"),
        (lambda c: c.embed(["a"]), "embed"),
    ],
)
def test_a_reranker_refuses_beforehand_too(call: Callable[[Client], object], named: str) -> None:
    with client(up := FakeReranker(), model=RERANKER) as asking, pytest.raises(errors.InputError, match=named):
        call(asking)
    assert up.asked == []


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(errors.InputError, match="no model 'jina-embedding-v3'; did you mean 'jina-embeddings-v3'"):
        Client("jina-embedding-v3")


def test_regions_are_the_arguments_else_the_environments_else_the_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    def homes(asking: Client) -> list[str]:
        return [lane.region for lane in asking._driver._exchange.lanes]  # type: ignore[attr-defined]

    with pytest.raises(errors.InputError, match="no region"):
        Client(V3)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert homes(Client(V3)) == ["eu-west-1"]
    monkeypatch.setenv("JINA_SM_REGIONS", "us-east-1, eu-central-1")
    assert homes(Client(V3)) == ["us-east-1", "eu-central-1"]
    assert homes(Client(V3, regions=["us-west-2"])) == ["us-west-2"]
    with pytest.raises(
        errors.InputError, match="no model packages in region 'eu-centrl-1'; did you mean 'eu-central-1'"
    ):
        Client(V3, regions=["eu-centrl-1"])
    with pytest.raises(errors.InputError, match="regions is a list"):
        Client(V3, regions="us-east-1")
    with pytest.raises(errors.InputError, match="named twice"):
        Client(V3, regions=["us-east-1", "us-east-1"])


def test_closing_lets_calls_under_way_finish() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FakeTransport):
        def send(self, request: Request) -> Response:
            begun.set()
            go_on.wait()
            return super().send(request)

    asking, got = client(Slow(), limits=Limits(items=1), in_flight=2), []
    caller = threading.Thread(target=lambda: got.append(asking.embed(list("abcdefgh"), dimensions=32)))
    caller.start()
    begun.wait()
    closer = threading.Thread(target=asking.close)
    closer.start()
    go_on.set()
    closer.join()
    caller.join()
    assert len(got[0]) == 8


@pytest.mark.parametrize(
    "settings",
    [
        {"in_flight": 0},
        {"in_flight": float("nan")},
        {"in_flight": 2.5},
        {"in_flight": True},
        {"in_flight": "6"},
        {"transports": []},
        {"retry": {"attempts": 0}},
        {"retry": {"longest_s": float("nan")}},
        {"limits": {"items": 0}},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(errors.InputError):
        Client(
            V3,
            transports=settings.get("transports", [FakeTransport()]),
            in_flight=settings.get("in_flight", 1),
            retry=Policy(**settings.get("retry", {})),
            limits=Limits(**settings.get("limits", {})),
        )


def opened(way: str, **settings: Any) -> Client:
    """A client by one of the ways that say where the model is."""
    target = f"sagemaker://us-east-1/e?model={V3}"
    return {
        "transports": lambda: Client(V3, transports=[FakeTransport()], **settings),
        "sagemaker": lambda: Client.sagemaker("e", model=V3, region="us-east-1", **settings),
        "at": lambda: Client.at(target, **settings),
        "jina_api": lambda: Client.jina_api(V3, api_key="k", **settings),
        "self_hosted": lambda: Client.self_hosted("http://127.0.0.1:9", model=V3, **settings),
    }[way]()


@pytest.mark.parametrize(
    ("way", "argument"),
    [
        *(
            (way, each)
            for way in ("transports", "sagemaker", "at", "jina_api", "self_hosted")
            for each in ("regions", "name")
        ),
        *((way, "session") for way in ("transports", "jina_api", "self_hosted")),
        *((way, "url") for way in ("transports", "jina_api")),
    ],
)
def test_what_would_not_be_looked_at_is_refused_by_its_name(way: str, argument: str) -> None:
    given = ["us-east-1", "eu-central-1"] if argument == "regions" else "x"
    with pytest.raises(errors.InputError, match=f"^{argument} is not looked at"):
        opened(way, **{argument: given})


def hedges(client: Client) -> float | None:
    with client:
        return client._driver._exchange._policy.hedge_after


def test_where_tokens_are_paid_for_nothing_is_sent_twice_unless_that_is_asked_for() -> None:
    assert hedges(opened("jina_api")) == 0
    assert hedges(opened("jina_api", retry=Policy(attempts=2))) == 0
    assert hedges(opened("jina_api", retry=Policy(hedge_after=3))) == 3
    assert hedges(opened("self_hosted")) is None, "as the machine thinks best"
    assert hedges(opened("sagemaker", retry=Policy(attempts=2))) is None


def test_with_one_place_that_is_paid_by_tokens_nothing_is_sent_twice_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINA_API_KEY", "k")
    assert hedges(Client.at(f"http://127.0.0.1:9?model={V3}", f"jina-api://?model={V3}")) == 0


def test_a_closed_client_says_so() -> None:
    asking = client(FakeTransport())
    asking.close()
    with pytest.raises(errors.InputError, match="closed"):
        asking.embed(["a"])


def test_a_policy_bounds_the_attempts() -> None:
    down = FakeTransport(*[errors.ModelUnavailableError("down")] * 99)
    with client(down, retry=Policy(attempts=2)) as asking, pytest.raises(errors.ModelUnavailableError) as caught:
        asking.embed(["a"])
    assert (caught.value.attempts, len(down.asked)) == (2, 2)


def test_a_row_of_ones_own_is_a_model_too() -> None:
    own = catalog.Model(key="mine", kind="embedding", dialect="embeddings-v3", dimensions=8, max_tokens=100, tasks=())
    with Client(own, transports=[FakeTransport(b"{}")], clock=FakeTime().clock) as asking:
        with pytest.raises(errors.InputError, match="mine takes no task"):
            asking.embed(["a"], task="retrieval.query")


class Held(FakeTransport):
    """Answers nothing until it is let go; counts who waits."""

    def __init__(self, *failures: errors.JinaSMError | bytes) -> None:
        super().__init__(*failures)
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()

    def send(self, request: Request) -> Response:
        self.begun.release()
        self.go_on.wait()
        return super().send(request)


def asked_together(asking: Client, up: Held, names: Sequence[str], **how: Any) -> dict[str, Any]:
    """What each of these gets, who all ask while the first request is under way."""
    got: dict[str, Any] = {}

    def ask(name: str) -> None:
        try:
            got[name] = asking.embed([name], dimensions=32, **how)
        except errors.JinaSMError as error:
            got[name] = error

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    threads[0].start()
    up.begun.acquire()
    for thread in threads[1:]:
        thread.start()
    while asking._driver._exchange.calls < len(names):  # until all have asked
        threading.Event().wait(0.001)
    up.go_on.set()
    for thread in threads:
        thread.join()
    return got


def test_those_who_ask_while_a_request_is_under_way_share_the_next() -> None:
    with client(up := Held(), in_flight=1) as asking:
        got = asked_together(asking, up, list("abcdefgh"))
    assert [len(asked.items) for asked in up.asked] == [1, 7]
    for name, found in got.items():
        np.testing.assert_array_equal(found.vectors[0], vector_of(name, 32))
        assert found.usage.total_tokens == 1


def test_nobody_shares_who_does_not_want_to() -> None:
    with client(up := Held(), in_flight=1, coalesce=False) as asking:
        asked_together(asking, up, list("abc"))
    assert [len(asked.items) for asked in up.asked] == [1, 1, 1]


class Several(Held):
    """On four instances, as it says when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = 0

    def instances(self) -> int:
        self.counted += 1
        return 4


def asking_together(asking: Client, count: int) -> list[threading.Thread]:
    threads = [threading.Thread(target=asking.embed, args=([f"{number}"],)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_single_queries_make_use_of_all_the_instances_that_there_are() -> None:
    with client(up := Several(), in_flight=1, coalesce=False) as asking:
        threads = asking_together(asking, 5)
        assert all(up.begun.acquire(timeout=30) for _ in range(4)), "four at once"
        assert not up.begun.acquire(blocking=False)
        up.go_on.set()
        for thread in threads:
            thread.join()
    assert up.counted == 1


def test_who_says_how_many_instances_there_are_is_believed() -> None:
    with client(up := Several(), in_flight=1, coalesce=False, instances=2) as asking:
        threads = asking_together(asking, 5)
        assert all(up.begun.acquire(timeout=30) for _ in range(2))
        while asking._driver._exchange.calls < 5:
            threading.Event().wait(0.001)
        up.go_on.set()
        for thread in threads:
            thread.join()
    assert up.counted == 0


class Squeamish(Held):
    """Refuses whatever holds the text `poison`."""

    def send(self, request: Request) -> Response:
        answer = super().send(request)
        if "poison" in embeddings_v3.decode_request(request.body).items:
            raise errors.BadRequestError("not that")
        return answer


def test_ones_poison_is_not_anothers() -> None:
    with client(up := Squeamish(), in_flight=1) as asking:
        got = asked_together(asking, up, ["a", "b", "poison", "c"])
    assert {name for name, found in got.items() if isinstance(found, errors.JinaSMError)} == {"poison"}


def test_what_a_model_has_no_word_for_is_refused_before_it_can_spoil_anothers_request() -> None:
    with client(up := FakeTransport()) as asking:
        with pytest.raises(errors.InputError, match=r"^texts\[1\]: the model takes no image") as caught:
            asking.embed(["a", Media("image", b"."), "b", Media("image", b".")])
        assert caught.value.index == 1
    assert not up.asked


def test_a_pdf_is_asked_alone_and_has_a_row_a_page() -> None:
    v4 = wire.dialect(KNOWN.model("jina-embeddings-v4"))

    class Pages(Fake):
        def send(self, request: Request) -> Response:
            pages = np.eye(3, 128, dtype=np.float32)
            return Response(v4.encode_response(v4.decode_request(request.body), Rows(pages, 9)))

    with client(Pages(), model="jina-embeddings-v4") as asking:
        found = asking.embed([Media("pdf", b"%PDF")], dimensions=128)
        with pytest.raises(errors.InputError, match="a PDF is sent alone"):
            asking.embed(["a", Media("pdf", b"%PDF")])
    np.testing.assert_array_equal(found.vectors, np.eye(3, 128))


def test_a_bad_item_is_named_or_collected() -> None:
    up = Squeamish()
    up.go_on.set()
    texts = [*"abcdefgh", "poison", "i"]
    with client(up) as asking:
        with pytest.raises(errors.BadRequestError, match=r"^texts\[8\]: not that") as caught:
            asking.embed(texts)
        assert caught.value.index == 8
        found = asking.embed(texts, dimensions=32, on_error="collect")
        with pytest.raises(errors.InputError, match="'raise' or 'collect'"):
            asking.embed(texts, on_error="ignore")  # type: ignore[arg-type]
    assert list(found.errors) == [8]
    assert np.isnan(found.vectors[8]).all()
    np.testing.assert_array_equal(found.vectors[9], vector_of("i", 32))
    assert found.timings is not None
    assert found.timings.splits > 0


def test_a_call_ends_when_its_time_is_up() -> None:
    with Client(V3, transports=[up := Held()]) as asking:
        with pytest.raises(errors.DeadlineExceededError, match="no answer within"):
            asking.embed(["a"], timeout_s=0.01)
        up.go_on.set()
    with pytest.raises(errors.InputError, match="timeout_s is more than 0"):
        client(FakeTransport(), timeout_s=0)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), True, "5"])
def test_a_time_that_is_none_is_refused(seconds: Any) -> None:
    with client(up := FakeTransport()) as asking, pytest.raises(errors.InputError, match="timeout_s is more than 0"):
        asking.embed(["a"], timeout_s=seconds)
    assert not up.asked


@pytest.mark.parametrize("seconds", [1e12, float("inf"), np.float32(5)])
def test_a_time_may_be_as_long_as_one_likes(seconds: Any) -> None:
    flaky = FakeTransport(*[errors.ModelUnavailableError("loading")] * 3)
    with client(flaky, clock_of=Clock(random=lambda: 0.001)) as asking:  # the real one, which cannot wait for ever
        assert len(asking.embed(["a"], timeout_s=seconds)) == 1


def test_who_cannot_have_a_thread_more_makes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, []

    def limited(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with client(FakeTransport(errors.ModelUnavailableError("loading")), limits=Limits(items=1)) as asking:
        assert len(asking.embed(list("abcdefgh"), dimensions=32)) == 8
        assert asking._driver._crew._threads == 1


def test_a_thread_that_cannot_be_had_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with client(FakeTransport()) as asking:
        monkeypatch.setattr(threading.Thread, "start", never)
        with pytest.raises(RuntimeError, match="can't start"):
            asking.embed(["a"])
        monkeypatch.undo()
        assert len(asking.embed(["a"])) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_client_from_before_a_fork_says_so() -> None:
    used, unused = client(FakeTransport()), client(FakeTransport())
    used.embed(["a"])
    if not (child := os.fork()):
        said = 1
        signal.alarm(20)  # a child that hangs is not left behind
        try:
            unused.embed(["a"])
            with pytest.raises(errors.InputError, match="forked"):
                used.embed(["a"])
            used.close()
            said = 0
        finally:
            os._exit(said)
    assert os.waitpid(child, 0)[1] == 0
    assert len(used.embed(["a"])) == 1


def test_an_error_does_not_keep_what_was_asked() -> None:
    class Refusing(FakeTransport):
        def send(self, request: Request) -> Response:
            raise errors.AuthError("no")

    gc.disable()
    try:
        with client(Refusing()) as asking:
            texts = [Text("a")]
            kept = weakref.ref(texts[0])
            with pytest.raises(errors.AuthError) as caught:
                asking.embed(texts)
            del texts, caught
            wait_for(lambda: kept() is None)
    finally:
        gc.enable()


class Text(str):
    """One that can be watched."""


def wait_for(true: Callable[[], bool]) -> None:
    for _ in range(5000):
        if true():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it did not become true")


def test_what_happens_is_told_and_a_hook_that_fails_upsets_nobody() -> None:
    told: list[Event] = []

    def hook(event: Event) -> None:
        told.append(event)
        raise ZeroDivisionError

    with client(FakeTransport(errors.ModelUnavailableError("loading")), on_event=hook) as asking:
        asking.embed(["a", "b"])
        wait_for(lambda: len(told) == 5)  # one thread tells of the failure and another of what came of it
    happened = [(event.kind, event.items, event.attempt) for event in told]
    kinds = [("answer", 2, 2), ("failure", 2, 1), ("request", 2, 1), ("request", 2, 2), ("retry", 2, 1)]
    assert sorted(happened) == kinds


def test_answers_can_be_had_as_they_came() -> None:
    with client(FakeTransport(), limits=Limits(items=1)) as asking:
        with raw_responses() as responses:
            asking.embed(["a", "b"])
        asking.embed(["c"])
    assert len(responses) == 2
    assert b'"embedding"' in responses[0].body


def test_vectors_are_of_unit_length_unless_that_is_not_wanted() -> None:
    old = wire.dialect(KNOWN.model("jina-embeddings-v2-base-en"))

    class Old(Fake):
        def send(self, request: Request) -> Response:
            asked = old.decode_request(request.body)
            return Response(old.encode_response(asked, Rows(np.full((len(asked.items), 768), 3, np.float32), 1)))

    with client(Old(), model="jina-embeddings-v2-base-en") as asking:
        np.testing.assert_allclose(np.linalg.norm(asking.embed(["a"]).vectors, axis=1), 1, rtol=1e-6)
        assert asking.embed(["a"], normalize=False).vectors[0, 0] == 3


def test_chunks_of_one_document_travel_together() -> None:
    with client(up := FakeTransport(), limits=Limits(items=2)) as asking:
        asking.embed(["a", "b", "c"], late_chunking=True)
        with pytest.raises(errors.InputError, match="takes no late_chunking"):
            client(FakeTransport(), model="jina-embeddings-v2-base-en").embed(["a"], late_chunking=True)
        with pytest.raises(errors.InputError, match=r"together; .* embed_document"):
            asking.embed(["word " * 5000] * 3, late_chunking=True)
    assert [len(asked.items) for asked in up.asked] == [3]
    assert up.asked[0].late_chunking


def test_what_is_too_long_may_be_cut_by_the_model() -> None:
    model = "jina-embeddings-v5-text-nano"
    speech = wire.dialect(KNOWN.model(model))
    asked: list[EmbedRequest] = []

    class Cutting(Fake):
        def send(self, request: Request) -> Response:
            asked.append(speech.decode_request(request.body))
            return Response(speech.encode_response(asked[-1], Rows(np.ones((1, 768), np.float32), 1)))

    with client(Cutting(), model=model) as asking:
        with pytest.raises(errors.InputError, match="Split it"):
            asking.embed(["word " * 20_000])
        asking.embed(["word " * 20_000], truncate=True)
    assert asked[0].truncate


def test_a_window_of_a_document_has_no_more_passages_than_an_answer_may_hold() -> None:
    with client(up := FakeTransport(), limits=Limits(response_bytes=100_000)) as asking:
        found = asking.embed_document("Bees make honey. " * 60, max_tokens=12, late_chunking=True)
    assert len(found) == sum(len(asked.items) for asked in up.asked) > 10
    assert max(len(asked.items) for asked in up.asked) * 13_000 < 100_000


def test_a_document_comes_as_passages_that_know_their_places() -> None:
    text = "Bees make honey. They live in hives. " * 400
    with client(up := FakeTransport()) as asking:
        document = asking.embed_document(text, max_tokens=64, dimensions=32)
        assert "".join(chunk.text for chunk, _ in document) == text
        for chunk, vector in document:
            assert text[chunk.start : chunk.end] == chunk.text
            np.testing.assert_array_equal(vector, vector_of(chunk.text, 32))
        up.asked.clear()
        late = asking.embed_document(text * 5, max_tokens=64, dimensions=32, late_chunking=True)
        assert [chunk.text for chunk, _ in late] == [
            text
            for asked in sorted(up.asked, key=lambda asked: [c.text for c in late.chunks].index(asked.items[0]))
            for text in asked.items
        ]
        assert len(up.asked) > 1
        assert all(asked.late_chunking for asked in up.asked)
        with pytest.raises(errors.InputError, match="may be more than jina-embeddings-v3 reads"):
            asking.embed_document(text, max_tokens=8000)
    with pytest.raises(errors.InputError, match="needs an embedding"):
        client(FakeReranker(), model=RERANKER).embed_document(text)


class Streaming(SageMakerTransport):
    """Gives its parts, and then, if it hangs, none until it is let go, and no end of them."""

    def __init__(self, *parts: bytes, hangs: bool = False) -> None:
        super().__init__("e", "us-east-1")
        self.parts, self.hangs = parts, hangs
        self.go_on, self.left = threading.Event(), threading.Event()

    def stream(self, request: Request) -> Generator[bytes, None, None]:
        try:
            yield from self.parts
            while self.hangs:
                self.go_on.wait()
                yield b"\n"
        finally:
            self.left.set()


def part(text: str, end: str | None = None) -> bytes:
    """A piece of a page as the reader sends it."""
    return b"data: %b\n" % orjson.dumps({"choices": [{"text": text, "finish_reason": end}]})


def test_a_stream_ends_when_its_time_is_up_and_is_hung_up() -> None:
    for settings, own in (({"timeout_s": 5}, None), ({}, 5), ({"timeout_s": 900}, 5)):
        with client(up := Streaming(hangs=True), model="ReaderLM-v2", **settings) as asking:
            with pytest.raises(errors.DeadlineExceededError, match="not all of it came within 5 s") as caught:
                list(asking.read_stream("<p>Bees</p>", timeout_s=own))
            assert (caught.value.target, caught.value.region) == ("e", "us-east-1")
            up.go_on.set()
            assert up.left.wait(30)


def test_a_stream_in_time_is_whole_and_its_errors_are_its_own() -> None:
    page = (part("Bees"), part(" make", None), part(" honey", "stop"))
    with Client("ReaderLM-v2", transports=[Streaming(*page)], timeout_s=600) as asking:
        assert list(asking.read_stream("<p>a</p>")) == ["Bees", " make", " honey"]
        coming = asking.read_stream("<p>a</p>")
        assert next(coming) == "Bees"
        with pytest.raises(errors.InputError, match="timeout_s is more than 0"):
            asking.read_stream("<p>a</p>", timeout_s=0)
    with Client("ReaderLM-v2", transports=[Streaming(page[0])], timeout_s=600) as asking:
        with pytest.raises(errors.ProtocolError, match="ended before the model was done"):
            list(asking.read_stream("<p>a</p>"))


class Breaking(Streaming):
    def stream(self, request: Request) -> Generator[bytes, None, None]:
        yield part("Bees")
        raise errors.ModelUnavailableError("the stream broke off")


def test_what_breaks_a_stream_is_heard_whoever_reads_it() -> None:
    with Client("ReaderLM-v2", transports=[Breaking()]) as asking:
        for timeout_s in (None, 600):
            coming = asking.read_stream("<p>a</p>", timeout_s=timeout_s)
            assert next(coming) == "Bees"
            with pytest.raises(errors.ModelUnavailableError, match="broke off"):
                next(coming)
