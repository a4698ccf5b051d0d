"""Serves the page: static files, with a policy that lets them load from and connect to only this service.

They are sent compressed: without a proxy in front of the service, the first visit takes a third of the bytes. They
hold no secret, so their compressed length reveals nothing.
"""

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound
from werkzeug.security import safe_join

from api.page_modules import modules_of

_FOLDER: Final = Path(__file__).parent / "page"
_MOST_FILES: Final = 256
"""More files than the page has; an edited file counts twice."""
_MOST_DOCUMENTS: Final = 8
"""Two documents, and versions edited while this process runs."""
_ENTRY: Final = re.compile(r'<script type="module" src="/page/([\w.-]+)"></script>')
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")

site = Blueprint("site", __name__)


@site.get("/")
def index() -> Response:
    """Send the page."""
    return _file("index.html")


@site.get("/usage")
@site.get("/operations")
@site.get("/operations/turns/<turn_id>")
def administration_page(turn_id: str = "") -> Response:
    """Send the administrators' page; it finds out what it shows and whether the key may see that."""
    del turn_id
    return _file("administration.html")


@site.get("/page/<path:name>")
def page_file(name: str) -> Response:
    """Send one of the page's files."""
    return _file(name)


def document(name: str) -> str:
    """Return one of the page's documents, which names all modules that it begins with."""

    def with_links(script: re.Match[str]) -> str:
        names = modules_of(_FOLDER, script[1])
        links = "".join(f'<link rel="modulepreload" href="/page/{each}">\n' for each in names)
        return f"{links}{script[0]}"

    return _ENTRY.sub(with_links, (_FOLDER / name).read_text(encoding="utf-8"))


def content_security_policy(host: str) -> str:
    """Return the policy of a page that is served at `host`.

    Safari before 15.4 does not apply `'self'` to websockets, so their origin is named as well. The only policy for
    trusted types is the sanitiser's: no other string becomes markup or script anywhere on the page.
    """
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src 'self'{sockets}; base-uri 'none'; frame-ancestors 'none'; form-action 'self'; "
        "require-trusted-types-for 'script'; trusted-types dompurify"
    )


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    compressed: bytes
    content_type: str
    etag: str


@lru_cache(maxsize=_MOST_FILES)
def _stored(path: Path, _changed_ns: int) -> _Asset:
    return _asset(path.name, path.read_bytes())


@lru_cache(maxsize=_MOST_DOCUMENTS)
def _composed(name: str, text: str) -> _Asset:
    return _asset(name, text.encode())


def _asset(name: str, content: bytes) -> _Asset:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    text = kind.startswith("text/") or kind.endswith(("json", "xml", "javascript"))
    return _Asset(
        content,
        gzip.compress(content, mtime=0),
        f"{kind}; charset=utf-8" if text else kind,
        hashlib.sha256(content).hexdigest()[:32],
    )


def _file(name: str) -> Response:
    path = Path(safe_join(str(_FOLDER), name) or _FOLDER)
    if not path.is_file():
        raise NotFound
    is_document = path.suffix == ".html"
    asset = (
        _composed(path.name, document(path.name)) if is_document else _stored(path, path.stat().st_mtime_ns)
    )
    is_compressed = bool(request.accept_encodings["gzip"])
    answer = Response(asset.compressed if is_compressed else asset.content, content_type=asset.content_type)
    if is_compressed:
        answer.headers["Content-Encoding"] = "gzip"
    answer.headers["Vary"] = "Accept-Encoding"
    answer.set_etag(f"{asset.etag}-gzip" if is_compressed else asset.etag)
    answer.headers["Cache-Control"] = "no-cache"
    answer.headers["Content-Security-Policy"] = content_security_policy(request.host)
    answer.headers["Referrer-Policy"] = "no-referrer"
    answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    answer.make_conditional(request)
    return answer
