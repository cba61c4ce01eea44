"""Where a text names a person: an address in the spellings that payloads, links, headers and logs give it.

`Mentions.pattern` finds candidates, in Postgres (`~`) as in Python; `names` judges them, so that nobody is taken for
`joanna@example.com` who is `anna@example.com`. Known: any case, percent and form encoding (also twice), HTML entities,
escapes of JSON, quoted-printable, Base64 and hexadecimal, IDN both ways, and the forms of bounce addresses
(`bounces+anna=example.com@`, SRS). Not known: other compressions and encryptions, and an address in two fields.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, unquote_plus

import idna

from receiver.classify.addresses import normalize_address

ERASED: Final = "[erased]"

Keep = Callable[[str], bool]

_SOFT: Final = r"(?:=(?:\r|\\+r)?(?:\n|\\+n))?"  # a line that quoted-printable has broken
_FOLD: Final = r"(?:(?:\r|\\+r)?(?:\n|\\+n))?"  # one of Base64
_ENTITIES: Final = {"@": "commat", "+": "plus", ".": "period", "_": "lowbar", "'": "apos", "&": "amp", "=": "equals"}

_ESCAPE: Final = (
    r"(?:%(?:25)*(?P<p{0}>[0-9A-Fa-f]{{2}})|=(?P<q{0}>[0-9A-F]{{2}})|\\+[uU](?P<u{0}>[0-9A-Fa-f]{{4}})"
    r"|\\+x(?P<x{0}>[0-9A-Fa-f]{{2}})|&(?:amp;)*#[xX]0*(?P<h{0}>[0-9A-Fa-f]{{1,6}});)"
)
_BEFORE: Final = re.compile(rf"(?:{_ESCAPE.format(0)}|(?P<white>\\+[nrtbf]))$")
_AFTER: Final = re.compile(_ESCAPE.format(0))
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/_-]|\\/|(?:\r|\\+r)?(?:\n|\\+n))+={0,2}")
_HEX: Final = re.compile(r"[0-9A-Fa-f]+")
_PHRASE: Final = re.compile(r"""(?:\\*"[^"\\\n]*\\*"|[^,;:"<>\\\r\n]+)?\s*<$""")
_ANY: Final = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_FILE: Final = re.compile(r"\.(?:csv|eml|gz|html?|jsonl?|log|pdf|toml|txt|vcf|xml|zip)(?![\w.-])", re.IGNORECASE)
_LEAD: Final = re.compile(r"[=/?&'`{|+]")
_UNICODE: Final = re.compile(r"\\+u([0-9A-Fa-f]{4})")
_QUOTED: Final = re.compile(r"=\r?\n|=([0-9A-F]{2})")
_RUN: Final = re.compile(r"[A-Za-z0-9+/_-]{16,}")
_NAME_KEYS: Final = frozenset({"name", "displayname", "fullname", "firstname", "lastname", "givenname", "familyname"})
_LOOK_BACK: Final = 200  # characters before a mention that may hold the name belonging to it


class Needles(NamedTuple):
    """What finds candidates at the speed of reading, in the texts of a database: a superset of what names the person.

    A text is one that, in lower case (ASCII), is LIKE one of `locals` and one of `domains` and matches `plain`; or is
    LIKE one of `encoded`; or that is itself LIKE one of `exact`.
    """

    locals: list[str]
    domains: list[str]
    plain: str
    encoded: list[str]
    exact: list[str]


class Mentions:
    """The spellings of one person's addresses (normalized, or as somebody wrote them)."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._forms = forms = [_parts(one) for one in dict.fromkeys(addresses)]
        plain = "|".join(dict.fromkeys(form for parts in forms for form in _plain(*parts)))
        coded = "|".join(dict.fromkeys(form for parts in forms for form in _coded(*parts)))
        hexes = "|".join(dict.fromkeys(form for parts in forms for form in _hexes(*parts)))
        self.pattern = f"(?:{plain}|{coded}|{hexes})"
        self._find = re.compile(f"(?P<plain>{plain})|(?P<coded>{coded})|(?P<hex>{hexes})")

    @property
    def needles(self) -> Needles:
        return _needles(self._forms)

    def names(self, text: str) -> bool:
        return next(self._spans(text), None) is not None

    def without(self, text: str) -> str:
        """The text with ERASED for each mention, and for the name before it."""
        parts, end = [], 0
        for start, stop in self._spans(text):
            if start >= end:
                parts += [text[end:start], ERASED]
                end = stop
        return "".join(parts) + text[end:] if parts else text

    def without_json(self, text: str, *, keep: Keep | None = None) -> str:
        """JSON text without the person: items of lists that are about them go, and what names them elsewhere.

        `keep`: whether an item, as JSON text, is about somebody else too, and so is looked into. What is no JSON is
        taken as text.
        """
        try:
            cleaned = json.dumps(self._walk(json.loads(text), keep), ensure_ascii=False, allow_nan=False)
            cleaned.encode()
        except (ValueError, RecursionError):  # such as 1e999, or nested too deeply
            return self.without(text)
        return cleaned

    def _walk(self, value: Any, keep: Keep | None) -> Any:
        match value:
            case str():
                return self.without(value)
            case list():
                return [self._walk(one, keep) for one in value if not self._is_about(one, keep)]
            case dict():
                named = any(isinstance(one, str) and self.names(one) for one in value.values())
                return {
                    key: ERASED if named and isinstance(one, str) and _is_name(key) else self._walk(one, keep)
                    for key, one in value.items()
                    if not self.names(key)
                }
            case _:
                return value

    def _is_about(self, item: Any, keep: Keep | None) -> bool:
        text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
        return self.names(text) and (keep is None or not keep(text))

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        position = 0
        while found := self._find.search(text, position):
            start, stop = found.span()
            span: tuple[int, int] | None = None
            if found["plain"] is None:
                span = self._in_run(text, start, stop, _HEX if found["hex"] else _BASE64)
            elif not _goes_on_before(text, start, found["plain"]) and not _goes_on_after(text, stop):
                span = _with_name(text, start, stop)
            if span is None:
                position = start + 1
            else:
                yield span
                position = max(span[1], start + 1)

    def _in_run(self, text: str, start: int, stop: int, kind: re.Pattern[str]) -> tuple[int, int] | None:
        """The whole run of encoded characters around a candidate, where it names the person once it is decoded."""
        first = start
        while first > 0 and kind.fullmatch(text, first - 1, start):
            first -= 1
        found = kind.match(text, first)
        last = max(found.end() if found else stop, stop)
        decode = _from_hex if kind is _HEX else _from_base64
        if any(self.names(plain) for plain in decode(text[first:last])):
            return first, last
        return None


