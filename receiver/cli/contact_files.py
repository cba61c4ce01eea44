"""`receiver contacts import` and `export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson

if TYPE_CHECKING:
    import asyncpg

    from receiver.cli.place import Place
    from receiver.contacts.files import Listing

FORMATS: Final = ("csv", "jsonl")
_DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def _state(text: str | None) -> str | None:
    if text not in {None, "subscribed", "pending", "unsubscribed"}:
        raise typer.BadParameter("say subscribed, pending or unsubscribed")
    return text


Format = Annotated[str | None, typer.Option("--format", help="csv or jsonl (JSON Lines); else by the file.")]
Rejects = Annotated[
    Path | None, typer.Option("--rejects", metavar="FILE", help="Where rejected rows go, else FILE.rejected.csv.")
]

OfTopic = Annotated[str | None, typer.Option("--topic", help="Only who has said something about this topic.")]
OfState = Annotated[
    str | None, typer.Option("--state", help="With --topic: only subscribed, pending or unsubscribed.", callback=_state)
]
OfTag = Annotated[str | None, typer.Option("--tag", help="Only with this tag.")]
OfDomain = Annotated[str | None, typer.Option("--domain", help="Only addresses of this domain.")]
OfSegment = Annotated[str | None, typer.Option("--segment", help="Only who is in this segment now.")]


def import_(  # noqa: PLR0913, PLR0917 - the options of the command
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="CSV or JSON Lines.")],
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=FIELD", help="What a column is: a field, attributes.NAME, or -."),
    ] = None,
    topic: Annotated[list[str] | None, typer.Option("--topic", help="Subscribe them to it; may be repeated.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Tag all of them with it; may be repeated.")] = None,
    consent: Annotated[
        str | None, typer.Option("--consent", metavar="WORDING", help="The words they agreed to, as evidence.")
    ] = None,
    consented_at: Annotated[
        str | None,
        typer.Option("--consented-at", metavar="COLUMN|TIME", help="When they agreed; else now, if new."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Where they come from, for consent_log; else FILE.")
    ] = None,
    format_: Format = None,
    rejects: Rejects = None,
    *,
    even_erased: Annotated[
        bool, typer.Option("--even-erased", help="Also people who were erased at their wish; else they are skipped.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Import people from a file: a look, a report, then in chunks. Said again, it goes on where it was stopped.

    Who is known already gets what the file tells; empty cells change nothing. Columns that are no field become
    attributes (--map NAME=- leaves one out). Nobody who has unsubscribed, complained or bounced is brought back.

    Example: receiver contacts import people.csv --topic newsletter --consent "Send me the newsletter" --dry-run

    Example: receiver contacts import people.csv --map "Plan=attributes.plan" --map Notes=- --tag imported
    """
    from receiver.cli.importing import looked_through, rejects_of
    from receiver.cli.place import find_place, run_async

    place = find_place(context)
    listing = looked_through(file, _format(format_))
    wishes = Wishes(
        fields=_fields(listing, map_ or [], consented_at),
        topics=sorted(set(topic or [])),
        tags=sorted(set(tag or [])),
        wording=consent,
        consented=consented_at if consented_at in listing.columns else None,
        consented_at=None if consented_at in listing.columns else _time(consented_at),
        source=f"import:{source or file.name}",
        erased=even_erased,
    )
    _show_columns(listing, wishes.fields, wishes.consented)
    answers = {"yes": yes, "dry_run": dry_run, "as_json": as_json}
    run_async(_import(place, listing, wishes, rejects_of(file, rejects), **answers))


def _format(text: str | None) -> Any:
    if text is not None and text not in FORMATS:
        raise typer.BadParameter(f"the format is one of {', '.join(FORMATS)}")
    return text


