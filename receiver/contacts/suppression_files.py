"""Suppression lists as providers export them: what each row says in our words.

| provider | document, seen 2026-11 |
|---|---|
| SendGrid | Suppressions, https://www.twilio.com/docs/sendgrid/api-reference/bounces-api/retrieve-all-bounces |
| Mailgun | Suppressions, https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/bounces |
| Postmark | Suppressions API, https://postmarkapp.com/developer/api/suppressions-api |
| Amazon SES | https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SuppressedDestinationSummary.html |
| Resend | https://resend.com/docs/api-reference/suppressions/list-suppressions |
| Mailchimp | https://mailchimp.com/help/view-export-contacts/; no document lists the columns: as exports have them |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from receiver.contacts.files import WrongFile
from receiver.contacts.people import WrongRow
from receiver.contacts.people import tags as read_tags

Reason: TypeAlias = Literal["hard_bounce", "complaint", "unsubscribe", "manual", "imported"]


class Entry(NamedTuple):
    """A row. `at`: as it is written. `topics`: what is unsubscribed from; none: all marketing mail; "": not told."""

    address: str
    reason: Reason
    at: Any = None
    note: str = ""
    topics: tuple[str, ...] = ()


LIST: Final = "receiver_list"  # a column of our own: which list the row is from, where a file has several

Values: TypeAlias = Mapping[str, Any]  # by the column's letters and digits alone, in lower case
Read: TypeAlias = Callable[[Values, str], Entry | None]  # None: no suppression; raises WrongRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A provider's exports. `lists`: those that have to be told apart, with what shows that it is one.

    What shows it is a column that no other has, or a part of the file's name.
    """

    read: Read
    lists: Mapping[str, tuple[str | None, str]]


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """By names as `Values` has them: `Email Address`, `email_address` and `EmailAddress` are one."""
    return {re.sub(r"[^a-z0-9]", "", name.lower()): value for name, value in values.items()}


def which_list(name: str, given: str | None, file_name: str, columns: Sequence[str]) -> str:
    """Which of the provider's lists a file is; empty where each row says so. Raises WrongFile."""
    lists = PRESETS[name].lists
    known = ", ".join(lists)
    if given is not None:
        if given not in lists:
            raise WrongFile(f"--list {given}: {name} has {known or 'no lists that have to be told apart'}")
        return given
    has, called = plain(dict.fromkeys(columns)), file_name.lower()
    found = [one for one, (column, _) in lists.items() if column is not None and column in has]
    found = found or [one for one, (_, part) in lists.items() if part in called]
    if lists and not found:
        raise WrongFile(
            f"nothing in the file or its name says which of {name}'s lists it is: say --list, one of {known}"
        )
    return found[0] if found else ""


def _text(values: Values, *names: str) -> str:
    return next((str(values[name]).strip() for name in names if values.get(name)), "")


def _sendgrid(values: Values, which: str) -> Entry | None:
    """Blocks are refusals of a message, of which SendGrid itself keeps nobody from the next one."""
    address, at = _text(values, "email"), values.get("created") or values.get("createdat")
    note = " ".join(filter(None, (_text(values, "status"), _text(values, "reason"))))
    match which:
        case "blocks":
            return None
        case "bounces" | "invalid_emails":
            return Entry(address, "hard_bounce", at, note)
        case "spam_reports":
            return Entry(address, "complaint", at)
        case "group_unsubscribes":
            group = _text(values, "groupid", "groupname")
            return Entry(address or _text(values, "address"), "unsubscribe", at, topics=(group,))
        case _:
            return Entry(address, "unsubscribe", at)


def _mailgun(values: Values, which: str) -> Entry | None:
    """`*` among the tags of an unsubscribe is everything."""
    address, at = _text(values, "address"), values.get("createdat")
    if which == "bounces":
        return Entry(address, "hard_bounce", at, " ".join(filter(None, map(_text, [values] * 2, ("code", "error")))))
    if which == "complaints":
        return Entry(address, "complaint", at)
    tags = values.get("tags") or values.get("tag")
    found = read_tags(tags.strip("[]").replace("'", '"') if isinstance(tags, str) else tags)
    return Entry(address, "unsubscribe", at, topics=() if "*" in found else found)


