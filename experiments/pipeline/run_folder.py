"""The run folder of an experiment that may have changed since it was last run.

Trainings on which nothing that decides about them has changed are kept. Those that are no longer asked for, because
their cell is gone or is to be trained with other settings, go to `set_aside/<settings hash>/`, in the same places, and
come back from there when the settings do. So everything else in the folder is what its `config.yaml` asks for.

What cannot go on in the folder is refused before anything is touched: another teacher, since every student learns from
it, and other data.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distill.by_content import by_content
from distill.cells import Cell
from distill.errors import ConfigErrors, UserError
from distill.files import atomic_path
from distill.load_config import LoadedConfig, deciding, load_config
from distill.predictions import prediction_path
from distill.progress import Progress
from distill.sources.fingerprint import fingerprint_of
from distill.strict_json import read_mapping
from distill.structured import to_plain
from experiments.pipeline.environment import versions
from experiments.pipeline.experiment import Planned
from experiments.pipeline.settings import alone, anywhere, decisive
from experiments.pipeline.training import REPORT, REPORT_ADVICE

SET_ASIDE = "set_aside"
CONFIG = "config.yaml"
DERIVED = ("results.json", "cells.csv", "metrics.jsonl")
"""What is made of all trainings, and made again when the run is scored."""

Reports = dict[tuple[str, int], dict[str, Any]]
_ELSEWHERE = "Name another folder (`--set output=...`) or remove it."
_BEGUN = ("teacher", "domain_teachers", "checkpoints")
"""What a run folder holds once anything was trained."""
_NAMED = 5


@dataclass
class Changes:
    """What becomes of trainings; each by the name of its model and channel set.

    Attributes:
        kept: finished, and asked for with the settings they had.
        new: asked for, and not finished with these settings.
        aside: finished, and no longer asked for so.
    """

    kept: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)

    def shown(self) -> dict[str, str]:
        """How many of each, and whose, for a line of progress."""
        found = {"kept": str(len(self.kept)), "to be trained": _named(self.new)}
        return found | ({f"moved to {SET_ASIDE}": _named(self.aside)} if self.aside else {})


def claim(loaded: LoadedConfig, progress: Progress) -> None:
    """Make the run folder of an experiment, or take over what it holds of earlier settings.

    Args:
        loaded: the experiment.
        progress: gets a line where the settings have changed.

    Raises:
        UserError: the folder holds a run of another teacher or of other data.
    """
    folder = Path(loaded.config.output)
    if any((folder / name).exists() for name in _BEGUN):
        earlier = _earlier(folder, loaded)
        before = Planned(replace(earlier.config, output=loaded.config.output))
        after = Planned(loaded.config)
        reports = _reports(folder)
        noted = _note_settings(earlier, before, reports)
        _refuse_others(before, after, reports)
        _refuse_other_data(after, reports)
        for path, report in noted.items():
            _write(path, json.dumps(report, indent=1) + "\n")
        changes = _rearrange(before, after, reports)
        if earlier is not loaded:
            with progress.task(str(folder)) as bar:
                bar.advance(0, **changes.shown())
    _write(folder / CONFIG, loaded.to_yaml())
    _write(folder / "versions.json", json.dumps(versions(), indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def _earlier(folder: Path, loaded: LoadedConfig) -> LoadedConfig:
    """The experiment as the folder has it; the given one itself where nothing has changed."""
    path = folder / CONFIG
    if not path.is_file() or path.read_bytes() == loaded.to_yaml().encode():
        return loaded
    try:
        try:
            return load_config(path)
        except ConfigErrors:  # the data may have moved
            return load_config(path, [f"data.root={json.dumps(loaded.config.data.root)}"])
    except ConfigErrors as error:
        raise UserError(
            f"output: {folder} holds a run whose settings cannot be read: {error.problems[0]} {_ELSEWHERE}"
        ) from error


def _reports(folder: Path) -> Reports:
    """(cell_id, seed) to the report of that finished training."""
    paths = sorted(folder.glob(f"checkpoints/*/*/{REPORT}"))
    return {
        (path.parent.parent.name, int(path.parent.name)): read_mapping(path, UserError, REPORT_ADVICE)
        for path in paths
        if path.parent.name.isdecimal()
    }


def _note_settings(earlier: LoadedConfig, before: Planned, reports: Reports) -> dict[Path, dict[str, Any]]:
    """Add the hashes of single trainings to reports from before there were any; these by their files, to be written."""
    changed = {}
    cells = {cell.cell_id: cell for cell in before.cells}
    for (cell_id, seed), report in reports.items():
        noted = "settings_hash" in report or cell_id not in cells
        if not noted and report.get("config_hash") == earlier.config_hash:
            report["settings_hash"] = before.settings_hash(cells[cell_id], seed)
            changed[before.checkpoint_folder(cells[cell_id], seed) / REPORT] = report
    return changed


def _refuse_others(before: Planned, after: Planned, reports: Reports) -> None:
    """Refuse what would train everything again."""
    changed = _changed(_reaching_all(before, after), _reaching_all(after, before))
    teacher = after.teacher_cell
    if teacher is not None and not changed:
        found = {seed: report for (cell_id, seed), report in reports.items() if cell_id == teacher.cell_id}
        if any(of.get("settings_hash") != after.settings_hash(teacher, seed) for seed, of in found.items()):
            changed = ["the file of teacher.architecture or of teacher.start, or the version of the project"]
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise UserError(
            f"output: {after.folder} holds a run with other settings: {', '.join(changed[:_NAMED])}{more}. Its teacher "
            f"and all students would be trained anew. {_ELSEWHERE}"
        )


def _refuse_other_data(after: Planned, reports: Reports) -> None:
    """Refuse to train everything again because the data have changed; told by the source's files, unprepared."""
    allowed = {str(report.get("data_fingerprint")) for report in reports.values()}
    digest = fingerprint_of(after.config.data)
    if allowed - {digest}:
        raise UserError(
            f"data: got a data set with fingerprint {digest[:12]}, allowed: "
            f"{', '.join(sorted(one[:12] for one in allowed))}, on which the models in {after.folder} were "
            f"trained. All of them would be trained anew. {_ELSEWHERE}"
        )


