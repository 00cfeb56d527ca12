"""`asa-engine serve`: score over HTTP and WebSocket."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asa_engine.cli.options import (
    STORE,
    STORE_KEY,
    add_command,
    add_engine_options,
    add_ray_options,
    port,
    positive_float,
    positive_int,
)
from asa_engine.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from asa_engine.server.serving import Server
    from asa_engine.server.settings import Settings

STREAMS_A_WORKER = 32
ENVIRONMENT = "ASA_SERVER_KEYS"

DETAILS = """\
Serves until SIGTERM or Ctrl-C; what is running then may end within --drain-s.

  POST /v1/assess    an audio file as the body, or a form; the assessment as JSON
  GET  /v1/stream    WebSocket: PCM in, provisional and final scores out
  GET  /v1/session   the same for graders of sessions: begin a response, PCM, end it
  GET  /v1/health, /v1/graders, /livez, /readyz, /metrics
  GET  /docs         the API in a browser, with forms to try it; /openapi.json for machines

One thread a window unless --threads says otherwise: many streams share the cores best that way.
On the loopback anybody may use it. To be reached from elsewhere it asks for API keys and TLS, or
--insecure behind a proxy that has both.

examples:
  asa-engine serve
  asa-engine serve --port 9000 --workers 4 --max-streams 64
  asa-engine serve --new-key kiosk --key-rate 60 >> keys.txt
  asa-engine serve --host 0.0.0.0 --keys keys.txt --tls-cert cert.pem --tls-key key.pem
  asa-engine serve --ray --store streams.db --max-replicas 4
  curl --data-binary @answer.flac http://127.0.0.1:8770/v1/assess
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "serve", run, "Score over HTTP and WebSocket.", DETAILS)
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="default 127.0.0.1")
    parser.add_argument("--port", type=port, default=8770, metavar="N", help="default 8770")
    parser.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="worker threads, an engine each (default: the cores at hand, at most 8; with --ray 1)",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-streams",
        type=positive_int,
        metavar="N",
        help=f"streams open at once (default {STREAMS_A_WORKER} a worker)",
    )
    limits.add_argument(
        "--max-uploads",
        type=positive_int,
        default=8,
        metavar="N",
        help="uploads open at once, which take no stream's place (default 8)",
    )
    limits.add_argument(
        "--max-connections",
        type=positive_int,
        metavar="N",
        help="connections open at once, idle ones too (default: twice the places, at least 512)",
    )
    limits.add_argument(
        "--max-upload-mib",
        type=positive_int,
        default=32,
        metavar="N",
        help="longest body of /v1/assess (default 32)",
    )
    limits.add_argument(
        "--max-upload-s",
        type=positive_float,
        default=900.0,
        metavar="S",
        help="longest recording that an upload unpacks to (default 900)",
    )
    limits.add_argument(
        "--max-stream-s",
        type=positive_float,
        default=3600.0,
        metavar="S",
        help="longest stream (default 3600)",
    )
    limits.add_argument(
        "--idle-timeout-s",
        type=positive_float,
        default=30.0,
        metavar="S",
        help="drop a client that sends no audio for so long (default 30)",
    )
    limits.add_argument(
        "--drain-s",
        type=positive_float,
        default=10.0,
        metavar="S",
        help="how long to let what is running end on shutdown (default 10)",
    )
    kept = parser.add_argument_group("streams that survive")
    kept.add_argument(
        "--store",
        metavar="URL",
        help="keep streams that have an id in this file, or in postgresql://user@host/database: "
        f"the audio until it is scored, then the scores (default: ${STORE}, which hides passwords)",
    )
    kept.add_argument(
        "--store-key",
        type=Path,
        metavar="FILE",
        help=f"encrypt what is kept by the key here, or in ${STORE_KEY}: 32 bytes in base64",
    )
    kept.add_argument(
        "--keep-s",
        type=positive_float,
        default=3600.0,
        metavar="S",
        help="for so long after they were last heard of, or scored (default 3600)",
    )
    kept.add_argument(
        "--store-mib",
        type=positive_int,
        default=1024,
        metavar="N",
        help="how large the store may grow (default 1024)",
    )
    access = parser.add_argument_group("access")
    access.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help=f"ask for one of these API keys, or of those in ${ENVIRONMENT}",
    )
    access.add_argument(
        "--new-key",
        metavar="NAME",
        help="make a key: itself on standard error, the line for the file on standard output",
    )
    access.add_argument(
        "--scopes", default="score", metavar="S", help="of the new key: score,watch (default score)"
    )
    access.add_argument(
        "--max-open",
        type=positive_int,
        metavar="N",
        help="streams and uploads that the new key may have open at once (default: all there are)",
    )
    for name, what in (
        ("rate", "requests and streams that the new key may begin in a minute"),
        ("burst", "so many of them in one go (default: those of ten seconds)"),
        ("mib", "longest body of its uploads"),
        ("seconds", "longest of its recordings and streams"),
    ):
        access.add_argument(f"--key-{name}", type=positive_int, metavar="N", help=what)
    access.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate and chain")
    access.add_argument("--tls-key", type=Path, metavar="PEM", help="its private key")
    access.add_argument(
        "--insecure",
        action="store_true",
        help="listen beyond the loopback without keys or TLS, as behind a proxy",
    )
    access.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="O",
        help="let web pages of this origin use the server (default: only its own)",
    )
    access.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer to this name, too (default: addresses and localhost)",
    )
    parser.add_argument(
        "--otlp-endpoint",
        default="",
        metavar="URL",
        help="send spans of requests to this OpenTelemetry collector (default: nowhere)",
    )
    ray = parser.add_argument_group("many machines")
    add_ray_options(ray, "serve from a Ray cluster: limits are those of each replica")
    ray.add_argument(
        "--min-replicas",
        type=positive_int,
        default=1,
        metavar="N",
        help="servers that are always there (default 1)",
    )
    ray.add_argument(
        "--max-replicas",
        type=positive_int,
        metavar="N",
        help="servers there may be, as streams come (default: as many as the CPUs at hand hold)",
    )
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    for package in ("uvicorn", "starlette", "websockets", "prometheus_client", "python_multipart"):
        if find_spec(package) is None:
            raise ArtifactError(
                f"{package} is not installed", hint="pip install 'asa-engine[server]'"
            )
    from asa_engine.server.keys import new_key
    from asa_engine.server.serving import serve
    from asa_engine.server.settings import Settings, default_workers
    from asa_engine.server.store.sealing import read_key

    if args.new_key is not None:
        limits = {
            name: getattr(args, f"key_{name}") for name in ("rate", "burst", "mib", "seconds")
        }
        scopes = tuple(args.scopes.split(","))
        key, line = new_key(args.new_key, scopes, {"open": args.max_open, **limits})
        print(f"the key, which is shown only now: {key}", file=sys.stderr)
        print(line)
        return 0
    if not args.ray and (args.gpus or args.max_replicas or args.min_replicas > 1):
        raise UsageError("replicas and --gpus are for --ray", hint="add it, or leave them out")
    threads = args.threads or 1
    workers = args.workers or (1 if args.ray else default_workers(threads))
    streams = args.max_streams or STREAMS_A_WORKER * workers
    settings = Settings(
        bundle=args.bundle,
        backend=args.backend,
        precision=args.precision,
        threads=threads,
        workers=workers,
        host=args.host,
        port=args.port,
        max_streams=streams,
        max_uploads=args.max_uploads,
        max_connections=args.max_connections or max(512, 2 * (streams + args.max_uploads)),
        max_upload_bytes=args.max_upload_mib * 2**20,
        max_upload_s=args.max_upload_s,
        max_stream_s=args.max_stream_s,
        idle_timeout_s=args.idle_timeout_s,
        drain_s=args.drain_s,
        allow_origins=tuple(args.allow_origin),
        allow_hosts=tuple(args.allow_host),
        keys_file=args.keys,
        keys=os.environ.get(ENVIRONMENT, ""),
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        store=args.store or os.environ.get(STORE) or None,
        store_key=read_key(args.store_key, os.environ.get(STORE_KEY, "")),
        keep_s=args.keep_s,
        store_bytes=args.store_mib * 2**20,
        otlp_endpoint=args.otlp_endpoint,
        insecure=args.insecure,
    )
    if args.ray:
        _serve_on_ray(settings, args)
    else:
        serve(settings, announce=_announce)
    print("stopped", file=sys.stderr)
    return 0


def _serve_on_ray(settings: Settings, args: argparse.Namespace) -> None:
    from asa_engine.cluster.scale import Scale
    from asa_engine.cluster.serving import serve_on_ray

    def scale(cpus: int) -> Scale:
        fitting = max(args.min_replicas, cpus // (settings.workers * settings.threads))
        return Scale(args.min_replicas, args.max_replicas or fitting, args.gpus)

    def announce(url: str, chosen: Scale) -> None:
        print(
            f"{chosen.min_replicas} to {chosen.max_replicas} replicas of {settings.workers} "
            f"worker(s) of {settings.threads} thread(s)",
            file=sys.stderr,
        )
        print(f"listening on {url}", flush=True)

    serve_on_ray(settings, scale, announce=announce)


def _announce(server: Server) -> None:
    engine = server.pool.engine
    print(
        f"{engine.grader} grader, {engine.choice.backend} {engine.choice.precision}, "
        f"{server.settings.workers} worker(s) of {engine.threads} thread(s)",
        file=sys.stderr,
    )
    print(f"listening on {server.url}", flush=True)
