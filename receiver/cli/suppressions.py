"""`receiver suppressions`: who must not be mailed, and why; adding and lifting by hand."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli import incidents, options, suppression_files, syncing
from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson, Limit, OfSource, moment, words

if TYPE_CHECKING:
    from receiver.store.suppression_list import Which

group = options.group(
    "Who must not be mailed, and why: `list`, `show`, `add`, `lift`, `import`, `sync` and `incidents`."
)
group.add_typer(incidents.group, name="incidents")
group.command("import")(suppression_files.import_)
group.command("sync")(syncing.sync)


class Why(StrEnum):
    """Reasons of suppressions."""

    HARD_BOUNCE = "hard_bounce"
    SOFT_BOUNCE = "soft_bounce"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"
    MANUAL = "manual"
    IMPORTED = "imported"


class ByHand(StrEnum):
    """Reasons that a person can give."""

    MANUAL = "manual"
    HARD_BOUNCE = "hard_bounce"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"


class Standing(StrEnum):
    """What a suppression comes to now."""

    ACTIVE = "active"
    PROVISIONAL = "provisional"
    RELEASED = "released"
    EXPIRED = "expired"
    LIFTED = "lifted"


Domain = Annotated[str | None, typer.Option("--domain", help="Only addresses of this domain.")]
Provider = Annotated[
    str | None,
    typer.Option(
        "--mailbox-provider",
        parser=words,
        metavar="NAME",
        help="Only mailboxes of this company: google, microsoft, ...",
    ),
]
Since = Annotated[
    datetime | None, typer.Option("--since", parser=moment, metavar="TIME", help="Begun since: 2h, 7d, 2026-01-31.")
]
Until = Annotated[
    datetime | None, typer.Option("--until", parser=moment, metavar="TIME", help="Nothing newer than: 2h, 2026-01-31.")
]
Match = Annotated[
    str | None,
    typer.Option("--match", parser=words, metavar="TEXT", help="Only where the bounce said this: codes, or its words."),
]
OfReason = Annotated[Why | None, typer.Option("--reason", help="Only for this reason.")]
Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="The mail address.")]
Because = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for those who look later.")]


@group.command("list")
def list_(  # noqa: PLR0913, PLR0917 - the options of the command
    context: typer.Context,
    reason: OfReason = None,
    domain: Domain = None,
    mailbox_provider: Provider = None,
    source: OfSource = None,
    since: Since = None,
    until: Until = None,
    match: Match = None,
    state: Annotated[
        list[Standing] | None,
        typer.Option("--state", help="Only these; else all that are not lifted. Can be repeated."),
    ] = None,
    limit: Limit = 50,
    *,
    as_json: AsJson = False,
) -> None:
    """List suppressions, the latest first. Where no contact has the address, its hash's start is all that is known.

    Example: receiver suppressions list --reason hard_bounce --domain gmail.com --since 7d
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.suppressing import list_all

    which = _which(reason, domain, mailbox_provider, source, since, until, match, state)
    run_async(list_all(find_place(context), which, limit, as_json=as_json))


@group.command()
def show(context: typer.Context, address: Address, *, as_json: AsJson = False) -> None:
    """Show whether an address may be mailed at all, and every suppression that it has or had.

    Example: receiver suppressions show ada@example.com
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.suppressing import show_one

    run_async(show_one(find_place(context), address, as_json=as_json))


@group.command()
def add(
    context: typer.Context,
    address: Address,
    reason: Annotated[ByHand, typer.Option("--reason", help="What it counts as.")] = ByHand.MANUAL,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why, for those who look later.")] = "",
    brand: Annotated[
        str | None, typer.Option("--brand", parser=words, metavar="NAME", help="Only for mail of this brand.")
    ] = None,
    *,
    marketing: Annotated[
        bool, typer.Option("--marketing", help="Only marketing mail; complaints and unsubscribes are that anyway.")
    ] = False,
) -> None:
    """Suppress one address by hand.

    Example: receiver suppressions add ada@example.com --note "asked us on the phone"
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.suppressing import add_one

    marketing = marketing or bool(brand) or reason in (ByHand.COMPLAINT, ByHand.UNSUBSCRIBE)
    adding = add_one(find_place(context), address, reason.value, "marketing" if marketing else "all", brand or "", note)
    run_async(adding)


@group.command()
def lift(  # noqa: PLR0913, PLR0917 - the options of the command
    context: typer.Context,
    reason: Annotated[Why, typer.Option("--reason", help="The reason for which it is suppressed.")],
    why: Because,
    address: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="One address; else say which ones.")
    ] = None,
    domain: Domain = None,
    mailbox_provider: Provider = None,
    source: OfSource = None,
    since: Since = None,
    until: Until = None,
    match: Match = None,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let an address be mailed again, or many at once that were suppressed by mistake.

    Events older than this do not bring the suppression back; a new bounce or complaint does. `--since` and `--until`
    choose what rests on that time alone. Complaints and unsubscribes are lifted for one address at a time.

    Example: receiver suppressions lift ada@example.com --reason hard_bounce --why "the mailbox is back"

    Example: receiver suppressions lift --reason hard_bounce --domain gmail.com --since 2026-12-14 --until 2026-12-16
    --match "550 5.1.1" --why "Gmail's bad day" --dry-run
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.suppressing import lift_some

    which = _which(reason, domain, mailbox_provider, source, since, until, match)
    run_async(lift_some(find_place(context), which, address, why, yes=yes, dry_run=dry_run, as_json=as_json))


def _which(  # noqa: PLR0917 - the options of the commands
    reason: Why | None,
    domain: str | None,
    mailbox_provider: str | None,
    source: str | None,
    since: datetime | None,
    until: datetime | None,
    match: str | None,
    states: list[Standing] | None = None,
) -> Which:
    from receiver.classify.addresses import domain_of, normalize_address
    from receiver.store.suppression_list import NOT_LIFTED, Which

    if domain is not None and not (domain := domain_of(normalize_address(f"x@{domain}") or "")):
        raise typer.BadParameter("is not a domain", param_hint="--domain")
    return Which(
        reason=reason.value if reason else None,
        domain=domain,
        mailbox_provider=None if mailbox_provider is None else mailbox_provider.lower(),
        source=source,
        since=since,
        until=until,
        match=match,
        states=[one.value for one in states] if states else NOT_LIFTED,
    )
