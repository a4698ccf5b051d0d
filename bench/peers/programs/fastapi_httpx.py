"""A streaming proxy as one writes it in an afternoon: FastAPI, one shared httpx client, bytes forwarded as they are."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

LIMITS = httpx.Limits(max_connections=4000, max_keepalive_connections=500)
TIMEOUT = httpx.Timeout(60.0, connect=10.0)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    url = os.environ["PROVIDER_URL"]
    async with httpx.AsyncClient(base_url=url, limits=LIMITS, timeout=TIMEOUT, trust_env=False) as client:
        yield {"client": client}


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def complete(request: Request) -> StreamingResponse:
    client: httpx.AsyncClient = request.state.client
    asked = client.build_request(
        "POST",
        "/chat/completions",
        content=await request.body(),
        headers={"Content-Type": "application/json", "Authorization": "Bearer none"},
    )
    answer = await client.send(asked, stream=True)

    async def passed_on() -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.aiter_raw():
                yield chunk
        finally:
            await answer.aclose()

    return StreamingResponse(passed_on(), answer.status_code, media_type="text/event-stream")
