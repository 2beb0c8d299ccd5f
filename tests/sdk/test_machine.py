"""The machine's figures: CPU time and memory against the system's own, GPUs against fakes held to the real modules' signatures."""

from __future__ import annotations

import inspect
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from cutaway import conventions as c
from cutaway import machine
from cutaway.machine import Machine

GPUS = ["aaaa", "bbbb", "cccc", "dddd"]
"""UUIDs of the GPUs of the faked machine, as torch writes them, in NVML's order."""


class NotSupported(Exception):
    """Stands for one of NVML's error classes."""


class Nvml(ModuleType):
    """A faked `pynvml`: GPU i took (i + 1) x 1000 J more at every question; `lacks` are questions a GPU has no answer to."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.inits = 0
        self.asked: list[str] = []
        self.lacks: set[str] = set()
        self.energy_mj = [0, 0, 0, 0]

    def nvmlInit(self) -> None:
        self.inits += 1

    def nvmlDeviceGetHandleByUUID(self, uuid: Any) -> Any:
        self.asked.append(uuid)
        if uuid.removeprefix("GPU-") not in GPUS:
            raise NotSupported("Not Found")
        return GPUS.index(uuid.removeprefix("GPU-"))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:
        if f"energy {handle}" in self.lacks:
            raise NotSupported("Not Supported")
        self.energy_mj[handle] += (handle + 1) * 1_000_000
        return self.energy_mj[handle]

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        if f"utilization {handle}" in self.lacks:
            raise NotSupported("Not Supported")
        return SimpleNamespace(gpu=10 * (handle + 1), memory=99)


class Cuda:
    """A faked `torch.cuda` that sees the GPUs `visible`, in that order. What it lacks may not be called: synchronize, a reset."""

    def __init__(self, visible: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        self.visible = visible

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 1

    def get_device_name(self, device: Any = None) -> str:
        return f"GPU number {self.visible[device]}"

    def get_device_properties(self, device: Any = None) -> Any:
        return SimpleNamespace(uuid=GPUS[self.visible[device]])

    def max_memory_allocated(self, device: Any = None) -> int:
        return 100 + self.visible[device]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """NVML is not initialised before a test, and nothing of it stays."""
    machine._begin_in_child()
    yield
    machine._begin_in_child()


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    fake = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.fixture
def see(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call it with the GPUs torch may see."""
    def install(*visible: int) -> None:
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=Cuda(visible or (0, 1, 2, 3))))
    return install


def functions(fake: Any) -> dict[str, Callable[..., Any]]:
    """What a fake offers by itself."""
    return {name: value for name, value in vars(type(fake)).items() if inspect.isfunction(value) and not name.startswith("_")}


@pytest.mark.parametrize(("fake", "real"), [(Nvml(), pynvml), (Cuda(), torch.cuda)], ids=["pynvml", "torch.cuda"])
def test_the_fakes_have_the_real_signatures(fake: Any, real: Any) -> None:
    """Every function a fake offers exists in the real module with the same parameters."""
    assert len(functions(fake)) >= 4
    for name, function in functions(fake).items():
        mine = [*inspect.signature(function).parameters][1:]  # without self
        assert [*inspect.signature(getattr(real, name)).parameters] == mine, name


def test_the_real_binding_answers_in_the_types_the_fake_has() -> None:
    """The structure of utilization has `gpu` in percent, the GPU's properties have a `uuid`."""
    assert ("gpu", pynvml.c_uint) in pynvml.c_nvmlUtilization_t._fields_
    assert "uuid" in Path(torch._C.__file__).with_name("_C").joinpath("__init__.pyi").read_text()


