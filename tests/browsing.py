"""Pages in a real browser, where Chromium and its driver are installed (Debian: chromium, chromium-driver)."""

from __future__ import annotations

import json

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "'><svg onload=alert(3)>",
    "</style><script>alert(4)</script>",
    "</script><script>alert(5)</script>",
    "javascript:alert(6)",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "${alert(8)}",
    "&lt;b&gt;",
    "<!-- comment",
    "]]>",
    "a&b",
    "$\\frac{1}{2}$",
    "%s%n",
    "=HYPERLINK(1)",
    "https://example.org/<x>",
    "../../etc/passwd",
    "naïve Ωß中文",
    "\u202egnp.exe",
    "x" * 120,
    "with  two spaces",
    "tab\there",
    "line\nbreak",
    "\x1b[31mred",
    "emoji 🐝",
    "<b>bold</b>",
    "data:text/html,<script>alert(9)</script>",
    "`backtick`",
    "onload=alert(10)",
]
WIDTHS = [360, 768, 1440]


def opened(browser, page) -> None:
    """The page is shown; nothing was complained of and nothing was asked of any network."""
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert not {url for url in asked if not url.startswith(("file:", "data:"))}


def fits(browser, page, width, scheme) -> None:
    """The page is no wider than the screen, and dark where people ask for that."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    opened(browser, page)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ink, paper = browser.execute_script(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor].map("
        "(c) => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0))"
    )
    assert (ink < paper) == (scheme == "light")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
