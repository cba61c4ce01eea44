"""How a provider is set up: the text and the table that `receiver sources show`, `init` and the pages print."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from receiver.cli.prose import for_page, for_terminal
from receiver.cli.template import example
from receiver.cli.world import local_world
from receiver.providers import providers
from receiver.settings import Settings
from receiver.sources import find_sources


@pytest.mark.parametrize("name", providers())
def test_the_example_of_a_provider_needs_its_placeholders_filled_and_nothing_more(name: str, tmp_path: Path) -> None:
    """with right values for what it leaves open, the table that `sources show` prints is a source that works"""
    provider = providers()[name]
    table = tomllib.loads("\n".join(example(provider)))["sources"][name]
    right, _ = provider.simulation.demo(tmp_path)
    secret = "b3BlbiBzZXNhbWUgb3BlbiBzZXNhbWU"
    for key, value in table.items():
        if value in ("...", ["..."]):
            table[key] = right.get(key, secret if value == "..." else [secret])
    _, problems = find_sources(Settings(sources={name: table}), local_world())
    assert problems == []


def test_an_example_asks_for_the_credentials_that_the_set_up_names() -> None:
    """of several kinds of credentials one is to be filled in, and none where the provider signs"""
    azure, hubspot, mailgun = ([*example(providers()[name])] for name in ("azure", "hubspot", "mailgun"))
    assert [line.partition(" =")[0] for line in azure if not line.startswith("#")][2:] == ["url_secret"]
    assert "# password" in {line.partition(" =")[0] for line in mailgun}
    assert {"client_secret", "public_url"} <= {line.partition(" =")[0] for line in hubspot}


SETUP = """\
Start here, with `a_setting`
and {url}?token=<it>.
1. A step that is
   long, and <so> on
     copy {url}
       this
   and look
2. Another.
After all."""


def test_a_set_up_text_on_a_page() -> None:
    """steps stay steps, what is to be copied stands in a fence, and nothing is taken for a tag"""
    assert "\n".join(for_page(SETUP, "https://h/w")) == (
        "Start here, with `a_setting` and `https://h/w?token=<it>`.\n\n"
        "1. A step that is long, and \\<so> on\n\n"
        "   ```\n   copy https://h/w\n     this\n   ```\n\n"
        "   and look\n"
        "2. Another.\n\n"
        "After all."
    )


def test_a_set_up_text_in_a_terminal() -> None:
    """prose is filled to the width, what is to be copied is left alone"""
    assert [*for_terminal(SETUP, "https://h/w", 24)] == [
        "Start here, with",
        "`a_setting` and",
        "https://h/w?token=<it>.",
        "1. A step that is long,",
        "   and <so> on",
        "     copy https://h/w",
        "       this",
        "   and look",
        "2. Another.",
        "After all.",
    ]