def _reaching_all(planned: Planned, other: Planned) -> dict[str, Any]:
    """What decides about every model: about the teacher, where both have one, or the data."""
    config, cell = planned.config, planned.teacher_cell
    if cell is None or other.teacher_cell is None:
        return {"data": to_plain(anywhere(config).data)}
    reaching = decisive(alone(config, cell, config.teacher), cell)
    plain = deciding(to_plain(by_content(anywhere(reaching), seeds=[])))
    return {key: value for key, value in plain.items() if key not in ("floor", "wandb")}


def _changed(before: Any, now: Any, place: str = "") -> list[str]:
    """Dotted keys of the settings that differ; a list that differs is named as one."""
    if before == now:
        return []
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [place]
    below = f"{place}." if place else ""
    return [
        key
        for name in {**before, **now}
        for key in _changed(before.get(name), now.get(name), f"{below}{name}")
    ]


def _rearrange(before: Planned, after: Planned, reports: Reports) -> Changes:
    """Set aside what is no longer asked for, bring back what is asked for again."""
    changes, folder = Changes(), after.folder
    had = {cell.cell_id: cell for cell in before.cells}
    asked = {
        (cell, seed): after.settings_hash(cell, seed) for cell in after.cells for seed in after.config.seeds
    }
    for (cell_id, seed), report in reports.items():
        cell, digest = had.get(cell_id), str(report.get("settings_hash", report.get("config_hash")))
        if cell is not None and asked.get((cell, seed)) != digest:
            _move(_places(before, cell, seed), folder, _aside(folder, digest))
            changes.aside.append(_name(cell))
    for (cell, seed), digest in asked.items():
        own, places = after.checkpoint_folder(cell, seed), _places(after, cell, seed)
        if not (own / REPORT).is_file() and (_aside(folder, digest) / places[-1]).is_dir():
            _move(places, _aside(folder, digest), folder)
        (changes.kept if (own / REPORT).is_file() else changes.new).append(_name(cell))
    if changes.aside:
        for name in DERIVED:
            (folder / name).unlink(missing_ok=True)
    return changes


def _places(planned: Planned, cell: Cell, seed: int) -> list[Path]:
    """What a training leaves, below the run folder; last what says that it is there."""
    found = [prediction_path(planned.folder, cell, seed)]
    if cell in planned.logged_cells:
        found += [planned.snapshot(cell, seed, 1).parent.parent, planned.log_folder(cell, seed).parent]
    return [path.relative_to(planned.folder) for path in (*found, planned.checkpoint_folder(cell, seed))]


def _aside(folder: Path, digest: str) -> Path:
    return folder / SET_ASIDE / digest[:16]


def _move(places: Sequence[Path], source: Path, target: Path) -> None:
    """From one folder to the same places below another; what is left there of a training that never ended goes."""
    for place in places:
        if (source / place).exists():
            if (target / place).is_dir():
                shutil.rmtree(target / place)
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            (source / place).replace(target / place)


def _name(cell: Cell) -> str:
    return cell.model if cell.role != "student" else f"{cell.model} {cell.channel}"


def _named(names: Sequence[str]) -> str:
    each = list(dict.fromkeys(names))
    listed = ", ".join([*each[:_NAMED], *(["..."] if len(each) > _NAMED else [])])
    return f"{len(names)} ({listed})" if names else "0"
