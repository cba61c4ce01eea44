"""The keys that addresses are known by: another one is refused, and a rotation keeps what the first one made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest

from receiver.errors import SchemaError
from receiver.maintenance import check_database
from receiver.vault import Vault, WrongSecretKey
from tests.cli import command_for

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


@pytest.mark.parametrize(
    "arguments",
    [
        ("reprocess", "--yes"),
        ("refused", "release", "shop", "--yes"),
        ("contacts", "show", "ann@example.com"),
        ("contacts", "erase", "ann@example.com", "--yes"),
        ("contacts", "export-person", "ann@example.com"),
        ("contacts", "subscribe", "ann@example.com", "news", "--wording", "Yes"),
        ("contacts", "unsubscribe", "ann@example.com", "news", "--wording", "She said so"),
        ("contacts", "add", "ann@example.com"),
        ("suppressions", "add", "ann@example.com", "--note", "She said so"),
        ("suppressions", "show", "ann@example.com"),
        ("suppressions", "lift", "ann@example.com", "--reason", "manual", "--why", "A mistake", "--yes"),
        ("policy", "preview", "--since", "30d"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
async def test_commands_with_another_key_are_refused(
    arguments: Sequence[str],
    database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """a command that would find nobody by their hash, or store erased people in clear again, does nothing"""
    await check_database(database, Vault(OLD))
    (tmp_path / "receiver.toml").write_text(
        '[sources.shop]\nprovider = "postmark"\nusername = "hooks"\npassword = "a long random password"\n'
    )
    receiver = command_for(database, tmp_path, capsys, monkeypatch)
    ended = await receiver(*arguments)
    assert ended.code != 0
    assert "Set address_key to the first secret_key" in ended.err, ended.err + ended.out


async def test_a_check_finds_another_key(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """check --database refuses the key that a start would refuse, says how to get rid of a trial, and notes none"""
    receiver = command_for(database, tmp_path, capsys, monkeypatch)
    (tmp_path / "receiver.toml").write_text(
        '[sources.shop]\nprovider = "postmark"\npassword = "a long random password"\n'
    )
    assert "ok  address key: fits" in (await receiver("check", "--database")).out
    await check_database(database, Vault(OLD))
    refused = await receiver("check", "--database")
    assert (refused.code, "was only a trial" in refused.err, ".receiver" in refused.err) == (1, True, True)
    monkeypatch.setenv("RECEIVER_ADDRESS_KEY", OLD)
    assert (await receiver("check", "--database")).code == 0


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
