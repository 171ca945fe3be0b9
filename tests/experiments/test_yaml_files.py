"""Every YAML file of the project goes through the parser that users meet."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

import experiments.catalog  # noqa: F401  fills the registries
from distill.config import TeacherConfig
from distill.load_config import load_config, load_student, load_teacher
from distill.registry import SOURCES
from distill.schema import DayInfo, FeatureSchema, SparseFeature, Task
from distill.sources.config import KUAIRAND_LOGS, KUAIRAND_USERS, KUAIRAND_VIDEOS
from experiments.studies.ablation.file import read_ablation
from experiments.studies.efficiency.file import read_efficiency
from experiments.studies.files import ComparisonFile, overrides
from experiments.studies.history.file import LENGTH, read_history
from experiments.studies.scaling.file import read_scaling
from experiments.studies.transfer.file import CORE, read_transfer
from experiments.studies.transfer.load import load_slices
from experiments.studies.tuning_file import read_tuning

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FILES = sorted(EXPERIMENTS.rglob("*.yaml")) + sorted(EXPERIMENTS.rglob("*.yml"))
STUDENTS = [path for path in FILES if path.parent.name == "students"]
TEACHERS = [path for path in FILES if path.parent.name == "teachers"]
TUNINGS = [path for path in FILES if path.parent.name == "tuning"]
FORMS = [path for path in FILES if path.parent.name == "ablation" and path.stem.startswith("form_")]
OUTCOMES = [path for path in FILES if path.parent.name == "ablation" and path.stem.startswith("outcomes_")]
ABLATIONS = [path for path in FILES if path.parent.name == "ablation" and path not in [*FORMS, *OUTCOMES]]
SCALINGS = [path for path in FILES if path.parent.name == "scaling"]
HISTORIES = [path for path in FILES if path.parent.name == "history"]
EFFICIENCIES = [path for path in FILES if path.parent.name == "efficiency"]
TRANSFERS = [path for path in FILES if path.parent.name == "transfer"]
SURFACES = [path for path in FILES if path.parent.name == "surfaces"]
DENSE = [path for path in FILES if path.parent.name == "dense"]
STUDIES = [
    *(*TUNINGS, *ABLATIONS, *FORMS, *OUTCOMES, *SCALINGS, *HISTORIES, *EFFICIENCIES, *TRANSFERS, *SURFACES),
    *DENSE,
]
EXPERIMENT_FILES = [path for path in FILES if path not in [*STUDENTS, *TEACHERS, *STUDIES]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder for sources that read files: a schema that names what the examples name, its days, KuaiRand's files."""
    for name in (*KUAIRAND_LOGS, KUAIRAND_USERS, KUAIRAND_VIDEOS):
        (tmp_path / name).touch()
    days = tuple(DayInfo(f"2026-01-{day:02d}", day) for day in range(1, 15))
    for day in days:
        (tmp_path / f"date={day.date}").mkdir()
        (tmp_path / f"date={day.date}" / "rows.parquet").touch()
    FeatureSchema(
        name="mine",
        domains=("feed", "search"),
        verticals=("feed", "search"),
        days=days,
        tasks={"click": Task("click")},
        sparse={"item_id": SparseFeature("item_id", 10)},
    ).save(tmp_path / "schema.yaml")
    return tmp_path


@pytest.mark.parametrize("path", EXPERIMENT_FILES, ids=lambda path: path.name)
def test_experiment(path: Path, root: Path) -> None:
    source = yaml.safe_load(path.read_text())["data"]["source"]
    overrides = [f"data.root={root}"] if "root" in SOURCES.get(source).needs else []
    assert load_config(path, overrides).config.name == path.stem


@pytest.mark.parametrize("path", STUDENTS, ids=lambda path: path.name)
def test_student(path: Path) -> None:
    assert load_student(path).name == path.stem


@pytest.mark.parametrize("path", TEACHERS, ids=lambda path: path.name)
def test_teacher(path: Path) -> None:
    assert load_teacher(path).name == path.stem


@pytest.mark.parametrize("path", TUNINGS, ids=lambda path: path.name)
def test_tuning(path: Path) -> None:
    assert Path(read_tuning(path).experiment) in EXPERIMENT_FILES


def loaded(study: ComparisonFile, root: Path, arguments: list[str]) -> TeacherConfig:
    """The teacher of the study's experiment with these settings."""
    assert Path(study.experiment) in EXPERIMENT_FILES
    at = [f"data.root={root}"] if study.data == "kuairand" else []
    teacher = load_config(study.experiment, [*overrides(study.set), *at, *arguments]).config.teacher
    assert teacher is not None
    return teacher


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.name)
def test_ablation(path: Path, root: Path) -> None:
    study = read_ablation(path)
    assert study.data == path.stem and study.peers == ["din", "dcn_v2", "deepfm"]
    for name in study.variants:
        for trial in study.variants[name].trials or [{}]:
            teacher = loaded(study, root, study.arguments(name, {name: trial}))
            assert teacher.architecture == (name if name in study.peers else "gem")
    assert {len(study.variants[name].trials) for name in study.tuned} == {6}
    assert (study.seeds, study.tuning_seeds) == ([0, 1, 2, 3, 4], [100, 101, 102])


