"""Headless Chromium, as a person would see and hear it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

DESKTOP, TABLET, PHONE = (1280, 900), (800, 1100), (375, 812)  # CSS pixels
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)

# Of every text that can be seen: its own words, its colour and what is behind it.
CONTRASTS = """
const rgb = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = rgb(getComputedStyle(node).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility() && node.getClientRects().length
  && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())).map((node) => {
    const style = getComputedStyle(node);
    const [a, b] = [light(rgb(node instanceof SVGElement ? style.fill : style.color)), light(behind(node))];
    return [node.textContent.trim(), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  });
"""


class Browser:
    """One Chromium with a fresh profile; a context manager. Keeps requests and log lines until they are asked for."""

    def __init__(self, chromium: str, driver: str, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self._driver = webdriver.Chrome(options=options, service=Service(driver))
        self._driver.set_page_load_timeout(30)

    def open(self, url: str, size: tuple[int, int] = DESKTOP, *, scheme: str = "light", motion: str = "") -> None:
        """Load a page at this size, in this colour scheme, with this prefers-reduced-motion."""
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        self.tell("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in wishes.items()])
        self._driver.get("about:blank")
        self.console()
        self.requested()
        self._driver.get(url)

    def tell(self, command: str, **arguments: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._driver.execute_cdp_cmd(command, arguments)

    def ask(self, script: str) -> Any:
        """What this JavaScript returns."""
        return self._driver.execute_script(script)

    def text(self, id: str) -> str:
        """The text of the element with this id; empty without one, and while it is not shown."""
        return str(
            self.ask(
                f"const node = document.getElementById({json.dumps(id)});"
                "return node && node.checkVisibility() ? node.textContent : '';"
            )
        )

    def number(self, id: str) -> int:
        """The whole number at the start of that text; -1 without one."""
        digits = self.text(id).split(" ")[0].replace(",", "")
        return int(digits) if digits.isdigit() else -1

    def await_(self, is_so: Callable[[], bool], timeout_s: float = 15.0) -> None:
        """Wait until something is seen."""
        give_up_s = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < give_up_s, f"not seen in {timeout_s:g} s; the page says:\n{self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        return str(self.ask("return document.body.innerText"))

    def console(self) -> list[str]:
        """What was written to the console since the last call."""
        return [entry["message"] for entry in self._log("browser")]

    def requested(self) -> list[str]:
        """URLs that were asked for since the last call, those of documents included."""
        messages = (json.loads(entry["message"])["message"] for entry in self._log("performance"))
        return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]

    def contrasts(self) -> list[tuple[str, float]]:
        """Every text that can be seen, and its contrast ratio as WCAG defines it."""
        return [(text, ratio) for text, ratio in self.ask(CONTRASTS)]

    def overflow(self) -> list[str]:
        """What is wider than the page, by its tag and text."""
        return [
            str(each)
            for each in self.ask(
                "return [...document.querySelectorAll('body, body *')].filter((node) => node.checkVisibility()"
                " && node.getBoundingClientRect().right > innerWidth + 0.5 && !node.closest('#chart'))"
                ".map((node) => `${node.tagName} ${node.textContent.slice(0, 60)}`)"
            )
        ]

    def overlaps(self) -> list[str]:
        """Texts of the picture that lie over each other."""
        return [
            str(each)
            for each in self.ask(
                "const boxes = [...document.querySelectorAll('#flow text')].filter((node) => node.textContent)"
                ".map((node) => [node.textContent, node.getBoundingClientRect()]);"
                "return boxes.flatMap(([text, a], n) => boxes.slice(n + 1).filter(([, b]) => a.left < b.right"
                " && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom)"
                ".map(([other]) => `${text} | ${other}`));"
            )
        ]

    def screenshot(self, file: Path) -> None:
        """The whole page as a PNG."""
        picture = self.tell("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        file.write_bytes(base64.b64decode(picture["data"]))

    def leave(self) -> str:
        """Open another tab in front; returns what come_back() wants."""
        here = self._driver.current_window_handle
        self._driver.switch_to.new_window("tab")
        return here

    def come_back(self, tab: str) -> None:
        self._driver.close()
        self._driver.switch_to.window(tab)

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self._driver.get_log(kind)  # type: ignore[no-untyped-call]  # selenium's own
        return entries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.quit()
