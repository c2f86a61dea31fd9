"""Other people's clients, by a base URL and nothing else, in front of a SageMaker endpoint: `make serve-real`."""

from __future__ import annotations

from typing import Any

import pytest
from serving import EMBEDS, served

from jina_sm.serve.gateway import Gateway
from jina_sm.transport.target import parse

langchain: Any = pytest.importorskip("langchain_openai")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are not ours


def test_langchains_openai_embeddings_reach_a_sagemaker_endpoint(account: Any):
    account.deploy(EMBEDS, name="embeds")
    targets = [parse(f"sagemaker://us-east-1/embeds?model={EMBEDS}")]
    with served(backend=lambda: Gateway(targets)) as up:
        settings = {"model": EMBEDS, "base_url": f"{up.url}/v1", "api_key": "any", "max_retries": 0}
        client = langchain.OpenAIEmbeddings(**settings, check_embedding_ctx_length=False, dimensions=256)
        bees, steel = client.embed_documents(["Bees make honey.", "Steel rusts in the rain."])
        query = client.embed_query("Was machen Bienen?")
        close, far = (sum(a * b for a, b in zip(query, each, strict=True)) for each in (bees, steel))
        assert (len(bees), len(query)) == (256, 256)
        assert close > far + 0.1
