"""The efficiency study: forms that compute the same, factors by hand, the real command on a tiny teacher."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from distill.errors import ConfigErrors
from distill.flops import count
from experiments.__main__ import main
from experiments.studies import green
from experiments.studies.efficiency import start
from experiments.studies.efficiency.balance import deal
from experiments.studies.efficiency.file import Efficiency, ladder, read_efficiency
from experiments.studies.efficiency.launch import _wait_for
from experiments.studies.efficiency.operators import Padded
from experiments.studies.efficiency.run import COLUMNS, Climbed, factor_of, steps_of
from experiments.studies.efficiency.show import verdicts
from experiments.studies.efficiency.start import Start
from experiments.studies.efficiency.work import (
    BASELINE,
    Processes,
    Request,
    Result,
    Trainee,
    Workshop,
    refuse_disagreement,
)
from kernels.embedding import dense_parameters
from tests.experiments.tiny_experiment import write_days, write_experiment

SEQUENCE = [
    "teacher.options.sequence={layers: 1, heads: 2}",
    "teacher.options.summaries={seeds: 1, recent: 2}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.yaml and its data."""
    folder = tmp_path_factory.mktemp("efficiency")
    write_experiment(folder / "base", write_days(folder / "data", rows=200), folder / "cache")
    return folder


def request(folder: Path, *arguments: str, **changes: Any) -> Request:
    experiment = str(folder / "base" / "tiny.yaml")
    base = Request(experiment, [*SEQUENCE, *arguments], 3, 20, 2, 2, 1, False, "cpu", "")
    return replace(base, **changes)


@pytest.fixture(scope="module")
def workshop(folder: Path) -> Workshop:
    return Workshop(request(folder), 0)


@pytest.fixture(scope="module")
def trainees(workshop: Workshop) -> list[Trainee]:
    return [workshop.trainee(rung) for rung in ladder(compile=False, processes=1)]


def test_every_rung_changes_one_thing() -> None:
    rungs = ladder(compile=True, processes=2)
    names = ["padded", "jagged", "kernels", "balanced", "precision", "compile", "processes"]
    assert [rung.name for rung in rungs] == names
    for below, rung in zip(rungs, rungs[1:], strict=False):
        changed = [key for key, value in asdict(rung).items() if value != asdict(below)[key]]
        assert len(changed) == 2 and "name" in changed
    assert [rung.name for rung in ladder(compile=False, processes=1)] == names[:-2]


def test_forms_compute_the_same(trainees: list[Trainee]) -> None:
    padded, jagged, kernels = trainees[:3]
    assert padded.batches[0].history is not None and kernels.batches[0].history is not None
    assert len(padded.batches[0].history.item) > len(kernels.batches[0].history.item)
    assert 0 in kernels.batches[0].history.offsets.diff()  # an example without a history is among them
    expected = kernels.taps()
    assert {"logits", "user", "interaction_1"} <= set(expected)
    for trainee in (padded, jagged):
        torch.testing.assert_close(trainee.taps(), expected, rtol=1e-4, atol=1e-5)


def test_forms_learn_the_same(workshop: Workshop) -> None:
    """A step of each leaves the same dense parameters and the same rows in the tables."""
    after = []
    for rung in ladder(compile=False, processes=1)[:3]:
        trainee = workshop.trainee(rung)
        for module in trainee.module.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        # Adam's first step is the gradient's sign: look at gradients instead.
        trainee.optimizer = torch.optim.SGD(dense_parameters(trainee.module.model), lr=0.1)
        trainee.step(0)
        after.append(trainee.module.model.state_dict())
    for other in after[:2]:
        torch.testing.assert_close(other, after[2], rtol=1e-4, atol=1e-5)


def test_a_form_that_padding_is_not_made_for_is_refused(folder: Path) -> None:
    work = Workshop(request(folder, "teacher.options.pyramid={keep: [3], modules: 1}"), 0)
    made = [work.trainee(rung) for rung in ladder(compile=False, processes=1)[:3]]
    with pytest.raises((ArithmeticError, AssertionError, RuntimeError)):
        refuse_disagreement(made)


