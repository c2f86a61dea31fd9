"""llama-index-embeddings-sagemaker-endpoint as its documentation has it, with a handler for what Jina's models take."""

import json
from typing import Any

from checks import BEES, QUESTION, STEEL, check, cosine
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.sagemaker_endpoint import SageMakerEmbedding
from llama_index.embeddings.sagemaker_endpoint.utils import BaseIOHandler


class JinaHandler(BaseIOHandler):
    content_type: str = "application/json"
    accept: str = "application/json"

    def serialize_input(self, request: list[str], model_kwargs: dict[str, Any]) -> bytes:
        return json.dumps({"data": [{"text": text} for text in request], "parameters": model_kwargs}).encode("utf-8")

    def deserialize_output(self, response: Any) -> list[list[float]]:
        return [row["embedding"] for row in json.loads(response.read().decode("utf-8"))["data"]]


model = SageMakerEmbedding(
    endpoint_name="jina-sm-embeddings-v3",
    content_handler=JinaHandler(),
    model_kwargs={"task": "text-matching"},
    embed_batch_size=32,
)
bees, steel = model.get_text_embedding_batch([BEES, STEEL])
query = model.get_query_embedding(QUESTION)
check("1024 dimensions", [len(bees), len(steel), len(query)] == [1024] * 3)
check("the same meaning is closer", cosine(query, bees) > cosine(query, steel) + 0.1)
check("one text, the same vector", cosine(model.get_text_embedding(BEES), bees) > 0.999)
texts = [f"{number} bees make honey." for number in range(100)]
many = model.get_text_embedding_batch(texts)
check("four requests, one vector a text", len(many) == 100)
check("in order", cosine(many[99], model.get_text_embedding(texts[99])) > 0.999)

nodes = [TextNode(text=text) for text in (STEEL, BEES, "Cars need fuel.")]
retriever = VectorStoreIndex(nodes, embed_model=model).as_retriever(similarity_top_k=1)
(best,) = retriever.retrieve(QUESTION)
check("an index over it finds the passage", best.node.get_content() == BEES)

try:
    SageMakerEmbedding(endpoint_name="none", content_handler=JinaHandler()).get_query_embedding(QUESTION)
    check("an error of the endpoint comes through", False)
except Exception as error:
    check("an error of the endpoint comes through", "Endpoint none of account" in str(error))
