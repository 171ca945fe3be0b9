"""The doctor: each planted fault is found and named, a sound machine passes, nothing secret is printed."""

from __future__ import annotations

import argparse
import io
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from experiments.cli import doctor
from experiments.doctor import compiled, installation, machine
from experiments.doctor.findings import Finding

ROOT = Path(__file__).parents[2]
SOUND_TORCH: dict[str, Any] = {"version": "2.13.0+cpu", "cuda_build": None, "gpus": []}


def install(folder: Path, name: str, version: str, requires: str = "", package: str = "") -> None:
    """Writes the metadata of an installed distribution, with one top-level package when named."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requires}"] if requires else []
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if package:
        (info / "top_level.txt").write_text(package + "\n", encoding="utf-8")


def project(folder: Path, dependencies: list[str]) -> Path:
    """A project folder whose pyproject.toml asks for these dependencies."""
    lines = ["[project]", 'name = "gem-distill"', 'requires-python = ">=3.11"']
    lines.append(f"dependencies = {json.dumps(dependencies)}")
    (folder / "pyproject.toml").write_text("\n".join(lines), encoding="utf-8")
    return folder


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


# Installation


def test_needs_are_those_of_pyproject(tmp_path: Path) -> None:
    root = project(tmp_path, ["torch>=2", "colour; platform_system == 'Plan9'"])
    python, requirements = installation.project_needs(root)
    assert str(python) == ">=3.11"
    assert [str(r) for r in requirements] == ["torch>=2"]


def test_needs_come_from_metadata_without_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "gem-distill", "9.9", "torch>=2\nRequires-Python: >=3.11")
    monkeypatch.syspath_prepend(tmp_path)
    python, requirements = installation.project_needs(tmp_path / "elsewhere")
    assert str(python) == ">=3.11"
    assert [str(r) for r in requirements] == ["torch>=2"]


def test_foreign_pyproject_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n', encoding="utf-8")
    install(tmp_path, "gem-distill", "9.9", "torch>=2\nRequires-Python: >=3.11")
    monkeypatch.syspath_prepend(tmp_path)
    assert [r.name for r in installation.project_needs(tmp_path)[1]] == ["torch"]


def test_old_python_is_broken() -> None:
    finding = installation.python_finding(installation.SpecifierSet(">=99"))
    assert (finding.state, finding.needed) == ("broken", ">=99")


@pytest.mark.parametrize(
    ("needed", "state"),
    [("thing>=1.8,<1.9", "ok"), ("thing", "ok"), ("thing>=1.9", "broken"), ("thing==1.8.0", "ok")],
)
def test_requirement_against_a_local_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: str, state: str
) -> None:
    install(tmp_path, "thing", "1.8.0+cpu")
    monkeypatch.syspath_prepend(tmp_path)
    assert installation.requirement_finding(Requirement(needed), "gem-distill").state == state


def test_missing_requirement_names_itself_and_what_to_do() -> None:
    finding = installation.requirement_finding(Requirement("no-such-thing>=2"), "gem-distill")
    assert (finding.found, finding.needed, finding.state) == ("not installed", ">=2", "broken")
    assert "gem-distill" in finding.remedy and "make setup" in finding.remedy


def test_wrong_torchmetrics_is_found_through_torchrec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "torchrec", "1.8.0", "torchmetrics==1.0.3")
    install(tmp_path, "torchmetrics", "1.9.0")
    monkeypatch.syspath_prepend(tmp_path)
    findings = {f.name: f for f in installation.version_findings(project(tmp_path, ["torchrec>=1.8,<1.9"]))}
    assert findings["torchrec"].state == "ok"
    trap = findings["torchmetrics"]
    assert (trap.found, trap.needed, trap.state) == ("1.9.0", "==1.0.3", "broken")
    assert "RecMetric" in trap.remedy


def test_a_direct_requirement_can_be_broken_by_an_indirect_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "upper", "1.0", "lower>=2")
    install(tmp_path, "lower", "1.5")
    monkeypatch.syspath_prepend(tmp_path)
    findings = installation.version_findings(project(tmp_path, ["lower>=1", "upper"]))
    assert states(findings)["lower"] == "broken"
    assert "upper" in next(f.remedy for f in findings if f.name == "lower")


def test_rooms_are_this_projects() -> None:
    assert set(states(installation.room_findings(ROOT, {})).values()) == {"ok"}


def test_room_owned_by_another_distribution_is_broken() -> None:
    owners = {"kernels": ["gem_distill", "kernels"], "adapters": ["gem-distill"]}
    found = {f.name: f for f in installation.room_findings(ROOT, owners)}
    assert found["package kernels"].state == "broken"
    assert "pip uninstall kernels" in found["package kernels"].remedy
    assert found["package adapters"].state == "ok"


def test_room_found_elsewhere_is_broken(tmp_path: Path) -> None:
    findings = installation.room_findings(tmp_path, {})
    assert set(states(findings).values()) == {"broken"}
    assert findings[0].found == str(ROOT / "kernels")


@pytest.mark.parametrize(
    ("builds", "state"),
    [
        ([], "broken"),
        (["fbgemm_gpu-cpu", "fbgemm-gpu-cpu"], "ok"),
        (["fbgemm-gpu"], "ok"),
        (["fbgemm-gpu", "fbgemm_gpu-cpu"], "broken"),
    ],
)
def test_exactly_one_build_of_fbgemm(builds: list[str], state: str) -> None:
    assert installation.fbgemm_finding({"fbgemm_gpu": builds}).state == state


def test_both_builds_are_seen_in_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "fbgemm-gpu", "1.8.0", package="fbgemm_gpu")
    install(tmp_path, "fbgemm-gpu-cpu", "1.8.0", package="fbgemm_gpu")
    monkeypatch.syspath_prepend(tmp_path)
    finding = installation.fbgemm_finding(metadata.packages_distributions())
    assert finding.found == "fbgemm-gpu and fbgemm-gpu-cpu"


# Compiled parts


def test_probe_works_here() -> None:
    outcome = compiled.run_probe()
    assert {step: result["error"] for step, result in outcome.items()} == dict.fromkeys(outcome)
    assert {"torch", "fbgemm on CPU", "torchrec import"} <= set(outcome)
    assert outcome["torch"]["value"]["version"] == metadata.version("torch")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import os; os.abort()", "ended with status -6"),
        ("raise ImportError('undefined symbol: x')", "undefined symbol: x"),
        ("pass", "it left no message"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
    ],
)
def test_probe_that_dies_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    (tmp_path / "probe.py").write_text(script, encoding="utf-8")
    monkeypatch.setattr(compiled, "PROBE", tmp_path / "probe.py")
    (finding,) = compiled.compiled_findings(compiled.run_probe(timeout_seconds=1.0))
    assert finding.state == "broken"
    assert words in finding.found


def test_op_that_does_not_load_is_broken() -> None:
    outcome = {
        "torch": {"value": SOUND_TORCH, "error": None},
        "fbgemm on CPU": {"value": None, "error": "AttributeError: no op"},
        "torchrec import": {"value": "1.8.0", "error": None},
    }
    assert states(compiled.compiled_findings(outcome)) == {
        "fbgemm on CPU": "broken",
        "torchrec import": "ok",
        "GPU": "ok",
        "Triton kernels": "ok",
    }


def test_torch_that_does_not_load_is_broken() -> None:
    outcome = {"torch": {"value": None, "error": "OSError: libtorch"}}
    assert states(compiled.compiled_findings(outcome)) == {"torch import": "broken"}


def test_gpu_without_fbgemms_cuda_build_is_a_note() -> None:
    outcome = {
        "torch": {"value": {**SOUND_TORCH, "gpus": ["H200"]}, "error": None},
        "fbgemm on GPU": {"value": None, "error": "NotImplementedError: CUDA"},
    }
    found = {f.name: f for f in compiled.compiled_findings(outcome)}
    assert found["fbgemm on GPU"].state == "note"
    assert found["GPU"].found == "H200"
    assert found["Triton kernels"].found == "compiled"


def test_driver_beside_a_cpu_build_of_torch_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: "/usr/bin/" + name)
    finding = compiled.gpu_finding(SOUND_TORCH)
    assert finding.state == "note"
    assert "CUDA=1" in finding.remedy


# Machine


@pytest.mark.parametrize(
    ("flags", "found", "state"),
    [
        ("fpu avx2 avx512f avx512_bf16 amx_tile", "AVX2 yes, AVX-512 yes, AVX512-BF16 yes, AMX yes", "ok"),
        ("fpu avx2", "AVX2 yes, AVX-512 no, AVX512-BF16 no, AMX no", "ok"),
        ("fpu", "AVX2 no, AVX-512 no, AVX512-BF16 no, AMX no", "note"),
    ],
)
def test_cpu_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, found: str, state: str
) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n", encoding="utf-8")
    finding = machine.cpu_finding(cpuinfo)
    assert (finding.found, finding.state) == (found, state)


def test_cpu_of_another_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "arm64")
    assert machine.cpu_finding().found == "arm64; instructions unknown"


@pytest.mark.parametrize(
    ("limit", "found", "state"),
    [
        ("max", "8.0 GiB free of 16.0", "ok"),
        (str(2 * 1024**3), "2.0 GiB free of 2.0", "note"),
    ],
)
def test_memory_within_a_containers_limit(tmp_path: Path, limit: str, found: str, state: str) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n", encoding="utf-8")
    (tmp_path / "limit").write_text(limit + "\n", encoding="utf-8")
    finding = machine.memory_finding(tmp_path / "meminfo", tmp_path / "limit")
    assert (finding.found, finding.state) == (found, state)


def test_full_disk_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOW_DISK", 1 << 60)
    assert machine.disk_finding(tmp_path).state == "note"


@pytest.mark.parametrize(
    ("environment", "words", "state"),
    [
        ({}, "offline unless WANDB_MODE says otherwise; key not set", "ok"),
        ({"WANDB_MODE": "online"}, "WANDB_MODE=online; key not set", "broken"),
        ({"WANDB_MODE": "online", "WANDB_API_KEY": "secret"}, "WANDB_MODE=online; key set", "ok"),
        ({"WANDB_MODE": "disabled"}, "WANDB_MODE=disabled; key not set", "ok"),
        ({"WANDB_MODE": "ofline"}, "WANDB_MODE=ofline", "broken"),
    ],
)
def test_wandb_mode_and_key(tmp_path: Path, environment: dict[str, str], words: str, state: str) -> None:
    finding = machine.wandb_finding({"NETRC": str(tmp_path / "none"), **environment})
    assert (finding.found, finding.state) == (words, state)
    assert "secret" not in finding.found + finding.remedy


def test_wandb_key_in_netrc(tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine wandb.example login user password secret\n", encoding="utf-8")
    environment = {"NETRC": str(path), "WANDB_BASE_URL": "https://wandb.example"}
    assert machine.has_wandb_key(environment)
    assert not machine.has_wandb_key({"NETRC": str(path)})


def test_unreadable_netrc_is_a_note(tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    path.write_text("secret\n", encoding="utf-8")
    finding = machine.wandb_finding({"NETRC": str(path)})
    assert finding.state == "note"
    assert "secret" not in finding.found + finding.remedy


# The command


@pytest.mark.parametrize(
    ("findings", "status", "last"),
    [
        ([Finding("a", "1")], 0, "Everything needed works."),
        ([Finding("a", "1", "", "note", "Do x.")], 0, "0 broken, 1 to note."),
        ([Finding("a", "1", "", "note", "Do x."), Finding("b", "2", "3", "broken", "Do y.")], 1, "1 broken"),
    ],
)
def test_status_and_last_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    findings: list[Finding],
    status: int,
    last: str,
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert doctor.run(argparse.Namespace()) == status
    assert capsys.readouterr().out.splitlines()[-1].startswith(last)


def test_piped_output_is_plain_and_whole() -> None:
    long = "word " * 60
    stream = io.StringIO()
    doctor.show([Finding("a[b]", "1", "2", "broken", long.strip())], stream)
    text = stream.getvalue()
    assert text.isascii() and "\x1b" not in text
    assert f"broken: a[b]: 1. {long.strip()}\n" in text


def test_missing_rich_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "OWN_NEEDS", ("no_such_package",))
    assert doctor.run(argparse.Namespace()) == 1
    assert "no no_such_package. Run: make setup" in " ".join(capsys.readouterr().out.split())


def test_this_installation_is_sound() -> None:
    assert [f for f in installation.installation_findings(ROOT) if f.state == "broken"] == []
