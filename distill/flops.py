"""Model FLOPs of one batch, forward and backward, of any architecture: the work that MFU divides by time and peak.

Counted are the matrix products that the model's equations need, 2 FLOPs a multiply-add, on the real lengths of jagged
rows (causal attention: only the scores that are seen). Not counted, as in torch's FlopCounterMode or because MFU asks
for it (PaLM, arXiv 2204.02311, appendix B): sums (weighted ones of events too, `kernels.segments`), norms, activations
and softmax; look-ups of embeddings and their update; whatever a backward pass computes a second time (activation
checkpointing, the scores of flash attention); the losses, but for the layers that only a loss of the model's own asks
for (`Output.own_loss`), and the channels of a student.

The operators of `kernels` bring their formulas with them (`kernels/<operator>/flops.py`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.graph
import torch.utils.checkpoint
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import kernels.jagged_attention.flops
import kernels.jagged_mix.flops
import kernels.norm_ffn.flops
import kernels.wukong_fm.flops  # noqa: F401  they register their formulas
from distill.batch import Batch
from distill.distributed.dense import is_split
from distill.protocols import Architecture
from kernels.embedding import Embedded, EmbeddingTables

Formula = Callable[..., int]
Size = Sequence[int]


@dataclass(frozen=True)
class Flops:
    """Model FLOPs of one batch.

    Attributes:
        forward, backward: of the whole batch.
        examples: examples of the batch.
        events: history events of the batch, all examples together.
    """

    forward: int
    backward: int
    examples: int
    events: int

    @property
    def per_example(self) -> float:
        """Of training on one example: forward and backward."""
        return (self.forward + self.backward) / self.examples

    @property
    def forward_per_example(self) -> float:
        """Of predicting one example."""
        return self.forward / self.examples


def count(model: Architecture, batch: Batch) -> Flops:
    """Count the FLOPs of one training step by doing it once beside the model.

    Parameters, tables, gradients, buffers, optimisers and random generators are afterwards what they were, bit by bit;
    only a model whose parameters are split among processes has no gradients then.

    Args:
        model: any architecture, in training mode or not.
        batch: one that the model reads, at least one example.

    Returns:
        The batch's FLOPs.
    """
    assert not torch.is_inference_mode_enabled(), (
        "no backward pass there, and operators come whole, without a formula"
    )
    step = _Step(model)
    counted = _split if is_split(model) else _apart
    device = batch.example_id.device
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]), _tables_apart(model):
        forward, backward = counted(step, batch)
    events = 0 if batch.history is None else batch.history.item.numel()
    return Flops(forward, backward, len(batch), events)


def _apart(step: _Step, batch: Batch) -> tuple[int, int]:
    """FLOPs forward and backward, on tensors that stand in for the model's."""
    tensors = {name: p.detach().requires_grad_(p.requires_grad) for name, p in step.named_parameters()}
    tensors |= {name: buffer.clone() for name, buffer in step.named_buffers()}
    return functional_call(step, tensors, (batch,))


def _split(step: _Step, batch: Batch) -> tuple[int, int]:
    """The same of a model whose parameters are gathered for a pass, so that nothing can stand in for them."""
    buffers = {name: buffer.clone() for name, buffer in step.named_buffers()}
    found = step(batch)
    for parameter in step.parameters():
        parameter.grad = None
    for name, buffer in step.named_buffers():
        buffer.copy_(buffers[name])
    return found


class _Step(nn.Module):
    """Forward and backward pass as one call, so that both see the tensors that stand in for the model's."""

    def __init__(self, model: Architecture):
        super().__init__()
        self.model = model

    @torch.enable_grad()
    def forward(self, batch: Batch) -> tuple[int, int]:
        formulas = FlopCounterMode(display=False, custom_mapping=_ATTENTION).flop_registry
        with _Counter(formulas) as ahead:
            output = self.model(batch)
        once = {operator: _unless_repeated(formula) for operator, formula in formulas.items()}
        with _Counter(once) as back:
            if output.logits.requires_grad:
                own = 0.0 if output.own_loss is None else output.own_loss.sum()
                (output.logits.square().sum() + own).backward()
        return ahead.total, back.total


class _Counter(TorchDispatchMode):
    """Adds up the formulas of the operators that are called inside.

    The formulas are those of torch's FlopCounterMode, which itself also keeps the counts of every module, and takes
    several times as long.
    """

    def __init__(self, formulas: Mapping[Any, Formula]):
        super().__init__()
        self.formulas, self.total = formulas, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = self.formulas.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


@contextmanager
def _tables_apart(model: nn.Module) -> Iterator[None]:
    """Inside, what the tables look up is cut off from them: their backward pass would update them."""
    tables = [module for module in model.modules() if isinstance(module, EmbeddingTables)]
    hooks = [module.register_forward_hook(_cut_off) for module in tables]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _cut_off(module: nn.Module, inputs: Any, embedded: Embedded) -> Embedded:
    events = None if embedded.events is None else embedded.events.detach().requires_grad_()
    return Embedded(embedded.features.detach().requires_grad_(), events)


def _unless_repeated(formula: Formula) -> Formula:
    """The formula, and 0 inside a checkpoint's second forward pass."""

    def counted(*args: Any, **kwargs: Any) -> int:
        return 0 if _is_repeated() else formula(*args, **kwargs)

    # torch's word for a formula that gets the operator's own arguments.
    counted._get_raw = True  # type: ignore[attr-defined]
    return counted


def _is_repeated() -> bool:
    """Of a backward pass and a checkpoint, whichever was called last is at work."""
    for frame, _ in traceback.walk_stack(None):
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            return True
        if frame.f_code.co_filename == torch.autograd.graph.__file__:
            return False
    return False


def _attention(
    query: Size,
    key: Size,
    value: Size,
    dropout: float = 0.0,
    causal: bool = False,
    **others: Any,
) -> int:
    """torch's attention on the CPU, for which FlopCounterMode has no formula: two products a score.

    Args:
        query, key, value: shapes [B, H, L, E].
        causal: query i sees the keys up to i.
    """
    queries, keys = query[-2], key[-2]
    seen = sum(min(place + 1, keys) for place in range(queries)) if causal else queries * keys
    return 2 * query[0] * query[1] * (query[-1] + value[-1]) * seen


def _attention_backward(
    gradient: Size,
    query: Size,
    key: Size,
    value: Size,
    out: Size,
    lse: Size,
    dropout: float,
    causal: bool,
    **others: Any,
) -> int:
    return 2 * _attention(query, key, value, dropout, causal)


_ATTENTION: dict[Any, Formula] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
