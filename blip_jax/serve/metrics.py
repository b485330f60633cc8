"""What Prometheus is told."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        home: dict[str, Any] = {"registry": self.registry, "namespace": "blip_jax"}
        self.requests = Counter("requests", "Answered requests", ["route", "status"], **home)
        self.latency = Histogram(
            "request_seconds", "From headers to answer", ["route"], buckets=SECONDS, **home
        )
        self.refused = Counter("refused", "Requests without a result", ["code"], **home)
        self.rows = Gauge("rows", "Rows accepted and not answered yet", **home)
        self.batch = Histogram(
            "batch_rows", "Rows of a batch", ["program"], buckets=(1, 2, 4, 8, 16, 32, 64), **home
        )
        self.filler = Counter("filler_rows", "Rows that only fill a batch up", ["program"], **home)
        self.device = Histogram(
            "batch_seconds", "Time of a batch", ["program"], buckets=SECONDS, **home
        )
        self.decode = Histogram("decode_seconds", "Time of a picture", buckets=SECONDS, **home)
        self.cache_hits = Counter("cache_hits", "Pictures whose tokens were there", **home)
        self.cache_misses = Counter("cache_misses", "Pictures that were encoded", **home)
        self.cache_bytes = Gauge("cache_bytes", "Image tokens held", **home)
        self.models = Gauge("model_info", "1 for each model", ["model", "task"], **home)
        self.ready = Gauge("ready", "1 when all programs are compiled", **home)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
