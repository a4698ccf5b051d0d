"""Sends a request to a provider over HTTP and reads its event stream; what differs by dialect is a `Dialect`."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import httpx

from shared.configuration.provider_settings import ProviderSettings
from shared.errors import Fault, ProviderError
from shared.oddities import Oddity
from worker.providers.dialect import Dialect
from worker.providers.faults import error_of_other_content, error_of_response, error_of_transport
from worker.providers.oddities import Oddities
from worker.providers.provider import Item, Prompt
from worker.providers.reading import Reader, Reading
from worker.providers.said import Discretion
from worker.providers.silence import SilenceWatch
from worker.providers.think_tags import TaggedReading
from worker.transport.codings import is_encoded
from worker.transport.sse import SseDecoder, SseEvent, SseLimitError

MAX_ERROR_BYTES: Final = 8 * 1024
"""How much of a refusal is read: enough for its code, whatever else it contains."""
ERROR_BODY_SECONDS: Final = 2.0
"""How long to wait for a refusal's body; its status alone is enough to continue."""
MAX_EVENTS: Final = 200_000
"""Far above one event per token of the longest answers; a stream with more is a flood."""
END_SECONDS: Final = 2.0
"""After a terminal mark without a reason or without usage, how long to wait for the response's own end: how it ends
says whether the answer is whole, and usage may come before it. A response ends in the same packet or the next; one that
never does is taken as it is.
"""
_REFUSALS_OF_FIELDS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
DRAIN_SECONDS: Final = 0.1
"""After the terminal mark, how long to wait for the response's own end: a connection that can be reused saves the next
turn a TLS handshake, but the turn that waits to be settled should wait no longer for it.
"""

