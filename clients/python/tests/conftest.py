"""The service that the client's tests speak to: that of the repository's end-to-end tests, behind a proxy that cuts."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from turnkeeper_client import Client, RetryPolicy

# Before they are imported, as tests/conftest.py does, whichever of the two comes first.
pytest.register_assert_rewrite("tests.e2e.protocol_client", "tests.faults.proxy")

from tests.e2e.conftest import Service, api, openai_compatible, scripted, stack  # noqa: E402 -- once it is registered
from tests.faults.proxy import Proxy  # noqa: E402

__all__ = ["api", "openai_compatible", "scripted", "stack"]

EAGER = RetryPolicy(first_pause_seconds=0.05, longest_pause_seconds=0.5, reconnect_seconds=40)
"""Comes back soon, and as long as a loaded machine may need."""


@pytest.fixture
def client(stack: Service) -> Iterator[Client]:
    """A back end's client."""
    with Client(stack.url, stack.key(), policy=EAGER, trust_env=False) as opened:
        yield opened


@pytest.fixture
def proxy(stack: Service) -> Iterator[Proxy]:
    """A proxy before the service."""
    with Proxy(urlsplit(stack.url).port or 0) as opened:
        yield opened
