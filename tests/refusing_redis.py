"""Ways to make a real server refuse what it is asked, each until it is undone; one per reply."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import hiredis
import redis

from tests.e2e.protocol_client import wait_until

NOBODY: Final = ("127.0.0.1", 1)


@contextmanager
def readonly(server: redis.Redis) -> Iterator[None]:
    """It becomes the replica of a primary that is away."""
    server.replicaof(*NOBODY)
    try:
        yield
    finally:
        server.replicaof("NO", "ONE")


@contextmanager
def noreplicas(server: redis.Redis) -> Iterator[None]:
    """It wants a replica and has none."""
    with _setting(server, "min-replicas-to-write", "1"):
        yield


@contextmanager
def misconf(server: redis.Redis) -> Iterator[None]:
    """It cannot save: a folder stands where its file belongs."""
    in_the_way = Path(server.config_get("dir")["dir"]) / server.config_get("dbfilename")["dbfilename"] / "x"
    in_the_way.parent.unlink(missing_ok=True)
    in_the_way.mkdir(parents=True)
    try:
        with _setting(server, "save", "3600 1000000"):
            _save(server, "err")
            yield
    finally:
        in_the_way.rmdir()
        in_the_way.parent.rmdir()
        _save(server, "ok")
        in_the_way.parent.unlink()


def _save(server: redis.Redis, status: str) -> None:
    """Save in the background, until that has ended as it must."""

    def has_ended() -> bool:
        with suppress(redis.ResponseError):  # one is under way
            server.bgsave()
        return server.info("persistence")["rdb_last_bgsave_status"] == status

    wait_until(has_ended, f"a snapshot that ends {status!r}")


@contextmanager
def masterdown(server: redis.Redis) -> Iterator[None]:
    """It is a replica that serves nothing while its primary is away."""
    with _setting(server, "replica-serve-stale-data", "no"):
        try:
            with readonly(server):
                yield
        finally:
            server.replicaof("NO", "ONE")


@contextmanager
def noperm(server: redis.Redis) -> Iterator[None]:
    """The login loses its right to write."""
    server.execute_command("ACL", "SETUSER", "default", "-@write")
    try:
        yield
    finally:
        server.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def noscripts(server: redis.Redis) -> Iterator[None]:
    """The login loses its right to run scripts, and may still write."""
    server.execute_command("ACL", "SETUSER", "default", "-@scripting")
    try:
        yield
    finally:
        server.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def noauth(server: redis.Redis) -> Iterator[None]:
    """The password is changed, and who came with the old one is sent away."""
    with _setting(server, "requirepass", "another"):
        server.execute_command("CLIENT", "KILL", "SKIPME", "yes")
        yield


@contextmanager
def oom(server: redis.Redis) -> Iterator[None]:
    """It is full."""
    with _setting(server, "maxmemory", "1"):
        yield


@contextmanager
def busy(server: redis.Redis) -> Iterator[None]:
    """A script of somebody else's runs for ever."""
    with _setting(server, "busy-reply-threshold", "10"):
        running = threading.Thread(target=_run_for_ever, args=(server,), daemon=True)
        running.start()
        try:
            yield
        finally:
            while running.is_alive():
                with suppress(redis.ResponseError):
                    server.script_kill()
                running.join(0.05)


def _run_for_ever(server: redis.Redis) -> None:
    with suppress(redis.RedisError):
        server.eval("while true do end", 0)


REFUSING: Final[dict[str, Callable[[redis.Redis], object]]] = {
    "READONLY": readonly,
    "NOREPLICAS": noreplicas,
    "MISCONF": misconf,
    "MASTERDOWN": masterdown,
    "NOPERM": noperm,
    "NOPERM to run scripts": noscripts,
    "WRONGPASS": noauth,
    "OOM": oom,
    "BUSY": busy,
}
SAYING: Final = (
    "LOADING Valkey is loading the dataset in memory",
    "MOVED 3999 127.0.0.1:1",
    "ASK 3999 127.0.0.1:1",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "UNKILLABLE Sorry the script already executed write commands against the dataset.",
    "ERR max number of clients reached",
)
"""What no server can be made to say at will; `saying` says it."""


@contextmanager
def _setting(server: redis.Redis, name: str, value: str) -> Iterator[None]:
    before = server.config_get(name)[name]
    server.config_set(name, value)
    try:
        yield
    finally:
        server.config_set(name, before)


@contextmanager
def saying(refusal: str) -> Iterator[int]:
    """A server that answers every command with a refusal; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                clients.append(client)
                threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        reader = hiredis.Reader()
        with suppress(OSError):
            while data := client.recv(1 << 16):
                reader.feed(data)
                while reader.gets() is not False:
                    client.sendall(f"-{refusal}\r\n".encode())

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        for client in clients:
            client.close()
