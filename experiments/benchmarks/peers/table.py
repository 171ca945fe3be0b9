"""From runs to the table: rates, shares, ratios to ours, and the bars. Free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from statistics import median

OURS = "gem-distill"
OURS_LOOP = "gem-distill without Lightning"
DENSE = "dense network alone"
PLAIN = "plain PyTorch loop"
NOT_PEERS = (OURS, OURS_LOOP, DENSE, PLAIN)

FASTER = 1.5
OF_DENSE = 0.7
AUC_LOSS = 0.002


@dataclass(frozen=True)
class Run:
    """One pass of one library; times are processor time in s."""

    model: str
    library: str
    version: str
    round: int
    learning_rate: float
    examples: int
    seconds: float
    wall_seconds: float
    data_seconds: float
    model_seconds: float
    auc: float | None


@dataclass(frozen=True)
class Line:
    """One library on one model.

    Attributes:
        examples_per_s, data_seconds, model_seconds: medians over rounds; the seconds are of the whole pass.
        auc: the best over learning rates, `learning_rate` its own; None where nothing is predicted.
        ratio_ours: ours over theirs in examples/s, the median of the rounds' own ratios.
        model_ratio_ours: the same with the time for data left out on both sides.
    """

    model: str
    library: str
    version: str
    examples_per_s: float
    data_seconds: float
    model_seconds: float
    auc: float | None
    ratio_ours: float
    model_ratio_ours: float
    learning_rate: float | None


COLUMNS = tuple(field.name for field in fields(Line))


def lines(runs: list[Run]) -> list[Line]:
    """One line for each model and library, in the order of the runs."""
    names = dict.fromkeys((run.model, run.library) for run in runs)
    return [_line(*name, runs) for name in names]


def _line(model: str, library: str, runs: list[Run]) -> Line:
    mine = [run for run in runs if (run.model, run.library) == (model, library)]
    ours = {run.round: run for run in runs if (run.model, run.library) == (model, OURS)}
    # Within a round all libraries met the same state of the machine.
    pairs = [(run, ours[run.round]) for run in mine]
    scored = [(run.auc, run.learning_rate) for run in mine if run.auc is not None]
    auc, rate = max(scored) if scored else (None, None)
    return Line(
        model=model,
        library=library,
        version=mine[0].version,
        examples_per_s=median(run.examples / run.seconds for run in mine),
        data_seconds=median(run.data_seconds for run in mine),
        model_seconds=median(run.model_seconds for run in mine),
        auc=auc,
        ratio_ours=median(run.seconds / our.seconds for run, our in pairs),
        model_ratio_ours=median(run.model_seconds / our.model_seconds for run, our in pairs),
        learning_rate=rate,
    )


def bars(table: list[Line], model: str) -> list[str]:
    """What is asked of the student step, beside what was measured."""
    by_library = {line.library: line for line in table if line.model == model}
    ours, dense = by_library[OURS], by_library.get(DENSE)
    peers = [line for line in by_library.values() if line.library not in NOT_PEERS]
    said = []
    if peers:
        fastest = min(peers, key=lambda line: line.ratio_ours)
        leanest = min(peers, key=lambda line: line.model_ratio_ours)
        best = max(line.auc for line in peers if line.auc is not None)
        assert ours.auc is not None
        said += [
            _bar(fastest.ratio_ours >= FASTER, f"{fastest.ratio_ours:.2f}x {fastest.library}, the fastest"),
            _bar(
                leanest.model_ratio_ours >= FASTER,
                f"{leanest.model_ratio_ours:.2f}x {leanest.library}, the fastest without data",
            ),
            _bar(ours.auc >= best - AUC_LOSS, f"AUC {ours.auc:.4f}, best of the others {best:.4f}"),
        ]
    if dense is not None:
        # `ratio_ours` is ours over theirs, so the share of the dense network's rate itself.
        share = (
            f"{dense.ratio_ours:.0%} of the dense network's rate, {dense.model_ratio_ours:.0%} without data"
        )
        said.append(_bar(dense.ratio_ours >= OF_DENSE, share))
    return [f"{model}: {text}" for text in said]


def _bar(met: bool, text: str) -> str:
    return f"{'met   ' if met else 'missed'} {text}"


def show(table: list[Line]) -> str:
    """The table as text."""
    text = [
        f"{'model':8} {'library':30} {'version':12} {'ex/s':>7} {'data':>6} {'model':>6} "
        f"{'ours/':>6} {'model':>6} {'AUC':>7} {'rate':>6}"
    ]
    for line in table:
        total = line.data_seconds + line.model_seconds
        auc, rate = (
            ("-", "-")
            if line.auc is None or line.learning_rate is None
            else (f"{line.auc:.4f}", f"{line.learning_rate:g}")
        )
        text.append(
            f"{line.model:8} {line.library:30} {line.version:12} {line.examples_per_s:7.0f} "
            f"{line.data_seconds / total:6.1%} {line.model_seconds / total:6.1%} "
            f"{line.ratio_ours:6.2f} {line.model_ratio_ours:6.2f} {auc:>7} {rate:>6}"
        )
    return "\n".join(text)


def rows(table: list[Line]) -> list[dict[str, object]]:
    """The table as it is written: column to value."""
    return [{name: _rounded(value) for name, value in asdict(line).items()} for line in table]


def _rounded(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value
