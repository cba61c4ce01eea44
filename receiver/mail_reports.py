"""Bounce messages and feedback reports as JSON: what machines wrote into them, and none of what people wrote.

Rests on RFC 6522 (multipart/report), RFC 3464 and RFC 6533 (delivery status, with addresses in UTF-8) and RFC 5965
(feedback reports).

A report is a stranger's mail. So it is taken apart here, in one pass over the bytes for each of a few levels: the
parser of the standard library goes down to any depth, and looks at each line once for every level it is in.
"""

from __future__ import annotations

import binascii
import quopri
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.utils import parsedate_to_datetime
from hashlib import sha256
from itertools import islice
from typing import Any, Final, NamedTuple

from receiver.errors import Unreadable
from receiver.payload import mapping, texts

LEVELS: Final = 4  # of multiparts within each other
PARTS: Final = 50  # of a mail that are looked at
MARKS: Final = 1000  # what looks like the boundary of one multipart
RECIPIENTS: Final = 500  # of a report
FIELDS: Final = 300  # of one header or block
HEAD: Final = 32 * 1024  # bytes of a header
VALUE: Final = 4000  # characters of a field
STATUS: Final = 1 << 20  # bytes of a report's machine-readable part

# Each recipient's event repeats the headers. So that a small mail does not become many megabytes, those of a report on
# more than FEW recipients are cut down to what is read.
FEW: Final = 20
_SHORT: Final = 500  # characters
_RETURN_PATHS: Final = ("delivered-to", "x-original-to", "envelope-to", "to", "return-path", "original-mail-from")
_READ: Final = ("message-id", "date", "from", "subject", *_RETURN_PATHS)

_STATUS_KINDS: Final = frozenset({"message/delivery-status", "message/global-delivery-status"})
_FEEDBACK_KIND: Final = "message/feedback-report"
_RETURNED_KINDS: Final = frozenset(
    {
        *("message/rfc822", "message/rfc822-headers", "text/rfc822-headers"),
        *("message/global", "message/global-headers"),
    }
)

