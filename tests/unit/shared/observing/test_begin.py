"""What a process does before it observes itself."""

import pytest
from requests.utils import should_bypass_proxies

from shared.observing.begin import keep_local_direct


@pytest.mark.parametrize("named", ["", "corp.example", "*", "corp.example, 127.0.0.1"])
def test_a_collector_on_this_machine_is_reached_without_a_proxy(named: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, named)
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    keep_local_direct()
    keep_local_direct()
    for host in ("127.0.0.1:4318", "localhost:4318", "[::1]:4318"):
        assert should_bypass_proxies(f"http://{host}", None), host
    assert bool(should_bypass_proxies("http://collector.example:4318", None)) is (named == "*")
    assert bool(should_bypass_proxies("http://otel.corp.example", None)) is (named != "")
