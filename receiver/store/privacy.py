"""What is not stored of an event: columns that the settings leave out, and what would name an erased person."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from receiver.mentions import Mentions
from receiver.store.intake import COLUMNS

if TYPE_CHECKING:
    from receiver.store.intake import Row
    from receiver.store.sql import Sql

ATTRIBUTION: Final = "erased"

# Of an erased person's event these go. What happened, when, through whom and with which result stays, for statistics,
# and `message_id`, by which a message's events belong together: only the provider can tell whose message it was.
# The domain of an address, and its mail server, may be one family's.
EMPTIED: Final = (
    "recipient", "recipient_domain", "internet_message_id", "provider_event_id", "diagnostic", "remote_mta", "metadata",
    "subject", "url", "user_agent", "client_ip", "country", "raw",
)  # fmt: skip
# Of incoming mail the person is the sender, and the recipient is the team.
EMPTIED_INBOUND: Final = (*EMPTIED[2:], "sender", "sender_domain")
# These are the team's and the provider's words; they go only where one spells the address out.
CHECKED: Final = (
    "message_id", "sender", "campaign", "template_id", "topic", "stream", "ip_pool", "tags", "provider_verdict",
)  # fmt: skip

_NOTHING: Final[Mapping[str, Any]] = {"metadata": "{}", "tags": ()}  # columns that are never NULL
_RECIPIENT: Final = COLUMNS.index("recipient")
_SENDER: Final = COLUMNS.index("sender")
_TYPE: Final = COLUMNS.index("type")
_RAW: Final = COLUMNS.index("raw")
_ERASED: Final = "SELECT address_hash FROM erasures WHERE address_hash = ANY ($1::bytea[])"


async def erased_among(sql: Sql, hashes: Iterable[bytes]) -> set[bytes]:
    """Those of the hashes that belong to erased people."""
    return {row[0] for row in await sql.fetch(_ERASED, list(hashes))}


class Privacy:
    """`drop`: columns that are never stored. `address_hash`: the hash that `erasures` knows a person by."""

    __slots__ = ("_address_hash", "_drop", "drops")

    def __init__(self, address_hash: Callable[[str], bytes], drop: Sequence[str] = ()) -> None:
        self._address_hash = address_hash
        self._drop: list[tuple[int, Any]] = [(COLUMNS.index(name), _NOTHING.get(name)) for name in drop]
        if "raw" in drop:
            self._drop.append((COLUMNS.index("raw_altered"), False))
        self.drops = bool(drop)

    def dropped(self, rows: Iterable[Row]) -> list[Row]:
        """Rows without what the settings leave out."""
        found = []
        for row in rows:
            values = list(row)
            for place, nothing in self._drop:
                values[place] = nothing
            found.append(tuple(values))
        return found

    async def hidden(self, sql: Sql, rows: Collection[Row]) -> Collection[Row]:
        """Rows without what names erased people, in the transaction that stores them."""
        hashes = {one: self._address_hash(one) for one in map(_person, rows) if one is not None}
        erased = await erased_among(sql, hashes.values())
        gone = {address for address, hashed in hashes.items() if hashed in erased}
        if not gone:
            return rows
        mentions = Mentions(gone)
        # A provider's report about several people is the raw of each one's event.
        shared = {row[_RAW] for row in rows if _person(row) in gone} - {None}
        return [
            anonymous(row, mentions)
            if _person(row) in gone
            else _without(row, mentions)
            if row[_RAW] in shared
            else row
            for row in rows
        ]


def anonymous(row: Row, mentions: Mentions) -> Row:
    """The row of an erased person, in the order of COLUMNS."""
    values = dict(zip(COLUMNS, row, strict=True))
    for name in EMPTIED_INBOUND if values["type"] == "inbound" else EMPTIED:
        values[name] = _NOTHING.get(name)
    for name in CHECKED:
        if values[name] and mentions.names(str(values[name])):
            values[name] = _NOTHING.get(name)
    values["attribution"] = ATTRIBUTION
    return tuple(values.values())


def _person(row: Row) -> str | None:
    """Whose event it is."""
    address: str | None = row[_SENDER] if row[_TYPE] == "inbound" else row[_RECIPIENT]
    return address


def _without(row: Row, mentions: Mentions) -> Row:
    """Somebody else's row, whose raw told of an erased person too."""
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    person = _person(row)
    values["raw"] = mentions.without_json(values["raw"], keep=Mentions([person]).names if person else None)
    values["raw_altered"] = True
    if values["diagnostic"]:
        values["diagnostic"] = mentions.without(values["diagnostic"])
    return tuple(values.values())
