"""Templates: `templates/<name>/{subject.txt, body.txt, body.html, meta.toml}`, written by the team, filled with values.

A value is never a template: what strangers have written is text, and escaped in HTML. A value that is missing is an
error, not an empty place in a mail.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import css_inline
from jinja2 import StrictUndefined, TemplateError, TemplateNotFound, UndefinedError, select_autoescape
from jinja2.loaders import ChoiceLoader, FileSystemLoader
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import override

from receiver.errors import Problem
from receiver.payload import clean_text
from receiver.printable import without_addresses
from receiver.sending.content import Box, Content

SUBJECT: Final = "subject.txt"
TEXT: Final = "body.txt"
HTML: Final = "body.html"
META: Final = "meta.toml"

_MISSING: Final = re.compile(r"('\w+') is undefined")  # what the template language says of a value that is not there

# What a template raises while it is read and filled: also one that includes itself, or a file that cannot be read.
_FAULTS: Final = (
    TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, OSError,
)  # fmt: skip


class Meta(BaseModel):
    """`meta.toml`: what is the same for every message of a template."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    stream: Literal["marketing", "transactional"] = "marketing"
    topic: str | None = None
    sender: Box | None = Field(None, alias="from")
    reply_to: list[Box] = []
    tags: list[str] = []
    headers: dict[str, str] = {}
    inline_css: bool = True
    sample: dict[str, Any] = Field({}, description="values for previews and checks")


class Unfit(Exception):
    """The template cannot be used, or not with these values: `reason` in a word, and why.

    `detail` is kept: it names no address, also where an error quotes a value, and holds nothing that no text can hold.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = clean_text(without_addresses(detail)[:500])
        super().__init__(self.detail)


@dataclass(frozen=True, slots=True)
class Templates:
    """The team's templates in a directory, and those that the product brings, which have the same form."""

    directory: Path

    def names(self) -> list[str]:
        """Of the team's templates, sorted."""
        if not self.directory.is_dir():
            return []
        return sorted(path.name for path in self.directory.iterdir() if (path / SUBJECT).is_file())

    def meta(self, name: str) -> Meta:
        """Raises Unfit."""
        place = self._place(name)
        try:
            return Meta.model_validate(tomllib.loads(text) if (text := _read(place / META)) else {})
        except (ValueError, OSError) as error:  # no TOML, no UTF-8, not its fields
            raise Unfit("wrong_template", f"{name}/{META}: {_first(error)}") from None

    def render(self, name: str, values: Mapping[str, Any]) -> Content:
        """The message with these values. Raises Unfit."""
        meta, place, environment = self.meta(name), self._place(name), _environment(self.directory)
        parts: dict[str, str] = {}
        for part in (SUBJECT, TEXT, HTML):
            if (place / part).is_file():
                try:
                    parts[part] = environment.get_template(f"{name}/{part}").render(**values)
                except _FAULTS as error:
                    raise Unfit("wrong_template", f"{name}/{part}: {_first(error)}") from None
        html, text = parts.get(HTML), parts.get(TEXT)
        if html is None and text is None:
            raise Unfit("wrong_template", f"{name} has neither {TEXT} nor {HTML}")
        try:
            if html is not None and meta.inline_css:
                html = _inliner().inline(html)
            return Content(
                subject=" ".join(parts[SUBJECT].split()),
                text=text if text is not None else plain_text(html or ""),
                html=html,
                sender=meta.sender,
                reply_to=meta.reply_to,
                tags=meta.tags,
                headers=meta.headers,
            )
        except ValueError as error:  # no HTML, or no message
            raise Unfit("wrong_template", f"{name}: {_first(error)}") from None

    def problems(self) -> list[Problem]:
        """What is wrong with the team's templates, as far as that shows without values."""
        return [problem for name in self.names() for problem in self._wrong(name)]

    def _wrong(self, name: str) -> Iterator[Problem]:
        environment = _environment(self.directory)
        try:
            self.meta(name)
            for part in (SUBJECT, TEXT, HTML):
                if (self.directory / name / part).is_file():
                    environment.get_template(f"{name}/{part}")
        except Unfit as error:
            yield Problem(f"templates.{name}", error.detail, "See docs/sending.md for the form of a template")
        except (TemplateError, UnicodeDecodeError, OSError) as error:
            yield Problem(f"templates.{name}", _first(error), "See docs/sending.md for the form of a template")

    def _place(self, name: str) -> Path:
        """The directory of a template: the team's own, else the product's. Raises Unfit."""
        if not name or name != Path(name).name or name.startswith("."):
            raise Unfit("no_template", "that is not the name of a template")
        for directory in (self.directory, _shipped()):
            try:
                if (directory / name / SUBJECT).is_file():
                    return directory / name
            except OSError as error:  # a name that is too long, a directory that is not ours to read
                raise Unfit("no_template", f"{name} in {directory}: {error.strerror}") from None
        raise Unfit("no_template", f"there is no template {name}: {self.directory}/{name}/{SUBJECT} is not there")


