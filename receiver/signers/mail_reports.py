"""Bounce messages, feedback reports and automatic answers as a mail server writes them, for the simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import format_datetime
from typing import Any, Final

from receiver.contract import Occurrence
from receiver.event import EventType

_BOUNDARY: Final = "report.1732104000/mx.example.net"
_END: Final = "\r\n"


def sample(occurrence: Occurrence) -> dict[str, Any]:
    """What the mail says, in the shape in which it is stored."""
    of_type, make = _PARTS[occurrence.type]
    number = f"{occurrence.run}.{occurrence.number}.{occurrence.type}"
    headers = {
        "from": "Mail Delivery System <mailer-daemon@mx.example.net>",
        "to": "bounces@example.net",
        "subject": of_type,
        "date": _date(occurrence.at),
        "message-id": f"<report.{number}@mx.example.net>",
    }
    returned = {
        "from": f"News <{occurrence.sender}>",
        "to": occurrence.recipient,
        "subject": "Your weekly letter",
        "message-id": f"<letter.{number}@example.net>",
    }
    return {"headers": headers, "returned": returned, **make(occurrence)}


def _date(moment: datetime) -> str:
    return format_datetime(moment)


def _status(action: str, status: str, diagnostic: str) -> Callable[[Occurrence], dict[str, Any]]:
    def make(occurrence: Occurrence) -> dict[str, Any]:
        return {
            "message": {"reporting-mta": "dns; mx.example.net", "arrival-date": _date(occurrence.at)},
            "recipient": {
                "original-recipient": f"rfc822; {occurrence.recipient}",
                "final-recipient": f"rfc822; {occurrence.recipient}",
                "action": action,
                "status": status,
                "remote-mta": "dns; mx.customer.example",
                "diagnostic-code": f"smtp; {diagnostic}",
                "last-attempt-date": _date(occurrence.at),
            },
        }

    return make


def _complaint(occurrence: Occurrence) -> dict[str, Any]:
    return {
        "feedback": {
            "feedback-type": "abuse",
            "user-agent": "ExampleFeedbackLoop/1.0",
            "version": "1",
            "original-mail-from": f"<{occurrence.sender}>",
            "original-rcpt-to": f"<{occurrence.recipient}>",
            "arrival-date": _date(occurrence.at),
            "source-ip": "192.0.2.10",
        }
    }


def _away(occurrence: Occurrence) -> dict[str, Any]:
    number = f"{occurrence.run}.{occurrence.number}.{occurrence.type}"
    return {
        "headers": {
            "from": occurrence.recipient,
            "to": "bounces@example.net",
            "subject": "Out of office",
            "date": _date(occurrence.at),
            "message-id": f"<away.{number}@customer.example>",
            "in-reply-to": f"<letter.{number}@example.net>",
            "auto-submitted": "auto-replied",
        },
        "returned": {},
    }


_PARTS: Final[Mapping[EventType, tuple[str, Callable[[Occurrence], dict[str, Any]]]]] = {
    EventType.BOUNCED: ("Undelivered mail", _status("failed", "5.1.1", "550 5.1.1 User unknown")),
    EventType.DEFERRED: ("Delayed mail", _status("delayed", "4.4.1", "421 4.4.1 Connection timed out")),
    EventType.DELIVERED: ("Delivered mail", _status("delivered", "2.0.0", "250 2.0.0 Ok")),
    EventType.SENT: ("Relayed mail", _status("relayed", "2.0.0", "250 2.0.0 Ok")),
    EventType.COMPLAINED: ("Abuse report", _complaint),
    EventType.AUTORESPONDED: ("Out of office", _away),
}
TYPES: Final = tuple(_PARTS)


def mail_of(item: Any) -> bytes:
    """The mail that says what a sample or a stored report says; what is no fields is left out."""
    item = item if isinstance(item, dict) else {}
    headers = _lines(item.get("headers"), without="content-type")
    if "recipient" in item:
        machine = _END.join([_lines(item.get("message")), _lines(item["recipient"])])
        return _report(headers, "delivery-status", machine, item)
    if "feedback" in item:
        return _report(headers, "feedback-report", _lines(item["feedback"]), item)
    return f"{headers}{_END}I am away.{_END}".encode(errors="replace")


def _report(headers: str, kind: str, machine: str, item: Mapping[str, Any]) -> bytes:
    parts = (
        ("text/plain; charset=us-ascii", f"This is a report.{_END}"),
        (f"message/{kind}", machine),
        ("text/rfc822-headers", _lines(item.get("returned"))),
    )
    head = (
        f"{headers}mime-version: 1.0{_END}"
        f'content-type: multipart/report; report-type={kind};{_END} boundary="{_BOUNDARY}"{_END}'
    )
    body = "".join(f"{_END}--{_BOUNDARY}{_END}content-type: {type_}{_END}{_END}{text}" for type_, text in parts)
    return f"{head}{body}{_END}--{_BOUNDARY}--{_END}".encode(errors="replace")


def _lines(fields: Any, *, without: str = "") -> str:
    found: list[str] = []
    for name, value in fields.items() if isinstance(fields, dict) else ():
        for one in value if isinstance(value, list) else [value]:
            found += [] if name == without else [f"{name}: {one}{_END}"]
    return "".join(found)
