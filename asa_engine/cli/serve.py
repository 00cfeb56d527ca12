"""`asa-engine serve`: score over HTTP and WebSocket."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from asa_engine.cli.options import add_command, add_engine_options, positive_float, positive_int
from asa_engine.errors import ArtifactError

if TYPE_CHECKING:
    from asa_engine.server.serving import Server

DETAILS = """\
Serves until SIGTERM or Ctrl-C; what is running then may end within --drain-s.

  POST /v1/assess    an audio file as the body; the assessment as JSON
  GET  /v1/stream    WebSocket: PCM in, provisional and final scores out
  GET  /v1/health, /v1/graders, /metrics

One thread a window unless --threads says otherwise: many streams share the cores best that way.
Without TLS or passwords: to be reached from elsewhere, put it behind a proxy that has both.

examples:
  asa-engine serve
  asa-engine serve --port 9000 --workers 4 --max-streams 64
  curl --data-binary @answer.flac http://127.0.0.1:8770/v1/assess
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "serve", run, "Score over HTTP and WebSocket.", DETAILS)
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="default 127.0.0.1")
    parser.add_argument("--port", type=_port, default=8770, metavar="N", help="default 8770")
    parser.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="worker threads, an engine each (default: the cores at hand, at most 8)",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-streams",
        type=positive_int,
        default=32,
        metavar="N",
        help="streams and uploads open at once (default 32)",
    )
    limits.add_argument(
        "--max-upload-mib",
        type=positive_int,
        default=32,
        metavar="N",
        help="longest body of /v1/assess (default 32)",
    )
    limits.add_argument(
        "--max-stream-s",
        type=positive_float,
        default=3600.0,
        metavar="S",
        help="longest recording or stream (default 3600)",
    )
    limits.add_argument(
        "--idle-timeout-s",
        type=positive_float,
        default=30.0,
        metavar="S",
        help="drop a client that is silent for so long (default 30)",
    )
    limits.add_argument(
        "--drain-s",
        type=positive_float,
        default=10.0,
        metavar="S",
        help="how long to let what is running end on shutdown (default 10)",
    )
    limits.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="O",
        help="let web pages of this origin use the server (default: only its own)",
    )
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    if find_spec("aiohttp") is None:
        raise ArtifactError("aiohttp is not installed", mend="pip install 'asa-engine[server]'")
    from asa_engine.server.serving import serve
    from asa_engine.server.settings import Settings, default_workers

    threads = args.threads or 1
    settings = Settings(
        bundle=args.bundle,
        backend=args.backend,
        precision=args.precision,
        threads=threads,
        workers=args.workers or default_workers(threads),
        host=args.host,
        port=args.port,
        max_streams=args.max_streams,
        max_upload_bytes=args.max_upload_mib * 2**20,
        max_stream_s=args.max_stream_s,
        idle_timeout_s=args.idle_timeout_s,
        drain_s=args.drain_s,
        allow_origins=tuple(args.allow_origin),
    )
    serve(settings, announce=_announce)
    print("stopped", file=sys.stderr)
    return 0


def _announce(server: Server) -> None:
    engine = server.pool.engine
    print(
        f"{engine.grader} grader, {engine.choice.backend} {engine.choice.precision}, "
        f"{server.settings.workers} worker(s) of {engine.threads} thread(s)",
        file=sys.stderr,
    )
    print(f"listening on {server.url}", flush=True)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)
