"""Photograph the web page for the documentation: docs/images/ui-*.png. Needs Chromium and the `dev` extra."""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import hiper
from hiper.artifacts import Library
from hiper.files import atomic_write
from hiper.web import Address, Similarity, served

COLOURS = 200
"""Of a picture's palette, so that each file stays below 200 KB."""
WAIT = 600_000
SENTENCES = "a sitting {}\na jumping {} on the beach\na watercolor of a sleeping {}"
HIDE_FOCUS = "document.activeElement.blur()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser's binary")
    options = parser.parse_args()
    backbone = hiper.load_backbone("critters")
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        library = Library(Path(folder))
        with served(backbone, library, Address(), similarity=Similarity(), max_upload_mb=10) as url:
            browser = playwright.chromium.launch(
                executable_path=options.chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            tell_the_story(browser, url, options.out)
            browser.close()


def tell_the_story(browser: Browser, url: str, out: Path) -> None:
    """Learn, draw, choose from the library, and look at it on a phone."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(WAIT)
    page.goto(url)
    page.get_by_role("button", name="Give me an example picture").click()
    page.get_by_alt_text("The picture that is learnt").wait_for()
    page.get_by_role("button", name="How to learn").click()
    page.get_by_label("Show previews while learning").check()
    page.get_by_role("button", name="How to learn").click()
    page.get_by_role("button", name="Learn this subject").click()
    page.get_by_role("button", name="Go on: draw with it").wait_for()
    save(page, out / "ui-learn.png")
    species = page.get_by_label("What the picture shows").input_value().split()[2]
    page.get_by_role("button", name="Go on: draw with it").click()
    page.get_by_label("Sentences, one on each line").fill(SENTENCES.format(species, species, species))
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("Drawn: 12 pictures").wait_for()
    page.locator(".hiper-drawn .thumbnail-item").nth(4).click()
    page.get_by_text("on the beach · seed 0").last.wait_for()
    save(page, out / "ui-draw.png")
    page.set_viewport_size({"width": 390, "height": 844})
    save(page, out / "ui-phone.png", whole=False)


def save(page: Page, path: Path, *, whole: bool = True) -> None:
    """Write what the page shows, in few colours."""
    page.evaluate(HIDE_FOCUS)
    page.wait_for_timeout(1000)  # pictures fade in
    with Image.open(io.BytesIO(page.screenshot(full_page=whole))) as shot:
        few = shot.convert("RGB").quantize(COLOURS)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    atomic_write(path, buffer.getvalue(), overwrite=True)
    print(f"{path} ({len(buffer.getvalue())} bytes)")


if __name__ == "__main__":
    main()
