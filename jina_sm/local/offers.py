"""
What is for sale: the public offer of each model and, in some scenarios, offers beside it. Every id is a hash.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal

from jina_sm.catalog import Model
from jina_sm.local.protocol import Answer
from jina_sm.local.scenario import Scenario
from jina_sm.local.state import State, wall

SELLER = {"sellerProfileId": "seller-jina-ai", "displayName": "Jina AI"}
MANDATORY = ("legal", "support", "usageBasedPricing")
TRIAL = "freeTrialPricing"
_SINCE = 1735689600  # 2025-01-01: when every offer began
_EXPIRED = 1748736000  # 2025-06-01
_FUTURE = 4102444800  # 2100-01-01
_BADGES = {"PRIVATE_PRICING": "Private pricing", "FUTURE_DATED": "Future dated"}


def digest(model: Model, what: str) -> str:
    return hashlib.sha256(f"{what} {model.key}".encode()).hexdigest()[:13]


@dataclass(frozen=True)
class Offer:
    """One offer of a model; ``kind`` is public, private, expired or future."""

    model: Model
    kind: str = "public"

    @property
    def offer_id(self) -> str:
        return "offer-" + self._digest("offer")

    @property
    def proposal_id(self) -> str:
        return "at-" + self._digest("proposal")

    def term_id(self, kind: str) -> str:
        return "term-" + self._digest(kind)

    @property
    def begins(self) -> int:
        return _FUTURE if self.kind == "future" else _SINCE

    @property
    def in_force(self) -> bool:
        return self.begins <= wall() and self.kind != "expired"

    @property
    def scope(self) -> str:
        return "PRIVATE" if self.kind == "private" else "PUBLIC"

    @property
    def times(self) -> Answer:
        return {"availableFromTime": self.begins, **({"expirationTime": _EXPIRED} if self.kind == "expired" else {})}

    @property
    def badges(self) -> list[Answer]:
        badge = {"private": "PRIVATE_PRICING", "future": "FUTURE_DATED"}.get(self.kind)
        return [{"badgeType": badge, "displayName": _BADGES[badge]}] if badge else []

    def terms(self, scenario: Scenario) -> tuple[str, ...]:
        return (*MANDATORY, TRIAL) if scenario.free_trial else MANDATORY

    def price(self, public: str) -> str:
        """USD an instance-hour; a private offer is half the public one."""
        return str(Decimal(public) / 2) if self.kind == "private" else public

    def _digest(self, what: str) -> str:
        return digest(self.model, what if self.kind == "public" else f"{self.kind} {what}")


def offers(state: State) -> list[Offer]:
    """All of them. AWS lists them in no fixed order; here it is that of their ids."""
    scenario = state.scenario
    kinds = {
        "public": True,
        "private": scenario.private_offer,
        "expired": scenario.expired_offer,
        "future": scenario.future_offer,
    }
    found = [Offer(model, kind) for model in state.offered() for kind, there in kinds.items() if there]
    return sorted(found, key=lambda offer: offer.offer_id)
