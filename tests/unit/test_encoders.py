"""How models from files are told their task, and measured, without any being loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tokenizers

from jina_sm import catalog
from jina_sm.errors import InputError, MissingExtraError
from jina_sm.serve import encoders
from jina_sm.serve.encoders import CrossEncoderScorer, SentenceTransformersEmbedder
from jina_sm.serve.settings import Settings

KNOWN = catalog.load(environ={})


def tokenizer() -> Any:
    """A word a token, and two that are special."""
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "<s>": 1, "</s>": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    made.enable_truncation(5)  # as the library leaves it
    return type("Fast", (), {"backend_tokenizer": made})()


class Loaded:
    """What SentenceTransformers would have loaded."""

    def __init__(self, width: int = 1024, prompts: dict[str, str] | None = None) -> None:
        self.prompts = prompts or {}
        self.max_seq_length = 100
        self.tokenizer = tokenizer()
        self.told: list[dict[str, Any]] = []
        self._width = width

    def get_embedding_dimension(self) -> int:
        return self._width

    def encode(self, texts: list[str], **told: Any) -> Any:
        self.told.append(told)
        return np.ones((len(texts), self._width), np.float16)


@pytest.mark.parametrize(
    ("key", "prompts", "task", "told"),
    [
        (
            "jina-embeddings-v3",
            ["retrieval.query"],
            "retrieval.query",
            {"task": "retrieval.query", "prompt_name": "retrieval.query"},
        ),
        ("jina-embeddings-v3", [], "separation", {"task": "separation"}),
        ("jina-embeddings-v4", ["query", "document"], "retrieval.query", {"task": "retrieval", "prompt_name": "query"}),
        ("jina-embeddings-v4", ["query", "document"], "code.passage", {"task": "code", "prompt_name": "document"}),
        ("jina-embeddings-v5-text-small", ["query", "document"], "clustering", {"task": "clustering"}),
        ("jina-code-embeddings-0.5b", ["nl2code_query"], "nl2code.query", {"prompt_name": "nl2code_query"}),
        ("jina-code-embeddings-0.5b", ["nl2code_document"], "nl2code.passage", {"prompt_name": "nl2code_document"}),
    ],
)
def test_a_task_is_told_in_the_models_own_way(key, prompts, task, told):
    row = KNOWN.model(key)
    loaded = Loaded(row.dimensions or 0, dict.fromkeys(prompts, "as: "))
    rows = SentenceTransformersEmbedder(loaded, row, name=key).embed(["a", "b"], task)
    assert rows.dtype == np.float32
    said = loaded.told[0]
    assert {name: said[name] for name in ("task", "prompt_name") if name in said} == told
    assert said["batch_size"] == 2  # the batcher made the batch, and nobody makes another of it


def test_a_plain_model_is_told_nothing():
    loaded = Loaded(8)
    embedder = SentenceTransformersEmbedder(loaded, None, name="some/where/my-model")
    embedder.embed(["a"], None)
    assert not {"task", "prompt_name"} & set(loaded.told[0])
    assert (embedder.model.key, embedder.model.dimensions, embedder.model.matryoshka) == ("my-model", 8, (8,))


def test_lengths_are_whole_though_the_models_own_tokenizer_cuts():
    loaded = Loaded(8)
    embedder = SentenceTransformersEmbedder(loaded, None, name="m", max_tokens=20)
    assert embedder.lengths(["a b", "a " * 50]) == [4, 52]
    assert loaded.max_seq_length == 20
    blank = " " * (64 * 20) + "a b"
    assert embedder.lengths([blank]) == [4]  # nearly all of it weighs nothing


def test_of_an_endless_text_no_more_is_read_than_tells_that_it_is_too_long():
    embedder = SentenceTransformersEmbedder(Loaded(8), None, name="m", max_tokens=20)
    assert 20 < embedder.lengths(["a " * 10_000_000])[0] < 2000


def test_a_model_of_another_width_is_not_passed_off_as_jinas():
    with pytest.raises(InputError, match="gives 384 dimensions"):
        SentenceTransformersEmbedder(Loaded(384), KNOWN.model("jina-embeddings-v3"), name="x")


def test_a_scorer_that_gives_classes_is_no_reranker():
    class Classes(Loaded):
        max_length = 512

        def predict(self, pairs: list[Any], **told: Any) -> Any:
            return np.zeros((len(pairs), 3))

    scorer = CrossEncoderScorer(Classes(), None, name="m")
    with pytest.raises(InputError, match="gives one"):
        scorer.score([("a", "b")])


def test_a_name_finds_its_row():
    found = encoders.named("jinaai/jina-embeddings-v3", None, KNOWN)
    assert found is KNOWN.model("jina-embeddings-v3")
    assert encoders.named("/models/mine/", None, KNOWN) is None
    assert encoders.named("/models/mine", "jina-embeddings-v3", KNOWN) is found


def test_a_model_with_no_door_is_refused_before_anything_is_loaded():
    with pytest.raises(InputError, match="reader"):
        encoders.load(Settings(model="jinaai/ReaderLM-v2"), KNOWN)


def test_without_pytorch_the_extra_is_named():
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match="torch"):
            encoders.load(Settings(model="jinaai/jina-embeddings-v3"), KNOWN)
