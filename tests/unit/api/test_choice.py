"""Which provider the API names a turn by."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from api.choice import names_of, provider_of
from shared.configuration.settings import load_settings

SETTINGS = load_settings(
    {
        "DATABASE_URL": "postgresql://app@127.0.0.1:9/db",
        "REDIS_URL": "redis://127.0.0.1:9",
        "MCP_LLM_PROVIDER": "scripted",
        "SCRIPTED_BASE_URL": "http://127.0.0.1:9/v1",
    }
)


def test_a_turn_that_has_not_run_is_priced_and_named_by_the_first_provider():
    first, second = replace(SETTINGS.provider, model="large"), replace(SETTINGS.provider, model="small")
    settings = replace(SETTINGS, providers=(first, second))
    assert provider_of(settings, None) is first
    assert names_of(settings, SimpleNamespace(provider=None, model=None)) == ("scripted", "large")


@pytest.mark.parametrize("provider", ["scripted", "anthropic"])
def test_a_turn_that_has_run_is_named_by_its_row_whatever_is_configured_now(provider):
    turn = SimpleNamespace(provider=provider, model="of-then")
    assert names_of(SETTINGS, turn) == (provider, "of-then")
