"""A PostgreSQL with a streaming replica, and its failover: to a server that may be behind.

The replica begins as a copy of the stopped primary's folder, so that only the server itself is needed. It replicates
through a proxy of its own, which can be cut: what the primary commits from then on is lost when the replica takes over.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.e2e.protocol_client import wait_until
from tests.faults.proxy import Proxy
from turnkeeper.up.embedded import EmbeddedPostgres

CATCH_UP_SECONDS = 60.0


class Pair:
    """Two servers, one of which serves; stands where tests expect an `EmbeddedPostgres`."""

    def __init__(self, primary: EmbeddedPostgres, standby: EmbeddedPostgres, link: Proxy) -> None:
        self.primary = primary
        self.standby = standby
        self.serving = primary
        self._link = link

    @property
    def pid(self) -> int:
        return self.serving.pid

    @property
    def app_url(self) -> str:
        return self.serving.app_url

    @property
    def owner_url(self) -> str:
        return self.serving.owner_url

    def start(self) -> str:
        return self.serving.start()

    def stop(self) -> None:
        self.serving.stop()

    def catch_up(self) -> None:
        """Wait until the replica has everything that is committed now."""
        with psycopg.connect(self.primary.owner_url, autocommit=True) as db:
            (end,) = db.execute("select pg_current_wal_lsn()").fetchone() or (None,)

        def is_there() -> bool:
            with psycopg.connect(self.standby.owner_url, autocommit=True) as db:
                (reached,) = db.execute(
                    "select pg_last_wal_replay_lsn() >= %s::pg_lsn", [end]
                ).fetchone() or (0,)
            return bool(reached)

        wait_until(is_there, "the replica to catch up", CATCH_UP_SECONDS)

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Replicate nothing from now on."""
        with self._link.refusing():
            yield

    def fail_over(self, front: Proxy) -> None:
        """Kill the primary, promote the replica and lead the clients of `front` to it."""
        with suppress(ProcessLookupError):
            os.kill(self.primary.pid, signal.SIGKILL)
        wait_until(lambda: not self.primary.pid, "the primary's end", CATCH_UP_SECONDS)
        with psycopg.connect(self.standby.owner_url, autocommit=True) as db:
            db.execute("select pg_promote()")
        self.serving = self.standby
        front.target = urlsplit(self.standby.owner_url).port or 0
        front.cut()


@contextmanager
def replicated(folder: Path) -> Iterator[Pair]:
    """Run a primary and its replica in `folder`."""
    folder.mkdir(mode=0o711, exist_ok=True)
    primary, standby = EmbeddedPostgres(folder / "primary"), EmbeddedPostgres(folder / "standby")
    primary.start()
    _ = primary.app_url  # makes the password, which both have
    primary.stop()
    copy_stopped(folder / "primary", folder / "standby")
    try:
        primary.start()
        owner = urlsplit(primary.owner_url)
        with Proxy(owner.port or 0) as link:
            follow(folder / "standby" / "data", link.port, owner.username or "", owner.password or "")
            standby.start()
            yield Pair(primary, standby, link)
    finally:
        standby.stop()
        primary.stop()


def copy_stopped(source: Path, target: Path) -> None:
    """Copy a stopped server's folder, owners and all."""
    target.mkdir(mode=0o700)
    for password in source.glob("*.password"):
        shutil.copy2(password, target / password.name)
    shutil.copytree(source / "data", target / "data")
    copy_owner(source / "data", target / "data")
    for path in (source / "data").rglob("*"):
        copy_owner(path, target / "data" / path.relative_to(source / "data"))


def copy_owner(source: Path, target: Path) -> None:
    owner = source.stat()
    os.chown(target, owner.st_uid, owner.st_gid)


def follow(data: Path, port: int, user: str, password: str) -> None:
    """Make a data folder that of a replica."""
    with (data / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"primary_conninfo = 'host=127.0.0.1 port={port} user={user} password={password}'\n")
        settings.write("wal_retrieve_retry_interval = '100ms'\n")
    (data / "standby.signal").touch(mode=0o600)
    copy_owner(data, data / "standby.signal")
