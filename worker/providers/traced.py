"""A provider whose calls are recorded as spans, by OpenTelemetry's conventions for generative AI.

It wraps another provider, and only if traces are on, so that without them a delta passes through nothing
more. The conventions' option to record content is not used (I10).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from time import time_ns
from typing import Final
from urllib.parse import urlsplit

from shared.configuration.provider_settings import ProviderSettings
from shared.errors import Fault, ProviderError
from shared.tracing.context import TraceContext, parse_traceparent
from shared.tracing.span import Kind, Recorder, Span, Value, known
from worker.providers.provider import (
    Capabilities,
    ContentDelta,
    Finish,
    Item,
    Prompt,
    Provider,
    ReasoningDelta,
)
from worker.providers.registration import DIALECTS

_OPERATION: Final = "chat"
_PORTS: Final = {"http": 80, "https": 443}


class TracedProvider:
    """A `Provider` around another.

    Args:
        provider: The provider that answers.
        settings: The provider's name and address.
        recorder: Receives the spans.
    """

    def __init__(self, provider: Provider, settings: ProviderSettings, recorder: Recorder) -> None:
        self._provider = provider
        self._recorder = recorder
        self.name = provider.name
        self.model = provider.model
        self.capabilities: Capabilities = provider.capabilities
        where = urlsplit(settings.base_url)
        self._attributes = known(
            {
                "gen_ai.operation.name": _OPERATION,
                "gen_ai.provider.name": DIALECTS[settings.name].trace_name,
                "gen_ai.request.model": provider.model,
                "server.address": where.hostname,
                "server.port": where.port or _PORTS.get(where.scheme),
            }
        )

    def stream(
        self, prompt: Prompt, *, on_sent: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Item]]]:
        """Send `prompt` and read the answer; see `Provider.stream`."""
        parent = parse_traceparent(prompt.traceparent or "")
        if parent is None or not parent.is_sampled:
            return self._provider.stream(prompt, on_sent=on_sent)
        return self._stream(prompt, on_sent, parent)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._provider.aclose()

    @asynccontextmanager
    async def _stream(
        self, prompt: Prompt, on_sent: Callable[[], None] | None, parent: TraceContext
    ) -> AsyncGenerator[AsyncIterator[Sequence[Item]], None]:
        context, began_ns = self._recorder.begin(parent), time_ns()
        watched: _Watched | None = None
        fault: Fault | None = None
        try:
            sent = replace(prompt, traceparent=context.traceparent())
            async with self._provider.stream(sent, on_sent=on_sent) as batches:
                watched = _Watched(batches)
                yield watched
        except ProviderError as error:
            fault = error.fault
            raise
        finally:
            self._recorder.record(
                Span(
                    f"{_OPERATION} {self.model}",
                    context,
                    parent,
                    began_ns,
                    time_ns(),
                    Kind.CLIENT,
                    {
                        **self._attributes,
                        "gen_ai.request.max_tokens": prompt.max_output_tokens,
                        **_of_answer(watched),
                    },
                    events=_events(watched),
                    error="" if fault is None else fault.value,
                )
            )


class _Watched:
    """The batches of an answer, and what the span records about them."""

    __slots__ = ("_batches", "finish", "first_text_ns")

    def __init__(self, batches: AsyncIterator[Sequence[Item]]) -> None:
        self._batches = batches
        self.first_text_ns: int | None = None
        self.finish: Finish | None = None

    def __aiter__(self) -> AsyncIterator[Sequence[Item]]:
        return self

    async def __anext__(self) -> Sequence[Item]:
        batch = await self._batches.__anext__()
        if self.first_text_ns is None and any(
            isinstance(item, ContentDelta | ReasoningDelta) for item in batch
        ):
            self.first_text_ns = time_ns()
        if isinstance(last := batch[-1], Finish):
            self.finish = last
        return batch


def _of_answer(watched: _Watched | None) -> dict[str, Value]:
    """Return what the provider reported at the answer's end; nothing if the answer was cut off."""
    finish = None if watched is None else watched.finish
    if finish is None:
        return {}
    attributes: dict[str, Value] = {"gen_ai.response.finish_reasons": [finish.reason.value]}
    if finish.usage is not None:
        attributes |= {
            "gen_ai.usage.input_tokens": finish.usage.prompt_tokens(),
            "gen_ai.usage.cache_read.input_tokens": finish.usage.cache_read_tokens,
            "gen_ai.usage.cache_creation.input_tokens": finish.usage.cache_write_tokens,
            "gen_ai.usage.output_tokens": finish.usage.output_tokens,
        }
    return attributes


def _events(watched: _Watched | None) -> Sequence[tuple[str, int]]:
    moment = None if watched is None else watched.first_text_ns
    return () if moment is None else (("first_token", moment),)
