"""What the server counts, for Prometheus. Names follow its conventions; no label holds what a user sent."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from jina_sm.serve.batcher import Batch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)


class Metrics:
    """One server's; several may live in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "jina_sm_requests", "Requests by door and status.", ("path", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "jina_sm_request_seconds", "From a request's last byte to its answer.", ("path",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._items = Counter("jina_sm_items", "Texts answered.", registry=self.registry)
        self._tokens = Counter("jina_sm_tokens", "Tokens answered.", registry=self.registry)
        self._batches = Counter("jina_sm_batches", "Batches by outcome.", ("outcome",), registry=self.registry)
        self._batch_seconds = Histogram(
            "jina_sm_batch_seconds", "What the model took for a batch.", buckets=_SECONDS, registry=self.registry
        )
        self._batch_tokens = Histogram(
            "jina_sm_batch_padded_tokens", "Tokens of a batch, padding included.", buckets=_TOKENS,
            registry=self.registry,
        )  # fmt: skip
        self._padding = Counter("jina_sm_padding_tokens", "Tokens that were only padding.", registry=self.registry)

    def gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Something that is read when it is asked for."""
        Gauge(name, what, registry=self.registry).set_function(read)

    def batch(self, batch: Batch, seconds: float, outcome: str) -> None:
        self._batches.labels(outcome).inc()
        self._batch_seconds.observe(seconds)
        self._batch_tokens.observe(batch.padded)
        if outcome == "ok":
            self._items.inc(len(batch))
            self._tokens.inc(batch.tokens)
            self._padding.inc(batch.padded - batch.tokens)

    def request(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