def test_flops_are_of_real_lengths_whatever_the_rung(workshop: Workshop, trainees: list[Trainee]) -> None:
    padded, _, kernels = trainees[:3]
    flops = [count(kernels.module.model, batch) for batch in kernels.batches]
    assert padded.flops == kernels.flops == sum(of.forward + of.backward for of in flops)


def test_padding_is_at_the_end(trainees: list[Trainee]) -> None:
    batch = trainees[2].batches[0]
    assert batch.history is not None
    padded = Padded.of(batch)
    assert padded.batch.history is not None
    items = padded.batch.history.item.view(len(batch), padded.longest)
    for row, (begin, end) in enumerate(
        zip(batch.history.offsets[:-1].tolist(), batch.history.offsets[1:].tolist(), strict=True)
    ):
        assert torch.equal(items[row, : end - begin], batch.history.item[begin:end])
        assert not items[row, end - begin :].any()


def test_hands_get_as_many_rows_and_about_as_many_events() -> None:
    hands = deal(np.array([9, 1, 8, 2, 7, 3]), 2)
    # By falling length 9 8 7 3 2 1, to and fro: the first hand gets 9, 3, 2, the second 8, 7, 1.
    assert [hand.tolist() for hand in hands] == [[0, 3, 5], [1, 2, 4]]


def test_balanced_batches_hold_the_same_examples(workshop: Workshop, trainees: list[Trainee]) -> None:
    plain, balanced = trainees[2].batches, trainees[3].batches
    ids = [sorted(torch.cat([batch.example_id for batch in of]).tolist()) for of in (plain, balanced)]
    assert ids[0] == ids[1]
    assert [len(batch) for batch in balanced] == [20, 20]
    assert plain[0].example_id.tolist() != balanced[0].example_id.tolist()


def test_too_few_batches_in_a_day(folder: Path) -> None:
    with pytest.raises(
        ValueError, match="batches: got 10 for 1 processes, allowed: less than the 10 batches of day 3"
    ):
        Workshop(request(folder, batches=10), 0)


def test_gradients_are_averaged_over_processes(folder: Path, tmp_path: Path) -> None:
    asked = request(folder, processes=2, meeting=str(tmp_path / "meeting"))
    parameters = [
        [torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(3))] for _ in range(2)
    ]

    def work(number: int) -> float:
        processes = Processes(asked, number)
        for parameter in parameters[number]:
            parameter.grad = torch.full_like(parameter, 1.0 + 2 * number)
        processes.average(parameters[number])
        processes.meet()
        return processes.total(number + 1.0)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(2))) == [3.0, 3.0]
    assert all(
        torch.equal(p.grad, torch.full_like(p, 2.0)) for of in parameters for p in of if p.grad is not None
    )


def test_a_process_that_fails_ends_the_others() -> None:
    def run(code: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)

    began = time.monotonic()
    with pytest.raises(RuntimeError, match="the measurement failed: no such thing"):
        _wait_for([run("import time; time.sleep(60)"), run("raise SystemExit('no such thing')")])
    assert time.monotonic() - began < 30


def test_factors_are_geometric_means_with_an_interval_over_rounds() -> None:
    found = factor_of([2.0, 8.0], [1.0, 1.0])
    # Logarithms log 2 and log 8: mean log 4, standard error log 2; t with one degree of freedom is 12.706.
    assert found.value == pytest.approx(4.0)
    assert math.log(found.high / 4) == pytest.approx(12.7062 * math.log(2), rel=1e-4)
    assert found.low == pytest.approx(16 / found.high)


def result(**changes: Any) -> Result:
    speeds = {
        "padded": 1.0,
        "jagged": 4.0,
        "kernels": 8.0,
        "balanced": 8.0,
        "precision": 8.0,
        "processes": 12.0,
    }
    return Result({name: [speed] * 2 for name, speed in speeds.items()} | changes, 100.0, 5.0, 0.5)


