"""`receiver doctor`: why requests of a source are refused, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from receiver.cli.options import AsJson, moment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from receiver.cli.place import Place
    from receiver.ingest.diagnosis import Clinic, Finding
    from receiver.sources import Source

EACH: Final = 5  # requests of one reason that are tried; the newest


def doctor(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A source's name.")],
    *,
    since: Annotated[Any, typer.Option(parser=moment, help="Only requests since then, such as 2h.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at a source's refused requests and say what is most likely wrong, by trying what may have gone wrong.

    Exit status 1 where something is to be done.

    Example: receiver doctor shop
    """
    from receiver.cli.place import find_place, run_async

    if run_async(_doctor(find_place(context), source, since, as_json=as_json)):
        raise typer.Exit(1)


async def _doctor(place: Place, name: str, since: datetime | None, *, as_json: bool) -> bool:
    """Whether something is wrong."""
    from receiver.cli.database import connected
    from receiver.cli.output import json_line
    from receiver.cli.released import clinic_of
    from receiver.store import refused
    from receiver.store.queries import last_events

    async with clinic_of(place, name) as (clinic, source), connected(place.database()) as connection:
        rows = await refused.kept(connection, name, since=since)
        findings = await _findings(clinic, source, place, rows)
        last = (await last_events(connection, [name], since=_month_ago())).get(name)
    if as_json:
        for finding in findings:
            json_line(finding)
    else:
        _show(source, findings, last)
    return bool(findings)


async def _findings(clinic: Clinic, source: Source, place: Place, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """One for each cause, the most frequent first. Of each reason the newest requests are tried."""
    from receiver.cli.released import opened

    vault = place.vault()
    tried: dict[Finding, dict[str, Any]] = {}
    newest: dict[str, int] = {}
    last: dict[str, Finding] = {}
    for row in rows:
        reason = row["reason"]
        newest[reason] = newest.get(reason, 0) + 1
        if newest[reason] <= EACH:
            delivery, whole = opened(row, vault)
            last[reason] = await clinic.diagnose(source, delivery, reason, row["detail"], whole=whole)
        found = last[reason]  # older ones of the same reason count as the last that was tried
        entry = tried.setdefault(
            found,
            {
                "source": source.name,
                "requests": 0,
                "reason": reason,
                "cause": found.cause,
                "advice": found.advice,
                "mended": found.mended,
                "newest": row["refused_at"],
                "id": row["id"],
            },
        )
        entry["requests"] += row["times"]
    return sorted(tried.values(), key=lambda entry: -entry["requests"])


def _show(source: Source, findings: Sequence[dict[str, Any]], last: datetime | None) -> None:
    from receiver.cli.lines import say
    from receiver.sources import source_warnings

    came = "no event in a month" if last is None else f"its last event came {last:%Y-%m-%d %H:%M:%S %Z}"
    say(f"{source.name}: {source.provider.title}; {came}")
    for warning in source_warnings(source):
        say(f"Warning: {warning}")
    if not findings:
        say("No refused request is kept." + ("" if last else _NOTHING.format(name=source.name)))
        return
    for number, found in enumerate(findings, 1):
        say("")
        when = format(found["newest"], "%Y-%m-%d %H:%M:%S %Z")
        say(f"{number}. {found['requests']} refused ({found['reason']}), the last at {when}:")
        say(f"   {found['cause']}.")
        say(f"   {found['advice']}.")
        say(f"   Look at one: receiver refused show {found['id']} --reveal")
    say("")
    say(f"When it is mended: receiver refused release {source.name} --dry-run")


_NOTHING: Final = (
    " Nothing has reached this URL in a month: is it pasted at the provider (`receiver sources show {name}`), and "
    "can the provider reach it from the internet?"
)


def _month_ago() -> datetime:
    from datetime import UTC, datetime, timedelta

    return datetime.now(UTC) - timedelta(days=31)
