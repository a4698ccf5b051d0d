"""Performs the core's steps on an asyncio loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

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

SAY_SECONDS: Final = 10.0
_NETWORK_ERRORS: Final = (OSError, httpx.TransportError, WebSocketException)


class Network:
    """Performs the steps of one call or stream; at most one stream is open at a time."""

    def __init__(self, http: httpx.AsyncClient, address: Address) -> None:
        """Use `http` for requests, and open streams at `address`."""
        self._http = http
        self._address = address
        self._socket: ClientConnection | None = None
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def perform(self, step: Step) -> Reply:
        """Perform a step and return its reply."""
        match step:
            case Send():
                return await self._send(step)
            case Open():
                return await self._open(step)
            case Say(text):
                return await self._say(text)
            case Hear(limit_seconds):
                return await self._hear(limit_seconds)
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Hang():
                await self.hang()
            case Emit():
                pass  # nobody is interested
        return None

    async def hang(self) -> None:
        """Close the stream, if one is open."""
        socket, self._socket = self._socket, None
        response, self._response = self._response, None
        if socket is not None:
            try:
                with contextlib.suppress(*_NETWORK_ERRORS):
                    await socket.close()
            finally:
                # Even if this is cancelled, nothing may stay open.
                socket.transport.abort()
        if response is not None:
            with contextlib.suppress(*_NETWORK_ERRORS):
                await response.aclose()

    async def _send(self, step: Send) -> Reply:
        try:
            async with (
                asyncio.timeout(step.limit_seconds),
                self._http.stream(
                    step.method,
                    step.path,
                    params=dict(step.query),
                    headers=dict(step.headers),
                    json=step.body,
                    timeout=httpx.Timeout(
                        step.limit_seconds, connect=min(step.limit_seconds, CONNECT_SECONDS)
                    ),
                ) as response,
            ):
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MOST_ANSWER_BYTES:
                        raise ProtocolError(f"an answer has more than {MOST_ANSWER_BYTES} bytes")
                return received_of(response.status_code, response.headers, bytes(body))
        except TimeoutError:
            return Lost("the answer took too long")
        except httpx.RequestError as error:
            return lost_of(error)

    async def _open(self, step: Open) -> Reply:
        await self.hang()
        try:
            async with asyncio.timeout(step.limit_seconds):
                if step.wire is Wire.WEBSOCKET:
                    return await self._open_websocket(step)
                return await self._open_events(step)
        except InvalidStatus as refused:
            return refusal_of_handshake(refused)
        except _NETWORK_ERRORS as error:
            return lost_of(error)

    async def _open_websocket(self, step: Open) -> Reply:
        address = self._address
        self._socket = await _Connect(address.websocket_url(step.path), **address.websocket_options(step))
        return Opened()

    async def _open_events(self, step: Open) -> Reply:
        response = await self._http.send(self._http.build_request(**request_of(step)), stream=True)
        self._response = response
        if response.status_code == httpx.codes.OK:
            self._pieces = response.aiter_bytes()
            return Opened()
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MOST_REFUSAL_BYTES:
                break
        await self.hang()
        return received_of(response.status_code, response.headers, bytes(body))

    async def _say(self, text: str) -> Lost | None:
        assert self._socket is not None
        try:
            async with asyncio.timeout(SAY_SECONDS):
                await self._socket.send(text)
        except _NETWORK_ERRORS as error:
            return lost_of(error)
        return None

    async def _hear(self, limit_seconds: float) -> Reply:
        try:
            async with asyncio.timeout(limit_seconds):
                if self._socket is not None:
                    return Heard(await self._socket.recv())
                assert self._pieces is not None
                piece = await anext(self._pieces, None)
                return Closed() if piece is None else Heard(piece)
        except ConnectionClosed as closed:
            return Closed(code_of(closed))
        except (TimeoutError, httpx.ReadTimeout):
            return Silence()
        except _NETWORK_ERRORS as error:
            return lost_of(error)


class _Connect(connect):
    """Follows no redirect: the key goes to the named service and to no other."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the refusal to the caller."""
        return exc
