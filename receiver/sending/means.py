"""What this installation sends with, as far as those who ask for messages have to know."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from receiver.contacts.holders import Lists, lists_in
from receiver.faults import did_you_mean
from receiver.sending.accounts import STREAMS
from receiver.sending.templates import Templates
from receiver.settings import Settings

NO_PUBLIC_URL: Final = "marketing mail needs a public_url of https, or nobody could unsubscribe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """`accounts`: the names of those there are. `streams`: what goes by one of them where a message names none.

    `lists`: which providers may hold mail back by lists of their own.
    """

    templates: Templates
    accounts: Collection[str]
    public_url: str | None
    streams: Collection[str] = STREAMS
    lists: Lists = field(default_factory=Lists)

    @property
    def reachable(self) -> bool:
        """Whether people can leave by a link in their mail."""
        return (self.public_url or "").startswith("https://")

    @property
    def no_links(self) -> str | None:
        """Why no mail with a link would be sent, to confirm a subscription or to choose topics; None: it would."""
        if not self.accounts:
            return "there is no account in the configuration, so the mail would never go: add a table [accounts.<name>]"
        if "transactional" not in self.streams:
            return "no account sends transactional mail: put transactional into the streams of one"
        return None

    def no_account(self, name: str | None, stream: str) -> str | None:
        """Why nothing would be sent through this account; None stands for the one of the message's stream."""
        if not self.accounts:
            return "there is no account in the configuration, so nothing would be sent"
        if name is None and stream not in self.streams:
            return f"no account sends {stream} mail by itself: name one, or put {stream} into the streams of one"
        if name is None or name in self.accounts:
            return None
        return f"there is no account {name} in the configuration{did_you_mean(name, list(self.accounts))}"


NO_MEANS: Final = Means(templates=Templates(Path("templates")), accounts=(), public_url=None)


def means_of(settings: Settings) -> Means:
    return Means(
        templates=Templates(settings.sending.templates_dir),
        accounts=tuple(settings.accounts),
        public_url=settings.public_url,
        streams=[stream for stream in STREAMS if any(_sends(table, stream) for table in settings.accounts.values())],
        lists=lists_in(settings),
    )


def _sends(table: Mapping[str, Any], stream: str) -> bool:
    """By the table as it is written: a list, or the text of one in the environment."""
    return stream in str(table.get("streams", STREAMS))
