"""A run: who is asked in which order, what a sample is, and when it ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import Spec, catalog, errors
from jina_sm.bench import endpoint, metrics, runs, workload
from jina_sm.bench.endpoint import Endpoint, Price, Told
from jina_sm.bench.load import Rules
from jina_sm.bench.metrics import Setting
from jina_sm.bench.plan import Plan, forecast, published_grid, trials
from jina_sm.clock import Clock
from jina_sm.deploy import run as deploying
from jina_sm.errors import InputError
from jina_sm.transport import Request, Response
from jina_sm.transport.target import parse
from tests.conftest import Served

KNOWN = catalog.load(environ={})
MODEL = KNOWN.model("jina-embeddings-v3")
LOOP = Setting(batch_size=2, passage_tokens=16, concurrency=3)


class Server:
    """Answers as a server of one's own does, a token a word and two. ``does`` may raise, by the request's number."""

    name, region, wire = "fake", None, "api"

    def __init__(self, does: Callable[[int], object] = lambda number: None, **headers: str) -> None:
        self.asked: list[list[str]] = []
        self.closed = 0
        self._does = does
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self._lock = threading.Lock()

    def send(self, request: Request) -> Response:
        told = orjson.loads(request.body)
        texts = told.get("input") or told["documents"]
        with self._lock:
            self.asked.append(texts)
            number = len(self.asked) - 1
        body = self._does(number)
        if isinstance(body, bytes):
            return Response(body, headers=self._headers)
        tokens = sum(len(text.split()) + 2 for text in texts)
        rows = [{"index": index, "embedding": [1.0, 0.0]} for index in range(len(texts))]
        return Response(orjson.dumps({"data": rows, "usage": {"total_tokens": tokens}}), headers=self._headers)

    def instances(self) -> int | None:
        return None

    def close(self) -> None:
        self.closed += 1


def at(server: Server, name: str = "a", **more: Any) -> Endpoint:
    known: dict[str, Any] = {
        "name": name, "target": "http://h?model=jina-embeddings-v3", "kind": "http", "model": MODEL,
        "transport": server,
    }  # fmt: skip
    return Endpoint(**{**known, **more})


def plan(*settings: Setting, **more: Any) -> Plan:
    return Plan(settings=settings or (LOOP,), **{"repetitions": 2, **more})


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5))
def test_targets_take_turns_within_a_setting_and_begin_equally_often(
    settings: int, targets: int, repetitions: int
) -> None:
    order = trials(settings, targets, repetitions)
    assert Counter(order).most_common(1)[0][1] == 1
    assert len(order) == settings * targets * repetitions
    blocks = [order[start : start + targets] for start in range(0, len(order), targets)]
    for block in blocks:
        assert len({(each.setting, each.repetition) for each in block}) == 1
        assert {each.target for each in block} == set(range(targets))
    begins = Counter(block[0].target for block in blocks)
    assert max(begins.values()) - min(begins.get(each, 0) for each in range(targets)) <= 1
    assert [each.repetition for each in order] == sorted(each.repetition for each in order)


def test_settings_come_in_another_order_each_time_and_again_with_the_same_seed() -> None:
    order = trials(8, 1, 4)
    by_repetition = [[each.setting for each in order if each.repetition == number] for number in range(4)]
    assert len({tuple(each) for each in by_repetition}) == 4
    assert all(sorted(each) == list(range(8)) for each in by_repetition)
    assert trials(8, 1, 4) == order
    assert trials(8, 1, 4, seed=1) != order


def test_an_open_loop_is_due_in_the_endpoints_own_time() -> None:
    """Ten a second for two seconds, of an endpoint that plays a thousand times as fast: 20 requests within 2 ms."""
    setting = Setting(batch_size=1, passage_tokens=16, arrivals="constant", rate=10.0)
    found = runs.run([at(Server(), time_scale=0.001)], plan(setting, duration_s=2.0, repetitions=1))
    due = [each.due_s for each in found.samples]
    assert len(due) == 20
    assert [each - due[0] for each in due] == pytest.approx([number / 10_000 for number in range(20)])


def test_one_request_is_one_sample_and_no_two_are_alike() -> None:
    server = Server()
    found = runs.run([at(server)], plan())
    assert found.ended == "complete"
    # Two repetitions of three callers: a warm-up of one each, and three each that count.
    assert [(each.repetition, each.number) for each in found.samples] == [(r, n) for r in (0, 1) for n in range(12)]
    assert sum(each.warm_up for each in found.samples) == 6
    assert {(each.texts, each.tokens, each.error) for each in found.samples} == {(2, 32, None)}
    assert all(each.due_s <= each.sent_s <= each.done_s for each in found.samples)
    asked = [tuple(each) for each in server.asked if len(each) == 2]
    assert len(asked) == 24
    assert len({text for each in asked for text in each}) > 40
    assert found.targets[0].lengths == {"16": 16}
    assert found.targets[0].counted_by == "endpoint"


def test_targets_are_asked_the_same() -> None:
    one, other = Server(), Server()
    runs.run([at(one), at(other, "b")], plan())
    assert sorted(one.asked) == sorted(other.asked)


def test_an_open_loop_sends_what_is_due_and_no_more_at_once_than_it_may() -> None:
    now, gate = Counter[str](), threading.Semaphore(0)
    lock = threading.Lock()

    def does(number: int) -> None:
        if number < 4:  # those that fit the passages
            return
        with lock:
            now["in"] += 1
            now["most"] = max(now["most"], now["in"])
        if now["most"] >= 3:
            gate.release(100)
        gate.acquire()
        with lock:
            now["in"] -= 1

    setting = Setting(batch_size=1, passage_tokens=16, arrivals="poisson", rate=2000.0)
    asked = plan(setting, requests=60, duration_s=10.0, repetitions=1, max_in_flight=3)
    found = runs.run([at(Server(does))], asked)
    assert len(found.samples) == 60
    assert now["most"] == 3
    assert all(each.sent_s >= each.due_s for each in found.samples)
    assert [each.due_s for each in found.samples] == sorted(each.due_s for each in found.samples)


def test_failures_are_samples_with_their_class_and_status() -> None:
    def does(number: int) -> None:
        if number % 5 == 4:
            raise errors.ThrottledError("slow down", status=429)

    found = runs.run([at(Server(does))], plan())
    failed = [each for each in found.samples if each.error]
    assert failed
    assert {(each.error, each.status, each.tokens) for each in failed} == {("ThrottledError", 429, 0)}
    assert found.targets[0].first_errors == {"ThrottledError": "slow down (status 429)"}
    assert runs.errors_of(found)["ThrottledError"] == len(failed)
    assert found.ended == "complete"


def test_a_wrong_answer_is_a_failure() -> None:
    found = runs.run([at(Server(lambda number: b'{"data": []}' if number > 10 else None))], plan())
    assert "ProtocolError" in runs.errors_of(found)


def test_whatever_a_transport_raises_is_a_failure_and_ends_nothing() -> None:
    def does(number: int) -> None:
        if number > 10:
            raise RuntimeError("a bug")

    found = runs.run([at(Server(does))], plan())
    assert runs.errors_of(found)["RuntimeError"] > 5


def test_a_target_that_refuses_who_asks_is_given_up_and_the_other_goes_on() -> None:
    def does(number: int) -> None:
        if number >= 8:
            raise errors.AuthError("the key has expired")

    found = runs.run([at(Server(does)), at(Server(), "b")], plan())
    assert found.ended == "a target was given up"
    assert "the key has expired" in str(found.targets[0].given_up)
    assert found.targets[1].given_up is None
    count = Counter(each.target for each in found.samples)
    assert count["b"] == 24
    assert count["a"] < 12


def test_what_is_not_there_is_found_out_before_anything_is_measured() -> None:
    def does(number: int) -> None:
        raise errors.EndpointNotFoundError("not there")

    with pytest.raises(errors.EndpointNotFoundError):
        runs.run([at(Server(does))], plan())


def test_an_endpoint_that_is_only_busy_is_asked_again_how_long_a_text_is() -> None:
    slept: list[float] = []

    def does(number: int) -> None:
        if number in (0, 1):
            raise errors.ThrottledError("slow down", retry_after_s=3.0 if number else None)

    found = runs.run([at(Server(does))], plan(), clock=Clock(sleep=slept.append))
    assert (found.ended, slept) == ("complete", [0.5, 3.0])

    def down(number: int) -> None:
        raise errors.ModelUnavailableError("down")

    server = Server(down)
    with pytest.raises(errors.ModelUnavailableError):
        runs.run([at(server)], plan(), clock=Clock(sleep=slept.append))
    assert len(server.asked) == runs.PATIENCE


def test_a_ceiling_needs_a_price() -> None:
    with pytest.raises(InputError, match="no price of a"):
        runs.run([at(Server())], plan(rules=Rules(usd=1.0)))


def test_a_ceiling_ends_a_run() -> None:
    found = runs.run(
        [at(Server(), price=Price(usd_per_1m_tokens=1.0))], plan(rules=Rules(usd=32.1 * 10 / 1e6), repetitions=5)
    )
    assert found.ended.startswith("the ceiling of ")
    assert len(found.samples) == 10
    assert found.usd == pytest.approx(32 * len(found.samples) / 1e6)


def test_what_is_on_this_machine_costs_nothing() -> None:
    found = runs.run([at(Server(), price=Price(usd_per_hour=1e6), billed=False)], plan(rules=Rules(usd=0.01)))
    assert (found.ended, found.usd) == ("complete", 0.0)
    assert found.summaries[0].usd_per_1m_tokens is not None
    assert runs.run([at(Server())], plan()).usd is None


def test_an_interrupted_run_keeps_what_it_has() -> None:
    seen: list[runs.Progress] = []

    def stop(progress: runs.Progress) -> None:
        seen.append(progress)
        if len(seen) == 2:
            raise KeyboardInterrupt

    found = runs.run([at(Server())], plan(repetitions=5), on_progress=stop)
    assert found.ended == "interrupted"
    assert len(found.samples) == 24
    assert (seen[1].done, seen[1].of, seen[1].answered) == (2, 5, 12)


def test_a_servers_own_times_are_kept() -> None:
    server = Server(server_timing="queue;dur=20, inference;desc=model;dur=50.5, total;dur=80")
    found = runs.run([at(server)], plan())
    assert {(each.server_queue_s, each.server_work_s, each.server_total_s) for each in found.samples} == {
        (0.02, 0.0505, 0.08)
    }


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, Told()),
        ({"server-timing": "total;dur=5"}, Told(total_s=0.005)),
        ({"server-timing": "cache;desc=hit, queue ; dur=1"}, Told(queue_s=0.001)),
        ({"server-timing": "model;dur=7"}, Told(work_s=0.007)),
        ({"server-timing": "queue;dur=x, ;;,"}, Told()),
        ({"x-jina-sm-stand-in": "true"}, Told(stand_in=True)),
        ({"x-queue-time": "3", "x-inference-time": "4", "x-total-time": "9"}, Told(queue_s=0.003, work_s=0.004, total_s=0.009)),
        ({"x-queue-time": "soon"}, Told()),
    ],
)  # fmt: skip
def test_what_headers_say(headers: dict[str, str], told: Told) -> None:
    assert endpoint.told(headers) == told


def test_a_server_that_counts_no_tokens_is_counted_for() -> None:
    def does(number: int) -> bytes | None:
        return None

    class Silent(Server):
        def send(self, request: Request) -> Response:
            told = orjson.loads(super().send(request).body)
            return Response(orjson.dumps({"data": told["data"]}))

    found = runs.run([at(Silent(does))], plan())
    assert found.targets[0].counted_by == "estimate"
    assert {each.tokens for each in found.samples} == {32}


def test_rerankers_are_measured_too() -> None:
    class Ranks(Server):
        def send(self, request: Request) -> Response:
            asked = orjson.loads(request.body)
            super().send(request)
            tokens = 10 + sum(len(text.split()) + 2 for text in asked["documents"])
            results = [{"index": index, "relevance_score": 0.5} for index in range(len(asked["documents"]))]
            return Response(orjson.dumps({"results": results, "usage": {"total_tokens": tokens}}))

    model = KNOWN.model("jina-reranker-v2-base-multilingual")
    found = runs.run([at(Ranks(), model=model)], plan())
    assert found.targets[0].lengths == {"16": 16}
    assert {each.tokens for each in found.samples} == {42}
    with pytest.raises(InputError, match="ReaderLM-v2 is a reader"):
        at(Server(), model=KNOWN.model("ReaderLM-v2"))


def test_own_texts_and_recorded_requests_are_asked_as_they_are(tmp_path: Path) -> None:
    server = Server()
    setting = Setting(batch_size=2, texts="t.txt", concurrency=1)
    runs.run([at(server)], plan(setting, texts=("a", "b", "c"), requests=2, warm_up=0, repetitions=1))
    assert server.asked[1:] == [["a", "b"], ["c", "a"]]
    server = Server()
    recorded = workload.Recorded((("a",), ("b", "c")), (0.0, 0.001))
    setting = Setting(texts="w.jsonl", arrivals="trace")
    found = runs.run([at(server)], plan(setting, recorded=recorded, repetitions=1))
    assert sorted(server.asked[1:]) == [["a"], ["b", "c"]]
    assert [each.texts for each in found.samples] == [1, 2]
    assert found.samples[1].due_s - found.samples[0].due_s == pytest.approx(0.001)


def test_lengths_are_drawn() -> None:
    server = Server()
    setting = Setting(batch_size=4, texts="uniform:10-50", concurrency=1)
    runs.run([at(server)], plan(setting, lengths="uniform:10-50", requests=50))
    lengths = {len(text.split()) + 2 for each in server.asked if len(each) == 4 for text in each}
    assert min(lengths) >= 9
    assert max(lengths) <= 51
    assert len(lengths) > 20


def test_times_are_the_clocks() -> None:
    """A second passes whenever somebody looks: durations are sums of looks, whatever this machine does."""
    seconds = iter(range(10**9))
    lock = threading.Lock()

    def now() -> float:
        with lock:
            return float(next(seconds))

    setting = Setting(batch_size=1, passage_tokens=16, concurrency=1)
    found = runs.run([at(Server())], plan(setting, requests=4, repetitions=1), clock=Clock(now=now))
    assert all(each.done_s - each.sent_s == 1 for each in found.samples)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"settings": ()}, "needs a setting"),
        ({"repetitions": 0}, "repetitions is 1 or more"),
        ({"requests": 0}, "requests is 1 or more"),
        ({"warm_up": -1}, "warm_up is 0 or more"),
        ({"token_factor": 0}, "token_factor"),
        ({"duration_s": 0.0}, "more than 0 s"),
        ({"lengths": "uniform:3-9", "texts": ("a",)}, "take one of them"),
        ({"settings": (replace(LOOP, concurrency=0),)}, "1 caller or more"),
        ({"settings": (replace(LOOP, batch_size=0),)}, "1 text or more"),
        ({"settings": (replace(LOOP, passage_tokens=None),)}, "1 token or more"),
        ({"settings": (replace(LOOP, arrivals="bursts"),)}, "arrivals are closed"),
        ({"settings": (replace(LOOP, arrivals="poisson", rate=0.0),)}, "a rate is more than 0"),
        ({"settings": (replace(LOOP, arrivals="poisson", rate=5.0),)}, "needs a duration"),
        ({"settings": (replace(LOOP, arrivals="ramp", rate=5.0),), "duration_s": 9.0}, "a ramp ends at a rate"),
        ({"settings": (replace(LOOP, arrivals="trace"),)}, "needs a workload file"),
        ({"settings": (replace(LOOP, arrivals="constant", rate=1e6),), "duration_s": 9e3}, "over 1,000,000 requests"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Plan(**{"settings": (LOOP,), **more})


def test_a_run_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="needs a target"):
        runs.run([], plan())
    with pytest.raises(InputError, match="the same name"):
        runs.run([at(Server()), at(Server())], plan())
    with pytest.raises(InputError, match="a passage of 9,000 tokens is longer"):
        runs.run([at(Server())], plan(replace(LOOP, passage_tokens=9000)))


def test_a_forecast_is_of_the_published_times_and_prices() -> None:
    here = at(Server(), kind="sagemaker", price=Price(usd_per_hour=3.908))
    grid = published_grid()
    assert len(grid) == 27
    found = forecast([here], Plan(settings=grid))
    # Four requests of each caller (one to warm up), five repetitions: twenty mean response times of each setting.
    assert found.requests == 20 * 9 * (1 + 5 + 10)
    assert found.seconds == pytest.approx(20 * 27 * 3.9532, rel=1e-3)
    assert found.usd == pytest.approx(3.908 * (found.seconds or 0) / 3600)
    assert found.tokens == 20 * 16 * (1 + 32 + 128) * (128 + 512 + 1024)
    assert forecast([here], plan()).seconds is None
    assert forecast([here], plan()).usd is None
    api = at(Server(), kind="jina-api", price=Price(usd_per_1m_tokens=0.02))
    assert forecast([api], Plan(settings=grid)).usd == pytest.approx((found.tokens or 0) / 1e6 * 0.02)


def test_targets_have_names_and_prices() -> None:
    environ = {"JINA_API_KEY": "k"}
    where = "sagemaker://us-east-1/e?model=jina-embeddings-v3"
    one = endpoint.opened(f"mine={where}", KNOWN, connections=1, environ=environ)
    assert (one.name, one.price.known, one.billed) == ("mine", False, True)  # what it is, AWS says: see below
    assert endpoint.opened(where, KNOWN, connections=1, environ=environ).name == "e us-east-1"
    api = endpoint.opened("jina-api://?model=jina-embeddings-v3", KNOWN, connections=1, environ=environ)
    assert (api.name, api.price.usd_per_1m_tokens, api.billed) == ("Jina API", 0.02, True)
    own = endpoint.opened("http://127.0.0.1:1?model=jina-embeddings-v3", KNOWN, connections=1, environ=environ)
    assert (own.name, own.price.known, own.billed, own.time_scale) == ("127.0.0.1:1", False, False, 1.0)
    given_ = endpoint.opened(where, KNOWN, connections=1, price=Price(usd_per_hour=1.0), environ=environ)
    assert given_.price.usd_per_hour == 1.0
    assert [each.name for each in endpoint.distinct([own, own, api])] == ["127.0.0.1:1", "127.0.0.1:1 (2)", "Jina API"]
    assert endpoint.time_scale_of(parse("http://127.0.0.1:1?model=m"), environ) is None


def billed(name: str, model: str = "jina-embeddings-v3") -> Endpoint:
    """An endpoint of the local stack as if it were AWS's, with its price."""
    opened = endpoint.opened(f"sagemaker://us-east-1/{name}?model={model}", KNOWN, connections=1)
    return endpoint.priced(replace(opened, billed=True), KNOWN)


