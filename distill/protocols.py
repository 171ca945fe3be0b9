"""The two protocols of transfer: Architecture (batch to logits and named taps) and Channel (what a student learns by).

Shape letters: B examples, K tasks of the schema, k tasks of the architecture (k <= K), D embedding dim, n fields that a
channel gives, N students of a bank.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from distill.batch import Batch
from distill.past import PastRequest
from distill.schema import FeatureSchema
from kernels.embedding import EmbeddingTables, dense_parameters

Need = Literal["logits", "representation", "served_representation", "others", "snapshot"]
"""What a channel may need: the teacher's logits of the examples trained on, in `batch.teacher`; its representations of
them as well; these also of the examples predicted, which means running the teacher when serving; the logits of the
experiment's other teachers, in `batch.others`; the teacher's snapshots, in `begin_day`."""


class Stackable(nn.Module):
    """A module that one student calls, or N students of a bank at once (`students.bank`).

    For the N its own parameters are stacked, [N, ...], and its linear layers too, and it is handed [N, rows, W] where
    one student hands it [rows, W]; the batch is the same for all. Buffers are, too: a module whose buffers come to
    differ from student to student is no such module.
    """


@dataclass(frozen=True)
class Output:
    """What an architecture says about a batch.

    Attributes:
        logits: float32 [B, k], in the order of the architecture's tasks, as they are served.
        taps: named intermediate tensors [B, width]; always holds `penultimate`, the input of the serving head.
        own_loss: float32 [B], what the model adds to the loss of each example's labels; None for nothing. Only in
            training.
    """

    logits: Tensor
    taps: dict[str, Tensor]
    own_loss: Tensor | None = None


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
        history_length: events of the user's past it asks for, for itself or for channels; 0 for none.
        content: modalities whose content vectors it reads, of the examples' items and of the history's.
        tap_widths: width of every tap that `forward` returns.
        tables: the embedding tables (kernels.embedding), with their fused optimiser.
        dim: D, width of its fields; only where channels may give it fields.
        negative_sampling: share of the rows not known to be positive that it trains on (`distill.sampling`); set by
            whoever builds it, before channels are attached. Its logits are of all rows whatever the share: no
            architecture need read it, only the losses do.
        inputs: by channel, modules that make fields of what the teacher left behind: (batch, the embedding [B, D] of
            the example's item) to [B, n, D]. They are part of what is served. Only where channels may give fields.
        event_inputs: the same of channels that read the user's history: they are also called with the embeddings [T, D]
            of the history's items, and their fields stand after those of `inputs`.
    """

    schema: FeatureSchema
    tasks: tuple[str, ...]
    features: tuple[str, ...]
    dense_features: tuple[str, ...] = ()
    history_length: int = 0
    content: tuple[str, ...] = ()
    tap_widths: dict[str, int]
    tables: EmbeddingTables
    dim: int
    negative_sampling: float = 1.0
    inputs: nn.ModuleDict
    event_inputs: nn.ModuleDict

    @property
    def task_index(self) -> list[int]:
        return [self.schema.task_names.index(task) for task in self.tasks]

    @property
    def logit_shift(self) -> float:
        """log r of `negative_sampling`: a logit served less the same logit on the rows trained on."""
        return math.log(self.negative_sampling)

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
    """One way of carrying knowledge from teacher to student: a loss, further inputs, or both.

    A channel that gives the student fields names them in `fields` from the start, so that the student is built with
    room for them, and puts the module that makes them into `student.inputs` (one that reads the user's history, into
    `student.event_inputs`) under its own name in `attach`; the module is the student's from then on, trained and saved
    with it.

    Attributes:
        touches_serving_head: True when its loss sends a gradient into the serving head (`single` does). A channel
            that declares False sends it exactly zero; a test holds every channel to it.
        needs: what else training must hand over; see `Need`.
        fields: names of the fields [B, D] that it gives the student.
        past: what of the teacher's earlier representations the batch must carry, trained on or predicted.
        shares_batches: True where several processes may train it, each on its share of a batch, to the same end
            (`distill.distributed`).
        history_length: last events of the user's own history that its fields are made of. The batch carries more where
            the student or another channel asks for more.
        other_surfaces: share of the rows of other surfaces that its loss is also asked for, in batches of their own
            (`Batch.own` False, `distill.other_surfaces`).
        other_labels: True where those batches must carry labels, and its `step` is called with them too: of what learns
            a target, or of a control, for the student itself is not to learn from them.
        reads_batch: names of its modules that read the batch alone, rows [B, any width], and nothing of the student.
        in_banks: True where several students may learn by it at once (`students.bank`): its loss adds up rows of the
            last two dimensions and is linear in the setting `weight`, its layers have stacked forms, the modules that
            make its fields are `Stackable`, and what it learns by itself is in `reads_batch`. Whatever `begin_day`
            changes of the student is no parameter and none of the student's own rows.
    """

    touches_serving_head: bool = False
    needs: frozenset[Need] = frozenset({"logits"})
    fields: tuple[str, ...] = ()
    past: PastRequest | None = None
    shares_batches: bool = False
    history_length: int = 0
    reads_batch: tuple[str, ...] = ()
    other_surfaces: float = 0.0
    other_labels: bool = False
    in_banks: bool = False

    def attach(self, student: Architecture) -> None:
        """Build what only training needs, such as auxiliary heads, once the student's taps are known."""

    def dense_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that the model's optimiser trains and clips: all, less those that `step` updates."""
        return dense_parameters(self)

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        """Start the channel's own biases at the data's rate, after `attach`.

        Args:
            rates: as in `Architecture.set_base_rates`.
        """

    def check_teacher(self, teacher: Architecture, name: str) -> None:
        """Called after `attach` and before the teacher is trained, of channels whose `needs` has `snapshot`: a channel
        that reads the teacher's inside looks whether it is there.

        Args:
            teacher: as it is built.
            name: of the teacher, for messages.

        Raises:
            UserError: the channel cannot learn from it.
        """

    def begin_day(self, day: int, snapshot: Path | None) -> None:
        """Called before a day is predicted or trained on, in the order of the days, at least once each.

        Args:
            day: the day.
            snapshot: the teacher's parameters that the schedule allows on that day (`distill.checkpoint`), when
                `needs` has `snapshot`; None on a day older than the first one.
        """

    def training_state(self) -> dict[str, Any]:
        """What the channel goes on from in another process, beside its parameters and buffers: its own optimiser, what
        it counts or remembers. Tensors, texts and numbers, in mappings, lists and tuples.
        """
        return {}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `training_state` gave; parameters and buffers are in place already.

        Args:
            state: of a channel with the same settings, attached to a student with the same settings.
        """

    @abstractmethod
    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss to add to the labels' loss.

        Args:
            output: the student's output on the batch.
            batch: with what the channel needs.
            student: the student itself.

        Returns:
            A scalar, and scalars to log by name (detached).
        """

    def own_loss(self, batch: Batch) -> Tensor | None:
        """Of a channel whose modules in `reads_batch` learn by an Adam of their own: what `step` takes its step on.

        Returns:
            A scalar; None where there is nothing to learn from.
        """
        return None

    def step(self, output: Output, batch: Batch) -> None:
        """Update the channel's own parameters by the channel's own optimiser, before the student's loss."""
