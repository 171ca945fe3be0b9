"""Reads the probe: do the compiled packages load and compute, and is there a GPU to use?"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.doctor.findings import Finding
from experiments.doctor.installation import installed_version

PROBE = Path(__file__).with_name("probe.py")
FITTING = "torch, fbgemm and torchrec must be of one set (see pyproject.toml). Run: make clean setup"


def run_probe(timeout_seconds: float = 120.0) -> dict[str, Any]:
    """Runs the probe in a process of its own.

    Args:
        timeout_seconds: after which the process is ended and counts as failed.

    Returns:
        Step to {"value", "error"}; the single step "probe" with an error when the process itself ended early.
    """
    # -P: the probe's own folder stays off the import path.
    command = [sys.executable, "-P", str(PROBE)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"probe": {"value": None, "error": f"no answer within {timeout_seconds:.0f} s"}}
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        last_words = (done.stderr.strip().splitlines() or ["it left no message"])[-1]
        return {"probe": {"value": None, "error": f"ended with status {done.returncode}: {last_words}"}}
    return json.loads(lines[-1])


def compiled_findings(outcome: dict[str, Any]) -> list[Finding]:
    """Turns the probe's outcome into findings.

    Args:
        outcome: what `run_probe` returns.
    """
    findings = [step_finding(step, result) for step, result in outcome.items() if step != "torch"]
    torch = outcome.get("torch", {"value": None, "error": None})
    if torch["error"]:
        findings.insert(0, Finding("torch import", torch["error"], "loads", "broken", FITTING))
    if torch["value"]:
        findings += [gpu_finding(torch["value"]), triton_finding(bool(torch["value"]["gpus"]))]
    return findings


def step_finding(step: str, result: dict[str, Any]) -> Finding:
    """One step of the probe after torch: it worked, or what it raised and what follows."""
    if result["error"] is None:
        return Finding(step, "works", "works")
    if step == "fbgemm on GPU":
        remedy = "Training runs on the CPU, so nothing depends on it yet. For fbgemm's CUDA build: make setup CUDA=1"
        return Finding(step, result["error"], "", "note", remedy)
    return Finding(step, result["error"], "works", "broken", FITTING)


def gpu_finding(torch: dict[str, Any]) -> Finding:
    """The GPUs that torch can use, or why it uses none.

    Args:
        torch: the probe's description of torch.
    """
    if torch["gpus"]:
        names = ", ".join(torch["gpus"])
        return Finding(
            "GPU", names, "", "note", "Not used yet: the kernels have CPU paths only (distill ls kernels)."
        )
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", "none; everything runs on the CPU")
    if torch["cuda_build"] is None:
        remedy = f"torch {torch['version']} is a CPU build. To use the GPU: make setup CUDA=1"
        return Finding("GPU", "there is an NVIDIA driver", "", "note", remedy)
    remedy = f"torch was built for CUDA {torch['cuda_build']} and finds no GPU: compare with `nvidia-smi`."
    return Finding("GPU", "there is an NVIDIA driver", "", "note", remedy)


def triton_finding(has_gpu: bool) -> Finding:
    """How the Triton kernels can run here; the reference implementations need none of it."""
    version = installed_version("triton")
    if version is None:
        return Finding("Triton kernels", "none; the CPU implementations run")
    return Finding("Triton kernels", "compiled" if has_gpu else "interpreter only (TRITON_INTERPRET=1)")
