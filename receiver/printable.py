"""Strangers' text made safe for terminals and logs."""

from __future__ import annotations

import re
from typing import Final

# Controls (C0, DEL, C1), line and paragraph separators, what reorders or hides text, lone surrogates.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)

_ADDRESS: Final = re.compile(r"[^\s@<>\"'(),:;\[\]{}=]{1,64}(?:@|%40)[^\s@<>\"'(),:;\[\]{}=/?&]{1,255}", re.IGNORECASE)


def printable(text: str) -> str:
    r"""The text with everything that a terminal would act upon written as an escape, such as `\x1b`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def without_addresses(text: str) -> str:
    """The text with `<address>` in the place of everything that looks like a mail address."""
    return _ADDRESS.sub("<address>", text)
