"""The work of `receiver contacts subscribe`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from receiver.cli.database import connected
from receiver.cli.failures import CommandError
from receiver.cli.lines import note, say
from receiver.cli.output import json_line
from receiver.cli.place import Place, who
from receiver.contacts.addresses import Address, WrongAddress, entered
from receiver.contacts.opt_in import Asked, Request, request
from receiver.sending.means import means_of
from receiver.store.address_keys import check_address_key
from receiver.store.consent import sendable

_MAIL: Final = {
    "queued": "a mail with a link to confirm it is queued; the link works for seven days",
    "limited": "no further mail: the last one was queued less than 10 minutes ago, or three of them with this link",
    "suppressed": "no mail, since the address must not be mailed",
    "not_needed": "no confirmation is needed",
}


async def subscribe(place: Place, address: str, topic: str, wording: str, *, as_json: bool) -> None:
    """Raises CommandError, UnknownTopic, NoAccount, NoPublicUrl."""
    vault, now = place.vault(), datetime.now(UTC)
    url, no_account = place.settings.public_url, means_of(place.settings).no_links
    asked = Request(
        address=entered_address(address),
        topic=topic,
        source="cli",
        method="cli",
        at=now,
        now=now,
        wording=wording,
        detail={"who": who()},
    )
    async with connected(place.database()) as connection:
        await check_address_key(connection, vault.address_fingerprint)
        async with connection.transaction():
            became = await request(connection, vault, url, asked, no_account=no_account)
        (may,) = await sendable(connection, [vault.address_hash(asked.address.key)], topic, "marketing")
    _show(became, may["reason"], as_json=as_json)


def entered_address(address: str) -> Address:
    """Raises CommandError."""
    try:
        return entered(address)
    except WrongAddress as error:
        raise CommandError(str(error)) from None


def _show(became: Asked, reason: str | None, *, as_json: bool) -> None:
    """`reason`: why mail about the topic may not be sent now."""
    if as_json:
        json_line({"state": became.state, "mail": became.mail, "sendable": reason is None, "reason": reason})
        return
    say(f"{became.state}: {_MAIL[became.mail]}")
    if became.state == "subscribed" and reason is not None:
        note(f"mail about it may not be sent all the same: {reason}; `receiver contacts show` says why")
