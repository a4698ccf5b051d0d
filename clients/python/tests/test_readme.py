"""The examples of the client's page run as they stand."""

import os
import re
import subprocess
import sys

import pytest

from tests.documents import allotted
from tests.e2e.conftest import Service
from tests.e2e.protocol_client import LIMIT_SECONDS

EXAMPLES = [block.take() for block in allotted(__file__)]
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
        timeout=2 * LIMIT_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert re.search(ending, finished.stdout), finished.stdout
