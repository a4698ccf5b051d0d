"""Cuts what a connection sends into whole requests, with a bound on each part; does no I/O.

A thread is given a request only when all of it is here, so that nobody can hold one by sending slowly. A chunked body
is joined and gets a `Content-Length`, as a proxy does: whoever reads it then never meets a million tiny chunks.
"""

import re
from dataclasses import dataclass
from typing import Final

from shared.errors import ProblemCode

LINE_BYTES: Final = 8190
"""Of the request line and of each header, as gunicorn counts them."""
FIELDS: Final = 64
HEAD_BYTES: Final = 64 * 1024
BODY_BYTES: Final = 1024 * 1024
"""What the API accepts (`api.requests.BODY_BYTES`)."""
FRAMING_BYTES: Final = 256 * 1024
"""Chunk sizes, line ends and trailers in all: chunks of 25 bytes fill a whole body, those of one byte a twentieth."""
_SIZE_LINE_BYTES: Final = 256
_LENGTH_DIGITS: Final = 18

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE: Final = re.compile(_TOKEN + rb" [\x21-\x7e\x80-\xff]+ HTTP/1\.[01]")
"""UTF-8 in a target is none of RFC 3986's, but curl sends it as it was typed, and no end of a line is in doubt."""
_NAME: Final = re.compile(_TOKEN)
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)
"""`uri-host [ ":" port ]` (RFC 9112 section 3.2, RFC 3986 section 3.2.2)."""
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e]*)?")

_MALFORMED: Final = "the request is no HTTP/1.1"
_HEAD_TOO_LARGE: Final = (
    f"the request's line or headers are too large: at most {FIELDS} headers of {LINE_BYTES} bytes"
)
_BODY_TOO_LARGE: Final = "the body is larger than 1 MiB"


