"""What `asa-engine kiosk` serves, to whom, and what it never does."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from asa_engine.cli.main import main
from asa_engine.server.kiosk import HEADERS, KioskServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "kiosk"
    (made / "web").mkdir(parents=True)
    (made / "index.html").write_text("<p>hello</p>", encoding="utf-8")
    (made / "web" / "asa.wasm").write_bytes(b"\0asm" * 200_000)
    (made / "notes.txt").write_text("not of the page", encoding="utf-8")
    (made / ".secret.js").write_text("secret", encoding="utf-8")
    (tmp_path / "outside.js").write_text("outside", encoding="utf-8")
    (made / "link.js").symlink_to(tmp_path / "outside.js")
    return made


@pytest.fixture
def server(folder: Path) -> Iterator[KioskServer]:
    with KioskServer(folder) as opened:
        Thread(target=opened.serve_forever, daemon=True).start()
        yield opened
        opened.shutdown()


def _ask(
    server: KioskServer, path: str, method: str = "GET", host: str | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_every_answer_isolates_the_page(server: KioskServer) -> None:
    for path, status in (("/", 200), ("/?lang=es", 200), ("/web/asa.wasm", 200), ("/none.js", 404)):
        answer, _ = _ask(server, path)
        assert answer.status == status
        for name, value in HEADERS.items():
            assert answer.headers.get_all(name) == [value]
    assert HEADERS["Cross-Origin-Opener-Policy"] == "same-origin"
    assert HEADERS["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'none'; ")


def test_files_come_whole_with_their_types(server: KioskServer, folder: Path) -> None:
    answer, body = _ask(server, "/web/asa.wasm")
    assert answer.headers["Content-Type"] == "application/wasm"
    assert body == (folder / "web" / "asa.wasm").read_bytes()
    answer, body = _ask(server, "/web/asa.wasm", "HEAD")
    assert (answer.headers["Content-Length"], body) == ("800000", b"")
    assert _ask(server, "/")[1] == _ask(server, "/index.html")[1] == b"<p>hello</p>"
    (folder / "web" / "asa.wasm").unlink()
    assert _ask(server, "/web/asa.wasm")[0].status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/../outside.js", "/web/../../outside.js", "/%2e%2e/outside.js", "/..%2foutside.js",
        "//outside.js", "/web", "/web/", "/link.js", "/.secret.js", "/notes.txt", "/index.html%00",
        "/\\..\\outside.js", "*",
    ],
)  # fmt: skip
def test_nothing_else_is_there(server: KioskServer, path: str) -> None:
    answer, body = _ask(server, path)
    assert (answer.status, body) == (404, b"Not Found\n")


def test_other_names_and_methods_are_refused(server: KioskServer) -> None:
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1"):
        assert _ask(server, "/", host=host)[0].status == 421
    assert _ask(server, "/", host=f"localhost:{server.server_port}")[0].status == 200
    assert _ask(server, "/", "POST")[0].status == 501
    assert server.server_address[0] == "127.0.0.1"


def test_mistakes_are_one_line(
    server: KioskServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kiosk", str(tmp_path)]) == 2
    assert "holds no index.html (make kiosk builds" in capsys.readouterr().err
    assert main(["kiosk", str(folder), "--port", str(server.server_port)]) == 2
    assert "cannot be listened on" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["kiosk", "--port", "70000"])


def test_the_command_serves_until_it_is_interrupted(folder: Path) -> None:
    command = [sys.executable, "-m", "asa_engine", "kiosk", str(folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        address = said.removeprefix("asa-engine: open http://").strip().rstrip("/")
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(f"GET / HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
            assert connection.makefile("rb").readline().split()[1] == b"200"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == "asa-engine: interrupted\n"
