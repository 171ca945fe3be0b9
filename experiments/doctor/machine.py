"""The machine: processor, memory, disk, and how W&B would record. Nothing here imports torch."""

from __future__ import annotations

import netrc
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

from experiments.doctor.findings import Finding

GIB = 1024**3
# What /proc/cpuinfo calls the instructions that fbgemm and torch use where they can.
CPU_FLAGS = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX512-BF16": "avx512_bf16", "AMX": "amx_tile"}
WANDB_MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")
WANDB_MODES_WITH_ACCOUNT = ("online", "shared", "run")
# Rules of thumb for a run of the demo's size, with its prepared data, checkpoints and predictions.
LOW_MEMORY = 4 * GIB
LOW_DISK = 5 * GIB


def cpu_finding(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """Vector instructions of the processor.

    Args:
        cpuinfo: Linux's description of the processors; other systems have none.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not cpuinfo.is_file():
        return Finding("CPU", f"{platform.machine()}; instructions unknown")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    flags = next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
    found = [f"{label} {'yes' if flag in flags else 'no'}" for label, flag in CPU_FLAGS.items()]
    if CPU_FLAGS["AVX2"] in flags:
        return Finding("CPU", ", ".join(found))
    remedy = (
        "Without AVX2 fbgemm's embedding tables fall back to plain loops: expect several times the hours."
    )
    return Finding("CPU", ", ".join(found), "AVX2", "note", remedy)


def cores_finding() -> Finding:
    """Cores that this process may use, which can be fewer than the machine has."""
    if not hasattr(os, "sched_getaffinity"):
        return Finding("cores", str(os.cpu_count()))
    return Finding("cores", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}")


def memory_finding(
    meminfo: Path = Path("/proc/meminfo"), limit: Path = Path("/sys/fs/cgroup/memory.max")
) -> Finding:
    """Memory that is free for new work.

    Args:
        meminfo: Linux's memory figures; other systems have none.
        limit: a container's limit in bytes, or the word `max`.
    """
    if not meminfo.is_file():
        return Finding("memory", "unknown on this system")
    fields = dict(
        line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line
    )
    total, free = (int(fields[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    allowed = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    if allowed != "max":
        total, free = min(total, int(allowed)), min(free, int(allowed))
    found = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    if free >= LOW_MEMORY:
        return Finding("memory", found)
    remedy = (
        "Runs may be ended by the system. Close other programs, or lower batch_size and the tables' sizes."
    )
    return Finding("memory", found, f"{LOW_MEMORY // GIB} GiB", "note", remedy)


def disk_finding(folder: Path) -> Finding:
    """Free disk where runs are written.

    Args:
        folder: an existing folder on that disk.
    """
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free"
    if free >= LOW_DISK:
        return Finding("disk", found)
    remedy = "Runs keep data, checkpoints and predictions. Free some, or let `output` name another disk."
    return Finding("disk", found, f"{LOW_DISK // GIB} GiB", "note", remedy)


def has_wandb_key(environment: Mapping[str, str]) -> bool:
    """Whether W&B would find a key, in the environment or in the netrc file that `wandb login` writes.

    Args:
        environment: variables of the process.

    Raises:
        netrc.NetrcParseError: the file is there and cannot be read as one.
    """
    if environment.get("WANDB_API_KEY"):
        return True
    path = Path(environment.get("NETRC") or Path.home() / ".netrc")
    host = urlparse(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    return path.is_file() and netrc.netrc(path).authenticators(host or "") is not None


def wandb_finding(environment: Mapping[str, str]) -> Finding:
    """W&B's mode as the environment sets it, and whether a key is set. The key itself is never shown.

    Args:
        environment: variables of the process.
    """
    mode = environment.get("WANDB_MODE", "")
    shown = f"WANDB_MODE={mode}" if mode else "offline unless WANDB_MODE says otherwise"
    if mode and mode not in WANDB_MODES:
        remedy = f"Allowed for WANDB_MODE: {', '.join(WANDB_MODES)}."
        return Finding("W&B", shown, "", "broken", remedy)
    try:
        key = has_wandb_key(environment)
    except netrc.NetrcParseError as error:
        # Its message can quote the file, and with it a key; the line number is enough.
        return Finding(
            "W&B", shown, "", "note", f"Line {error.lineno} of the netrc file is not understood: repair it."
        )
    found = f"{shown}; key {'set' if key else 'not set'}"
    if mode in WANDB_MODES_WITH_ACCOUNT and not key:
        remedy = "A run would stop and ask for a key. Run `wandb login`, or set WANDB_MODE=offline."
        return Finding("W&B", found, "a key", "broken", remedy)
    return Finding("W&B", found)


def machine_findings(folder: Path) -> list[Finding]:
    """Everything about the machine.

    Args:
        folder: where runs are written.
    """
    return [cpu_finding(), cores_finding(), memory_finding(), disk_finding(folder), wandb_finding(os.environ)]
