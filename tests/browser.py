"""The web page in a real browser: a server in a process of its own, and what a person does on the page."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, expect, sync_playwright

from tests import processes

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
PATIENCE = 120_000.0
"""Milliseconds after which a test gives up waiting."""
SETTLED, TRIES = 300.0, 5
"""Milliseconds after which a number that was typed stays, and how often it is typed at most."""
expect.set_options(timeout=PATIENCE)


def chromium() -> str:
    """Return the browser that HIPER_CHROMIUM names, or the installed one."""
    found = os.environ.get("HIPER_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            "no Chromium for the tests of the web page: install chromium, or name one by HIPER_CHROMIUM"
        )
    return found


@contextmanager
def launched() -> Iterator[Browser]:
    """Yield the browser, headless."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def serving(folder: Path, *arguments: str | Path) -> Iterator[str]:
    """Run `hiper ui` with files below `folder` and yield the page's URL."""
    out = folder / "ui.out"
    running = processes.start(folder, "ui", "--library", folder / "library", *arguments, out=out)
    running.wait_until(lambda: out.exists() and "\n" in out.read_text())
    yield out.read_text().split()[0]
    running.send(signal.SIGTERM)
    assert running.wait().status == 143


class Visit:
    """A person's tab. Whatever it asks from elsewhere, or pops up, is kept for the tests to look at."""

    def __init__(self, browser: Browser, url: str, *, width: int = 1280, height: int = 900) -> None:
        self.url = url
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", self._note)
        self.open()

    def _note(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def open(self) -> None:
        """Load the page, also once more."""
        self.page.goto(self.url)
        expect(self.button("Learn this subject")).to_be_visible()

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def set(self, section: str, **numbers: int) -> None:
        """Open a section of settings, if it is closed, and fill in its numbers."""
        for label, value in numbers.items():
            field = self.page.get_by_label(label.replace("_", " "), exact=True)
            if not field.is_visible():
                self.page.get_by_role("button", name=section).click()
            expect(field).not_to_have_value("")  # the page fills it in a moment after it appears
            for _ in range(TRIES):  # and, on a busy computer, once more over what was typed by then
                field.fill(str(value))
                field.press("Tab")
                self.page.wait_for_timeout(SETTLED)
                if field.input_value() == str(value):
                    break
            expect(field).to_have_value(str(value))

    def shows(self, text: str) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible()

    def close(self) -> None:
        self.context.close()
