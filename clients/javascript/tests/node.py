"""Runs Node for the client's tests, and says where it is missing."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]
LIMIT_SECONDS = 100.0


def tool(name: str) -> str:
    """Where a tool is. Only a machine of one's own may go without it."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no {name} on PATH: the JavaScript client's tests are required here")
        pytest.skip(f"no {name} on PATH (apt-get install nodejs npm node-typescript)")
    return found


def start(arguments: Sequence[str | Path], **environ: str) -> subprocess.Popen[str]:
    """Start Node with these arguments."""
    return subprocess.Popen(
        [tool("node"), *map(str, arguments)],
        cwd=PACKAGE,
        env={"PATH": os.environ["PATH"], **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    """Return what a process printed, once it has ended well."""
    with process:
        try:
            said, complained = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, said + complained
    return said
