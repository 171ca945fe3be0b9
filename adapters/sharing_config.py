"""Settings of parameter sharing. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from distill.errors import UserError

BESIDE = ("refreshed", "frozen", "trained")
"""What may become of copied tables that are further fields of the student."""


@dataclass
class VocabularyConfig:
    """The values behind a feature's ids, where teacher and student number them differently.

    Attributes:
        teacher: folder of the prepared data set that the teacher was trained on, if it has a vocabulary of the feature
            (`ids: vocabulary`). Or a .npy file with the value of each row of the table, in the order of the rows; whole
            numbers, or texts of a fixed length. No value stands there twice. Relative to the current directory.
        student: likewise; null for the run's own data set, which then has a vocabulary of the feature.
    """

    teacher: str = "???"
    student: str | None = None


@dataclass
class SharingConfig:
    """Tables and modules of the teacher, copied into the student.

    Attributes:
        tables: features whose tables are copied; empty for the users' largest one and the items'. Student and teacher
            must read them.
        copies: what becomes of the tables. refreshed: one further field of the student for each, frozen, replaced every
            day by the newest snapshot that the schedule allows; frozen: such fields, of the first snapshot; trained:
            such fields, which start as the first snapshot; initial: no field, the student's own rows start as the
            teacher's; none: no tables, only `modules`.
        dim: width of the teacher's tables, a multiple of 4: its `dim`, or more where rows hold more, as a DeepFM's do.
            `initial` reads it in the first snapshot.
        projection: to the student's width. svd: the directions in which the rows of the first snapshot are longest,
            fixed; learned: a matrix for each table, trained with the student; none: the widths are equal.
        unseen: what stands in a further field for an id that the teacher never saw, beside a vector that is trained:
            zero, or mean, the mean of the rows of the ids it has seen. Under `initial` such rows stay the student's.
        table_learning_rate: of `trained` copies (fused row-wise AdaGrad): the student's own for free ones, less for
            slow ones.
        moments: `trained` and `initial`: copy the rows' AdaGrad moments too, so that they move as little as the
            teacher's would; otherwise they move as new rows do.
        first_day: day before which nothing is copied; 0 for the day of the first snapshot.
        modules: path of a module of the student to that of the teacher's module whose parameters it takes, once, such
            as {towers: towers}.
        freeze_modules: leave them as they were copied; otherwise they are trained on.
        snapshot: file of a teacher trained elsewhere, relative to the current directory; on what days it was trained is
            yours to answer for. null: the experiment's own teacher.
        vocabularies: by feature, where that teacher numbers its ids differently: `teacher` and `student`, what their
            rows stand for.
    """

    tables: list[str] = field(default_factory=list)
    copies: Literal["refreshed", "frozen", "trained", "initial", "none"] = "refreshed"
    dim: int = 32
    projection: Literal["svd", "learned", "none"] = "svd"
    unseen: Literal["zero", "mean"] = "zero"
    table_learning_rate: float = 0.002
    moments: bool = True
    first_day: int = 0
    modules: dict[str, str] = field(default_factory=dict)
    freeze_modules: bool = False
    snapshot: str | None = None
    vocabularies: dict[str, VocabularyConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dim < 4 or self.dim % 4:
            raise UserError(
                f"sharing.dim: got {self.dim}, allowed: a multiple of 4, as the width of every table is"
            )
        if self.table_learning_rate <= 0:
            raise UserError(
                f"sharing.table_learning_rate: got {self.table_learning_rate}, allowed: more than 0. "
                "Write `copies: frozen` for copies that are not trained."
            )
        if self.first_day < 0:
            raise UserError(f"sharing.first_day: got {self.first_day}, allowed: 0 or a day, from 1")
        if len(set(self.tables)) < len(self.tables):
            raise UserError(f"sharing.tables: got {', '.join(self.tables)}, allowed: every feature once")
        self._check_copies()
        self._check_files()

    def _check_copies(self) -> None:
        if self.copies == "initial" and self.projection == "learned":
            raise UserError(
                "sharing.projection: got 'learned', allowed with copies: initial: none, or svd, since nothing is left "
                "to learn once the rows are the student's own"
            )
        if self.copies == "none" and self.tables:
            raise UserError(
                f"sharing.tables: got {', '.join(self.tables)}, allowed with copies: none: an empty list"
            )
        if self.copies == "none" and self.vocabularies:
            raise UserError(
                f"sharing.vocabularies: got {', '.join(self.vocabularies)}, allowed with copies: none: an empty mapping"
            )
        if self.copies == "none" and not self.modules:
            raise UserError(
                "sharing.copies: got 'none' without `modules`, allowed: refreshed, frozen, trained, initial"
            )
        if self.freeze_modules and not self.modules:
            raise UserError(
                "sharing.freeze_modules: got true without `modules`, allowed: false, or name them"
            )

    def files(self) -> dict[tuple[str, ...], list[Path]]:
        """What is read of the files that settings name; of a prepared data set, its vocabulary of the feature."""
        # Here, since whoever lists the channels needs no tables.
        from distill.vocabulary import VOCABULARY

        return {
            place: [Path(file)]
            if place == ("snapshot",) or not Path(file).is_dir()
            else [Path(file) / "schema.yaml", Path(file) / VOCABULARY / f"{place[1]}.parquet"]
            for place, file in self._named().items()
        }

    def _named(self) -> dict[tuple[str, ...], str]:
        """The settings that name files, or folders of prepared data sets."""
        named: dict[tuple[str, ...], str | None] = {("snapshot",): self.snapshot}
        for feature, vocabulary in self.vocabularies.items():
            named["vocabularies", feature, "teacher"] = vocabulary.teacher
            named["vocabularies", feature, "student"] = vocabulary.student
        return {place: file for place, file in named.items() if file is not None}

    def _check_files(self) -> None:
        """Here, and not when a student is built: its teacher would have been trained for nothing."""
        for place, file in self._named().items():
            folder = place != ("snapshot",) and Path(file).is_dir()
            if not folder and not Path(file).is_file():
                raise UserError(
                    f"sharing.{'.'.join(place)}: got '{file}', allowed: an existing file, relative to {Path.cwd()}"
                )