_HEAD_END: Final = re.compile(rb"\A\r?\n|\r?\n[ \t]*\r?\n")
_MARK_END: Final = re.compile(rb"(--)?[ \t]{0,100}(?:\r?\n|\Z)")
_BLOCK_END: Final = re.compile(rb"\r?\n[ \t]*\r?\n")
_FOLD: Final = re.compile(r"\r?\n[ \t]+")
_NAME: Final = re.compile(r"[!-9;-~]{1,100}")
_REPORT: Final = re.compile(r';\s*report-type\s*=\s*"?(?:delivery-status|feedback-report)', re.IGNORECASE)
_BOUNDARY: Final = re.compile(r';\s*boundary\s*=\s*(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)

Fields = dict[str, str | list[str]]


class Part(NamedTuple):
    """A part of a mail that has no parts itself."""

    kind: str
    headers: Fields
    body: bytes


def reports_of(mail: bytes) -> list[dict[str, Any]]:
    """A JSON object for each recipient that a bounce message tells of; one for a feedback report or any other mail.

    `headers`: those of the mail, names in lower case, what is repeated as a list. `returned`: those of the message it
    is about. `message` and `recipient`: the fields of a bounce message. `feedback`: those of a feedback report.
    `number`: which of the mail's recipients. Raises Unreadable for what is no mail, or a report that is broken.
    """
    head, body = _split(mail.lstrip(b"\r\n"))
    headers = _fields(head)
    if not headers:
        raise Unreadable("the body is no mail: it begins with no header")
    parts = list(islice(_parts(headers, body, LEVELS), PARTS))
    common = {"headers": headers, "returned": _returned(parts), "sha256": sha256(mail).hexdigest()}
    for part in parts:
        if part.kind in _STATUS_KINDS:
            blocks = list(_recipients(_decoded(part)))
            if len(blocks) > FEW:
                common |= {"headers": _short(headers), "returned": _short(common["returned"])}
            return [{**common, **block} for block in blocks]
        if part.kind == _FEEDBACK_KIND:
            return [{**common, "feedback": _some_fields(_decoded(part))}]
    if _REPORT.search(first(headers, "content-type")):
        raise Unreadable("the report's machine-readable part is missing")
    return [common]


def _recipients(status: bytes) -> Iterator[dict[str, Any]]:
    """The blocks about single recipients, each with what holds for the message."""
    blocks = [_fields(block) for block in _BLOCK_END.split(status, RECIPIENTS + 2)]
    found = [one for one in blocks if one.keys() & {"final-recipient", "original-recipient", "action"}]
    if not found or len(found) > RECIPIENTS:
        raise Unreadable("the report names no recipient" if not found else f"it names more than {RECIPIENTS}")
    message = next((one for one in blocks if one and one not in found), {})
    for number, recipient in enumerate(found):
        yield {"message": message, "recipient": recipient, "number": number}


def _short(fields: Any) -> Fields:
    return {name: value[:_SHORT] for name in _READ if (value := first(fields, name))}


def _some_fields(body: bytes) -> Fields:
    found = _fields(body)
    if not found:
        raise Unreadable("the feedback report has no fields")
    return found


def _returned(parts: Sequence[Part]) -> Fields:
    """The header of the message that the report is about."""
    for part in parts:
        if part.kind in _RETURNED_KINDS:
            return _fields(_split(_decoded(part).lstrip(b"\r\n"))[0])
    return {}


def _parts(headers: Fields, body: bytes, levels: int) -> Iterator[Part]:
    kind = first(headers, "content-type")
    boundary = _BOUNDARY.search(kind)
    word = kind.partition(";")[0].strip().lower() or "text/plain"
    if not word.startswith("multipart/") or boundary is None or not levels:
        yield Part(word, headers, body)
        return
    empty = True
    for chunk in _chunks(body, (boundary[1] or boundary[2]).encode(errors="replace")):
        head, rest = _split(chunk)
        yield from _parts(_fields(head), rest, levels - 1)
        empty = False
    if empty:  # counts as a part too, or a mail could be made of endless empty ones
        yield Part(word, headers, b"")


def _chunks(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """What stands between the lines of a boundary; of a mail that was cut off, also the last piece."""
    body, mark = b"\n" + body, b"\n--" + boundary
    start, found = None, body.find(mark)
    for _ in range(MARKS):
        if found < 0:
            break
        line = _MARK_END.match(body, found + len(mark))
        if line:
            if start is not None:
                yield body[start:found].removesuffix(b"\r")
            if line[1]:
                return
            start = line.end()
        found = body.find(mark, found + len(mark))
    if start is not None:
        yield body[start:]


def _split(mail: bytes) -> tuple[bytes, bytes]:
    """(header, body)."""
    end = _HEAD_END.search(mail, 0, 8 * HEAD)
    return (mail[: 8 * HEAD], b"") if end is None else (mail[: end.start()], mail[end.end() :])


def _fields(head: bytes) -> Fields:
    """The fields of a header or block; lines that are none, such as the first one of an mbox, are left out."""
    found: Fields = {}
    text = head[:HEAD].decode(errors="replace")
    for line in _FOLD.sub(" ", text).split("\n", FIELDS)[:FIELDS]:
        name, colon, value = line.partition(":")
        key = name.strip().lower()
        if colon and _NAME.fullmatch(key):
            value = value.strip()[:VALUE]
            known = found.get(key)
            found[key] = value if known is None else [*texts(known), value]
    return found


def _decoded(part: Part) -> bytes:
    """The part's first bytes without their transfer encoding, which RFC 3464 forbids and servers use nevertheless."""
    body, encoding = part.body[: 2 * STATUS], first(part.headers, "content-transfer-encoding").lower()
    if encoding == "quoted-printable":
        body = quopri.decodestring(body)
    elif encoding == "base64":
        try:
            body = binascii.a2b_base64(body)
        except binascii.Error as error:
            raise Unreadable("the report's machine-readable part is broken base64") from error
    return body[:STATUS]


# Readers of the fields: plain values out of untrusted text. They never raise.


def first(fields: Any, *names: str) -> str:
    """The first value of the first of the fields that is there; empty where none is."""
    given = mapping(fields)
    return next((value for name in names for value in texts(given.get(name))), "")


def keyword(value: str) -> str:
    """The word that a field begins with, without comments and parameters."""
    return _KEYWORD.split(value.strip().lower(), 1)[0]


_KEYWORD: Final = re.compile(r"[\s;(]")


def address(value: str) -> str | None:
    """The address of `rfc822; a@b`, `utf-8; a@b` (RFC 6533) or `<a@b>`; None for any other kind of address."""
    kind, semicolon, rest = value.partition(";")
    if not semicolon:
        kind, rest = "rfc822", value
    kind = kind.strip().lower()
    if kind not in {"rfc822", "utf-8"}:
        return None
    bare = rest.rpartition("<")[2].partition(">")[0].strip()
    return (_ESCAPED.sub(_unescaped, bare) if kind == "utf-8" else bare) or None


_ESCAPED: Final = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")


def _unescaped(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF and code else "\N{REPLACEMENT CHARACTER}"


def named(value: str) -> str | None:
    """The name in `dns; mx.example.net`."""
    return (value.partition(";")[2] or value).strip() or None


def message_id(value: str) -> str | None:
    """A message id without its angle brackets, comments or what follows."""
    inner = value.partition("<")[2].partition(">")[0] or value
    return inner.strip() or None


def moment(value: str) -> datetime | None:
    """A time as mails write it; without a zone it is taken as UTC."""
    try:
        found = parsedate_to_datetime(value[:100])
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):  # what it raises depends on what is wrong
        return None


def unencoded(value: str) -> str | None:
    """A text whose encoded words (RFC 2047) are undone."""
    try:
        return str(make_header(decode_header(value))) or None
    except (HeaderParseError, LookupError, ValueError):  # ValueError: also bytes that are not of the named charset
        return value or None


def return_path_id(template: re.Pattern[str], *given: Mapping[str, Any]) -> str | None:
    """What stands in place of `{id}` in the first address that fits the template, of those where a return path is."""
    for fields in given:
        for name in _RETURN_PATHS:
            for value in texts(fields.get(name)):
                fits = template.fullmatch(value.rpartition("<")[2].partition(">")[0].strip())
                if fits:
                    return fits[1]
    return None