def addresses_in(text: str) -> set[str]:
    """The normalized addresses that a text names, in most of the same spellings."""
    return _normalized(word for one in _readings(text) for word in _ANY.findall(one))


def possible_addresses(text: str) -> set[str]:
    """As `addresses_in`, with all that it may be of which one can only say in knowing whom it means."""
    readings = _readings(text)
    readings |= {unquote_plus(one) for one in readings}
    return _normalized(tail for one in readings for word in _ANY.findall(one) for tail in _tails(word))


def _normalized(words: Iterable[str]) -> set[str]:
    return {one for one in map(normalize_address, words) if one is not None}


def _readings(text: str) -> set[str]:
    """The text as it stands, and decoded."""
    plain = html.unescape(html.unescape(unquote(unquote(_UNICODE.sub(_character, text)))))
    runs = (decoded for run in _RUN.findall(text) for decoded in _from_base64(run) if "@" in decoded)
    return {text, plain, _QUOTED.sub(_character, text), *runs}


def _tails(word: str) -> Iterator[str]:
    """An address, and what it may be without what stands before it, as in `?to=` or a quotation mark."""
    yield word
    for found in _LEAD.finditer(word, 0, word.rindex("@")):
        yield word[found.end() :]


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


# Spellings --------------------------------------------------------------------------------------------------------


