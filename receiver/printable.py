"""Strangers' text made safe for terminals and logs."""

from __future__ import annotations

import re
from typing import Final

# Controls (C0, DEL, C1), line and paragraph separators, what reorders or hides text, lone surrogates.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)

# An at sign, also as URLs, mail headers, JSON and HTML write it, and the wide one.
_AT: Final = re.compile(r"@|%40|=40|\\u0040|&#(?:64|x40);|\uff20", re.IGNORECASE)
_DOMAIN: Final = re.compile(r"\[[^\s\]]{1,64}\]|[^\s@<>\"'`(),:;\[\]{}=/?&\\]{1,255}")
_NOT_IN_LOCAL: Final = frozenset(' \t\r\n"@<>(),:;[]')  # all else is: RFC 5321 allows !#$%&'*+/=?^_`{|}~-
_ENTITY: Final = re.compile(r"&(?:#39|#x27|apos|#38|#x26|amp);\Z", re.IGNORECASE)  # ' and & in HTML
_AROUND: Final = "'`{"  # what an address could begin with, but far more often stands in
_LONGEST: Final = 320  # characters before an at sign that are looked at: nobody has a longer address


def printable(text: str) -> str:
    r"""The text with everything that a terminal would act upon written as an escape, such as `\x1b`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def without_addresses(text: str) -> str:
    """The text with `<address>` in the place of everything that looks like a mail address.

    What stands right before an address without a blank, such as a name and `=`, goes too: it may be a part of it.
    """
    kept: list[str] = []
    end = 0
    for at in _AT.finditer(text):
        begin, domain = _local(text, end, at.start()), _DOMAIN.match(text, at.end())
        if domain is not None and end <= begin < at.start():
            kept += text[end:begin], "<address>"
            end = domain.end()
    return "".join((*kept, text[end:]))


def _local(text: str, least: int, end: int) -> int:
    """Where the local part begins that ends here, at `least` or behind it."""
    least = max(least, end - _LONGEST)
    if text.endswith('"', least, end) and (quote := text.rfind('"', least, end - 1)) >= 0:
        return quote
    begin = end
    while begin > least:
        if text[begin - 1] not in _NOT_IN_LOCAL:
            begin -= 1
        elif entity := _ENTITY.search(text, max(least, begin - 6), begin):
            begin = entity.start()
        else:
            break
    while begin < end and text[begin] in _AROUND:
        begin += 1
    return begin
