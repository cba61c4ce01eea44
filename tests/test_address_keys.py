"""The keys that addresses are known by: another one is refused, and a rotation keeps what the first one made."""

from __future__ import annotations

import asyncpg
import pytest

from receiver.errors import SchemaError
from receiver.maintenance import check_database
from receiver.vault import Vault, WrongSecretKey

OLD = "the first secret key of this service, long enough"
NEW = "another secret key of this service, as long as that"


async def test_a_start_with_another_key_is_refused(database: str) -> None:
    """a service with another key would mail everybody who complained: it does not start, and says what to set"""
    await check_database(database, Vault(OLD))
    with pytest.raises(SchemaError, match="Set address_key to the first secret_key"):
        await check_database(database, Vault(NEW))
    await check_database(database, Vault(NEW, previous=[OLD], address_key=OLD))
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval("SELECT array_agg(fingerprint) FROM address_keys") == [
            Vault(OLD).address_fingerprint
        ]
    finally:
        await connection.close()


def test_a_rotation_keeps_what_the_old_key_made() -> None:
    """after a rotation hashes stay, and what was encrypted or signed before is good; the other way round it is not"""
    old, new = Vault(OLD), Vault(NEW, previous=[OLD], address_key=OLD)
    assert new.address_hash("ann@example.com") == old.address_hash("ann@example.com")
    assert new.decrypt(old.encrypt(b"body", context="quarantine"), context="quarantine") == b"body"
    signed = old.sign(b"link", purpose="unsubscribe")
    assert new.verify(b"link", signed, purpose="unsubscribe")
    assert not new.verify(b"link", signed, purpose="preferences")
    assert not old.verify(b"link", new.sign(b"link", purpose="unsubscribe"), purpose="unsubscribe")
    with pytest.raises(WrongSecretKey):
        old.decrypt(new.encrypt(b"body", context="quarantine"), context="quarantine")
