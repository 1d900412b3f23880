"""A real headless browser for tests: `page` fails a test on errors and on any outside request."""

import os
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") \
    or shutil.which("google-chrome")
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
LOOPBACK = {"127.0.0.1", "localhost", ""}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium, or another on the path; tests skip without one."""
    if not CHROMIUM:
        pytest.skip("needs chromium on the path")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *root])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of 1280×800; errors on its console and requests off this machine fail the test."""
    bad: list[str] = []

    def asked(request: Request) -> None:
        if urlsplit(request.url).hostname not in (None, *LOOPBACK):
            bad.append(f"request to {request.url}")

    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.on("console", lambda m: bad.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: bad.append(str(e)))
    page.on("request", asked)
    yield page
    context.close()
    assert not bad, bad
