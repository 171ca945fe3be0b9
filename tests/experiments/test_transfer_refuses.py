"""Files of the transfer study that are refused, with the field named."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

import experiments.catalog  # noqa: F401  fills the registries
from distill.errors import ConfigErrors
from experiments.__main__ import main
from experiments.studies.transfer.file import Transfer, read_transfer
from experiments.studies.transfer.load import load_slices
from tests.experiments.transfer_study import (
    SMALL,
    SMALL_STUDY,
    write_base,
    write_study,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment of the whole study."""
    return write_base(tmp_path_factory.mktemp("base"))[1]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment of one student and one channel set."""
    return write_base(tmp_path_factory.mktemp("small"), **SMALL)[1]


def refused(base: Path, tmp_path: Path, **changes: Any) -> list[str]:
    """Problems of a file."""
    study = write_study(tmp_path, base, **changes)
    with pytest.raises(ConfigErrors) as caught:
        read_transfer(study)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slice": {}}, "slice: got an unknown key; allowed: experiment,"),
        ({"slices__core": {"channels": ["ah"]}}, "slices.core: got 'core'; allowed: another name"),
        ({"slices__a b": {"channels": ["ah"]}}, "slices.a b: got 'a b'; allowed: letters, digits"),
        ({"slices__fresh__channels": []}, "slices.fresh.channels: got an empty list; allowed: at least one"),
        ({"slices__fresh__channels": ["ah", "ah"]}, "slices.fresh.channels[1]: got 'ah' a second time"),
        (
            {"slices__fresh__route": "indirect"},
            "slices.fresh.route: got 'indirect'; allowed: direct, hierarchical",
        ),
        (
            {"slices__fresh__set": {"teacher.name": "x"}},
            "got the key teacher.name; allowed: keys of the schedule",
        ),
        (
            {"slices__fresh__set": {"schedule.test_days": [5]}},
            "slices.fresh.set.schedule.test_days: got the key schedule.test_days; allowed: keys of the schedule but",
        ),
        (
            {"table": "transfer.csv"},
            "table: got 'transfer.csv'; allowed: a file named by its data set, such as",
        ),
        (
            {"tuning": "none.yaml"},
            "tuning: got 'none.yaml', which is not there; allowed: a tuning file, or null",
        ),
        ({"small": ["reels", "reels"]}, "small[1]: got 'reels' a second time"),
        ({"seeds": []}, "seeds: got an empty list; allowed: at least one seed"),
        ({"experiment": "none.yaml"}, "experiment: got 'none.yaml', which is not there"),
    ],
)
def test_bad_files_are_refused(base: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (problem,) = refused(base, tmp_path, **changes)
    assert message in problem


def test_all_mistakes_are_told_at_once(base: Path, tmp_path: Path) -> None:
    changes = {"seeds": [], "slice": 1, "table": "x.csv", "slices__fresh__channels": [], "tuning": "x"}
    assert len(refused(base, tmp_path, **changes)) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"slices__fresh__channels": ["ah", "adapter"]},
            "slices.fresh.channels[1]: got 'adapter'; allowed: none, single, ah, ah_adapter, all. Did you mean",
        ),
        ({"small": ["stories"]}, "small[0]: got 'stories', which the student 'thin' does not serve"),
        (
            {"slices__fresh__set": {"schedule.lag": 9}},
            "fresh: --set schedule.lag=9: schedule.lag: got 9 with the last tune day 5",
        ),
        (
            {"slices__frozen__route": "hierarchical"},
            "frozen: --set schedule.kind=\"frozen\": schedule.kind: got 'frozen' beside domain teachers",
        ),
        (
            {"set": {"students.thin.option": 1}},
            "core: --set students.thin.option=1: students[0] (thin).option: got an",
        ),
    ],
)
def test_what_does_not_fit_the_experiment_is_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, base, **changes)
    assert main(["study", "transfer", str(study)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_two_models_under_one_cell_are_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = {"channels": ["ah"], "set": {"schedule.student_first_day": 2}}
    study = write_study(tmp_path, small, **(SMALL_STUDY | {"slices": {"later": later}}))
    assert main(["study", "transfer", str(study)]) == 2
    said = capsys.readouterr().err
    assert "slices.later: " in said and "is another model there than in slices.core" in said


TUNING: dict[str, Any] = {"output": "unused", "table": "unused.csv", "seeds": [100]}


def tuned(folder: Path, base: Path, trials: dict[str, Any], experiment: Path | None = None) -> Path:
    """A study of SMALL and its tuning file."""
    content = TUNING | {"experiment": str(experiment or base), "trials": trials}
    folder.mkdir(exist_ok=True)
    (folder / "tuning.yaml").write_text(yaml.safe_dump(content))
    return write_study(folder, base, **SMALL_STUDY, tuning="tuning.yaml")


def test_equally_many_trials_of_every_channel_set_are_taken(small: Path, tmp_path: Path) -> None:
    study = tuned(tmp_path, small, {"none": [{}, {}], "thin/ah": [{}, {}]})
    assert set(load_slices(read_transfer(study), study, [])) == {"core", "fresh"}


def test_a_student_without_trials_takes_what_was_found_with_another(small: Path, tmp_path: Path) -> None:
    base = yaml.safe_load(small.read_text())
    base["students"].append(deepcopy(base["students"][0]) | {"name": "twin"})
    twins = tmp_path / "twins.yaml"
    twins.write_text(yaml.safe_dump(base))
    study = tuned(tmp_path / "study", twins, {"thin/none": [{}], "thin/ah": [{}]})
    assert set(load_slices(read_transfer(study), study, [])) == {"core", "fresh"}


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ({"none": [{}]}, "tuning: got no trials of thin/ah; allowed: equally many for every channel set"),
        ({"ah": [{}]}, "tuning: got no trials of thin/none"),
        ({"none": [{}], "ah": [{}, {}]}, "the same number for every channel set"),
    ],
)
def test_other_trials_are_refused(
    small: Path, tmp_path: Path, trials: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "transfer", str(tuned(tmp_path, small, trials))]) == 2
    assert said in capsys.readouterr().err


def test_trials_of_another_experiment_are_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(small.read_text())
    study = tuned(tmp_path, small, {"none": [{}], "ah": [{}]}, other)
    assert main(["study", "transfer", str(study)]) == 2
    assert f"tuning: got trials of {other.resolve()}; allowed: trials of" in capsys.readouterr().err


def test_tables_of_a_study_lie_together() -> None:
    study = Transfer(data="a", table="t/transfer_a.csv")
    assert study.beside("ratio") == Path("t/transfer_ratio_a.csv")
