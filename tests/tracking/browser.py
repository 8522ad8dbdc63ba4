"""Headless Chromium over the WebDriver protocol: the few commands that the dashboard's tests need."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from mlflow_server import free_port

NEEDED = [
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-dev-shm-usage",
    "window-size=1600,1000",
    "no-first-run",
]
SILENT = ["disable-quic", "disable-background-networking", "disable-component-update", "disable-sync"]
SILENT += ["no-first-run"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which the W3C protocol returns an element


def missing() -> str:
    """Return the name of a program that is not installed, or ''."""
    names = ("chromedriver", "chromium")
    return next((name for name in names if shutil.which(name) is None), "")


class Browser:
    """One session, ended with the `with` block."""

    def __enter__(self) -> Browser:
        port = free_port()
        self.root = f"http://127.0.0.1:{port}"
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
        self.wait(self._driver_is_up, 30)
        options = {
            "args": [f"--{flag}" for flag in [*NEEDED, *SILENT, f"user-data-dir={self.profile.name}"]],
            "binary": shutil.which("chromium"),
        }
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self.root += "/session/" + self._call("POST", "/session", wanted)["sessionId"]
        return self

    def __exit__(self, *_: object) -> None:
        self._call("DELETE", "")
        self.driver.terminate()
        self.driver.wait(timeout=10)
        self.profile.cleanup()

    def open(self, url: str) -> None:
        """Load `url`; pages go on building themselves after that."""
        self._call("POST", "/url", {"url": url})

    def count(self, selector: str) -> int:
        """Count the elements of the current frame that match."""
        return len(self._call("POST", "/elements", {"using": "css selector", "value": selector}))

    def text(self) -> str:
        """Return the visible text of the current frame."""
        return str(self.run("return document.body.innerText"))

    def enter_frame(self) -> None:
        """Go into the page's first iframe."""
        frame = self._call("POST", "/element", {"using": "css selector", "value": "iframe"})
        self._call("POST", "/frame", {"id": {ELEMENT: frame[ELEMENT]}})

    def run(self, script: str) -> Any:
        """Return what `script`, the body of a function, returns in the current frame."""
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def emulate(self, width: int, height: int, *, dark: bool = False, paper: bool = False) -> None:
        """Show pages as on a screen of `width` x `height` pixels, a phone's below 600, in the `dark` or on `paper`."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setDeviceMetricsOverride", screen)
        self._devtools("Emulation.setEmulatedMedia", {"media": "print" if paper else "", "features": [scheme]})

    def shot(self, path: Path, *, whole: bool = False) -> None:
        """Write a picture of the window, or of the `whole` page, once nothing on it moves any more."""
        seen = [b""]

        def still() -> bool:
            taken = self._devtools("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
            seen.append(base64.b64decode(taken["data"]))
            return seen[-1] == seen[-2]

        self.wait(still)
        path.write_bytes(seen[-1])

    def wait(self, condition: Any, seconds: float = 60) -> None:
        """Return when `condition()` is true. Raises TimeoutError."""
        limit = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > limit:
                raise TimeoutError(f"not true within {seconds} s")
            time.sleep(0.2)

    def _devtools(self, command: str, values: dict[str, Any]) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": values})

    def _driver_is_up(self) -> bool:
        try:
            return self._call("GET", "/status")["ready"]
        except OSError:
            return False

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        header = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.root + path, data, header, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
