"""The page: static files under a policy that lets it load and reach nothing but this service."""

import re
from pathlib import Path
from typing import Final

from flask import Blueprint, Response, request, send_from_directory

_FOLDER: Final = Path(__file__).parent / "page"
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


def content_security_policy(host: str) -> str:
    """Return the policy of a page that is served at `host`.

    Safari before 15.4 does not take `'self'` for a websocket's origin, so it is named as well. Trusted types without a
    policy mean that no string becomes markup or script anywhere on the page: it builds nodes.
    """
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self'{sockets}; base-uri 'none'; frame-ancestors 'none'; form-action 'self'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _file(name: str) -> Response:
    answer = send_from_directory(_FOLDER, name, max_age=0)
    answer.headers["Cache-Control"] = "no-cache"
    answer.headers["Content-Security-Policy"] = content_security_policy(request.host)
    answer.headers["Referrer-Policy"] = "no-referrer"
    answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return answer
