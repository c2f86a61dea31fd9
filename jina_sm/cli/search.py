"""Embedding and reranking from the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import show
from jina_sm.cli.deployment import profile_option, session_for
from jina_sm.errors import InputError, JinaSMError

if TYPE_CHECKING:
    from jina_sm.cli.journal import Journal
    from jina_sm.client import Client
    from jina_sm.values import Usage

_ELSEWHERE = ("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", "AWS_ENDPOINT_URL", "JINA_API_URL")
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
@click.option(
    "--on-error",
    type=click.Choice(["raise", "collect"]),
    default="raise",
    show_default=True,
    help="At a line that is refused. raise: the run ends; collect: the line is named on stderr and keeps its place, as "
    'a row of NaN in .npy and in JSON with an "embedding" that is null and an "error".',
)
@click.option("--resume", is_flag=True, help="Go on from FILE.part, where an earlier run left what it had finished.")
@_regions_option
@_endpoint_option
@_target_option
@profile_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, or with --output what was written.")
def embed(
    texts: tuple[str, ...],
    model: str | None,
    source: str | None,
    output: str,
    task: str | None,
    dimensions: int | None,
    on_error: str,
    resume: bool,
    regions: tuple[str, ...],
    endpoint: str | None,
    targets: tuple[str, ...],
    profile: str | None,
    as_json: bool,
) -> None:
    """Embed each TEXT, or each line of a file.

    With --output, what is finished is in FILE.part until all is. After an error or an interruption, the same with
    --resume asks only for the rest, also where lines were mended, added or taken out meanwhile.
    """
    from jina_sm.cli import journal

    if output != "-" and not output.endswith((".npy", ".jsonl")):
        raise InputError(f"--output {output!r} is neither .npy nor .jsonl nor -")
    if resume and output == "-":
        raise InputError("--resume goes on with a file; name it with --output")
    lines = _rows(texts, source)
    collect, asked = on_error == "collect", {"task": task, "dimensions": dimensions}
    # A local stack's vectors, or another server's, are not the model's: they are never taken for them.
    elsewhere = [os.environ.get(name) for name in _ELSEWHERE] + [each for each in targets if each.startswith("http")]
    with contextlib.ExitStack() as closing:
        client = closing.enter_context(_client(model or _EMBEDS, regions, endpoint, targets, profile, given=model))
        finished = closing.enter_context(
            journal.opened(output, [client.model.key, asked, elsewhere], resume=resume)  # before anything is paid for
        )
        there = sum(line.text in finished for line in lines)
        try:
            refused, usage = _embedded(client, lines, finished, collect, asked)
        except BaseException:
            if output == "-" and len(finished):  # it was paid for
                _print(_results(lines, finished, {}), as_json)
            raise
        found = next((line.text for line in lines if line.text in finished), None)
        width = len(finished[found]) if found is not None else dimensions or client.model.dimensions or 0
        if output == "-":
            _print(_results(lines, finished, refused), as_json)
        else:
            _write(output, lines, finished, refused, width)
        finished.whole = not refused
    for error in refused.values():
        show.say(str(error))
    if as_json and output != "-":
        facts = {"model": client.model.key, "count": len(lines), "dimensions": width}
        failed = [{"line": lines[place].number, "error": str(error)} for place, error in refused.items()]
        show.json({"output": output, **facts, "failed": failed, "usage": dataclasses.asdict(usage)})
    beside = f", {there} were there" if there else ""
    beside += f", {len(refused)} have no vector" if refused else ""
    show.say(f"{len(lines)} x {width}, {usage.total_tokens} tokens, requests: {usage.requests}{beside}")
    if refused:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("query")
@click.argument("documents", nargs=-1, metavar="[DOCUMENT]...")
@click.option("--model", "-m", help="Default: jina-reranker-v2-base-multilingual, or the target's.")
@_input_option
@click.option("--top-n", type=int, help="So many of the best.  [default: all]")
@_regions_option
@_endpoint_option
@_target_option
@profile_option
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
    profile: str | None,
    as_json: bool,
) -> None:
    """Order each DOCUMENT, or each line of a file, by relevance to a QUERY."""
    rows = [line.row for line in _rows(documents, source)]
    with _client(model or _RERANKS, regions, endpoint, targets, profile, given=model) as client:
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
@profile_option
@show.json_option
def read(
    source: str,
    model: str | None,
    instruction: str | None,
    schema: str | None,
    regions: tuple[str, ...],
    endpoint: str | None,
    targets: tuple[str, ...],
    profile: str | None,
    as_json: bool,
) -> None:
    """Turn a page of HTML, FILE or stdin, into Markdown on stdout."""
    html, wanted = _content(source, "FILE"), None if schema is None else _content(schema, "--schema")
    with _client(model or _READS, regions, endpoint, targets, profile, given=model) as client:
        written = client.read(html, instruction=instruction, schema=wanted)
    if as_json:
        show.json(dataclasses.asdict(written))
    else:
        click.echo(written.text)
    show.say(f"{written.prompt_tokens} + {written.completion_tokens} tokens")
    if written.finish_reason == "length":
        show.say("cut: the model ran out of tokens")


def _client(
    model: str,
    regions: tuple[str, ...],
    endpoint: str | None,
    targets: tuple[str, ...],
    profile: str | None,
    *,
    given: str | None,
) -> Client:
    from jina_sm.client import Client

    aws = session_for(profile, targets)
    if targets:
        if regions or endpoint or given:
            raise InputError("a --target says where and which model; leave --region, --endpoint and --model out")
        return Client.at(*targets, session=aws)
    if endpoint is None:
        return Client(model, regions=regions, session=aws)
    if len(regions) > 1:
        raise InputError("--endpoint names one endpoint, in one --region")
    return Client.sagemaker(endpoint, model=model, region=regions[0] if regions else None, session=aws)


def _embedded(
    client: Client, lines: list[_Line], finished: Journal, collect: bool, asked: dict[str, Any]
) -> tuple[dict[int, JinaSMError], Usage]:
    """Why some lines have no vector, by their places, and what it took. The vectors are in ``finished``.

    What goes wrong is collected in any case, so that one line does not spoil what is paid for beside it.
    """
    from jina_sm import retry
    from jina_sm.values import Usage

    refused: dict[int, JinaSMError] = {}
    tokens = requests = 0
    for portion in portions([place for place, line in enumerate(lines) if line.text not in finished], lines):
        while portion:
            try:
                found = client.embed([lines[place].text for place in portion], on_error="collect", **asked)
            except JinaSMError as error:
                if error.index is None:
                    raise
                place = portion.pop(error.index)
                refused[place] = _of_line(error, lines[place])
                if not (collect and isinstance(error, InputError)):
                    raise
                continue  # nothing was sent: the others are asked without it
            for index, place in enumerate(portion):
                if index not in found.errors:
                    finished.add(lines[place].text, found[index])
            finished.flush()
            tokens, requests = tokens + found.usage.total_tokens, requests + found.usage.requests
            for index, why in found.errors.items():
                if not retry.rule(why).alone:
                    why.item = None  # it is no line's fault
                    raise why
                refused[portion[index]] = _of_line(why, lines[portion[index]])
            break
        if refused and not collect:
            raise refused[min(refused)]
    return dict(sorted(refused.items())), Usage(tokens, requests)


def portions(
    places: Sequence[int], lines: Sequence[_Line], *, most: int = 16_384, characters: int = 4_000_000
) -> Iterator[list[int]]:
    """What is asked for, and kept, at a time: enough to keep many instances busy, and for one the work of a minute."""
    portion: list[int] = []
    long = 0
    for place in places:
        portion.append(place)
        long += len(lines[place].text)
        if len(portion) == most or long >= characters:
            yield portion
            portion, long = [], 0
    if portion:
        yield portion


def _of_line(error: JinaSMError, line: _Line) -> JinaSMError:
    """The error, which names the line instead of its place in what was asked."""
    error.message = error.message.removeprefix(f"texts[{error.index}] ")
    error.item = line.name
    return error


def _results(lines: list[_Line], finished: Journal, refused: Mapping[int, JinaSMError]) -> Iterator[dict[str, Any]]:
    for place, line in enumerate(lines):
        if line.text in finished:
            yield {**line.row, "embedding": finished[line.text]}
        elif place in refused:
            yield {**line.row, "embedding": None, "error": str(refused[place])}


def _print(results: Iterator[dict[str, Any]], as_json: bool) -> None:
    import orjson

    if as_json:
        return show.json(list(results))
    for each in results:
        sys.stdout.buffer.write(orjson.dumps(each) + b"\n")
    sys.stdout.buffer.flush()
    return None


def _write(output: str, lines: list[_Line], finished: Journal, refused: Mapping[int, JinaSMError], width: int) -> None:
    """A file that appears whole or not at all."""
    import numpy as np
    import orjson

    partial = Path(f"{output}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            if output.endswith(".npy"):
                vectors = np.full((len(lines), width), np.nan, dtype=np.float32)
                for row, line in zip(vectors, lines, strict=True):
                    if line.text in finished:
                        row[:] = finished[line.text]
                np.save(file, vectors, allow_pickle=False)
            else:
                file.writelines(orjson.dumps(each) + b"\n" for each in _results(lines, finished, refused))
        partial.replace(output)
    except OSError as error:
        raise InputError(f"--output {output!r} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class _Line:
    """A text with whatever came beside it. ``name``: what it is called in an error."""

    number: int
    name: str
    row: dict[str, Any]

    @property
    def text(self) -> str:
        text: str = self.row["text"]
        return text


def _rows(given: tuple[str, ...], source: str | None) -> list[_Line]:
    """The texts. Raises InputError that names the line."""
    if given and source:
        raise InputError("texts were given and --input too; take one of them")
    if not source:
        if not given:
            raise InputError("nothing to read: pass texts, or --input FILE (- for stdin)")
        return [_Line(number, f"text {number}", {"text": text}) for number, text in enumerate(given, 1)]
    return list(_lines(source))


def _lines(source: str) -> Iterator[_Line]:
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
        yield _Line(number, f"line {number}", row)


def _content(source: str, option: str) -> str:
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, AttributeError) as error:  # the last: there is no stdin
        raise InputError(f"{option} {source!r} cannot be read: {error}") from None
