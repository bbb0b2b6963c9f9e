"""A page of ours in headless Chromium, used as a person does: looked at, clicked, typed into.

with Browser(profile=tmp_path) as browser:
    page = browser.open(path, width=390)
    page.click("th button")
    assert page.problems() == []
"""

import base64
import json
from pathlib import Path
from typing import Literal

from tests.browser.devtools import BrowserError, DevTools

DESKTOP, PHONE = 1280, 390
"""CSS pixels across."""
_WIDER = """[...document.querySelectorAll("body *")].filter((element) => {
  if (element.closest(".scroll table, .scroll pre, svg svg, svg *")) return false;
  const box = element.getBoundingClientRect();
  return box.width && (box.right > WIDTH + 1 || box.left < -1);
}).slice(0, 5).map((element) => element.outerHTML.slice(0, 120))"""


class Browser:
    """One Chromium; a page is a fresh tab."""

    def __init__(self, *, profile: Path):
        profile.mkdir(parents=True, exist_ok=True)
        self._tools = DevTools(profile)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._tools.close()

    def open(
        self,
        path: Path,
        *,
        width: int = DESKTOP,
        height: int = 900,
        scheme: Literal["light", "dark"] = "light",
    ) -> "Page":
        """Load a file and wait until it is whole."""
        target = self._tools.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._tools.call("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self._tools, session=attached["sessionId"])
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.resize(width=width, height=height)
        page.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        page.load(path)
        return page


class Page:
    """One tab, and all that went wrong in it."""

    def __init__(self, tools: DevTools, *, session: str):
        self._tools, self._session = tools, session
        self.path, self.address, self.width = Path(), "", 0

    def call(self, method, **params):
        return self._tools.call(method, session=self._session, **params)

    def load(self, path: Path):
        """Open a file, and forget what went wrong with the one before."""
        self.path, self.address = path, path.resolve().as_uri()
        others = [one for one in self._tools.events if one.get("sessionId") != self._session]
        self._tools.events = others
        failed = self.call("Page.navigate", url=self.address).get("errorText")
        if failed:
            raise BrowserError(f"{self.address}: {failed}")
        self._tools.wait_for("Page.loadEventFired", session=self._session)

    def resize(self, *, width: int, height: int = 900):
        """Be a screen of that size; a narrow one is a phone."""
        self.width = width
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 600 else 1,
            mobile=width < 600,
        )

    def evaluate(self, script: str):
        """Return what an expression is worth, as Python."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", details).get("description", script))
        return answer["result"].get("value")

    def text(self, selector: str = "body") -> str:
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def column(self, table: str, *, place: int) -> list[str]:
        """Return the texts of a column, as shown from top to bottom."""
        rows = f"document.querySelectorAll({json.dumps(table + ' tbody tr')})"
        shown = f"[...{rows}].filter((row) => row.offsetParent !== null)"
        return self.evaluate(f"{shown}.map((row) => row.cells[{place}].textContent.trim())")

    def click(self, selector: str):
        """Press the mouse where the element is, so that anything that covers it is noticed."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{found}.scrollIntoView({{block: 'center', inline: 'center'}})")
        x, y = self.evaluate(
            f"(() => {{ const box = {found}.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        under = f"{found}.contains(document.elementFromPoint({x}, {y}))"
        if not self.evaluate(under):
            raise BrowserError(f"{selector} is covered or off the screen")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str):
        """Press a key where the focus is; one letter or a name such as Enter or Tab."""
        text = {"Enter": "\r", "Tab": ""}.get(key, key)
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def type(self, selector: str, text: str):
        """Write into a field in place of what it holds."""
        self.click(selector)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def choose(self, selector: str, value: str):
        """Choose from a list."""
        self.evaluate(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            f" one.value = {json.dumps(value)};"
            " one.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def screenshot(self, path: Path, *, whole: bool = True):
        """Write a PNG of the whole page, or of what one screen shows."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path):
        """Print on A4."""
        printed = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        path.write_bytes(base64.b64decode(printed["data"]))

    def problems(self) -> list[str]:
        """Return errors of the console, requests that leave the page, and what is too wide."""
        self.evaluate("0")  # what happened before has been told by the time this is answered
        return [*self.errors(), *self.requests(), *self.overflow()]

    def errors(self) -> list[str]:
        """Return errors and warnings of the console, and exceptions nobody caught."""
        found = []
        for event in self._events():
            match event:
                case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                    found.append(details.get("exception", details).get("description", str(details)))
                case {
                    "method": "Runtime.consoleAPICalled",
                    "params": {"type": "error" | "warning" | "assert", "args": words},
                }:
                    found.append(" ".join(str(word.get("value")) for word in words))
                case {"method": "Log.entryAdded", "params": {"entry": entry}} if entry["level"] in (
                    "error",
                    "warning",
                ):
                    found.append(f"{entry['text']} {entry.get('url', '')}")
        return found

    def requests(self) -> list[str]:
        """Return what the page asked for besides itself."""
        asked = [
            event["params"]["request"]["url"]
            for event in self._events()
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if url != self.address and not url.startswith("data:")]

    def overflow(self) -> list[str]:
        """Return what makes the page scroll sideways; a box that scrolls by itself may be wide."""
        # A phone zooms out of a wide page until innerWidth fits it: only our own width tells.
        wide = self.evaluate("document.documentElement.scrollWidth")
        whole = [f"the page is {wide} wide on a screen of {self.width}"] * (wide > self.width)
        return [*whole, *self.evaluate(_WIDER.replace("WIDTH", str(self.width)))]

    def _events(self):
        return [event for event in self._tools.events if event.get("sessionId") == self._session]