def _parts(address: str) -> tuple[str, Sequence[str]]:
    """(local part, the domain in ASCII and in Unicode)."""
    local, _, domain = address.rpartition("@")
    domains = [domain]
    with contextlib.suppress(idna.IDNAError, UnicodeError):  # a domain that no registry would accept has one form
        domains.append(idna.decode(domain) if domain.isascii() else idna.encode(domain, uts46=True).decode())
    return local, list(dict.fromkeys(domains))


def _plain(local: str, domains: Sequence[str]) -> Iterator[str]:
    at = rf"{_SOFT}(?:=|{_unit('@')}){_SOFT}"
    for domain in domains:
        yield _units(local) + at + _units(domain)
        yield f"{_units(domain)}={_units(local)}"  # SRS


def _units(text: str) -> str:
    return _SOFT.join(map(_unit, text))


def _unit(char: str) -> str:
    """One character in all its spellings but Base64 and hexadecimal."""
    cases = sorted({one for one in (char, char.lower(), char.upper()) if len(one) == 1})
    ways = [f"[{''.join(map(_in_class, cases))}]"]
    for one in cases:
        octets, code = one.encode(), ord(one)
        for each in {octets, bytes((code,)) if code < 256 else octets}:
            ways += ["".join(f"{mark}{_digits(f'{octet:02x}')}" for octet in each) for mark in ("%(?:25)*", "=")]
        units = one.encode("utf-16-be")
        pairs = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
        ways.append("".join(rf"\\+[uU]{_digits(pair)}" for pair in pairs))
        ways += [f"&(?:amp;)*#0*{code};", f"&(?:amp;)*#[xX]0*{_digits(f'{code:x}')};"]
        if code < 256:
            ways.append(rf"\\+x{_digits(f'{code:02x}')}")
    if char in _ENTITIES:
        ways.append(f"&(?:amp;)*{_ENTITIES[char]};")
    return f"(?:{'|'.join(dict.fromkeys(ways))})"


def _in_class(char: str) -> str:
    return f"\\{char}" if char in "\\]^-[" else char


def _digits(text: str) -> str:
    return "".join(f"[{char}{char.upper()}]" if char.isalpha() else char for char in text)


def _coded(local: str, domains: Sequence[str]) -> Iterator[str]:
    """In Base64 at each of its three alignments, without the characters that depend on what stands around."""
    for domain in domains:
        for text in _cases(f"{local}@{domain}"):
            for whole in _base64_of(text):
                yield _FOLD.join({"+": "[+-]", "/": r"(?:\\*/|_)"}.get(char, char) for char in whole)


