"""Stores, each in SQLite and PostgreSQL: what is durable, what is not, whose a stream is."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import PASSWORD, PostgresqlServer

from asa_engine.errors import UsageError
from asa_engine.server.store import Keeper, Saved, Store, StoreError
from asa_engine.server.store.places import open_store

MIB = 2**20
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
ME, OTHER = 7, 8


@contextlib.contextmanager
def _opened(place: str | Path, key: bytes | None = None, **options: Any) -> Iterator[Store]:
    store = open_store(place, options.pop("max_bytes", MIB), key, **options)
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def _filled(place: str | Path, key: bytes | None = None, **options: Any) -> Iterator[Store]:
    with _opened(place, key, **options) as store:
        with store.transaction():
            assert store.take("a", "kiosk", "{}", ME) == Saved("kiosk", "{}", 0)
            assert store.append("a", ME, 0, b"1234") == 4
            assert store.append("a", ME, 4, b"56") == 6
            store.take("b", "", "{}", ME)
        yield store


def _hold(keeper: Keeper) -> threading.Event:
    """Keep a keeper busy until the event is set: what is asked meanwhile makes one batch."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(store: Store) -> None:
        begun.set()
        go_on.wait(60)

    keeper.later(wait)
    assert begun.wait(60)
    return go_on


def _found(store: Store, stream: str) -> Saved | None:
    with store.transaction():
        return store.find(stream)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_what_is_kept_outlives_the_process(place: str, key: bytes | None) -> None:
    with _filled(place, key):
        pass
    with _opened(place, key) as store, store.transaction():
        assert store.find("a") == Saved("kiosk", "{}", 6)
        pieces = [store.audio("a", offset) for offset in (0, 4, 6)]
        assert pieces == [b"1234", b"56", b""]
        assert store.find("c") is None
        assert store.finish("a", ME, '{"type": "final"}')
        assert store.find("a") == Saved("kiosk", "{}", 6, '{"type": "final"}')
        assert store.audio("a", 0) == b""
        store.delete("a")
        assert store.find("a") is None
        assert store.find("b") is not None


def test_only_what_follows_is_appended(place: str) -> None:
    with _filled(place) as store:
        with store.transaction():
            assert store.append("a", ME, 7, b"gap") == 6
            assert store.append("a", ME, 4, b"again") == 6
            assert store.append("none", ME, 0, b"x") is None
            assert store.finish("b", ME, "{}")
            assert store.append("b", ME, 0, b"late") is None
        assert _found(store, "a") == Saved("kiosk", "{}", 6)


def test_a_stream_is_its_last_holders_on_whatever_server(place: str) -> None:
    with _filled(place) as here, _opened(place) as there:
        with there.transaction():
            for owner, terms in (("other", "{}"), ("kiosk", "{1}")):
                assert there.take("a", owner, terms, OTHER) == Saved("kiosk", "{}", 6)
        with here.transaction():
            assert here.append("a", ME, 6, b"78") == 8
        with there.transaction():
            assert there.take("a", "kiosk", "{}", OTHER) == Saved("kiosk", "{}", 8)
        with here.transaction():
            assert here.append("a", ME, 8, b"90") is None
            assert not here.finish("a", ME, "{}")
        with there.transaction():
            assert there.append("a", OTHER, 8, b"XY") == 10
        assert _found(here, "a") == Saved("kiosk", "{}", 10)
        with there.transaction():
            there.delete("a")
        with here.transaction():
            assert here.append("a", OTHER, 10, b"Z") is None
            assert here.audio("a", 10) == b""


def test_a_failed_transaction_changes_nothing(place: str) -> None:
    with _filled(place) as store:

        def fail() -> None:
            with store.transaction():
                store.append("a", ME, 6, b"78")
                raise ValueError

        with pytest.raises(ValueError):  # noqa: PT011
            fail()
        assert _found(store, "a") == Saved("kiosk", "{}", 6)


def test_ages_are_counted(place: str) -> None:
    with _filled(place) as store, store.transaction():
        store.finish("b", ME, "{}")
        store.tick(6.0, 10.0, 10.0)
        store.append("a", ME, 6, b"78")
        store.tick(6.0, 10.0, 10.0)
        assert store.find("a") is not None
        assert store.find("b") is None
        store.tick(6.0, 10.0, 10.0)
        assert store.find("a") is None
        assert store.audio("a", 0) == b""