def test_ablations_of_both_data_sets_ask_the_same() -> None:
    one, other = (read_ablation(path) for path in ABLATIONS)
    assert one.variants == {name: other.variants[name] for name in one.variants} and one.table == other.table
    assert set(other.variants) - set(one.variants) == {"content", "delayed_weighted", "delayed_final"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_the_form_that_the_ablation_left_runs_with_the_settings_it_chose(path: Path, root: Path) -> None:
    study = read_ablation(path)
    assert study.data == path.stem.removeprefix("form_") and study.peers == ["din", "dcn_v2", "deepfm"]
    with (EXPERIMENTS / "results" / "gem_ablation_trials.csv").open() as file:
        trials = [row for row in csv.DictReader(file) if row["data"] == study.data]
    for name in study.tuned:
        best = min(
            (row for row in trials if row["variant"] == name), key=lambda row: float(row["macro_logloss"])
        )
        chosen = json.loads(best["settings"])["teacher.optimizer"]
        assert study.variants[name].set["teacher.optimizer"] == chosen
    assert "teacher.options" not in study.variants["gem"].set  # the defaults are what is asked about
    for name in study.variants:
        loaded(study, root, study.arguments(name, {}))


@pytest.mark.parametrize("path", OUTCOMES, ids=lambda path: path.name)
def test_outcomes_ask_about_one_option_of_the_form_and_give_equal_trials(path: Path, root: Path) -> None:
    study = read_ablation(path)
    form = read_ablation(path.with_name(path.name.replace("outcomes", "form")))
    assert study.data == form.data and study.peers == (["din", "dcn_v2"] if study.data == "simulator" else [])
    assert {len(study.variants[name].trials) for name in study.tuned} == {4}
    for name in study.tuned:
        first = study.variants[name].trials[0]
        mine, theirs = (
            loaded(of, root, of.arguments(name, {name: trial})) for of, trial in ((study, first), (form, {}))
        )
        if name == "gem":
            assert mine.options.pop("outcomes") == {"weight": 0.1, "hidden": 32}
        assert mine == theirs
    without = loaded(study, root, study.arguments("no_outcomes", {"gem": study.variants["gem"].trials[0]}))
    assert without == loaded(form, root, form.arguments("gem", {}))


@pytest.mark.parametrize("path", DENSE, ids=lambda path: path.name)
def test_the_dense_world_is_that_of_the_scaling_study_and_its_models_those_of_the_form(
    path: Path, root: Path
) -> None:
    study, form = read_ablation(path), read_ablation(EXPERIMENTS / "ablation" / f"form_{path.name}")
    assert study.set == read_scaling(EXPERIMENTS / "scaling" / path.name).set
    assert study.data == f"dense_{path.stem}" and study.tuned == form.tuned
    assert study.variants == {name: form.variants[name] for name in form.tuned}
    for name in study.variants:
        loaded(study, root, study.arguments(name, {}))


@pytest.mark.parametrize("path", SCALINGS, ids=lambda path: path.name)
def test_scaling(path: Path, root: Path) -> None:
    study = read_scaling(path)
    assert study.data == path.stem and list(study.sizes) == ["gem-xs", "gem-s", "gem-m", "gem-l", "gem-xl"]
    assert len(study.histories) == 2
    for size, file in study.sizes.items():
        assert Path(file) in TEACHERS and Path(file).stem == size
    loaded(study, root, [])


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.name)
def test_history(path: Path, root: Path) -> None:
    study = read_history(path)
    assert study.data == path.stem and study.variants["pyramid"].events == [50, 200, 1000, 4000]
    for reader in study.variants.values():
        for events in reader.events:
            teacher = loaded(study, root, [*overrides(reader.set), f"{LENGTH}={events}"])
            assert teacher.options["dim"] >= 32


@pytest.mark.parametrize("path", EFFICIENCIES, ids=lambda path: path.name)
def test_efficiency(path: Path, root: Path) -> None:
    study = read_efficiency(path)
    assert study.data == path.stem and (study.compile, study.processes) == (True, 2)
    teacher = loaded(study, root, [])
    assert (teacher.options["history_length"], teacher.options["sequence"]["layers"]) == (500, 2)


SLUGS = "none single ah ah_adapter pfd fitnets current rawid repr sharing all".split()
"""PROTOCOL.md, "Names in files"."""

