"""Bounces: what a failed delivery says about the address.

Evidence, strongest first: a specific enhanced code; the text; a code that says little; the provider's own
verdict; the first digit of the SMTP reply. A 5yz reply alone is never hard: most of them do not concern the
address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from receiver.classify.bounce_rules import (
    CATEGORY,
    ECHO_TEXTS,
    LIVING,
    SMTP_CODES,
    SPECIFIC_CODES,
    TEXTS,
    VAGUE_CODES,
    VAGUE_SUBJECTS,
)
from receiver.event import BounceCategory

CLASSIFIER_VERSION: Final = 2
MAX_TEXT: Final = 2048
MAX_CODE: Final = 64

# Each pattern starts with what it looks for and looks behind afterwards: that is several times faster.
# RFC 3463 knows the subjects 0 to 7. Part of an IP address or longer number is no code; `550-5.1.1` is.
_ENHANCED = re.compile(r"([45])(?:(?<![\w./-].)|(?<=[245]\d\d-.))\.([0-7])\.(\d{1,3})(?!\.?\d)", re.ASCII)
_VERSION_BEFORE = ("version", "release", "exim", "postfix", "sendmail", "esmtp", "build", "server", " v")
# A reply code stands before an enhanced code, or at a line's start or behind punctuation (`smtp; 550 no`).
_REPLY = re.compile(
    r"([45](?<!\d.)[0-5]\d)(?:(?=[ \t:#(-]{1,3}([45]\.[0-7]\.\d))|(?=[ \t:-]|$))", re.ASCII | re.MULTILINE
)
_BEFORE_REPLY = frozenset("\n:;,(<[\"'")
_CONTINUATION = re.compile(r"[245]\d\d-(?:[245]\.\d{1,2}\.\d{1,3})?", re.ASCII)
_WORD = re.compile(r"[a-z]+")
_Text: TypeAlias = tuple[int, str, list[str]]  # rank (lower is more telling), class, parts

_VERDICTS: Final = {
    **{category.value: category for category in BounceCategory},
    "permanent": BounceCategory.HARD,
    "temporary": BounceCategory.SOFT,
    "transient": BounceCategory.SOFT,
    "blocked": BounceCategory.BLOCK,
}


def _index() -> dict[str, tuple[tuple[str, ...], list[_Text]]]:
    """The texts by their first letters, at most three: how they begin, and the texts."""
    index: dict[str, list[_Text]] = {}
    for rank, (bounce_class, texts) in enumerate(TEXTS):
        for text in texts:
            start = _WORD.findall(text)[0][:3]
            index.setdefault(start, []).append((rank, bounce_class, text.split(" * ")))
    return {start: (tuple(parts[0] for _, _, parts in texts), texts) for start, texts in index.items()}


_TEXTS_BY_START: Final = _index()
_NO_TEXTS: Final[tuple[tuple[str, ...], list[_Text]]] = ((), [])


class Bounce(NamedTuple):
    """`bounce_class` is a key of `bounce_rules.CATEGORY`; `undetermined`: at most the provider judged.

    `smtp_code` (400 to 599) and `enhanced_code` (`5.1.1`): given or found in the text, as far as they agree.
    """

    category: BounceCategory
    bounce_class: str
    smtp_code: int | None
    enhanced_code: str | None


def classify(
    *,
    diagnostic: str | None = None,
    enhanced_code: str | None = None,
    smtp_code: int | None = None,
    verdict: BounceCategory | str | None = None,
) -> Bounce:
    """The bounce's category and class. Any text will do; 2,048 characters of it count. Never raises."""
    return explain(diagnostic=diagnostic, enhanced_code=enhanced_code, smtp_code=smtp_code, verdict=verdict)[0]


def explain(
    *,
    diagnostic: str | None = None,
    enhanced_code: str | None = None,
    smtp_code: int | None = None,
    verdict: BounceCategory | str | None = None,
) -> tuple[Bounce, str]:
    """What `classify` makes of it, and the rule that decided: `code 5.1.1`, `text: user unknown`, `nothing`."""
    return _classify(
        diagnostic[:MAX_TEXT] if diagnostic else "",
        enhanced_code[:MAX_CODE] if enhanced_code else "",
        smtp_code,
        verdict[:MAX_CODE] if verdict else "",
    )


@lru_cache(maxsize=1024)
def _classify(diagnostic: str, given_code: str, smtp_code: int | None, verdict: str) -> tuple[Bounce, str]:
    reply = _reply_code(diagnostic, smtp_code)
    enhanced = _enhanced_code(diagnostic, given_code, reply)
    temporary = _is_temporary(reply, enhanced)
    cause = _cause(diagnostic, enhanced, reply)
    if cause is None:
        said = _VERDICTS.get(verdict.strip().lower())
        category = _without_cause(said, temporary=temporary)
        bounce_class = "transient" if temporary and category is BounceCategory.SOFT else "undetermined"
        rule = "the provider's verdict" if category is said else "4yz is temporary" if temporary else "nothing"
        return Bounce(category, bounce_class, reply, enhanced), rule
    bounce_class, rule = cause
    if temporary and CATEGORY[bounce_class] is BounceCategory.HARD:
        # 4yz is not final, not even "no such user" (address verification that has no answer yet).
        bounce_class = "dns_failure" if bounce_class == "bad_domain" else "transient"
        rule = f"{rule}, but 4yz is temporary"
    return Bounce(CATEGORY[bounce_class], bounce_class, reply, enhanced), rule


