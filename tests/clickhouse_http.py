"""ClickHouse's HTTP interface, as much as clickhouse-connect uses, over a real engine: tests of the --clickhouse road run on it.

Test-only, and a program of its own, because one process may own one chDB: python tests/clickhouse_http.py PORT DIR. It prints
`listening PORT` when it answers. URL parameters are applied as settings of the request, so deduplication tokens, read-only mode
and limits act as on a server; statements and inserts are executed, nothing is pretended. Not here: users, TLS, compression.
"""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import sys
import tempfile
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import chdb

TRANSPORT = {
    "query", "database", "default_format", "buffer_size", "session_id", "session_timeout", "session_check", "query_id", "quota_key",
    "compress", "decompress", "wait_end_of_query", "client_protocol_version", "role", "send_progress_in_http_headers",
    "http_headers_progress_interval_ms", "enable_http_compression", "cancel_http_readonly_queries_on_client_close",
    "user", "password",
}
FORMAT = re.compile(r"\s+FORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
INLINE = re.compile(rb"\s*(INSERT\s[^\n]*\sFORMAT\s+(?!VALUES)\w+)[ \t]*\n", re.IGNORECASE)
INSERT = re.compile(r"\s*INSERT\s", re.IGNORECASE)


def literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    directory: Path

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the test's own output matters."""

    def do_GET(self) -> None:
        if urllib.parse.urlsplit(self.path).path == "/ping":
            self.answer(200, b"Ok.\n", {})
        else:
            self.do_POST()

    def do_POST(self) -> None:
        arguments = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query, keep_blank_values=True))
        body = self.body()
        if self.headers.get("Content-Type", "").startswith("multipart/form-data"):
            arguments |= self.form(body)
            body = b""
        try:
            payload, summary = self.run(arguments, body)
        except Exception as error:
            text = str(error)
            code = re.search(r"Code: (\d+)", text)
            self.answer(500, text.encode(), {"X-ClickHouse-Exception-Code": code.group(1) if code else "1002"})
            return
        self.answer(200, payload, {"X-ClickHouse-Summary": json.dumps(summary)})

    def run(self, arguments: dict[str, str], body: bytes) -> tuple[bytes, dict[str, str]]:
        sql = arguments.get("query", "")
        payload = b""
        if not sql:
            inline = INLINE.match(body)
            sql, payload = (inline.group(1).decode(), body[inline.end():]) if inline else (body.decode(), b"")
        elif INSERT.match(sql) and body:
            payload = body
        else:
            sql = f"{sql}\n{body.decode()}" if body else sql
        settings = {name: value for name, value in arguments.items() if name not in TRANSPORT and not name.startswith("param_")}
        parameters = {name.removeprefix("param_"): value for name, value in arguments.items() if name.startswith("param_")}
        connection = chdb.connect(str(self.directory / "chdb"))
        try:
            if arguments.get("database"):
                connection.query(f"USE `{arguments['database']}`")
            # readonly goes last: it forbids changing some of the others.
            for name, value in sorted(settings.items(), key=lambda item: item[0] == "readonly"):
                connection.query(f"SET {name} = {literal(value)}")
            return self.insert(connection, sql, payload) if payload else self.select(connection, sql, parameters, arguments)
        finally:
            connection.close()

    def insert(self, connection: object, sql: str, payload: bytes) -> tuple[bytes, dict[str, str]]:
        found = FORMAT.search(sql)
        assert found, "an insert with a body names its format"
        with tempfile.NamedTemporaryFile(dir=self.directory) as file:
            file.write(payload)
            file.flush()
            result = connection.query(  # type: ignore[attr-defined]  # chdb ships no types
                f"{sql[: found.start()]} FROM INFILE {literal(file.name)} FORMAT {found.group(1)}")
            return b"", {"written_rows": str(result.rows_read())}

    def select(
        self, connection: object, sql: str, parameters: dict[str, str], arguments: dict[str, str]
    ) -> tuple[bytes, dict[str, str]]:
        found = FORMAT.search(sql)
        chosen = self.headers.get("X-ClickHouse-Format") or arguments.get("default_format") or "TabSeparated"
        if found and not INSERT.match(sql):
            chosen, sql = found.group(1), sql[: found.start()]
        result = connection.query(sql, chosen, params=parameters)  # type: ignore[attr-defined]  # chdb ships no types
        return result.bytes() or b"", {
            "read_rows": str(result.storage_rows_read()), "read_bytes": str(result.storage_bytes_read())}

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def form(self, body: bytes) -> dict[str, str]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        return {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True).decode()  # type: ignore[union-attr]  # bytes here
            for part in message.iter_parts()  # type: ignore[attr-defined]  # EmailMessage under this policy
        }

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    Handler.directory = Path(sys.argv[2])
    Handler.directory.mkdir(parents=True, exist_ok=True)
    keep = chdb.connect(str(Handler.directory / "chdb"))  # holds the engine open between requests
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print("listening", server.server_address[1], flush=True)
    try:
        server.serve_forever()
    finally:
        keep.close()
        os._exit(0)


if __name__ == "__main__":
    main()
