"""FLOPs of a batch: formulas of the operators, real lengths, nothing counted twice, and the model left as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from distill import structured
from distill.batch import Batch
from distill.flops import Flops, count
from distill.protocols import Architecture, Output
from experiments.benchmarks.synthetic import ITEM, make_batch, make_schema
from kernels.embedding import EmbeddingTables
from kernels.jagged_attention import jagged_attention
from kernels.jagged_mix import jagged_mix
from kernels.jagged_mix.reference import jagged_mix as plain_mix
from kernels.wukong_fm import wukong_fm
from kernels.wukong_fm.reference import wukong_fm as plain_fm
from teachers.config import GEMConfig
from teachers.gem import build as build_gem
from tests.students.models import make_student

SCHEMA = make_schema([7, 5, 3], dense=2, tasks=("click", "conversion"))
LENGTHS = [2, 0, 1, 4, 3]
WIDTH, HEADS = 8, 2


def both(function: Callable[..., Any], *inputs: Any) -> tuple[int, int]:
    """What torch's FlopCounter says of the forward and of the backward pass to all float inputs."""
    floats = [x for x in inputs if isinstance(x, Tensor) and x.is_floating_point()]
    for x in floats:
        x.requires_grad_()
    with FlopCounterMode(display=False) as forward:
        outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
    loss = torch.stack([output.square().sum() for output in outputs if output is not None]).sum()
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(loss, floats)
    return forward.get_total_flops(), backward.get_total_flops()


