"""A client of the service, and a proxy before it that cuts."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from turnkeeper_client import Client, RetryPolicy

from tests.e2e.conftest import Service
from tests.faults.proxy import Proxy

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
