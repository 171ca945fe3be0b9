"""The two protocols of transfer: Architecture (batch to logits and named taps) and Channel (what a student learns by).

Shape letters: B examples, K tasks of the schema, k tasks of the architecture (k <= K).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from distill.batch import Batch
from distill.schema import FeatureSchema
from kernels.embedding import EmbeddingTables


@dataclass(frozen=True)
class Output:
    """What an architecture says about a batch.

    Attributes:
        logits: float32 [B, k], in the order of the architecture's tasks.
        taps: named intermediate tensors [B, width]; always holds `penultimate`, the input of the serving head.
    """

    logits: Tensor
    taps: dict[str, Tensor]


class Architecture(nn.Module, ABC):
    """A ranking model: teacher or student.

    A subclass sets the attributes in its constructor and writes `forward`. Nothing else is needed to train it with
    any channel, to log it as a teacher, or to score it.

    Attributes:
        schema: the data set's schema.
        tasks: names of the tasks it predicts, a subset of the schema's.
        task_index: their positions among the schema's tasks.
        features: sparse features it reads, in order.
        dense_features: dense features it reads, in order.
        history_length: events of the user's past it asks for; 0 for none.
        content: modalities whose content vectors it reads, of the examples' items and of the history's.
        tap_widths: width of every tap that `forward` returns.
        tables: the embedding tables (kernels.embedding), with their fused optimiser.
    """

    schema: FeatureSchema
    tasks: tuple[str, ...]
    features: tuple[str, ...]
    dense_features: tuple[str, ...] = ()
    history_length: int = 0
    content: tuple[str, ...] = ()
    tap_widths: dict[str, int]
    tables: EmbeddingTables

    @property
    def task_index(self) -> list[int]:
        return [self.schema.task_names.index(task) for task in self.tasks]

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Logits and taps of a batch."""

    @abstractmethod
    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        """Start the serving biases at the data's rate (PROTOCOL, "Choosing and testing").

        Args:
            rates: task to float64 [number of domains], the rate of each domain on the first day trained on; NaN
                where the domain has no label yet.
        """


class Channel(nn.Module, ABC):
    """One way of carrying knowledge from teacher to student, as a loss.

    Attributes:
        touches_serving_head: True when its loss sends a gradient into the serving head (`single` does). A channel
            that declares False sends it exactly zero; a test holds every channel to it.
        needs_teacher: True when the batch must carry the teacher's signal.
        own_optimizer: True when `step` updates all of the channel's parameters; the model's optimiser and its
            clipping then leave them alone.
    """

    touches_serving_head: bool = False
    needs_teacher: bool = True
    own_optimizer: bool = False

    def attach(self, student: Architecture) -> None:
        """Build what only training needs, such as auxiliary heads, once the student's taps are known."""

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        """Start the channel's own biases at the data's rate, after `attach`.

        Args:
            rates: as in `Architecture.set_base_rates`.
        """

    @abstractmethod
    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss to add to the labels' loss.

        Args:
            output: the student's output on the batch.
            batch: with `teacher` when `needs_teacher`.
            student: the student itself.

        Returns:
            A scalar, and scalars to log by name (detached).
        """

    def step(self, output: Output, batch: Batch) -> None:
        """Update the channel's own parameters by the channel's own optimiser, before the student's loss."""
