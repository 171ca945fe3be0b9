"""What only a built model can refuse is told before a study's first training: all of it, each with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.__main__ import main
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

CONDITIONAL = {"teacher.options.conditional": {"ordr": "click"}}
SIZE = EXPERIMENT["teacher"] | {
    "options": EXPERIMENT["teacher"]["options"] | {"conditional": {"ordr": "click"}}
}
REFUSED_TASK = "teacher 'gem': options.conditional: got 'ordr', allowed: the model's tasks: click, order"
COMMON: dict[str, Any] = {"data": "tiny", "seeds": [0]}
STUDIES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "tune": (
        {
            "trials": {
                "teacher": [CONDITIONAL],
                "none": [{}, {}],
                "ah": [{}, {"channels.ah.ah.tap": "penulti"}],
                "shared": [{}, {"channels.shared.sharing.dim": 16}],
            }
        },
        [
            f"study.yaml: trials.teacher[0]: {REFUSED_TASK}",
            "study.yaml: trials.ah[1]: student 'small': channels.ah: ah.tap: got 'penulti', allowed: ",
            "study.yaml: trials.shared[1]: student 'small': channels.shared: sharing.dim: got 16, allowed: 8, ",
        ],
    ),
    "transfer": (
        COMMON
        | {
            "set": {"channels.ah.ah.tap": "penulti", "channels.shared.sharing.dim": 16},
            "slices": {"fresh": {"channels": ["ah", "shared"], "set": {"schedule.lag": 0}}},
        },
        [
            "study.yaml: core: student 'small': channels.ah: ah.tap: got 'penulti', allowed: ",
            "study.yaml: core: student 'small': channels.shared: sharing.dim: got 16, allowed: 8, ",
        ],
    ),
    "ablation": (
        COMMON
        | {
            "variants": {
                "gem": {"trials": [{}, CONDITIONAL]},
                "whole": {"set": {"teacher.options.layers": 0}},
                "given": {"set": {"teacher.options.conditional": {"order": "clik"}}},
            },
        },
        [
            f"study.yaml: variants.gem.trials[1]: {REFUSED_TASK}",
            "study.yaml: variants.given: teacher 'given': options.conditional.order: got 'clik', allowed: ",
        ],
    ),
    "scaling": (
        COMMON | {"sizes": {"s": "size.yaml"}, "histories": [0, 4]},
        ["study.yaml: s-0: teacher 's-0': options.conditional: got 'ordr', allowed: ", "study.yaml: s-4: "],
    ),
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    return write_experiment(
        folder / "base",
        write_days(folder / "data", days=4, rows=150),
        folder / "cache",
        schedule={"tune_days": [4], "test_days": []},
        students=EXPERIMENT["students"][:1],
        channels={"ah": {"ah": {}}, "shared": {"sharing": {"dim": 8}}},
    )


@pytest.mark.parametrize("name", STUDIES)
def test_all_models_of_a_study_are_built_before_the_first_is_trained(
    name: str, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, expected = STUDIES[name]
    files = {"output": str(tmp_path / "runs"), "table": str(tmp_path / "x_tiny.csv")}
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump({"experiment": str(experiment), **files, **content}))
    (tmp_path / "size.yaml").write_text(yaml.safe_dump(SIZE))
    assert main(["study", name, str(study), "--set", "checkpoint.keep=1", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert f"distill: {len(expected)} problems" in said
    for problem in expected:
        assert problem in said
    assert not list(tmp_path.rglob("report.json")) and not (tmp_path / "x_tiny.csv").exists()
