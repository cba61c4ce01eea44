"""Finding a person in texts: every spelling is found, and nobody else is taken for them."""

from __future__ import annotations

import base64
import json
from typing import Final
from urllib.parse import quote

import asyncpg
import pytest

from receiver.mentions import ERASED, Mentions, possible_addresses
from receiver.store.searching import list_tables, look, rows_at

ANNA: Final = "anna.o'neil+news@example.com"
IDN: Final = "jörg@bücher.example"

SPELLINGS: Final = {
    "plain": "to anna.o'neil+news@example.com.",
    "file": "anna.o'neil+news@example.com.csv",
    "capitals": "Anna.O'Neil+News@EXAMPLE.com",
    "display name": 'To: "Anna O" <anna.o\'neil+news@example.com>, bob@example.com',
    "after an escaped line break": json.dumps("to:\nanna.o'neil+news@example.com\n"),
    "percent": "https://shop.test/?e=anna.o'neil%2Bnews%40example.com&x=1",
    "percent, all of it": "".join(f"%{octet:02X}" for octet in ANNA.encode()),
    "percent, twice": quote(quote(f"<{ANNA}>", safe=""), safe=""),
    "JSON escape": "anna.o\\u0027neil\\u002bnews\\u0040example.com",
    "JSON in JSON": json.dumps(json.dumps(ANNA).replace("@", "\\u0040")),
    "entities": "anna&#46;o&apos;neil&#x2b;news&commat;example&#046;com",
    "entities, twice": "anna.o'neil+news&amp;#64;example.com",
    "quoted-printable": "anna.o=27neil+news=40example.com",
    "quoted-printable, broken": "anna.o'neil+ne=\r\nws@example.com",
    "Base64": base64.b64encode(f"x To: {ANNA}\n".encode()).decode(),
    "Base64, next": base64.b64encode(f"xx To: {ANNA}\n".encode()).decode(),
    "Base64, for links": base64.urlsafe_b64encode(f"xyz?~>: {ANNA}".encode()).decode(),
    "Base64, in lines": base64.encodebytes(f"{'x' * 37} {ANNA}, and more".encode()).decode(),
    "Base64, in lines, in JSON": json.dumps(base64.encodebytes(f"{'x' * 37} {ANNA}, and more".encode()).decode()),
    "hexadecimal": f"\\x00{ANNA.encode().hex()}",
    "bounce address": "bounces+123-anna.o'neil+news=example.com@mailer.test",
    "SRS": "SRS0=HHH=TT=example.com=anna.o'neil+news@forward.test",
}
IDN_SPELLINGS: Final = {
    "Unicode": "JÖRG@BÜCHER.example",
    "A-label": "jörg@xn--bcher-kva.example",
    "percent": quote(IDN),
    "JSON escape": json.dumps(IDN),
    "Latin-1, quoted-printable": "j=F6rg@b=FCcher.example",
}
OTHERS: Final = [
    "joanna.o'neil+news@example.com",
    "x.anna.o'neil+news@example.com",
    "%6aanna.o'neil+news@example.com",
    "anna.o'neil+news@example.com.au",
    "anna.o'neil+news@example.community",
    "anna.o'neil+news@example.com-pany.test",
    "anna.o'neil+news%40example.com%2eau",
    "annaxo'neil+news@example.com",
    "anna.o'neil@example.com",
    base64.b64encode(b"jo" + ANNA.encode()).decode(),
]


@pytest.fixture
async def sql(database: str) -> asyncpg.Connection:
    return await asyncpg.connect(database)


async def test_every_spelling_is_found(sql: asyncpg.Connection) -> None:
    """each spelling is found, here and by searching a table, and is gone once it was taken out"""
    await sql.execute("CREATE TABLE texts (text text); INSERT INTO texts VALUES ('anna'), ('example')")
    (table,) = [one for one in await list_tables(sql) if one.table == "texts"]
    for address, spellings in ((ANNA, SPELLINGS), (IDN, IDN_SPELLINGS)):
        anna = Mentions([address])
        for name, text in spellings.items():
            assert anna.names(text), name
            assert await sql.fetchval("SELECT $1 ~ $2", text, anna.pattern), name
            async with sql.transaction():
                await sql.execute("INSERT INTO texts VALUES ($1)", text)
                _, places = await look(sql, table, anna.needles, 0)
                (found,) = await rows_at(sql, table, places, lock=False)
                assert found["text"] == text, name
                await sql.execute("DELETE FROM texts WHERE text = $1", text)
            cleaned = anna.without(text)
            assert ERASED in cleaned, name
            assert not anna.names(cleaned), name
    await sql.close()


@pytest.mark.parametrize("text", OTHERS)
def test_nobody_else_is_meant(text: str) -> None:
    """an address that only contains the person's is somebody else's, and stays as it is"""
    assert not Mentions([ANNA]).names(text)
    assert Mentions([ANNA]).without(text) == text


def test_what_stays_of_a_payload_for_several() -> None:
    """items about the person go, their name goes, and everybody and everything else stays"""
    payload = {
        "mail": {
            "destination": [ANNA, "bob@example.com"],
            "headers": {"To": f'"Anna, O" <{ANNA}>, Bob <bob@example.com>'},
        },
        "bounced": [{"address": ANNA, "diagnostic": "no Anna here"}, {"address": "bob@example.com", "size": 2**70}],
        "first": {"email": ANNA, "Display-Name": "Anna O", "n": 1.5},
        f"key {ANNA}": 1,
        "both": [{"to": [ANNA, "bob@example.com"]}],
    }
    cleaned = json.loads(Mentions([ANNA]).without_json(json.dumps(payload), keep=Mentions(["bob@example.com"]).names))
    assert cleaned == {
        "mail": {"destination": ["bob@example.com"], "headers": {"To": f"{ERASED}, Bob <bob@example.com>"}},
        "bounced": [{"address": "bob@example.com", "size": 2**70}],
        "first": {"email": ERASED, "Display-Name": ERASED, "n": 1.5},
        "both": [{"to": ["bob@example.com"]}],
    }
    assert "1e999" in Mentions([ANNA]).without_json(f'{{"n": 1e999, "to": "{ANNA}"}}')


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
def test_who_is_named(text: str) -> None:
    """whom a text names can be told without knowing whom to look for, in most of the spellings"""
    if not any(hidden in text for hidden in ("=example", "com=anna", "\\x00", "\n", "\\n", ".csv")):
        assert ANNA in possible_addresses(text)
