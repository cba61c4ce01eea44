"""The HTML of the pages that people see, and the headers around it: nothing is stored, framed, loaded or told on."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from receiver.contract import Answer
from receiver.page_settings import PageSettings

AGAIN: Final = 30  # seconds after which somebody may try again

_CSS: Final = (files("receiver.web") / "templates" / "pages.css").read_text(encoding="utf-8").strip()
_STYLE: Final = b64encode(sha256(_CSS.encode()).digest()).decode()

HEADERS: Final = (
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),  # the URL is the key to the page
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("x-robots-tag", "noindex, nofollow"),
)


class Screens:
    """Makes answers of templates; what stands in them is escaped."""

    def __init__(self, settings: PageSettings) -> None:
        self._settings = settings
        self._templates = Environment(
            loader=PackageLoader("receiver.web"), autoescape=True, undefined=StrictUndefined, auto_reload=False
        )
        self._templates.globals |= {"css": _CSS, "support": settings.support}

    def page(self, template: str, title: str, *, brand: str = "", status: int = 200, **values: Any) -> Answer:
        name = self._settings.name_of(brand)
        html = self._templates.get_template(template).render(title=title, name=name, **values)
        return Answer(status=status, body=html.encode(), content_type="text/html; charset=utf-8", headers=HEADERS)

    def message(self, title: str, *texts: str, brand: str = "", status: int = 200) -> Answer:
        return self.page("message.html", title, brand=brand, status=status, texts=texts)

    def not_found(self) -> Answer:
        """The same whatever is wrong with a link."""
        return self.message(
            "This link does not work",
            "A part of it may be missing. Open it from the mail once more, or copy the whole link.",
            status=404,
        )

    def run_out(self) -> Answer:
        return self.message(
            "This link has run out",
            "For your safety it worked for a limited time. To go on, ask for a new one where you asked for this one.",
            status=410,
        )

    def unavailable(self) -> Answer:
        answer = self.message(
            "Please try again in a minute",
            "We could not finish this at the moment. Please try again: a second time does no harm, and the link goes "
            "on to work.",
            status=503,
        )
        return _with(answer, ("retry-after", str(AGAIN)))

    def failed(self) -> Answer:
        return self.message(
            "Something went wrong",
            "It is our fault, and we cannot say that your wish was carried out. Please try again later.",
            status=500,
        )

    def not_whole(self, status: int = 400) -> Answer:
        return self.message(
            "Please try again",
            "What you sent did not arrive as it should, and nothing was changed.",
            status=status,
        )

    def not_allowed(self) -> Answer:
        return _with(self.not_whole(405), ALLOW)


ALLOW: Final = ("allow", "GET, HEAD, POST, OPTIONS")


def _with(answer: Answer, header: tuple[str, str]) -> Answer:
    return Answer(
        status=answer.status, body=answer.body, content_type=answer.content_type, headers=(*answer.headers, header)
    )
