"""Chromium over its own pipe: commands and events of the DevTools protocol, and no package."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # root in a container has no other way, and the only page is our own
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # an outside request is seen, and leads nowhere
)
TIMEOUT_SECONDS = 100


class BrowserError(RuntimeError):
    """Chromium is missing, ended, or refused a command."""


def find_chromium():
    """Return the program named by CHROMIUM, else the one on the path."""
    named = os.environ.get("CHROMIUM")
    found = named or next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        raise BrowserError("there is no Chromium on this machine; 'make test-browser' installs it")
    return found


class DevTools:
    """A running Chromium: ``call`` sends a command, ``events`` holds what it said meanwhile."""

    def __init__(self, profile: Path):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # Chromium reads commands on descriptor 3 and writes answers on 4; ours may be those too,
        # so they first move out of the way, and bash puts them there.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_browser, from_browser)]
        for fd in (to_browser, from_browser):
            os.close(fd)
        moved = f'exec "$@" 3<&{high[0]} 4>&{high[1]} {high[0]}<&- {high[1]}>&-'
        words = [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with (profile / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", moved, "bash", *words], pass_fds=high, stdout=log, stderr=log
            )
        for fd in high:
            os.close(fd)
        self._log, self._rest, self._last = profile / "log.txt", b"", 0
        self.events: list[dict] = []

    def close(self):
        with contextlib.suppress(BrowserError, OSError):
            self.call("Browser.close")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method, *, session=None, **params):
        """Send one command and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(what=method)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method, *, session):
        """Return the parameters of the first event of that name, past or to come."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                if event.get("method") == method and event.get("sessionId") == session:
                    return event["params"]
            seen = len(self.events)
            self.events.append(self._next(what=method))

    def _next(self, *, what):
        end = time.monotonic() + TIMEOUT_SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._read, 1 << 20) if ready else b""
            if not part:
                told = self._log.read_text(errors="replace")[-2000:]
                raise BrowserError(f"Chromium did not answer to {what}; it said: {told}")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
