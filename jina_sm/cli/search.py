"""Embedding and reranking from the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from jina_sm.cli import show
from jina_sm.errors import InputError

if TYPE_CHECKING:
    from jina_sm.client import Client

_EMBEDS, _RERANKS, _READS = "jina-embeddings-v3", "jina-reranker-v2-base-multilingual", "ReaderLM-v2"
_regions_option = click.option(
    "--region", "-r", "regions", multiple=True, metavar="REGION", help="Home first; default: JINA_SM_REGIONS, AWS's."
)
_endpoint_option = click.option("--endpoint", metavar="NAME", help="An endpoint this tool did not deploy.")
_target_option = click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="TARGET",
    help="sagemaker://REGION/ENDPOINT?model=KEY, jina-api://?model=KEY or http(s)://HOST?model=KEY; home first.",
)
_input_option = click.option(
    "--input", "-i", "source", metavar="FILE", help='.jsonl with a "text" a line, .txt with a text a line, or - (text).'
)


@click.command()
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--model", "-m", help="Default: jina-embeddings-v3, or the target's.")
@_input_option
@click.option("--output", "-o", default="-", metavar="FILE", help=".npy, .jsonl, or - (JSON lines on stdout, default).")
@click.option("--task", help="As the model knows it, for example retrieval.passage.")
@click.option("--dimensions", type=int, help="Of each vector, where the model can give fewer.  [default: all]")
@_regions_option
@_endpoint_option
@_target_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, or with --output what was written.")
def embed(
    texts: tuple[str, ...],
    model: str | None,
    source: str | None,
    output: str,
    task: str | None,
    dimensions: int | None,
    regions: tuple[str, ...],
    endpoint: str | None,
    targets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Embed each TEXT, or each line of a file."""
    import orjson

    if output != "-" and not output.endswith((".npy", ".jsonl")):
        raise InputError(f"--output {output!r} is neither .npy nor .jsonl nor -")
    rows = _rows(texts, source)
    with _whole(output) as file:  # opened before anything is paid for
        with _client(model or _EMBEDS, regions, endpoint, targets, given=model) as client:
            found = client.embed([row["text"] for row in rows], task=task, dimensions=dimensions)
        if output.endswith(".npy"):
            import numpy as np

            np.save(file, found.vectors, allow_pickle=False)
        elif as_json and output == "-":
            show.json([{**row, "embedding": vector} for row, vector in zip(rows, found, strict=True)])
        else:
            for row, vector in zip(rows, found, strict=True):
                line = orjson.dumps({**row, "embedding": vector}, option=orjson.OPT_SERIALIZE_NUMPY)
                file.write(line + b"\n")
            file.flush()
    if as_json and output != "-":
        facts = {"model": found.model, "count": len(found), "dimensions": found.dimensions}
        show.json({"output": output, **facts, "usage": dataclasses.asdict(found.usage)})
    show.say(f"{len(found)} x {found.dimensions}, {found.usage.total_tokens} tokens, requests: {found.usage.requests}")


