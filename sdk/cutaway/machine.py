"""What the machine did during a generation: CPU time, memory, and on CUDA the GPUs' names, peak memory, utilisation and energy.

Not a profiler: nothing is sampled in between, and no device is waited for. What cannot be read is left out, never reported as zero.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from cutaway import conventions as c
from cutaway import guard

_STATM: Final = "/proc/self/statm"
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
_NANOSECONDS: Final = 1e-9
_MILLIJOULES: Final = 1e-3

_lock = threading.Lock()
_nvml: Any = None
"""The module `pynvml` once it is initialised in this process; False once that has failed; None before the first need."""
_handles: dict[int, Any] = {}
"""torch's device index -> NVML handle, None for a device that NVML does not know."""


def _begin_in_child() -> None:
    """After a fork: the library is initialised anew, and the lock may have been held by a thread that does not live here."""
    global _lock, _nvml
    _lock, _nvml = threading.Lock(), None
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


class Machine:
    """The figures of one call: `begin` at its start, `attributes` at its end."""

    __slots__ = ("_cuda", "_energy_mj", "_gpus", "_process_ns")

    def __init__(self, gpus: Sequence[int], cuda: Any) -> None:
        self._gpus = gpus
        self._cuda = cuda
        self._energy_mj = [_asked(cuda, gpu, "energy", _total_energy_mj) for gpu in gpus]
        self._process_ns = time.process_time_ns()

    @classmethod
    def begin(cls, devices: Sequence[str]) -> Machine:
        """devices: where the model lies, as torch writes it ("cuda:0"); other than CUDA's are passed over. [] on a CPU."""
        if not devices:
            return cls((), None)
        try:
            cuda = getattr(sys.modules.get("torch"), "cuda", None)
            if cuda is not None and cuda.is_initialized():  # asking an idle CUDA would wake it
                return cls(_indices(devices, cuda), cuda)
        except Exception as fault:
            guard.contain("finding the GPUs", fault)
        return cls((), None)

    def attributes(self) -> dict[str, Any]:
        """`cutaway.machine.*` since `begin`. Lists have one value a GPU; a list one of them has no value for is left out."""
        found: dict[str, Any] = {c.MACHINE_CPU_TIME: (time.process_time_ns() - self._process_ns) * _NANOSECONDS}
        resident = _resident_bytes()
        if resident is not None:
            found[c.MACHINE_MEMORY_RSS] = resident
        if self._gpus:
            with guard.guarded("asking the GPUs"):
                found |= self._gpu_attributes()
        return found

    def _gpu_attributes(self) -> dict[str, Any]:
        cuda, gpus = self._cuda, self._gpus
        after_mj = [_asked(cuda, gpu, "energy", _total_energy_mj) for gpu in gpus]
        lists: dict[str, list[Any]] = {
            c.MACHINE_GPU_NAME: [cuda.get_device_name(gpu) for gpu in gpus],
            # torch keeps the peak itself: reading it neither waits for the device nor resets what the program may be counting
            c.MACHINE_GPU_MEMORY_PEAK: [int(cuda.max_memory_allocated(gpu)) for gpu in gpus],
            c.MACHINE_GPU_UTILIZATION: [_asked(cuda, gpu, "utilization", _busy_share) for gpu in gpus],
            c.MACHINE_GPU_ENERGY: [_joules(before, after) for before, after in zip(self._energy_mj, after_mj, strict=True)],
        }
        return {name: values for name, values in lists.items() if None not in values}


def _indices(devices: Sequence[str], cuda: Any) -> list[int]:
    """Indices of the CUDA devices, each once; a plain "cuda" is the current one."""
    found = []
    for device in devices:
        kind, _, index = device.partition(":")
        if kind == "cuda":
            found.append(int(index) if index else int(cuda.current_device()))
    return list(dict.fromkeys(found))


def _resident_bytes() -> int | None:
    """Resident set size: the second field of statm is in pages. None where the system has no such file."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        file = os.open(_STATM, os.O_RDONLY)
        try:
            return int(os.read(file, 128).split()[1]) * _PAGE_BYTES
        finally:
            os.close(file)
    except (OSError, ValueError, IndexError):
        return None


def _joules(before_mj: int | None, after_mj: int | None) -> float | None:
    """None when a counter is missing or began again (a driver was reloaded)."""
    if before_mj is None or after_mj is None or after_mj < before_mj:
        return None
    return (after_mj - before_mj) * _MILLIJOULES


def _total_energy_mj(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def _busy_share(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100


def _asked(cuda: Any, gpu: int, what: str, question: Callable[[Any, Any], Any]) -> Any:
    """The answer of NVML about a GPU; None where there is none, which is told once a process for each question."""
    nvml = _initialised()
    if not nvml:
        return None
    try:
        with _lock:
            if gpu not in _handles:
                _handles[gpu] = None  # one that NVML does not know is not looked for at every call
                _handles[gpu] = nvml.nvmlDeviceGetHandleByUUID(_uuid(cuda, gpu))
            handle = _handles[gpu]
        return None if handle is None else question(nvml, handle)
    except Exception as error:  # NVML's own error classes, or a binding too old for the question
        guard.once(f"nvml:{what}", "NVML does not tell the %s of GPU %d (%s): it is left out", what, gpu, _words(error))
        return None


def _uuid(cuda: Any, gpu: int) -> str:
    """As NVML writes it. torch numbers the GPUs that CUDA_VISIBLE_DEVICES leaves, NVML numbers all: only the UUID is the same."""
    uuid = str(cuda.get_device_properties(gpu).uuid)
    return uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"


def _initialised() -> Any:
    """`pynvml`, initialised once a process; False where there is none, which is told once."""
    global _nvml
    if _nvml is None:
        with _lock:
            if _nvml is None:
                _nvml = _initialise()
    return _nvml


def _initialise() -> Any:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        remedy = "for the utilization and energy of GPUs: pip install 'cutaway[gpu]'"
        guard.once("nvml", "the package nvidia-ml-py is not installed; %s", remedy, level=logging.INFO)
        return False
    try:
        nvml.nvmlInit()
    except Exception as error:  # no driver, no permission, another vendor's GPU
        guard.once("nvml", "NVML does not answer (%s): utilization and energy of GPUs are left out", _words(error))
        return False
    return nvml


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