def _shipped() -> Path:
    return Path(str(resources.files("receiver.sending") / "shipped"))


@cache
def _environment(directory: Path) -> SandboxedEnvironment:
    """One for a directory; it reads a file again when it has changed."""
    return SandboxedEnvironment(
        loader=ChoiceLoader([FileSystemLoader(directory), FileSystemLoader(_shipped())]),
        undefined=StrictUndefined,
        autoescape=select_autoescape(["html"]),
        keep_trailing_newline=True,
    )


@cache
def _inliner() -> css_inline.CSSInliner:
    return css_inline.CSSInliner(load_remote_stylesheets=False, keep_style_tags=True)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _first(error: Exception) -> str:
    """In one line."""
    if isinstance(error, ValidationError):
        (wrong, *_) = error.errors(include_input=False, include_url=False, include_context=False)
        return f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
    if isinstance(error, TemplateNotFound):
        return f"there is no {error.message}"
    if isinstance(error, UndefinedError) and (found := _MISSING.fullmatch(str(error))):
        return f"{found[1]} is undefined: give it a value in `data` (on the command line, --data)"
    line = getattr(error, "lineno", None)
    return f"{f'line {line}: ' if line else ''}{' '.join(str(error).split())}"


# Plain text ----------------------------------------------------------------------------------------------------------

_BLOCKS: Final = frozenset("p div section article header footer table tr ul ol h1 h2 h3 h4 h5 h6 blockquote".split())  # noqa: SIM905
_UNSEEN: Final = frozenset(["style", "script", "head", "title", "template"])


class _Text(HTMLParser):
    """What a reader of the HTML would see, in lines."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines = [""]
        self._unseen = 0
        self._link: tuple[str, int] | None = None

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in _UNSEEN:
            self._unseen += 1
        elif tag in _BLOCKS:
            self._break(blank=True)
        elif tag == "br":
            self.lines.append("")
        elif tag == "li":
            self._break(blank=False)
            self.lines[-1] = "- "
        elif tag == "img":
            self.handle_data(given.get("alt") or "")
        elif tag == "a" and given.get("href"):
            self._link = (given["href"] or "", len(self.lines[-1]))

    @override
    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen = max(self._unseen - 1, 0)
        elif tag in _BLOCKS:
            self._break(blank=True)
        elif tag == "a" and self._link is not None:
            url, start = self._link
            self._link = None
            if self.lines[-1][start:].strip() != url and not url.startswith("#"):
                self.lines[-1] += f" ({url})"

    @override
    def handle_data(self, data: str) -> None:
        if not self._unseen:
            words = " ".join(data.split())
            line = self.lines[-1]
            before = " " if data[:1].isspace() and line and not line.endswith(" ") else ""
            after = " " if data[-1:].isspace() and words else ""
            self.lines[-1] = f"{line}{before if words else ''}{words}{after}"

    def _break(self, *, blank: bool) -> None:
        if self.lines[-1].strip():
            self.lines += ["", ""] if blank else [""]


def plain_text(html: str) -> str:
    """The text part for an HTML part that has none."""
    reader = _Text()
    reader.feed(html)
    reader.close()
    lines: list[str] = []
    for line in (one.strip() for one in reader.lines):
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).strip() + "\n"
