"""`receiver links`: links for mail that something else sends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli.options import AsJson, words

if TYPE_CHECKING:
    from receiver.cli.place import Place

group = typer.Typer(
    help="Links for mail: `unsubscribe` makes one, `preferences` mails one.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="The address that the mail goes to.")]
Brand = Annotated[
    str | None,
    typer.Option("--brand", parser=words, metavar="NAME", help="Whose mail it is, where there are several brands."),
]


@group.command()
def unsubscribe(
    context: typer.Context,
    address: Address,
    topic: Annotated[
        str | None,
        typer.Option("--topic", parser=words, metavar="NAME", help="The topic to leave; else all marketing mail."),
    ] = None,
    brand: Brand = None,
    send: Annotated[str, typer.Option("--send", help="An id of the message, for the log of consent.")] = "",
    mailto: Annotated[
        str | None, typer.Option("--mailto", help="An address that somebody reads, for clients without one-click.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make the unsubscribe link of one message, and the headers for one-click unsubscribing (RFC 8058).

    Example: receiver links unsubscribe ada@example.com --topic news
    """
    from receiver.cli.place import find_place, run_async

    run_async(_unsubscribe(find_place(context), address, topic or "", brand or "", send, mailto, as_json=as_json))


@group.command()
def preferences(context: typer.Context, address: Address, brand: Brand = None) -> None:
    """Queue a mail with a link to the preference page, as the button of the unsubscribe page does.

    Example: receiver links preferences ada@example.com
    """
    from receiver.cli.place import find_place, run_async

    run_async(_preferences(find_place(context), address, brand or ""))


async def _unsubscribe(
    place: Place, address: str, topic: str, brand: str, send: str, mailto: str | None, *, as_json: bool
) -> None:
    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import note, say
    from receiver.cli.output import json_line
    from receiver.contacts.addresses import WrongAddress
    from receiver.contacts.links import list_unsubscribe_headers, unsubscribe_url
    from receiver.store.address_keys import check_address_key
    from receiver.store.choices import topic as find_topic

    vault = place.vault()
    try:
        url = unsubscribe_url(vault, place.settings.public_url, address, topic=topic, brand=brand, send=send)
        headers = list_unsubscribe_headers(url, mailto=mailto)
    except WrongAddress as error:
        raise CommandError(str(error)) from None
    async with connected(place.database()) as connection:  # a link under another key would unsubscribe nobody
        await check_address_key(connection, vault.address_fingerprint)
        if topic and await find_topic(connection, topic) is None:
            note(f"there is no topic {topic}; `receiver topics` shows those there are")
    if as_json:
        json_line({"url": url, "headers": headers})
        return
    for line in (url, *(f"{name}: {value}" for name, value in headers.items())):
        say(line)


async def _preferences(place: Place, address: str, brand: str) -> None:
    from datetime import UTC, datetime

    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import say
    from receiver.cli.person import looked_up
    from receiver.contacts.opt_in import mail_preferences
    from receiver.sending.means import means_of
    from receiver.store.address_keys import check_address_key

    vault, key = place.vault(), looked_up(address)
    url, no_account = place.settings.public_url, means_of(place.settings).no_links
    async with connected(place.database()) as connection, connection.transaction():
        await check_address_key(connection, vault.address_fingerprint)
        hashed, now = vault.address_hash(key), datetime.now(UTC)
        became = await mail_preferences(connection, vault, url, hashed, brand, now, no_account=no_account)
    if became != "queued":
        raise CommandError(_NOT_QUEUED[became])
    say("queued: the link in it works for 24 hours")


_NOT_QUEUED = {
    "limited": "not queued: the last such mail was queued less than 10 minutes ago, or three of them within a day",
    "suppressed": "not queued: no contact has this address, or it must not be mailed (see `receiver contacts show`)",
}
