"""
The usual hand-made server, against which `jina-sm serve` is measured: FastAPI, SentenceTransformers, nothing else.

``python naive.py MODEL PORT`` answers each request as it comes, in a thread. ``python naive.py MODEL PORT timer``
collects requests until they have 8,192 tokens or the first has waited two seconds, as dynamic batching is often done.
"""

from __future__ import annotations

import asyncio
import copy
import sys
import time
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

MAX_TOKENS, MAX_WAIT_S = 8192, 2.0

torch.set_num_threads(1)
model = SentenceTransformer(sys.argv[1], device="cpu")
app = FastAPI()


class Asked(BaseModel):
    texts: list[str]


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


if sys.argv[3:] == ["timer"]:
    counter = copy.deepcopy(model.tokenizer)  # one is not for two threads
    waiting: list[tuple[list[str], int, asyncio.Future[Any]]] = []
    arrived = asyncio.Event()

    async def collect() -> None:
        while True:
            await arrived.wait()
            began = time.monotonic()
            while sum(each[1] for each in waiting) < MAX_TOKENS and time.monotonic() - began < MAX_WAIT_S:
                await asyncio.sleep(0.01)
            taken, tokens = [], 0
            while waiting and (not taken or tokens + waiting[0][1] <= MAX_TOKENS):
                taken.append(waiting.pop(0))
                tokens += taken[-1][1]
            if not waiting:
                arrived.clear()
            texts = [text for each in taken for text in each[0]]
            rows = await asyncio.to_thread(model.encode, texts, show_progress_bar=False)
            start = 0
            for asked, _, future in taken:
                future.set_result(rows[start : start + len(asked)])
                start += len(asked)

    @app.on_event("startup")
    async def begin() -> None:
        app.state.collecting = asyncio.create_task(collect())

    @app.post("/embed")
    async def embed_later(asked: Asked) -> dict[str, Any]:
        tokens = sum(len(ids) for ids in counter(asked.texts, truncation=False)["input_ids"])
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiting.append((asked.texts, tokens, future))
        arrived.set()
        return {"embeddings": (await future).tolist()}

else:

    @app.post("/embed")
    def embed(asked: Asked) -> dict[str, Any]:
        return {"embeddings": model.encode(asked.texts, show_progress_bar=False).tolist()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
