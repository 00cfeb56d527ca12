"""What a figure was measured on, without the machine's name or paths."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from asa_engine import kernels
from asa_engine.selection import usable_cores

__all__ = ["Host", "describe_host", "git_revision", "host_slug", "load_average"]

# Instruction sets that decide how fast matrices multiply and spectra are made.
_TELLING_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
_LIBRARIES = ("numpy", "onnxruntime", "soundfile", "soxr", "torch", "transformers", "ctranslate2")


@dataclass(frozen=True, slots=True)
class Host:
    """The machine and the software a benchmark ran on.

    Attributes:
        cpu: Model name, with family and model number where the name says little.
        cores: Cores this process may use.
        cpu_flags: Instruction sets that matter, in a fixed order.
        caches: Cache level -> size, as the system states it.
        memory_gib: Memory in all.
        system: Operating system, release and machine, without the host's name.
        python: Python's version and implementation.
        libraries: Library -> version.
        kernel_isa: Instruction set the engine's kernels use.
        load_average: Load over 1, 5 and 15 minutes before anything was started.
    """

    cpu: str
    cores: int
    cpu_flags: tuple[str, ...]
    caches: dict[str, str]
    memory_gib: float
    system: str
    python: str
    libraries: dict[str, str]
    kernel_isa: str
    load_average: tuple[float, ...]

    @property
    def busy(self) -> bool:
        """Whether other work was under way: more than a tenth of the cores were taken."""
        return bool(self.load_average) and self.load_average[0] > 0.1 * self.cores

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        values = asdict(self)
        values["cpu_flags"] = list(self.cpu_flags)
        values["load_average"] = list(self.load_average)
        return values


def describe_host() -> Host:
    """Describe this machine."""
    fields = _cpu_fields()
    present = set((fields.get("flags") or fields.get("Features") or "").split())
    return Host(
        cpu=_cpu_name(fields),
        cores=usable_cores(),
        cpu_flags=tuple(flag for flag in _TELLING_FLAGS if flag in present),
        caches=_caches(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {_release()} {platform.machine()}",
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        libraries=_library_versions(_LIBRARIES),
        kernel_isa=kernels.isa(),
        load_average=load_average(),
    )


def load_average() -> tuple[float, ...]:
    """Return the load over 1, 5 and 15 minutes; empty where the system does not tell."""
    try:
        return tuple(round(load, 2) for load in os.getloadavg())
    except OSError:
        return ()


def host_slug(host: Host) -> str:
    """Return a file name for results of this kind of machine, e.g. "amd-epyc-f25m17-2-cores"."""
    text = re.sub(r"\((r|tm|c)\)|@.*$|\b(cpu|processor)\b", " ", host.cpu.lower())
    text = re.sub(r"\bfamily (\d+),? model (\d+)", r"f\1m\2", text)
    words = re.sub(r"[^a-z0-9]+", "-", text).strip("-")
    return f"{words[:60].strip('-') or 'unknown-cpu'}-{host.cores}-cores"


def git_revision(folder: Path) -> str | None:
    """Return the revision of the checkout that holds `folder`, "+changes" if it was edited."""
    git = ("git", "-C", str(folder))
    try:
        head = subprocess.run(
            (*git, "rev-parse", "--short=12", "HEAD"), capture_output=True, text=True, timeout=10
        )
        changes = subprocess.run(
            (*git, "status", "--porcelain", "--untracked-files=no"),
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def _release() -> str:
    """The kernel's version number, without a vendor's suffix."""
    version = re.match(r"[0-9.]+", platform.release())
    return version.group() if version else ""


def _cpu_fields() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_name(fields: dict[str, str]) -> str:
    name = fields.get("model name") or platform.processor() or platform.machine()
    family, model = fields.get("cpu family"), fields.get("model")
    # Virtual machines often hide the model number: "AMD EPYC" alone may be any of five designs.
    if family and model and not re.search(r"\d", name):
        name = f"{name} (family {family}, model {model})"
    return name


def _caches() -> dict[str, str]:
    sizes: dict[str, str] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level = (index / "level").read_text().strip()
            kind = (index / "type").read_text().strip()
            size = (index / "size").read_text().strip()
        except OSError:
            continue
        suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
        sizes[f"L{level}{suffix}"] = size
    return sizes


def _library_versions(names: Iterable[str]) -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
