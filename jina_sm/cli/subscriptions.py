"""What the account is subscribed to, and ending that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from jina_sm.cli import show
from jina_sm.cli.deployment import profile_option, session

if TYPE_CHECKING:
    from jina_sm.deploy.marketplace import Agreement, Subscription
    from jina_sm.deploy.subscriptions import Cancellation


@click.command()
@profile_option
@show.json_option
def subscriptions(profile: str | None, as_json: bool) -> None:
    """List the account's subscriptions to Jina AI's models.

    The price is that of the terms agreed to, beside the instance's.
    """
    from jina_sm import catalog
    from jina_sm.deploy import subscriptions as subscribed

    known = catalog.load()
    there = subscribed.subscriptions(session=session(profile), known=known)
    if as_json:
        return show.json(
            {"subscriptions": [_told(each) for each in there.found], "others": [_agreed(each) for each in there.others]}
        )
    rows = [
        (
            each.agreement.model,
            each.agreement.agreement_id,
            _day(each.agreement),
            each.agreement.status,
            _usual(each, known.model(each.agreement.model).instances),
        )
        for each in there.found
    ]
    if rows:
        show.table(("MODEL", "AGREEMENT", "SINCE", "STATUS", "USD/H"), rows, gives=0)
        click.echo("USD/H: what the software costs on the model's usual instance; --json has each type.")
    else:
        click.echo("no subscription to a model of the catalogue")
    if there.others:
        show.say(f"And {len(there.others)} to other machine-learning products, which --json lists.")
    return None


@click.command()
@click.argument("model")
@click.option("--leave-running", is_flag=True, help="Cancel although endpoints run from it, which bill on.")
@profile_option
@show.yes_option
@show.json_option
def unsubscribe(model: str, leave_running: bool, profile: str | None, yes: bool, as_json: bool) -> None:
    """Cancel the account's subscription to a MODEL's Marketplace package.

    Says first what runs from it, in every region: cancelling stops none of that, and it bills on. Refused while
    endpoints that this tool made do, unless --leave-running is given.
    """
    from jina_sm.deploy import subscriptions as subscribed

    aws = session(profile)
    agreed = subscribed.cancellation(model, session=aws)
    if not agreed.agreements:
        if as_json:
            return show.json({"model": agreed.model, "cancelled": [], "running": []})
        click.echo(f"not subscribed: {agreed.model} has no agreement of this account's own")
        return None
    _consequences(agreed)
    if not leave_running:
        agreed.check()
    show.confirm("Cancel the subscription?", yes)
    cancelled = subscribed.unsubscribe(model, agreed=agreed, leave_running=leave_running, session=aws)
    if as_json:
        running = [{**vars(use), "bills": use.bills} for use in agreed.uses]
        return show.json(
            {"model": agreed.model, "cancelled": [each.agreement_id for each in cancelled], "running": running}
        )
    for each in cancelled:
        click.echo(f"cancelled: {agreed.model} ({each.agreement_id})")
    return None


def _consequences(agreed: Cancellation) -> None:
    for each in agreed.agreements:
        show.say(f"{agreed.model}: {each.agreement_id}, since {_day(each)}")
    rows = [
        (use.region, use.name, use.status, "ours" if use.ours else "not ours", "bills on" if use.bills else "")
        for use in agreed.uses
    ]
    if rows:
        show.say("What runs from its package, or is kept of it:")
        show.table(("REGION", "ENDPOINT", "STATUS", "WHOSE", ""), rows, show.say, gives=1)
    else:
        show.say(f"Nothing runs from its package in the {len(agreed.looked_at)} regions looked at.")
    for region, error in agreed.failed.items():
        show.say(f"error: {region} could not be looked at: {error}")
    show.say("Cancelling stops no endpoint. After it nothing new is made of the package and")
    show.say("nothing paused is resumed; AWS may refuse to update or scale what runs.")
    show.say("A free trial is not granted twice.")


def _usual(subscription: Subscription, kinds: Sequence[str]) -> str:
    """The price on the first of the usual instance types that has one."""
    found = next((kind for kind in kinds if kind in subscription.hourly), None)
    return f"{subscription.hourly[found]}" if found else subscription.price or "unknown"


def _day(agreement: Agreement) -> str:
    return f"{agreement.since:%Y-%m-%d}" if agreement.since else "-"


def _told(subscription: Subscription) -> dict[str, Any]:
    return {
        **_agreed(subscription.agreement),
        "software_usd_per_hour": subscription.hourly,
        "price_unknown": subscription.price or None,
    }


def _agreed(agreement: Agreement) -> dict[str, Any]:
    names = ("model", "agreement_id", "product_id", "since", "status")
    return {name: getattr(agreement, name) or None for name in names}
