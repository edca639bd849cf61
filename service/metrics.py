"""Counts and times of a service, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The metrics of one service, in a registry of its own."""

    def __init__(self) -> None:
        """Create all metrics, at zero."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "lsr_requests",
            "Requests answered",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self.request_seconds = Histogram(
            "lsr_request_seconds",
            "Time from a request's head to the end of its answer",
            ("route",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.stage_seconds = Histogram(
            "lsr_stage_seconds",
            "Time of a search's stages: queue, engine (shared by a micro-batch), format; of a "
            "write until it is acknowledged: write",
            ("stage",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.queued = Gauge(
            "lsr_queued_requests", "Requests that wait for the engine", registry=self._registry
        )
        self.refused = Counter(
            "lsr_refused_requests",
            "Requests refused or given up: overload or deadline",
            ("reason",),
            registry=self._registry,
        )
        self.micro_batch = Histogram(
            "lsr_micro_batch_requests",
            "Requests that went through the engine together",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self._registry,
        )
        self.postings = Counter(
            "lsr_query_postings",
            "Postings of the terms of sparse queries, by frequencies when the generation was "
            "opened: what a search without skipping would read",
            ("index",),
            registry=self._registry,
        )
        self.generation = Gauge(
            "lsr_index_generation",
            "Generation that answers come from",
            ("index",),
            registry=self._registry,
        )
        self.commit = Gauge(
            "lsr_index_commit",
            "Commit that answers come from",
            ("index",),
            registry=self._registry,
        )
        self.documents = Gauge(
            "lsr_index_documents", "Documents", ("index",), registry=self._registry
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request.

        Args:
            method: HTTP method.
            route: path with the names of parameters in place of values, which bounds their number.
            status: HTTP status.
            seconds: how long it took.
        """
        self.requests.labels(method, route, status).inc()
        self.request_seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
