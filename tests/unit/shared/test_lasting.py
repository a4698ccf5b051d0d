"""What ends with its process: in a process of its own, because it really ends."""

import subprocess
import sys

import pytest

from shared.lasting import EXIT_CODE

THREAD = """
import threading
from shared.lasting import lasting_thread
def run():
    {body}
thread = lasting_thread("leases", run)
thread.start()
thread.join()
print("it goes on")
"""
TASK = """
import asyncio
from shared.lasting import lasting_task
async def work():
    {body}
async def main():
    task = lasting_task("watch", asyncio.create_task(work()))
    await asyncio.sleep(0)
    {then}
    await asyncio.wait({{task}})
    await asyncio.sleep(0)
asyncio.run(main())
print("it goes on")
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("body", ["raise ValueError('a fault')", "raise SystemExit(0)", "1 / 0"])
def test_a_thread_that_fails_takes_its_process_along(body: str):
    ended = run(THREAD.format(body=body))
    assert (ended.returncode, ended.stdout) == (EXIT_CODE, "")
    assert "leases has ended" in ended.stderr


def test_a_thread_that_was_told_to_end_does_not():
    ended = run(THREAD.format(body="return"))
    assert (ended.returncode, ended.stdout) == (0, "it goes on\n")


def test_a_task_that_fails_takes_its_process_along():
    ended = run(TASK.format(body="raise ValueError", then="pass"))
    assert (ended.returncode, ended.stdout) == (EXIT_CODE, "")


@pytest.mark.parametrize("then", ["task.cancel()", "pass"])
def test_a_task_that_ends_well_or_is_cancelled_does_not(then: str):
    body = "await asyncio.sleep(60)" if then != "pass" else "return"
    ended = run(TASK.format(body=body, then=then))
    assert (ended.returncode, ended.stdout) == (0, "it goes on\n")
