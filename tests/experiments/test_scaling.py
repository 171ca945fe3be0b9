"""The scaling study: its laws on known curves, and the real command on a tiny grid."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from scipy.optimize import curve_fit
from scipy.stats import linregress, t
from sklearn.metrics import log_loss, roc_auc_score

import experiments.catalog  # noqa: F401  fills the registries
from distill.errors import ConfigErrors
from distill.interval import Statistic
from experiments.__main__ import main
from experiments.studies.picture import quantity
from experiments.studies.scaling.file import read_scaling
from experiments.studies.scaling.law import law
from experiments.studies.scaling.run import COLUMNS, LAW_COLUMNS, Point, fit_laws
from tests.experiments import recompute
from tests.experiments.tiny_experiment import TASKS, write_days, write_experiment

SVG = "{http://www.w3.org/2000/svg}"
COMPUTE = np.array([1e9, 1e10, 1e11, 1e12, 1e13])


def statistic(value: float, per_seed: Any = (-0.001, 0.0, 0.001), draws: Any = (0.0, 0.0)) -> Statistic:
    """A mean with given deviations of its seeds and of its bootstrap draws."""
    seeds = np.asarray(per_seed, float)
    return Statistic(tuple(range(len(seeds))), value + seeds, value + np.asarray(draws, float))


def power(compute: np.ndarray, a: float = 0.85, b: float = 0.8, c: float = 0.12) -> np.ndarray:
    return a + b * compute**-c


def test_a_power_law_is_found_again() -> None:
    found = law(list(COMPUTE), [statistic(y) for y in power(COMPUTE)])
    assert found.power is not None
    assert (found.power.a.value, found.power.c.value) == pytest.approx((0.85, 0.12), rel=1e-5)
    assert found.power.b == pytest.approx(0.8, rel=1e-3) and found.power.r2 == pytest.approx(1.0)
    assert [found.power(x) for x in COMPUTE] == pytest.approx(list(power(COMPUTE)), abs=1e-9)
    assert (found.points, found.decades, found.monotone) == (5, pytest.approx(4.0), True)


def noisy(seed: int = 0) -> np.ndarray:
    return power(COMPUTE) + 2e-4 * np.random.default_rng(seed).normal(size=len(COMPUTE))


def test_fit_and_interval_of_the_exponent_agree_with_scipy() -> None:
    y, spread = noisy(), 1e-4
    # Seeds that deviate independently from point to point, each point with the same variance.
    deviations = spread * np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0][:5] * np.sqrt(5)
    deviations -= deviations.mean(axis=1, keepdims=True)
    found = law(list(COMPUTE), [statistic(v, d) for v, d in zip(y, deviations, strict=True)])
    scaled = COMPUTE / 1e11
    (a, _, c), _ = curve_fit(power, scaled, y, p0=(0.8, 0.05, 0.1), maxfev=20000, xtol=1e-13, ftol=1e-13)
    assert found.power is not None and found.power.c.low is not None and found.power.c.high is not None
    assert (found.power.a.value, found.power.c.value) == pytest.approx((a, c), rel=1e-4)
    # The delta method by finite differences: refit with one point moved.
    step, gradient = 1e-7, []
    for place in range(5):
        moved = y + step * (np.arange(5) == place)
        (_, _, there), _ = curve_fit(
            power, scaled, moved, p0=(a, 0.05, c), maxfev=20000, xtol=1e-14, ftol=1e-14
        )
        gradient.append((there - c) / step)
    error = np.sqrt(np.var(np.array(gradient) @ deviations, ddof=1) / 6)
    assert found.power.c.high - found.power.c.low == pytest.approx(2 * t.ppf(0.975, 5) * error, rel=0.1)


def test_line_and_interval_of_its_slope() -> None:
    y, deviations = noisy(), 1e-3 * np.random.default_rng(2).normal(size=(5, 4))
    deviations -= deviations.mean(axis=1, keepdims=True)
    found = law(list(COMPUTE), [statistic(v, d) for v, d in zip(y, deviations, strict=True)]).line
    expected = linregress(np.log10(COMPUTE), y)
    assert found is not None and found.slope.low is not None and found.slope.high is not None
    assert (found.slope.value, found.intercept) == pytest.approx((expected.slope, expected.intercept))
    assert found.r2 == pytest.approx(expected.rvalue**2)
    # Every seed has a line of its own; the interval is that of the mean of their slopes.
    slopes = [linregress(np.log10(COMPUTE), y + deviations[:, s]).slope for s in range(4)]
    half = t.ppf(0.975, 3) * np.std(slopes, ddof=1) / 2
    assert (found.slope.low, found.slope.high) == pytest.approx(
        (expected.slope - half, expected.slope + half)
    )


def test_users_are_paired_from_point_to_point() -> None:
    """Draws that lift all points alike leave the slope alone."""
    lifted = [statistic(v, (0.0, 0.0), draws=(-0.1, 0.1)) for v in noisy()]
    found = law(list(COMPUTE), lifted).line
    assert found is not None and found.slope.low == pytest.approx(found.slope.high)


def test_order_of_the_points_does_not_matter() -> None:
    points = [statistic(v) for v in noisy()]
    order = [3, 0, 4, 1, 2]
    one, other = law(list(COMPUTE), points), law([COMPUTE[i] for i in order], [points[i] for i in order])
    assert one == other


@pytest.mark.parametrize(
    ("y", "monotone"),
    [([0.9, 0.88, 0.87, 0.866, 0.865], True), ([0.9, 0.88, 0.881, 0.87, 0.86], False), ([0.9] * 5, False)],
)
def test_monotone_means_that_every_step_helps(y: list[float], monotone: bool) -> None:
    assert law(list(COMPUTE), [statistic(v) for v in y]).monotone is monotone


def test_points_on_a_line_or_bent_the_other_way_have_no_exponent() -> None:
    straight = 0.9 - 0.01 * np.log10(COMPUTE)
    downwards = 0.9 - 0.001 * (np.log10(COMPUTE) - 8) ** 2
    for y in (straight, downwards):
        found = law(list(COMPUTE), [statistic(v) for v in y])
        assert found.power is None and found.line is not None


def test_too_few_points_fit_no_curve() -> None:
    three = law(list(COMPUTE[:3]), [statistic(v) for v in power(COMPUTE[:3])])
    assert three.power is None and three.line is not None
    one = law([1e9], [statistic(0.9)])
    assert (one.power, one.line, one.monotone, one.decades) == (None, None, False, 0.0)


def test_one_law_per_history_and_one_over_compute_for_all() -> None:
    points = [
        Point(size, history, "click", 10, 1e9, statistic(0.9), statistic(0.3))
        for history in (5, 50)
        for size in ("s", "m")
    ]
    assert [(f.history, f.against) for f in fit_laws(points)] == [
        *(("5", "train_flops"), ("5", "params"), ("50", "train_flops"), ("50", "params")),
        ("all", "train_flops"),
    ]
    assert [f.history for f in fit_laws(points[:2])] == ["5", "5"]


def test_quantities_on_an_axis() -> None:
    values = (1.0, 200.0, 5e3, 2e7, 1e9, 5e13, 1e15, 1e18, 2e19)
    assert [quantity(v) for v in values] == ["1", "200", "5k", "20M", "1G", "50T", "1P", "1e18", "2e+19"]


@dataclass(frozen=True)
class Finished:
    """A finished study.

    Attributes:
        folder: holds study.yaml, tables, picture and runs.
        data: folder of the data as it was written.
        printed: what the command wrote to standard output.
    """

    folder: Path
    data: Path
    printed: str

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.folder / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))


def write_study(folder: Path, base: Path, **changes: Any) -> Path:
    """`folder`/study.yaml with two sizes, two histories and two seeds; None takes a key away."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, dim in (("tiny", 4), ("small", 8)):
        options = {
            "dim": dim,
            "layers": 1,
            "mlp": [8],
            "wukong": {"fm_tokens": 2, "linear_tokens": 2, "rank": 2},
        }
        teacher = {"options": options, "optimizer": {"batch_size": 100, "learning_rate": 0.01}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(teacher))
    content: dict[str, Any] = {
        "experiment": str(base / "tiny.yaml"),
        "output": str(folder / "runs"),
        "table": str(folder / "scaling.csv"),
        "data": "tiny",
        "seeds": [0, 1],
        "sizes": {"gem-tiny": "tiny.yaml", "gem-small": "small.yaml"},
        "histories": [2, 6],
    }
    content = {key: value for key, value in (content | changes).items() if value is not None}
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("scaling")
    data = write_days(folder / "data", rows=200)
    # Two workers: in processes of their own, as trainings of real studies are.
    write_experiment(folder / "base", data, folder / "cache", workers=2)
    study = write_study(folder / "study", folder / "base")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["study", "scaling", str(study)]) == 0
    return Finished(folder / "study", data, printed.getvalue())