def _base64_of(text: str) -> Iterator[str]:
    for before in range(3):
        content = bytes(before) + text.encode()
        yield base64.b64encode(content).decode()[(0, 2, 3)[before] : len(content) * 8 // 6]


def _hexes(local: str, domains: Sequence[str]) -> Iterator[str]:
    for domain in domains:
        chars = [{char, char.lower(), char.upper()} for char in f"{local}@{domain}"]
        yield "".join(f"(?:{'|'.join(_digits(one.encode().hex()) for one in sorted(cases))})" for cases in chars)


def _needles(forms: Sequence[tuple[str, Sequence[str]]]) -> Needles:
    whole = [f"{local}@{domain}" for local, domains in forms for domain in domains]
    runs = [run for text in whole for case in _cases(text) for run in _base64_of(case)]
    exact = [re.sub("[+/]", "%", part) for run in runs for part in map(_like, _halves(run))]
    pairs = [one for local, _ in forms for one in _cases(_anchor(local)[:2]) if one]
    return Needles(
        [_like(_anchor(local)) for local, _ in forms],
        [_like(_anchor(domain)) for _, domains in forms for domain in domains],
        "|".join(form for local, domains in forms for form in _readable(local, domains)),
        [_like(part) for text in whole for one in _cases(text) for part in _halves(one.encode().hex())]
        + [one for pair in pairs for one in _encoded(pair)],
        [*exact, *(_like(one) for one in ("=\r\n", "=\n", "=\\r\\n", "=\\n", "=\\\\r\\\\n", "=\\\\n"))],
    )


def _readable(local: str, domains: Sequence[str]) -> Iterator[str]:
    """As `_plain`, where letters and digits stand for themselves."""

    def units(text: str) -> str:
        return "".join(_either(char) if char.isascii() and char.isalnum() else _unit(char) for char in text)

    for domain in domains:
        yield f"{units(local)}(?:=|{_unit('@')}){units(domain)}"
        yield f"{units(domain)}={units(local)}"


def _either(char: str) -> str:
    return f"[{char.lower()}{char.upper()}]" if char.isalpha() else char


def _anchor(text: str) -> str:
    """The longest run of letters and digits in ASCII: no encoding changes it, but such as change everything."""
    return max(re.findall(r"[a-z0-9]+", text.lower()), key=len, default="")


def _cases(text: str) -> list[str]:
    return list(dict.fromkeys((text, text.lower(), text.upper())))


def _halves(text: str) -> tuple[str, str]:
    """Of what may be broken at the end of a line, one half is whole."""
    return text[: len(text) // 2], text[len(text) // 2 :]


def _like(text: str) -> str:
    return "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%"


def _encoded(chars: str) -> Iterator[str]:
    """Characters that need no encoding, encoded nevertheless: then all are, in one of these ways."""
    for form in ("%{0:02x}", "%25{0:02x}", "={0:02x}", "&#{0};", "&#x{0:x};", "&amp;#{0};"):
        yield _like("".join(form.format(ord(char)) for char in chars))
    yield "".join(f"%u{ord(char):04x}" for char in chars) + "%"


# Judging ----------------------------------------------------------------------------------------------------------


def _goes_on_before(text: str, start: int, mention: str) -> bool:
    """Whether the local part begins earlier, so that it is another mailbox."""
    char = _last(text[max(start - 16, 0) : start])
    bounce = "@" not in mention and re.search(r"=(?![0-9A-F]{2}|\\|\s)", mention)  # bounces+anna=example.com@
    return char.isalnum() or (char != "" and char in ("._" if bounce else "._+-"))


def _goes_on_after(text: str, stop: int) -> bool:
    """Whether the domain goes on, so that it is another one."""
    first, rest = _first(text[stop : stop + 24])
    if first.isalnum():
        return True
    return first in {".", "-"} and _first(rest)[0].isalnum() and not _FILE.match(first + rest)


def _last(text: str) -> str:
    found = _BEFORE.search(text)
    if found is None:
        return text[-1:]
    return " " if found["white"] else _escaped(found)


def _first(text: str) -> tuple[str, str]:
    found = _AFTER.match(text)
    return (text[:1], text[1:]) if found is None else (_escaped(found), text[found.end() :])


def _escaped(found: re.Match[str]) -> str:
    digits = next(one for name, one in found.groupdict().items() if one is not None and name != "white")
    return chr(min(int(digits, 16), 0x10FFFF))


def _with_name(text: str, start: int, stop: int) -> tuple[int, int]:
    """With the display name before `<address>`."""
    if text[stop : stop + 1] == ">" and text[start - 1 : start] == "<":
        back = max(start - _LOOK_BACK, 0)
        phrase = _PHRASE.search(text[back:start])
        if phrase:
            lead = len(phrase[0]) - len(phrase[0].lstrip())
            return back + phrase.start() + lead, stop + 1
    return start, stop


def _is_name(key: str) -> bool:
    return re.sub(r"[^a-z]", "", key.lower()) in _NAME_KEYS


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else ""


def _from_base64(run: str) -> Iterator[str]:
    """What a run of characters may decode to: it may begin with up to three that belong to something else."""
    chars = re.sub(r"\\+[rn]|[\r\n=]", "", run).replace("\\/", "/").replace("-", "+").replace("_", "/")
    for begin in range(4):
        usable = chars[begin:]
        usable = usable[: len(usable) - 1] if len(usable) % 4 == 1 else usable
        try:
            yield _decoded(base64.b64decode(usable + "=" * (-len(usable) % 4)))
        except binascii.Error:
            continue


def _from_hex(run: str) -> Iterator[str]:
    for begin in range(2):
        usable = run[begin:]
        yield _decoded(bytes.fromhex(usable[: len(usable) // 2 * 2]))
