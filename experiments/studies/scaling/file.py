"""The scaling study's file. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from distill.checks import check_at_least, check_name, check_unique
from distill.findings import Findings, show
from experiments.studies.files import ComparisonFile, read_study


@dataclass
class Scaling(ComparisonFile):
    """A scaling file.

    Attributes:
        sizes: name to the file of a teacher, relative to this file; the smallest first.
        histories: events of the past that a model reads; every size is trained with each.
    """

    sizes: dict[str, str] = field(default_factory=dict)
    histories: list[int] = field(default_factory=list)

    @property
    def grid(self) -> list[tuple[str, int]]:
        """Every size with every history."""
        return [(size, history) for history in self.histories for size in self.sizes]


def read_scaling(path: Path) -> Scaling:
    """Read a scaling file; the files of the sizes are absolute then.

    Raises:
        ConfigErrors: everything that is wrong with it.
    """
    study = read_study(path, Scaling, _check)
    study.sizes = {name: str((path.parent / file).resolve()) for name, file in study.sizes.items()}
    return study


def _check(study: Scaling, findings: Findings) -> None:
    for key in ("sizes", "histories"):
        if not getattr(study, key) and not findings.touches((key,)):
            findings.add((key,), "nothing", "at least one")
    for name, file in study.sizes.items():
        check_name(name, ("sizes", name), findings)
        folder = findings.folder(("sizes", name))
        if not (folder / file).is_file():
            allowed = f"the file of a teacher, relative to {folder}"
            findings.add(("sizes", name), f"{show(file)}, which is not there", allowed)
    for index, history in enumerate(study.histories):
        check_at_least(history, 0, ("histories", index), findings)
    check_unique(study.histories, ("histories",), findings)
