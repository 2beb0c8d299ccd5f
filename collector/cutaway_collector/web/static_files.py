"""Static files: an address of its own for each content, and each compressed once for browsers that take it so.

A module names the modules it imports by such an address as well, so that browsers keep those too, and a page names all of them, so
that none is asked for only when another has come.

Not for pages: what a visitor sent stands in them beside what he may not know, and the size of a compressed answer tells how much
of it is the same (BREACH, https://www.breachattack.com). Static files are the same for everybody.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import re
from pathlib import Path
from typing import Final

from flask import Request, Response, abort, send_file
from markupsafe import Markup

ENDPOINT: Final = "static"
_WINS_AT_LEAST: Final = 0.9
"""A file is sent compressed where that takes at most this share of its bytes."""
_IMPORT: Final = re.compile(rb'(?<=from "\./)[\w.]+(?=")')


class StaticFiles:
    """The files of one folder as they are at the start. hashes: file name -> start of its SHA-256; a changed file gets a new
    address, so browsers may keep the old one for ever."""

    def __init__(self, folder: Path) -> None:
        self._contents: dict[str, bytes] = {}
        self._imports: dict[str, tuple[str, ...]] = {}
        self.hashes: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            if path.is_file():
                self._read(path)

    def _read(self, path: Path) -> None:
        """Those it imports come first: what it says of them is part of its content, and so of its hash."""
        if path.name in self.hashes:
            return
        content = path.read_bytes()
        imported = [name.decode() for name in _IMPORT.findall(content)] if path.suffix == ".js" else []
        for name in imported:
            self._read(path.with_name(name))
        if imported:
            content = _IMPORT.sub(lambda found: found[0] + f"?v={self.hashes[found[0].decode()]}".encode(), content)
        self._contents[path.name] = content
        self._imports[path.name] = tuple(dict.fromkeys(far for name in imported for far in (name, *self._imports[name])))
        self.hashes[path.name] = hashlib.sha256(content).hexdigest()[:12]

    def address(self, name: str) -> str:
        """The path of a file. Raises KeyError for one that is not there: a template spells it wrong."""
        return f"/static/{name}?v={self.hashes[name]}"

    def module(self, name: str) -> Markup:
        """The elements of a page that load a module and, at the same time, all that it imports. Raises KeyError.

        Each an element of its own: a browser without script would fetch what is to be preloaded, and then complain of it.
        """
        element = Markup('<script type="module" src="{}"></script>')
        return Markup("").join(element.format(self.address(each)) for each in (*self._imports[name], name))

    def send(self, filename: str) -> Response:
        """The answer to a request for a file, or for a part of it. Raises NotFound."""
        if filename not in self._contents:
            abort(404)
        return send_file(io.BytesIO(self._contents[filename]), download_name=filename, etag=self.hashes[filename])

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
        response.close()
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
