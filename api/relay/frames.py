"""Websocket frames (RFC 6455 section 5), server side: encodes frames, and reads messages with a bound on their size.

simple-websocket cuts frames short when it sends on a slow socket, and reads without a bound, so the
relay does both itself. No extension is ever negotiated.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class CloseCode(IntEnum):
    """Why a websocket is closed; codes from 4400 on are those of our protocol."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_TEXT = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTART = 1012
    BAD_FRAME = 4400
    UNAUTHORIZED = 4401
    TOO_SLOW = 4409
    TOO_MANY = 4429


class Opcode(IntEnum):
    """RFC 6455 section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


_FIN: Final = 0x80
_MASKED: Final = 0x80
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127
_LONGEST_CONTROL: Final = 125
_NOT_SENT: Final = frozenset({1004, 1005, 1006, 1015})
_FIRST_APPLICATION_CODE: Final = 3000


class FrameError(Exception):
    """The peer broke the protocol; the websocket is closed with `code`."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Received:
    """A whole text message, or a control frame."""

    opcode: Opcode
    payload: bytes


def encode(opcode: Opcode, payload: bytes) -> bytes:
    """Encode one unmasked frame (section 5.1: a server masks nothing)."""
    head = _FIN | opcode
    size = len(payload)
    if size < _LENGTH_16:
        return b"%c%c%b" % (head, size, payload)
    if size < 1 << 16:
        return b"%c%c%b%b" % (head, _LENGTH_16, size.to_bytes(2), payload)
    return b"%c%c%b%b" % (head, _LENGTH_64, size.to_bytes(8), payload)


def encode_text(payload: bytes) -> bytes:
    """Encode a text message; `payload` is UTF-8."""
    return encode(Opcode.TEXT, payload)


def encode_close(code: int, reason: str = "") -> bytes:
    """Encode a close frame (section 5.5.1)."""
    return encode(Opcode.CLOSE, code.to_bytes(2) + reason.encode()[: _LONGEST_CONTROL - 2])


class FrameReader:
    """Decodes a client's bytes into whole messages, holding at most one message of `most_bytes`."""

    __slots__ = ("_buffer", "_fragments", "_most_bytes")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._buffer = bytearray()
        self._fragments: bytearray | None = None

    def feed(self, data: bytes | memoryview) -> list[Received]:
        """Return the messages that `data` completes.

        Raises:
            FrameError: The client broke the protocol; nothing more may be read from it.
        """
        self._buffer += data
        received: list[Received] = []
        while (frame := self._next_frame()) is not None:
            opcode, is_final, payload = frame
            if opcode >= Opcode.CLOSE:
                received.append(Received(opcode, payload))
                continue
            if (message := self._join(opcode, is_final, payload)) is not None:
                received.append(Received(Opcode.TEXT, message))
        return received

    def _next_frame(self) -> tuple[Opcode, bool, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        opcode, is_final = self._check_head(buffer[0], buffer[1])
        size, start = buffer[1] & 0x7F, 2
        if size >= _LENGTH_16:
            start = 4 if size == _LENGTH_16 else 10
            if len(buffer) < start:
                return None
            smallest = _LENGTH_16 if size == _LENGTH_16 else 1 << 16
            size = int.from_bytes(buffer[2:start])
            if size < smallest:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "length is not encoded in its shortest form")
        if size + len(self._fragments or b"") > self._most_bytes:
            # Decided by the header, without waiting for an announced gigabyte.
            raise FrameError(CloseCode.TOO_BIG, "message is too big")
        end = start + 4 + size
        if len(buffer) < end:
            return None
        payload = _unmask(bytes(buffer[start : start + 4]), bytes(buffer[start + 4 : end]))
        del buffer[:end]
        return opcode, is_final, payload

    def _check_head(self, first: int, second: int) -> tuple[Opcode, bool]:
        if first & 0x70:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "reserved bits are set")  # no extension was accepted
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "unknown opcode") from None
        if not second & _MASKED:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "frame is not masked")  # section 5.1
        is_final = bool(first & _FIN)
        if opcode >= Opcode.CLOSE:
            if not is_final or second & 0x7F > _LONGEST_CONTROL:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "control frame is fragmented or too long")
        elif opcode is Opcode.BINARY:
            raise FrameError(CloseCode.UNSUPPORTED_DATA, "frames are text")
        elif (opcode is Opcode.CONTINUATION) is (self._fragments is None):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "fragments are out of order")  # section 5.4
        return opcode, is_final

    def _join(self, opcode: Opcode, is_final: bool, payload: bytes) -> bytes | None:
        if opcode is Opcode.TEXT and not is_final:
            self._fragments = bytearray(payload)
            return None
        if self._fragments is not None:
            self._fragments += payload
            if not is_final:
                return None
            payload, self._fragments = bytes(self._fragments), None
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise FrameError(CloseCode.INVALID_TEXT, "text is not UTF-8") from None  # section 8.1
        return payload


def check_close(payload: bytes) -> int:
    """Return the code with which to answer a client's close frame (section 7.4).

    Raises:
        FrameError: The close frame itself is malformed.
    """
    if not payload:
        return CloseCode.NORMAL
    code = int.from_bytes(payload[:2])
    is_assigned = 1000 <= code <= 1014 and code not in _NOT_SENT
    if len(payload) < 2 or not (is_assigned or _FIRST_APPLICATION_CODE <= code < 5000):
        raise FrameError(CloseCode.PROTOCOL_ERROR, "close code is not valid")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_TEXT, "close reason is not UTF-8") from None
    return code


def _unmask(key: bytes, masked: bytes) -> bytes:
    """Apply the mask to all bytes at once, as one big integer (section 5.3)."""
    size = len(masked)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(masked) ^ int.from_bytes(repeated)).to_bytes(size)