def test_rows_hold_pooled_scores_and_cost(done: Finished) -> None:
    rows = done.table("scaling")
    assert tuple(rows[0]) == COLUMNS and len(rows) == 2 * 2 * len(TASKS) * 2
    for row in rows:
        run = done.folder / "runs" / f"{row['size']}-{row['history']}"
        (path,) = run.glob(f"predictions/*/{row['seed']}.parquet")
        columns = recompute.read([path], "tune", "pooled")
        label, logit = columns[f"label_{row['task']}"], columns[f"logit_{row['task']}"]
        p = recompute.base_rate(done.data, range(1, 6), "pooled", row["task"])
        ne = log_loss(label, recompute.sigmoid(logit)) / recompute.entropy(p)
        assert (float(row["ne"]), float(row["auc"])) == pytest.approx(
            (ne, roc_auc_score(label, logit)), rel=1e-6
        )
        (report,) = [json.loads(p.read_text()) for p in run.glob(f"checkpoints/*/{row['seed']}/report.json")]
        assert int(row["params"]) == report["dense_parameters"] + report["table_parameters"]
        assert float(row["train_flops"]) == pytest.approx(report["train_flops"], rel=1e-6)
        assert float(row["flops_per_example"]) == pytest.approx(report["flops_per_example"], rel=1e-6)


