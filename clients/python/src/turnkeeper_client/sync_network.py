"""Performs the core's steps with blocking I/O."""

import contextlib
import time
from collections.abc import Iterator
from typing import Final

import httpx
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from turnkeeper_client.address import (
    CONNECT_SECONDS,
    MOST_ANSWER_BYTES,
    MOST_REFUSAL_BYTES,
    Address,
    code_of,
    lost_of,
    received_of,
    refusal_of_handshake,
    request_of,
)
from turnkeeper_client.errors import ProtocolError
from turnkeeper_client.steps import (
    Closed,
    Emit,
    Hang,
    Hear,
    Heard,
    Lost,
    Open,
    Opened,
    Pause,
    Reply,
    Say,
    Send,
    Silence,
    Step,
    Wire,
)

_NETWORK_ERRORS: Final = (OSError, httpx.TransportError, WebSocketException)


class Network:
    """Performs the steps of one call or stream; at most one stream is open at a time."""

    def __init__(self, http: httpx.Client, address: Address) -> None:
        """Use `http` for requests, and open streams at `address`."""
        self._http = http
        self._address = address
        self._socket: ClientConnection | None = None
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def perform(self, step: Step) -> Reply:
        """Perform a step and return its reply."""
        match step:
            case Send():
                return self._send(step)
            case Open():
                return self._open(step)
            case Say(text):
                return self._say(text)
            case Hear(limit_seconds):
                return self._hear(limit_seconds)
            case Pause(seconds):
                time.sleep(seconds)
            case Hang():
                self.hang()
            case Emit():
                pass  # nobody is interested
        return None

    def hang(self) -> None:
        """Close the stream, if one is open."""
        socket, self._socket = self._socket, None
        response, self._response = self._response, None
        with contextlib.suppress(*_NETWORK_ERRORS):
            if socket is not None:
                socket.close()
        with contextlib.suppress(*_NETWORK_ERRORS):
            if response is not None:
                response.close()

    def _send(self, step: Send) -> Reply:
        ends_at = time.monotonic() + step.limit_seconds
        try:
            with self._http.stream(
                step.method,
                step.path,
                params=dict(step.query),
                headers=dict(step.headers),
                json=step.body,
                timeout=httpx.Timeout(step.limit_seconds, connect=min(step.limit_seconds, CONNECT_SECONDS)),
            ) as response:
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > MOST_ANSWER_BYTES:
                        raise ProtocolError(f"an answer has more than {MOST_ANSWER_BYTES} bytes")
                    if time.monotonic() > ends_at:
                        return Lost("the answer took too long")
                return received_of(response.status_code, response.headers, bytes(body))
        except httpx.RequestError as error:
            return lost_of(error)

    def _open(self, step: Open) -> Reply:
        self.hang()
        try:
            return self._open_websocket(step) if step.wire is Wire.WEBSOCKET else self._open_events(step)
        except InvalidStatus as refused:
            return refusal_of_handshake(refused)
        except _NETWORK_ERRORS as error:
            return lost_of(error)

    def _open_websocket(self, step: Open) -> Reply:
        address = self._address
        # Entered and never left: what `connect` returns differs between versions, what `with` yields does
        # not.
        self._socket = connect(
            address.websocket_url(step.path), **address.websocket_options(step)
        ).__enter__()
        return Opened()

    def _open_events(self, step: Open) -> Reply:
        response = self._http.send(self._http.build_request(**request_of(step)), stream=True)
        self._response = response
        if response.status_code == httpx.codes.OK:
            self._pieces = response.iter_bytes()
            return Opened()
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > MOST_REFUSAL_BYTES:
                break
        self.hang()
        return received_of(response.status_code, response.headers, bytes(body))

    def _say(self, text: str) -> Lost | None:
        assert self._socket is not None
        try:
            self._socket.send(text)
        except _NETWORK_ERRORS as error:
            return lost_of(error)
        return None

    def _hear(self, limit_seconds: float) -> Reply:
        try:
            if self._socket is not None:
                return Heard(self._socket.recv(timeout=limit_seconds))
            piece = next(self._pieces, None)
            return Closed() if piece is None else Heard(piece)
        except ConnectionClosed as closed:
            return Closed(code_of(closed))
        except (TimeoutError, httpx.ReadTimeout):
            return Silence()
        except _NETWORK_ERRORS as error:
            return lost_of(error)
