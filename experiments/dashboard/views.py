"""The workspaces of an experiment, and their definition as W&B gets it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from distill.errors import UserError
from experiments import tracking_keys as keys
from experiments.curves import MEASURES
from experiments.dashboard import sections
from experiments.dashboard.shown import Shown, Student
from experiments.recorded import STUDENT

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

FAMILY = "family"
"""Page of the whole experiment."""

_MOST_LINES = 100
_ID_LENGTH = 11


@dataclass(frozen=True)
class View:
    """One page.

    Attributes:
        page: `family`, or `student <name>`.
        workspace: as W&B's own library describes it.
    """

    page: str
    workspace: Workspace

    @property
    def definition(self) -> dict[str, Any]:
        """The spec that is sent, as JSON values."""
        view = self.workspace._to_model()
        return {
            "name": self.workspace.name,
            "entity": self.workspace.entity,
            "project": self.workspace.project,
            "spec": view.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
        }


def pages(shown: Shown, entity: str, project: str) -> list[View]:
    """The family's page and one per student; the same settings give the same definition.

    Args:
        shown: what to show.
        entity, project: whose runs they show, and where they are saved.

    Raises:
        UserError: the extra `dashboard` is not installed.
    """
    if find_spec("wandb_workspaces") is None:
        raise UserError(
            "distill dashboard: got no package wandb-workspaces, allowed: an installed one. "
            "Install the extra: pip install 'gem-distill[dashboard]'."
        )
    family = [sections.teacher_section(shown), *_sections(shown, shown.students)]
    made = [View(FAMILY, _workspace(shown, FAMILY, family, None, entity, project))]
    for student in shown.students:
        page, own = f"student {student.name}", _sections(shown, [student])
        made.append(View(page, _workspace(shown, page, own, student, entity, project)))
    return made


def _sections(shown: Shown, students: Sequence[Student]) -> list[Section]:
    return [
        sections.students_section(students),
        sections.transfer_section(shown, students),
        sections.cost_section(shown, students),
        sections.tables_section(shown, students),
    ]


def _workspace(
    shown: Shown, page: str, parts: Sequence[Section], student: Student | None, entity: str, project: str
) -> Workspace:
    import wandb_workspaces.workspaces as ws

    filled = [section for section in parts if section.panels]
    for section in filled:
        for panel in section.panels:
            _name_panel(panel, f"{shown.experiment}/{page}/{section.name}")
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"{shown.experiment}: {page}",
        sections=filled,
        settings=ws.WorkspaceSettings(x_axis=keys.DAY, max_runs=min(shown.runs, _MOST_LINES)),
        runset_settings=_runset(shown, student),
    )


def _runset(shown: Shown, student: Student | None) -> Any:
    """Runs of the experiment; on a student's page its own and its teachers'. The teacher is the one to compare with."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    runs = [expr.Metric("Group") == shown.experiment]
    students = shown.students if student is None else [student]
    if student is not None:
        runs.append(expr.Tags().isin([keys.tag(STUDENT, student.name), *shown.teacher_tags]))
    columns = [
        f"summary:{keys.final(shown.split, vertical, task, measure)}"
        for vertical, task in sections.places(students)
        for measure in MEASURES
    ]
    return ws.RunsetSettings(
        filters=runs,
        order=[expr.Ordering(expr.Metric("Name"))],
        pinned_columns=columns,
        baseline_run=shown.teacher_run,
    )


def _name_panel(panel: Any, place: str) -> None:
    """An id that stays, so that saving again replaces the panel instead of adding one."""
    name = getattr(panel, "title", None) or panel.table_name
    panel._id = hashlib.sha256(f"{place}/{name}".encode()).hexdigest()[:_ID_LENGTH]
