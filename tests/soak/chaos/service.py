"""The service under chaos: a separate `turnkeeper up`, and a scripted provider whose record is one of the histories.

The provider is not part of the service and is never hurt, so its record of what it was asked and sent stays true.
"""

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from tests.e2e.conftest import await_file, spawn, temporary_folder
from tests.marks import banner_of, leaks_in_files, marked, secrets_of

END_SECONDS: Final = 60.0
"""How long draining and the end of every process may take."""
PROVIDER_KEY: Final = marked("provider")
PRICES: Final = {"MCP_LLM_PRICE_INPUT_PER_M_USD": "3", "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "15"}


@dataclass(frozen=True, slots=True)
class Size:
    """How many processes of each kind."""

    web: int = 2
    relay: int = 2
    worker: int = 3


@dataclass(frozen=True, slots=True)
class Service:
    """A running service; its processes change, its address does not."""

    folder: Path
    up: psutil.Process
    url: str
    key: str = field(repr=False)
    owner_url: str = field(repr=False)
    redis_url: str
    provider_url: str

    def pids(self, kind: str) -> list[int]:
        """Return the present processes of a kind."""
        return list(json.loads((self.folder / "state.json").read_text())["pids"].get(kind, []))

    def process(self, kind: str, which: int) -> psutil.Process | None:
        """Return one of a kind's processes, if this service has started it."""
        pids = self.pids(kind)
        if not pids:
            return None
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pids[which % len(pids)])
            if self.up.pid in {parent.pid for parent in process.parents()}:
                return process
        return None

    def family(self) -> list[psutil.Process]:
        """Return every process of the service."""
        return [self.up, *self.up.children(recursive=True)]

    def log(self, name: str) -> Path:
        """Return the log file of a process."""
        return self.folder / "data" / "logs" / f"{name}.log"

    def provider_records(self) -> Iterator[dict[str, Any]]:
        """Yield what the provider was asked and what it sent, oldest first."""
        after = 0
        with httpx.Client(base_url=self.provider_url, timeout=60, trust_env=False) as client:
            while True:
                page = client.get("/_log", params={"after": after}).json()
                yield from page["data"]
                if page["last_id"] == after:
                    return
                after = page["last_id"]

    def is_ready(self) -> bool:
        """Return whether the service reports itself ready."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def running(size: Size, settings: Mapping[str, str], folder: Path | None = None) -> Iterator[Service]:
    """Run a service and its provider; at the end none of its processes may be left.

    Args:
        size: How many processes.
        settings: Environment variables besides those of the provider.
        folder: Where data and logs are kept; a temporary folder if None.
    """
    with ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(temporary_folder())
        beside = folder / "provider"
        beside.mkdir()
        provider = spawn(beside, ["provider", "--port-file", str(beside / "port")], {})
        stack.callback(end, provider)
        provider_url = f"http://127.0.0.1:{await_file(beside / 'port', provider).strip()}"
        kinds = [
            word for kind in ("web", "relay", "worker") for word in (f"--{kind}", str(getattr(size, kind)))
        ]
        where = ["--data", str(folder / "data"), "--state", str(folder / "state.json"), "--port", "0"]
        environ = {
            "MCP_LLM_PROVIDER": "openai-compatible",
            "MCP_LLM_BASE_URL": f"{provider_url}/v1",
            "MCP_LLM_MODEL": "scripted",
            "MCP_LLM_API_KEY": PROVIDER_KEY,
            # For a run whose settings name the other dialect.
            "ANTHROPIC_BASE_URL": provider_url,
            "ANTHROPIC_API_KEY": PROVIDER_KEY,
            # A third of the calls is made to fail, and every end is compared with its own turn's script.
            "PROVIDER_BREAKER_SECONDS": "0",
            **PRICES,
            **settings,
        }
        stack.callback(expect_nothing_told, folder, environ)
        up = spawn(folder, ["up", *where, *kinds], environ)
        stack.callback(end, up)
        written = await_file(folder / "state.json", up)
        (folder / "state.kept").write_text(written)  # the service's own file is deleted with it
        state = json.loads(written)
        yield Service(
            folder,
            psutil.Process(up.pid),
            state["url"],
            state["service_key"],
            state["database_owner_url"],
            state["redis_url"],
            provider_url,
        )


def expect_nothing_told(folder: Path, environ: Mapping[str, str]) -> None:
    """Search the output of the processes for secrets and content (I10)."""
    kept = folder / "state.kept"
    state = kept.read_text() if kept.exists() else ""
    files = [
        *(folder / "data" / "logs").glob("*"),
        *(folder / "data").glob("*/server.log"),
        folder / "output",
    ]
    told = leaks_in_files(files, secrets_of(environ, state), shown=banner_of(state))
    assert not told, told


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children; having to kill one is an error."""
    if process.poll() is not None:
        return
    root = psutil.Process(process.pid)
    family = [root, *root.children(recursive=True)]
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.resume()  # an interrupted run leaves some stopped
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    left = psutil.wait_procs(family, timeout=END_SECONDS / 6)[1]
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    assert not left, f"left behind: {left}"
