"""`receiver policy`: what bounces mean for an address, what another policy would do, and what mail is refused."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from receiver.cli import options
from receiver.cli.options import AsJson, Limit, ListFirst, moment

if TYPE_CHECKING:
    from receiver.cli.place import Place
    from receiver.contacts.configured import Effective
    from receiver.contacts.previewing import Preview


class ShowFirst(ListFirst):
    """`receiver policy --json` means `receiver policy show --json`."""

    first = "show"


group = options.group("What bounces mean for an address: `show`, `preview` and `rates`.", ShowFirst)


@group.command()
def show(context: typer.Context, *, as_json: AsJson = False) -> None:
    r"""Show what each class of bounce does, and which of it the table `\[policy]` has set.

    Example: receiver policy show
    """
    from receiver.cli.place import find_place

    _show(find_place(context), as_json=as_json)


@group.command()
def rates(
    context: typer.Context,
    since: Annotated[
        datetime | None, typer.Option("--since", parser=moment, metavar="TIME", help="By default 24h.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", parser=moment, metavar="TIME", help="By default now.")
    ] = None,
    sender_domain: Annotated[str | None, typer.Option("--sender-domain", help="Only mail from this domain.")] = None,
    mailbox_provider: Annotated[
        str | None, typer.Option("--mailbox-provider", help="Only to this company: google, microsoft, ...")
    ] = None,
    limit: Limit = 50,
    *,
    as_json: AsJson = False,
) -> None:
    """Show what became of mail, by sender domain and mailbox provider: blocks and complaints are the sender's problem.

    Rates are shares of what was delivered or bounced in that time, of complaints: of what was delivered. - means that
    there was none, or that the mailbox provider does not tell of complaints.

    Example: receiver policy rates --since 6h --mailbox-provider microsoft
    """
    from receiver.cli.place import find_place, run_async

    begin = since or datetime.now(UTC) - timedelta(days=1)
    end = until or datetime.now(UTC) + timedelta(minutes=5)  # a provider's clock may be ahead
    run_async(_rates(find_place(context), begin, end, sender_domain, mailbox_provider, limit, as_json=as_json))


@group.command()
def preview(
    context: typer.Context,
    since: Annotated[
        datetime | None, typer.Option("--since", parser=moment, metavar="TIME", help="By default 30d.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    r"""Judge the stored bounces by the table `\[policy]`, and say who would be suppressed or released by it.

    Compares with the suppressions that are in force, and changes nothing. So write what you have in mind into a copy of
    receiver.toml, and name it. What rests on something older than --since, or was lifted, is left as it is.

    Example: receiver policy preview --since 30d --config changed.toml
    """
    from receiver.cli.place import find_place, run_async

    run_async(_preview(find_place(context), since or datetime.now(UTC) - timedelta(days=30), as_json=as_json))


def _show(place: Place, *, as_json: bool) -> None:
    from receiver.cli.lines import note
    from receiver.cli.output import json_line, table
    from receiver.contacts.configured import effective
    from receiver.durations import say_duration

    settings = place.settings.policy
    found = [*effective(settings)]
    if as_json:
        for one in found:
            json_line(_as_json(one))
        return
    head = ("class", "stream", "suppresses", "set")
    table(head, ((one.rule, one.stream or "all", _words(one), "yes" if one.is_set else None) for one in found))
    note(
        f"what rests on a mailbox provider's bad day alone counts for {say_duration(settings.release_after)} after it; "
        "a bounce in a row means without a delivery, an open or a click by a person between them"
    )


def _words(one: Effective) -> str:
    from receiver.contacts.policy import Repeated
    from receiver.durations import say_duration

    if not isinstance(one.action, Repeated):
        return one.action.replace("_", " ")
    rule = one.action
    lengths = ", then ".join([*(f"for {say_duration(length)}" for length in rule.expires), "for good"])
    over = f" over {say_duration(rule.over)}" if rule.over else ""
    agrees = "; at once where the email provider calls it hard" if rule.unless_provider_agrees else ""
    return f"{rule.messages} messages in a row{over}: {lengths}{agrees}"


def _as_json(one: Effective) -> dict[str, Any]:
    from dataclasses import asdict

    from receiver.contacts.policy import Repeated

    values: dict[str, Any] = {"class": one.rule, "stream": one.stream or None, "set": one.is_set}
    if isinstance(one.action, Repeated):
        return values | {"action": "repeated"} | asdict(one.action)
    return values | {"action": one.action}


async def _rates(
    place: Place,
    since: datetime,
    until: datetime,
    sender: str | None,
    provider: str | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.store.bounce_rates import rates

    async with connected(place.database()) as connection:
        found = await rates(connection, since, until, sender_domain=sender, mailbox_provider=provider, limit=limit)
    if as_json:
        for one in found:
            json_line(asdict(one) | one.rates)
        return
    head = (
        "sender",
        "mailboxes",
        "attempted",
        "hard",
        "soft",
        "block",
        "complaints",
        "hard %",
        "soft %",
        "block %",
        "compl. %",
    )
    rows = (
        (
            *(one.sender_domain or "(not known)", one.mailbox_provider or "(others)", one.attempted),
            *(one.hard, one.soft, one.block, one.complaints),
            *(None if rate is None else f"{100 * rate:.2f}" for rate in one.rates.values()),
        )
        for one in found
    )
    table(head, rows, empty="no mail in that time")


async def _preview(place: Place, since: datetime, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.progress import progress
    from receiver.contacts.configured import policy_of
    from receiver.contacts.previewing import preview
    from receiver.store.address_keys import check_address_key
    from receiver.store.policy_preview import count_bounces

    vault, policy = place.vault(), policy_of(place.settings.policy)
    async with connected(place.database()) as connection:
        await check_address_key(connection, vault.address_fingerprint)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            with progress("bounces", await count_bounces(connection, since)) as show_progress:
                found = await preview(connection, vault, policy, since, show_progress)
    _print_preview(found, as_json=as_json)


def _print_preview(found: Preview, *, as_json: bool) -> None:
    from receiver.cli.lines import note
    from receiver.cli.output import json_line, table

    changes = sorted(found.changes.items(), key=lambda item: (item[0].kind, -item[1], item[0].rule))
    if as_json:
        for change, count in changes:
            json_line({**change._asdict(), "addresses": count, "sample": found.sample[change]})
        return
    head = ("would be", "for", "because of", "addresses", "such as")
    rows = ((one.kind, one.reason, one.rule, count, found.sample[one]) for one, count in changes)
    table(head, rows, empty="nothing would change")
    total = Counter[str]()
    for change, count in changes:
        total[change.kind] += count
    kinds = ", ".join(f"{total[kind]} {kind}" for kind in ("suppressed", "released", "changed"))
    note(f"of {found.people} addresses with a bounce: {kinds}; nothing was changed")