def test_two_servers_do_not_make_time_pass_twice(place: str) -> None:
    with _filled(place) as here, _opened(place) as there:
        for _ in range(3):
            for store in (here, there):
                with store.transaction():
                    store.tick(3.0, 10.0, 10.0)
        assert _found(here, "a") is not None
        with here.transaction():
            here.tick(1.5, 10.0, 10.0)
        assert _found(here, "a") is None


@pytest.mark.parametrize("years", [-30, 30])
def test_clocks_that_jump_make_nothing_older(
    place: str, years: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock jumps, and so does the one that ages are counted by, as after a long sleep."""
    jumped_s = years * 365 * 86_400
    wall, steady = time.time, time.monotonic
    with _filled(place) as store, monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: wall() + jumped_s)
        keeper = Keeper(lambda: open_store(place, MIB), 60.0)
        keeper.start()
        keeper.later(lambda store: store.take("c", "", "{}", ME)).result(60)
        if years > 0:
            patch.setattr(time, "monotonic", lambda: steady() + jumped_s)
            keeper.later(lambda store: None).result(60)
        found = keeper.later(lambda store: (store.find("a"), store.find("c"))).result(60)
        assert None not in found
        keeper.stop()
        assert _found(store, "a") is not None


def test_a_full_store_fails_and_frees(place: str) -> None:
    with _filled(place) as store:
        pieces = 0

        def fill() -> None:
            nonlocal pieces
            while pieces < 100:
                with store.transaction():
                    store.append("b", ME, pieces * 65_536, bytes(65_536))
                pieces += 1
                with store.transaction():
                    store.tick(0.0, 60.0, 60.0)

        with pytest.raises(StoreError, match="full"):
            fill()
        assert 4 < pieces < 40
        found = _found(store, "b")
        assert found is not None
        assert found.size == pieces * 65_536
        with store.transaction():
            assert store.finish("b", ME, "{" + " " * 20_000 + "}")
        with store.transaction():
            store.tick(0.0, 60.0, 60.0)
        with store.transaction():
            assert store.append("a", ME, 6, bytes(65_536))


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    with _filled(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("version", [0, 1, 3])
def test_what_another_program_made_is_refused_and_left(tmp_path: Path, version: int) -> None:
    path = tmp_path / "streams.db"
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE streams (x)")
        base.execute(f"PRAGMA user_version={version}")
    before = path.read_bytes()
    with pytest.raises(UsageError, match=f"store of version {version}"):
        open_store(path, MIB)
    assert path.read_bytes() == before


def test_a_store_of_another_version_is_refused(place: str) -> None:
    with _filled(place) as store, store.transaction():
        store._connection.exec_driver_sql("UPDATE asa_store SET version = 3")  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="store of version 3; this server has version 2"):
        open_store(place, MIB)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    path.write_bytes(b"no database" * 1000)
    for place in (path, tmp_path, tmp_path / "none" / "x.db"):
        with pytest.raises(UsageError, match="cannot be used as a store"):
            open_store(place, MIB)
    for place, said in (
        ("mysql://me:secret@host/x", "cannot be in 'mysql'"),
        ("sqlite://", "cannot be in 'sqlite'"),
        ("://me:secret", "cannot be read"),
        ("postgresql://me:secret@host:port/x", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=said) as told:
            open_store(place, MIB)
        assert "secret" not in str(told.value)
        assert told.value.hint


def test_nothing_is_made_where_nothing_is_to_be(place: str) -> None:
    for _ in range(2):
        with pytest.raises(UsageError, match=r"is no store|cannot be used as a store"):
            open_store(place, MIB, make=False)


def test_passwords_are_not_told(postgresql: PostgresqlServer) -> None:
    for url in (
        postgresql.url(password="wrong-secret"),
        postgresql.url(password="") + "&password=wrong-secret",
        postgresql.url("none"),
        "postgresql://asa:wrong-secret@127.0.0.1:1/streams",
    ):
        with pytest.raises(UsageError, match="cannot be used as a store") as told:
            open_store(url, MIB)
        for secret in ("wrong-secret", PASSWORD, "SELECT"):
            assert secret not in str(told.value)
        assert "\n" not in told.value.message


@pytest.mark.parametrize(
    ("written", "read", "said"),
    [
        (KEY, OTHER_KEY, "encrypted by another key"),
        (KEY, None, "is encrypted"),
        (None, KEY, "is not encrypted"),
    ],
)
def test_another_key_is_told(
    place: str, written: bytes | None, read: bytes | None, said: str
) -> None:
    with _filled(place, written):
        pass
    with pytest.raises(UsageError, match=said) as told:
        open_store(place, MIB, read)
    assert told.value.hint


def test_what_is_encrypted_cannot_change_places(place: str) -> None:
    """By who may write to the database: neither within a stream, nor from one to another."""
    swap = "UPDATE asa_audio SET start = 4, stop = 8 WHERE id = 'a' AND start = 0"
    with _filled(place, KEY) as store, store.transaction():
        store.take("c", "", '{"text": "SECRET WORDS"}', ME)
        ask = store._connection.exec_driver_sql  # type: ignore[attr-defined]
        ask("DELETE FROM asa_audio WHERE start = 4")
        ask(swap)
        ask("UPDATE asa_streams SET terms = (SELECT terms FROM asa_streams WHERE id = 'c')")
        with pytest.raises(StoreError, match="another key, or changed"):
            store.audio("a", 4)
        with pytest.raises(StoreError, match="another key, or changed"):
            store.find("a")
        found = store.find("c")
        assert found is not None
        assert "SECRET" in found.terms
        kept = ask("SELECT terms FROM asa_streams").scalars().all()
        assert not any(b"SECRET" in bytes(each) for each in kept)


def test_results_come_in_the_order_they_were_scored(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asa_engine.server.store import sql

    monkeypatch.setattr(sql, "RESULTS_AT_ONCE", 2)

    class Clock:
        seconds = 0.0

        def now(self, zone: Any) -> datetime.datetime:
            self.seconds -= 1.0
            return datetime.datetime.fromtimestamp(1e9 + self.seconds, zone)

    monkeypatch.setattr(sql, "datetime", Clock())
    with _opened(place, KEY) as store:
        for name in "abcde":
            with store.transaction():
                store.take(name, "kiosk", "{}", ME)
                store.append(name, ME, 0, b"12")
                if name != "c":
                    store.finish(name, ME, f'"{name}"')
        results = store.results()
        first = next(results)
        with store.transaction():
            store.delete("a")
        told = [first, *results]
    assert [each.stream for each in told] == ["e", "d", "b"]
    assert told[0].saved == Saved("kiosk", "{}", 2, '"e"')
    assert told[0].finished == "2001-09-09T01:46:36+00:00"


def test_one_failure_undoes_no_others_work(place: str) -> None:
    told: list[StoreError] = []
    with _filled(place):
        pass
    keeper = Keeper(lambda: open_store(place, MIB), 60.0, told.append)
    keeper.start()
    go_on = _hold(keeper)

    def fail(store: Store) -> None:
        raise StoreError("broken")

    first = keeper.later(lambda store: store.append("a", ME, 6, b"78"))
    bad = keeper.later(fail)
    given_up = keeper.later(lambda store: store.append("a", ME, 8, b"never"))
    last = keeper.later(lambda store: store.append("a", ME, 8, b"90"))
    assert given_up.cancel()
    go_on.set()
    assert first.result(60) == 8
    assert last.result(60) == 10
    with pytest.raises(StoreError):
        bad.result(60)
    assert len(told) == 1
    keeper.stop()
    with _opened(place) as store:
        assert _found(store, "a") == Saved("kiosk", "{}", 10)


def test_a_store_that_is_down_is_asked_once(place: str) -> None:
    told: list[StoreError] = []
    asked: list[int] = []
    keeper = Keeper(lambda: open_store(place, MIB), 60.0, told.append)
    keeper.start()
    go_on = _hold(keeper)

    def fail(number: int, store: Store) -> None:
        asked.append(number)
        raise StoreError("away", is_down=True)

    all_of_them = [keeper.later(lambda store, n=n: fail(n, store)) for n in range(5)]
    go_on.set()
    for each in all_of_them:
        with pytest.raises(StoreError, match="away"):
            each.result(60)
    assert asked == [0]
    assert len(told) == 1
    keeper.stop()


def test_a_slow_store_is_not_waited_for(place: str) -> None:
    with _filled(place):
        pass
    keeper = Keeper(lambda: open_store(place, MIB), 60.0)
    keeper.start()
    go_on = _hold(keeper)

    async def ask() -> Saved | None:
        def find(store: Store) -> Saved | None:
            return store.find("a")

        with pytest.raises(StoreError, match="longer than"):
            await keeper.do(find, 0.05)
        go_on.set()
        return await keeper.do(find, 60)

    assert asyncio.run(ask()) is not None
    keeper.stop()
