"""`receiver suppressions sync`: our suppressions and the lists that a provider keeps, brought together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import asyncpg

    from receiver.cli.place import Place
    from receiver.contacts.comparing import Comparison
    from receiver.contacts.files import Listing
    from receiver.contacts.suppression_arrivals import Ours, SuppressionArrivals
    from receiver.sending.accounts import AccountSettings
    from receiver.sending.provider_lists import ProviderLists
    from receiver.store.consent import Action

SHOWN: Final = 20  # people, of each kind


def sync(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="An account, as the configuration names it.")],
    *,
    pull: Annotated[bool, typer.Option("--pull", help="Take over whom the provider holds back and we do not.")] = False,
    push: Annotated[
        bool,
        typer.Option(
            "--push", help="Hold back there whom we hold back from all mail, and take off whom we have lifted."
        ),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Compare our suppressions with the lists that the provider of an account keeps; --pull and --push even them out.

    Without either it only shows the differences. For sendgrid, mailgun, postmark, ses and resend.

    Example: receiver suppressions sync main

    Example: receiver suppressions sync main --pull --push --dry-run
    """
    from receiver.cli.failures import CommandError
    from receiver.cli.place import find_place, run_async
    from receiver.sending.provider_lists import lists_of

    place = find_place(context)
    settings = _settings_of(place, account)
    lists = lists_of(settings)
    if lists is None:
        raise CommandError(f"accounts.{account}: {settings.transport} has no suppression list that could be asked")
    answers = {"yes": yes, "dry_run": dry_run, "as_json": as_json}
    run_async(_Sync(place, account, settings.transport, lists, **answers).run(pull=pull, push=push))


def _settings_of(place: Place, name: str) -> AccountSettings:
    from receiver.cli.failures import CommandError
    from receiver.errors import ConfigError
    from receiver.sending.accounts import find_accounts

    accounts, problems = find_accounts(place.settings)
    if name in accounts:
        return accounts[name].settings
    if name in place.settings.accounts:
        raise ConfigError([one for one in problems if f"{one.key}.".startswith(f"accounts.{name}.")])
    known = ", ".join(accounts) or "none"
    raise CommandError(f"there is no account {name} in the configuration: it has {known}")


