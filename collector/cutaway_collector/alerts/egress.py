"""Connections out of the collector that cannot be turned against its own network: resolved once, checked, and pinned to that.

A rule's author names a host; what it resolves to decides. Every address must be public, or of a network that the settings allow,
and the connection goes to that very address, so that a name which answers differently a second time gains nothing. Redirects are
never followed, answers are read to a limit, and a deadline ends what drips.

Not what is said over a connection: see `channels`.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from cutaway_collector.errors import CutawayError, SettingsError

SECONDS_MAX: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 * 1024
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[..., list[tuple[Any, ...]]]
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Refused(CutawayError):
    """An address may not be reached. Trying again does not help."""


class Failed(CutawayError):
    """Something did not answer, or not as hoped. `lasting`: trying again does not help."""

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


def networks(text: str) -> tuple[Network, ...]:
    """The setting alerts_networks. Raises SettingsError naming the part at fault."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part))
        except ValueError:
            raise SettingsError(f"alerts_networks is networks with commas, {part[:60]!r} is none: try 10.1.0.0/16") from None
    return tuple(found)


class Egress:
    """The way out. allowed: networks besides the public internet. resolve: socket.getaddrinfo, or what takes its place."""

    def __init__(self, allowed: Iterable[Network] = (), *, resolve: Resolve = socket.getaddrinfo, seconds_max: float = SECONDS_MAX,
                 tls: ssl.SSLContext | None = None) -> None:
        self._allowed = tuple(allowed)
        self._resolve = resolve
        self._seconds_max = seconds_max
        self.tls = tls or ssl.create_default_context()

    def address(self, host: str, port: int) -> str:
        """The address to connect to. Raises Refused when the host resolves to any that may not be reached, Failed when to none."""
        try:
            found = self._resolve(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise Failed(f"the name {host[:100]!r} cannot be resolved") from None
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses:
            raise Failed(f"the name {host[:100]!r} has no address")
        for address in addresses:
            # One bad address condemns the name: which of them a connection takes is not left to luck.
            if not self.permits(address):
                raise Refused(f"{host[:100]} resolves to {address}, which is not a public address: where that is meant, name its "
                              "network in the setting alerts_networks")
        return addresses[0]

    def permits(self, address: str) -> bool:
        """Whether this address may be reached, in whatever clothes it comes (IPv4 within IPv6)."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:  # an interface's scope, fe80::1%eth0, is never public
            return False
        return all(any(one in network for network in self._allowed if network.version == one.version) or _public(one)
                   for one in _clothes(parsed))

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to a permitted address of the host. Raises Refused, Failed."""
        address = self.address(host, port)
        try:
            return socket.create_connection((address, port), self._seconds_max)
        except OSError as error:
            raise Failed(f"{host[:100]}:{port} cannot be reached: {error.strerror or type(error).__name__}") from None

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """POSTs and returns the status, whatever it is. Raises Refused, Failed; neither says the path, which may be a secret."""
        parts = split_url(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        connection = http.client.HTTPConnection(host, port, timeout=self._seconds_max)
        raw = self.connect(host, port)
        with deadline(raw, self._seconds_max):
            try:
                connection.sock = self.tls.wrap_socket(raw, server_hostname=host) if parts.scheme == "https" else raw
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                shown = f"[{host}]" if ":" in host else host
                default = port == (443 if parts.scheme == "https" else 80)
                connection.request("POST", target, body, {"Host": shown if default else f"{shown}:{port}", "User-Agent": "cutaway",
                                                          "Connection": "close", **headers})
                answer = connection.getresponse()
                answer.read(ANSWER_BYTES_MAX)
                return answer.status
            except ssl.SSLError as error:
                raise Failed(f"{host[:100]}:{port}: TLS failed: {error.reason or type(error).__name__}") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                # ValueError: the deadline closed the connection under a read.
                raise Failed(f"{host[:100]}:{port} gave no answer within {self._seconds_max:g} s: {type(error).__name__}") from None
            finally:
                connection.close()
                raw.close()


def split_url(url: str) -> Any:
    """The parts of an http or https URL without a user in it. Raises Refused."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("the address of a webhook is a URL with a port from 1 to 65535") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or port == 0:
        raise Refused("the address of a webhook is an http or https URL without a user name in it")
    if not url.isprintable() or " " in url:
        raise Refused("the address of a webhook has no blanks")
    return parts


def _clothes(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 address that it stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None or address in _NAT64:
        yield inner  # nothing but another way of writing it
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield address.teredo[1]
    if int(address) >> 32 == 0:
        yield inner


def _public(address: Address) -> bool:
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
                                      or address.is_link_local or address.is_private)


@contextmanager
def deadline(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Ends a connection that is still open after so long: a time limit on each read alone lets a server drip for ever."""

    def end() -> None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    # wrap_socket takes the descriptor over: a duplicate of it can still end what the other reads from.
    connection = connection.dup()
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        connection.close()
