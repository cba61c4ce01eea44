"""What the documents show is run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from receiver.cli.provider_page import pages, with_overview
from receiver.plugins.loading import load_handlers
from receiver.providers import providers
from receiver.sending.accounts import find_accounts
from receiver.sending.rules import find_rules
from receiver.settings import Settings
from receiver.signers.standard_webhooks import new_secret
from receiver.watching import bad_days
from receiver.watching.troubles import INSTALLATION, SILENCE

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK: Final = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
LINK: Final = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (page.relative_to(ROOT).as_posix(), code)
        for page in PAGES
        for found, code in BLOCK.findall(page.read_text(encoding="utf-8"))
        if found == language
    ]


@pytest.mark.parametrize(("page", "sql"), blocks("sql"))
async def test_every_query_in_the_documents_runs(page: str, sql: str, database: str) -> None:
    """every SQL block of README and docs runs against the schema."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
    assert page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_the_documents_leads_somewhere(page: Path) -> None:
    """every relative link in README and docs names a file that exists."""
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_every_python_block_is_python(page: str, code: str) -> None:
    """every Python block of README and docs compiles."""
    compile(code, page, "exec")


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_every_setting_in_the_documents_exists(page: str, text: str) -> None:
    """every TOML block of README and docs names settings and providers that exist."""
    table = tomllib.loads(text)
    if {"now", "window"} <= set(table):  # a fixture folder's provider.toml, which the contract suite reads
        return
    assert set(table) <= set(Settings.model_fields), page
    for source in table.get("sources", {}).values():
        assert set(source) <= set(providers()[source["provider"]].Settings.model_fields), page


@pytest.mark.parametrize(
    ("page", "text"),
    [one for one in blocks("toml") if re.search(r"^\[(accounts|rules|handlers)\.", one[1], re.MULTILINE)],
)
def test_every_account_rule_and_handler_in_the_documents_would_start(page: str, text: str, tmp_path: Path) -> None:
    """every TOML block with accounts, rules or handlers is taken by what checks them at the start"""
    table = tomllib.loads(text.replace("whsec_...", new_secret()))
    settings = Settings.model_validate(table | {"sending": {"templates_dir": tmp_path}})
    for rule in table.get("rules", {}).values():
        directory = tmp_path / rule["send"]
        directory.mkdir(exist_ok=True)
        (directory / "subject.txt").write_text("x")
        (directory / "body.txt").write_text("x")
        (directory / "meta.toml").write_text('topic = "news"')
    accounts, wrong = find_accounts(settings)
    rules, unfit = find_rules(settings)
    assert (wrong, unfit) == ([], []), page
    assert (set(accounts), {one.name for one in rules}) == (set(settings.accounts), set(settings.rules))
    load_handlers(ROOT / "handlers", settings=settings.handlers)


def test_the_shipped_rules_are_shown() -> None:
    """docs/sending.md shows the next step after a click, the win-back, the sunset, and the notice of a hard bounce"""
    shown = [tomllib.loads(text) for page, text in blocks("toml") if page == "docs/sending.md"]
    rules = {name: rule for table in shown for name, rule in table.get("rules", {}).items()}
    assert {"next_step", "win_back", "sunset"} <= set(rules)
    (forward,) = [table["handlers"]["forward"] for table in shown if "handlers" in table]
    assert (forward["types"], forward["bounce_categories"]) == (["bounced"], ["hard"])


def test_the_pages_of_the_providers_are_up_to_date() -> None:
    """docs/providers/ and the table in the README say what the providers' files say: `make docs` writes them."""
    found = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "providers").iterdir()}
    assert found == dict(pages())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == with_overview(readme)


def test_every_kind_of_alert_is_explained() -> None:
    """the table of alerts names each kind that the service raises, and no other."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.partition("| kind | when | severity |")[2].partition("\n\n")[0]
    named = [kind for row in table.splitlines()[2:] for kind in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted({SILENCE, *INSTALLATION, *bad_days.KINDS})