class _Sync:
    """One run."""

    def __init__(
        self, place: Place, account: str, preset: str, lists: ProviderLists, *, yes: bool, dry_run: bool, as_json: bool
    ) -> None:
        self.place = place
        self.account = account
        self.preset = preset
        self.lists = lists
        self.yes = yes
        self.dry_run = dry_run
        self.as_json = as_json

    async def run(self, *, pull: bool, push: bool) -> None:
        """Read everything there, compare, and do what was asked for."""
        from pathlib import Path
        from tempfile import TemporaryDirectory

        from receiver.cli.database import connected
        from receiver.store.address_keys import check_address_key

        vault = self.place.vault()
        async with connected(self.place.database()) as connection:
            await check_address_key(connection, vault.address_fingerprint)
            with TemporaryDirectory(prefix="receiver-sync-") as directory:  # which only its owner may look into
                try:
                    listing = await self._read(Path(directory) / f"{self.account}.jsonl")
                    await self._even_out(connection, listing, pull=pull, push=push)
                finally:
                    await self.lists.client.aclose()

    async def _read(self, path: Path) -> Listing | None:
        """All lists in one file; None where they are empty."""
        import json

        from receiver.cli.progress import progress
        from receiver.contacts.files import look_through
        from receiver.contacts.suppression_files import LIST

        done = 0
        with path.open("x", encoding="utf-8") as file, progress(f"reading {self.preset}'s lists", None) as show:
            async for page in self.lists.pages():
                file.writelines(json.dumps({**row, LIST: page.list}) + "\n" for row in page.rows)
                done += len(page.rows)
                show(done)
        return look_through(path, format_="jsonl") if done else None

    async def _even_out(
        self, connection: asyncpg.Connection, listing: Listing | None, *, pull: bool, push: bool
    ) -> None:
        from datetime import UTC, datetime

        from receiver.cli.lines import note
        from receiver.cli.progress import progress
        from receiver.contacts.comparing import compare
        from receiver.contacts.suppression_arrivals import Ours
        from receiver.store.suppression_list import pushed

        ours = Ours(self.lists.reason, await pushed(connection, self._source))
        arrivals = self._arrivals(now := datetime.now(UTC), now, None)
        with progress("comparing", None) as show:
            found = await compare(connection, listing, arrivals, ours, marketing=self.lists.marketing, show=show)
        if not (pull or push):
            self._show(found)
        if pull and listing is not None:
            await self._pull(connection, listing, now, ours)
        elif pull:
            note(f"{self.preset} holds nobody back")
        if push:
            await self._push(connection, found)

    def _arrivals(self, now: datetime, as_of: datetime, ours: Ours | None) -> SuppressionArrivals:
        from receiver.contacts.suppression_arrivals import SuppressionArrivals

        return SuppressionArrivals(
            preset=self.preset, which="", vault=self.place.vault(), as_of=as_of, now=now, ours=ours
        )

    async def _pull(self, connection: asyncpg.Connection, listing: Listing, as_of: datetime, ours: Ours) -> None:
        """As an import of a file that the provider has just exported."""
        from pathlib import Path

        from receiver.cli.importing import Wanted, run

        wanted = Wanted(
            command="suppressions sync",
            listing=listing,
            options={"account": self.account, "as_of": as_of.isoformat()},
            task=lambda now: self._arrivals(now, as_of, ours),
            rejects=Path(f"{self.account}.rejected.csv"),
            yes=self.yes,
            dry_run=self.dry_run,
            as_json=self.as_json,
        )
        await run(connection, wanted)

    async def _push(self, connection: asyncpg.Connection, found: Comparison) -> None:
        from receiver.cli.asking import go_on
        from receiver.cli.lines import note
        from receiver.cli.place import who
        from receiver.store.queries import write_audit

        count = len(found.only_here) + len(found.lifted_here)
        self._show(found, there=False)
        if not count:
            note(f"nothing to change at {self.preset}")
            return
        note(f"at {self.preset}: {len(found.only_here)} to be added, {len(found.lifted_here)} to be taken off")
        if not go_on(dry_run=self.dry_run, yes=self.yes):
            return
        what = f"{self.account}: add {len(found.only_here)}, take off {len(found.lifted_here)}"
        await write_audit(connection, who(), "suppressions sync", what)
        refused = await self._change(connection, found, count)
        note(f"{count - refused} changed at {self.preset}" + (f"; it has refused {refused}" if refused else ""))

    async def _change(self, connection: asyncpg.Connection, found: Comparison, count: int) -> int:
        """The number of those that were refused. What was done before Ctrl-C stays; said again, the rest follows."""
        from receiver.cli.progress import progress

        done = refused = 0
        with progress(f"changing {self.preset}'s lists", count) as show:
            for all_mail in (True, False):
                some = [one.address for one in found.only_here if one.address and one.all_mail == all_mail]
                for batch in _batches(some, self.lists.batch):
                    refused += await self.lists.add(batch, all_mail=all_mail)
                    await self._record(connection, "suppressed", batch)
                    show(done := done + len(batch))
            for name in dict.fromkeys(one.list for one in found.lifted_here):
                for batch in _batches([one.address for one in found.lifted_here if one.list == name], self.lists.batch):
                    refused += await self.lists.remove(name, batch)
                    await self._record(connection, "lifted", batch)
                    show(done := done + len(batch))
        return refused

    @property
    def _source(self) -> str:
        """As `consent_log` calls what we have changed there."""
        from receiver.contacts.holders import SYNC

        return SYNC + self.account

    async def _record(self, connection: asyncpg.Connection, action: Action, addresses: Sequence[str]) -> None:
        """So that the next run knows whom we have put there ourselves, and takes it for no word of the person."""
        from datetime import UTC, datetime

        from receiver.store.consent import Statement, record

        vault, now = self.place.vault(), datetime.now(UTC)
        statements = [
            Statement(
                address_hash=vault.address_hash(one),
                address=one,
                action=action,
                at=now,
                source=self._source,
                method="push",
            )
            for one in addresses
        ]
        await record(connection, statements)

    def _show(self, found: Comparison, *, there: bool = True) -> None:
        """The differences: as JSON all of them, else the first of each kind. `there`: also what only they have."""
        from receiver.cli.lines import note
        from receiver.cli.output import json_line, table

        only_here = [(one.address, "only here", None, None) for one in found.only_here]
        lifted = [(one.address, "lifted here, still held there", one.reason, one.list) for one in found.lifted_here]
        only_there = [(one.address, "only there", one.reason, one.list) for one in found.only_there] if there else []
        if self.as_json:
            for row in (*only_there, *lifted, *only_here):
                json_line(dict(zip(("address", "difference", "reason", "list"), row, strict=True)))
        else:
            rows = [row for some in (only_there, lifted, only_here) for row in some[:SHOWN]]
            table(("address", "difference", "reason", "list"), rows, empty="no difference")
        differ = f"{len(found.only_there)} only there, {len(lifted)} lifted here and still held there"
        note(f"{self.preset} has {found.rows} rows: {differ}, {len(only_here)} only here")
        if found.unknown:
            note(f"{found.unknown} more are only here, by hash: nobody knows their addresses any more")
        if found.wrong:
            note(f"{found.wrong} rows there cannot be read; --pull writes them with their reasons into a file")


def _batches(some: Sequence[str], size: int) -> list[Sequence[str]]:
    return [some[start : start + size] for start in range(0, len(some), size)]
