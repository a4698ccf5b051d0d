"""httpx without any service in between: a separate program that is client and candidate in one."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.meter import Meter
from bench.peers.environment import PROXIES
from bench.peers.load import LIMIT_SECONDS, RAMP_SECONDS, Seen, Streams, seen
from bench.peers.reader import Answer
from bench.processes import ROOT
from bench.stack import Provider, provider_running

PROGRAM = Path(__file__).parent / "programs" / "direct_httpx.py"


@dataclass(frozen=True, slots=True)
class Direct:
    """Runs the program once for each load."""

    provider: Provider
    meter: Meter

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["Direct"]:
        """Keep a provider running for as long as the context lasts."""
        with (
            tempfile.TemporaryDirectory(prefix="turnkeeper-bench-") as name,
            provider_running(Path(name)) as own,
        ):
            yield cls(own, Meter({"peer": [], "provider": [own.pid]}))

    async def stream(self, load: Streams) -> Seen:
        """Run streams that begin within a second."""
        asked = {"turns": load.count, "content": load.content, "ramp_seconds": RAMP_SECONDS, "seconds": 0}
        return await self._run(asked, load.tokens, load.ideal_seconds)

    async def repeat(self, at_once: int, tokens: int, seconds: float) -> Seen:
        """Request short answers without a pause."""
        content = f"[[tokens={tokens} stamp=1]] short"
        asked = {"turns": at_once, "content": content, "ramp_seconds": 0, "seconds": seconds}
        return await self._run(asked, tokens, seconds)

    async def _run(self, asked: dict[str, Any], tokens: int, seconds: float) -> Seen:
        process = await asyncio.create_subprocess_exec(
            str(PROXIES.python),
            str(PROGRAM),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        load = json.dumps({"url": f"{self.provider.url}/v1", **asked}).encode()
        try:
            async with asyncio.timeout(seconds + LIMIT_SECONDS):
                output, _ = await process.communicate(load)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise RuntimeError(f"{PROGRAM.name} ended with {process.returncode}")
        happened = json.loads(output)
        answers = [Answer(**each, status=200) for each in happened["asked"]]
        judged = seen(answers, happened["seconds"], tokens)
        failures = [*judged.failures, *happened["failed"]]
        return Seen(judged.answers, failures, judged.seconds, happened["cpu_seconds"])
