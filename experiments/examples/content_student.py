"""An architecture of your own that reads content vectors (`fill_content.py` beside this file makes them).

Name it in a student's YAML, relative to that YAML, with the modalities that it is to read:

    architecture: content_student.py:ContentStudent
    content: [text]

Whoever names `content` among the constructor's arguments is given the modalities, and whoever keeps them as an
attribute finds their vectors in the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distill.batch import Batch
from distill.inputs import check_inputs
from distill.protocols import Output
from distill.seeding import seeded
from students.base import Student
from teachers.modality import ModalityTower


class ContentStudent(Student):
    """Embeddings and one token per modality, side by side into one hidden layer.

    Args:
        content: modalities to read.
        hidden: width of the layer.
        common: what every architecture gets, and the options of `Student`: dim, history_length, history_pooling.
    """

    def __init__(self, *, content: tuple[str, ...], hidden: int = 64, **common: Any):
        super().__init__(**common)
        check_inputs(self.schema, self.tasks, self.features, content=content)
        self.content = content
        widths = {name: self.schema.content[name].width for name in content}
        with seeded(self.seed, "student"):
            self.tower = ModalityTower(widths, self.dim)
            self.layer = nn.Linear(self.input_width + len(content) * self.dim, hidden)
            self.add_heads(hidden)

    def forward(self, batch: Batch) -> Output:
        fields = self.fields(batch)  # [B, F, D]
        tokens = self.tower.item_tokens(batch.content)  # [B, n, D]
        x = torch.cat([self.flat_input(fields, batch), tokens.flatten(1)], dim=1)
        return self.output(fields, torch.relu(self.layer(x)))
