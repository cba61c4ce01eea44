"""The bounce classifier, against diagnostics labelled by hand (`fixtures/classify/diagnostics.jsonl`).

Their wording follows what RFC 3463 and IANA's registry define and what Google, Microsoft, Yahoo, Postfix,
Exim, Sendmail, qmail and the sending providers document; names and numbers in them are invented.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.classify.bounce_rules import (
    CATEGORY,
    ECHO_TEXTS,
    SMTP_CODES,
    SPECIFIC_CODES,
    TEXTS,
    VAGUE_CODES,
    VAGUE_SUBJECTS,
)
from receiver.classify.bounces import CLASSIFIER_VERSION, Bounce, classify, explain
from receiver.event import BounceCategory

HARD, SOFT, BLOCK = BounceCategory.HARD, BounceCategory.SOFT, BounceCategory.BLOCK
ADMIN, UNDETERMINED = BounceCategory.ADMIN, BounceCategory.UNDETERMINED

CORPUS = Path(__file__).parent / "fixtures" / "classify" / "diagnostics.jsonl"
LABELLED: list[tuple[str, str, int | None, str | None]] = [
    (case["diagnostic"], case["class"], case["smtp_code"], case["enhanced_code"])
    for case in map(json.loads, CORPUS.read_text(encoding="utf-8").splitlines())
]


@pytest.mark.parametrize(("diagnostic", "bounce_class", "smtp_code", "enhanced_code"), LABELLED)
def test_labelled_diagnostics(
    diagnostic: str, bounce_class: str, smtp_code: int | None, enhanced_code: str | None
) -> None:
    """A diagnostic alone gives its labelled class, the class's category, and the codes it contains."""
    expected = SOFT if bounce_class == "transient" else CATEGORY[bounce_class]
    assert classify(diagnostic=diagnostic) == Bounce(expected, bounce_class, smtp_code, enhanced_code)


def test_the_table_covers_every_class() -> None:
    """The labelled diagnostics name every class, so that no rule of a class goes untested."""
    assert {row[1] for row in LABELLED} == set(CATEGORY)
    assert len(LABELLED) >= 60


def test_rules_name_known_classes_and_can_match() -> None:
    """Every rule names a known class, and every text is written as diagnostics are searched."""
    named = [*SPECIFIC_CODES.values(), *VAGUE_CODES.values(), *VAGUE_SUBJECTS.values(), *SMTP_CODES.values()]
    assert {*named, *(bounce_class for bounce_class, _ in TEXTS)} <= set(CATEGORY)
    texts = [text for _, rules in TEXTS for text in rules]
    assert len(texts) == len(set(texts))
    assert all(text == text.lower() and "@" not in text and "  " not in text for text in (*texts, *ECHO_TEXTS))


def test_no_text_is_hidden_by_an_earlier_rule() -> None:
    """Each text of the table, said alone, gives its own class: no earlier rule swallows it."""
    hidden = {
        text: got
        for bounce_class, rules in TEXTS
        for text in rules
        if (got := classify(diagnostic=f"see {text.replace(' * ', ' x ')} x").bounce_class) != bounce_class
    }
    assert hidden == {}


@pytest.mark.parametrize("reply", [500, 521, 541, 550, 551, 553, 554])
def test_a_5yz_reply_alone_is_not_hard(reply: int) -> None:
    """A 5yz reply without code, text or verdict is undetermined, never hard."""
    assert classify(smtp_code=reply) == Bounce(UNDETERMINED, "undetermined", reply, None)


def test_a_4yz_reply_alone_is_soft() -> None:
    """A 4yz reply without anything else is soft."""
    assert classify(smtp_code=450) == Bounce(SOFT, "transient", 450, None)


@pytest.mark.parametrize("word", ["hard", "Permanent", BounceCategory.HARD])
def test_the_providers_verdict_decides_alone(word: str) -> None:
    """Where code and text say nothing the provider's "permanent" is hard, of undetermined class."""
    assert classify(verdict=word, smtp_code=550) == Bounce(HARD, "undetermined", 550, None)
    assert classify(verdict=word, enhanced_code="5.0.0").category is HARD
    assert classify(verdict=word, diagnostic="550 mailbox unavailable").category is HARD


@pytest.mark.parametrize(
    ("verdict", "category"),
    [
        ("soft", SOFT),
        ("temporary", SOFT),
        ("block", BLOCK),
        ("admin", ADMIN),
        ("undetermined", UNDETERMINED),
        ("nonsense", UNDETERMINED),
    ],
)
def test_other_verdicts(verdict: str, category: BounceCategory) -> None:
    """The provider's other words decide as well where nothing else does; an unknown word says nothing."""
    assert classify(verdict=verdict, smtp_code=554).category is category


