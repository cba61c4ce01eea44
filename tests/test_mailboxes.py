"""Whose mailbox a domain's addresses are."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.classify import mailboxes
from receiver.classify.mailboxes import mailbox_provider

KNOWN = {
    "google": ["gmail.com", "googlemail.com"],
    "microsoft": [
        "outlook.com",
        "hotmail.com",
        "hotmail.fr",
        "hotmail.co.uk",
        "outlook.de",
        "live.nl",
        "msn.com",
    ],
    "yahoo": ["yahoo.com", "yahoo.de", "yahoo.co.uk", "yahoo.com.br", "aol.com", "aim.com", "ymail.com"],
    "apple": ["icloud.com", "me.com", "mac.com"],
    "gmx": ["gmx.de", "gmx.net", "gmx.at", "gmx.com"],
    "web.de": ["web.de"],
    "comcast": ["comcast.net"],
    "mail.ru": ["mail.ru", "bk.ru", "list.ru", "inbox.ru"],
    "yandex": ["yandex.ru", "yandex.com", "ya.ru"],
    "proton": ["proton.me", "protonmail.com", "pm.me"],
    "zoho": ["zoho.com", "zohomail.eu"],
    "orange": ["orange.fr", "wanadoo.fr"],
    "free": ["free.fr"],
    "laposte": ["laposte.net"],
    "t-online": ["t-online.de"],
    "libero": ["libero.it"],
    "qq": ["qq.com", "foxmail.com"],
    "netease": ["163.com", "126.com"],
    "naver": ["naver.com"],
    "yahoo_japan": ["yahoo.co.jp"],
}


@pytest.mark.parametrize(("provider", "domain"), [(name, d) for name, domains in KNOWN.items() for d in domains])
def test_known_domains(provider: str, domain: str) -> None:
    """A consumer domain names its provider, in any case and with the root's dot."""
    assert mailbox_provider(domain) == provider
    assert mailbox_provider(domain.upper()) == provider
    assert mailbox_provider(domain + ".") == provider


@pytest.mark.parametrize(
    "domain",
    [
        "example.com",
        "mail.gmail.com",
        "gmail.com.example.org",
        "notgmail.com",
        "live.example",
        "yahoo",
        "",
        ".",
    ],
)
def test_other_domains_are_nobodys(domain: str) -> None:
    """A domain in no table has no provider: neither look-alikes nor subdomains are guessed at."""
    assert mailbox_provider(domain) is None


def test_the_table_is_well_formed() -> None:
    """The table has plain lower-case domains, none of them listed for two companies."""
    listed = [f"{brand}.{end}" for _, brand, ends in mailboxes._BRANDS for end in ends.split()]
    listed += [domain for domains in mailboxes._DOMAINS.values() for domain in domains.split()]
    assert len(listed) == len(set(listed)) == len(mailboxes._PROVIDER)
    assert all(domain == domain.lower() and "." in domain and "@" not in domain for domain in listed)


@given(st.text())
def test_any_text_is_looked_up(domain: str) -> None:
    """Any text is either a known domain or nobody's."""
    found = mailbox_provider(domain)
    assert found is None or found in mailboxes._PROVIDER.values()


@pytest.mark.parametrize("piece", ["a", ".", "5.", " "])
def test_long_texts_take_no_time(piece: str) -> None:
    """100 kB of anything takes milliseconds at most."""
    text = piece * (100_000 // len(piece))
    started = time.process_time()
    assert mailbox_provider(text) is None
    assert time.process_time() - started < 0.05
