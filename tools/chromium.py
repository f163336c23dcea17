"""Drive a headless Chromium over a pipe, by the DevTools protocol: for tests, measures, pictures.

Each message is JSON and a null byte (https://chromedevtools.github.io/devtools-protocol/). Only the
standard library is needed, and an installed Chromium.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

__all__ = ["Chromium", "PageError", "program"]

_SECONDS = 30.0  # for an answer
# Chromium reads from descriptor 3 and writes to 4.
_PLACED = """
import os, sys
source, target = map(int, sys.argv[1:3])
copies = os.dup(source), os.dup(target)
os.dup2(copies[0], 3)
os.dup2(copies[1], 4)
os.set_inheritable(3, True)
os.set_inheritable(4, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
_KEYS = {"Enter": ("\r", 13), "Escape": ("", 27), "Tab": ("", 9), "Home": ("", 36), "End": ("", 35)}
_KEYS |= {"ArrowLeft": ("", 37), "ArrowUp": ("", 38), "ArrowRight": ("", 39), "ArrowDown": ("", 40)}


class PageError(Exception):
    """A page failed, or Chromium doesn't answer."""


def program() -> str | None:
    """Return the path of an installed Chromium or Chrome; None if there is none."""
    names = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"
    return next(filter(None, map(shutil.which, names)), None)


class Chromium:
    """A Chromium with one page; a context manager that ends it.

    Attributes:
        problems: exceptions, lines of the console, and refusals of the page's content policy.
        requests: the addresses that the page wanted to load, beside its own.
    """

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._size = width, height
        self._answers: dict[int, dict[str, Any]] = {}
        self._count = 0
        self._data = b""
        self._loaded = False

    def __enter__(self) -> Self:
        found = program()
        if found is None:
            raise PageError("no Chromium is installed")
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [
            *(found, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
            *("--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"),
            *("--disable-background-networking", "--hide-scrollbars", "--disable-sync"),
            *(f"--user-data-dir={self._folder.name}", "about:blank"),
        ]
        descriptors = str(theirs_in), str(theirs_out)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PLACED, *descriptors, *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = ""
        try:
            targets = self._call("Target.getTargets")["targetInfos"]
            page = next(target for target in targets if target["type"] == "page")
            about = {"targetId": page["targetId"], "flatten": True}
            self._session = self._call("Target.attachToTarget", **about)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._call(f"{domain}.enable")
            self.resize(*self._size)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)  # it ends when nobody drives it any more
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        self._folder.cleanup()

    def open(self, path: Path, fragment: str = "", *, ready: bool = True) -> float:
        """Load a file; return the seconds until its script is done, or until it is loaded.

        Args:
            fragment: the part of the address that begins with "#".
            ready: wait for the script of a report page.
        """
        self.problems.clear()
        self.requests.clear()
        self._go("about:blank")  # else only the fragment may change
        begin = time.perf_counter()
        self._go(f"{path.resolve().as_uri()}{fragment}")
        if ready:
            self.wait("document.documentElement.dataset.ready === 'true'")
        return time.perf_counter() - begin

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page, which JSON can hold."""
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        answer = self._call("Runtime.evaluate", expression=script, **options)
        if "exceptionDetails" in answer:
            raise PageError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + _SECONDS
        while not self.run(script):
            if time.monotonic() > until:
                raise PageError(f"never true: {script}; problems: {self.problems}")
            time.sleep(0.01)

    def key(self, key: str) -> None:
        """Press and release a key, by its name or character."""
        text, code = _KEYS.get(key, (key, 0))
        about: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code}
        self._call(
            "Input.dispatchKeyEvent", type="keyDown", **about, **({"text": text} if text else {})
        )
        self._call("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        """Put a text where the focus is."""
        self._call("Input.insertText", text=text)

    def click(self, selector: str, number: int = 0) -> None:
        """Click in the middle of an element, after it is scrolled into view."""
        place = self.run(
            f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{number}];"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        about = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        self._call("Input.dispatchMouseEvent", type="mousePressed", **about)
        self._call("Input.dispatchMouseEvent", type="mouseReleased", **about)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window."""
        about = {"deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, **about)

    def media(self, *, scheme: str = "light", kind: str = "") -> None:
        """Set the colour scheme, and the kind of medium, such as "print"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", media=kind, features=features)

    def vision(self, deficiency: str) -> None:
        """Show the page as somebody sees it with a deficiency, such as "achromatopsia"; "none"."""
        self._call("Emulation.setEmulatedVisionDeficiency", type=deficiency)

    def refuse_policy(self, *, off: bool = True) -> None:
        """Load pages without their content policy."""
        self._call("Page.setBypassCSP", enabled=off)

    def picture(self, path: Path, *, whole: bool = False) -> Path:
        """Write what is seen, or the whole page, as a PNG file."""
        clip = self._clip() if whole else {}
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=whole, **clip)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def pdf(self, path: Path) -> Path:
        """Write the page as it is printed."""
        answer = self._call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def _go(self, url: str) -> None:
        self._loaded = False
        self._call("Page.navigate", url=url)
        while not self._loaded:
            self._read()

    def _clip(self) -> dict[str, Any]:
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {**size, "x": 0, "y": 0, "scale": 1}}

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        number = self._count
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while number not in self._answers:
            self._read()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> None:
        """Read some messages."""
        ready = select.poll()  # `select.select` takes no descriptor above 1023
        ready.register(self._in, select.POLLIN)
        if not ready.poll(1000 * _SECONDS):
            raise PageError("Chromium doesn't answer")
        data = os.read(self._in, 1 << 20)
        if not data:
            raise PageError("Chromium has ended")
        *messages, self._data = (self._data + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._take(message["method"], message.get("params", {}))

    def _take(self, method: str, about: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(about["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.problems.append(str(about["args"]))
        elif method == "Log.entryAdded":
            self.problems.append(about["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {about['message']}")
            self._count += 1
            close = {"id": self._count, "method": "Page.handleJavaScriptDialog"}
            close |= {"params": {"accept": True}, "sessionId": self._session}
            os.write(self._out, json.dumps(close).encode() + b"\0")
        elif method == "Network.requestWillBeSent":
            url = about["request"]["url"]
            if not url.startswith(("data:", "about:")) and about.get("type") != "Document":
                self.requests.append(url)
