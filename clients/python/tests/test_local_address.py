"""Which services are on this machine, where no proxy of the environment stands between."""

import pytest
from turnkeeper_client.address import Address


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:8080", True),
        ("http://localhost:8080", True),
        ("http://LOCALHOST", True),
        ("http://chat.localhost", True),
        ("http://0.0.0.0:8080", True),
        ("http://[::]:8080", True),
        ("http://localhost.example.com", False),
        ("https://chat.example.com", False),
        ("http://10.0.0.1", False),
    ],
)
def test_a_service_on_this_machine_is_reached_without_a_proxy_and_no_other(url: str, is_local: bool):
    address = Address(url, "key")
    assert address.is_local() is is_local
    assert (address.http_options()["mounts"] is not None) is is_local
