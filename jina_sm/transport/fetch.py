"""Media on the web, brought by the client: a container from the Marketplace has no network of its own."""

from __future__ import annotations

from jina_sm.errors import InputError
from jina_sm.transport.http import close, pool
from jina_sm.transport.session import line
from jina_sm.values import Media

LIMIT_BYTES = 4_500_000
"""What, as base64, just fits into the 6 MiB of an invocation."""
_TIMEOUT_S = 20.0
_REDIRECTS = 3


def fetched(media: Media, item: str) -> Media:
    """The same with its bytes. Raises InputError, naming the item, where they cannot be had."""
    import urllib3
    import urllib3.exceptions

    if isinstance(media.source, bytes):
        return media
    url = media.source
    shown = url.partition("?")[0].rpartition("@")[2][:200]  # the rest may be a signature, or a password
    connections = pool(url)
    try:
        answer = connections.request(
            "GET",
            url,
            timeout=urllib3.Timeout(_TIMEOUT_S),
            retries=urllib3.Retry(2, redirect=_REDIRECTS, backoff_factor=0.2),
            preload_content=False,
        )
        try:
            content = answer.read(LIMIT_BYTES + 1)
        finally:
            answer.close()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise InputError(f"{item}: {shown} cannot be fetched: {line(type(error).__name__)}") from None
    finally:
        close(connections)
    if answer.status != 200:
        raise InputError(f"{item}: {shown} answered with status {answer.status}")
    if len(content) > LIMIT_BYTES:
        raise InputError(f"{item}: {shown} is larger than {LIMIT_BYTES:,} bytes", cure="Make it smaller.")
    if not content:
        raise InputError(f"{item}: {shown} is empty")
    return Media(media.kind, content)