def test_an_endpoints_price_is_of_the_instances_that_it_has_and_of_its_own_software(account: Served) -> None:
    model = "jina-reranker-v2-base-multilingual"
    account.deploy(model, name="theirs", instances=3)
    price = billed("theirs", model).price
    assert price.usd_per_hour == pytest.approx(3 * (1.408 + 2.50))
    assert (price.source or "").startswith("3 x ml.g5.xlarge: instance AWS Pricing API, software the agreement agmt-")


@pytest.mark.usefixtures("account")
def test_a_ceiling_is_refused_where_what_an_endpoint_costs_cannot_be_known() -> None:
    deploying.subscribe("jina-embeddings-v3")
    deploying.deploy(Spec(model="jina-embeddings-v3", regions=("us-east-1",), instance_type="ml.g5.2xlarge"))
    for name, why in (
        ("jina-sm-embeddings-v3", "2xlarge: instance not in the Pricing API"),  # and not the price of an xlarge
        ("nothing", "there is no endpoint nothing in us-east-1"),
    ):
        with pytest.raises(InputError, match=f"no price of .*{why}"):
            runs.run([billed(name)], plan(rules=Rules(usd=1.0)))


def test_a_price_that_was_given_is_not_asked_for_again() -> None:
    given_ = at(Server(), kind="sagemaker", price=Price(usd_per_hour=2.0, source="as given"))
    assert endpoint.priced(given_, KNOWN) is given_
    own = at(Server(), kind="http")
    assert endpoint.priced(own, KNOWN) is own


def test_the_metrics_are_of_the_samples() -> None:
    found = runs.run([at(Server())], plan())
    assert found.cells == metrics.cells(found.samples, found.settings)
    assert found.summaries[0].success_rate == 1.0
