"""Static files: an address of its own for each content, and each compressed once for browsers that take it so.

Not for pages: what a visitor sent stands in them beside what he may not know, and the size of a compressed answer tells how much
of it is the same (BREACH, https://www.breachattack.com). Static files are the same for everybody.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from pathlib import Path
from typing import Final

from flask import Request, Response

ENDPOINT: Final = "static"
_WINS_AT_LEAST: Final = 0.9
"""A file is sent compressed where that takes at most this share of its bytes."""


class StaticFiles:
    """The files of one folder as they are at the start. hashes: file name -> start of its SHA-256; a changed file gets a new
    address, so browsers may keep the old one for ever."""

    def __init__(self, folder: Path) -> None:
        self._contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
        self.hashes = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in self._contents.items()}

    def address(self, name: str) -> str:
        """The path of a file. Raises KeyError for one that is not there: a template spells it wrong."""
        return f"/static/{name}?v={self.hashes[name]}"

    def is_lasting(self, request: Request, response: Response) -> bool:
        """Whether this answer is the file of exactly that address, which never changes."""
        known = self.hashes.get(_name(request))
        return known is not None and response.status_code == 200 and request.args.get("v") == known

    def pack(self, request: Request, response: Response) -> None:
        """Puts the compressed file in place of the file, where the browser takes it and it is asked for as a whole."""
        small = _packed(self._contents.get(_name(request), b""))
        if small is None:
            return
        response.vary.add("Accept-Encoding")
        if response.status_code != 200 or not request.accept_encodings["gzip"]:
            return
        response.close()  # the file that was opened for the answer
        response.direct_passthrough = False
        response.set_data(small)
        response.headers["Content-Encoding"] = "gzip"
        response.headers.pop("Accept-Ranges", None)
        tag, _ = response.get_etag()
        if tag is not None:
            response.set_etag(tag, weak=True)  # of the content, in whatever encoding


@functools.cache
def _packed(content: bytes) -> bytes | None:
    """The content compressed, when it is first asked for; None where that wins too little."""
    small = gzip.compress(content, mtime=0)
    return small if len(small) <= _WINS_AT_LEAST * len(content) else None


def _name(request: Request) -> str:
    return str((request.view_args or {}).get("filename", "")) if request.endpoint == ENDPOINT else ""
