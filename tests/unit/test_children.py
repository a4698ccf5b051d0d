"""What searches the output of every process that a test starts does find what it is there to find."""

import json
import subprocess
import sys

import pytest

from tests.children import HEARD, leaks_in_sections, taken
from tests.marks import MARK, marked

CONTENT = "[[tokens=3]] Hello"


def say(said: str, stream: str = "stdout") -> list[str]:
    return [
        sys.executable,
        "-c",
        "import sys; print(sys.argv[2], file=getattr(sys, sys.argv[1]))",
        stream,
        said,
    ]


def heard() -> list[str]:
    """Return what was heard, which then fails no test."""
    found = taken(HEARD)
    assert MARK not in str([leak.partition(": ")[2] for leak in found])
    return found


@pytest.mark.parametrize("said", [CONTENT, "a secret"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_file_and_what_nobody_reads_are_searched(tmp_path, said, stream):
    said = marked("key") if said == "a secret" else said
    with (tmp_path / "output").open("wb") as output:
        for target in (subprocess.DEVNULL, output):
            with subprocess.Popen(say(said, stream), **{stream: target}) as child:
                child.wait(60)
            assert len(heard()) == 1
    with (tmp_path / "output").open("wb") as output:
        subprocess.run(say("harmless"), stdout=output, stderr=subprocess.STDOUT, timeout=60, check=True)
    assert heard() == []


def test_what_a_command_prints_for_its_caller_may_be_content_and_no_secret():
    def run(*said: str, **environ: str) -> list[str]:
        subprocess.run(say(*said), env=environ, capture_output=True, timeout=60, check=True)
        return heard()

    assert run(CONTENT) == []
    assert len(run(CONTENT, "stderr")) == 1
    assert len(run("the-providers-own-key", MCP_LLM_API_KEY="the-providers-own-key")) == 1


def test_the_logs_of_a_service_are_searched_with_its_own_secrets(tmp_path):
    keys = {"service_key": "tsk_12345678_made-by-another-process"}
    for name, text in (
        ("data/keys.json", json.dumps(keys)),
        ("data/redis/password", "redis-password"),
        ("data/postgres/app.password", "postgres-password"),
        ("data/logs/web-1.log", "logged in with tsk_12345678_made-by-another-process\n"),
        ("data/redis/server.log", "redis-password\n"),
        ("data/traces/spans", "postgres-password\n"),
        ("data/postgres/data/pg_wal", "postgres-password\n"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    banner = "  service  tsk_12345678_made-by-another-process"
    with (tmp_path / "output").open("wb") as output:
        command = [*say(f"shown once:\n{banner}"), "--data", tmp_path / "data"]
        subprocess.run(command, stdout=output, timeout=60, check=True)
    found = [leak.split(": ", 2)[1] for leak in heard()]
    assert sorted(found) == ["server.log", "spans", "web-1.log"]


def test_what_a_test_prints_is_searched():
    found = leaks_in_sections([("Captured stdout call", CONTENT), ("Captured log call", CONTENT)])
    assert len(found) == 1
