"""`cutaway serve` as a process of its own, for the end-to-end tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Serving:
    """A running collector on free ports. `addresses` as printed; a context manager that stops it."""

    def __init__(self, data: Path, *flags: str, program: tuple[str, ...] = ("-m", "cutaway_collector")) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "serve", "--data", str(data), "--otlp-grpc", "127.0.0.1:0",
                 "--otlp-http", "127.0.0.1:0", "--ui", "127.0.0.1:0", *flags],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.addresses: dict[str, str] = json.loads(line)

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def stop(self) -> int:
        """SIGTERM, then waits. Returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=60)

    def text(self, path: str, **query: str) -> str:
        """GET on the UI's port."""
        asked = urllib.parse.urlencode({key: value for key, value in query.items() if value})
        with urllib.request.urlopen(f"http://{self.addresses['ui']}{path}{'?' + asked if asked else ''}", timeout=60) as answer:
            return str(answer.read().decode())

    def json(self, path: str, **query: str) -> Any:
        """GET of a JSON twin."""
        return json.loads(self.text(path, **query))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST of JSON on the UI's port, as a program without a key sends it: with the token it asked for."""
        with urllib.request.urlopen(f"http://{self.addresses['ui']}/form-token.json", timeout=60) as answer:
            headers = {"X-Form-Token": json.load(answer)["token"], "Cookie": answer.headers["Set-Cookie"].split(";")[0]}
        asked = urllib.request.Request(f"http://{self.addresses['ui']}{path}", json.dumps(body).encode(),
                                       {"Content-Type": "application/json", **headers})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)

    @staticmethod
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        """Another `cutaway` command, to its end."""
        return subprocess.run([sys.executable, "-m", "cutaway_collector", *arguments], capture_output=True, text=True, timeout=120)
