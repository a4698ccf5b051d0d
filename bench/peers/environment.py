"""The candidates' own environments: exact versions, installed from PyPI, separate from ours."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.processes import ROOT

FOLDER: Final = ROOT / "build" / "peers"
INSTALL_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment and its packages.

    Attributes:
        name: The name of its requirements file and its folder.
        shown: The packages whose versions appear in a result.
    """

    name: str
    shown: tuple[str, ...]

    @property
    def python(self) -> Path:
        """Return its interpreter."""
        return FOLDER / self.name / ".venv" / "bin" / "python"

    @property
    def is_ready(self) -> bool:
        """Whether it is installed, with the current requirements."""
        return self._installed.exists() and self._installed.read_text() == self._requirements.read_text()

    def ensure(self) -> None:
        """Create it, unless it is ready.

        Raises:
            subprocess.CalledProcessError: Something could not be installed; pip has printed what.
        """
        if self.is_ready:
            return
        folder = FOLDER / self.name
        folder.mkdir(parents=True, exist_ok=True)
        self._installed.unlink(missing_ok=True)
        print(f"installing what is compared with into {folder.relative_to(ROOT)}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", "--clear", str(folder / ".venv")])
        _run([str(self.python), "-m", "pip", "install", "--quiet", "-r", str(self._requirements)])
        self._installed.write_text(self._requirements.read_text())

    def versions(self) -> dict[str, str]:
        """Return the required versions of the shown packages."""
        lines = self._requirements.read_text().splitlines()
        required = dict(line.split("==") for line in lines if "==" in line)
        return {name: required[name] for name in self.shown}

    @property
    def _requirements(self) -> Path:
        return Path(__file__).parent / f"requirements-{self.name}.txt"

    @property
    def _installed(self) -> Path:
        return FOLDER / self.name / "installed.txt"


PROXIES: Final = Environment(
    "proxies", ("fastapi", "starlette", "uvicorn", "httpx", "openai", "litellm", "uvloop")
)
LANGGRAPH: Final = Environment(
    "langgraph", ("langgraph", "langgraph-api", "langgraph-runtime-inmem", "langchain-openai", "openai")
)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, timeout=INSTALL_SECONDS)
