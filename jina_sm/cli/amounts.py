"""Numbers as people type them: 50B tokens, 1.5M vectors, 0.25 USD, sagemaker=20000."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

import click

_TIMES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def count(_: click.Context | None, param: click.Parameter | None, text: str | None) -> int | None:
    """An option's callback: a whole number, with K, M, B or T behind it if one likes."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]{1,12})?)([KMBT]?)", text.strip(), re.ASCII | re.IGNORECASE)
    if not match or len(text) > 30:
        raise click.BadParameter(f"{text!r} is not a count like 2000000, 2M or 1.5B", param=param)
    number = Decimal(match[1].replace(",", "").replace("_", "")) * _TIMES[match[2].upper()]
    if number != int(number):
        raise click.BadParameter(f"{text!r} is no whole number", param=param)
    return int(number)


def exact(_: click.Context | None, param: click.Parameter | None, text: str | None) -> Decimal | None:
    """An option's callback: a decimal number, kept exact."""
    if text is None:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise click.BadParameter(f"{text!r} is not a number", param=param)
    return number


def by_way(option: str, given: Iterable[str], known: Iterable[str]) -> dict[str, Decimal]:
    """Of ``WAY=NUMBER``, again for each."""
    found = {}
    for word in given:
        way, _, text = word.partition("=")
        try:
            number = exact(None, None, text)
        except click.BadParameter:
            number = None
        if way not in known or number is None:
            raise click.BadParameter(f"{word!r} is not WAY=NUMBER, of {', '.join(known)}", param_hint=option)
        found[way] = number
    return found
