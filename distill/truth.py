"""True probabilities of simulated examples, for `oracle_ne` only.

They know latents that no model sees and are never an input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.errors import DataError

_PREFIX = "p_"


@dataclass(frozen=True)
class Truth:
    """True probabilities of examples.

    Attributes:
        example_id: int64 [N], ascending, unique.
        probability: task -> float64 [N].
    """

    example_id: NDArray[np.int64]
    probability: Mapping[str, NDArray[np.float64]]

    def of(self, task: str, example_id: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities [M] of a task for examples [M]; DataError naming how many the truth lacks."""
        if task not in self.probability:
            raise DataError(f"truth: got no task '{task}', allowed: {', '.join(self.probability)}")
        place = np.minimum(np.searchsorted(self.example_id, example_id), len(self.example_id) - 1)
        missing = example_id[self.example_id[place] != example_id]
        if len(missing):
            raise DataError(
                f"truth: {len(missing)} of {len(example_id)} examples are missing, "
                f"the first {missing[:5].tolist()}. Are the predictions of this data set and these days?"
            )
        return self.probability[task][place]


def read_truth(data: str | Path, days: Iterable[int]) -> Truth:
    """Read `truth/day=NNNN.parquet` of a prepared data set.

    Args:
        data: folder of the data set.
        days: day numbers, for instance the tune days.

    Raises:
        DataError: a day without a truth file, no days, an example that stands twice.
    """
    paths = [Path(data) / "truth" / f"day={day:04d}.parquet" for day in days]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise DataError(
            f"truth: no file {missing or 'asked for'}. Only the simulator writes the truth of its days"
        )
    table = pa.concat_tables([pq.read_table(path) for path in paths])
    example_id = table["example_id"].to_numpy()
    order = np.argsort(example_id)
    example_id = example_id[order]
    if (example_id[1:] == example_id[:-1]).any():
        raise DataError(f"truth: an example_id stands twice in {', '.join(str(path) for path in paths)}")
    tasks = [name.removeprefix(_PREFIX) for name in table.column_names if name.startswith(_PREFIX)]
    return Truth(example_id, {task: table[_PREFIX + task].to_numpy().astype(float)[order] for task in tasks})
