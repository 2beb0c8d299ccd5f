"""The machine and the settings: packages, compiled kernels, GPU, contradictions, ports. Opens no store and no directory of ours."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numba
from numba import cuda

from cutaway_collector.commands import running
from cutaway_collector.commands.doctor.findings import Finding, bad, note, ok
from cutaway_collector.score import repetition
from cutaway_collector.settings import LOOPBACK, Settings, split_address

LISTENERS = ("otlp_grpc", "otlp_http", "ui")


def versions(settings: Settings) -> Iterator[Finding]:
    """Which packages do the work."""
    # As installed: the engine is not loaded to be asked, for that starts it, and other commands need none.
    yield ok("packages", f"Python {sys.version.split()[0]}, chdb {version('chdb')}, clickhouse-connect "
                         f"{version('clickhouse-connect')}, numba {numba.__version__}")


def kernels(settings: Settings) -> Iterator[Finding]:
    """Compiled kernels are kept on disk, else every start compiles them."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        yield bad("kernels", "NUMBA_DISABLE_JIT is set: nothing is compiled, and a span takes a thousand times as long", "unset it")
        return
    # A function of numba's own type, which a type checker takes for the plain one.
    used = Path(repetition._cpu.stats.cache_path)  # type: ignore[attr-defined]  # see above
    asked = os.environ.get("NUMBA_CACHE_DIR", "")
    if asked and not used.resolve().is_relative_to(Path(asked).resolve()):
        yield bad("kernels", f"NUMBA_CACHE_DIR {asked} cannot be written, compiled kernels are kept in {used} instead",
                  "make it a directory of ours, or unset the variable")
    elif list(used.glob("*.nbi")):
        yield ok("kernels", f"compiled ones are kept in {used}")
    else:
        yield note("kernels", f"none is compiled yet, the first start takes about a minute and keeps them in {used}",
                   "in a container, put NUMBA_CACHE_DIR on a volume")


def device(settings: Settings) -> Iterator[Finding]:
    """Where scores are computed."""
    if settings.score_device == "cpu":
        yield ok("scores", "they are computed on the CPU, as asked")
        return
    if cuda.is_available():
        yield ok("scores", "a CUDA device is there")
        return
    why = " ".join(_cuda_trouble().split())
    if settings.score_device == "cuda":
        yield bad("scores", f"score_device is cuda and numba cannot use one ({why[:160]})",
                  "install the NVIDIA driver, or set score_device to auto")
    else:
        yield ok("scores", "no CUDA device, they are computed on the CPU")


def _cuda_trouble() -> str:
    try:
        cuda.current_context()
    except Exception as error:
        return str(error).strip() or type(error).__name__
    return "no device"


def contradictions(settings: Settings) -> Iterator[Finding]:
    """Settings that are each possible and together are not, or not wise."""
    found = list(_contradictions(settings))
    yield from found or [ok("settings", "they fit each other")]


def _contradictions(settings: Settings) -> Iterator[Finding]:
    if bool(settings.data) == bool(settings.clickhouse):
        given = "both are given" if settings.data else "neither is given"
        yield bad("settings", f"a store is either --data DIR or --clickhouse URL, {given}", "give exactly one")
    addresses = [split_address(name, getattr(settings, name)) for name in LISTENERS]
    for place, name in enumerate(LISTENERS):
        if addresses[place][1] and addresses[place] in addresses[:place]:
            yield bad("settings", f"{name} and {LISTENERS[addresses.index(addresses[place])]} both want {getattr(settings, name)}",
                      "give each its own port")
    for small, large, why in (("request_bytes_max", "spool_bytes_max", "the largest request would never fit into the spool"),
                              ("request_bytes_max", "queue_bytes_max", "the largest request would never fit into the queue"),
                              ("batch_bytes_max", "queue_bytes_max", "a batch would never be full")):
        if getattr(settings, small) > getattr(settings, large):
            yield bad("settings", f"{small} {getattr(settings, small)} is more than {large} {getattr(settings, large)}, so {why}",
                      f"lower {small} or raise {large}")
    if settings.retention_days and not 0 < settings.tokens_retention_days <= settings.retention_days:
        yield note("settings", f"token series are kept for {settings.tokens_retention_days or 'all'} days and their spans for "
                               f"{settings.retention_days}, so that old series cannot be found", "lower tokens_retention_days")
    beyond = [name for name, (host, _) in zip(LISTENERS, addresses, strict=True) if host not in LOOPBACK]
    if beyond and settings.insecure_bind:
        lacks = [word for word, has in (("TLS", settings.tls_certificate), ("API keys", settings.auth_required)) if not has]
        if lacks:
            yield note("settings", f"{', '.join(beyond)} listen beyond loopback without {' and '.join(lacks)}, which "
                                   "insecure_bind allows", "be sure that the network itself is closed")


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether each address can be listened on, and who does already."""
    ours = running.read_addresses(settings) or {}
    for name in LISTENERS:
        host, port = split_address(name, getattr(settings, name))
        try:
            with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
                yield ok(name, f"{host}:{port} is free")
        except OSError as error:
            owner = _listener(port)
            if ours.get(name, "").endswith(f":{port}") and owner == str(ours.get("pid")):
                yield ok(name, f"{host}:{port} is the running collector's")
                continue
            who = f" by process {owner}" if owner else ""
            yield bad(name, f"{host}:{port} cannot be used ({error.strerror}{who})",
                      f"stop what listens there, or choose another --{name.replace('_', '-')}")


def _listener(port: int) -> str:
    """Number of the process that listens on a TCP port, as far as the kernel lets us see; "" when unknown. Linux only."""
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            parts = line.split()
            if parts[3] == "0A" and int(parts[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{parts[9]}]")
    for folder in Path("/proc").glob("[0-9]*/fd") if inodes else ():
        try:
            if any(os.readlink(handle) in inodes for handle in folder.iterdir()):
                return folder.parent.name
        except OSError:
            continue
    return ""
