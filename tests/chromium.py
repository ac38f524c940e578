"""A page as a person's browser shows it: Chromium without a window, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "no Chromium is installed"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
    *("--disable-dev-shm-usage", "--remote-debugging-port=0", "--hide-scrollbars", "about:blank"),
)


@dataclass
class Seen:
    """What a page did: the values asked for, what it said and requested, and dialogs that it opened."""

    values: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


def look(page: Path, **settings: Any) -> Seen:
    """Return what one visit to a local page saw; see `visit`."""

    async def one() -> Seen:
        async with browser() as address:
            return await visit(address, page, **settings)

    return asyncio.run(one())


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[str]:
    """Start a browser with a profile of its own and yield the address of its protocol."""
    assert PATH, MISSING
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(PATH, f"--user-data-dir={profile}", *FLAGS),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": profile},
        )
        try:
            assert process.stderr is not None
            async with asyncio.timeout(60):
                async for line in process.stderr:
                    if b"DevTools listening on " in line:
                        break
            drain = asyncio.create_task(process.stderr.read())
            yield line.decode().partition("DevTools listening on ")[2].strip()
            drain.cancel()
        finally:
            process.kill()
            await process.wait()


async def visit(
    address: str,
    page: Path,
    *,
    ask: Mapping[str, str] | None = None,
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
    scripts: bool = True,
    picture: Path | None = None,
    until: str = "document.documentElement.dataset.drawn !== undefined",
) -> Seen:
    """Open a page, wait `until` it is ready, evaluate `ask` (name -> JavaScript) and take a picture of all of it."""
    import aiohttp

    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
        tab = _Tab(socket)
        reader = asyncio.create_task(tab.read())
        target = (await tab.send("Target.createTarget", url="about:blank"))["targetId"]
        tab.session = (await tab.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await tab.send(f"{domain}.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await tab.send("Emulation.setDeviceMetricsOverride", **metrics)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await tab.send("Emulation.setEmulatedMedia", features=[feature])
        if not scripts:
            await tab.send("Emulation.setScriptExecutionDisabled", value=True)
        await tab.send("Page.navigate", url=page.absolute().as_uri())
        async with asyncio.timeout(60):
            await tab.loaded.wait()
            while scripts and not await tab.value(until):
                await asyncio.sleep(0.02)
        for name, code in (ask or {}).items():
            tab.seen.values[name] = await tab.value(code)
        if picture:
            shot = await tab.send("Page.captureScreenshot", captureBeyondViewport=True, format="png")
            picture.write_bytes(base64.b64decode(shot["data"]))
        await tab.send("Target.closeTarget", targetId=target)
        reader.cancel()
    return tab.seen


class _Tab:
    """A session of the protocol: commands sent, answers and events read."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.session, self.seen = socket, "", Seen()
        self.loaded = asyncio.Event()
        self.numbers = itertools.count(1)
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def send(self, method: str, **given: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.waiting[number] = asyncio.get_running_loop().create_future()
        told = {"id": number, "method": method, "params": given}
        await self.socket.send_json({**told, "sessionId": self.session} if self.session else told)
        async with asyncio.timeout(60):
            return await self.waiting[number]

    async def value(self, code: str) -> Any:
        held = await self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in held, held
        return held["result"].get("value")

    async def read(self) -> None:
        async for message in self.socket:
            held = message.json()
            if "id" in held:
                waits = self.waiting.pop(held["id"])
                if "error" in held:
                    waits.set_exception(RuntimeError(held["error"]["message"]))
                else:
                    waits.set_result(held["result"])
            else:
                await self._event(held["method"], held["params"])

    async def _event(self, method: str, told: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Network.requestWillBeSent":
            self.seen.requests.append(told["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self.seen.dialogs.append(told["message"])
            close = {"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            self.waiting[0] = asyncio.get_running_loop().create_future()
            await self.socket.send_json({**close, "sessionId": self.session})
        elif method == "Runtime.consoleAPICalled":
            self.seen.said.append(" ".join(str(one.get("value", one)) for one in told["args"]))
        elif method == "Runtime.exceptionThrown":
            self.seen.said.append(str(told["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.seen.said.append(told["entry"]["text"])
