"""The examples of the client's page run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Service
from tests.e2e.protocol_client import LIMIT_SECONDS

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
ENDINGS = [
    r"\d+ tokens, 0\.\d+ USD\n.",
    r"\A\Z",
    r"completed 0\.\d+\n\Z",
    r"ended: stopped\n\d user \d+\n\d assistant \d+\n",
]


@pytest.mark.parametrize(("example", "ending"), [*zip(EXAMPLES, ENDINGS, strict=True)])
def test_an_example_runs_and_says_what_it_is_about(stack: Service, example: str, ending: str):
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        env={
            "PATH": os.environ["PATH"],
            "TURNKEEPER_URL": stack.url,
            "TURNKEEPER_KEY": stack.key("user"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert re.search(ending, finished.stdout), finished.stdout