@pytest.mark.parametrize("code", ["5.2.2", "5.2.3", "5.3.4", "5.7.1", "5.7.0", "5.7.26", "5.7.999", "5.2.1"])
def test_codes_that_veto_permanent(code: str) -> None:
    """A code that does not concern the address's existence overrules the provider's "permanent"."""
    assert classify(enhanced_code=code, verdict=HARD).category in {SOFT, BLOCK}


@pytest.mark.parametrize("text", ["mailbox full", "blocked using dnsbl", "message content rejected", "DMARC"])
def test_texts_that_veto_permanent(text: str) -> None:
    """A text that names another cause overrules the provider's "permanent"."""
    assert classify(diagnostic=f"550 {text}", verdict=HARD).category in {SOFT, BLOCK}


def test_permanent_after_a_temporary_reply_is_soft() -> None:
    """A provider that gives up after 4yz replies may say "permanent"; the address is not known to be dead."""
    assert classify(smtp_code=421, verdict=HARD) == Bounce(SOFT, "transient", 421, None)


def test_a_code_outranks_the_text_and_the_verdict() -> None:
    """A specific code decides against text and verdict."""
    bounce = classify(diagnostic="550 try again later", enhanced_code="5.1.1", verdict=SOFT)
    assert bounce == Bounce(HARD, "invalid_recipient", 550, "5.1.1")


@pytest.mark.parametrize(
    ("text", "bounce_class"),
    [
        ("552 5.1.1 Boite du destinataire pleine. Recipient overquota.", "mailbox_full"),
        ("550 5.1.1 <ann@icloud.com>: inactive email address", "inactive_mailbox"),
    ],
)
def test_a_mailbox_that_exists_outranks_a_hard_code(text: str, bounce_class: str) -> None:
    """A text about a mailbox that exists is believed against a code that says there is none."""
    assert classify(diagnostic=text) == Bounce(SOFT, bounce_class, int(text[:3]), "5.1.1")


def test_a_word_behind_an_address_counts() -> None:
    """An address is no part of the text, but the word that stands right behind its dots is."""
    assert classify(diagnostic="550 ann@example.net...User unknown").bounce_class == "invalid_recipient"


@pytest.mark.parametrize(
    ("text", "bounce_class"),
    [
        ("550 <mail.example.org>: Helo command rejected: Host not found", "sender_invalid"),
        ("550 Too many invalid recipients", "reputation"),
        ("554-No SMTP service\n554-IP address is block listed.", "reputation"),
    ],
)
def test_what_only_sounds_hard(text: str, bounce_class: str) -> None:
    """Words about the sender that are also said of dead addresses do not make a bounce hard."""
    assert classify(diagnostic=text).bounce_class == bounce_class


@pytest.mark.parametrize(
    ("text", "code", "reply", "verdict", "rule"),
    [
        ("550 user unknown", None, None, None, "text: user unknown"),
        ("550 mailbox of ann is full", None, None, None, "text: mailbox * is full"),
        ("550 5.1.1 user unknown", None, None, None, "code 5.1.1"),
        ("450 user unknown", None, None, None, "text: user unknown, but 4yz is temporary"),
        (None, "5.7.1", None, None, "code 5.7.1"),
        (None, None, 552, None, "reply 552"),
        (None, None, 550, "permanent", "the provider's verdict"),
        (None, None, 450, "permanent", "4yz is temporary"),
        (None, None, 550, None, "nothing"),
        ("not delivering to previously bounced address", None, None, None, "text: not delivering to previously"),
    ],
)
def test_the_rule_that_decided(
    text: str | None, code: str | None, reply: int | None, verdict: str | None, rule: str
) -> None:
    """The explanation names the code, the text or the verdict that decided."""
    explained = explain(diagnostic=text, enhanced_code=code, smtp_code=reply, verdict=verdict)
    assert explained[1] == rule
    assert explained[0] == classify(diagnostic=text, enhanced_code=code, smtp_code=reply, verdict=verdict)


