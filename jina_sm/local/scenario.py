"""
What sort of account the stack is: the circumstances that no call of the account's own brings about.

Off by default. Changed over ``/_jina/scenario``, by ``jina_sm.local.scenario`` or ``jina-sm local scenario``.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from jina_sm.errors import InputError
from jina_sm.local.permissions import PATTERN
from jina_sm.local.protocol import service

Approval = Literal["", "required", "approved", "rejected"]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One account's circumstances.

    ``free_trial``: offers have one, once an account and product. ``approval``: the buyer's organisation must approve
    what is bought, and has not yet, has, or has refused. ``payment``: why entitlements fail, such as
    INVALID_PAYMENT_INSTRUMENT; PROVISIONING_IN_PROGRESS keeps them pending. The offers are listed beside the public
    one. ``quotas`` are instances for endpoint usage by type; ``quota`` is that of any other. ``capacity`` is how many
    of a type AWS has to give an endpoint; of any other it has enough. ``applied_quotas=False``: there are only AWS's
    defaults, which are the same. ``denied`` are actions that the caller may not do, such as iam:PassRole,
    sagemaker:Create*, or sagemaker:CreateEndpoint@eu-west-1 in one region only; of moto's services IAM's alone.
    """

    free_trial: bool = False
    approval: Approval = ""
    payment: str = ""
    private_offer: bool = False
    expired_offer: bool = False
    future_offer: bool = False
    quota: int = 4
    quotas: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    capacity: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    applied_quotas: bool = True
    denied: tuple[str, ...] = ()

    def changed(self, asked: Mapping[str, Any]) -> Scenario:
        """With some of it changed. Raises InputError."""
        if not isinstance(asked, dict):
            raise InputError(f"a scenario is an object, not {asked!r}")
        before = self.told()
        for name, value in asked.items():
            if name not in before:
                raise InputError(f"a scenario has no {name!r}; it has {', '.join(before)}")
            if type(value) is not type(before[name]):
                raise InputError(f"{name} is like {before[name]!r}, not {value!r}")
        if asked.get("approval", "") not in typing.get_args(Approval):
            raise InputError(f"approval is one of {', '.join(typing.get_args(Approval)[1:])}, or empty")
        payments = service("marketplace-agreement").shape_for("AgreementEntitlementStatusReasonCode").enum
        if asked.get("payment", "") not in ("", *payments):
            raise InputError(f"payment is one of {', '.join(payments)}, or empty")
        quotas = {**self.quotas, **asked.get("quotas", {})}
        capacity = {**self.capacity, **asked.get("capacity", {})}
        for name, value in [("quota", asked.get("quota", 0)), *quotas.items(), *capacity.items()]:
            if type(value) is not int or value < 0:
                raise InputError(f"{name} is a number of instances, not {value!r}")
        for each in asked.get("denied", ()):
            if not isinstance(each, str) or not PATTERN.fullmatch(each):
                raise InputError(f"denied is of actions such as iam:PassRole, not {each!r}")
        denied = tuple(asked.get("denied", self.denied))
        both = {"quotas": MappingProxyType(quotas), "capacity": MappingProxyType(capacity), "denied": denied}
        return replace(self, **{**asked, **both})

    def told(self) -> dict[str, Any]:
        both = {"quotas": dict(self.quotas), "capacity": dict(self.capacity), "denied": [*self.denied]}
        return {**asdict(replace(self, quotas={}, capacity={})), **both}

    def limit(self, instance_type: str) -> int:
        """How many such instances the account's endpoints may have in one region."""
        return self.quotas.get(instance_type, self.quota)
