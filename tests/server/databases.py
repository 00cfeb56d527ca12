"""The stores under test: files of SQLite, and databases of a PostgreSQL server of our own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs the extra 'server'")

PASSWORD = "pass@word:/%1"
QUOTED = "pass%40word%3A%2F%251"


def _programs() -> Path | None:
    """Return where initdb is: Debian keeps it off the PATH."""
    found = [Path(place).resolve().parent for place in [shutil.which("initdb")] if place]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists()), None)


class PostgresqlServer:
    """A server in a temporary folder, on a Unix socket there. It does not run as root.

    Args:
        programs: Folder of initdb and postgres.
        settings: Further ones.
    """

    def __init__(self, programs: Path, *settings: str) -> None:
        self._programs = programs
        self._user: dict[str, Any] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="asa-pg-"))
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self._user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        options = ["-U", "asa", "-E", "UTF8", "--locale=C", "--no-sync"]
        options += ["--auth=scram-sha-256", f"--pwfile={password}"]
        self._call("initdb", "-D", str(self.folder / "data"), *options)

    def _call(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / name), *arguments],
            check=True, cwd=self.folder, stdout=subprocess.DEVNULL, **self._user,
        )  # fmt: skip

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = ["listen_addresses=", f"unix_socket_directories={self.folder}"]
        settings += ["max_connections=20", "shared_buffers=16MB", "fsync=off", *self._settings]
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data")]
        for each in settings:
            command += ["-c", each]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stderr=log, **self._user)
        until = time.monotonic() + 60
        ready = [str(self._programs / "pg_isready"), "-h", str(self.folder), "-q"]
        while subprocess.run(ready).returncode:
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Cut every connection and stop, without a word, as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "postgres", password: str = QUOTED) -> str:
        return f"postgresql://asa:{password}@/{database}?host={self.folder}"

    def admin(self, database: str = "postgres") -> Any:
        """Return a connection of psycopg that commits each statement."""
        import psycopg

        return psycopg.connect(
            host=str(self.folder), user="asa", password=PASSWORD, dbname=database, autocommit=True
        )

    def new(self, tablespace: Path | None = None) -> str:
        """Make a database, its files in a folder of anybody's if one is given; return its URL."""
        self._made += 1
        name = f"streams{self._made}"
        with contextlib.closing(self.admin()) as base:
            where = ""
            if tablespace is not None:
                if self._user:
                    os.chown(tablespace, self._user["user"], self._user["group"])
                base.execute(f"CREATE TABLESPACE {name} LOCATION '{tablespace}'")
                where = f"TABLESPACE {name}"
            base.execute(f"CREATE DATABASE {name} {where}")
        return self.url(name)


@contextlib.contextmanager
def postgresql_server(*settings: str) -> Iterator[PostgresqlServer]:
    """Run one, for the block; skip where there is none to run."""
    pytest.importorskip("psycopg", reason="needs the extra 'postgresql'")
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's server (Debian: apt-get install postgresql)")
    try:
        server = PostgresqlServer(programs, *settings)
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres'")
    try:
        server.start()
        yield server
    finally:
        server.remove()
