"""What a host says about itself: true, bounded in time, and with a sentence for whatever is missing."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from xwgrid_volunteer.gpu_probe import GpuFinding, find_gpus
from xwgrid_volunteer.host_probe import HostProbe, ask_runtime, probe
from xwgrid_volunteer.runtimes import Runtime, python_runtime
from xwgrid_volunteer.sandbox import detect

from xwgrid.model import Gpu, Program

GPU = Gpu(uuid="GPU-1", name="A", memory_total=2, memory_free=1, capability="9.0", driver="580.1")


def probed(cache: Path, **runtimes: Runtime) -> HostProbe:
    """Probe this machine."""
    return probe(
        name="here",
        sandbox=detect(),
        runtimes=runtimes,
        cache=cache,
        client_version="1",
        gpus=lambda: GpuFinding(gpus=(GPU,)),
    )


def test_facts(tmp_path: Path) -> None:
    """The facts tell processor, memory, GPUs, programs and sandbox of this machine."""
    facts = probed(tmp_path / "cache.json", python=python_runtime()).facts
    assert facts.cores >= 1
    assert facts.memory_bytes > 1 << 28
    assert facts.system.startswith("Linux ")
    assert facts.processor
    assert facts.gpus == (GPU,)
    assert facts.sandbox == detect().name
    (python,) = facts.programs
    assert (python.runtime, python.version) == ("python", sys.version.split()[0])
    assert python.result_class


def test_remembers(tmp_path: Path) -> None:
    """A runtime is asked once, and again when it changes."""
    asked = tmp_path / "asked"
    program = tmp_path / "python"

    def write(line: str) -> None:
        program.write_text(f'#!/bin/sh\necho x >> {asked}\n{line}\nexec {sys.executable} -I "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    write("# first")
    runtime = Runtime(name="python", command=(str(program),), origin="a test")
    cache = tmp_path / "cache.json"
    first = probed(cache, python=runtime).facts
    assert probed(cache, python=runtime).facts.programs == first.programs
    assert asked.read_text().splitlines() == ["x"]
    write("# another time")
    probed(cache, python=runtime)
    assert asked.read_text().splitlines() == ["x", "x"]
    cache.write_text("not JSON")
    probed(cache, python=runtime)
    assert asked.read_text().splitlines() == ["x", "x", "x"]


def test_broken_runtime(tmp_path: Path) -> None:
    """A runtime that does not work is left out of the facts, and the owner reads why."""
    broken = Runtime(name="blender", command=(sys.executable, "-I", "-c", "raise SystemExit('no GL')"), origin="a test")
    found = probed(tmp_path / "cache.json", python=python_runtime(), blender=broken)
    assert [program.runtime for program in found.facts.programs] == ["python"]
    assert any("no GL" in remark and "left out" in remark for remark in found.remarks)


def test_hanging_runtime() -> None:
    """A runtime that never answers is given up."""
    hangs = Runtime(name="python", command=("/bin/sh", "-c", "exec sleep 600"), origin="a test")
    assert "did not answer within 0.2 s" in str(ask_runtime(hangs, seconds=0.2))


def test_unknown_runtime() -> None:
    """A runtime that no application needs is told from one that is broken."""
    assert "no application" in str(ask_runtime(Runtime(name="fortran", command=("/bin/true",), origin="a test")))


def test_python_runtime_works() -> None:
    """The built-in runtime answers."""
    assert isinstance(ask_runtime(python_runtime()), Program)


def test_no_driver() -> None:
    """A machine without an NVIDIA driver has no GPUs, and a sentence that says it is normal."""
    finding = find_gpus()
    if finding.gpus:
        pytest.skip("this machine has a GPU")
    assert finding.remark is not None


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("/bin/sh", "-c", "kill -SEGV $$"), "status -11"),
        (("/bin/sh", "-c", "exec sleep 600"), "did not answer within 0.3 s"),
        (("/bin/sh", "-c", "echo garbage"), "status 0"),
        (("/nowhere/python",), "could not be asked"),
    ],
)
def test_broken_driver(command: tuple[str, ...], said: str) -> None:
    """A GPU driver that crashes, hangs or talks nonsense takes nothing down but its own question."""
    finding = find_gpus(command, seconds=0.3)
    assert finding.gpus == ()
    assert finding.remark is not None
    assert said in finding.remark


SHIM = r"""
#include <string.h>
typedef int R; typedef void *D;
typedef struct { unsigned long long total, free, used; } M;
R nvmlInitWithFlags(unsigned f) { return INIT; }
R nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(R r) { return r == 15 ? "GPU is lost" : "shim"; }
R nvmlSystemGetDriverVersion(char *b, unsigned n) { strncpy(b, "580.10", n); return 0; }
R nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
R nvmlDeviceGetHandleByIndex_v2(unsigned i, D *d) { if (i == 1) return 15; *d = (D)1; return 0; }
R nvmlDeviceGetMemoryInfo(D d, M *m) { m->total = 16ULL << 30; m->free = 8ULL << 30; m->used = 0; return 0; }
R nvmlDeviceGetCudaComputeCapability(D d, int *a, int *b) { *a = 8; *b = 6; return 0; }
R nvmlDeviceGetUUID(D d, char *b, unsigned n) { strncpy(b, "GPU-abc", n); return 0; }
R nvmlDeviceGetName(D d, char *b, unsigned n) { strncpy(b, "Shim 3000", n); return 0; }
"""


def ask_shim(tmp_path: Path, init: int) -> GpuFinding:
    """Ask the real binding in front of a small driver library of ours, which answers `init` to nvmlInit."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the driver's stand-in with")
    (tmp_path / "shim.c").write_text(SHIM)
    library = tmp_path / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", f"-DINIT={init}", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", str(library), str(tmp_path / "shim.c")], check=True)
    code = "import runpy; runpy.run_module('xwgrid_volunteer.gpu_probe', run_name='__main__')"
    return find_gpus(("/usr/bin/env", f"LD_LIBRARY_PATH={tmp_path}", sys.executable, "-c", code))


def test_gpus_through_the_binding(tmp_path: Path) -> None:
    """GPUs are read through NVIDIA's own binding, and one that is lost does not hide the other."""
    finding = ask_shim(tmp_path, 0)
    (gpu,) = finding.gpus
    assert (gpu.uuid, gpu.name, gpu.capability, gpu.driver) == ("GPU-abc", "Shim 3000", "8.6", "580.10")
    assert (gpu.memory_total, gpu.memory_free) == (16 << 30, 8 << 30)
    assert finding.remark is not None
    assert "GPU 1 is left out" in finding.remark


@pytest.mark.parametrize(
    ("status", "said"), [(9, "not loaded"), (13, "too old"), (18, "updated"), (999, "cannot be used")]
)
def test_driver_problems(tmp_path: Path, status: int, said: str) -> None:
    """Each way in which a driver is there and of no use has its sentence."""
    finding = ask_shim(tmp_path, status)
    assert finding.gpus == ()
    assert finding.remark is not None
    assert said in finding.remark
