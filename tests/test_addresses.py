"""One lookup form for the addresses that providers send."""

from __future__ import annotations

import re
import time
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from receiver.classify.addresses import MAX_ADDRESS, domain_of, normalize_address
from receiver.contacts import addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ann@example.com", "ann@example.com"),
        ("Ann.B+News@Example.COM", "ann.b+news@example.com"),
        ("  ann@example.com\r\n", "ann@example.com"),
        ("<ann@example.com>", "ann@example.com"),
        ("< ann@example.com >", "ann@example.com"),
        ("Ann Example <Ann@example.com>", "ann@example.com"),
        ('"Example, Ann <x@y>" <ann@example.com>', "ann@example.com"),
        ("=?utf-8?q?Ann?= <ann@example.com>", "ann@example.com"),
        ("ann@example.com.", "ann@example.com"),
        ("ann@example。com。", "ann@example.com"),
        ("o'hara@example.com", "o'hara@example.com"),
        ("a/b=c@example.com", "a/b=c@example.com"),
        ("ann@localhost", "ann@localhost"),
        ("ann@sub_domain.example.com", "ann@sub_domain.example.com"),
        ("ann@[192.0.2.1]", "ann@[192.0.2.1]"),
        ('"a@b"@example.com', '"a@b"@example.com'),
        ('"Ann.B"@example.com', "ann.b@example.com"),
        (r'"a\nn"@example.com', "ann@example.com"),
        (r'"a\"\b"@example.com', r'"a\"b"@example.com'),
        ('"a..b"@example.com', '"a..b"@example.com'),
        ("ann@xn--mnchen-3ya.de", "ann@xn--mnchen-3ya.de"),
        ("ann@München.de", "ann@xn--mnchen-3ya.de"),
        ("ann@straße.de", "ann@xn--strae-oqa.de"),
        ("ann@faß.example", "ann@xn--fa-hia.example"),
        ("ann@例え.jp", "ann@xn--r8jz45g.jp"),
        ("ann@example。com", "ann@example.com"),
        ("ann@\uff45xample.com", "ann@example.com"),
        ("jose\u0301@example.com", "jos\u00e9@example.com"),
        ("JOS\u00c9@example.com", "jos\u00e9@example.com"),
        ("ann@-ü-.example", "ann@-ü-.example"),
    ],
)
def test_usable_addresses(text: str, address: str) -> None:
    """Every way of writing an address ends in one form; dots and tags stay."""
    assert normalize_address(text) == address
    assert normalize_address(address) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "ann",
        "@",
        "@example.com",
        "ann@",
        "ann@.",
        "<>",
        "Ann <>",
        "MAILER-DAEMON",
        "an n@example.com",
        '"an n"@example.com',
        "ann@exam ple.com",
        "ann\u00a0b@example.com",
        "a\x00nn@example.com",
        "ann@example.com\x00",
        "ann@exa\nmple.com",
        "ann\u200b@example.com",
        "\u202eann@example.com",
        "ann\ud800@example.com",
        "ann@\udfff.com",
        "ann@@example.com",
        "ann@example.com,bob@example.com",
        "ann@example.com; bob@example.com",
        "ann@example.com (Ann)",
        "Ann <ann@example.com",
        "ann@example.com>",
        '"@example.com',
        '""@example.com',
        'an"n@example.com',
        "a" * 320 + "@example.com",
        "a@" + "b" * 320,
        "a@" + "ü" * 320 + ".de",
    ],
)
def test_what_has_no_usable_address(text: str) -> None:
    """Text without one whole address, or with control characters or spaces in it, has none."""
    assert normalize_address(text) is None


def test_the_longest_address() -> None:
    """320 characters are an address, 321 are none, also where lower case makes it longer."""
    longest = "a" * (MAX_ADDRESS - len("@example.com")) + "@example.com"
    assert normalize_address(longest) == longest
    assert normalize_address(f"Ann Example <{longest}>") == longest
    assert normalize_address("a" + longest) is None
    assert normalize_address("\u0130" * 308 + "@example.com") is None


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("ann@example.com", "example.com"),
        ('"a@b"@example.com', "example.com"),
        ("ann", ""),
        ("", ""),
        ("ann@", ""),
    ],
)
def test_domain_of(address: str, domain: str) -> None:
    """The domain is what stands behind the last at-sign."""
    assert domain_of(address) == domain


