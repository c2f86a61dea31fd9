"""langchain-community as its documentation has it, with a content handler for what Jina's models take."""

import json
from typing import Any

from checks import BEES, QUESTION, STEEL, check, cosine
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_community.cross_encoders import SagemakerEndpointCrossEncoder
from langchain_community.cross_encoders.sagemaker_endpoint import CrossEncoderContentHandler
from langchain_community.embeddings import SagemakerEndpointEmbeddings
from langchain_community.embeddings.sagemaker_endpoint import EmbeddingsContentHandler
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore


class ContentHandler(EmbeddingsContentHandler):
    content_type = "application/json"
    accepts = "application/json"

    def transform_input(self, inputs: list[str], model_kwargs: dict[str, Any]) -> bytes:
        return json.dumps({"data": [{"text": text} for text in inputs], "parameters": model_kwargs}).encode("utf-8")

    def transform_output(self, output: Any) -> list[list[float]]:
        return [row["embedding"] for row in json.loads(output.read().decode("utf-8"))["data"]]


class RerankContentHandler(CrossEncoderContentHandler):
    def transform_input(self, text_pairs: list[tuple[str, str]]) -> bytes:
        documents = [{"text": text} for _, text in text_pairs]
        return json.dumps({"data": {"query": text_pairs[0][0], "documents": documents}}).encode("utf-8")

    def transform_output(self, output: Any) -> list[float]:
        (answer,) = json.loads(output.read().decode("utf-8"))["data"]
        return [result["relevance_score"] for result in sorted(answer["results"], key=lambda result: result["index"])]


# Embeddings
embeddings = SagemakerEndpointEmbeddings(
    endpoint_name="jina-sm-embeddings-v3",
    region_name="us-east-1",
    content_handler=ContentHandler(),
    model_kwargs={"task": "text-matching", "dimensions": 512},
)
bees, steel = embeddings.embed_documents([BEES, STEEL])
query = embeddings.embed_query(QUESTION)
check("embed_documents: the dimensions asked for", [len(bees), len(steel), len(query)] == [512] * 3)
check("embed_query: the same meaning is closer", cosine(query, bees) > cosine(query, steel) + 0.1)
texts = [f"{number} bees make honey." for number in range(100)]
many = embeddings.embed_documents(texts, chunk_size=64)
check("embed_documents: two requests, one vector a text", len(many) == 100)
check("embed_documents: in order", cosine(many[99], embeddings.embed_query(texts[99])) > 0.999)

store = InMemoryVectorStore.from_texts([STEEL, BEES, "Cars need fuel."], embeddings)
(best,) = store.as_retriever(search_kwargs={"k": 1}).invoke(QUESTION)
check("a retriever finds the passage", best.page_content == BEES)

# Reranking
encoder = SagemakerEndpointCrossEncoder(
    endpoint_name="jina-sm-reranker-v2-base-multilingual",
    region_name="us-east-1",
    content_handler=RerankContentHandler(),
)
scores = encoder.score([(QUESTION, STEEL), (QUESTION, BEES)])
check("score: the relevant pair is higher, in order", len(scores) == 2 and scores[1] > scores[0])
documents = [Document(page_content=text) for text in (STEEL, "Cars need fuel.", BEES)]
ranked = CrossEncoderReranker(model=encoder, top_n=2).compress_documents(documents, QUESTION)
check("CrossEncoderReranker: the relevant first, two of three", [ranked[0].page_content, len(ranked)] == [BEES, 2])

# What goes wrong
embeddings.endpoint_name = "none"
try:
    embeddings.embed_query(QUESTION)
    check("an error of the endpoint is said in its words", False)
except ValueError as error:
    check("an error of the endpoint is said in its words", "Endpoint none of account" in str(error))
