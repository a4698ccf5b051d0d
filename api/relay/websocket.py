"""`GET /v1/stream`: Flask does the handshake, then the socket is handed to the hub and the thread returns.

A handshake is refused with a plain HTTP problem; afterwards there are only close codes.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from flask import Blueprint, Flask, Response, g, request
from flask_sock import Sock
from simple_websocket import Server

from api.caller import Caller
from api.relay import handover
from api.relay.hub import Hub
from api.relay.places import Reader, address_of
from shared.errors import ProblemCode, RefusedError

SUBPROTOCOL: Final = "turnkeeper.v1"
_TICKET_PREFIX: Final = "ticket."
_BEARER_PREFIX: Final = "bearer "
_VERSION: Final = "13"
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")

Authenticate: TypeAlias = Callable[[str | None, str | None], Caller | None]
"""Maps the bearer key and the ticket of a handshake to its caller; None refuses it."""


class _NoThread:
    """Replaces the thread that simple-websocket would start for reading: the hub reads instead."""

    def __init__(self, target: Callable[[], None]) -> None:
        del target
        self.name = ""

    def start(self) -> None:
        pass


def register(
    app: Flask, hub: Hub, *, authenticate: Authenticate, origin_is_allowed: Callable[[str], bool]
) -> None:
    """Add the route to `app`; the application renders `RefusedError`."""
    options: dict[str, Any] = {"subprotocols": [SUBPROTOCOL], "thread_class": _NoThread}
    app.config["SOCK_SERVER_OPTIONS"] = options
    blueprint = Blueprint("stream", __name__)
    sock = Sock()

    @blueprint.before_request
    def admit() -> None:
        # First, and for a POST as well: a page is not told why its handshake was refused, and asks again like that.
        origin = request.headers.get("Origin")
        if origin is not None and not origin_is_allowed(origin):
            raise RefusedError(ProblemCode.FORBIDDEN, "this origin is not in ALLOWED_ORIGINS")
        check_handshake(request.method, request.environ)
        if not handover.can_take(request.environ):
            raise RefusedError(
                ProblemCode.INVALID_REQUEST, "websockets need a plain HTTP/1.1 connection to this process"
            )
        offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if any(offered) and SUBPROTOCOL not in offered:
            raise RefusedError(ProblemCode.INVALID_REQUEST, f"offer the subprotocol {SUBPROTOCOL!r}")
        g.stream_caller = authenticate(_bearer(), _ticket(offered))
        if g.stream_caller is None:
            raise RefusedError(ProblemCode.UNAUTHORIZED, "no valid key or ticket")
        # simple-websocket accepts compression whenever it is offered; frames are passed on as they are.
        request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        # It also parses what else was offered, which may be anything.
        request.environ.pop("HTTP_SEC_WEBSOCKET_PROTOCOL", None)
        if any(offered):
            request.environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] = SUBPROTOCOL

    @sock.route("/v1/stream", bp=blueprint, endpoint="websocket")  # type: ignore[untyped-decorator]
    def stream(ws: Server) -> None:
        reader = Reader(g.stream_caller, address_of(request.remote_addr))
        taken = handover.take(request.environ)
        ws.connected = False  # flask-sock's own close has nothing left to do
        hub.carry_websocket(taken, reader)

    @blueprint.route("/v1/stream", methods=["GET", "POST"], endpoint="plain")
    def refuse() -> Response:
        raise _malformed("this is a websocket: ask for an upgrade")

    app.register_blueprint(blueprint)


def check_handshake(method: str, environ: Mapping[str, Any]) -> None:
    """Check what RFC 6455 section 4.2.1 demands of a client's handshake.

    Raises:
        RefusedError: It asks for no websocket, for one of another version (section 4.4), or not as it must.
    """
    if environ.get("HTTP_UPGRADE", "").strip().lower() != "websocket":
        raise _malformed("this is a websocket: ask for an upgrade")
    if method != "GET" or environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        raise _malformed("a websocket is opened by GET over HTTP/1.1")
    if "upgrade" not in {token.strip().lower() for token in environ.get("HTTP_CONNECTION", "").split(",")}:
        raise _malformed("send `Connection: Upgrade`")
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip() != _VERSION:
        raise RefusedError(
            ProblemCode.UPGRADE_REQUIRED,
            f"this service speaks version {_VERSION} of the websocket protocol",
            headers={"Sec-WebSocket-Version": _VERSION, "Upgrade": "websocket"},
        )
    if not _KEY.fullmatch(environ.get("HTTP_SEC_WEBSOCKET_KEY", "").strip()):
        raise _malformed("`Sec-WebSocket-Key` must be 16 bytes in base64, once")
    if environ.get("CONTENT_LENGTH", "") not in {"", "0"} or "HTTP_TRANSFER_ENCODING" in environ:
        raise _malformed("a websocket's handshake has no body")


def _malformed(detail: str) -> RefusedError:
    return RefusedError(ProblemCode.INVALID_REQUEST, detail)


def _bearer() -> str | None:
    value = request.headers.get("Authorization", "")
    is_bearer = value[: len(_BEARER_PREFIX)].lower() == _BEARER_PREFIX
    return value[len(_BEARER_PREFIX) :].strip() if is_bearer else None


def _ticket(offered: list[str]) -> str | None:
    return next((name[len(_TICKET_PREFIX) :] for name in offered if name.startswith(_TICKET_PREFIX)), None)