_ODD = st.text(
    alphabet=st.sampled_from('aB5.@<>" \\,\u0130\u0131ßée\u0301\u017f\u03c2\u1e9e\u200d\u3002\u00ad-\ud800\x00xn')
)


@given(
    st.one_of(
        st.text(),
        _ODD,
        st.builds("{}@{}".format, _ODD, _ODD),
        st.builds("{}@{}".format, st.text(), st.text()),
    )
)
@example("\u0345\u0313@a.b")
def test_any_text_is_an_address_or_none(text: str) -> None:
    """Any text gives None or an address in its final form: one word, printable, bounded, NFC, stable."""
    address = normalize_address(text)
    if address is not None:
        local, at, domain = address.rpartition("@")
        assert local
        assert at
        assert domain == domain_of(address)
        assert len(address) <= MAX_ADDRESS
        assert " " not in address
        assert address.isprintable()
        assert unicodedata.normalize("NFC", address) == address
        assert normalize_address(address) == address
    domain_of(text)


@given(st.emails())
def test_real_addresses_are_kept(text: str) -> None:
    """A valid ASCII address comes back lower-cased and else unchanged."""
    assert normalize_address(text) == text.lower()
    assert normalize_address(f"Some One <{text}>") == text.lower()


@pytest.mark.parametrize("piece", ["a", "5.", " ", "@", "a@", "<", ">", "<a@", "é", ".", '"', "ü.", "\u0301", "xn--"])
@pytest.mark.parametrize("size", [300, 2_000, 100_000])
def test_long_texts_take_no_time(piece: str, size: int) -> None:
    """100 kB of anything takes milliseconds at most, as does the longest text that is still read."""
    text = piece * (size // len(piece))
    started = time.process_time()
    normalize_address(text)
    normalize_address("a@" + text)
    normalize_address(text + "@a.de")
    domain_of(text)
    assert time.process_time() - started < 0.1


TRICKY = st.text(alphabet="aZ1.-_+@ü ", min_size=1, max_size=12)
DOMAINS = st.sampled_from(["@example.com", "@shop.TEST", "@x.invalid", "@a.local", "@xn--mnchen-3ya.de", "@b.c", ""])


@given(TRICKY, DOMAINS)
@example("a" * 64, "@example.com")
@example("a" * 65, "@example.com")
@example("a@" + "b" * 63, ".com")
@example("a@" + "b" * 64, ".com")
@example("a@" + 4 * ("b" * 60 + "."), "museum")
def test_the_quick_look_is_the_validators(start: str, end: str) -> None:
    """what is entered is judged and written as by the validator, also where a pattern spares asking it"""
    text = start + end
    with pytest.MonkeyPatch.context() as patch:
        quick = judged(text)
        patch.setattr(addresses, "_COMMON", re.compile(r"(?!)"))
        assert quick == judged(text)


def judged(text: str) -> addresses.Address | None:
    try:
        return addresses.entered(text)
    except addresses.WrongAddress:
        return None


LOCALS = st.one_of(
    st.text("abAB.+-_'/=!#%", min_size=1, max_size=8),
    st.text('aB.+@"\\,:;<>()[]é', max_size=6).map(lambda text: f'"{text}"'),
    st.text(min_size=1, max_size=4),
)
LABELS = st.one_of(st.text("abC1-", min_size=1, max_size=5), st.text("äßüéςİıéλ日本-x", min_size=1, max_size=4))


@settings(deadline=None)
@given(LOCALS, st.lists(LABELS, min_size=1, max_size=3), st.sampled_from(["de", "com", "рф"]))
@example('"ab"', ["x"], "de")
@example('"a\\b"', ["x"], "de")
@example("a.b+c", ["BÜCHER"], "de")
def test_entered_and_reported_are_one(local: str, labels: list[str], last: str) -> None:
    """what a person enters and what a provider reports lead to one key: no suppression is missed for its writing"""
    text = f"{local}@{'.'.join(labels)}.{last}"
    found = judged(text)
    if found is not None:
        assert normalize_address(text) == found.key == normalize_address(found.key) == normalize_address(found.display)
