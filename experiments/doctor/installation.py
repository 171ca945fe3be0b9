"""Is what the project needs installed, in releases that fit, and does nothing else stand in its place?

What is needed is read from `pyproject.toml` (or, installed without it, from the distribution's metadata) and
from the metadata of the installed packages: no version is written down twice. Nothing here imports torch.
"""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from experiments.doctor.findings import Finding

DISTRIBUTION = "gem-distill"
ROOMS = ("kernels", "distill", "adapters", "teachers", "students", "experiments")
# What goes wrong with another release, for the packages where pip's own words do not tell.
CONSEQUENCES = {
    "torch": "One release of fbgemm loads beside one minor release of torch only.",
    "fbgemm-gpu": "One release of fbgemm loads beside one minor release of torch only.",
    "fbgemm-gpu-cpu": "One release of fbgemm loads beside one minor release of torch only.",
    "torchrec": "torchrec, fbgemm and torch move together.",
    "torchmetrics": "torchrec's RecMetric.compute() raises beside another release.",
}


def project_needs(root: Path) -> tuple[SpecifierSet, list[Requirement]]:
    """Reads what the project asks for.

    Args:
        root: folder that holds the rooms.

    Returns:
        The Python versions and the run-time requirements that apply on this machine.

    Raises:
        importlib.metadata.PackageNotFoundError: neither a pyproject.toml nor an installed distribution.
    """
    pyproject = root / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"] if pyproject.is_file() else {}
    if project.get("name") == DISTRIBUTION:
        return SpecifierSet(project["requires-python"]), applying(project["dependencies"])
    installed = metadata.distribution(DISTRIBUTION)
    return SpecifierSet(installed.metadata["Requires-Python"]), applying(installed.requires or [])


def applying(requirements: Sequence[str]) -> list[Requirement]:
    """Parses requirements and drops those of extras and of other platforms."""
    parsed = [Requirement(text) for text in requirements]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, None when there is none of that name."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def python_finding(needed: SpecifierSet) -> Finding:
    """The interpreter's version against what the project asks for."""
    found = platform.python_version()
    if needed.contains(found, prereleases=True):
        return Finding("python", found, str(needed))
    remedy = "Build the environment with an interpreter that fits: make clean setup PYTHON=..."
    return Finding("python", found, str(needed), "broken", remedy)


def requirement_finding(requirement: Requirement, asked_by: str) -> Finding:
    """One requirement against what is installed.

    Args:
        requirement: name and allowed versions.
        asked_by: distribution that has the requirement, for the message.
    """
    found = installed_version(requirement.name)
    needed = str(requirement.specifier) or "any"
    if found is not None and requirement.specifier.contains(found, prereleases=True):
        return Finding(requirement.name, found, needed)
    consequence = CONSEQUENCES.get(canonicalize_name(requirement.name), "")
    remedy = f"Needed by {asked_by}. {consequence} Run: make setup"
    return Finding(requirement.name, found or "not installed", needed, "broken", " ".join(remedy.split()))


def indirect_requirements(direct: Sequence[Requirement]) -> Iterator[tuple[Requirement, str]]:
    """What the installed packages need in their turn, breadth first, each with the distribution that asks."""
    waiting = [canonicalize_name(r.name) for r in direct]
    seen = set(waiting)
    while waiting:
        name = waiting.pop(0)
        if installed_version(name) is None:
            continue
        for requirement in applying(metadata.requires(name) or []):
            yield requirement, name
            key = canonicalize_name(requirement.name)
            if key not in seen:
                seen.add(key)
                waiting.append(key)


def version_findings(root: Path) -> list[Finding]:
    """Python, every run-time requirement, and whatever the packages behind them lack.

    Args:
        root: folder that holds the rooms.
    """
    python, direct = project_needs(root)
    shown = {canonicalize_name(r.name): requirement_finding(r, DISTRIBUTION) for r in direct}
    for requirement, asked_by in indirect_requirements(direct):
        name, finding = canonicalize_name(requirement.name), requirement_finding(requirement, asked_by)
        if name not in shown and name in CONSEQUENCES:
            shown[name] = finding
        if finding.state == "broken" and (name not in shown or shown[name].state == "ok"):
            shown[name] = finding
    return [python_finding(python), *shown.values()]


def room_findings(root: Path, owners: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Do the rooms' names lead to this project? Other distributions have a `kernels` or an `adapters` too.

    Args:
        root: folder that holds the rooms.
        owners: top-level package to the distributions that install it
            (`importlib.metadata.packages_distributions()`).
    """
    return [_room_finding(room, root, owners.get(room, ())) for room in ROOMS]


def _room_finding(room: str, root: Path, owners: Sequence[str]) -> Finding:
    spec = find_spec(room)
    places = list(spec.submodule_search_locations or [str(spec.origin)]) if spec else []
    foreign = sorted({owner for owner in owners if canonicalize_name(owner) != DISTRIBUTION})
    name = f"package {room}"
    if foreign:
        remedy = f"Imports can reach the wrong '{room}'. Run: python -m pip uninstall {' '.join(foreign)}"
        return Finding(name, f"also installed by {', '.join(foreign)}", "this project", "broken", remedy)
    if not places:
        return Finding(name, "not found", "this project", "broken", "Run: make setup")
    if Path(places[0]).resolve() != (root / room).resolve():
        remedy = (
            f"Something on the import path hides this project's '{room}': remove it, or unset PYTHONPATH."
        )
        return Finding(name, places[0], "this project", "broken", remedy)
    return Finding(name, "this project", "this project")


def distribution_finding() -> Finding:
    """Is the project itself installed, so that the `distill` command exists outside its folder too?"""
    found = installed_version(DISTRIBUTION)
    if found is not None:
        return Finding(DISTRIBUTION, found)
    remedy = "Only `python -m experiments`, from the project's folder, works. Run: make setup"
    return Finding(DISTRIBUTION, "not installed", "", "note", remedy)


def fbgemm_finding(owners: Mapping[str, Sequence[str]]) -> Finding:
    """Exactly one build of fbgemm: the CUDA and the CPU build write into the same folder.

    Args:
        owners: top-level package to the distributions that install it.
    """
    builds = sorted({canonicalize_name(owner) for owner in owners.get("fbgemm_gpu", ())})
    name, needed = "fbgemm build", "one build"
    if not builds:
        return Finding(name, "none", needed, "broken", "The embedding tables need it. Run: make setup")
    if len(builds) == 1:
        return Finding(name, builds[0], needed)
    remedy = "They overwrite each other's files. Run: make clean setup CUDA=0 (or CUDA=1 for the CUDA build)"
    return Finding(name, " and ".join(builds), needed, "broken", remedy)


def installation_findings(root: Path) -> list[Finding]:
    """Everything that can be said of the installation without importing a compiled package.

    Args:
        root: folder that holds the rooms.
    """
    owners = metadata.packages_distributions()
    return [
        distribution_finding(),
        *version_findings(root),
        *room_findings(root, owners),
        fbgemm_finding(owners),
    ]
