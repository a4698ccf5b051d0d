"""Every block of settings in the documentation is one that a process starts with."""

from pathlib import Path

import pytest

from shared.configuration.settings import load_settings
from shared.configuration.variables import VARIABLES
from tests.documents import ROOT, allotted
from turnkeeper.dotenv import read_dotenv

SERVERS = {"DATABASE_URL": "postgresql://app@127.0.0.1/tk", "REDIS_URL": "redis://127.0.0.1"}
PRODUCTION = {"ENVIRONMENT": "production", "ALLOWED_ORIGINS": "https://chat.example.com"}
KNOWN = {variable.name for variable in VARIABLES}
BLOCKS = allotted(__file__)
WITH_SETTINGS = [ROOT / page for page in dict.fromkeys(block.page for block in BLOCKS)]


def test_every_provider_has_a_page_with_its_settings():
    names = {page.stem for page in WITH_SETTINGS}
    assert {"use-anthropic", "use-vllm", "use-llama-cpp", "use-ollama", "use-litellm"} <= names


@pytest.mark.parametrize("page", WITH_SETTINGS, ids=lambda page: page.stem)
def test_settings_of_a_page_load_one_block_after_the_other(page: Path, tmp_path: Path):
    environ: dict[str, str] = {}
    for block in (block for block in BLOCKS if ROOT / block.page == page):
        (tmp_path / ".env").write_text(block.take().replace("…", "word"))
        added = dict(read_dotenv(tmp_path / ".env"))
        assert added
        assert added.keys() <= KNOWN
        if page.stem == "README" and "ANTHROPIC_API_KEY" in environ:
            environ = {}  # either the one or the other
        environ |= added
        strict = PRODUCTION if "MCP_LLM_ALLOWED_HOSTS" in environ else {}
        given = (
            environ
            if "MCP_LLM_PROVIDER" in environ or "ANTHROPIC_API_KEY" in environ
            else {**environ, "ANTHROPIC_API_KEY": "k"}
        )
        settings = load_settings({**SERVERS, **strict, **given})
        assert settings.provider.model == given.get(
            "MCP_LLM_MODEL", given.get("ANTHROPIC_MODEL", settings.provider.model)
        )
    if "CONTEXT_TOKENS" in environ:
        assert settings.context_tokens > settings.max_output_tokens
