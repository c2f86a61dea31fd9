"""The self-hosted server from the command line. Its flags are the fields of its settings."""

from __future__ import annotations

import types
import typing
from typing import Any

import click

from jina_sm.cli import show


class _Serve(click.Command):
    """A command whose options are made from ``Settings`` when they are first needed: pydantic takes its time."""

    _made = False
    _params: list[click.Parameter]

    @property
    def params(self) -> list[click.Parameter]:
        if not self._made:
            self._made = True
            self._params = [*_options(), *self._params]
        return self._params

    @params.setter
    def params(self, given: list[click.Parameter]) -> None:
        self._made, self._params = False, given


def _options() -> list[click.Parameter]:
    from jina_sm.serve.settings import SECRET, Settings, flag

    made: list[click.Parameter] = []
    hints = typing.get_type_hints(Settings)
    for name, field in Settings.model_fields.items():
        if name == SECRET:
            continue
        kinds = set(typing.get_args(hints[name])) if _is_union(hints[name]) else {hints[name]}
        given: dict[str, Any] = {"help": field.description, "default": None}
        option = flag(name)
        if bool in kinds:
            option = f"{option}/--no-{option[2:]}"
        elif int in kinds:
            given["type"] = int
        elif kinds == {tuple[str, ...]}:
            given |= {"multiple": True, "metavar": "WORD", "default": ()}
        else:
            choices = [value for kind in kinds for value in typing.get_args(kind) if isinstance(value, str)]
            given["metavar"] = "|".join(choices) or ("SECONDS" if float in kinds else "TEXT")
        shown = None if field.default in (None, (), False, True) else str(field.default)
        if shown:
            given["help"] = f"{field.description} [default: {shown}]"
        made.append(click.Option([option, name], **given))
    return made


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


@click.command(cls=_Serve)
@click.option("--check", is_flag=True, help="Say what would be served, or what is wrong with the settings, and end.")
@show.json_option
def serve(check: bool, as_json: bool, **given: Any) -> None:
    """Serve an embedding model and a reranker, or stand in front of an endpoint.

    Speaks OpenAI's and Jina's wire (/v1/embeddings, /v1/rerank), SageMaker's (/ping, /invocations) and /embed. Each
    flag has a variable: --max-body-bytes is JINA_SM_SERVE_MAX_BODY_BYTES. API keys are given by JINA_SM_SERVE_API_KEYS
    or --api-key-file.
    """
    from jina_sm.serve import process, settings

    told = settings.load(given)
    process.check(told)
    if check:
        from jina_sm.serve import app

        lines = app.check(told)
        if as_json:
            show.json({"settings": told.model_dump(exclude={settings.SECRET}), "serves": lines})
        else:
            for line in lines:
                click.echo(line)
        return

    def ready(url: str) -> None:
        if as_json:
            show.json({"url": url})
        show.say(f"serving on {url}; keys: {'needed' if told.keys() else 'none, whoever reaches the port may ask'}")
        if settings.STAND_IN in (told.model, told.reranker) and not told.upstream:
            show.say("Vectors come from a small stand-in model, not Jina's. --model serves another.")

    process.serve(told, ready)
