"""What the server counts, in Prometheus' text format."""

from __future__ import annotations

import threading
from collections import Counter, deque

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
RECENT = 1000
QUANTILES = (0.5, 0.99)


class Metrics:
    """Counters since the start, and the most recent times to score.

    May be written to from every thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._windows = 0
        self._audio_s = 0.0
        self._score_sum_s: dict[str, float] = {}
        self._score_count: Counter[str] = Counter()
        self._recent_s: dict[str, deque[float]] = {}

    def request(self, path: str, status: int) -> None:
        """Count an answered HTTP request; `path` is a route, never what a client made up."""
        with self._lock:
            self._requests[path, status] += 1

    def ended(self, kind: str, outcome: str) -> None:
        """Count a stream or an upload that is over."""
        with self._lock:
            self._ended[kind, outcome] += 1

    def window(self) -> None:
        """Count an encoded window."""
        with self._lock:
            self._windows += 1

    def scored(self, kind: str, time_to_score_s: float, audio_s: float) -> None:
        """Take note of a final score."""
        with self._lock:
            self._audio_s += audio_s
            self._score_count[kind] += 1
            self._score_sum_s[kind] = self._score_sum_s.get(kind, 0.0) + time_to_score_s
            self._recent_s.setdefault(kind, deque(maxlen=RECENT)).append(time_to_score_s)

    def render(self, open_jobs: dict[str, int], waiting_s: float) -> str:
        """Return the page.

        Args:
            open_jobs: How many streams and uploads are open now.
            waiting_s: Seconds of live audio that wait for a turn now.
        """
        with self._lock:
            lines = [
                *_head("asa_requests_total", "counter", "HTTP requests answered."),
                *(
                    f'asa_requests_total{{path="{path}",status="{status}"}} {count}'
                    for (path, status), count in sorted(self._requests.items())
                ),
                *_head("asa_open", "gauge", "Streams and uploads open now."),
                *(f'asa_open{{kind="{kind}"}} {open_jobs[kind]}' for kind in sorted(open_jobs)),
                *_head("asa_waiting_audio_seconds", "gauge", "Live audio that waits for a turn."),
                f"asa_waiting_audio_seconds {waiting_s:.3f}",
                *_head("asa_ended_total", "counter", "Streams and uploads ended, by outcome."),
                *(
                    f'asa_ended_total{{kind="{kind}",outcome="{outcome}"}} {count}'
                    for (kind, outcome), count in sorted(self._ended.items())
                ),
                *_head("asa_windows_encoded_total", "counter", "Windows encoded."),
                f"asa_windows_encoded_total {self._windows}",
                *_head("asa_audio_seconds_total", "counter", "Seconds of audio scored."),
                f"asa_audio_seconds_total {self._audio_s:.3f}",
                *self._times_to_score(),
            ]
        return "\n".join(lines) + "\n"

    def _times_to_score(self) -> list[str]:
        name = "asa_time_to_score_seconds"
        told = f"From the end of the audio to its scores; quantiles of the last {RECENT}."
        lines = _head(name, "summary", told)
        for kind, recent in sorted(self._recent_s.items()):
            ordered = sorted(recent)
            for quantile in QUANTILES:
                value = ordered[min(int(quantile * len(ordered)), len(ordered) - 1)]
                lines.append(f'{name}{{kind="{kind}",quantile="{quantile}"}} {value:.6f}')
            lines.append(f'{name}_sum{{kind="{kind}"}} {self._score_sum_s[kind]:.6f}')
            lines.append(f'{name}_count{{kind="{kind}"}} {self._score_count[kind]}')
        return lines


def _head(name: str, kind: str, told: str) -> list[str]:
    return [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