def test_cpu_time_is_the_process_time_in_between() -> None:
    """Busy threads count, what came before does not; the kernel's own accounting is the oracle."""
    def burn() -> None:
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass

    burn()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    before = usage.ru_utime + usage.ru_stime
    running = Machine.begin([])
    threads = [threading.Thread(target=burn) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = running.attributes()[c.MACHINE_CPU_TIME]
    usage = resource.getrusage(resource.RUSAGE_SELF)

    assert 0.2 <= told <= usage.ru_utime + usage.ru_stime - before + 0.02  # the kernel counts in ticks


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc here")
def test_resident_memory_is_what_the_kernel_says() -> None:
    """As VmRSS of /proc/self/status, up to what is allocated between the two readings."""
    told = Machine.begin([]).attributes()[c.MACHINE_MEMORY_RSS]
    lines = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

    assert abs(told - resident) < 4 * 1024 * 1024


def test_memory_is_left_out_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no attribute: never a zero."""
    monkeypatch.setattr(machine, "_STATM", "/nowhere/statm")

    assert set(Machine.begin([]).attributes()) == {c.MACHINE_CPU_TIME}


def test_a_cpu_model_asks_no_gpu(nvml: Nvml, see: Callable[..., None]) -> None:
    """Devices other than CUDA's touch neither torch nor NVML."""
    see()
    found = Machine.begin(["cpu", "mps:0", "meta"]).attributes()

    assert not [name for name in found if ".gpu." in name]
    assert nvml.inits == 0


def test_an_idle_cuda_is_not_woken(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA nobody initialised is asked nothing."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: False)))

    assert not [name for name in Machine.begin(["cuda:0"]).attributes() if ".gpu." in name]


def test_torch_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices are named but torch was never imported: it still is not."""
    monkeypatch.delitem(sys.modules, "torch")
    Machine.begin(["cuda:0"]).attributes()

    assert "torch" not in sys.modules


def test_every_gpu_has_its_figures(nvml: Nvml, see: Callable[..., None]) -> None:
    """Names, peak bytes, share of time and joules of each GPU once, in the order of the devices."""
    see()
    found = Machine.begin(["cuda:2", "cpu", "cuda:0", "cuda:2"]).attributes()

    assert found[c.MACHINE_GPU_NAME] == ["GPU number 2", "GPU number 0"]
    assert found[c.MACHINE_GPU_MEMORY_PEAK] == [102, 100]
    assert found[c.MACHINE_GPU_UTILIZATION] == [0.3, 0.1]
    assert found[c.MACHINE_GPU_ENERGY] == [3000.0, 1000.0]


def test_a_plain_cuda_is_the_current_device(nvml: Nvml, see: Callable[..., None]) -> None:
    """`cuda` without a number."""
    see()
    assert Machine.begin(["cuda"]).attributes()[c.MACHINE_GPU_NAME] == ["GPU number 1"]


def test_hidden_gpus_do_not_shift_the_numbers(nvml: Nvml, see: Callable[..., None]) -> None:
    """Torch sees only GPU 3 and calls it 0: the energy is that of GPU 3."""
    see(3)
    found = Machine.begin(["cuda:0"]).attributes()

    assert found[c.MACHINE_GPU_ENERGY] == [4000.0]
    assert found[c.MACHINE_GPU_UTILIZATION] == [0.4]
    assert nvml.asked == ["GPU-dddd"]


def test_what_one_gpu_does_not_tell_is_left_out(
    nvml: Nvml, see: Callable[..., None], caplog: pytest.LogCaptureFixture,
) -> None:
    """No list with a hole or a zero; the rest stays; said once however many calls follow."""
    see()
    nvml.lacks = {"energy 1"}
    with caplog.at_level(logging.INFO, "cutaway"):
        for _ in range(3):
            found = Machine.begin(["cuda:0", "cuda:1"]).attributes()

    assert c.MACHINE_GPU_ENERGY not in found
    assert found[c.MACHINE_GPU_UTILIZATION] == [0.1, 0.2]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the energy of GPU 1 (NotSupported: Not Supported)" in caplog.text


def test_an_unknown_gpu_is_looked_for_once(nvml: Nvml, see: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a GPU (MIG) that NVML does not find under its UUID has a name and a peak, and NVML is not asked again."""
    see()
    monkeypatch.setattr(Cuda, "get_device_properties", lambda self, device=None: SimpleNamespace(uuid="slice"))
    for _ in range(2):
        found = Machine.begin(["cuda:0"]).attributes()

    assert {name for name in found if ".gpu." in name} == {c.MACHINE_GPU_NAME, c.MACHINE_GPU_MEMORY_PEAK}
    assert nvml.asked == ["GPU-slice"]


def test_a_counter_that_began_again_is_left_out(nvml: Nvml, see: Callable[..., None]) -> None:
    """A smaller count at the end is not energy."""
    see()
    running = Machine.begin(["cuda:0"])
    nvml.energy_mj[0] = -5_000_000

    assert c.MACHINE_GPU_ENERGY not in running.attributes()


def test_a_missing_package_is_told_once(
    see: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """Without nvidia-ml-py: what torch knows remains, one INFO line says what to install."""
    see()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with caplog.at_level(logging.INFO, "cutaway"):
        for _ in range(3):
            found = Machine.begin(["cuda:0"]).attributes()

    assert {name for name in found if ".gpu." in name} == {c.MACHINE_GPU_NAME, c.MACHINE_GPU_MEMORY_PEAK}
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "pip install 'cutaway[gpu]'" in caplog.text


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has an NVIDIA driver")
def test_the_real_binding_without_a_driver_is_told_once(see: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """The real pynvml where there is no driver: one warning, the attributes left out."""
    see()
    with caplog.at_level(logging.INFO, "cutaway"):
        for _ in range(3):
            found = Machine.begin(["cuda:0"]).attributes()

    assert c.MACHINE_GPU_ENERGY not in found
    assert c.MACHINE_GPU_UTILIZATION not in found
    (record,) = caplog.records
    assert "NVML does not answer (NVMLError" in record.getMessage()


def test_a_failing_torch_reaches_nobody(
    nvml: Nvml, see: Callable[..., None], unguarded: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault while asking the GPUs costs their figures alone."""
    see()
    unguarded()
    monkeypatch.setattr(Cuda, "max_memory_allocated", lambda self, device=None: 1 / 0)
    found = Machine.begin(["cuda:0"]).attributes()
    monkeypatch.setattr(Cuda, "current_device", lambda self: 1 / 0)

    assert c.MACHINE_CPU_TIME in found
    assert c.MACHINE_CPU_TIME in Machine.begin(["cuda"]).attributes()


def test_threads_initialise_nvml_once(nvml: Nvml, see: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight first calls at once: one of them initialises, and the others wait for it to be done."""
    see()
    entered, found = threading.Event(), []

    def slow_init() -> None:
        nvml.inits += 1
        entered.wait(0.2)

    monkeypatch.setattr(nvml, "nvmlInit", slow_init)
    gate = threading.Barrier(8)

    def call() -> None:
        gate.wait()
        found.append(Machine.begin(["cuda:0"]).attributes())

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert nvml.inits == 1
    assert len(found) == 8
    assert all(c.MACHINE_GPU_ENERGY in each for each in found)


FAKE_PYNVML = """
import os
from types import SimpleNamespace
ready = set()
def nvmlInit(): ready.add(os.getpid())
def checked(value):
    assert os.getpid() in ready, "NVML was not initialised in this process"
    return value
def nvmlDeviceGetHandleByUUID(uuid): return checked(os.getpid())
def nvmlDeviceGetTotalEnergyConsumption(handle):
    assert handle == os.getpid(), "a handle of another process"
    return checked(7000)
def nvmlDeviceGetUtilizationRates(handle): return checked(SimpleNamespace(gpu=50, memory=1))
"""

FORKING = """
import os, signal, sys, threading
from types import SimpleNamespace
from cutaway import guard, machine
guard.reraise(True)
sys.modules["torch"] = SimpleNamespace(cuda=SimpleNamespace(
    is_initialized=lambda: True, get_device_name=lambda i: "x", max_memory_allocated=lambda i: 1,
    get_device_properties=lambda i: SimpleNamespace(uuid="aaaa")))

def told():
    return sorted(name.rpartition(".")[2] for name in machine.Machine.begin(["cuda:0"]).attributes() if ".gpu." in name)

first = told()
held = threading.Event()
def hold():
    with machine._lock:
        held.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if not pid:
    signal.alarm(30)     # a child that hangs ends by this signal: its status is not 0
    os._exit(0 if told() == first and len(first) == 4 else 3)
print(first, os.waitpid(pid, 0)[1], flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_initialises_nvml_anew(tmp_path: Path) -> None:
    """Forked while another thread holds our lock: the child neither hangs nor uses the parent's library or handles."""
    (tmp_path / "pynvml.py").write_text(FAKE_PYNVML)
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=240,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})

    assert done.stdout.split()[-1:] == ["0"], done.stderr
    assert "energy" in done.stdout
