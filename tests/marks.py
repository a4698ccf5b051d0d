"""Every secret that tests create carries a mark, and whatever they start is searched for it at the end (I10).

The mark is built into the one function that creates secrets, so that no fixture can forget it. Content needs none: the
tests' questions begin with a directive to the scripted provider, which appears in no log either.
"""

import json
import logging
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import redis

from shared.observing.logs import JsonFormatter

MARK = f"mark{secrets.token_hex(6)}"
"""Different in each run: no source line that a log may quote contains it."""
DIRECTIVE = re.compile(r"\[\[\w+[= \]]")
SHORTEST_SECRET = 8
"""The shortest word to look for; anything shorter may appear anywhere."""
OURS = ("turnkeeper", "api", "worker", "shared", "turnkeeper_client")
KEYS = ("service_key", "user_key", "admin_key")
URLS = ("database_url", "database_owner_url", "redis_url")

_plain_token = secrets.token_urlsafe


def marked(what: str) -> str:
    """Return a secret that carries the mark and has no shape by which it could be redacted."""
    return f"{what}-{MARK}-{secrets.token_hex(8)}"


def mark_new_secrets() -> None:
    """Put the mark into every password, key and ticket that this process creates from now on."""

    def token_urlsafe(size: int | None = None) -> str:
        plain = _plain_token(size)
        return (MARK + plain[len(MARK) :])[: len(plain)]

    secrets.token_urlsafe = token_urlsafe


def leaks(text: str, known: Iterable[str] = (), *, content: bool = True) -> list[str]:
    """Return the lines of `text` that contain a mark, another known secret or content, with that part hidden."""
    is_told = [secret for secret in (MARK, *known) if len(secret) >= SHORTEST_SECRET and secret in text]
    if not is_told and not (content and DIRECTIVE.search(text)):
        return []
    found = []
    for line in text.splitlines():
        if any(secret in line for secret in is_told) or (content and DIRECTIVE.search(line)):
            shown = DIRECTIVE.sub("<CONTENT>", line)
            for secret in is_told:
                shown = shown.replace(secret, "<SECRET>")
            found.append(shown[:2000])
    return found


class Listener(logging.Handler):
    """Receives what this process logs, as the product would write it; `heard` are the leaks."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[str] = []
        self.setFormatter(JsonFormatter("test"))

    def emit(self, record: logging.LogRecord) -> None:
        self.heard += leaks(self.format(record))


def listen() -> Listener:
    """Receive everything that our loggers log from now on, whatever level a test sets for its own handlers."""
    listener = Listener()
    logging.getLogger().addHandler(listener)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG)
    return listener


def leaks_in_redis(url: str, known: Iterable[str] = ()) -> list[str]:
    """Return the key names and messages that contain a secret or content, and the other values with a secret.

    A turn's log contains content, as it must.
    """
    with redis.Redis.from_url(url, socket_timeout=60, socket_connect_timeout=60) as client:
        return [leak for text, content in _texts(client) for leak in leaks(text, known, content=content)]


def _texts(client: redis.Redis) -> Iterator[tuple[str, bool]]:
    for key in client.scan_iter(count=1000):
        yield key.decode(errors="replace"), True
        match client.type(key):
            case b"list":
                yield from ((value.decode(errors="replace"), True) for value in client.lrange(key, 0, -1))
            case b"hash":
                yield str(client.hgetall(key)), True
            case b"stream":
                yield str(client.xrange(key)), False
            case b"string":
                yield str(client.get(key)), False


def leaks_in_files(
    files: Iterable[Path], known: Iterable[str] = (), *, shown: Iterable[str] = ()
) -> list[str]:
    """Return the leaks in files, each with its name; lines of `shown` are what the command line shows on purpose."""
    known, shown = list(known), set(shown)
    found = []
    for file in files:
        lines = file.read_text(errors="replace").splitlines()
        text = "\n".join(line for line in lines if line not in shown)
        found += [f"{file.name}: {leak}" for leak in leaks(text, known)]
    return found


def secrets_of(environ: Mapping[str, str], state: str) -> list[str]:
    """Return the secrets of a service: those in its variables and those in its state file."""
    told = json.loads(state) if state else {}
    urls = [environ.get(name.upper()) or told.get(name) or "" for name in URLS]
    return [
        *(unquote(urlsplit(url).password or "") for url in urls),
        *(value for name, value in environ.items() if name.endswith("_KEY")),
        *(told.get(name, "") for name in KEYS),
    ]


def banner_of(state: str) -> list[str]:
    """Return the lines in which `turnkeeper up` shows the keys that it created."""
    told = json.loads(state) if state else {}
    return [f"  {name.removesuffix('_key'):7}  {told[name]}" for name in KEYS if name in told]
