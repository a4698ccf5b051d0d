"""Bytes on the connection: response heads, chunks, and the shapes into which a script bends a stream."""

import zlib
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from turnkeeper.scripted.script import Gzip, Newline, Script
from turnkeeper.scripted.steps import Head

LAST_CHUNK: Final = b"0\r\n\r\n"
_NEWLINES: Final = {Newline.CRLF: b"\r\n", Newline.CR: b"\r"}
_BOM: Final = b"\xef\xbb\xbf"
_GZIP_WBITS: Final = 31


def head_bytes(head: Head, request_id: str, *, chunked: bool, close: bool) -> bytes:
    """Return a response's status line and headers.

    Args:
        head: The response's own status and headers.
        request_id: The id that both dialects' clients log, each from its own header.
        chunked: Whether a body of unknown length is sent in chunks; otherwise it ends with the connection.
        close: Whether this is the connection's last response.
    """
    try:
        phrase = HTTPStatus(head.status).phrase
    except ValueError:
        phrase = "Overloaded"
    lines = [
        f"HTTP/1.1 {head.status} {phrase}",
        f"date: {formatdate(usegmt=True)}",
        f"content-type: {head.content_type}",
        f"x-request-id: {request_id}",
        f"request-id: {request_id}",
        *(f"{name}: {value}" for name, value in head.headers),
    ]
    if head.length is not None:
        lines.append(f"content-length: {head.length}")
    else:
        lines.append("cache-control: no-cache")
        if chunked:
            lines.append("transfer-encoding: chunked")
    if close:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def chunk(body: bytes) -> bytes:
    """Return `body` as one HTTP chunk (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(body), body)


class Shape:
    """Bends the events of one stream as its script directs, and keeps the state that this needs."""

    __slots__ = ("_bom", "_compress", "_flush", "_multiline", "_newline", "_piece")

    def __init__(self, script: Script) -> None:
        self._newline = _NEWLINES.get(script.newline)
        self._multiline = script.multiline
        self._bom = script.bom
        self._piece = script.http_chunk
        self._compress: Callable[[bytes], bytes] | None = None
        self._flush: Callable[[int], bytes] | None = None
        if script.gzip is Gzip.ON:
            packer = zlib.compressobj(wbits=_GZIP_WBITS)
            self._compress, self._flush = packer.compress, packer.flush

    def bend(self, body: bytes) -> bytes:
        """Return the bent bytes of these events."""
        if self._multiline:
            body = body.replace(b"data: {", b"data: {\ndata: ")
        if self._newline is not None:
            body = body.replace(b"\n", self._newline)
        if self._bom:
            self._bom = False
            body = _BOM + body
        if self._compress is not None and self._flush is not None:
            # Flushed at each event, as by a server that really streams.
            body = self._compress(body) + self._flush(zlib.Z_SYNC_FLUSH)
        return body

    def chunks(self, body: bytes) -> bytes:
        """Return bent bytes as HTTP chunks of the script's size."""
        if not self._piece:
            return chunk(body)
        return b"".join(
            chunk(body[start : start + self._piece]) for start in range(0, len(body), self._piece)
        )

    def end(self) -> bytes:
        """Return the end of the body's own encoding."""
        return self._flush(zlib.Z_FINISH) if self._flush is not None else b""


def shape_of(script: Script) -> Shape | None:
    """Return the shape for this script's stream, or None if nothing is bent."""
    bent = (
        script.newline is not Newline.LF
        or script.multiline
        or script.bom
        or script.http_chunk
        or script.gzip is Gzip.ON
    )
    return Shape(script) if bent else None
