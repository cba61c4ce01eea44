"""Bounce messages and feedback reports as mail, posted by one's own mail server.

Rests on RFC 3464 (delivery status notifications, with the examples of its appendix E), RFC 6533 (the same with
addresses in UTF-8), RFC 3461 (original recipients), RFC 5965 and RFC 6650 (feedback reports, with the examples of the
former's appendix B), RFC 3834 (automatic answers): https://www.rfc-editor.org/, seen 2026-11. The mails are taken
apart in `receiver/mail_reports.py`.

What the proof covers: nothing of the body. The credentials prove that our own mail server posted it, not that what a
report says is true: whoever can write to the bounce address can forge one. So every event here has
`attribution = 'unverified'`, and suppresses nobody until a known send stands behind it: an event that came another
way, with the same recipient and with the message id that the returned message names or that our own return path holds
(`return_path`). The handler `reports` looks for it. That is worth as much as message ids are hard to guess.

What is kept: the report's fields and the headers of both mails, in `raw`, without any body. Only what cannot be read is
kept whole, encrypted, in the quarantine.

Status codes: what they mean is decided by the script that posts (see the set-up): it has the mail server try again
after anything but a 2xx, so that no report is lost.

Identity: `Message-ID` of the report, which of its recipients, the word, the address. The report posted again has the
same, though its `Received` lines may differ. Without a `Message-ID`: the SHA-256 of the whole mail in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from email.utils import getaddresses
from typing import Any, ClassVar, Final

from msgspec.structs import replace
from pydantic import Field

from receiver import mail_reports as mail
from receiver.contract import Authentic, Delivery, Item, Post, Provider, Reply, Simulation, UnreadableItem, World
from receiver.credentials import Credentials, CredentialSettings, credential_problems
from receiver.errors import Problem, Unreadable
from receiver.event import EventType, Reading
from receiver.payload import item_from_value, mapping, number_text, text, texts
from receiver.signers import credentials as signer
from receiver.signers import mail_reports as samples

UNVERIFIED: Final = "unverified"
_PLACE: Final = "{id}"
_STATUS: Final = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?![0-9.])")


class ArfDsnSettings(CredentialSettings):
    """Whatever the script that posts the reports sends along."""

    return_path: str | None = Field(
        None,
        description="your return path, if it holds a message id: `bounce+{id}@bounces.example.net`; "
        "a report to it is matched with the send of that id",
    )


class ArfDsn(Provider):
    """One mailbox for bounces or complaints."""

    name = "arf_dsn"
    title = "Bounce messages and feedback reports (your own mail server)"
    basis = "documents"
    covers = "nothing"
    # RFC 3464's actions; RFC 5965's feedback types; our own words for other mail.
    words: ClassVar[Mapping[str, EventType]] = {
        "failed": EventType.BOUNCED,
        "delayed": EventType.DEFERRED,
        "delivered": EventType.DELIVERED,
        "expanded": EventType.DELIVERED,
        "relayed": EventType.SENT,
        "abuse": EventType.COMPLAINED,
        "fraud": EventType.COMPLAINED,
        "other": EventType.COMPLAINED,
        "(no feedback type)": EventType.COMPLAINED,
        "not-spam": EventType.UNKNOWN,
        "auth-failure": EventType.UNKNOWN,
        "virus": EventType.UNKNOWN,
        "auto-replied": EventType.AUTORESPONDED,
        "(no report)": EventType.UNKNOWN,
    }
    reply = Reply(
        retries="Your mail server decides: the script of the set-up has it try again after anything but a 2xx.",
        timeout=30.0,
        max_body=8 << 20,
    )
    Settings = ArfDsnSettings

    def __init__(self, settings: ArfDsnSettings, world: World) -> None:  # noqa: ARG002 - the same for all
        self._credentials = Credentials(settings)
        before, _, after = (settings.return_path or "").partition(_PLACE)
        pattern = f"{re.escape(before)}([^@]+){re.escape(after)}" if before or after else "(?!)"
        self._return_path = re.compile(pattern, re.IGNORECASE)

    @staticmethod
    def problems(settings: ArfDsnSettings, key: str) -> Sequence[Problem]:
        """No credentials, short ones, a return path without a place for the id."""
        found = credential_problems(settings, key)
        path = settings.return_path
        if path is not None and (path.count(_PLACE) != 1 or _PLACE not in path.partition("@")[0] or "@" not in path):
            right = "Write it as your mail server makes it, such as 'bounce+{id}@bounces.example.net'"
            found.append(Problem(f"{key}.return_path", "is no address with one {id} before the @", right))
        return found

    async def authenticate(self, delivery: Delivery) -> Authentic:
        """The mail as payload, once the credentials fit."""
        self._credentials.require(delivery)
        return Authentic(payload=delivery.body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        """One item for each recipient of a report, with what the report says of the others left out."""
        try:
            return [item_from_value(report) for report in mail.reports_of(payload)]
        except Unreadable as error:
            return (UnreadableItem(body=payload, why=str(error)),)

    def read(self, item: Item) -> Sequence[Reading]:
        """The event of a report about one recipient; of a feedback report, one for each recipient it names."""
        report = item.value
        if not isinstance(report, dict):
            raise Unreadable("the report is no JSON object")
        if "recipient" in report:
            return [self._status(report)]
        if "feedback" in report:
            return self._complaints(report)
        return [self._other(report)]

    def _event(self, report: Mapping[str, Any], word: str, recipient: str | None, number: int = 0) -> Reading:
        """What all events here share."""
        headers, returned = mapping(report.get("headers")), mapping(report.get("returned"))
        internet_id = mail.message_id(mail.first(returned, "message-id"))
        own_id = mail.return_path_id(self._return_path, headers, returned, mapping(report.get("feedback")))
        report_id = mail.message_id(mail.first(headers, "message-id")) or text(report.get("sha256"))
        return Reading(
            type=self.words.get(word, EventType.UNKNOWN),
            word=word,
            identity=report_id and ("report", report_id, number_text(number), word, recipient),
            occurred_at=mail.moment(mail.first(headers, "date")),
            recipient=recipient,
            message_id=own_id or internet_id,
            internet_message_id=internet_id,
            sender=mail.first(returned, "from") or None,
            subject=mail.unencoded(mail.first(returned, "subject")),
            attribution=UNVERIFIED,
        )

    def _status(self, report: Mapping[str, Any]) -> Reading:
        block = report["recipient"]
        addresses = (mail.address(mail.first(block, name)) for name in ("original-recipient", "final-recipient"))
        number = report.get("number")
        word = mail.keyword(mail.first(block, "action")) or "(no action)"
        status = _STATUS.match(mail.first(block, "status"))
        event = self._event(report, word, next(filter(None, addresses), None), number if isinstance(number, int) else 0)
        return replace(
            event,
            occurred_at=mail.moment(mail.first(block, "last-attempt-date")) or event.occurred_at,
            enhanced_code=status[0] if status else None,
            diagnostic=mail.first(block, "diagnostic-code") or None,
            remote_mta=mail.named(mail.first(block, "remote-mta")),
        )

    def _complaints(self, report: Mapping[str, Any]) -> list[Reading]:
        feedback = mapping(report["feedback"])
        word = mail.keyword(mail.first(feedback, "feedback-type")) or "(no feedback type)"
        named = filter(None, map(mail.address, texts(feedback.get("original-rcpt-to"))))
        recipients: Sequence[str | None] = tuple(dict.fromkeys(named)) or (_only_recipient(report),)
        received_at = mail.moment(mail.first(feedback, "arrival-date", "received-date"))
        events = [self._event(report, word, recipient, number) for number, recipient in enumerate(recipients)]
        return [
            replace(
                event,
                occurred_at=event.occurred_at or received_at,
                attribution=UNVERIFIED if len(events) == 1 else "ambiguous",
                sending_ip=mail.first(feedback, "source-ip") or None,
            )
            for event in events
        ]

    def _other(self, report: Mapping[str, Any]) -> Reading:
        """An automatic answer, which names the message it answers; or any other mail that somebody sent here."""
        headers = mapping(report.get("headers"))
        word = mail.keyword(mail.first(headers, "auto-submitted"))
        if word != "auto-replied":
            return self._event(report, "(no report)", None)
        event = self._event(report, word, mail.address(mail.first(headers, "from")))
        answered = mail.message_id(mail.first(headers, "in-reply-to"))
        return replace(event, message_id=event.message_id or answered, internet_message_id=answered)


def _only_recipient(report: Mapping[str, Any]) -> str | None:
    """To whom the message went, where its header names one address. Many feedback loops hide it."""
    named = [address for _, address in getaddresses([mail.first(report.get("returned"), "to")]) if "@" in address]
    return named[0] if len(named) == 1 else None


# The simulator's side.


def _post(items: Sequence[Any], keys: Mapping[str, str], now: object) -> Sequence[Post]:  # noqa: ARG001 - no clock
    headers = {"content-type": "message/rfc822", **signer.headers(keys)}
    return [Post(headers=headers, body=samples.mail_of(item), query=signer.query(keys)) for item in items]


ArfDsn.simulation = Simulation(
    types=samples.TYPES,
    demo=signer.demo(),
    keys=signer.keys,
    sample=samples.sample,
    post=_post,
    setup=(
        "1. Make a script /usr/local/bin/post-report, readable by the user alone that runs it:\n"
        "     #!/bin/sh\n"
        "     curl --fail --silent --show-error --max-time 40 --user 'webhook:<password>' \\\n"
        "       --header 'Content-Type: message/rfc822' --data-binary @- {url} || exit 75\n"
        "   75 tells the mail server to try again later.\n"
        "2. Let it have what comes to your bounce address and to the address of your feedback loops. Postfix, in\n"
        "   /etc/aliases:\n"
        '     bounces: "|/usr/local/bin/post-report"\n'
        "3. If your return path holds a message id, say how it does in return_path.\n"
        "4. A report suppresses an address only if a send is known to this service: let your mail server's events\n"
        "   (or your provider's) come here too, through a source of their own."
    ),
)

PROVIDER: Final[type[Provider]] = ArfDsn
