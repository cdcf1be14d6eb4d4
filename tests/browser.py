"""A headless Chromium, for tests and pictures of the page of the service.

    python -m tests.browser URL FILE.png [--width 1600] [--height 1000] [--dark] [--live]

writes a picture of a page; with --live once reports are coming in.
"""

import argparse
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "there is no Chromium: `deploy/install.sh chromium`, or `make servers`"
SETTLE_MS = 2000
"""So long a picture waits for the answers of all sections."""
LIVE_MS = 120_000
"""And so long for live reports, if it waits for them."""
FILL_MS = 20_000
"""Then they come in for so long, and fill a part of their chart."""


def find_chromium() -> str | None:
    """The browser of this machine; None if it has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_browser() -> Iterator["Browser"]:
    """A Chromium without a window. Of root it needs to run without its sandbox."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    assert path is not None, MISSING
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=[*flags, "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def draw_page(url: str, picture: Path, width: int, height: int, scheme: str, is_live: bool) -> None:
    """Write a picture of what a window shows of a page, with the details of its first outlier."""
    from playwright.sync_api import expect

    with open_browser() as browser:
        window = {"width": width, "height": height}
        page = browser.new_page(viewport=window, color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        page.goto(url)
        if is_live:
            with suppress(AssertionError):  # then the picture shows that nothing comes
                expect(page.locator("#rates .big b")).to_have_text(re.compile("[1-9]"), timeout=LIVE_MS)
                page.wait_for_timeout(FILL_MS)
        row = page.locator("#outliers .row").first
        row.wait_for()
        row.click()
        page.wait_for_timeout(SETTLE_MS)
        page.evaluate("document.activeElement.blur()")
        page.mouse.move(0, 0)
        page.screenshot(path=picture)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser", description="Write a picture of a page.")
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--live", action="store_true", help="wait until reports are coming in")
    given = parser.parse_args()
    if find_chromium() is None:
        parser.exit(2, f"no picture: {MISSING}\n")
    scheme = "dark" if given.dark else "light"
    draw_page(given.url, given.file, given.width, given.height, scheme, given.live)


if __name__ == "__main__":
    main()