def test_every_size_reads_every_history(done: Finished) -> None:
    for size, dim in (("gem-tiny", 4), ("gem-small", 8)):
        for history in (2, 6):
            config = yaml.safe_load((done.folder / "runs" / f"{size}-{history}" / "config.yaml").read_text())
            options = config["teacher"]["options"]
            assert (config["teacher"]["name"], options["dim"], options["history_length"]) == (
                *(f"{size}-{history}", dim, history),
            )


def test_laws_are_those_of_the_rows(done: Finished) -> None:
    laws = done.table("scaling_laws")
    assert tuple(laws[0]) == LAW_COLUMNS
    assert {(row["history"], row["against"]) for row in laws} == {
        *(
            ("2", "train_flops"),
            ("6", "train_flops"),
            ("all", "train_flops"),
            ("2", "params"),
            ("6", "params"),
        ),
    }
    for found in laws:
        rows = [
            row
            for row in done.table("scaling")
            if row["task"] == found["task"] and found["history"] in (row["history"], "all")
        ]
        x = np.log10([float(row[found["against"]]) for row in rows])
        expected = linregress(x, [float(row["ne"]) for row in rows])
        assert float(found["slope"]) == pytest.approx(expected.slope, rel=1e-3)
        assert float(found["decades"]) == pytest.approx(x.max() - x.min(), rel=1e-4)
        assert found["seeds"] == "2" and found["data"] == "tiny"


def test_the_picture_shows_every_point_with_its_interval(done: Finished) -> None:
    root = ElementTree.parse(done.folder / "scaling_tiny.svg").getroot()
    assert root.tag == f"{SVG}svg" and root.attrib["width"] == "700"
    marks = root.findall(f".//{SVG}circle[@class='dot']")
    assert len(marks) == 2 * 2 * len(TASKS)
    assert len(root.findall(f".//{SVG}line[@class='whisker']")) == 3 * len(marks)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"2 events", "6 events", "tiny", "small", "FLOPs of one training"} <= set(texts)
    assert all(0 <= float(mark.attrib["cx"]) <= 700 for mark in marks)


def test_a_person_reads_points_laws_and_what_they_say(done: Finished) -> None:
    lines = done.printed.splitlines()
    assert lines[0] == "tiny: tune days, pooled rows, seeds 0, 1"
    said = [line for line in lines if "decades of compute" in line]
    assert len(said) == 3 * len(TASKS) and said[0].startswith("click, 2 events: NE ")
    assert lines[-1] == f"Picture: {done.folder / 'scaling_tiny.svg'}"


def test_what_is_done_is_not_done_again(done: Finished) -> None:
    def stamps() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (done.folder / "runs").rglob("*.parquet")}

    before, table = stamps(), (done.folder / "scaling.csv").read_text()
    assert main(["study", "scaling", str(done.folder / "study.yaml")]) == 0
    assert stamps() == before and (done.folder / "scaling.csv").read_text() == table


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"size": {}}, ["size: got an unknown key; allowed: experiment,"]),
        ({"sizes": {}}, ["sizes: got nothing; allowed: at least one"]),
        (
            {"histories": None, "data": None},
            ["data: got nothing", "histories: got nothing; allowed: at least one"],
        ),
        (
            {"sizes": {"s": "none.yaml"}},
            ["sizes.s: got 'none.yaml', which is not there; allowed: the file of a"],
        ),
        ({"sizes": {"a b": "tiny.yaml"}}, ["got 'a b'; allowed: letters, digits"]),
        ({"histories": [5, 5]}, ["histories[1]: got 5 a second time"]),
        ({"histories": [-1]}, ["histories[0]: got -1; allowed: at least 0"]),
        ({"histories": ["many"]}, ["histories[0]: got 'many'; allowed: a whole number"]),
    ],
)
def test_bad_files_are_refused(
    done: Finished, tmp_path: Path, changes: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read_scaling(write_study(tmp_path, done.folder.parent / "base", **changes))
    problems = [str(problem) for problem in caught.value.problems]
    assert len(problems) == len(messages)
    for problem, message in zip(sorted(problems), sorted(messages), strict=True):
        assert message in problem


def test_a_bad_size_is_refused_by_file_and_line(
    done: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, done.folder.parent / "base")
    (tmp_path / "small.yaml").write_text("options:\n  dime: 8\n")
    assert main(["study", "scaling", str(study)]) == 2
    assert "small.yaml:2: options.dime: got an unknown key" in capsys.readouterr().err
