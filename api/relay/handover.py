"""Takes a connection away from the WSGI server, so that a stream holds no thread.

The server's own descriptor is pointed at a dead socket before the connection is handed to the loop. A server
not only closes the connection that it accepted, but also shuts it down (gunicorn since 26, werkzeug always),
and a shutdown reaches every duplicate of a socket.
"""

import os
import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

NO_LINGER: Final = struct.pack("ii", 1, 0)
"""`SO_LINGER` of a socket that is reset when it is closed."""


def can_take(environ: Mapping[str, Any]) -> bool:
    """Return whether the request came over a plain HTTP/1 connection that a known server exposes."""
    sock = _socket_of(environ)
    # TLS keeps its keys in the process's SSLSocket, and HTTP/2 shares a connection between requests.
    is_plain = isinstance(sock, socket.socket) and not isinstance(sock, ssl.SSLSocket)
    return is_plain and environ.get("HTTP_VERSION") != "2"


def reset(environ: Mapping[str, Any]) -> None:
    """Reset the connection of a request, so that a response without framing is not taken for a whole one."""
    with suppress(OSError), take(environ) as taken:  # the client has left already
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)


def may_continue(environ: Mapping[str, Any]) -> bool:
    """Return whether the client may send another request on the connection of this one.

    Only a server that takes connections back says whether it has read nothing of a next request, and all of this one.
    """
    is_alone = getattr(_socket_of(environ), "is_alone", False)
    tokens = {token.strip().lower() for token in environ.get("HTTP_CONNECTION", "").split(",")}
    is_kept = environ.get("SERVER_PROTOCOL") == "HTTP/1.1" and "close" not in tokens
    return is_kept and bool(is_alone)


def takes_chunks(environ: Mapping[str, Any]) -> bool:
    """Return whether the client reads a body in chunks (RFC 9112 section 6.1: HTTP/1.0 does not)."""
    return environ.get("SERVER_PROTOCOL") == "HTTP/1.1"


def take(environ: Mapping[str, Any]) -> socket.socket:
    """Take the connection of a request; what the server does to it afterwards has no effect.

    Returns:
        The connection, non-blocking; the caller closes it.

    Raises:
        OSError: The connection is closed already.
    """
    sock = _socket_of(environ)
    assert isinstance(sock, socket.socket)
    taken = sock.dup()
    try:
        ours, theirs = socket.socketpair()
        ours.close()
        with theirs:
            os.dup2(theirs.fileno(), sock.fileno(), inheritable=False)
        taken.setblocking(False)
    except BaseException:
        taken.close()
        raise
    return taken


def _socket_of(environ: Mapping[str, Any]) -> object:
    return environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
