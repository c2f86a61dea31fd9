"""
Eventual consistency: what was made a moment ago is not seen by the next few reads.

A read is worked out as if the thing were not there, so every operation says what it says of what it cannot find.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Who reads what; a list reads all of its kind, the rest what they name.
_READERS: Mapping[str, frozenset[str]] = {
    "CreateModel": frozenset({"DescribeModel", "DeleteModel", "CreateEndpointConfig", "ListModels"}),
    "CreateEndpointConfig": frozenset(
        {"DescribeEndpointConfig", "DeleteEndpointConfig", "CreateEndpoint", "UpdateEndpoint", "ListEndpointConfigs"}
    ),
    "CreateEndpoint": frozenset({"DescribeEndpoint", "DeleteEndpoint", "UpdateEndpoint", "ListEndpoints"}),
    "AcceptAgreementRequest": frozenset(
        {"SearchAgreements", "DescribeAgreement", "GetAgreementEntitlements", "CreateModel"}
    ),
}
_TAGS = frozenset({"ListTags", "AddTags", "DeleteTags"})
_ALL = frozenset({"ListModels", "ListEndpointConfigs", "ListEndpoints", "SearchAgreements", "CreateModel"})


@dataclass
class _Unseen:
    made_by: str
    name: str
    where: Callable[[], dict[str, Any]]
    reads: int
    account: str
    region: str

    def read_by(self, operation: str, asked: str, account: str, region: str) -> bool:
        # An agreement is the account's in every region.
        if account != self.account or (region != self.region and self.made_by != "AcceptAgreementRequest"):
            return False
        named = re.search(rf'[/"]{re.escape(self.name)}"', asked) is not None
        if operation in _TAGS:
            return named and self.made_by != "AcceptAgreementRequest"
        return operation in _READERS[self.made_by] and (operation in _ALL or named)


class Visibility:
    """What cannot be seen yet."""

    def __init__(self) -> None:
        self._unseen: list[_Unseen] = []

    def hide(
        self, made_by: str, name: str, where: Callable[[], dict[str, Any]], reads: int, *, account: str, region: str
    ) -> None:
        self._unseen.append(_Unseen(made_by, name, where, reads, account, region))

    def clear(self) -> None:
        self._unseen.clear()

    @contextmanager
    def during(self, operation: str, asked: str, *, account: str, region: str) -> Iterator[None]:
        """What an operation does in here, it does without seeing them."""
        taken = []
        for each in self._unseen:
            if each.read_by(operation, asked, account, region):
                each.reads -= 1
                if each.name in each.where():
                    taken.append((each, each.where().pop(each.name)))
        try:
            yield
        finally:
            for each, made in taken:
                each.where()[each.name] = made
            self._unseen = [each for each in self._unseen if each.reads]