SLICES = {
    "core": (SLUGS, "direct", "progressive", 1),
    "lag_0": (["none", "ah", "ah_adapter"], "direct", "progressive", 0),
    "lag_3": (["none", "ah", "ah_adapter"], "direct", "progressive", 3),
    "hierarchical": (["none", "ah_adapter", "all"], "hierarchical", "progressive", 1),
    "frozen": (["none", "ah", "rawid", "all"], "direct", "frozen", 1),
}


@pytest.mark.parametrize("path", TRANSFERS, ids=lambda path: path.name)
def test_transfer(path: Path, root: Path) -> None:
    study = read_transfer(path)
    assert (study.data, study.seeds) == (path.stem, [0, 1, 2, 3, 4])
    assert Path(study.table).name == f"transfer_{path.stem}.csv"
    assert Path(study.experiment) in EXPERIMENT_FILES
    at = [f"data.root={root}"] if study.data == "kuairand" else []
    slices = {name: of.config for name, of in load_slices(study, path, at).items()}
    found = {
        name: (
            config.students[0].channels,
            config.students[0].route,
            config.schedule.kind,
            config.schedule.lag,
        )
        for name, config in slices.items()
    }
    assert found == SLICES
    thin, rich = slices[CORE].students
    assert thin.options["history_length"] == 0 < rich.options["history_length"]
    assert (thin.verticals, thin.channels, thin.optimizer) == (rich.verticals, rich.channels, rich.optimizer)
    assert set(study.small) == set(thin.verticals[1:])
    assert [name for name, config in slices.items() if config.domain_teachers] == ["hierarchical"]


@pytest.mark.parametrize("path", SURFACES, ids=lambda path: path.name)
def test_surfaces(path: Path, root: Path) -> None:
    """Teacher, days and students are those of the transfer study; four sets, and those on other surfaces' rows."""
    at = [f"data.root={root}"] if path.stem == "kuairand" else []
    study, of_transfer = read_transfer(path), read_transfer(EXPERIMENTS / "transfer" / path.name)
    assert (study.data, study.seeds, study.small) == (path.stem, [0, 1, 2, 3, 4], of_transfer.small)
    mine, theirs = (
        load_slices(of, of_path, at)[CORE].config
        for of, of_path in ((study, path), (of_transfer, EXPERIMENTS / "transfer" / path.name))
    )
    assert mine.teacher == theirs.teacher and mine.schedule == theirs.schedule
    with_others = {
        name for name, of in mine.channels.items() if any(o.get("other_surfaces") for o in of.values())
    }
    assert set(mine.channels) - with_others == {"none", "single", "ah", "rawid", "all"}
    sets = {"labels_surfaces", "ah_surfaces", "single_surfaces", "all_surfaces", "all_corrected"}
    more = {"simulator": {"adapter_surfaces"}, "kuairand": {"all_levelled", "all_rows"}}
    assert with_others == sets | more[path.stem]
    assert set(mine.channels["all_corrected"]) == {"adapter", "repr", "sharing"}
    if path.stem == "kuairand":
        levelled, corrected, rows = (
            mine.channels[f"all_{name}"] for name in ("levelled", "corrected", "rows")
        )
        assert levelled["adapter"] == corrected["adapter"] | {"level": "labels"}
        assert rows == levelled | {"single": rows["single"]} and rows["single"]["target"] == "labels"
    assert set(mine.channels["all_surfaces"]) == {"single", "adapter", "repr", "sharing"}
    for one, other in zip(mine.students, theirs.students, strict=False):
        assert (one.options, one.optimizer) == (other.options, other.optimizer)


def test_the_demo_shows_what_there_is() -> None:
    config = load_config(EXPERIMENTS / "demo.yaml").config
    assert sum(len(student.verticals) for student in config.students) == 6
    assert len({vertical for student in config.students for vertical in student.verticals}) >= 3
    assert {student.architecture for student in config.students} == {"dlrm", "deepfm", "dcn_v2", "din"}
    assert sorted(config.channels) == ["ah", "none", "single"]
    assert len(config.seeds) == 3


def test_kuairand_is_the_protocol(root: Path) -> None:
    config = load_config(EXPERIMENTS / "kuairand.yaml", [f"data.root={root}"]).config
    assert (config.schedule.kind, config.schedule.lag) == ("progressive", 1)
    assert (config.schedule.tune_days, config.schedule.test_days) == ([9, 10, 11], [12, 13, 14])
    assert config.students[0].verticals == ["1", "0", "4", "6", "2"]
    assert config.students[0].tasks == ["click", "conversion"]
    assert sorted(config.channels) == ["ah", "none", "single"]
    assert config.seeds == [0, 1, 2, 3, 4]