@click.command()
@click.argument("query")
@click.argument("documents", nargs=-1, metavar="[DOCUMENT]...")
@click.option("--model", "-m", help="Default: jina-reranker-v2-base-multilingual, or the target's.")
@_input_option
@click.option("--top-n", type=int, help="So many of the best.  [default: all]")
@_regions_option
@_endpoint_option
@_target_option
@show.json_option
def rerank(
    query: str,
    documents: tuple[str, ...],
    model: str | None,
    source: str | None,
    top_n: int | None,
    regions: tuple[str, ...],
    endpoint: str | None,
    targets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Order each DOCUMENT, or each line of a file, by relevance to a QUERY."""
    rows = _rows(documents, source)
    with _client(model or _RERANKS, regions, endpoint, targets, given=model) as client:
        ranking = client.rerank(query, [row["text"] for row in rows], top_n=top_n)
    if as_json:
        return show.json(
            [{**rows[each.index], "index": each.index, "relevance_score": each.relevance_score} for each in ranking]
        )
    for each in ranking:
        click.echo(f"{each.relevance_score:.4f}  {each.index:>4}  {' '.join(rows[each.index]['text'].split())}")
    return None


@click.command()
@click.argument("source", metavar="[FILE]", default="-")
@click.option("--model", "-m", help="Default: ReaderLM-v2, or the target's.")
@click.option("--instruction", help="What to make of the page; default: its main content as Markdown.")
@click.option("--schema", metavar="FILE", help="A JSON Schema: the page's data comes as JSON that fits it.")
@_regions_option
@_endpoint_option
@_target_option
@show.json_option
def read(
    source: str,
    model: str | None,
    instruction: str | None,
    schema: str | None,
    regions: tuple[str, ...],
    endpoint: str | None,
    targets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Turn a page of HTML, FILE or stdin, into Markdown on stdout."""
    html, wanted = _content(source, "FILE"), None if schema is None else _content(schema, "--schema")
    with _client(model or _READS, regions, endpoint, targets, given=model) as client:
        written = client.read(html, instruction=instruction, schema=wanted)
    if as_json:
        show.json(dataclasses.asdict(written))
    else:
        click.echo(written.text)
    show.say(f"{written.prompt_tokens} + {written.completion_tokens} tokens")
    if written.finish_reason == "length":
        show.say("cut: the model ran out of tokens")


def _client(
    model: str, regions: tuple[str, ...], endpoint: str | None, targets: tuple[str, ...], *, given: str | None
) -> Client:
    from jina_sm.client import Client

    if targets:
        if regions or endpoint or given:
            raise InputError("a --target says where and which model; leave --region, --endpoint and --model out")
        return Client.at(*targets)
    if endpoint is None:
        return Client(model, regions=regions)
    if len(regions) > 1:
        raise InputError("--endpoint names one endpoint, in one --region")
    return Client.sagemaker(endpoint, model=model, region=regions[0] if regions else None)


def _rows(given: tuple[str, ...], source: str | None) -> list[dict[str, Any]]:
    """The texts with whatever came beside them. Raises InputError that names the line."""
    if given and source:
        raise InputError("texts were given and --input too; take one of them")
    if not source:
        if not given:
            raise InputError("nothing to read: pass texts, or --input FILE (- for stdin)")
        return [{"text": text} for text in given]
    return list(_lines(source))


def _lines(source: str) -> Iterator[dict[str, Any]]:
    import orjson

    from jina_sm import values

    if source != "-" and not source.endswith((".jsonl", ".txt")):
        raise InputError(f"--input {source!r} is neither .jsonl nor .txt nor -")
    text = _content(source, "--input")
    # Split at line feeds only: other characters that end a line stand inside texts.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row: Any = {"text": line.removesuffix("\r")}
        if source.endswith(".jsonl"):
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InputError(f"{source} line {number} is not JSON: {error}") from None
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise InputError(f'{source} line {number} has no "text"')
        values.check_text(row["text"], f"{source} line {number}")
        yield row


def _content(source: str, option: str) -> str:
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, AttributeError) as error:  # the last: there is no stdin
        raise InputError(f"{option} {source!r} cannot be read: {error}") from None


@contextlib.contextmanager
def _whole(output: str) -> Iterator[BinaryIO]:
    """A file that appears whole or not at all: what was paid for is never half a file, nor lost."""
    if output == "-":
        yield sys.stdout.buffer
        return
    partial, kept = Path(f"{output}.{os.getpid()}.partial"), False
    try:
        if Path(output).is_dir():
            raise InputError(f"--output {output!r} is a folder")
        try:
            file = partial.open("wb")
        except OSError as error:
            raise InputError(f"--output {output!r} cannot be written: {error.strerror}") from None
        with file:
            yield file
        try:
            partial.replace(output)
        except OSError as error:
            kept = True
            raise InputError(
                f"--output {output!r} cannot be written: {error.strerror}", cure=f"It is in {partial}."
            ) from None
    finally:
        if not kept:
            partial.unlink(missing_ok=True)
