"""A headless Chromium as a person's browser: its size, its theme, its console and what it asks for."""

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
    """A driver whose profile lies in `folder`; skips where there is no Chromium, and fails there in CI."""
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
    """Open a file, on a screen of that width and with that theme, with nothing left in the logs of before."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}  # nothing to wait for
    media = {"features": [{"name": name, "value": value} for name, value in features.items()]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get("about:blank")  # a fragment of the same page would not be loaded anew
    browser.get(path.as_uri())


def asked_for(browser) -> list[str]:
    """The addresses that the browser has asked for since the last visit began."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
