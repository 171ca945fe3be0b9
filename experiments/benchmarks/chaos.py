"""Kills and damages a tiny experiment at random moments, and sees whether it ends as if nothing had happened.

    python -m experiments.benchmarks.chaos              # prints the table; --kills 10 a component by default
    python -m experiments.benchmarks.chaos --save       # and writes experiments/results/chaos.csv

`torchrun` is the whole experiment by two processes (`chaos_together`), the other components are commands of their own.
Every trial begins with the folder as the step before left it, disturbs one command, and repeats it in peace. A row is
`identical` when the repeated command says that all went well, and the files that others read (predictions, parameters,
logs, tables) are, byte for byte, those of a run that nothing disturbed. A fault that is no kill must also be told in
words, without a traceback. `moment` is the share of the undisturbed command's time after which it was killed, under
torchrun of its files; for other faults it says what was damaged. Rows are counted in logs and predictions by their
example ids.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.benchmarks.results import save
from experiments.benchmarks.victims import SOONER, Ended, content, put_back, rows, run

COLUMNS = ("component", "fault", "moment", "identical", "rows_lost", "rows_doubled")

EXPERIMENT: dict[str, Any] = {
    "name": "chaos",
    "data": {
        "source": "simulator",
        "options": {"days": 6, "rows_per_day": 300, "users": 80, "items": 40, "history_events": 3.0},
    },
    "teacher": {
        "options": {"dim": 8, "sequence": {"heads": 1}, "history_length": 4, "mlp": [16], "dropout": 0.1},
        "optimizer": {"batch_size": 40},
        "representation": {"dim": 8, "hidden": [16]},
    },
    "channels": {"ah": {"ah": {}}, "ah_adapter": {"ah": {}, "adapter": {}}},
    "students": [
        {
            "name": "small",
            "verticals": ["feed"],
            "options": {"dim": 4, "mlp": [8]},
            "optimizer": {"batch_size": 20},
        }
    ],
    "schedule": {"tune_days": [4, 5], "test_days": [6]},
    "checkpoint": {"every_minutes": 0, "every_batches": 4},
    "wandb": {"enabled": False},
    "workers": 1,
}

STOPS = 3
"""SIGTERMs of each component, beside `--kills`."""

TRIALS = {
    "teacher": [{"teacher.optimizer.learning_rate": 0.001}],
    "none": [{"students.small.channel_optimizers.none": {"batch_size": 64}}],
    "ah": [{"channels.ah.ah.weight": 2.0}],
}


@dataclass(frozen=True)
class Component:
    """One command of the experiment.

    Attributes:
        name: of the component.
        arguments: of the command.
        folder: where it works.
        before, after: copies of the folder, undisturbed.
        seconds: that the undisturbed command took.
    """

    name: str
    arguments: list[str]
    folder: Path
    before: Path
    after: Path
    seconds: float


@dataclass(frozen=True)
class Row:
    """A trial: see the module's text."""

    component: str
    fault: str
    moment: str
    identical: bool
    rows_lost: int
    rows_doubled: int