_SENT: Final = "http11.send_request_body.complete"
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class UpstreamProvider:
    """A `Provider` over HTTP.

    Requests go to the transport directly. An httpx client would follow redirects, use the environment's proxies and
    `netrc`, and send one answer's cookies with every other organization's questions (I9); whatever else it does is work
    on every turn.

    Args:
        settings: Names, limits and times.
        dialect: Builds requests and reads answers.
        transport: Sends the requests; closed with the provider.
        oddities: Counts what answers have that their protocol does not.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        dialect: Dialect,
        transport: httpx.AsyncBaseTransport,
        oddities: Oddities,
    ) -> None:
        self.name = settings.name.value
        self.model = settings.model
        self.capabilities = dialect.capabilities
        self._settings = settings
        self._dialect = dialect
        self._transport = transport
        self._oddities = oddities
        self._is_closed = False
        self._url = httpx.URL(dialect.url)
        self._headers = {
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "turnkeeper",
            **dialect.headers,
        }
        self._times = {
            "connect": settings.connect_timeout_seconds,
            "pool": settings.connect_timeout_seconds,
            "write": settings.first_token_timeout_seconds,
            # No read timeout here: the silence watch has one, which comments do not reset.
            "read": None,
        }

    def stream(
        self, prompt: Prompt, *, on_sent: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Item]]]:
        """Send `prompt` and read the answer; see `Provider.stream`."""
        return self._stream(prompt, on_sent)

    async def aclose(self) -> None:
        """Close every connection; no new ones can be opened."""
        self._is_closed = True
        await self._transport.aclose()

    @asynccontextmanager
    async def _stream(
        self, prompt: Prompt, on_sent: Callable[[], None] | None
    ) -> AsyncGenerator[AsyncIterator[Sequence[Item]], None]:
        if self._is_closed:
            raise ProviderError(Fault.PROVIDER_UNREACHABLE, "the provider is closed", sent=False)
        exchange = _Exchange(self._settings, self._dialect, self._transport, self._oddities, on_sent, prompt)
        try:
            await exchange.open(lambda: self._request(prompt, exchange.trace))
            yield exchange
        finally:
            await exchange.close()  # I7

    def _request(self, prompt: Prompt, trace: Callable[[str, object], Awaitable[None]]) -> httpx.Request:
        headers = dict(self._headers)
        if prompt.traceparent is not None and _TRACEPARENT.fullmatch(prompt.traceparent):
            headers["traceparent"] = prompt.traceparent  # a client's value: a header may contain nothing else
        return httpx.Request(
            "POST",
            self._url,
            headers=headers,
            content=self._dialect.body(prompt),
            extensions={"timeout": self._times, "trace": trace},
        )


class _Exchange:
    """One request and its answer; iterating yields batches of items."""

    __slots__ = (
        "_body",
        "_bytes_left",
        "_decoder",
        "_dialect",
        "_events_left",
        "_failure",
        "_is_flooded",
        "_is_sent",
        "_oddities",
        "_on_sent",
        "_reader",
        "_reading",
        "_response",
        "_silence",
        "_transport",
    )

    def __init__(
        self,
        settings: ProviderSettings,
        dialect: Dialect,
        transport: httpx.AsyncBaseTransport,
        oddities: Oddities,
        on_sent: Callable[[], None] | None,
        prompt: Prompt,
    ) -> None:
        self._transport = transport
        self._dialect = dialect
        self._oddities = oddities
        self._on_sent = on_sent
        self._silence = SilenceWatch(settings.first_token_timeout_seconds, settings.idle_timeout_seconds)
        hush = Discretion((settings.api_key.reveal(),), prompt)
        made = TaggedReading if settings.think_tags else Reading
        self._reading = made(settings.max_text_bytes, continues=prompt.continues(), hush=hush)
        self._reader: Reader | None = None
        self._decoder = SseDecoder(settings.max_line_bytes, settings.max_event_bytes)
        self._bytes_left = settings.max_answer_bytes
        self._events_left = MAX_EVENTS
        self._response: httpx.Response | None = None
        self._body: AsyncIterator[bytes] | None = None
        self._is_sent = False
        self._failure: ProviderError | None = None
        self._is_flooded = False

    async def trace(self, event: str, _: object) -> None:
        """Learn from the transport when the request has been written (httpcore's `trace` extension)."""
        if event == _SENT:
            self._note_sent()

    async def open(self, make_request: Callable[[], httpx.Request]) -> None:
        """Send the request and wait until the stream begins.

        A request that is refused because of one of its fields is sent again in another form, once for each field.

        Args:
            make_request: Makes the request in the form that the server is known to take.

        Raises:
            ProviderError: The stream does not begin.
        """
        refused: set[str] = set()
        while True:
            request = make_request()
            self._response = response = await self._send(request)
            self._body = _chunks_of(response)
            if response.status_code == HTTPStatus.OK:
                break
            body = await self._beginning()
            field = None
            if response.status_code in _REFUSALS_OF_FIELDS:
                field = self._dialect.refused_field(request.content, body)
            if field is None or field in refused:
                raise error_of_response(
                    response.status_code,
                    response.headers,
                    body,
                    datetime.now(UTC),
                    self._dialect.error_names,
                    self._reading.hush,
                )
            refused.add(field)
            self._oddities.note(Oddity.REFUSED_FIELD, field)
            await self._close_response()
        # Only now: what is expected of the answer depends on the form that the server took.
        self._reader = self._dialect.reader(self._reading, self._oddities)
        if is_encoded(response.headers.get("content-encoding", "")):
            raise _protocol(
                "the model provider's answer is encoded, which was not asked for", may_repeat=False
            )
        content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "text/event-stream":
            raise error_of_other_content(
                await self._beginning(), self._dialect.error_names, self._reading.hush
            )

    async def close(self) -> None:
        """Close the connection, unless the response was read to its end."""
        self._silence.stop()
        await self._close_response()

    async def _close_response(self) -> None:
        if self._response is None:
            return
        # A socket that fails while it is being closed is closed.
        with suppress(httpx.TransportError):
            await self._response.aclose()
        if isinstance(self._body, AsyncGenerator):
            await self._body.aclose()

    def __aiter__(self) -> AsyncIterator[Sequence[Item]]:
        return self

    async def __anext__(self) -> Sequence[Item]:
        while True:
            if self._failure is not None:
                raise self._failure
            if self._reading.is_finished:
                await self._drain()
                raise StopAsyncIteration
            if self._reading.is_marked:
                await self._read_end()
            else:
                await self._read_chunk()
            reading = self._reading
            items = reading.take()
            if items or reading.is_stirring:
                self._silence.hear(is_text=reading.is_spoken or reading.is_stirring)
                reading.is_stirring = False
            if items:
                return items

    async def _send(self, request: httpx.Request) -> httpx.Response:
        self._silence.wait()
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError as exc:
            raise error_of_transport(exc, sent=self._is_sent, answered=False) from exc
        except asyncio.CancelledError:
            if self._silence.interrupted():
                raise _too_silent() from None
            raise
        finally:
            self._silence.go_on()
        self._note_sent()  # for a transport that does not report it
        return response

    async def _read_chunk(self) -> None:
        assert self._body is not None
        self._silence.wait()
        try:
            chunk = await self._body.__anext__()
        except StopAsyncIteration:
            self._end(_cut_short(), is_clean=True)
            return
        except httpx.TransportError as exc:
            failure = error_of_transport(exc, sent=True, answered=True)
            failure.__cause__ = exc
            self._end(failure, is_clean=False)
            return
        except asyncio.CancelledError:
            if self._silence.interrupted():
                raise _too_silent() from None
            raise
        finally:
            self._silence.go_on()
        self._bytes_left -= len(chunk)
        if self._bytes_left < 0:
            self._flood(_protocol("the model provider's answer is too large"))
        else:
            self._read(self._decoder.feed(chunk))

    async def _read_end(self) -> None:
        """Read what follows the terminal mark, to the end of the response, for as long as `END_SECONDS`."""
        self._silence.stop()  # its end keeps nobody waiting for long
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                while self._failure is None and not self._reading.is_finished:
                    await self._read_chunk()
        if self._is_flooded:
            self._failure = None  # what exceeds a limit after the mark is not the answer's
        if self._failure is None and not self._reading.is_finished:
            self._finish(_cut_short(), is_clean=True)

    def _read(self, events: Iterator[SseEvent]) -> None:
        """Read events up to the end of the answer or a failure; what came before a failure stands."""
        assert self._reader is not None
        try:
            for name, data in events:
                self._events_left -= 1
                if self._events_left < 0:
                    self._flood(_protocol("the model provider's answer has too many events"))
                    return
                self._reader.feed(name, data)
                if self._reading.is_finished:
                    return
        except SseLimitError as exc:
            self._flood(_protocol(f"in the model provider's stream {exc}"))
        except ProviderError as exc:
            self._failure = exc

    def _flood(self, failure: ProviderError) -> None:
        """Fail because a limit is exceeded."""
        self._failure = failure
        self._is_flooded = True

    def _end(self, failure: ProviderError, *, is_clean: bool) -> None:
        """Fail, unless nothing is missing; the event that the end cut off may be the mark, or name a better reason."""
        self._read(self._decoder.finish())
        if self._failure is None:
            self._finish(failure, is_clean=is_clean)

    def _finish(self, failure: ProviderError, *, is_clean: bool) -> None:
        """Finish the answer if nothing of it is missing, otherwise fail."""
        assert self._reader is not None
        try:
            self._reader.end(is_clean=is_clean)
            self._failure = None if self._reading.is_finished else failure
        except ProviderError as exc:
            self._failure = exc

    async def _beginning(self) -> bytes:
        """Return the beginning of a body that is not an answer."""
        assert self._body is not None
        body = bytearray()
        with suppress(TimeoutError, httpx.TransportError):
            async with asyncio.timeout(ERROR_BODY_SECONDS):
                async for chunk in self._body:
                    body += chunk
                    if len(body) >= MAX_ERROR_BYTES:
                        break
        return bytes(body[:MAX_ERROR_BYTES])

    async def _drain(self) -> None:
        assert self._body is not None
        with suppress(TimeoutError, httpx.TransportError):
            async with asyncio.timeout(DRAIN_SECONDS):
                async for _ in self._body:
                    pass

    def _note_sent(self) -> None:
        if not self._is_sent:
            self._is_sent = True
            self._silence.start()
            if self._on_sent is not None:
                self._on_sent()


def _chunks_of(response: httpx.Response) -> AsyncIterator[bytes]:
    """Return the body as the network delivers it: httpx's own iterators decompress, and split it again."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return response.stream.__aiter__()


def _protocol(detail: str, *, may_repeat: bool | None = None) -> ProviderError:
    return ProviderError(Fault.PROVIDER_PROTOCOL, detail, may_repeat=may_repeat)


def _cut_short() -> ProviderError:
    detail = "the model provider's answer ended before its end was marked"
    return ProviderError(Fault.PROVIDER_PROTOCOL, detail, broke_off=True)


def _too_silent() -> ProviderError:
    return ProviderError(Fault.PROVIDER_TIMEOUT, "the model provider sent no text within the time limit")