def _time(text: str | None) -> datetime | None:
    from receiver.contacts.times import WrongTime, time_in

    try:
        return time_in(text, now=datetime.now(UTC))
    except WrongTime as error:
        raise typer.BadParameter(f"--consented-at {text} is no column of the file, and as a time: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How a file of people is to be imported; all of it makes it another import of the same file."""

    fields: Mapping[str, str]
    topics: Sequence[str]
    tags: Sequence[str]
    wording: str | None
    consented: str | None
    consented_at: datetime | None
    source: str
    erased: bool


def _fields(listing: Listing, given: Sequence[str], consented: str | None) -> dict[str, str]:
    from receiver.cli.failures import CommandError
    from receiver.contacts.people import LEAVE_OUT, mapping

    fields = mapping(listing.columns, given)
    if consented in fields and not any(one.startswith(f"{consented}=") for one in given):
        fields[consented] = LEAVE_OUT
    if "address" not in fields.values():
        found = ", ".join(listing.columns)
        raise CommandError(f"no column looks like the address; the file has {found}. Say --map COLUMN=address")
    return fields


def _show_columns(listing: Listing, fields: Mapping[str, str], consented: str | None) -> None:
    """On standard error, so that a report can be piped."""
    from receiver.cli.lines import note
    from receiver.contacts.people import LEAVE_OUT

    kind = "JSON Lines" if listing.format == "jsonl" else f"CSV separated by {_DELIMITERS[listing.delimiter]}"
    note(f"{listing.path.name}: {kind}, {listing.encoding}" + ("" if listing.header else ", without a header"))
    width = max(map(len, fields))
    for column, field_ in fields.items():
        left = "(when they agreed)" if column == consented else "(left out)"
        note(f"  {column:{width}}  {left if field_ == LEAVE_OUT else field_}")


def export(  # noqa: PLR0917 - the options of the command
    context: typer.Context,
    format_: Annotated[
        str | None, typer.Option("--format", help="csv or jsonl (JSON Lines); else by the name of the file, else csv.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", dir_okay=False, help="A file; else standard output.")
    ] = None,
    topic: OfTopic = None,
    state: OfState = None,
    tag: OfTag = None,
    domain: OfDomain = None,
    segment: OfSegment = None,
) -> None:
    """Export people, as they are at one moment, as `import` reads them back.

    A file appears once it is whole, and only you may read it. In CSV, cells that a spreadsheet would run are escaped.

    Example: receiver contacts export --topic newsletter --state subscribed --out subscribers.csv
    """
    from receiver.cli.exporting import Which
    from receiver.cli.exporting import export as do
    from receiver.cli.place import find_place, run_async

    given = _format(format_) or ("jsonl" if out is not None and out.suffix in {".jsonl", ".ndjson"} else "csv")
    which = Which(topic=topic, state=state, tag=tag, domain=domain, segment=segment)
    run_async(do(find_place(context), which, given, out))


async def _import(place: Place, listing: Listing, wishes: Wishes, rejects: Path, **answers: bool) -> None:
    from dataclasses import asdict

    from receiver.cli.database import connected
    from receiver.cli.importing import Wanted, run
    from receiver.contacts.arrivals import Arrivals
    from receiver.contacts.people import Reading
    from receiver.store.address_keys import check_address_key

    vault = place.vault()

    def task(began_at: datetime) -> Arrivals:
        reading = Reading(fields=wishes.fields, texts=listing.format == "csv", now=began_at, consented=wishes.consented)
        return Arrivals(
            reading=reading,
            vault=vault,
            topics=wishes.topics,
            tags=tuple(wishes.tags),
            source=wishes.source,
            began_at=began_at,
            wording=wishes.wording,
            consented_at=wishes.consented_at,
            erased=wishes.erased,
        )

    async with connected(place.database()) as connection:
        await check_address_key(connection, vault.address_fingerprint)
        await require_topics(connection, wishes.topics)
        options = asdict(wishes) | {"consented_at": wishes.consented_at and wishes.consented_at.isoformat()}
        wanted = Wanted(
            command="contacts import", listing=listing, options=options, task=task, rejects=rejects, **answers
        )
        await run(connection, wanted)


async def require_topics(connection: asyncpg.Connection, names: Sequence[str]) -> None:
    """Raises CommandError for one that is not there, or given up."""
    from receiver.cli.failures import CommandError
    from receiver.store.topics import topics

    found = {row["name"] for row in await topics(connection, names, archived=False)}
    if missing := [name for name in names if name not in found]:
        raise CommandError(f"there is no topic {missing[0]} in use: `receiver topics add {missing[0]}` makes it")
