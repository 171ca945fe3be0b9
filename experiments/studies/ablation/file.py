"""The ablation's file. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.checks import check_name
from distill.errors import nearest
from distill.findings import Findings, show
from experiments.quantity import counted
from experiments.studies.files import (
    ComparisonFile,
    check_seeds,
    check_teacher_keys,
    overrides,
    read_study,
    unequal,
)


@dataclass
class Variant:
    """One model.

    Attributes:
        set: `--set` keys and values of the teacher; on top of the full model's, but for a peer.
        peer: a model of its own, on top of the experiment's teacher alone.
        per_surface: one model for each vertical, trained on its rows alone, scored together as one model.
        trials: settings to choose from, each a mapping of `--set` keys to values; of the full model and the peers,
            equally many for each. The others take what was chosen for the full model.
    """

    set: dict[str, Any] = field(default_factory=dict)
    peer: bool = False
    per_surface: bool = False
    trials: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Ablation(ComparisonFile):
    """An ablation file.

    Attributes:
        tuning_seeds: seeds of every trial.
        full: name of the full model among the variants.
        variants: name to model.
    """

    tuning_seeds: list[int] = field(default_factory=lambda: [100, 101, 102])
    full: str = "gem"
    variants: dict[str, Variant] = field(default_factory=dict)

    @property
    def peers(self) -> list[str]:
        return [name for name, variant in self.variants.items() if variant.peer]

    @property
    def tuned(self) -> list[str]:
        """Models with settings of their own: the full model and the peers."""
        return [self.full, *self.peers]

    @property
    def parts(self) -> list[str]:
        """Variants of the full model."""
        return [name for name in self.variants if name not in self.tuned]

    def arguments(self, name: str, chosen: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """`--set` arguments of a variant.

        Args:
            name: of the variant.
            chosen: tuned model to the trial that it takes.
        """
        if name in self.tuned:
            return overrides({**self.variants[name].set, **chosen.get(name, {})})
        return [*self.arguments(self.full, chosen), *overrides(self.variants[name].set)]


def read_ablation(path: Path) -> Ablation:
    """Read an ablation file.

    Raises:
        ConfigErrors: everything that is wrong with it.
    """
    return read_study(path, Ablation, _check)


def _check(study: Ablation, findings: Findings) -> None:
    check_seeds(study.tuning_seeds, ("tuning_seeds",), findings)
    both = sorted(set(study.seeds) & set(study.tuning_seeds))
    if both:
        findings.add(("tuning_seeds",), f"{both}, which are among `seeds` too", "seeds of their own")
    if findings.touches(("variants",)):  # what is missing there would be judged wrongly
        return
    if study.full not in study.variants:
        names = ", ".join(study.variants) or "no name, since there is no variant"
        findings.add(("full",), show(study.full), names, nearest(study.full, study.variants))
        return
    for name, variant in study.variants.items():
        _check_variant(study, name, variant, findings)
    counts = unequal({name: study.variants[name].trials for name in study.tuned})
    if counts:
        findings.add(("variants",), f"trials: {counts}", "equally many for the full model and every peer")


def _check_variant(study: Ablation, name: str, variant: Variant, findings: Findings) -> None:
    place = ("variants", name)
    check_name(name, place, findings)
    check_teacher_keys(variant.set, (*place, "set"), findings)
    for number, trial in enumerate(variant.trials):
        check_teacher_keys(trial, (*place, "trials", number), findings)
    if name == study.full and (variant.peer or variant.per_surface):
        findings.add(place, "a peer or per_surface", "neither, since it is the full model")
    elif variant.trials and name not in study.tuned:
        allowed = "none: it takes the full model's settings (or `peer: true`)"
        findings.add((*place, "trials"), counted(len(variant.trials), "trial"), allowed)