def _cause(diagnostic: str, enhanced: str | None, reply: int | None) -> tuple[str, str] | None:
    """The class that code and text show, and the rule; None where they say nothing."""
    text = _searchable(diagnostic)
    if echo := next((echo for echo in ECHO_TEXTS if echo in text), None):
        return "suppressed_echo", f"text: {echo}"
    detail = enhanced[2:] if enhanced else ""
    specific = SPECIFIC_CODES.get(detail)
    if specific and CATEGORY[specific] is not BounceCategory.HARD:
        return specific, f"code {enhanced}"
    # 5.7.x is about permission: a text about an unknown user beside it does not make it hard.
    said = _by_text(text, hard_allowed=not detail.startswith("7."))
    if specific and (said is None or said[0] not in LIVING):
        return specific, f"code {enhanced}"
    return said or _by_what_says_little(enhanced, detail, reply)


def _by_what_says_little(enhanced: str | None, detail: str, reply: int | None) -> tuple[str, str] | None:
    if vague := VAGUE_CODES.get(detail) or (None if detail.endswith(".0") else VAGUE_SUBJECTS.get(detail[:1])):
        return vague, f"code {enhanced}"
    by_reply = None if detail or reply is None else SMTP_CODES.get(reply)
    return (by_reply, f"reply {reply}") if by_reply else None


def _without_cause(verdict: BounceCategory | None, *, temporary: bool) -> BounceCategory:
    if temporary and verdict in (None, BounceCategory.HARD, BounceCategory.UNDETERMINED):
        return BounceCategory.SOFT
    return verdict or BounceCategory.UNDETERMINED


def _is_temporary(reply: int | None, enhanced: str | None) -> bool:
    return reply // 100 == 4 if reply else (enhanced or "").startswith("4")


def _by_text(text: str, *, hard_allowed: bool) -> tuple[str, str] | None:
    """The class of the most telling text that begins at any word, and the rule; linear in the text's length."""
    hits: list[_Text] = []
    for word in _WORD.finditer(text):
        beginnings, texts = _TEXTS_BY_START.get(word[0][:3], _NO_TEXTS)
        start = word.start()
        if beginnings and text.startswith(beginnings, start):  # most words end here, without a loop in Python
            hits += [one for one in texts if _in_order(text, start, one[2])]
    if not hard_allowed:
        hits = [hit for hit in hits if CATEGORY[hit[1]] is not BounceCategory.HARD]
    if not hits:
        return None
    _, name, parts = min(hits)
    return name, f"text: {' * '.join(parts)}"


def _in_order(text: str, start: int, parts: list[str]) -> bool:
    if not text.startswith(parts[0], start):
        return False
    for part in parts[1:]:
        start = text.find(part, start)
        if start < 0:
            return False
    return True


def _searchable(diagnostic: str) -> str:
    """One line, lower case, without addresses (a stranger chose their words) and codes of continued lines."""
    text = _CONTINUATION.sub(" ", diagnostic).lower().replace("\u2019", "'")
    words = text.replace("...", "... ").split()  # some write `ann@example.net...User unknown`
    return " ".join([word for word in words if "@" not in word])


def _reply_code(diagnostic: str, given: int | None) -> int | None:
    """The failing reply: the given one, else that in the text. Providers also give 0 or their own (605)."""
    if given is not None and 400 <= given <= 599:
        return given
    for found in _REPLY.finditer(diagnostic):
        start = found.start()
        before = diagnostic[max(0, start - 4) : start].rstrip(" \t")
        if found[2] or start == 0 or before[-1:] in _BEFORE_REPLY:
            return int(found[1])
    return None


def _enhanced_code(diagnostic: str, given: str, reply: int | None) -> str | None:
    """The code to trust: the first that names a cause, else the first that is not x.0.0, else any.

    A code whose class contradicts the SMTP reply is none of this reply's.
    """
    second_best = third_best = None
    for code in chain(_codes(given), _codes(diagnostic)):
        if reply is not None and int(code[0]) != reply // 100:
            continue
        if not code.endswith((".0", ".4.7")):  # 5.4.7, "delivery time expired", hides the cause behind it
            return code
        if code.endswith(".0.0"):
            third_best = third_best or code
        else:
            second_best = second_best or code
    return second_best or third_best


def _codes(text: str) -> Iterator[str]:
    for found in _ENHANCED.finditer(text):
        before = text[max(0, found.start() - 10) : found.start()].lower()
        if not before.rstrip().endswith(_VERSION_BEFORE):
            yield f"{found[1]}.{found[2]}.{int(found[3])}"
