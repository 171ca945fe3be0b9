"""The one Lightning module: trains any Architecture with any list of built Channels, teacher or student."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.stateful import Stateful

from distill.batch import Batch
from distill.compute import forward_of
from distill.config import ComputeConfig, OptimizerConfig
from distill.distributed.dense import keep_state_whole, whole
from distill.distributed.share import Share, mean_of_all, processes, share_of_labels
from distill.errors import NonFiniteError, UserError
from distill.flops import count
from distill.lean import with_signature
from distill.losses import label_loss, sampled_logits
from distill.protocols import Architecture, Channel, Output
from kernels.embedding import dense_parameters


class Recorder(Protocol):
    """Where predictions go."""

    def add(self, batch: Batch, output: Output) -> None:
        """Take what the model says of one batch."""


class DistillModule(L.LightningModule):
    """Labels' loss plus the channels' losses; predictions handed to a recorder.

    The tables update themselves in the backward pass (fused AdaGrad), so everything that must stop a step stops it
    before backward (the loss) or in the hook on the embeddings' gradient.

    Args:
        model: teacher or student.
        channels: by name; attached to the model already.
        optimizer: training settings of the dense parameters.
        recorder: receives the model's outputs in validation.
        compute: precision and compilation; float32 and none unless given.
    """

    def __init__(
        self,
        model: Architecture,
        channels: Mapping[str, Channel],
        optimizer: OptimizerConfig,
        recorder: Recorder,
        compute: ComputeConfig | None = None,
    ):
        super().__init__()
        self.model = model
        self.compute = compute or ComputeConfig()
        self.forward_pass = forward_of(model, self.compute)
        self.channels = nn.ModuleDict(channels)
        self.settings = optimizer
        self.recorder = recorder
        self.task_index = model.task_index
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self.summed: Counter[str] = Counter()
        self.steps = 0
        self.examples = 0
        self._at: tuple[Batch, int] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the hook it is in some fifty times a step; `nn.Module` would ask each time whether that
        # is a parameter or a module.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @with_signature
    def training_step(self, batch: Batch, index: int) -> Tensor:
        self._at = batch, index
        counted = share_of_labels(batch.label_mask[:, self.task_index])
        output = self.forward_pass(batch)
        share = counted()
        loss = self._label_loss(output, batch, share) if batch.own else output.logits.new_zeros(())
        for name, channel in self.channels.items():
            assert isinstance(channel, Channel)
            if not batch.own and not channel.other_surfaces:
                continue
            if batch.own or channel.other_labels:
                channel.step(output, batch)
            extra, logs = channel.loss(output, batch, self.model)
            loss = loss + extra
            for key, value in logs.items():
                self._count(f"{name}/{key}", value)
        if self.channels:
            self._refuse_non_finite(loss)
        self.steps += 1
        self.examples += share.examples
        return loss

    def _label_loss(self, output: Output, batch: Batch, share: Share) -> Tensor:
        labels, mask = (of[:, self.task_index] for of in (batch.labels, batch.label_mask))
        loss = label_loss(sampled_logits(output.logits, self.model), labels, mask, share.task_weights)
        self._refuse_non_finite(loss)  # before a channel takes a step of its own
        self._count("loss_labels", loss)
        if output.own_loss is None:
            return loss
        # Its mean over processes is the mean over the examples of the whole batch.
        own = output.own_loss.sum() * processes() / share.examples
        self._refuse_non_finite(own)
        self._count("loss_own", own)
        return loss + own

    def on_fit_start(self) -> None:
        """Refuse what fused tables, which step in every backward pass, would not see.

        Raises:
            UserError: Lightning is to clip gradients, or to add up those of several batches.
        """
        trainer = self.trainer
        if trainer.accumulate_grad_batches != 1:
            raise UserError(
                f"accumulate_grad_batches: got {trainer.accumulate_grad_batches}, allowed: 1, because tables step in "
                "every backward pass. Raise optimizer.batch_size instead"
            )
        if trainer.gradient_clip_val:
            raise UserError(
                f"gradient_clip_val: got {trainer.gradient_clip_val}, allowed: none, because tables have stepped "
                "before anything is clipped. Set optimizer.clip_norm, which clips the dense parameters alone"
            )

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        try:
            loss.backward(*args, **kwargs)
        except FloatingPointError as error:
            raise NonFiniteError(f"{error} {self._place()}; nothing was updated. {_ADVICE}") from error

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self.settings.clip_norm:
            return
        # Each part by itself: a channel's own gradient must not shrink the student's.
        for part in self._optimized():
            norm = whole(torch.nn.utils.clip_grad_norm_(part, self.settings.clip_norm))
            if not torch.isfinite(norm):
                raise NonFiniteError(
                    f"norm of the dense gradient is {norm.item()} {self._place()}. {_ADVICE}"
                )

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        self.recorder.add(batch, self.forward_pass(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        parameters = [parameter for part in self._optimized() for parameter in part]
        settings = self.settings
        kind = torch.optim.AdamW if settings.weight_decay else torch.optim.Adam
        optimizer = kind(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        keep_state_whole(optimizer)
        return optimizer

    def _optimized(self) -> list[Iterable[nn.Parameter]]:
        """Parameters of the model, and of each channel those that no optimiser of its own trains."""
        parts: list[Iterable[nn.Parameter]] = [dense_parameters(self.model)]
        for channel in self.channels.values():
            assert isinstance(channel, Channel)
            parts.append(channel.dense_parameters())
        return parts

    def take_means(self) -> dict[str, float]:
        """Means of what was logged since the last call, over the steps that logged it and over processes."""
        means = mean_of_all(self.means())
        self.sums.clear()
        self.summed.clear()
        return means

    def means(self) -> dict[str, float]:
        """Means of what was logged since `take_means`, over the steps that logged it."""
        return {name: (total / self.summed[name]).item() for name, total in self.sums.items()}

    def count_flops(self, batch: Batch) -> list[float]:
        """Model FLOPs of training on one example (distill.flops), mean of a batch: one number a model."""
        return [count(self.model, batch).per_example]

    def flops_per_example(self, flops: Sequence[float]) -> float:
        """Mean over the examples of all models since the last `take_means`.

        Args:
            flops: what `count_flops` gave.
        """
        (of_model,) = flops
        return of_model

    def trained(self) -> dict[str, nn.Module]:
        """What training changes, but for channels and optimisers: by name, modules with a `state_dict` of all of it."""
        return {"model": self.model}

    def recorded(self) -> dict[str, Any]:
        """What the recorder holds, for a training that is to go on in another process."""
        assert isinstance(self.recorder, Stateful), _NO_STATE
        return self.recorder.state_dict()

    def resume_recording(self, recorded: Mapping[str, Any]) -> None:
        """Go on from what `recorded` gave."""
        assert isinstance(self.recorder, Stateful), _NO_STATE
        self.recorder.load_state_dict(dict(recorded))

    def counted(self) -> dict[str, Any]:
        """What `training_step` counts, for a training that is to go on in another process."""
        return {
            "steps": self.steps,
            "examples": self.examples,
            "sums": {name: total.clone() for name, total in self.sums.items()},
            "summed": dict(self.summed),
        }

    def resume_counting(self, counted: Mapping[str, Any]) -> None:
        """Go on from what `counted` gave."""
        self.steps, self.examples = counted["steps"], counted["examples"]
        self.sums.clear()
        self.sums.update(counted["sums"])
        self.summed = Counter(counted["summed"])

    def _count(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums[name] + value.detach()
        self.summed[name] += 1

    def _refuse_non_finite(self, loss: Tensor) -> None:
        if not math.isfinite(loss.item()):  # a tenth of the time of `torch.isfinite`
            raise NonFiniteError(f"loss is {loss.item()} {self._place()}; nothing was updated. {_ADVICE}")

    def _place(self) -> str:
        assert self._at is not None
        batch, index = self._at
        return f"on day {batch.day}, batch {index} (examples {batch.example_id[0].item()} and following)"


_NO_STATE = "a training with checkpoints needs a recorder that has a state"
_ADVICE = "Lower the learning rates or look at the batch's dense features."
