"""A real headless Chromium, driven by its DevTools protocol over tornado's own websocket client.

Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 30.0

KEYS = {"Enter": 13, "Escape": 27, "/": 191}


def installed() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """A browser with one tab. problems: what its console said of errors, and what went wrong."""

    def __init__(self, folder: Path, *, width: int = 1440, height: int = 900) -> None:
        program = installed()
        assert program
        self.problems: list[str] = []
        self.dialogs: list[str] = []
        self.requests: list[str] = []
        self._runner = asyncio.Runner()
        self._socket: WebSocketClientConnection | None = None
        self._sent = 0
        self._child = subprocess.Popen(
            [
                *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio", "--lang=en"),
                *("--disable-background-networking", "--disable-component-update"),
                *("--remote-debugging-port=0", f"--user-data-dir={folder}"),
                *(f"--window-size={width},{height}", "about:blank"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._runner.run(self._connect(self._port(folder / "DevToolsActivePort")))
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.send(f"{domain}.enable")
            self.resize(width, height)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Tab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._runner.run(self._leave(self._socket))
            self._socket = None
        self._runner.close()
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(10)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()

    # -- what a person does ---------------------------------------------------------------------

    def go(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def click(self, selector: str, text: str = "") -> None:
        """Where it really is on the screen: what lies above it would get the click. (Of what is
        on two lines, on the first.)"""
        x, y = self.wait(
            f"(() => {{ const e = {_first(selector, text)}; if (!e) return null;"
            " e.scrollIntoView({block: 'nearest'}); const r = e.getClientRects()[0];"
            " return r?.width ? [r.x + r.width / 2, r.y + r.height / 2] : null; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        code = KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)
        typed = {"text": "\r" if key == "Enter" else key} if key != "Escape" else {}
        for kind in ("keyDown", "keyUp"):
            more = typed if kind == "keyDown" else {}
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more
            )

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    def prefer(self, **features: str) -> None:
        """prefers_color_scheme="dark" and the like."""
        listed = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
        self.send("Emulation.setEmulatedMedia", features=listed)

    # -- what a person sees ---------------------------------------------------------------------

    def run(self, code: str) -> Any:
        """The value of an expression."""
        found = self.send(
            "Runtime.evaluate",
            expression=code,
            returnByValue=True,
            awaitPromise=True,
            allowUnsafeEvalBlockedByCSP=False,  # as for any other code of a page
        )
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, code: str, seconds: float = SECONDS) -> Any:
        """The value of an expression once it is true. (An element has no value: use `!!`.)"""
        until = time.monotonic() + seconds
        value = None
        while not value:
            if time.monotonic() > until:
                raise AssertionError(f"not so: {code}\n{self.problems}\n{self.text()[:3000]}")
            time.sleep(0.02)
            with contextlib.suppress(AssertionError):  # there may be no page yet
                value = self.run(code)
        return value

    def text(self, selector: str = "body") -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def texts(self, selector: str) -> list[str]:
        code = f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.innerText)"
        found = self.run(code)
        assert isinstance(found, list)
        return found

    def count(self, selector: str) -> int:
        return int(self.run(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def picture(self, path: Path) -> None:
        found = self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    # -- the protocol ---------------------------------------------------------------------------

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._runner.run(asyncio.wait_for(self._send(method, parameters), SECONDS))

    async def _send(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        assert self._socket
        self._sent += 1
        number = self._sent
        await self._socket.write_message(
            json.dumps({"id": number, "method": method, "params": parameters})
        )
        while True:
            said = await self._socket.read_message()
            assert said is not None, "the browser has gone"
            message = json.loads(said)
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                result = message["result"]
                assert isinstance(result, dict)
                return result
            self._note(message.get("method"), message.get("params"))

    def _note(self, method: str | None, told: Any) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(told["exceptionDetails"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(told["message"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    async def _leave(self, socket: WebSocketClientConnection) -> None:
        socket.close()
        with contextlib.suppress(TimeoutError):
            while await asyncio.wait_for(socket.read_message(), 5) is not None:
                pass

    def _port(self, file: Path) -> int:
        until = time.monotonic() + SECONDS
        while not file.exists() or "\n" not in file.read_text():
            assert self._child.poll() is None, "the browser has ended"
            assert time.monotonic() < until, "the browser does not start"
            time.sleep(0.05)
        return int(file.read_text().split("\n")[0])

    async def _connect(self, port: int) -> None:
        client = AsyncHTTPClient(force_instance=True)
        try:
            tabs = json.loads((await client.fetch(f"http://127.0.0.1:{port}/json/list")).body)
        finally:
            client.close()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        self._socket = await websocket_connect(address, max_message_size=2**26)


def _first(selector: str, text: str) -> str:
    return (
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        f".find((e) => e.innerText.includes({json.dumps(text)}))"
    )
