"""Traces for a collector that is named, by OpenTelemetry. Needs the extra `otel`; off by default.

POST /v1/assess            the request, from its head to its answer
|-- queueing               waiting for a turn on a worker
|-- decode                 a turn's reading, decoding and resampling
|-- window                 a window encoded
`-- score                  from the last of the audio to the scores

Spans hold times, counts, routes and outcomes: no audio, texts, scores, ids of streams or keys.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from asa_engine.errors import ArtifactError, UsageError
from asa_engine.profiling import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OpenSpan

__all__ = ["RequestTrace", "Traces"]

MOST_SPANS: Final = 1000  # of one recording: of an hour's stream, its beginning
LEAST_WAIT_S: Final = 0.001
EXPORT_S: Final = 5.0
STOP_S: Final = 2.0  # for the last spans to leave
_PATH: Final = "/v1/traces"


class Traces:
    """Where spans go.

    Args:
        endpoint: The collector's address, as "http://127.0.0.1:4318".
        version: Of the engine.

    Raises:
        ArtifactError: OpenTelemetry is not installed.
        UsageError: That is no address.
    """

    def __init__(self, endpoint: str, version: str) -> None:
        place = urlsplit(endpoint)
        if place.scheme not in ("http", "https") or not place.hostname:
            raise UsageError(
                f"{endpoint!r} is no address of a collector", hint="http://127.0.0.1:4318"
            )
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            exporter = _exporter(
                endpoint if place.path.strip("/") else endpoint.rstrip("/") + _PATH
            )
        except ImportError as failure:
            raise ArtifactError(
                f"{failure.name} is not installed", hint="pip install 'asa-engine[server,otel]'"
            ) from None
        described = Resource.create({"service.name": "asa-engine", "service.version": version})
        self._provider: TracerProvider = TracerProvider(resource=described, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    def begin(self, headers: Mapping[str, str], name: str) -> RequestTrace:
        """Begin a request's span, as a part of the client's trace where it brings one."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        tracer = self._provider.get_tracer("asa_engine.server")
        given = {"traceparent": headers.get("traceparent", "")}
        context = TraceContextTextMapPropagator().extract(given)
        span = tracer.start_span(name, context=context, kind=SpanKind.SERVER)
        return RequestTrace(self._provider, span)

    def stop(self) -> None:
        """Send what waits, but not for long: a collector that hangs holds nobody up."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(STOP_S)


class RequestTrace:
    """The spans of one request. What a recording's worker tells comes from its own thread."""

    def __init__(self, provider: TracerProvider, span: OpenSpan) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer = provider.get_tracer("asa_engine.server")
        self._span = span
        self._context = set_span_in_context(span)
        self._spans = 0
        self._dropped = 0
        self._decoding: tuple[float, float] | None = None
        # Stages are timed by a clock that has no date.
        self._zero_ns = time.time_ns() - time.perf_counter_ns()

    def waited(self, start_s: float) -> None:
        """A turn has begun that was waited for since `start_s`, on `time.perf_counter`."""
        now_s = time.perf_counter()
        if now_s - start_s >= LEAST_WAIT_S:
            self._add("queueing", start_s, now_s)

    def stage(self, span: Span) -> None:
        """A stage of the engine has ended."""
        if span.stage == "decode":
            start_s = span.start_s if self._decoding is None else self._decoding[0]
            self._decoding = start_s, span.end_s
        elif span.stage == "encoder":
            self._add("window", span.start_s, span.end_s, span.args)

    def turn_over(self) -> None:
        """A turn has ended."""
        if self._decoding is not None:
            self._add("decode", *self._decoding)
            self._decoding = None

    def scored(self, start_s: float) -> None:
        """The scores are there; the audio ended at `start_s`."""
        self._add("score", start_s, time.perf_counter())

    def end(self, method: str, route: str, status: int) -> None:
        """The request is answered."""
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        if self._dropped:
            attributes["asa.spans_left_out"] = self._dropped
        self._span.set_attributes(attributes)
        if status >= 500:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def _add(
        self, name: str, start_s: float, end_s: float, attributes: Mapping[str, int] | None = None
    ) -> None:
        self._spans += 1
        if self._spans > MOST_SPANS and name != "score":
            self._dropped += 1
            return
        told = {f"asa.{key}": value for key, value in (attributes or {}).items()}
        span = self._tracer.start_span(name, self._context, start_time=self._ns(start_s))
        span.set_attributes(told)
        span.end(self._ns(end_s))

    def _ns(self, seconds: float) -> int:
        return self._zero_ns + int(seconds * 1e9)


def _exporter(endpoint: str) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_S)
