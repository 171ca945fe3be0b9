"""What is the same for every library: fields, rows, sizes, learning rates. Needs numpy only.

It runs under each library's own interpreter, and so imports nothing else of the project.

Shape letters: R rows, L longest history.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

MODELS = ("deepfm", "dcn_v2", "din")
ITEM = "video_id"
HISTORY = "history"
FIELDS = (
    "user_id",
    ITEM,
    "author_id",
    "music_id",
    "video_type",
    "upload_type",
    "duration",
    "age",
    "tab",
    "hour",
    "user_active_degree",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    "onehot_feat1",
    "onehot_feat3",
    "onehot_feat7",
    "onehot_feat8",
)
TASK = "click"
TRAIN_DAYS = tuple(range(1, 10))
EVALUATION_DAYS = (10, 11)

BATCH = 512
DIM = 16
MLP = (256, 128)
# Two full cross layers beside the MLP: the one form of DCN-v2 that all of them have.
CROSS_LAYERS = 2
# Hidden layer of DIN's attention, PReLU, weights not normalised.
ATTENTION = (32,)
HISTORY_LENGTH = 50
# Each library trains once with each; its AUC is the best of them. Ours has a second rate, that of the tables'
# AdaGrad, which follows the first.
LEARNING_RATES = (1e-3, 3e-3, 1e-2)
TABLE_RATE_FACTOR = 20


@dataclass(frozen=True)
class Description:
    """What the exported rows are.

    Attributes:
        prepared: folder of the prepared data set that they come from.
        fingerprint: of that data set.
        sizes: ids of each field lie in [0, size); 0 is never used by a row, it stands for padding.
        train_days, evaluation_days: days of the two sets.
    """

    prepared: str
    fingerprint: str
    sizes: dict[str, int]
    train_days: list[int]
    evaluation_days: list[int]

    def save(self, folder: Path) -> None:
        (folder / "description.json").write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Description:
        return cls(**json.loads((folder / "description.json").read_text()))


@dataclass(frozen=True)
class Rows:
    """Rows in the order of time.

    Attributes:
        fields: name to int64 [R], ids from 1.
        history: int64 [R, L], the user's last items strictly before the row, oldest first, then 0; in the
            item's ids.
        history_length: int64 [R], how many there are.
        click: float32 [R], 0 or 1.
    """

    fields: dict[str, np.ndarray]
    history: np.ndarray
    history_length: np.ndarray
    click: np.ndarray

    def __len__(self) -> int:
        return len(self.click)

    def head(self, rows: int) -> Rows:
        """The first rows."""
        fields = {name: ids[:rows] for name, ids in self.fields.items()}
        return Rows(fields, self.history[:rows], self.history_length[:rows], self.click[:rows])

    def save(self, path: Path) -> None:
        columns: dict[str, Any] = {
            HISTORY: self.history,
            "history_length": self.history_length,
            "click": self.click,
        }
        np.savez(path, **(columns | self.fields))

    @classmethod
    def load(cls, path: Path) -> Rows:
        with np.load(path) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
        history, length, click = (columns.pop(name) for name in (HISTORY, "history_length", "click"))
        return cls(columns, history, length, click)
