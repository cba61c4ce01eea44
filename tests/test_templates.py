"""Templates: what strangers wrote stays text, what is missing is an error, a text part is made where none is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from receiver.sending.templates import Templates, Unfit, plain_text


def write(directory: Path, name: str = "welcome", **parts: str) -> Templates:
    files = {"subject": "subject.txt", "text": "body.txt", "html": "body.html", "meta": "meta.toml"}
    (directory / name).mkdir(exist_ok=True)
    for part, content in parts.items():
        (directory / name / files[part]).write_text(content)
    return Templates(directory)


def test_a_template_is_filled(tmp_path: Path) -> None:
    """subject, text, HTML and meta become a message; CSS stands in the tags, where mail clients look for it"""
    html = "<style>p { color: red }</style><p>Hello {{ name }}</p>"
    meta = 'from = "Shop <hi@shop.example>"\ntags = ["welcome"]\n'
    templates = write(tmp_path, subject="Hello\n{{ name }}\n", text="Hi {{ name }}\n", html=html, meta=meta)
    made = templates.render("welcome", {"name": "Ann"})
    assert (made.subject, made.text, made.sender, made.tags) == (
        "Hello Ann",
        "Hi Ann\n",
        "Shop <hi@shop.example>",
        ["welcome"],
    )
    assert made.html is not None
    assert '<p style="color: red;">Hello Ann</p>' in made.html
    assert (templates.names(), templates.problems()) == (["welcome"], [])


def test_what_strangers_write_is_text(tmp_path: Path) -> None:
    """a value is escaped in HTML, is not read as a template, and cannot break the subject's line"""
    templates = write(tmp_path, subject="{{ x }}", text="{{ x }}", html="<p>{{ x }}</p>")
    made = templates.render("welcome", {"x": "<b>{{ 7 * 7 }}</b>\r\nBcc: all@example.com"})
    assert made.subject == "<b>{{ 7 * 7 }}</b> Bcc: all@example.com"
    assert made.html is not None
    assert "&lt;b&gt;{{ 7 * 7 }}&lt;/b&gt;" in made.html


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"subject": "{{ missing }}", "text": "x"}, "wrong_template"),
        ({"subject": "x", "text": "{{ ''.__class__.__mro__ }}"}, "wrong_template"),
        ({"subject": "x", "text": "{% for %}"}, "wrong_template"),
        ({"subject": "x", "text": "{{ 1 / 0 }}"}, "wrong_template"),
        ({"subject": "x", "text": "{% include '../../etc/passwd' %}"}, "wrong_template"),
        ({"subject": "x", "text": "{% include 'welcome/body.txt' %}"}, "wrong_template"),
        ({"subject": "x"}, "wrong_template"),
        ({"subject": "x", "text": "x", "meta": "colour = 1"}, "wrong_template"),
        ({"text": "x"}, "no_template"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, parts: dict[str, Any], reason: str) -> None:
    """a value that is missing, an attempt to reach out of the sandbox, and mistakes are told, and nothing is sent"""
    with pytest.raises(Unfit) as found:
        write(tmp_path, **parts).render("welcome", {"name": "Ann"})
    assert found.value.reason == reason


def test_what_is_said_names_no_address(tmp_path: Path) -> None:
    """an error that quotes a value tells what is wrong without the address in it, and as a text that can be kept"""
    templates = write(tmp_path, subject="x", text="{{ {}[contact + '\0'] }}")
    with pytest.raises(Unfit) as found:
        templates.render("welcome", {"contact": "ann@example.com"})
    for text in (found.value.detail, str(found.value)):
        assert ("has no attribute" in text, "ann" in text, "\0" in text) == (True, False, False)


def test_problems_show_at_the_start(tmp_path: Path) -> None:
    """a template with a mistake in it is named with its line before any mail depends on it"""
    (problem,) = write(tmp_path, subject="x", text="one\n{% if %}").problems()
    assert (problem.key, "line 2" in problem.wrong) == ("templates.welcome", True)


@pytest.mark.parametrize("name", ["../secret", "", ".", "a/b", "nothing", "a" * 300])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    """a template is one directory of those there are"""
    (tmp_path / "secret").mkdir()
    (tmp_path / "templates").mkdir()
    (tmp_path / "secret" / "subject.txt").write_text("x")
    with pytest.raises(Unfit):
        Templates(tmp_path / "templates").render(name, {})


def test_a_text_part_is_made(tmp_path: Path) -> None:
    """without a text the HTML is told in words: links with their address, lists, no styles"""
    html = (
        "<html><head><title>T</title><style>p{}</style></head><body><h1>Hello</h1><p>See <a href='https://a.example'>"
        "our page</a> or <a href='https://b.example'>https://b.example</a>.<br>Bye</p><ul><li>one</li><li>two</li></ul></body>"
    )
    expected = "Hello\n\nSee our page (https://a.example) or https://b.example.\nBye\n\n- one\n- two\n"
    assert plain_text(html) == expected
    assert write(tmp_path, subject="x", html=html).render("welcome", {}).text == expected