@pytest.mark.parametrize("status", ["5.0.0", "5.3.0", "4.4.7", "5.4.7", "", None])
def test_a_specific_code_in_the_text_is_preferred(status: str | None) -> None:
    """A generic status yields to a specific code in the diagnostic."""
    bounce = classify(diagnostic="smtp; 550 5.1.1 Bad destination mailbox address", enhanced_code=status)
    assert bounce == Bounce(HARD, "invalid_recipient", 550, "5.1.1")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("5.1.1", "5.1.1"),
        ("5.01.1 odd", None),
        ("Status: 5.1.001", "5.1.1"),
        ("(#5.1.1)", "5.1.1"),
        ("550-5.1.1 x", "5.1.1"),
        ("see [5.1.1.4]", None),
        ("relay 10.5.1.1 refused", None),
        ("10.4.4.4", None),
        ("by mx (Exim 4.4.1) here", None),
        ("server version 5.1.1", None),
        ("Foo/5.1.1", None),
        ("on 5.7.2026", None),
        ("15.1.1", None),
        ("5.1.1234", None),
        ("x5.1.1", None),
        ("5.9.1", None),
        ("2.1.5", None),
    ],
)
def test_what_is_a_code(text: str, code: str | None) -> None:
    """Addresses, versions and dates that look like enhanced codes are none."""
    assert classify(diagnostic=text).enhanced_code == code


def test_a_code_of_another_class_than_the_reply_is_ignored() -> None:
    """An enhanced code must have the class of the SMTP reply."""
    assert classify(enhanced_code="5.1.1", smtp_code=450) == Bounce(SOFT, "transient", 450, None)
    assert classify(enhanced_code="4.1.1", diagnostic="550 5.2.2 x").enhanced_code == "5.2.2"


@pytest.mark.parametrize("code", [0, -1, 605, 250, 99999])
def test_a_providers_own_code_is_no_reply(code: int) -> None:
    """A code that is no failing SMTP reply is not reported as one and contradicts no enhanced code."""
    bounce = classify(smtp_code=code, enhanced_code="5.1.1")
    assert bounce == Bounce(HARD, "invalid_recipient", None, "5.1.1")


def test_words_inside_an_address_say_nothing() -> None:
    """An address whose local part imitates a diagnostic does not change the verdict."""
    bounce = classify(diagnostic="550 <greylist.dmarc.spamhaus.blacklist@example.com>: no such user")
    assert bounce.bounce_class == "invalid_recipient"


def test_version_is_a_positive_number() -> None:
    """The classifier's version is a small number, stored with each judgement."""
    assert CLASSIFIER_VERSION >= 1


@given(
    st.one_of(st.none(), st.text()),
    st.one_of(st.none(), st.text()),
    st.one_of(st.none(), st.integers()),
    st.one_of(st.none(), st.text(), st.sampled_from(BounceCategory)),
)
@example("\ud800 550 5.1.1 \x00", "\udfff", 10**400, "\x00")
def test_any_text_gets_a_judgement(
    diagnostic: str | None, code: str | None, reply: int | None, verdict: str | None
) -> None:
    """Any text, code and number gives a known class, and the category that belongs to it."""
    bounce = classify(diagnostic=diagnostic, enhanced_code=code, smtp_code=reply, verdict=verdict)
    assert bounce.bounce_class == "undetermined" or bounce.category is CATEGORY[bounce.bounce_class]
    assert bounce.smtp_code is None or 400 <= bounce.smtp_code <= 599


_WORDS = st.sampled_from([word for row in LABELLED for word in row[0].split()])


@given(st.lists(_WORDS, max_size=40).map(" ".join))
def test_a_temporary_reply_is_never_hard(text: str) -> None:
    """No words make a 4yz reply hard."""
    assert classify(diagnostic=text, smtp_code=450, verdict=HARD).category is not HARD


@given(st.lists(_WORDS, max_size=40).map(" ".join), st.sampled_from(["5.2.2", "5.2.3", "5.3.4", "5.7.1"]))
def test_a_vetoing_code_is_never_hard(text: str, code: str) -> None:
    """No words beside a code that speaks against it make a bounce hard."""
    assert classify(diagnostic=text, enhanced_code=code, smtp_code=550, verdict=HARD).category is not HARD


_OPENINGS = sorted({f"{text.partition(' * ')[0]} " for _, rules in TEXTS for text in rules if " * " in text})


@pytest.mark.parametrize(
    "piece",
    ["a", "5.", "5", " ", "\n", "5.1.", "550 ", "550-", "a@", "<", "...", "\u2019", "0", *_OPENINGS],
)
def test_long_texts_take_no_time(piece: str) -> None:
    """100 kB of anything takes milliseconds at most: only the first 2 kB are read, in linear time."""
    text = piece * (100_000 // len(piece))
    started = time.process_time()
    classify(diagnostic=text, enhanced_code=text, verdict=text)
    assert time.process_time() - started < 0.05
