"""An architecture of your own: one file anywhere, no edit inside the project.

Name it in a student's YAML, relative to that YAML, with its options:

    architecture: my_student.py:MyStudent
    options: {hidden: 64}

`Student` brings tables, serving heads and base rates; every channel works on the taps that `output` returns.
An architecture that wants none of this derives from distill.protocols.Architecture instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distill.batch import Batch
from distill.protocols import Output
from distill.seeding import seeded
from students.base import Student


class MyStudent(Student):
    """A gate that lets some inputs through, and one hidden layer.

    Args:
        hidden: width of the layer.
        common: what every architecture gets (schema, tasks, features, ...), and the options of `Student`:
            dim, history_length, history_pooling.
    """

    def __init__(self, *, hidden: int = 64, **common: Any):
        super().__init__(**common)
        with seeded(self.seed, "student"):
            self.gate = nn.Linear(self.input_width, self.input_width)
            self.layer = nn.Linear(self.input_width, hidden)
            self.add_heads(hidden)

    def forward(self, batch: Batch) -> Output:
        fields = self.fields(batch)  # [B, F, D]
        x = self.flat_input(fields, batch)  # [B, F * D + number of dense features]
        x = x * self.gate(x).sigmoid()
        return self.output(fields, torch.relu(self.layer(x)))