def _postmark(values: Values, _which: str) -> Entry | None:
    """Who unsubscribes by Postmark's link is a ManualSuppression by the recipient."""
    address, at = _text(values, "emailaddress", "email", "recipient"), values.get("createdat")
    said = _text(values, "suppressionreason", "reason"), _text(values, "origin")
    match said:
        case "HardBounce", _:
            return Entry(address, "hard_bounce", at)
        case "SpamComplaint", _:
            return Entry(address, "complaint", at)
        case "ManualSuppression", "Recipient":
            return Entry(address, "unsubscribe", at)
        case "ManualSuppression", _:
            return Entry(address, "manual", at, said[1])
    raise WrongRow("unknown reason", "the reason is none of HardBounce, SpamComplaint, ManualSuppression")


def _ses(values: Values, _which: str) -> Entry | None:
    address, at = _text(values, "emailaddress"), values.get("lastupdatetime")
    match _text(values, "reason"):
        case "BOUNCE":
            return Entry(address, "hard_bounce", at)
        case "COMPLAINT":
            return Entry(address, "complaint", at)
    raise WrongRow("unknown reason", "the reason is neither BOUNCE nor COMPLAINT")


def _resend(values: Values, _which: str) -> Entry | None:
    address, at = _text(values, "email"), values.get("createdat")
    match _text(values, "origin"):
        case "bounce":
            return Entry(address, "hard_bounce", at)
        case "complaint":
            return Entry(address, "complaint", at)
        case "manual":
            return Entry(address, "manual", at)
    raise WrongRow("unknown reason", "the origin is none of bounce, complaint, manual")


def _mailchimp(values: Values, which: str) -> Entry | None:
    """A cleaned address has bounced hard or, again and again, softly; the export does not say which."""
    address = _text(values, "emailaddress")
    if which == "cleaned":
        return Entry(address, "imported", values.get("cleantime"), "cleaned by Mailchimp")
    note = " ".join(filter(None, (_text(values, "unsubreason"), _text(values, "unsubreasonother"))))
    return Entry(address, "unsubscribe", values.get("unsubtime"), note)


_WORDS: Final[Mapping[str, Reason]] = {
    **dict.fromkeys(("hardbounce", "bounce", "bounced", "hard", "invalid", "invalidemail"), "hard_bounce"),
    **dict.fromkeys(("complaint", "complained", "spam", "spamcomplaint", "spamreport", "abuse"), "complaint"),
    **dict.fromkeys(("unsubscribe", "unsubscribed", "optout", "globalunsubscribe"), "unsubscribe"),
    **dict.fromkeys(("manual", "usersuppressed", "blocked", "blacklist", "blocklist"), "manual"),
    "imported": "imported",
}


def _any_csv(values: Values, _which: str) -> Entry | None:
    """Another word is kept as the note of an `imported` one: it was a suppression somewhere."""
    word = _text(values, "reason", "type", "suppressionreason", "status")
    address = _text(values, "email", "emailaddress", "address", "recipient")
    times = ("createdat", "created", "since", "date", "time", "timestamp", "lastupdatetime", "suppressedat")
    reason = _WORDS.get(re.sub(r"[^a-z]", "", word.lower()), "imported")
    return Entry(address, reason, _text(values, *times), "" if word == reason else word)


PRESETS: Final[Mapping[str, Preset]] = {
    "sendgrid": Preset(
        read=_sendgrid,
        lists={
            "group_unsubscribes": ("groupid", "group"),
            "blocks": (None, "block"),
            "bounces": (None, "bounce"),
            "spam_reports": (None, "spam"),
            "invalid_emails": (None, "invalid"),
            "unsubscribes": (None, "unsub"),
        },
    ),
    "mailgun": Preset(
        read=_mailgun,
        lists={"bounces": ("error", "bounce"), "unsubscribes": ("tags", "unsub"), "complaints": (None, "complaint")},
    ),
    "postmark": Preset(read=_postmark, lists={}),
    "ses": Preset(read=_ses, lists={}),
    "resend": Preset(read=_resend, lists={}),
    "mailchimp": Preset(
        read=_mailchimp, lists={"unsubscribed": ("unsubtime", "unsub"), "cleaned": ("cleantime", "clean")}
    ),
    "csv": Preset(read=_any_csv, lists={}),
}
