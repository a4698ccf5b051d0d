"""An application that calls the provider itself, with httpx: no service in between, and nothing that one offers.

It reads its load as JSON from standard input and prints what it saw when, on the clock of the stamps.
"""

import asyncio
import json
import re
import resource
import sys
import time

import httpx

STAMP = re.compile(r"⟦(\d+)⟧")


async def ask(client: httpx.AsyncClient, content: str) -> dict[str, list[int] | int]:
    body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": content}]}
    posted, sent, received = time.monotonic_ns(), [], []
    async with client.stream("POST", "/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                now = time.monotonic_ns()
                for choice in json.loads(line[6:])["choices"]:
                    for stamp in STAMP.findall(choice["delta"].get("content") or ""):
                        sent.append(int(stamp))
                        received.append(now)
    return {"posted_ns": posted, "sent_ns": sent, "received_ns": received, "ended_ns": time.monotonic_ns()}


async def main() -> None:
    load = json.load(sys.stdin)
    limits = httpx.Limits(max_connections=4000, max_keepalive_connections=0)
    asked = []
    async with httpx.AsyncClient(
        base_url=load["url"],
        headers={"Authorization": "Bearer none"},
        limits=limits,
        timeout=60,
        trust_env=False,
    ) as client:
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()

        async def begin(number: int) -> None:
            await asyncio.sleep(load["ramp_seconds"] * number / load["turns"])
            asked.append(await ask(client, load["content"]))

        async def repeat() -> None:
            while time.monotonic() - began < load["seconds"]:
                asked.append(await ask(client, load["content"]))

        if load["seconds"]:
            work = [repeat() for _ in range(load["turns"])]
        else:
            work = [begin(number) for number in range(load["turns"])]
        done = await asyncio.gather(*work, return_exceptions=True)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seen = {
        "asked": asked,
        "failed": [repr(each) for each in done if each is not None],
        "seconds": time.monotonic() - began,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
    json.dump(seen, sys.stdout)


asyncio.run(main())
