"""
One item of a request as JSON: a text, or media as a URL or as base64.

``media`` says how a dialect spells media: its key on the wire and what stands there. A dialect with ``url`` and
``bytes`` (CLIP, reranker-m0) tells by the key how an image comes; with the others the value shows it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from jina_sm.errors import InputError
from jina_sm.values import Item, Media
from jina_sm.wire import Unacceptable, expect


def encode(item: Item, media: Mapping[str, str]) -> dict[str, str]:
    """The item as an object. Raises InputError for media that the dialect has no word for."""
    if isinstance(item, str):
        return {"text": item}
    if item.kind not in media.values():
        raise InputError(
            f"the model takes no {item.kind}; it takes {', '.join(['text', *dict.fromkeys(media.values())])}"
        )
    key = item.kind if "url" not in media else "url" if isinstance(item.source, str) else "bytes"
    return {key: _written(item)}


def echo(item: Item, media: Mapping[str, str]) -> dict[str, str | None]:
    """The item as reranker-m0 gives it back: every key, most of them null."""
    return {"text": None, **dict.fromkeys(media), **encode(item, media)}


def decode(given: Any, media: Mapping[str, str], *path: str | int) -> Item:
    """The item of a request. Raises Unacceptable."""
    item = expect(given, dict, *path)
    said = [key for key in ("text", *media) if item.get(key) is not None]
    if len(said) > 1:
        raise Unacceptable(*path, message=f"only one of {', '.join(said)} is expected")
    (key,) = said or ("text",)
    value = expect(item.get(key), str, *path, key)
    if key == "text":
        return value
    try:
        if value.startswith(("http://", "https://")):
            return Media(media[key], value)
        encoded = value.partition(",")[2] if value.startswith("data:") else value
        return Media(media[key], base64.b64decode(encoded, validate=True))
    except (InputError, ValueError) as error:
        raise Unacceptable(*path, key, message=f"neither an http(s) URL nor base64: {error}") from None


def identity(index: int, item: Item) -> str:
    """32 hexadecimal digits, as the older containers give to all they name."""
    return hashlib.md5(
        f"{index} {item if isinstance(item, str) else _written(item)}".encode(), usedforsecurity=False
    ).hexdigest()


def _written(item: Media) -> str:
    return item.source if isinstance(item.source, str) else base64.b64encode(item.source).decode()
