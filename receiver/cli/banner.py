"""What is printed when the service is up."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.table import Table
from rich.text import Text

from receiver.cli.checking import Checked, warnings_of
from receiver.cli.lines import say
from receiver.cli.output import cell, show
from receiver.printable import printable
from receiver.settings import without_password
from receiver.sources import webhook_url
from receiver.web.service import Listening

SHOWN: Final = 8  # sources; a demo has one for every provider
TRY: Final = "postmark"  # the provider of the first example, if there is a source for it


def show_service(checked: Checked, listening: Listening, dsn: str, *, demo: bool) -> None:
    """Addresses, database, each source with its URL, each handler, and what to try next."""
    settings = checked.settings
    _title("The receiver is up." + (" This is a demo: its secrets were made up." if demo else ""))
    _rows(
        [
            ("webhooks", f"{listening.url}/webhooks/..."),
            ("administration", f"{listening.admin_url}/readyz, /metrics, /api/v1"),
            ("database", _database(checked, dsn)),
        ]
    )
    _title("Sources")
    names = list(checked.sources)
    shown = names if len(names) <= SHOWN + 1 else [*dict.fromkeys([*(n for n in names if n == TRY), *names])][:SHOWN]
    _rows([(name, webhook_url(settings, name, listening.url)) for name in shown])
    if len(shown) < len(names):
        say(f"  and {len(names) - len(shown)} more: {_invoked(sys.argv[0], os.environ)} sources")
    _handlers(checked)
    for warning in warnings_of(checked):
        show(Text(f"WARNING  {printable(warning)}", style="bold yellow"))
    _next(checked, demo=demo)


def show_worker(checked: Checked, admin_url: str, dsn: str) -> None:
    """Where it can be asked, the database and each handler."""
    _title("The worker is up.")
    _rows([("administration", f"{admin_url}/readyz, /metrics"), ("database", _database(checked, dsn))])
    _handlers(checked)


def _database(checked: Checked, dsn: str) -> str:
    if checked.settings.embedded:
        return f"embedded PostgreSQL in {checked.settings.data_dir.absolute()}"
    return without_password(dsn)


def _handlers(checked: Checked) -> None:
    if checked.handlers is None:
        _title("Handlers: not run by this process, start `receiver work`")
        return
    _title("Handlers")
    _rows([(one.name, one.summary or one.origin) for one in checked.handlers] or [("(none)", "events are only stored")])


def _next(checked: Checked, *, demo: bool) -> None:
    _title("Try next, in another terminal")
    command = _invoked(sys.argv[0], os.environ)
    if demo:
        source = TRY if TRY in checked.sources else next(iter(checked.sources))
        first = (f"simulate {source} bounced --to ada@customer-domain.test", "play the provider")
    else:
        first = ("sources show NAME", "what to paste into the provider's console")
    rest = (("events list", "what has arrived"), ("handlers", "how far the handlers are"))
    _rows([(f"{command} {words}", meaning) for words, meaning in (first, *rest)])
    say("")


def _invoked(program: str, environ: Mapping[str, str]) -> str:
    """This command as it has to be typed in the same directory: not everybody has it on the PATH."""
    name = Path(program).name
    if name == "__main__.py":
        name = "python -m receiver"
    elif shutil.which(name) != str(Path(program).absolute()):
        name = os.path.relpath(program)
    moved = environ.get("RECEIVER_DATA_DIR")
    return f"RECEIVER_DATA_DIR={shlex.quote(moved)} {name}" if moved else name


def _title(text: str) -> None:
    show(Text(f"\n{printable(text)}", style="bold"))


def _rows(rows: list[tuple[str, str]]) -> None:
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="cyan", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in rows:
        shown.add_row(Text(f"  {printable(name)}"), cell(value))
    show(shown)
