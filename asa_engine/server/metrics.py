"""What the server counts, for Prometheus."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]

_SCORE_BUCKETS_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.5, 1, 2, 5, 10, 30)
_LAG_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)


class Metrics:
    """Counters and histograms since the start. May be written to from every thread."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self._requests = Counter(
            "asa_requests", "HTTP requests answered.", ("path", "status"), registry=own
        )
        self._open = Gauge("asa_open", "Streams and uploads open now.", ("kind",), registry=own)
        self._waiting = Gauge(
            "asa_waiting_audio_seconds", "Live audio that had no turn yet.", registry=own
        )
        self._ended = Counter(
            "asa_ended", "Streams and uploads ended, by outcome.", ("kind", "outcome"), registry=own
        )
        self._windows = Counter("asa_windows_encoded", "Windows encoded.", registry=own)
        self._audio_s = Counter("asa_audio_seconds", "Seconds of audio scored.", registry=own)
        self._score_s = Histogram(
            "asa_time_to_score_seconds",
            "From the end of the audio to its scores.",
            ("kind",),
            buckets=_SCORE_BUCKETS_S,
            registry=own,
        )
        self._lag_s = Histogram(
            "asa_loop_lag_seconds",
            "How late the event loop comes to what is due.",
            buckets=_LAG_BUCKETS_S,
            registry=own,
        )
        self._store_errors = Counter("asa_store_errors", "Failures of the store.", registry=own)
        self._connections = Gauge("asa_connections", "Connections open now.", registry=own)
        self._turned_away = Gauge(
            "asa_connections_refused", "Connections refused since the start.", registry=own
        )

    def request(self, path: str, status: int) -> None:
        """Count an answered HTTP request; `path` is a route, never what a client made up."""
        self._requests.labels(path, status).inc()

    def ended(self, kind: str, outcome: str) -> None:
        """Count a stream or an upload that is over."""
        self._ended.labels(kind, outcome).inc()

    def window(self) -> None:
        """Count an encoded window."""
        self._windows.inc()

    def scored(self, kind: str, time_to_score_s: float, audio_s: float) -> None:
        """Take note of a final score."""
        self._audio_s.inc(audio_s)
        self._score_s.labels(kind).observe(time_to_score_s)

    def lag(self, seconds: float) -> None:
        """Take note of how late the event loop was."""
        self._lag_s.observe(max(0.0, seconds))

    def store_failed(self) -> None:
        """Count a failure of the store."""
        self._store_errors.inc()

    def connections(self, open_now: int, refused: int) -> None:
        """Take note of the connections."""
        self._connections.set(open_now)
        self._turned_away.set(refused)

    def render(self, open_jobs: dict[str, int], waiting_s: float) -> bytes:
        """Return the page.

        Args:
            open_jobs: How many streams and uploads are open now.
            waiting_s: Seconds of live audio that had no turn yet.
        """
        for kind, count in open_jobs.items():
            self._open.labels(kind).set(count)
        self._waiting.set(waiting_s)
        return generate_latest(self._registry)
