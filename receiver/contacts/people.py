"""People in files and commands: which column is which field, and whether a row's values can be stored."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from io import StringIO
from typing import Any, Final

from receiver.contacts.addresses import Address, WrongAddress, entered
from receiver.contacts.files import WrongFile, decoded
from receiver.contacts.times import WrongTime, time_in

ATTRIBUTE: Final = "attributes."
LEAVE_OUT: Final = "-"
FIELDS: Final = ("address", "external_id", "name", "first_name", "last_name", "locale", "time_zone", "tags")
WHOLE: Final = ("attributes", "topics")  # of JSON Lines as we export them: an object each
MAX_TEXT: Final = 10_000  # characters of a name, tag or id

# What columns are called elsewhere, the likelier first; `_` and `-` are spaces here, and capitals do not count.
_NAMES: Final[Mapping[str, str]] = {
    "address": "email|e mail|email address|e mail address|emailaddress|mail|subscriber email|recipient|address",
    "external_id": "external id|externalid|customer id|user id|contact id|member id",
    "name": "name|full name|fullname|display name|contact name",
    "first_name": "first name|firstname|fname|given name|forename",
    "last_name": "last name|lastname|lname|surname|family name",
    "locale": "locale|language|lang|preferred language",
    "time_zone": "time zone|timezone|tz",
    "tags": "tags|tag|labels",
}
_LEFT_OUT: Final = re.compile(r"topics\..*|topics|reject_line|reject_reason|column \d+", re.DOTALL)
_LOCALE: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_NO_TEXT: Final = re.compile("[\0\ud800-\udfff]")
_ZERO: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # as JSON writes it
as_json: Final = json.JSONEncoder(ensure_ascii=False).encode
_TIME_ZONE: Final = re.compile(r"[A-Za-z_]+(/[A-Za-z0-9_+-]+){0,2}")


class WrongRow(ValueError):
    """A row cannot be stored. `reason`: what is counted together. The text says it for this row, without quoting it."""

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(text or reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What is known of one person. None, and what is missing: not told, so that what is stored stays."""

    address: Address
    external_id: str | None = None
    name: str | None = None
    locale: str | None = None
    time_zone: str | None = None
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    consented_at: datetime | None = None


def mapping(columns: Sequence[str], given: Iterable[str]) -> dict[str, str]:
    """For each column its field, `attributes.NAME`, or `-` for none. `given`: `column=field`. Raises WrongFile."""
    chosen = dict(_pair(one, columns) for one in given)
    taken = set(chosen.values())
    guessed = {_likeliest(field_, columns, chosen): field_ for field_ in FIELDS if field_ not in taken}
    return {column: chosen.get(column) or guessed.get(column) or _otherwise(column) for column in columns}


def _pair(text: str, columns: Sequence[str]) -> tuple[str, str]:
    column, equals, field_ = text.rpartition("=")
    if not equals or column not in columns:
        raise WrongFile(f"--map {text}: there is no such column; the file has {', '.join(columns)}")
    if field_ not in {*FIELDS, LEAVE_OUT} and not (field_.startswith(ATTRIBUTE) and field_ != ATTRIBUTE):
        known = ", ".join([*FIELDS, "attributes.NAME", f"{LEAVE_OUT} (left out)"])
        raise WrongFile(f"--map {text}: a column becomes one of {known}")
    return column, field_


def _likeliest(field_: str, columns: Sequence[str], chosen: Mapping[str, str]) -> str | None:
    """The column that is probably this field."""
    plain = {re.sub(r"[\s_-]+", " ", column).strip().lower(): column for column in reversed(columns)}
    found = (plain.get(name) for name in _NAMES[field_].split("|"))
    return next((column for column in found if column is not None and column not in chosen), None)