def offsets_of(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def one_query_after_the_other(lengths: Sequence[int], causal: bool, window: int) -> Callable[..., Tensor]:
    """Attention in which every query is multiplied with the keys that it sees, and no others."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = []
        for start, length in zip(offsets_of(lengths).tolist(), lengths, strict=False):
            for place in range(length):
                first = max(0, place - window + 1) if window else 0
                last = place + 1 if causal else min(length, place + window) if window else length
                keys = slice(start + first, start + last)
                query = q[start + place].unsqueeze(1)
                scores = torch.bmm(query, k[keys].permute(1, 2, 0))
                rows.append(torch.bmm(scores.softmax(-1), v[keys].transpose(0, 1)))
        return torch.cat(rows)

    return attend


@pytest.mark.parametrize("lengths", [[3, 3], [5, 0, 1, 2], [1]], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 1, 2, 9])
def test_attention_counts_the_scores_that_are_needed(lengths: list[int], causal: bool, window: int) -> None:
    offsets = offsets_of(lengths)
    q, k, v = torch.randn(3, sum(lengths), HEADS, 4)
    plain = both(one_query_after_the_other(lengths, causal, window), q, k, v)
    ours = both(
        lambda q, k, v: jagged_attention(q, k, v, offsets, offsets, causal=causal, window=window), q, k, v
    )
    assert ours == plain and plain[1] == 2 * plain[0] > 0


def test_cross_attention_and_seeds_count_queries_times_keys() -> None:
    k, v = torch.randn(2, 5, HEADS, 4)
    queries, keys = offsets_of([2, 1, 0]), offsets_of([3, 0, 2])
    crossed = both(lambda q, k, v: jagged_attention(q, k, v, queries, keys), torch.randn(3, HEADS, 4), k, v)
    seeded = both(lambda q, k, v: jagged_attention(q, k, v, None, keys), torch.randn(2, HEADS, 4), k, v)
    products = 2 * 2 * 4 * HEADS  # multiply and add, q . k and p v, of 4 numbers in every head
    assert crossed == (products * 6, 2 * products * 6)
    assert seeded == (products * 10, 2 * products * 10)


def test_attention_over_nothing_is_free() -> None:
    nothing = torch.zeros(0, HEADS, 4)
    offsets = offsets_of([0, 0])
    assert both(lambda q, k, v: jagged_attention(q, k, v, offsets, offsets), nothing, nothing, nothing) == (
        0,
        0,
    )


@pytest.mark.parametrize("own", [False, True], ids=["one Y", "own Y"])
@pytest.mark.parametrize("linear", [False, True])
def test_wukong_counts_as_its_plain_products(own: bool, linear: bool) -> None:
    x, y = torch.randn(3, 6, 4), torch.randn(3, 6, 2) if own else torch.randn(6, 2)
    inputs = [x, y, torch.randn(5, 6)] if linear else [x, y]

    def plain(x: Tensor, y: Tensor, w: Tensor | None = None) -> list[Tensor | None]:
        if not own:
            return list(plain_fm(x, y, w))
        products = torch.bmm(x, torch.bmm(x.transpose(1, 2), y))
        return [products, None if w is None else torch.einsum("ln,bnd->bld", w, x)]

    assert both(wukong_fm, *inputs) == both(plain, *inputs)


def test_mixing_counts_as_its_plain_products() -> None:
    inputs = torch.randn(5, 3), torch.randn(3, 3, 4), offsets_of([2, 0, 3])
    assert both(jagged_mix, *inputs) == both(plain_mix, *inputs) == (2 * 5 * 3 * 4, 4 * 5 * 3 * 4)


class Attentive(Architecture):
    """Self-attention over the history, its mean beside the features, one hidden layer; dense or jagged.

    Args:
        run: how the layer is run, such as a checkpoint.
        torchs: by torch's own attention, on rows of equal length.
        causal: attention.
    """

    features = tuple(SCHEMA.sparse)
    schema, tasks = SCHEMA, SCHEMA.task_names
    tap_widths = {"penultimate": 6}
    history_length = 4

    def __init__(self, run: Callable[..., Tensor] | None = None, torchs: bool = False, causal: bool = False):
        super().__init__()
        self.run, self.torchs, self.causal = run or (lambda layer, *inputs: layer(*inputs)), torchs, causal
        sizes = {name: SCHEMA.sparse[name].size for name in self.features}
        self.tables = EmbeddingTables(sizes, dim=WIDTH, seed=0, learning_rate=0.1, history_feature=ITEM)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.hidden, self.dropout = nn.Linear(4 * WIDTH, 6), nn.Dropout(0.5)
        self.head = nn.Linear(6, len(self.tasks))

    def forward(self, batch: Batch) -> Output:
        assert batch.history is not None
        embedded = self.tables(batch.sparse, batch.history.item)
        attended = self.run(self._attend, embedded.events, batch.history.offsets)
        means = torch.segment_reduce(attended, "mean", offsets=batch.history.offsets, axis=0, initial=0)
        hidden = self.hidden(torch.cat([embedded.features.flatten(1), means], dim=1)).tanh()
        return Output(self.head(self.dropout(hidden)), {"penultimate": hidden})

    def _attend(self, events: Tensor, offsets: Tensor) -> Tensor:
        q, k, v = self.qkv(events).view(-1, 3, HEADS, WIDTH // HEADS).unbind(1)
        if self.torchs:
            rows = len(offsets) - 1
            q, k, v = (x.unflatten(0, (rows, -1)).transpose(1, 2) for x in (q, k, v))
            attended = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            return self.out(attended.transpose(1, 2).flatten(0, 1).flatten(1))
        return self.out(jagged_attention(q, k, v, offsets, offsets, causal=self.causal).flatten(1))

    def dense(self, features: Tensor, events: Tensor) -> Tensor:
        """The logits once more, of features [B, F, d] and events [B, L, d], in plain products."""
        rows, length, _ = events.shape
        q, k, v = self.qkv(events).view(rows, length, 3, HEADS, -1).unbind(2)
        weights = torch.einsum("bihe,bjhe->bhij", q, k).softmax(-1)
        attended = self.out(torch.einsum("bhij,bjhe->bihe", weights, v).flatten(2))
        inputs = torch.cat([features.flatten(1), attended.mean(1)], dim=1)
        return self.head(self.hidden(inputs).tanh())

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        raise AssertionError("not trained here")


def make_gem(**options: Any) -> Architecture:
    sizes = {"fm_tokens": 3, "linear_tokens": 2, "rank": 2}
    small: dict[str, Any] = {
        "dim": 8,
        "history_length": 4,
        "layers": 2,
        "wukong": sizes,
        "mlp": [6, 5],
        "dropout": 0.1,
    }
    small["summaries"] = {"interests": 1}
    return build_gem(
        structured.build(GEMConfig, small | options),
        schema=SCHEMA,
        tasks=SCHEMA.task_names,
        features=tuple(SCHEMA.sparse),
        dense_features=SCHEMA.dense,
        seed=0,
        table_learning_rate=0.1,
    )


MODELS: dict[str, Callable[[], Architecture]] = {
    "attentive": Attentive,
    "gem": make_gem,
    "gem with outcomes": lambda: make_gem(outcomes={"weight": 0.1}),
    "din": lambda: make_student("din", SCHEMA, activation="dice", attention=[4]),
    "dcn_v2": lambda: make_student("dcn_v2", SCHEMA, history_length=3, history_pooling="mean"),
}


def test_rows_of_equal_length_count_as_the_dense_restatement() -> None:
    model, rows, length = Attentive(), 3, 4
    batch = make_batch(SCHEMA, [length] * rows, seed=1)
    features, events = torch.randn(rows, 3, WIDTH), torch.randn(rows, length, WIDTH)
    with FlopCounterMode(display=False) as forward:
        logits = model.dense(features.requires_grad_(), events.requires_grad_())
    with FlopCounterMode(display=False) as backward:
        logits.square().sum().backward()
    expected = Flops(forward.get_total_flops(), backward.get_total_flops(), rows, rows * length)
    assert count(model, batch) == expected
    assert count(Attentive(torchs=True), batch) == expected


def test_torchs_causal_attention_counts_as_ours() -> None:
    batch = make_batch(SCHEMA, [4, 4], seed=1)
    causal = count(Attentive(causal=True), batch)
    assert count(Attentive(torchs=True, causal=True), batch) == causal
    assert causal.forward < count(Attentive(), batch).forward


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_counts_as_its_rows_one_by_one(name: str) -> None:
    model = MODELS[name]()
    rows = [count(model, make_batch(SCHEMA, [length], seed=length)) for length in LENGTHS]
    together = count(model, make_batch(SCHEMA, LENGTHS, seed=9))
    assert together == Flops(
        sum(row.forward for row in rows), sum(row.backward for row in rows), len(LENGTHS), sum(LENGTHS)
    )


def test_layers_of_the_models_own_loss_are_counted() -> None:
    model, batch = make_gem(outcomes={"weight": 0.1, "hidden": 5}), make_batch(SCHEMA, [3, 1], seed=1)
    training, serving = count(model.train(), batch), count(model.eval(), batch)
    tasks, surfaces = len(SCHEMA.tasks), len(SCHEMA.domains)
    # An event's state through V, the hidden layer, the match of each task, the heads.
    of_event = 8 * 8 + (3 * 8 + surfaces) * 5 + 8 * tasks + (5 + tasks) * tasks
    assert training.forward - serving.forward == 2 * 4 * of_event
    # The match is a product with a constant, which gets no gradient.
    assert training.backward - serving.backward == 2 * 2 * 4 * of_event - 2 * 4 * 8 * tasks


def test_flops_by_hand_without_look_ups() -> None:
    model = make_student("dlrm", SCHEMA, dim=4, bottom=[], mlp=[6, 5])
    flops = count(model, make_batch(SCHEMA, [0, 0], seed=1))
    fields = 4  # three features, the dense ones as a fourth
    pairs = fields * (fields - 1) // 2
    weights = [2 * 4, (4 + pairs) * 6, 6 * 5, 5 * 2]
    products = [*weights, fields * fields * 4]
    assert flops.forward == 2 * 2 * sum(products)
    # A gradient of each factor; the dense features, which nobody trains, get none, and the two factors of the pairs,
    # which are one tensor, get theirs in one product.
    assert flops.backward == 2 * flops.forward - 2 * 2 * (weights[0] + products[-1])
    assert flops.per_example == (flops.forward + flops.backward) / 2
    assert flops.forward_per_example == flops.forward / 2


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_computes_again_is_not_counted(reentrant: bool) -> None:
    batch = make_batch(SCHEMA, LENGTHS, seed=1)

    def again(layer: Callable[..., Tensor], *inputs: Tensor) -> Any:
        return checkpoint(layer, *inputs, use_reentrant=reentrant)

    model = Attentive(again)
    assert count(model, batch) == count(Attentive(), batch)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_parameters_need_no_gradient() -> None:
    model, batch = Attentive(), make_batch(SCHEMA, LENGTHS, seed=1)
    trained = count(model, batch)
    model.head.requires_grad_(False)
    assert count(model, batch).backward == trained.backward - 2 * len(batch) * model.head.weight.numel()
    assert not model.head.weight.requires_grad


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_counting_leaves_everything_as_it_was(name: str, training: bool) -> None:
    model, batch = MODELS[name]().train(training), make_batch(SCHEMA, LENGTHS, seed=1)
    model(batch).logits.sum().backward()  # gradients and moments that are not zero
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    gradients = {key: (p.grad, p.grad.clone()) for key, p in model.named_parameters() if p.grad is not None}
    generator = torch.get_rng_state()
    flops = count(model, batch)
    assert flops.forward > 0 and flops.backward > flops.forward
    assert torch.equal(torch.get_rng_state(), generator) and model.training == training
    assert [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])] == []
    for key, parameter in model.named_parameters():
        assert parameter.grad is (gradients[key][0] if key in gradients else None)
        assert key not in gradients or torch.equal(*gradients[key])


def learnt(counted: bool) -> dict[str, Tensor]:
    """Tables after one step."""
    torch.manual_seed(0)
    model, batch = Attentive().eval(), make_batch(SCHEMA, LENGTHS, seed=1)
    if counted:
        count(model, batch)
    model(batch).logits.square().sum().backward()
    return model.tables.export()


def test_tables_learn_as_ever_after_a_count() -> None:
    after_count, plain, untrained = learnt(True), learnt(False), Attentive().tables.export()
    assert all(torch.equal(after_count[name], plain[name]) for name in plain)
    assert not torch.equal(plain[f"{ITEM}.weight"], untrained[f"{ITEM}.weight"])


def test_an_error_of_the_model_leaves_no_hook() -> None:
    model = Attentive()
    broken = make_batch(make_schema([70, 5, 3], dense=2, tasks=SCHEMA.task_names), [4] * 50, seed=1)
    with pytest.raises(ValueError, match="feature 'item_id': got id"):
        count(model, broken)
    assert model(make_batch(SCHEMA, LENGTHS, seed=1)).logits.requires_grad
    assert not model.tables._forward_hooks


def test_without_gradients_it_counts_all_the_same() -> None:
    model, batch = Attentive(), make_batch(SCHEMA, LENGTHS, seed=1)
    expected = count(model, batch)
    with torch.no_grad():
        assert count(model, batch) == expected
