"""The multi-task distillation loss: fast path against `reference.py`, and `reference.py` against numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from kernels.multitask_distillation import cpu, multitask_distillation, op
from kernels.multitask_distillation.op import fused
from kernels.multitask_distillation.reference import multitask_distillation as reference
from tests.kernels.multitask_distillation_cases import (
    TERMS,
    assert_as_exact,
    draw,
    loop,
    poisoned_memory,
    run,
)

# ([N,] B, k): ones, off the powers of two, more numbers and models than a piece has, empty batches.
SHAPES = [(1, 1), (37, 3), (0, 2), (3, 9, 2), (7, 3, 2), (2, 0, 3)]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """One model's loss goes through the operator too, and the cases here are cut into several pieces."""
    monkeypatch.setattr(op, "_is_plain", lambda logits: False)
    monkeypatch.setattr(cpu, "PIECE", 16)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def test_reference_by_hand() -> None:
    # Logits log 3 and 0: probabilities 3/4 and 1/2. Cross-entropy -log(3/4) and -log(1/2), of which the mean.
    z, known = column(math.log(3), 0.0), torch.tensor([[True], [True]])
    labels = reference(z, column(1.0, 0.0), known)
    assert labels.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-12)
    # The teacher knows the second row alone; 1.5 times its 1/2 is 3/4: -(3/4 log 1/2 + 1/4 log 1/2), times 2.
    teacher: dict[str, Any] = {
        "teacher_logits": column(9.0, 0.0),
        "teacher_mask": torch.tensor([[False], [True]]),
        "label_weight": 0,
    }
    soft = reference(z, **teacher, soft_weight=2.0, label_scaling=1.5)
    assert soft.item() == pytest.approx(2 * math.log(2), rel=1e-12)
    # An adapter 2 z + log 3 says 3/4 of it: -(1/2 log 3/4 + 1/2 log 1/4).
    adapter: dict[str, Any] = {
        "adapter_scale": torch.tensor([2.0]),
        "adapter_shift": torch.tensor([3.0]).double().log(),
    }
    adapted = reference(z, **teacher, **adapter, soft_weight=1.0)
    assert adapted.item() == pytest.approx(-0.5 * (math.log(3 / 4) + math.log(1 / 4)), rel=1e-12)
    # (0 - 2)^2 of the row that it knows, times the task's weight 5 and the term's 0.5.
    teacher["teacher_logits"] = column(9.0, 2.0)
    squared = reference(z, **teacher, logit_weight=0.5, task_weights=torch.tensor([5.0]).double())
    assert squared.item() == pytest.approx(10.0, rel=1e-12)
    # A mean over three rows, in float64 to its last digits.
    third = reference(column(0.0, 0.0, 0.0), column(1.0, 0.0, 0.0), torch.ones(3, 1, dtype=torch.bool))
    assert third.item() == pytest.approx(math.log(2), rel=1e-15)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_equals_reference_and_a_bank_equals_a_loop(
    fast: None, shape: tuple[int, ...], adapter: bool, terms: str
) -> None:
    inputs = draw(shape, adapter)
    got = run(multitask_distillation, inputs, **TERMS[terms])
    expected = run(loop if len(shape) == 3 else reference, inputs, **TERMS[terms])
    for name, theirs in expected.items():
        torch.testing.assert_close(got[name], theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("shape", [(257, 3), (5, 33, 2)], ids=str)
def test_float32_errs_at_most_thrice_as_much_as_the_reference(
    fast: None, shape: tuple[int, ...], terms: str
) -> None:
    inputs = draw(shape, True, torch.float32)
    assert_as_exact(run(multitask_distillation, inputs, **TERMS[terms]), inputs, 1e-6, **TERMS[terms])


@pytest.mark.parametrize("size", [20.0, 90.0, 1e4])
def test_logits_of_any_size_are_exact(fast: None, size: float) -> None:
    inputs = draw((37, 2), True, torch.float32)
    inputs["logits"] *= size
    found = run(multitask_distillation, inputs, **TERMS["all"])
    assert all(x.isfinite().all() for x in found.values())
    assert_as_exact(found, inputs, 1e-6 * size**2, **TERMS["all"])


def test_one_model_on_a_cpu_is_plain_pytorch_bit_for_bit() -> None:
    inputs = draw((37, 2), True, torch.float32)
    got, expected = (run(f, inputs, **TERMS["all"]) for f in (multitask_distillation, reference))
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("terms", TERMS)
def test_gradcheck(fast: None, terms: str) -> None:
    inputs = draw((3, 4, 2), True)
    learnt = [inputs.pop(name).requires_grad_() for name in ("logits", "adapter_scale", "adapter_shift")]

    def loss(z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return multitask_distillation(z, adapter_scale=scale, adapter_shift=shift, **inputs, **TERMS[terms])

    assert torch.autograd.gradcheck(loss, learnt)


def test_an_adapter_that_models_share_gets_the_sum_of_their_gradients(fast: None) -> None:
    inputs = draw((3, 9, 2), True)
    inputs |= {name: inputs[name][0] for name in ("adapter_scale", "adapter_shift")}
    got, expected = (run(f, inputs, **TERMS["all"]) for f in (multitask_distillation, loop))
    for name, theirs in expected.items():
        torch.testing.assert_close(got[name], theirs, rtol=1e-12, atol=1e-12)


def test_no_gradient_where_the_model_says_what_the_teacher_says(fast: None) -> None:
    inputs = draw((9, 3))
    inputs["teacher_logits"] = inputs["logits"]
    for terms in ({"soft_weight": 1.0}, {"logit_weight": 1.0}):
        found = run(multitask_distillation, inputs, label_weight=0.0, **terms)
        assert found["logits"].abs().max() < 1e-15


def test_a_task_without_a_row_adds_exactly_nothing(fast: None) -> None:
    inputs = draw((9, 2))
    inputs["label_mask"][:, 1] = inputs["teacher_mask"][:, 1] = False
    found = run(multitask_distillation, inputs, **TERMS["all"])
    alone = {name: x[..., :1] for name, x in inputs.items()}
    assert not found["logits"][:, 1].any()
    torch.testing.assert_close(found["loss"], reference(**alone, **TERMS["all"]), rtol=1e-12, atol=0)


def test_a_nan_in_one_model_leaves_the_others_bit_identical(fast: None) -> None:
    inputs = draw((7, 3, 2), True, torch.float32)
    clean = run(multitask_distillation, inputs, **TERMS["all"])
    inputs["logits"][2, 1, 0] = torch.nan
    found = run(multitask_distillation, inputs, **TERMS["all"])
    others = [0, 1, 3, 4, 5, 6]
    assert all(torch.equal(found[name][others], clean[name][others]) for name in clean)
    assert found["loss"][2].isnan() and found["logits"][2, 1, 0].isnan()


def test_repeats_are_bitwise_equal(fast: None) -> None:
    inputs = draw((3, 129, 3), True, torch.float32)
    first, again = (run(multitask_distillation, inputs, **TERMS["all"]) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_inputs_that_are_views_are_read_rightly(fast: None) -> None:
    inputs = draw((3, 9, 2), True)
    views = {name: x.mT.contiguous().mT if x.dim() > 1 else x for name, x in inputs.items()}
    got, expected = (run(multitask_distillation, x, **TERMS["all"]) for x in (views, inputs))
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_nothing_of_the_logits_size_is_saved_but_the_logits(fast: None) -> None:
    inputs, saved = draw((16, 9, 2)), []
    z = inputs.pop("logits").requires_grad_()

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        multitask_distillation(z, **inputs, **TERMS["all"])
    assert [x.data_ptr() for x in saved if x.numel() >= z.numel()] == [z.data_ptr()]


@pytest.mark.parametrize("own", ["logits", "labels", "all"])
def test_mapped_over_models_it_is_each_models(fast: None, own: str) -> None:
    """The operator's rule for torch.func.vmap, whichever arguments are a model's own."""
    z, many = draw((4, 9, 2))["logits"], draw((9, 2))
    many["logits"] = z[0]
    names = [own] if own != "all" else ["logits", "labels", "teacher_logits"]
    stacks = {name: z.roll(1, 0) if name != "logits" else z for name in names}
    got = torch.func.vmap(lambda own: multitask_distillation(**(many | own), **TERMS["all"]))(stacks)
    each = [
        reference(**(many | {name: x[n] for name, x in stacks.items()}), **TERMS["all"]) for n in range(4)
    ]
    torch.testing.assert_close(got, torch.stack(each), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("own", ["labels", "teacher_logits"])
def test_a_signal_of_each_models_own_under_a_mask_that_they_share(fast: None, own: str) -> None:
    def each(**arguments: Any) -> Tensor:
        pairs = zip(arguments["logits"], arguments[own], strict=True)
        return torch.stack([reference(**(arguments | {"logits": z, own: signal})) for z, signal in pairs])

    inputs = draw((4, 9, 2))
    inputs[own] = inputs["logits"].roll(1, 0)
    got, expected = (run(function, inputs, **TERMS["all"]) for function in (multitask_distillation, each))
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-12, atol=1e-12)


def test_a_gradient_passes_through_a_map_over_models(fast: None) -> None:
    inputs = draw((4, 9, 2), True)
    shared = {
        name: x for name, x in inputs.items() if name not in ("logits", "adapter_scale", "adapter_shift")
    }

    def mapped(**arguments: Any) -> Tensor:
        own = [arguments[name] for name in ("logits", "adapter_scale", "adapter_shift")]
        return torch.func.vmap(
            lambda z, a, b: multitask_distillation(
                z, adapter_scale=a, adapter_shift=b, **shared, **TERMS["all"]
            )
        )(*own)

    got, expected = run(mapped, inputs), run(loop, inputs, **TERMS["all"])
    for name, theirs in expected.items():
        torch.testing.assert_close(got[name], theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(9, 2), (3, 9, 2)], ids=str)
def test_narrow_logits_are_added_up_in_float32(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = draw(shape, dtype=torch.float32)
    narrow = inputs | {"logits": inputs["logits"].to(dtype)}
    wide = inputs | {"logits": narrow["logits"].float()}
    got = run(multitask_distillation, narrow, **TERMS["all"])
    with torch.autocast("cpu", torch.bfloat16):
        autocast = run(multitask_distillation, narrow, **TERMS["all"])
    expected = run(multitask_distillation, wide, **TERMS["all"])
    assert torch.equal(got["loss"], expected["loss"]) and torch.equal(autocast["loss"], expected["loss"])
    assert got["logits"].dtype == dtype and torch.equal(got["logits"], expected["logits"].to(dtype))


@pytest.mark.parametrize(("rows", "adapter"), [(0, True), (3, True), (3, False)])
def test_opcheck(rows: int, adapter: bool) -> None:
    inputs = draw((2, rows, 3), adapter)
    learnt = [
        inputs[name].requires_grad_() if adapter else None for name in ("adapter_scale", "adapter_shift")
    ]
    signals = [x.unsqueeze(0) for x in (inputs["labels"], inputs["teacher_logits"])]
    weights = [inputs[name].double().unsqueeze(0) for name in ("label_mask", "teacher_mask")]
    arguments = (inputs["logits"].requires_grad_(), signals[0], weights[0], signals[1], weights[1], *learnt)
    torch.library.opcheck(fused, (*arguments, 0.5, 0.3, 1.5))


def test_it_stays_whole_inside_a_compiled_function() -> None:
    inputs = draw((3, 6, 2))
    compiled = torch.compile(
        lambda x: multitask_distillation(**x, **TERMS["all"]) * 2, fullgraph=True, backend="eager"
    )
    torch.testing.assert_close(compiled(inputs), 2 * multitask_distillation(**inputs, **TERMS["all"]))


def test_a_loss_counts_no_flops(fast: None) -> None:
    """FLOPs are those of matrix products (distill/flops.py); this has none, so that it needs no formula."""
    with FlopCounterMode(display=False) as counter:
        run(multitask_distillation, draw((5, 3), True), **TERMS["all"])
    assert counter.get_total_flops() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_weight": -1.0}, "label_weight: got -1.0, allowed: a finite number, 0 or more"),
        ({"soft_weight": float("nan")}, "soft_weight: got nan"),
        ({"label_scaling": float("inf")}, "label_scaling: got inf"),
        ({"label_weight": 0.0, "soft_weight": 0.0}, "got 0 for all, allowed: one of them above 0"),
        ({"logits": torch.zeros(4)}, r"logits: got shape \(4,\), allowed: \[B, k\] or \[N, B, k\]"),
        ({"logits": torch.zeros(4, 0)}, "k at least 1"),
        ({"logits": torch.zeros(4, 2, dtype=torch.int64)}, "logits: got torch.int64, allowed on 'cpu'"),
        ({"logits": torch.zeros(4, 2, device="meta")}, "logits: got device 'meta', allowed: cpu, cuda"),
        ({"labels": None}, r"labels: got None, allowed: \(4, 2\), because a term that needs it has a weight"),
        ({"label_mask": None}, "label_mask: got None"),
        ({"labels": torch.zeros(4, 1)}, r"labels: got shape \(4, 1\) on 'cpu', allowed: \(4, 2\)"),
        ({"labels": torch.zeros(4, 2, device="meta")}, r"labels: got shape \(4, 2\) on 'meta'"),
        ({"label_mask": torch.ones(4, 2)}, "label_mask: got torch.float32, allowed: torch.bool"),
        ({"teacher_logits": None}, "teacher_logits: got None"),
        ({"teacher_mask": torch.ones(3, 2, dtype=torch.bool)}, r"teacher_mask: got shape \(3, 2\)"),
        ({"task_weights": torch.ones(3)}, r"task_weights: got shape \(3,\) on 'cpu', allowed: \(2,\)"),
        (
            {"adapter_scale": torch.ones(2)},
            "adapter_scale, adapter_shift: got one of them, allowed: both or none",
        ),
        (
            {"adapter_scale": torch.ones(3), "adapter_shift": torch.ones(2)},
            r"adapter_scale: got shape \(3,\) on 'cpu', allowed: \(2,\)",
        ),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "logits": torch.zeros(4, 2),
        "labels": torch.zeros(4, 2),
        "label_mask": torch.ones(4, 2, dtype=torch.bool),
        "teacher_logits": torch.zeros(4, 2),
        "teacher_mask": torch.ones(4, 2, dtype=torch.bool),
        "soft_weight": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        multitask_distillation(**(good | changes))


def test_a_term_without_weight_needs_no_arguments() -> None:
    inputs = draw((5, 2))
    of_labels = {name: inputs[name] for name in ("logits", "labels", "label_mask")}
    assert multitask_distillation(**of_labels) == multitask_distillation(
        **{name: x for name, x in inputs.items() if name != "task_weights"}
    )


def test_a_gpu_takes_narrow_logits_and_no_double_ones() -> None:
    with FakeTensorMode():
        inputs: dict[str, Any] = {
            name: torch.empty_like(x, device="cuda") for name, x in draw((5, 2), True, torch.float32).items()
        }
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            out = multitask_distillation(**(inputs | {"logits": inputs["logits"].to(dtype)}), **TERMS["all"])
            assert out.dtype == torch.float32 and out.device.type == "cuda" and out.shape == ()
        with pytest.raises(
            ValueError, match="logits: got torch.float64, allowed on 'cuda': float32, float16, bfloat16"
        ):
            multitask_distillation(**(inputs | {"logits": inputs["logits"].double()}))