def _otherwise(column: str) -> str:
    if column in WHOLE:
        return column if column == "attributes" else LEAVE_OUT
    if _LEFT_OUT.fullmatch(column):
        return LEAVE_OUT
    return column if column.startswith(ATTRIBUTE) else ATTRIBUTE + column


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How rows become people. `texts`: values are cells of CSV, and not JSON. `consented`: the column of that time."""

    fields: Mapping[str, str]
    texts: bool
    now: datetime
    consented: str | None = None

    def person(self, values: Mapping[str, Any]) -> Person:
        """Raises WrongRow."""
        found, attributes = dict[str, Any](), dict[str, Any]()
        for column, value in values.items():
            field_ = self.fields.get(column) or _otherwise(column)
            if field_ == LEAVE_OUT or (self.texts and value == ""):
                continue
            if field_ == "attributes":
                attributes |= _object(value)
            elif field_.startswith(ATTRIBUTE):
                attributes[field_.removeprefix(ATTRIBUTE)] = self._attribute(column, value)
            elif value is not None:
                found[field_] = value
        return _person(found, attributes, self._consented_at(values))

    def _attribute(self, column: str, value: Any) -> Any:
        """Columns that are called as we export them hold JSON where it is no text."""
        return json_cell(value) if self.texts and column.startswith(ATTRIBUTE) else value

    def _consented_at(self, values: Mapping[str, Any]) -> datetime | None:
        if self.consented is None:
            return None
        try:
            return time_in(values.get(self.consented), now=self.now)
        except WrongTime as error:
            raise WrongRow("wrong time of consent", str(error)) from None


def json_cell(cell: str) -> Any:
    """The value of a cell that `cell_of` wrote; what is no JSON is the text itself."""
    try:
        return decoded(cell)
    except (ValueError, RecursionError):
        return cell


def cell_of(value: Any) -> str:
    """An attribute as a cell: a text as it is, unless it could be taken for another value; all else as JSON."""
    if isinstance(value, str) and value and json_cell(value) is value:
        return value
    return as_json(value)


def tags_cell(tags: Sequence[str]) -> str:
    """Tags in one cell: separated by commas, quoted where they have one."""
    into = StringIO()
    csv.writer(into).writerow(tags)
    return into.getvalue().removesuffix("\r\n")


def _person(found: Mapping[str, Any], attributes: dict[str, Any], consented_at: datetime | None) -> Person:
    address = _text(found, "address")
    if address is None:
        raise WrongRow("no address")
    both = " ".join(filter(None, (_text(found, "first_name"), _text(found, "last_name"))))
    return Person(
        address=_address(address),
        external_id=_text(found, "external_id"),
        name=_text(found, "name") or both or None,
        locale=locale(_text(found, "locale")),
        time_zone=time_zone(_text(found, "time_zone")),
        tags=tags(found.get("tags")),
        attributes=_storable(attributes),
        consented_at=consented_at,
    )


def _address(text: str) -> Address:
    try:
        return entered(text)
    except WrongAddress as error:
        raise WrongRow("no usable address", str(error)) from None


def _text(found: Mapping[str, Any], name: str) -> str | None:
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise WrongRow(f"{name} is no text")
    text = str(value).strip()
    if len(text) > MAX_TEXT or _NO_TEXT.search(text):
        raise WrongRow(f"{name} cannot be stored", f"{name} is too long, or has characters that no text has")
    return text or None


def storable(text: str) -> bool:
    """Whether Postgres takes it as text: no zero character, no half of a pair."""
    return _NO_TEXT.search(text) is None


def locale(text: str | None) -> str | None:
    """A language tag, `de_AT` as `de-AT`. Raises WrongRow."""
    if text is not None and _LOCALE.fullmatch(text := text.replace("_", "-")) is None:
        raise WrongRow("no locale", "the locale is no language tag, such as de or de-AT")
    return text


def time_zone(text: str | None) -> str | None:
    """A name as in the IANA database. Raises WrongRow."""
    if text is not None and _TIME_ZONE.fullmatch(text) is None:
        raise WrongRow("no time zone", "the time zone is no name such as Europe/Vienna")
    return text


def tags(value: Any) -> tuple[str, ...]:
    """Tags of a list, or of a cell (separated by commas, quoted where need be), each once. Raises WrongRow."""
    if value is None:
        return ()
    if isinstance(value, str):
        try:
            value = next(csv.reader([value], skipinitialspace=True), [])
        except csv.Error:
            raise WrongRow("tags cannot be read") from None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise WrongRow("tags are no list of texts")
    found = dict.fromkeys(one.strip() for one in value)
    if any(len(one) > MAX_TEXT or not storable(one) for one in found):
        raise WrongRow("tags cannot be stored")
    return tuple(one for one in found if one)


def _object(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, str):
        value = json_cell(value)
    if not isinstance(value, dict):
        raise WrongRow("attributes are no object")
    return value


def _storable(attributes: dict[str, Any]) -> dict[str, Any]:
    """Raises WrongRow where jsonb would refuse a text in it."""
    text = as_json(attributes)
    if _ZERO.search(text) or not storable(text):
        raise WrongRow("an attribute cannot be stored", "an attribute has characters that no text has")
    return attributes