@dataclass(frozen=True, slots=True)
class Unserved:
    """Why what was sent is no request that is served; the connection ends with it."""

    code: ProblemCode
    detail: str


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole request.

    Attributes:
        encoded: Its bytes, a chunked body joined.
        path: Its path as it was sent, without the query.
        authorization: The header of this name; empty without one.
    """

    encoded: bytes
    path: bytes
    authorization: bytes


@dataclass(frozen=True, slots=True)
class _Head:
    """A head, without what is done with here: `Transfer-Encoding` and `Expect: 100-continue`.

    Attributes:
        length: Of the body in bytes; None for a chunked one.
    """

    lines: tuple[bytes, ...]
    path: bytes
    authorization: bytes
    length: int | None
    expects_continue: bool


class _UnservedError(Exception):
    """Carries an `Unserved` out of the parser."""

    def __init__(self, code: ProblemCode, detail: str) -> None:
        super().__init__(detail)
        self.unserved = Unserved(code, detail)


class Arriving:
    """What a connection has sent and nobody has been given yet."""

    __slots__ = (
        "_body",
        "_buffer",
        "_chunk_left",
        "_framing",
        "_head",
        "_in_trailers",
        "_looked_at",
        "wants_continue",
    )

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.wants_continue = False
        """Whether the client waits for `100 Continue`; whoever has sent it sets it back."""
        self._begin()

    def _begin(self) -> None:
        self._looked_at = 0
        self._head: _Head | None = None
        self._body = bytearray()
        self._chunk_left = -1  # -1 before a size line, 0 before the line end after a chunk
        self._framing = 0
        self._in_trailers = False
        self.wants_continue = False

    def __len__(self) -> int:
        """Return how many bytes are kept."""
        return len(self._buffer) + len(self._body)

    @property
    def has_begun(self) -> bool:
        """Whether a part of a request is here."""
        return self._head is not None or len(self._buffer) > 0

    @property
    def has_head(self) -> bool:
        """Whether the head is whole and the body is not."""
        return self._head is not None

    def feed(self, data: bytes) -> None:
        """Add what the connection has sent."""
        self._buffer += data

    def take(self) -> Whole | Unserved | None:
        """Return the next request when it is whole, or why it is not served; None while more is needed.

        After an `Unserved` nothing else can be taken: where the next request would begin is not known.
        """
        try:
            return self._take()
        except _UnservedError as unserved:
            return unserved.unserved

    def _take(self) -> Whole | None:
        if self._head is None:
            self._head = self._read_head()
            if self._head is None:
                return None
            self.wants_continue = self._head.expects_continue
        head = self._head
        body = self._read_chunks() if head.length is None else self._read_body(head.length)
        if body is None:
            return None
        length = (b"Content-Length: %d" % len(body),) if head.length is None else ()
        encoded = b"\r\n".join((*head.lines, *length, b"", b"")) + body
        self._begin()
        return Whole(encoded, head.path, head.authorization)

    def _read_head(self) -> _Head | None:
        buffer = self._buffer
        if self._looked_at == 0 and buffer.startswith(b"\r\n"):
            del buffer[:2]  # one empty line before a request is ignored (RFC 9112 section 2.2)
        if buffer == b"\r":
            return None
        if buffer and not _NAME.match(buffer[:1]):
            raise _malformed()  # TLS, for one
        end = buffer.find(b"\r\n\r\n", max(0, self._looked_at - 3))
        seen = len(buffer) if end < 0 else end
        self._refuse_bare_line_end(seen)
        if seen > HEAD_BYTES or (b"\r\n" not in buffer[: LINE_BYTES + 2] and seen > LINE_BYTES):
            raise _UnservedError(ProblemCode.HEADERS_TOO_LARGE, _HEAD_TOO_LARGE)
        if end < 0:
            self._looked_at = len(buffer)
            return None
        head = _head_of(bytes(buffer[:end]))
        del buffer[: end + 4]
        return head

    def _refuse_bare_line_end(self, seen: int) -> None:
        """Refuse LF without CR, by which no line of a head ends: its end would be waited for in vain."""
        part = self._buffer[max(0, self._looked_at - 1) : seen]
        bare = part.count(b"\n") - part.count(b"\r\n")
        if bare > (part.startswith(b"\n") and self._looked_at > 0):
            raise _malformed()

    def _read_body(self, length: int) -> bytes | None:
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _read_chunks(self) -> bytes | None:
        """Decode chunks as they come (RFC 9112 section 7.1); trailers are dropped."""
        buffer, at = self._buffer, 0
        try:
            while True:
                if self._chunk_left > 0:
                    part = buffer[at : at + self._chunk_left]
                    if not part:
                        return None
                    self._body += part
                    self._chunk_left -= len(part)
                    at += len(part)
                    continue
                end = buffer.find(b"\r\n", at)
                if end < 0:
                    if len(buffer) - at > _SIZE_LINE_BYTES:
                        raise _malformed()
                    return None
                line = bytes(buffer[at:end])
                at = end + 2
                if self._read_line_of_chunks(line):
                    return bytes(self._body)
        finally:
            del buffer[:at]

    def _read_line_of_chunks(self, line: bytes) -> bool:
        """Take a size line, the line end after a chunk or a trailer; True if the body ends with it."""
        self._framing += len(line) + 2
        if self._framing > FRAMING_BYTES:
            raise _UnservedError(
                ProblemCode.PAYLOAD_TOO_LARGE, "the body has too many chunks: send larger ones"
            )
        if self._in_trailers:
            return not line
        if self._chunk_left == 0:
            if line:
                raise _malformed()
            self._chunk_left = -1
            return False
        found = _CHUNK_SIZE.fullmatch(line)
        if found is None:
            raise _malformed()
        size = int(found[1], 16)
        if len(self._body) + size > BODY_BYTES:
            raise _UnservedError(ProblemCode.PAYLOAD_TOO_LARGE, _BODY_TOO_LARGE)
        self._in_trailers = size == 0
        self._chunk_left = size or -1
        return False


def _malformed(why: str = _MALFORMED) -> _UnservedError:
    return _UnservedError(ProblemCode.INVALID_REQUEST, why)


def _head_of(encoded: bytes) -> _Head:
    first, *fields = encoded.split(b"\r\n")
    if not _REQUEST_LINE.fullmatch(first):
        raise _malformed()
    if len(fields) > FIELDS or len(first) > LINE_BYTES or any(len(line) + 2 > LINE_BYTES for line in fields):
        raise _UnservedError(ProblemCode.HEADERS_TOO_LARGE, _HEAD_TOO_LARGE)
    _, target, version = first.split(b" ")
    kept = [first]
    of_name: dict[bytes, list[bytes]] = {}
    for line in fields:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise _malformed()
        name, value = name.lower(), value.strip(b" \t")
        of_name.setdefault(name, []).append(value)
        is_expectation = name == b"expect" and value.lower() == b"100-continue"
        if name != b"transfer-encoding" and not is_expectation:
            kept.append(line)
    is_new = version == b"HTTP/1.1"
    _check_host(of_name.get(b"host", []), is_needed=is_new)
    length = _length_of(
        of_name.get(b"content-length", []), of_name.get(b"transfer-encoding", []), is_new=is_new
    )
    return _Head(
        tuple(kept),
        target.partition(b"?")[0],
        of_name.get(b"authorization", [b""])[0],
        length,
        # Somebody of HTTP/1.0 does not know it (RFC 9110 section 10.1.1).
        is_new
        and length != 0
        and any(said.lower() == b"100-continue" for said in of_name.get(b"expect", [])),
    )


def _check_host(hosts: list[bytes], *, is_needed: bool) -> None:
    """Refuse a request without `Host`, with several, or with one that is none (RFC 9112 section 3.2)."""
    if len(hosts) > 1 or (is_needed and not hosts):
        raise _malformed("an HTTP/1.1 request has one `Host` header")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise _malformed("the `Host` header is no host with an optional port")


def _length_of(lengths: list[bytes], codings: list[bytes], *, is_new: bool) -> int | None:
    """Return the body's length; None for a chunked one (RFC 9112 section 6.3)."""
    if codings:
        if lengths or not is_new or [coding.lower() for coding in codings] != [b"chunked"]:
            raise _malformed("`Transfer-Encoding` may only be `chunked`, without a `Content-Length`")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > _LENGTH_DIGITS:
        raise _malformed("the `Content-Length` is no length")
    length = int(lengths[0])
    if length > BODY_BYTES:
        raise _UnservedError(ProblemCode.PAYLOAD_TOO_LARGE, _BODY_TOO_LARGE)
    return length
