"""Cells of CSV files that spreadsheets would run as formulas: escaped when they are written, and read back exactly.

A cell that begins with one of these characters gets an apostrophe before it, and so does one that looks escaped
already, so that each text has one escaped form (OWASP, "CSV Injection", seen 2026-11).
"""

from __future__ import annotations

import re
from typing import Final

# The last four are the full-width forms of the first four, which some programs take for them.
_RUN: Final = "=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20"
_DANGEROUS: Final = re.compile(f"'*[{_RUN}]")
_ESCAPED: Final = re.compile(f"'+[{_RUN}]")


def escaped(cell: str) -> str:
    """The cell as text, for every spreadsheet."""
    return f"'{cell}" if _DANGEROUS.match(cell) else cell


def unescaped(cell: str) -> str:
    """What `escaped` was given; other cells stay as they are."""
    return cell[1:] if cell[:1] == "'" and _ESCAPED.match(cell) else cell
