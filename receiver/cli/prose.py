"""The providers' set-up texts, for a terminal and for a page.

A text is paragraphs and numbered steps. What belongs to a step stands under its words (3 spaces); lines with 4 spaces
or more are to be copied as they are. Names of settings stand between backticks, and `{url}` is the source's URL.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 110  # columns of a page
_STEP: Final = re.compile(r"\d+\. ")
_CODE: Final = " " * 4
_UNDER: Final = " " * 3
_URL: Final = re.compile(r"\{url\}(?:[/?]\S*[\w>])?")
_SPAN: Final = re.compile(r"(`[^`]*`)")


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, or lines to copy. `under`: it begins a step, or belongs to one."""

    lines: tuple[str, ...]
    code: bool
    under: bool

    @property
    def text(self) -> str:
        return " ".join(line.strip() for line in self.lines)


def for_terminal(text: str, url: str, width: int) -> Iterator[str]:
    """The lines of the text. What is to be copied, and the URL, are never broken."""
    for block in _blocks(text):
        if block.code:
            yield from (line.replace("{url}", url) for line in block.lines)
        else:
            yield from filled(block.text.replace("{url}", url), width, under=block.under)


def for_page(text: str, url: str) -> Iterator[str]:
    """The lines of the text as Markdown: URLs are code, and what is to be copied stands in fences."""
    before: Block | None = None
    for block in _blocks(text):
        if before and (before.code or block.code or not (before.under and _STEP.match(block.text))):
            yield ""
        if block.code:
            yield from _fenced(block, url)
        else:
            shown = escaped(_URL.sub(lambda found: f"`{found[0]}`", block.text))
            yield from filled(shown.replace("{url}", url), WIDTH, under=block.under)
        before = block


def escaped(text: str) -> str:
    """Markdown in which `<` begins a tag nowhere."""
    parts = _SPAN.split(text)
    return "".join(part if part.startswith("`") else part.replace("<", "\\<") for part in parts)


def filled(text: str, width: int, *, under: bool = False) -> list[str]:
    """The lines of one paragraph. `under`: all but a step's first are indented."""
    rest = _UNDER if under else ""
    return textwrap.wrap(
        text,
        width,
        initial_indent="" if _STEP.match(text) else rest,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _fenced(block: Block, url: str) -> Iterator[str]:
    indent = _UNDER if block.under else ""
    lines = textwrap.dedent("\n".join(block.lines)).replace("{url}", url).split("\n")
    yield from (indent + line for line in ("```", *lines, "```"))


def _blocks(text: str) -> Iterator[Block]:
    gathered: list[str] = []
    under = False
    for line in [*text.splitlines(), ""]:
        step, code = bool(_STEP.match(line)), line.startswith(_CODE)
        plain = bool(line) and not step and not line.startswith(" ")
        if gathered and (not line or step or code != gathered[0].startswith(_CODE) or (plain and under)):
            yield Block(tuple(gathered), gathered[0].startswith(_CODE), under)
            gathered = []
        under = step or (under and not plain)
        if line:
            gathered.append(line)
