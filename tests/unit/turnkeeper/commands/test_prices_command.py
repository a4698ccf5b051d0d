"""`turnkeeper prices` says what is billed, without a key or a server."""

import json
from io import StringIO

import pytest
from rich.console import Console

from shared.errors import SettingsError
from turnkeeper.commands.prices import prices

COMPATIBLE = {"MCP_LLM_PROVIDER": "openai-compatible", "MCP_LLM_MODEL": "[red]m"}


def said(environ, *, as_json=False):
    out = StringIO()
    assert prices(environ, Console(file=out, width=80), as_json=as_json) == 0
    return out.getvalue()


def told(environ):
    return json.loads(said(environ, as_json=True))


def test_the_table_has_every_price_its_source_and_its_day():
    text = said({})
    (line,) = [line for line in text.splitlines() if line.strip().startswith("claude-opus-5-5")]
    assert line.split() == ["claude-opus-5-5", "2026-11-01", "4", "20", "0.2", "5", "8"]
    assert "prompts over 100,000" in text
    assert "Source: platform.claude.com, Pricing, 2026-11-01" in text


def test_the_json_has_the_price_in_force():
    found = told({})
    assert (found["provider"], found["model"]) == ("anthropic", "claude-sonnet-5-5")
    assert found["price"]["output_per_m_usd"] == "10"
    assert found["cost_tracking"] is True
    assert found["warnings"] == []
    assert found["as_of"] == "2026-11-01"


def test_it_says_when_nothing_costs_anything():
    assert told(COMPATIBLE)["cost_tracking"] is False
    assert "cost tracking and budgets do nothing" in said(COMPATIBLE).replace("\n", " ")


def test_a_declared_price_is_shown_first_and_names_are_no_markup():
    environ = {**COMPATIBLE, "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "0.4"}
    assert told(environ)["prices"][0]["output_per_m_usd"] == "0.4"
    assert "[red]m" in said(environ)


def test_a_model_without_a_price_is_marked():
    environ = {"ANTHROPIC_MODEL": "claude-next"}
    assert told(environ)["prices"][0]["assumed"] is True
    assert "claude-next (assumed)" in said(environ)


def test_a_file_that_is_wrong_is_refused():
    with pytest.raises(SettingsError, match="cannot be read"):
        prices({"PRICES_FILE": "/nowhere/prices.toml"}, Console(file=StringIO()), as_json=False)
