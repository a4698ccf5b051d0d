"""The same proxy with the openai client: each chunk is parsed into its model and encoded again."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI

LIMITS = httpx.Limits(max_connections=4000, max_keepalive_connections=500)
TIMEOUT = httpx.Timeout(60.0, connect=10.0)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, AsyncOpenAI]]:
    async with httpx.AsyncClient(limits=LIMITS, timeout=TIMEOUT, trust_env=False) as http:
        yield {
            "client": AsyncOpenAI(
                base_url=os.environ["PROVIDER_URL"], api_key="none", http_client=http, max_retries=0
            )
        }


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def complete(request: Request) -> StreamingResponse:
    client: AsyncOpenAI = request.state.client
    asked = await request.json()
    stream = await client.chat.completions.create(
        model=asked["model"], messages=asked["messages"], stream=True
    )

    async def encoded() -> AsyncIterator[str]:
        async with stream:
            async for chunk in stream:
                yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(encoded(), media_type="text/event-stream")
