"""The key that address hashes are made with: the database knows it from others, and refuses another."""

from __future__ import annotations

from typing import Final

from receiver.errors import SchemaError
from receiver.store.sql import Sql

KEY_ID: Final = 1  # address_keys.id: one key, for as long as the database lives
NORMALIZATION: Final = 1  # version of `classify.addresses.normalize_address`, noted in each row that holds a hash

_FIRST: Final = "INSERT INTO address_keys (id, fingerprint) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_KNOWN: Final = "SELECT fingerprint FROM address_keys WHERE id = $1"


async def check_address_key(sql: Sql, fingerprint: str, *, note: bool = True) -> None:
    """Note the first key, unless `note` is false; raises SchemaError for another one later.

    That one would find no suppression any more.
    """
    known = await sql.fetchval(_KNOWN, KEY_ID)
    if known is None:
        if not note:
            return
        await sql.execute(_FIRST, KEY_ID, fingerprint)
        known = await sql.fetchval(_KNOWN, KEY_ID)
    if known != fingerprint:
        raise SchemaError(
            f"suppressed addresses are known in this database by hashes under another key (fingerprint {known}, not "
            f"{fingerprint}), so that everybody who complained or unsubscribed would be mailed again. Set address_key "
            "to the first secret_key that was used with this database; the new one stays in secret_key. Or, where all "
            "that is stored was only a trial, stop everything and remove it: .receiver, the data directory, if the "
            "database is the embedded one"
        )
