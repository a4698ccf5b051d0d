"""promtool, Prometheus's own checker of rules, configurations and metrics."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

LIMIT_SECONDS = 60.0


def required_promtool() -> str:
    """Return its path. Only a developer's own machine may go without it."""
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no promtool on PATH: the checks of alerts and metrics are required here")
        pytest.skip("no promtool on PATH (apt-get install prometheus)")
    return found


def checked(promtool: str, *arguments: str | Path, given: str = "") -> str:
    """Return its output, once it has found nothing wrong."""
    done = subprocess.run(
        [promtool, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
