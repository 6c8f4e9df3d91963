"""A headless Chromium with a given size and theme, its console and its requests."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from runs import require_program

FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "disable-dev-shm-usage"),
)


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator:
    """A driver with its profile in `folder`; without Chromium the test is skipped, and in CI it fails."""
    require_program("chromium", "chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"user-data-dir={folder}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def visit(browser, path: Path, *, width: int = 1280, theme: str = "light") -> None:
    """Open a file on a screen of that width with that theme, after clearing the logs."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}  # no animations to wait for
    media = {"features": [{"name": name, "value": value} for name, value in features.items()]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get("about:blank")  # otherwise a fragment of the same page would not be loaded again
    browser.get(path.as_uri())


def asked_for(browser) -> list[str]:
    """The addresses that the browser has requested since the start of the last visit."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