def test_the_product_is_devices_times_mfu() -> None:
    study = Efficiency(compile=False)
    steps = steps_of(study, result())
    assert [None if step.factor is None else step.factor.value for step in steps] == pytest.approx(
        [None, 4, 2, 1, 1, 1.5]
    )
    last = steps[-1]
    assert last.product is not None and last.product.value == pytest.approx(12.0)
    assert (last.devices, last.mfu, steps[0].mfu) == (2, pytest.approx(0.06), pytest.approx(0.01))
    (line,) = verdicts(Climbed(study, "cpu", steps, result(), {}, []))
    assert line == (
        "effective FLOP/s: 12.00 [12.00, 12.00] times those of padded, eager training = 2 x as many devices x 6.00 x "
        "the MFU (published: 16 x 1.43 = 23)"
    )


@pytest.mark.parametrize(("baseline", "word"), [(5.5, "met"), (5.6, "MISSED")])
def test_on_a_gpu_mfu_is_compared_with_compiled_padding(baseline: float, word: str) -> None:
    study, found = Efficiency(compile=False), result(**{BASELINE.name: [baseline] * 2})
    _, line = verdicts(Climbed(study, "cuda", steps_of(study, found), found, {}, []))
    assert line.split()[0] == word


def test_a_start_is_timed_from_its_launch(folder: Path, tmp_path: Path) -> None:
    asked, answer = tmp_path / "request.json", tmp_path / "result.json"
    asked.write_text(json.dumps(asdict(request(folder))))
    assert start.main([str(asked), str(answer), repr(time.time() - 5)]) == 0
    found = Start(**json.loads(answer.read_text()))
    assert found.imports_s >= 5 and min(found.build_s, found.first_steps_s, found.steady_s) > 0
    assert found.start_s == found.imports_s + found.build_s + found.first_steps_s


def write_study(folder: Path, base: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "experiment": str(base / "base" / "tiny.yaml"),
        "output": str(folder / "runs"),
        "table": str(folder / "efficiency.csv"),
        "data": "tiny",
        "set": {"teacher.options.sequence": {"layers": 1, "heads": 2}},
        "day": 3,
        "batch_size": 20,
        "batches": 2,
        "rounds": 2,
        "starts": 0,
        "processes": 2,
        "compile": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def done(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[dict[str, str]], str]]:
    """The rows of the table and what the real command printed, with two real processes."""
    here, printed = tmp_path_factory.mktemp("study"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(green, "tests_pass", lambda: True)
        assert main(["study", "efficiency", str(write_study(here, folder))]) == 0
    (table,) = here.glob("efficiency_*.csv")
    with table.open() as file:
        yield list(csv.DictReader(file)), printed.getvalue()


def test_the_table_holds_the_ladder(done: tuple[list[dict[str, str]], str]) -> None:
    rows, _ = done
    assert tuple(rows[0]) == COLUMNS
    assert [row["rung"] for row in rows] == [
        "padded",
        "jagged",
        "kernels",
        "balanced",
        "precision",
        "processes",
    ]
    assert all(float(row["flops_per_s"]) > 0 for row in rows)
    factors = math.prod(float(row["factor"]) for row in rows[1:])
    assert factors == pytest.approx(float(rows[-1]["product"]), rel=1e-4)
    assert (rows[-1]["devices"], rows[0]["factor"]) == ("2", "")


def test_a_person_reads_ladder_and_split(done: tuple[list[dict[str, str]], str]) -> None:
    lines = done[1].splitlines()
    assert lines[0].startswith("tiny: batches of 20, ") and "2 rounds" in lines[0]
    assert any(line.startswith("effective FLOP/s: ") and "= 2 x as many devices x" in line for line in lines)


def test_nothing_is_measured_while_tests_fail(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(green, "tests_pass", lambda: False)
    assert main(["study", "efficiency", str(write_study(tmp_path, folder))]) == 1
    said = capsys.readouterr()
    assert "nothing is measured" in said.err and said.out == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 1}, "rounds: got 1; allowed: at least 2"),
        ({"processes": 0}, "processes: got 0; allowed: at least 1"),
        ({"seeds": [0, 1]}, "seeds: got [0, 1]; allowed: one seed"),
        ({"round": 2}, "round: got an unknown key; allowed: experiment,"),
    ],
)
def test_bad_files_are_refused(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read_efficiency(write_study(tmp_path, folder, **changes))
    (problem,) = [str(problem) for problem in caught.value.problems]
    assert message in problem
