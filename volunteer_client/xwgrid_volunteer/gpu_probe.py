"""The GPUs of this machine by NVML, asked in a process of its own: `python -m xwgrid_volunteer.gpu_probe`.

A broken driver may crash or hang whoever asks it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import msgspec
import pynvml  # type: ignore[import-untyped]  # NVIDIA's binding carries no types
from msgspec import Struct

from xwgrid.model import Gpu, Seconds

# A driver that has to be loaded first takes some seconds.
_SECONDS = 30.0
_KINDS: dict[int, str] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver is installed: this machine computes on its processor only",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded: GPUs are left out "
    "(was the driver updated? then restart the machine)",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the NVIDIA driver is too old for what is asked of it: GPUs are left out",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not use the NVIDIA driver: GPUs are left out",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated: GPUs are left out until a restart",
}


class GpuFinding(Struct, frozen=True, kw_only=True):
    """What NVML said."""

    gpus: tuple[Gpu, ...] = ()
    remark: str | None = None  # one sentence when there are none, or some could not be asked


def find_gpus(command: Sequence[str] = (sys.executable, "-m", __name__), *, seconds: Seconds = _SECONDS) -> GpuFinding:
    """Ask a child process for the GPUs. Blocking; never raises: what goes wrong is the remark."""
    try:
        answer = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return GpuFinding(remark=f"the NVIDIA driver did not answer within {seconds:g} s: GPUs are left out")
    except OSError as error:
        return GpuFinding(remark=f"the NVIDIA driver could not be asked: {error}")
    try:
        return msgspec.json.decode(answer.stdout, type=GpuFinding)
    except msgspec.MsgspecError:
        return GpuFinding(remark=f"asking the NVIDIA driver ended with status {answer.returncode}: GPUs are left out")


def ask_nvml() -> GpuFinding:
    """Ask the driver in this very process."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return GpuFinding(remark=_sentence(error))
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        found = [_gpu(index, driver) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        return GpuFinding(remark=_sentence(error))
    finally:
        pynvml.nvmlShutdown()
    gpus = tuple(gpu for gpu in found if isinstance(gpu, Gpu))
    remarks = [remark for remark in found if isinstance(remark, str)]
    if not found:
        remarks = ["the NVIDIA driver is loaded and finds no GPU"]
    return GpuFinding(gpus=gpus, remark="; ".join(remarks) or None)


def _gpu(index: int, driver: str) -> Gpu | str:
    """Return one GPU, or why it is left out: one that fell off the bus must not hide the others."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return Gpu(
            uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            memory_total=int(memory.total),
            memory_free=int(memory.free),
            capability=f"{major}.{minor}",
            driver=driver,
        )
    except pynvml.NVMLError as error:
        return f"GPU {index} is left out: {error}"


def _sentence(error: pynvml.NVMLError) -> str:
    return _KINDS.get(error.value, f"the NVIDIA driver cannot be used ({error}): GPUs are left out")


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(ask_nvml()))
