"""What a worker does when the provider's host is not what it should be (rows V13 and V14).

The rules one by one, rebinding included, are in `tests/contract/test_egress.py`; here it is the whole service.
"""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from shared.configuration.addresses import refusal_of_address, refusal_of_host
from tests.certificates import make_certificates
from tests.e2e.conftest import running_service, temporary_folder
from tests.e2e.protocol_client import LIMIT_SECONDS

TRIES = 3
"""The call and what `worker/turn/retry.py` adds for a provider that cannot be reached."""
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    b'data: {"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
)


class Provider:
    """Answers over TLS with the certificate that it has at the moment, and counts."""

    def __init__(self, folder: Path, host: str) -> None:
        self.certificate = "good"
        self.connections = self.requests = 0
        self._folder = folder
        self._listener = socket.create_server((host, 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(LIMIT_SECONDS)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                connection.settimeout(LIMIT_SECONDS)
                with suppress(OSError):  # also what TLS says of a client that hangs up
                    self._answer(connection)
                connection.close()

    def _answer(self, plain: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / f"{self.certificate}.pem", self._folder / "leaf.key")
        with context.wrap_socket(plain, server_side=True) as connection:
            asked = b""
            while b"\r\n\r\n" not in asked:
                chunk = connection.recv(65536)
                if not chunk:
                    return
                asked += chunk
            self.requests += 1
            connection.sendall(ANSWER)


@contextmanager
def providing(host: str) -> Iterator[tuple[Provider, Path]]:
    with temporary_folder() as folder:
        provider = Provider(make_certificates(folder), host)
        try:
            yield provider, folder
        finally:
            provider.close()


def compatible(url: str) -> dict[str, str]:
    return {
        "MCP_LLM_PROVIDER": "openai-compatible",
        "MCP_LLM_BASE_URL": url,
        "MCP_LLM_MODEL": "m",
        "MCP_LLM_API_KEY": "sk-canary-0123456789",
        "MCP_LLM_PRICE_INPUT_PER_M_USD": "3",
        "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "15",
        # Connections of turns are counted: without it, each worker asks for the length as it starts.
        "CONTEXT_TOKENS": "6000",
    }


def inward_name() -> tuple[str, str]:
    """Return a name that says nothing and leads to an address of this machine: mostly its own name."""
    for name in (socket.gethostname(), "ip6-localhost"):
        with suppress(OSError):
            address = str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
            if ":" not in address and refusal_of_address(address) and refusal_of_host(name) is None:
                return name, address
    pytest.skip("no name of this machine leads to an internal address")


def test_v13_a_name_that_leads_inside_is_not_connected_to_in_production() -> None:
    name, address = inward_name()
    with temporary_folder() as folder, providing(address) as (provider, _):
        environ = {
            **compatible(f"https://{name}:{provider.port}/v1"),
            "ENVIRONMENT": "production",
            "ALLOWED_ORIGINS": "https://chat.example.com",
        }
        with running_service(folder, **environ) as service:
            turn = service.api().ask("hello")
        log = (folder / "output").read_text()
    assert (turn["status"], turn["error"]["code"]) == ("failed", "provider_unreachable")
    assert float(turn["cost_usd"]) == 0
    assert provider.connections == 0
    assert address not in str(turn)
    assert log.count("leads to an internal address and is not in MCP_LLM_ALLOWED_HOSTS") == TRIES
    assert "sk-canary" not in log


def test_v14_a_wrong_or_expired_certificate_fails_the_turn_and_is_sent_nothing() -> None:
    with temporary_folder() as folder, providing("127.0.0.1") as (provider, certificates):
        environ = {
            **compatible(f"https://localhost:{provider.port}/v1"),
            "SSL_CERT_FILE": str(certificates / "ca.pem"),
        }
        with running_service(folder, **environ) as service:
            api = service.api()
            for certificate in ("other", "expired", "unknown"):
                provider.certificate = certificate
                turn = api.ask("hello")
                assert (turn["status"], turn["error"]["code"]) == ("failed", "provider_unreachable")
                assert float(turn["cost_usd"]) == 0
            assert provider.connections == 3 * TRIES
            assert provider.requests == 0
            provider.certificate = "good"
            assert api.ask("hello")["status"] == "completed"
            assert provider.requests == 1
