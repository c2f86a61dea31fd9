"""
Which of the three ways to choose: the rules of ``rules.toml`` over the answers given and what follows from the figures.

First what rules a way out, then a list of which the first row that holds decides. The runner-up is what the same list
says without the winner; what would flip the choice is found by asking again with one answer changed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jina_sm import catalog
from jina_sm.advise import capacity, cost
from jina_sm.advise.figures import WAYS, figures
from jina_sm.errors import InputError
from jina_sm.profile import NOMINAL

ANSWERS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "usage": {
            "search": "time-critical search: people wait for the answer",
            "rag": "RAG: a language model writes an answer afterwards",
            "indexing": "offline indexing: nobody waits",
        },
        "security": {
            "vendor": "a certified vendor may process the texts",
            "account": "texts stay in our own cloud account",
            "perimeter": "texts never leave our own network",
        },
        "cloud": {
            "aws": "AWS is ours, or may be",
            "portable": "it must run with any cloud",
            "none": "no cloud at all",
        },
        "operations": {
            "none": "nobody who runs GPU servers",
            "gpu": "we run GPU servers (Kubernetes) ourselves",
        },
    }
)
SECONDS_A_MONTH = float(cost.HOURS_A_MONTH) * 3600
PEAK = 3.0  # times the mean, where no rate was given: an assumption, said with the answer
GLAD_S: Mapping[str, float] = MappingProxyType({"search": 1.0, "rag": 3.0, "indexing": 60.0})
"""The p99 for which a fleet is sized where none was asked for: assumed, said with the answer, and rules nothing out."""
_LATENCIES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0, 10.0)
_VOLUMES = tuple(10**power for power in range(6, 14))


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What is asked of a deployment.

    ``tokens_per_month`` and ``tokens`` (of one text) as a tokenizer counts them. ``requests_per_s`` is the peak; None:
    three times the month's mean. ``p99_s`` is how long 99 of 100 requests may take; None: no matter. ``residency``:
    texts must stay in ``region``. ``commercial``: the weights' licence matters.
    """

    usage: str = "rag"
    security: str = "vendor"
    cloud: str = "aws"
    operations: str = "none"
    tokens_per_month: int = 1_000_000_000
    requests_per_s: float | None = None
    texts: int = 1
    tokens: int = 128
    p99_s: float | None = None
    region: str | None = None
    residency: bool = False
    commercial: bool = True
    model: str = "jina-embeddings-v3"

    def __post_init__(self) -> None:
        for name, known in ANSWERS.items():
            if (given := getattr(self, name)) not in known:
                raise InputError(
                    f"no {name} {given!r}{catalog.nearest(given, known)}", cure=f"It is one of {', '.join(known)}."
                )
        cost.Workload(tokens_per_month=self.tokens_per_month)
        capacity.Load(requests_per_s=1, texts=self.texts, tokens=self.tokens)
        if self.waited_for:
            self.load()
        if self.region is not None and not re.fullmatch(r"[a-z]{2,3}(-[a-z]+)+-[0-9]{1,2}", self.region):
            raise InputError(
                f"{self.region!r} is not the name of an AWS region"
                + catalog.nearest(self.region, catalog.load(environ={}).accounts),
                cure="It looks like us-east-1.",
            )
        if self.residency and not self.region:
            raise InputError("residency needs the region in which the texts must stay", cure="Say which with region.")

    @property
    def waited_for(self) -> bool:
        """Whether requests have to be answered as they come, or only all of them in the end."""
        return self.usage != "indexing" or self.p99_s is not None or self.requests_per_s is not None

    def load(self) -> capacity.Load:
        """The peak, as requests; where no latency was asked for, the service's limit stands for it."""
        rate = self.requests_per_s
        if rate is None:
            rate = max(0.001, PEAK * self.tokens_per_month / SECONDS_A_MONTH / (self.texts * self.tokens))
        return capacity.Load(
            requests_per_s=rate, texts=self.texts, tokens=self.tokens, p99_s=60.0 if self.p99_s is None else self.p99_s
        )


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why, in words, and where that is from. ``way`` is what it is about."""

    id: str
    way: str | None
    text: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One answer that, changed alone, leads to another way (None: to nothing that fits)."""

    answer: str
    value: str
    way: str | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A way in figures: a month's cost; the instances of it, and what they are needed for."""

    cost: cost.Cost | None
    capacity: capacity.Capacity | None
    mean_s: float | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A recommendation. ``way`` is None where nothing fits; ``ruled_out`` then says why not."""

    needs: Needs
    way: str | None
    reason: Reason
    runner_up: str | None
    runner_up_reason: Reason | None
    ruled_out: tuple[Reason, ...]
    flips: tuple[Flip, ...]
    figures: Mapping[str, Figures]
    said: tuple[Reason, ...]
    assumed: tuple[str, ...]
    next: tuple[str, ...]


@functools.cache
def rules() -> Mapping[str, Any]:
    """The tables of ``rules.toml``."""
    return tomllib.loads((Path(__file__).parent / "rules.toml").read_text(encoding="utf-8"))


def recommend(
    needs: Needs,
    *,
    prices: cost.Prices | None = None,
    fits: Mapping[str, capacity.Fit] = MappingProxyType({}),
    known: catalog.Catalog | None = None,
) -> Advice:
    """Which way to run the model, why, what comes second, and what would change that.

    ``prices``: others than the published; ``fits``: response times of one's own (``capacity.fitted``), by way.

    >>> recommend(Needs(usage="indexing", tokens_per_month=5_000_000_000)).way
    'jina_api'
    >>> recommend(Needs(usage="search", security="account")).way
    'sagemaker'
    """
    asked = _Asked(needs, prices, fits, known or catalog.load(environ={}))
    leaf, second = asked.leaf(), None
    way = leaf.get("way")
    if way and (after := asked.leaf(without=way)).get("way"):
        second = after
    return Advice(
        needs=needs,
        way=way,
        reason=_reason(leaf),
        runner_up=second["way"] if second else None,
        runner_up_reason=_reason(second) if second else None,
        ruled_out=tuple(_reason(row) for row in asked.excluded()),
        flips=tuple(_flips(asked, way)),
        figures=MappingProxyType({each: asked.figures(each) for each in WAYS}),
        said=tuple(
            _reason({**row, "id": row["about"], "because": row["text"]})
            for row in rules()["said"]
            if row["way"] == way and asked.holds(row["when"])
        ),
        assumed=tuple(asked.assumed()),
        next=tuple(_next(way, asked)),
    )


def decided(needs: Needs, *, prices: cost.Prices | None = None) -> Reason:
    """The row alone that decides, without runner-up, flips or figures.

    >>> decided(Needs(usage="search")).id
    'search-on-sagemaker'
    """
    return _reason(_Asked(needs, prices, MappingProxyType({}), catalog.load(environ={})).leaf())


@dataclass(frozen=True)
class _Asked:
    """One question, and all that follows from it; nothing is worked out before a rule asks."""

    needs: Needs
    given: cost.Prices | None
    fits: Mapping[str, capacity.Fit]
    known: catalog.Catalog

    @functools.cached_property
    def prices(self) -> cost.Prices:
        there = self.region if self.region in self.known.accounts else "us-east-1"
        prices = self.given or cost.published(there, self.known)
        free = self.licence == "Apache-2.0" or (self.licence == "CC-BY-NC-4.0" and not self.needs.commercial)
        measured = {way: Decimal(round(fit.profile.tokens_per_s)) for way, fit in self.fits.items()}
        prices = prices.faster("measured", measured)
        return prices.over("no licence has to be bought", licence=Decimal(0)) if free else prices

    @functools.cached_property
    def licence(self) -> str:
        key = self.known.model(self.needs.model).key
        found = [name for name in rules()["licences"] if key.startswith(name)]
        return str(rules()["licences"][max(found, key=len)]) if found else "unknown"

    def fact(self, name: str, without: str | None = None) -> str:
        """What a condition is about: what follows from the answers, else an answer itself."""
        about, _, way = name.partition(".")
        follows: Mapping[str, Callable[[], str]] = {
            "kind": lambda: self.known.model(self.needs.model).kind,
            "in_time": lambda: self.in_time(way),
            "length": self.length,
            "request": self.request,
            "packages": lambda: "yes" if self.region in self.known.accounts else "no",
            "prices": lambda: "there" if self.given or self.region in cost.REGIONS else "elsewhere",
            "licence": lambda: self.licence,
            "cheapest": lambda: self.cheapest(without),
            "residency": lambda: "yes" if self.needs.residency else "no",
            "commercial": lambda: "yes" if self.needs.commercial else "no",
        }
        return follows[about]() if about in follows else str(getattr(self.needs, name))

    @property
    def region(self) -> str:
        return self.needs.region or "us-east-1"

    def length(self) -> str:
        """Past 1024 of its tokens the article measured only 8192."""
        return "long" if self.needs.tokens > 1024 * NOMINAL else "short"

    def request(self) -> str:
        """How large a request is; an index is made by batches."""
        whole = self.needs.texts * self.needs.tokens / NOMINAL
        if whole > figures()["self_hosted"]["most_tokens_a_request"]:
            return "large"
        return "medium" if self.needs.texts >= 32 or self.needs.usage == "indexing" else "small"

    def holds(self, when: Mapping[str, Sequence[str]], without: str | None = None) -> bool:
        return all(self.fact(name, without) in values for name, values in when.items())

    def excluded(self) -> Iterator[Mapping[str, Any]]:
        """The rows that rule something out, without asking of a way what is ruled out already."""
        gone: set[str] = set()
        for row in rules()["excluded"]:
            measured = any(name.startswith("in_time.") for name in row["when"])
            if (row["way"] not in gone or not measured) and self.holds(row["when"]):
                gone.add(row["way"])
                yield row

    @functools.cached_property
    def left(self) -> tuple[str, ...]:
        gone = {row["way"] for row in self.excluded()}
        return tuple(way for way in WAYS if way not in gone)

    def leaf(self, without: str | None = None) -> Mapping[str, Any]:
        """The row that decides."""
        for row in rules()["leaf"]:
            way = row.get("way")
            if (way is None or (way in self.left and way != without)) and self.holds(row["when"], without):
                found: Mapping[str, Any] = row
                return found
        raise AssertionError("the last row holds always")

    def cheapest(self, without: str | None) -> str:
        costs = {way: each.total for way in self.left if way != without and (each := self.figures(way).cost)}
        return min(costs, key=lambda way: costs[way]) if costs else "none"

    def in_time(self, way: str) -> str:
        """Whether the latency wanted can be kept: yes, no, or perhaps where only means are known."""
        if way != "jina_api":
            return "yes" if not self.needs.waited_for or self.fleet(way).instances else "no"
        if self.needs.p99_s is None:
            return "yes"
        return "no" if api_mean_s(self.needs.texts, self.needs.tokens) > self.needs.p99_s else "perhaps"

    def fleet(self, way: str, least: int = 1) -> capacity.Capacity:
        """Of as many instances as the load needs; where no latency was asked for, of what its use is glad of."""
        load = self.needs.load()
        glad = dataclasses.replace(load, p99_s=GLAD_S[self.needs.usage]) if self.needs.p99_s is None else load
        found = self._fleet(way, glad, least)
        return found if found.instances or glad == load else self._fleet(way, load, least)

    def _fleet(self, way: str, load: capacity.Load, least: int) -> capacity.Capacity:
        if fit := self.fits.get(way):
            source = f"the model of what you measured, {fit}"
            return capacity.needed_with(fit.profile, load, least=least, source=source)
        return capacity.needed(load, way, least=least)

    def figures(self, way: str) -> Figures:
        needs = self.needs
        if way == "jina_api":
            spent = cost.monthly(way, cost.Workload(tokens_per_month=needs.tokens_per_month), self.prices)
            mean = api_mean_s(needs.texts, needs.tokens)
            return Figures(cost=spent, capacity=None, mean_s=mean, note=f"mean {mean:.2f} s when alone")
        if not needs.waited_for:
            busy = needs.tokens_per_month / (self.prices.throughput[way] * 3600)  # instance-hours
            hours = max(min(busy, cost.HOURS_A_MONTH), Decimal(1))
            workload = cost.Workload(tokens_per_month=needs.tokens_per_month, hours=hours)
            spent = cost.monthly(way, workload, self.prices)
            return Figures(cost=spent, capacity=None, mean_s=None, note="up only while it indexes")
        volume = cost.monthly(way, cost.Workload(tokens_per_month=needs.tokens_per_month), self.prices).instances
        found = self.fleet(way, volume)
        if found.instances is None:
            return Figures(cost=None, capacity=found, mean_s=None, note="no fleet up to 1,000")
        workload = cost.Workload(tokens_per_month=needs.tokens_per_month, least=found.instances)
        spent = cost.monthly(way, workload, self.prices)
        note = "for the latency at the peak" if found.instances > volume else "for the volume"
        return Figures(cost=spent, capacity=found, mean_s=None, note=note)

    def assumed(self) -> Iterator[str]:
        needs = self.needs
        if needs.requests_per_s is None and needs.waited_for:
            yield f"a peak of {needs.load().requests_per_s:.3g} requests a second, {PEAK:g} times the month's mean"
        if needs.p99_s is None and needs.waited_for:
            yield f"fleets large enough for a p99 of {GLAD_S[needs.usage]:g} s where they can keep it"
        if needs.texts == 1 and needs.waited_for:
            yield "texts asked at the same time share requests, as jina_sm.Client sends them"
        yield "throughputs and response times are of jina-embeddings-v3" + (
            "" if needs.model == "jina-embeddings-v3" else f"; {needs.model} will differ"
        )
        if set(self.fits) < {"sagemaker", "self_hosted"}:
            yield (
                "volumes at the article's mean throughput (15,044 and 2,588 of its tokens a second, each about 0.565 "
                "of a tokenizer's); full batches reach a multiple of that"
            )


def api_mean_s(texts: int, tokens: float) -> float:
    """The API's mean response time for a request alone, between the published settings by the model fitted to them.

    >>> round(api_mean_s(1, 72), 2)
    0.69
    """
    return capacity.expected_s(capacity.profile("jina_api"), texts, tokens, 1)


def _reason(row: Mapping[str, Any]) -> Reason:
    return Reason(id=row["id"], way=row.get("way"), text=row["because"], source=row["source"])


def _flips(asked: _Asked, way: str | None) -> Iterator[Flip]:
    """Each single answer that leads elsewhere; of the latencies and volumes the nearest on either side."""
    for candidates in _changes(asked.needs):
        for name, value, said in candidates:
            try:
                changed = dataclasses.replace(asked.needs, **{name: value})
            except InputError:  # a peak that no fleet here is simulated for
                break
            then = _Asked(changed, asked.given, asked.fits, asked.known).leaf().get("way")
            if then != way:
                yield Flip(answer=name, value=said, way=then)
                break


def _changes(needs: Needs) -> Iterator[list[tuple[str, Any, str]]]:
    """The answers to try, as name, value and word: of each list the first that flips is told."""
    for name, known in ANSWERS.items():
        for value in known:
            if value != getattr(needs, name):
                yield [(name, value, value)]
    for name in ("residency", "commercial"):
        other = not getattr(needs, name)
        if needs.region or name != "residency":
            yield [(name, other, "yes" if other else "no")]
    if needs.p99_s is not None:
        yield [("p99_s", None, "any")]
    now = math.inf if needs.p99_s is None else needs.p99_s
    yield [("p99_s", seconds, f"{seconds:g}") for seconds in reversed(_LATENCIES) if seconds < now]
    yield [("p99_s", seconds, f"{seconds:g}") for seconds in _LATENCIES if seconds > now]
    volume = needs.tokens_per_month
    yield [("tokens_per_month", tokens, str(tokens)) for tokens in reversed(_VOLUMES) if tokens < volume]
    yield [("tokens_per_month", tokens, str(tokens)) for tokens in _VOLUMES if tokens > volume]


def _next(way: str | None, asked: _Asked) -> Iterator[str]:
    """The commands to type, in order."""
    model, region = asked.needs.model, asked.region
    if way == "sagemaker":
        spent = asked.figures(way).cost
        count = f" --instance-count {spent.instances}" if spent and spent.instances > 1 else ""
        yield f"jina-sm subscribe {model}"
        yield f"jina-sm deploy {model} --region {region}{count} --plan"
    elif way == "jina_api":
        yield "export JINA_API_KEY=...    # from https://jina.ai, the first million tokens are free"
        yield f"{_ask(asked)} --target 'jina-api://?model={model}'"
    elif way == "self_hosted":
        row = asked.known.model(model)
        if row.kind in ("embedding", "reranker"):  # others are not what `jina-sm serve` serves
            own = row.key in rules()["served"]["own_code"]
            code = " --trust-remote-code    # the model's own: read it, then pin --revision" if own else ""
            yield f"jina-sm serve --model jinaai/{row.key}{code}"
        yield f"{_ask(asked)} --target 'http://127.0.0.1:8080?model={model}'"


def _ask(asked: _Asked) -> str:
    """The command that asks a model of this kind something."""
    if asked.known.model(asked.needs.model).kind == "reranker":
        return "jina-sm rerank 'What do bees make?' 'Bees make honey.' 'Wasps make paper.'"
    return "jina-sm embed 'Bees make honey.'"
