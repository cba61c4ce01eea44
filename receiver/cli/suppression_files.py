"""`receiver suppressions import`: the lists of a provider that a team leaves, or uses beside others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli.asking import DryRun, Yes
from receiver.cli.contact_files import Rejects
from receiver.cli.options import AsJson, moment, words

if TYPE_CHECKING:
    from receiver.cli.place import Place
    from receiver.contacts.files import Listing


class From(StrEnum):
    """Whose export it is."""

    SENDGRID = "sendgrid"
    MAILGUN = "mailgun"
    POSTMARK = "postmark"
    SES = "ses"
    RESEND = "resend"
    MAILCHIMP = "mailchimp"
    CSV = "csv"


class TakenFor(StrEnum):
    """What rows without a reason of their own are."""

    HARD_BOUNCE = "hard_bounce"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"
    MANUAL = "manual"
    IMPORTED = "imported"


def import_(  # noqa: PLR0913, PLR0917 - the options of the command
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="CSV or JSON.")],
    from_: Annotated[From, typer.Option("--from", help="Whose export it is; csv: any with a column email.")],
    list_: Annotated[
        str | None, typer.Option("--list", metavar="NAME", help="Which of its lists, where the file does not tell.")
    ] = None,
    reason: Annotated[
        TakenFor | None, typer.Option("--reason", help="What rows are taken for that give no reason we know.")
    ] = None,
    brand: Annotated[
        str | None,
        typer.Option(
            "--brand", parser=words, metavar="NAME", help="Complaints and unsubscribes concern this brand alone."
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option("--topic", parser=words, metavar="NAME", help="Unsubscribes are from this topic, not all."),
    ] = None,
    at: Annotated[
        datetime | None,
        typer.Option("--at", parser=moment, metavar="TIME", help="Of rows that state no time; else FILE's own."),
    ] = None,
    rejects: Rejects = None,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take over a provider's suppression list. A row counts from the time it states: what was lifted later stays so.

    Nothing is lowered or lifted by it, and a second time it changes nothing.

    Example: receiver suppressions import suppression_bounces.csv --from sendgrid --dry-run

    Example: receiver suppressions import dump.json --from postmark --yes
    """
    from receiver.cli.importing import looked_through, rejects_of
    from receiver.cli.place import find_place, run_async
    from receiver.contacts.files import format_of_export
    from receiver.contacts.suppression_files import which_list

    place = find_place(context)
    listing = looked_through(file, format_of_export(file))
    wishes = Wishes(
        preset=from_.value,
        which=which_list(from_.value, list_, file.name, listing.columns),
        as_of=at or datetime.fromtimestamp(file.stat().st_mtime, UTC),
        brand=brand or "",
        topic=topic,
        reason=reason.value if reason else None,
    )
    answers = {"yes": yes, "dry_run": dry_run, "as_json": as_json}
    run_async(_import(place, listing, wishes, rejects_of(file, rejects), **answers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """As `SuppressionArrivals` has them."""

    preset: str
    which: str
    as_of: datetime
    brand: str
    topic: str | None
    reason: str | None


async def _import(place: Place, listing: Listing, wishes: Wishes, rejects: Path, **answers: bool) -> None:
    from dataclasses import asdict

    from receiver.cli.contact_files import require_topics
    from receiver.cli.database import connected
    from receiver.cli.importing import Wanted, run
    from receiver.cli.lines import note
    from receiver.contacts.suppression_arrivals import SuppressionArrivals
    from receiver.store.address_keys import check_address_key

    vault = place.vault()

    def task(now: datetime) -> SuppressionArrivals:
        return SuppressionArrivals(vault=vault, now=now, **asdict(wishes))

    async with connected(place.database()) as connection:
        await check_address_key(connection, vault.address_fingerprint)
        await require_topics(connection, [wishes.topic] if wishes.topic else [])
        note(f"{listing.path.name}: {wishes.which or 'suppressions'} of {wishes.preset}, {listing.format}")
        if wishes.which == "blocks":
            note("SendGrid's blocks are refused messages, not suppressed addresses: none of them is taken")
        options = asdict(wishes) | {"as_of": wishes.as_of.isoformat()}
        wanted = Wanted(
            command="suppressions import", listing=listing, options=options, task=task, rejects=rejects, **answers
        )
        await run(connection, wanted)
