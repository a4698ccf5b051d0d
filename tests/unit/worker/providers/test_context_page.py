"""What servers tell of their context on pages that cost nothing."""

import asyncio
import logging
from dataclasses import replace

import httpx
import pytest

from shared.configuration.provider_settings import ProviderName
from tests.unit.worker.providers.test_openai_compatible import settings
from worker.providers.choice import Choice
from worker.providers.context_page import _MOST_BYTES, learn_contexts, told_context

URL = "http://models.example/v1"
SETTINGS = replace(settings(), name=ProviderName.OPENAI_COMPATIBLE, base_url=URL, model="m")


class Pages(httpx.AsyncBaseTransport):
    """A server with these pages; anything else is 404."""

    def __init__(self, pages, failures=0):
        self.pages, self.failures = pages, failures
        self.asked = []
        self.closed = 0

    async def handle_async_request(self, request):
        self.asked.append((request.method, request.url.path, request.headers.get("authorization")))
        if self.failures:
            self.failures -= 1
            raise httpx.ConnectError("down")
        page = self.pages.get(request.url.path)
        if page is None:
            return httpx.Response(404)
        return (
            httpx.Response(200, content=page) if isinstance(page, bytes) else httpx.Response(200, json=page)
        )

    async def aclose(self):
        self.closed += 1


def told(pages, **changes):
    return asyncio.run(told_context(replace(SETTINGS, **changes), pages))


def listing(*models):
    return {"/v1/models": {"object": "list", "data": list(models)}}


@pytest.mark.parametrize(
    ("pages", "tokens"),
    [
        (listing({"id": "m", "max_model_len": 4096}), 4096),
        (listing({"id": "other", "max_model_len": 1000}, {"id": "m", "max_model_len": 4096}), 4096),
        (listing({"id": "/models/m.gguf", "max_model_len": 4096}), 4096),  # one model, by whatever name
        (listing({"id": "other", "max_model_len": 1000}, {"id": "another", "max_model_len": 2000}), None),
        (listing({"id": "m", "context_length": 131_072}), 131_072),
        (listing({"id": "m", "context_window": 32_768}), 32_768),
        # What it was trained with is not what it runs with.
        (listing({"id": "m", "meta": {"n_ctx_train": 131_072}}), None),
        ({"/props": {"default_generation_settings": {"n_ctx": 8192}, "n_ctx": 32_768}}, 8192),  # of one slot
        ({"/props": {"n_ctx": 8192}}, 8192),
        ({**listing({"id": "m"}), "/props": {"n_ctx": 8192}}, 8192),
        ({}, None),
    ],
)
def test_the_length_is_read_where_it_is_told(pages, tokens):
    assert told(Pages(pages)) == tokens


@pytest.mark.parametrize("wrong", ["4096", 4096.5, True, None, 0, -1, 10**12, [4096], {"n": 4096}, 255])
def test_a_figure_that_cannot_be_a_length_is_none(wrong):
    pages = {**listing({"id": "m", "max_model_len": wrong}), "/props": {"n_ctx": wrong}}
    assert told(Pages(pages)) is None


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"data":7}',
        b'{"data":[7,null]}',
        b"\xff",
        b"[" * 100_000,
        b" " * (_MOST_BYTES + 1),
    ],
)
def test_a_page_of_another_kind_tells_nothing(page):
    assert told(Pages({"/v1/models": page, "/props": page})) is None


def test_the_key_goes_to_the_provider_alone_and_the_connection_is_closed():
    pages = Pages({})
    assert told(pages) is None
    assert pages.asked == [
        ("GET", "/v1/models", f"Bearer {SETTINGS.api_key.reveal()}"),
        ("GET", "/props", pages.asked[0][2]),
    ]
    assert pages.closed == 1


def test_an_address_with_a_path_of_its_own_keeps_it():
    pages = Pages({"/gateway/props": {"n_ctx": 8192}})
    assert told(pages, base_url="http://models.example/gateway/v1") == 8192


def learn(pages, name=ProviderName.OPENAI_COMPATIBLE):
    choice = Choice(replace(SETTINGS, name=name), None, None)

    async def within_limit():
        async with asyncio.timeout(60):
            await learn_contexts([choice], lambda _: pages)

    asyncio.run(within_limit())
    return choice.context.told_tokens


def test_a_server_that_is_down_is_asked_again_until_it_answers(monkeypatch):
    monkeypatch.setattr("worker.providers.context_page._AGAIN_SECONDS", 0.0)
    pages = Pages(listing({"id": "m", "max_model_len": 4096}), failures=3)
    assert learn(pages) == 4096
    assert len(pages.asked) == 4


@pytest.mark.parametrize("name", [ProviderName.ANTHROPIC, ProviderName.SCRIPTED])
def test_a_provider_whose_models_are_known_is_not_asked(name):
    pages = Pages({})
    assert learn(pages, name) is None
    assert pages.asked == []


def test_nothing_learned_is_a_warning_with_its_remedy(caplog):
    with caplog.at_level(logging.WARNING, logger="turnkeeper.provider"):
        assert learn(Pages({})) is None
    (record,) = caplog.records
    assert "CONTEXT_TOKENS is not set" in record.message
    assert "set it" in record.message