class Chaos:
    """Trials of one tiny experiment.

    Args:
        folder: for all that is written.
        changes: of EXPERIMENT, its first level.
    """

    def __init__(self, folder: Path, **changes: Any):
        self.folder, self.log = folder, folder / "printed.txt"
        self.changes = changes

    def components(self, names: tuple[str, ...]) -> dict[str, Component]:
        """Run the experiment once undisturbed, and keep what each of the components began and ended with.

        Args:
            names: of `teacher`, `log`, `students`, `bank` and `study`; a step needs those before it.
        """
        found: dict[str, Component] = {}
        alone, banked = self.experiment("alone", bank=1), self.experiment("banked", bank=16)
        for name, verb, config in (
            ("teacher", "teacher", alone),
            ("log", "log", alone),
            ("students", "student", alone),
        ):
            if name in names:
                found[name] = self._undisturbed(name, [verb, str(config)], self.folder / "alone")
        if "bank" in names:
            for verb in ("teacher", "log"):
                self.in_peace([verb, str(banked)])
            found["bank"] = self._undisturbed("bank", ["student", str(banked)], self.folder / "banked")
        if "study" in names:
            arguments = ["study", "tune", str(self._study())]
            found["study"] = self._undisturbed("study", arguments, self.folder / "study")
        return found

    def warm_up(self) -> None:
        """Do what only the first command does, so that the times of the others are those of their repetitions: the data
        are prepared, the imports done."""
        self.in_peace(["teacher", str(self.experiment("first"))])

    def killed(self, component: Component, share: float, number: int = signal.SIGKILL) -> Row:
        """End a command by a signal, and repeat it.

        Args:
            component: which command.
            share: of its time; less where it is faster this time, and has ended by then.
            number: the signal.
        """
        while True:
            put_back(component.before, component.folder)
            ended = run(component.arguments, self.log, share * component.seconds, number)
            if ended.code:
                break
            share *= SOONER
        told = ended.code == -number or _in_words(ended)
        return self._row(component, signal.Signals(number).name, f"{share:.3f}", told)

    def damaged(
        self,
        component: Component,
        fault: str,
        what: str,
        damage: Callable[[Path], Callable[[], None] | None],
        repair: tuple[str, ...] = (),
        largest_file: int | None = None,
        refused: bool = True,
    ) -> Row:
        """Damage something, run a command, put right what a user has to put right, and repeat the command.

        Args:
            component: which command.
            fault, what: for the table.
            damage: does it to the component's folder; what it returns undoes it.
            repair: a verb to be run before the command is repeated.
            largest_file: as of `run`.
            refused: the command must fail, in words; otherwise it must go well.
        """
        put_back(component.before, component.folder)
        undo = damage(component.folder)
        ended = run(component.arguments, self.log, largest_file=largest_file)
        told = _in_words(ended) if refused else ended.code == 0
        if undo is not None:
            undo()
        if repair:
            self.in_peace([*repair, *component.arguments[-1:]])
        return self._row(component, fault, what, told)

    def _row(self, component: Component, fault: str, moment: str, told: bool) -> Row:
        ended = run(component.arguments, self.log)
        same = content(component.folder) == content(component.after)
        lost, doubled = rows(component.folder, component.after)
        return Row(component.name, fault, moment, told and ended.code == 0 and same, lost, doubled)

    def in_peace(self, arguments: list[str]) -> float:
        """Run a command that must go well; the seconds that it took."""
        ended = run(arguments, self.log)
        if ended.code:
            raise RuntimeError(f"distill {' '.join(arguments)} failed undisturbed:\n{ended.printed}")
        return ended.seconds

    def _undisturbed(self, name: str, arguments: list[str], folder: Path) -> Component:
        before, after = (self.folder / "stages" / name / moment for moment in ("before", "after"))
        folder.mkdir(parents=True, exist_ok=True)
        put_back(folder, before)
        seconds = self.in_peace(arguments)
        put_back(folder, after)
        return Component(name, arguments, folder, before, after, seconds)

    def experiment(self, name: str, **changes: Any) -> Path:
        """Write EXPERIMENT with changes of its first level; it runs in the folder of that name."""
        data = EXPERIMENT["data"] | {"cache": str(self.folder / "data")}
        settings = EXPERIMENT | {"output": str(self.folder / name), "data": data} | self.changes | changes
        return _write(self.folder / f"{name}.yaml", settings)

    def _study(self) -> Path:
        experiment = self.experiment("trials")
        study = {
            "experiment": str(experiment),
            "output": str(self.folder / "study" / "runs"),
            "table": str(self.folder / "study" / "table.csv"),
            "seeds": [0],
            "trials": TRIALS,
        }
        return _write(self.folder / "study.yaml", study)


def kills(chaos: Chaos, components: dict[str, Component], count: int, seed: int = 0) -> Iterator[Row]:
    """SIGKILL at `count` random moments of each component, and SIGTERM at STOPS."""
    random = np.random.default_rng(seed)
    for component in components.values():
        for number in (*[signal.SIGKILL] * count, *[signal.SIGTERM] * STOPS):
            yield chaos.killed(component, float(random.uniform()), number)


def _in_words(ended: Ended) -> bool:
    """It failed, and said so without a traceback."""
    return ended.code in (1, 2) and "Traceback" not in ended.printed and "distill: " in ended.printed


def _write(path: Path, settings: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # What is used twice is written twice: the YAML allows no anchors.
    path.write_text(yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False))
    return path


def main() -> int:
    from experiments.benchmarks.chaos_faults import faults
    from experiments.benchmarks.chaos_together import kills_together

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="SIGKILLs of each component")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--save", action="store_true", help="write experiments/results/chaos.csv")
    options = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder))
        chaos.warm_up()
        components = chaos.components(("teacher", "log", "students", "bank", "study"))
        killed = kills(chaos, components, options.kills, options.seed)
        together = kills_together(chaos, options.kills, options.seed)
        for row in chain(killed, faults(chaos, components), together):
            table.append(row)
            print(*(getattr(row, name) for name in COLUMNS), sep="  ", flush=True)
    if options.save:
        print(save("chaos", COLUMNS, map(vars, table)))
    bad = [row for row in table if not row.identical or row.rows_lost or row.rows_doubled]
    print(f"{len(table) - len(bad)} of {len(table)} identical")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
