"""The service that both clients' tests speak to, started once for the two: the one of the end-to-end tests."""

import pytest

# Before they are imported, as tests/conftest.py does, whichever of the two comes first.
pytest.register_assert_rewrite("tests.e2e.protocol_client", "tests.faults.proxy")

from tests.e2e.conftest import api, openai_compatible, scripted, stack  # noqa: E402 -- once it is registered

__all__ = ["api", "openai_compatible", "scripted", "stack"]
