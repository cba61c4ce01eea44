"""The pages in a real browser: without JavaScript, by keyboard alone, on a wide and on a narrow screen.

`PAGES_SHOTS=DIRECTORY` keeps pictures of them.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import Page, async_playwright

from tests.pages import MEANS, PAGES, URL, ask, contact, leave_path, mailed, said, states, topic
from tests.service import Running, running

pytestmark = pytest.mark.peers

CHROMIUM: Final = "/usr/bin/chromium"
SHOTS: Final = os.environ.get("PAGES_SHOTS")
WIDE, NARROW, SMALL_TARGET = (1000, 700), (360, 640), 24  # pixels; the last: WCAG 2.2, 2.5.8

# Contrast of each text to what is behind it, as WCAG counts it; names of controls; what is wider than the screen.
CHECKS: Final = """() => {
  const faults = [];
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = color.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  for (const one of document.querySelectorAll("main *, footer *")) {
    if (![...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faults.push(`contrast: ${one.tagName} ${one.textContent}`);
  }
  for (const one of document.querySelectorAll("input:not([type=hidden])"))
    if (!one.labels.length) faults.push(`no label: ${one.name}`);
  for (const one of document.querySelectorAll("button, input:not([type=hidden])")) {
    const box = one.getBoundingClientRect();
    if (Math.min(box.width, box.height) < TARGET) faults.push(`small: ${one.tagName}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  if (new Set(ids).size < ids.length) faults.push("an id twice");
  for (const name of ["h1", "main"]) if (document.querySelectorAll(name).length !== 1) faults.push(`not one ${name}`);
  if (!document.documentElement.lang || !document.title) faults.push("no language or title");
  if (document.documentElement.scrollWidth > innerWidth) faults.push("wider than the screen");
  if (getComputedStyle(document.body).margin !== "0px") faults.push("the style sheet was refused");
  return faults;
}""".replace("TARGET", str(SMALL_TARGET))


@dataclass
class Visitor:
    """A browser's page without JavaScript, and the service."""

    page: Page
    service: Running

    async def open(self, path: str) -> None:
        answer = await self.page.goto(self.service.url + path)
        assert answer is not None
        assert answer.ok

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.page.keyboard.press(key)

    async def focus(self, name: str) -> None:
        """Tab to the control of that name, and see that it shows where it is."""
        for _ in range(12):
            await self.press("Tab")
            focused = self.page.locator(":focus-visible")
            if await focused.count() and name in await focused.aria_snapshot():
                return
        raise AssertionError(f"Tab does not lead to {name}")

    async def check(self, name: str) -> None:
        """The page as it is now, on both screens, light and dark: nothing that keeps somebody from using it."""
        for (width, height), scheme in ((NARROW, "dark"), (NARROW, "light"), (WIDE, "light")):
            await self.page.set_viewport_size({"width": width, "height": height})
            await self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type] # one of its words
            assert await self.page.evaluate(CHECKS) == [], (name, width, scheme)
            if SHOTS:
                await self.page.screenshot(path=Path(SHOTS) / f"{name}-{width}-{scheme}.png", full_page=True)


@pytest.fixture
async def visitor(database: str) -> AsyncIterator[Visitor]:
    async with running(database, pages=PAGES, public_url=URL, means=MEANS) as service, async_playwright() as playwright:
        sql = service.connection
        await topic(sql, "news", "Weekly news", description="What is new, every Friday.")
        await topic(sql, "offers", "Offers", description="Discounts, about twice a month.")
        await topic(sql, "status", "Interruptions", description="When something does not work.", stream="transactional")
        await topic(sql, "club", "The club", description="Invitations to meetings near you.", double_opt_in=True)
        await contact(sql)
        await said(sql, "subscribed", "news")
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(java_script_enabled=False)
        page = await context.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text))
        yield Visitor(page, service)
        assert [one for one in errors if "favicon" not in one] == []
        assert await context.cookies() == []
        await browser.close()


async def test_unsubscribing_by_keyboard(visitor: Visitor) -> None:
    """Tab and Enter unsubscribe, and ask for the link to the preferences"""
    await visitor.open(leave_path())
    await visitor.check("unsubscribe")
    await visitor.focus("Mail me the link")
    await visitor.press("Enter")
    await visitor.page.get_by_role("heading", name="Look into your mailbox").wait_for()
    await visitor.check("mailed")
    assert await states(visitor.service.connection) == {"news": "subscribed"}
    await visitor.open(leave_path())
    await visitor.focus("Unsubscribe")
    await visitor.press("Enter")
    await visitor.page.get_by_role("heading", name="You are unsubscribed").wait_for()
    await visitor.check("unsubscribed")
    assert await states(visitor.service.connection) == {"news": "unsubscribed"}


async def test_choosing_by_keyboard(visitor: Visitor) -> None:
    """Tab, Space and Enter choose topics, save them, and leave everything; each has a label and says so"""
    await visitor.service.client.post(leave_path() + "?preferences")
    (path,) = await mailed(visitor.service.connection, "preferences")
    await visitor.open(path)
    await visitor.check("preferences")
    page = visitor.page
    assert await page.get_by_role("checkbox", name="Weekly news").is_checked()
    await visitor.focus("Offers")
    await visitor.press("Space")
    await visitor.focus("Weekly news")
    await visitor.press("Space")
    await visitor.focus("Save")
    await visitor.press("Enter")
    await page.get_by_role("status").get_by_text("Your choice is saved.").wait_for()
    await visitor.check("saved")
    assert await page.get_by_role("checkbox", name="Offers", description="Discounts").is_checked()
    assert await states(visitor.service.connection) == {"news": "unsubscribed", "offers": "subscribed"}
    await visitor.focus("Unsubscribe from everything")
    await visitor.press("Enter")
    await page.get_by_role("status").get_by_text("unsubscribed from all").wait_for()
    assert not await page.get_by_role("checkbox", name="Offers").is_checked()
    assert await page.get_by_role("checkbox", name="Interruptions").is_checked()


async def test_confirming_by_keyboard(visitor: Visitor) -> None:
    """Tab and Enter confirm a subscription"""
    sql = visitor.service.connection
    await ask(sql, "club", at=datetime.now(UTC))
    await visitor.open((await mailed(sql, "confirm-subscription"))[0])
    await visitor.check("confirm")
    await visitor.focus("Yes, subscribe me")
    await visitor.press("Enter")
    await visitor.page.get_by_role("heading", name="You are subscribed").wait_for()
    await visitor.check("confirmed")
    assert (await states(sql))["club"] == "subscribed"
