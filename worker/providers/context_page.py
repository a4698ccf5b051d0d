"""Asks a server how long its model's context is, where it tells so: beside the worker's work, never for a turn.

vLLM tells it at `/v1/models` (`max_model_len`), as some gateways do under other names, and llama.cpp at `/props`
(`default_generation_settings.n_ctx`). Nothing is generated, so nothing is billed.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import httpx
import msgspec

from shared.configuration.provider_settings import ProviderSettings
from worker.providers.choice import Choice
from worker.providers.registration import DIALECTS

_log = logging.getLogger("turnkeeper.provider")

_ANSWER_SECONDS: Final = 5.0
"""For both pages together."""
_AGAIN_SECONDS: Final = 60.0
"""A server that loads its model for minutes is asked again until it has answered once."""
_MOST_BYTES: Final = 2 * 2**20
"""Of a page: a gateway lists hundreds of models."""
_NAMES: Final = ("max_model_len", "context_length", "context_window")
_PLAUSIBLE: Final = range(256, 10**9)

TransportOf: TypeAlias = Callable[[ProviderSettings], httpx.AsyncBaseTransport]


async def learn_contexts(choices: Iterable[Choice], transport_of: TransportOf) -> None:
    """Let each provider of which too little is known tell the length of its model's context.

    Args:
        choices: The configured providers.
        transport_of: Makes the transport for a provider, with its rules for addresses.
    """
    unknown = [choice for choice in choices if not DIALECTS[choice.settings.name].is_context_known]
    async with asyncio.TaskGroup() as tasks:
        for choice in unknown:
            tasks.create_task(_learn(choice, transport_of))


async def _learn(choice: Choice, transport_of: TransportOf) -> None:
    while True:
        try:
            told = await told_context(choice.settings, transport_of(choice.settings))
        except (httpx.TransportError, TimeoutError):
            await asyncio.sleep(_AGAIN_SECONDS)
            continue
        choice.context.told_tokens = told
        if told is None:
            _log.warning(
                "CONTEXT_TOKENS is not set, and the server does not tell the length of its model's context: set it"
            )
        else:
            _log.info("the server tells the length of its model's context", extra={"context_tokens": told})
        return


async def told_context(settings: ProviderSettings, transport: httpx.AsyncBaseTransport) -> int | None:
    """Return the length that a server tells, in tokens; None if it tells none.

    Args:
        settings: The server.
        transport: Sends the requests; it is closed at the end.

    Raises:
        httpx.TransportError: The server cannot be reached.
        TimeoutError: It did not answer in time.
    """
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            listed = await _page(settings, transport, f"{settings.base_url}/models")
            told = _of_model(listed, settings.model)
            if told is None:
                told = _of_props(
                    await _page(settings, transport, f"{settings.base_url.removesuffix('/v1')}/props")
                )
            return told
    finally:
        await transport.aclose()


async def _page(settings: ProviderSettings, transport: httpx.AsyncBaseTransport, url: str) -> Any:
    """Return a page's JSON; None if there is no such page or it holds something else."""
    seconds = settings.connect_timeout_seconds
    request = httpx.Request(
        "GET",
        url,
        headers={
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "turnkeeper",
            "authorization": f"Bearer {settings.api_key.reveal()}",
        },
        extensions={
            "timeout": {
                "connect": seconds,
                "pool": seconds,
                "write": _ANSWER_SECONDS,
                "read": _ANSWER_SECONDS,
            }
        },
    )
    response = await transport.handle_async_request(request)
    try:
        if response.status_code != HTTPStatus.OK:
            return None
        assert isinstance(response.stream, httpx.AsyncByteStream)
        body = bytearray()
        async for chunk in response.stream:
            body += chunk
            if len(body) > _MOST_BYTES:
                return None
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    finally:
        await response.aclose()


def _of_model(listed: Any, model: str) -> int | None:
    data = listed.get("data") if isinstance(listed, dict) else None
    models = [each for each in data if isinstance(each, dict)] if isinstance(data, list) else []
    for each in models:
        if each.get("id") == model or len(models) == 1:
            return next((told for name in _NAMES if (told := _plausible(each.get(name))) is not None), None)
    return None


def _of_props(props: Any) -> int | None:
    if not isinstance(props, dict):
        return None
    defaults = props.get("default_generation_settings")
    of_slot = _plausible(defaults.get("n_ctx")) if isinstance(defaults, dict) else None
    return of_slot or _plausible(props.get("n_ctx"))


def _plausible(value: Any) -> int | None:
    return value if type(value) is int and value in _PLAUSIBLE else None
