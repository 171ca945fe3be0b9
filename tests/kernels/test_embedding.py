"""The embedding tables against unfused torch embedding bags and a row-wise AdaGrad written out in numpy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag
from torchrec import KeyedJaggedTensor

from kernels.embedding import EmbeddingTables, dense_parameters, ensure_process_group, sharding
from kernels.embedding import bags as bags_of_batch
from kernels.embedding import keys as keys_of_table
from tests.forked import context

SIZES = {"user": 50, "item": 30, "tags": 7}
DIM = 8
RATE = 0.1


def make(**changes: object) -> EmbeddingTables:
    options = {"tables": SIZES, "dim": DIM, "seed": 3, "learning_rate": RATE, "history_feature": "item"}
    return EmbeddingTables(**(options | changes))  # type: ignore[arg-type]


def keyed(bags: Mapping[str, Sequence[Sequence[int]]]) -> KeyedJaggedTensor:
    """Feature to one list of ids per example."""
    lists = [ids for feature in bags.values() for ids in feature]
    values = torch.tensor([i for ids in lists for i in ids], dtype=torch.int64)
    lengths = torch.tensor([len(ids) for ids in lists], dtype=torch.int32)
    return KeyedJaggedTensor(list(bags), values, lengths=lengths, stride=len(next(iter(bags.values()))))


def random_batch(
    examples: int, events: int, seed: int, single: bool = False
) -> tuple[dict[str, list[list[int]]], Tensor]:
    """Ids that repeat within and between features and history; `tags` has 0 to 3 ids per example, or one."""
    draw = np.random.default_rng(seed)
    lengths = np.ones(examples, int) if single else draw.integers(0, 4, examples)
    bags = {
        "user": [[int(i)] for i in draw.integers(0, 5, examples)],
        "item": [[int(i)] for i in draw.integers(0, 6, examples)],
        "tags": [list(map(int, draw.integers(0, 7, n))) for n in lengths],
    }
    return bags, torch.from_numpy(draw.integers(0, 6, events))


def unfused(
    weights: Mapping[str, Tensor], bags: Mapping[str, Sequence[Sequence[int]]], history: Tensor
) -> tuple[Tensor, Tensor]:
    """The same look-up by torch alone: [B, F, D] and [T, D]."""
    pooled = []
    for feature, lists in bags.items():
        ids = torch.tensor([i for bag in lists for i in bag], dtype=torch.int64)
        starts = torch.tensor([0, *np.cumsum([len(bag) for bag in lists])[:-1]], dtype=torch.int64)
        pooled.append(embedding_bag(ids, weights[feature], starts, mode="sum"))
    return torch.stack(pooled, 1), embedding(history, weights["item"])


def rowwise_adagrad(weight: np.ndarray, moment: np.ndarray, gradient: np.ndarray, rate: float) -> None:
    """In place: m += mean of g squared over the row, w -= rate * g / (sqrt(m) + 1e-8)."""
    moment += (gradient**2).mean(1)
    weight -= rate * gradient / (np.sqrt(moment) + 1e-8)[:, None]


@pytest.fixture(params=[("all",), ("even", "odd")], ids=["one key", "two keys"])
def keys(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many keys as either kind of processor has."""
    for module in (keys_of_table, bags_of_batch, sharding):
        monkeypatch.setattr(module, "KEYS", request.param)


@pytest.mark.parametrize(("vendor", "count"), [("GenuineIntel", 2), ("AuthenticAMD", 1)])
def test_the_processor_says_how_many_keys_a_table_has(tmp_path: Path, vendor: str, count: int) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    assert len(keys_of_table.keys_for(cpuinfo)) == 1
    cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    assert len(keys_of_table.keys_for(cpuinfo)) == count


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(("examples", "events"), [(1, 0), (5, 1), (6, 13), (33, 100)])
def test_training_equals_unfused_tables_with_handwritten_adagrad(
    examples: int, events: int, single: bool
) -> None:
    tables = make()
    start = tables.export()
    weights = {name: start[f"{name}.weight"].double().numpy() for name in SIZES}
    moments = {name: np.zeros(size) for name, size in SIZES.items()}
    for step in range(4):
        bags, history = random_batch(examples, events, step, single)
        draw = torch.Generator().manual_seed(step)
        for_features = torch.randn(examples, 3, DIM, generator=draw)
        for_events = torch.randn(events, DIM, generator=draw)
        leaves = {name: torch.tensor(weight, requires_grad=True) for name, weight in weights.items()}
        want_features, want_events = unfused(leaves, bags, history)
        torch.autograd.backward([want_features, want_events], [for_features.double(), for_events.double()])
        got = tables(keyed(bags), history)
        torch.testing.assert_close(got.features, want_features.float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got.events, want_events.float(), rtol=1e-5, atol=1e-6)
        torch.autograd.backward([got.features, got.events], [for_features, for_events])
        for name in SIZES:
            gradient = leaves[name].grad
            assert gradient is not None
            rowwise_adagrad(weights[name], moments[name], gradient.numpy(), RATE)
    end = tables.export()
    for name in SIZES:
        torch.testing.assert_close(
            end[f"{name}.weight"].double(), torch.from_numpy(weights[name]), rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(
            end[f"{name}.momentum"].double(), torch.from_numpy(moments[name]), rtol=1e-5, atol=1e-6
        )


def test_a_row_hit_as_target_and_in_history_is_updated_once_with_the_summed_gradient() -> None:
    tables = make(tables={"item": 4}, dim=4, learning_rate=0.5)
    before = tables.export()["item.weight"][2]
    got = tables(keyed({"item": [[2]]}), torch.tensor([2, 2]))
    (3.0 * got.features.sum() - got.events.sum()).backward()
    after = tables.export()
    # Gradient 3 - 1 - 1 = 1 in every column: moment 1, step 0.5 * 1 / 1. Three updates in turn would differ.
    torch.testing.assert_close(after["item.momentum"], torch.tensor([0.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(after["item.weight"][2], before - 0.5)


def test_features_come_in_the_order_of_the_tables_whatever_the_order_of_the_batch() -> None:
    tables = make()
    bags, _ = random_batch(9, 0, seed=1)
    expected = tables(keyed(bags)).features
    shuffled = {"tags": bags["tags"], "unused": [[10**6]] * 9, "user": bags["user"], "item": bags["item"]}
    assert torch.equal(tables(keyed(shuffled)).features, expected)
    assert torch.equal(tables(keyed(bags)).features, expected)


def test_empty_batch() -> None:
    got = make()(keyed({"user": [], "item": [], "tags": []}), torch.empty(0, dtype=torch.int64))
    assert got.features.shape == (0, 3, DIM)
    assert got.events is not None and got.events.shape == (0, DIM)


def test_no_history_asked_for_gives_no_events() -> None:
    bags, _ = random_batch(4, 0, seed=0)
    assert make()(keyed(bags)).events is None
    assert make(history_feature=None)(keyed(bags)).events is None


def test_untouched_rows_and_moments_stay_bit_identical() -> None:
    tables = make()
    before = tables.export()
    tables(keyed({"user": [[1]], "item": [[2]], "tags": [[]]}), torch.tensor([5])).features.sum().backward()
    after = tables.export()
    untouched = [row for row in range(50) if row != 1]
    assert torch.equal(after["user.weight"][untouched], before["user.weight"][untouched])
    assert not torch.equal(after["user.weight"][1], before["user.weight"][1])
    assert torch.equal(after["tags.weight"], before["tags.weight"])
    assert torch.equal(after["tags.momentum"], torch.zeros(7))


def test_repeats_are_bitwise_equal() -> None:
    ends = []
    for _ in range(2):
        tables = make()
        for step in range(3):
            bags, history = random_batch(64, 300, seed=step)
            got = tables(keyed(bags), history)
            (got.features.square().sum() + got.events.square().sum()).backward()
        ends.append(tables.export())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_initial_rows_depend_on_seed_and_feature_alone() -> None:
    first = make().export()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    other = EmbeddingTables({"new": 3, "item": 30}, DIM, seed=3, learning_rate=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(other.export()["item.weight"], first["item.weight"])
    assert not torch.equal(make(seed=4).export()["item.weight"], first["item.weight"])
    assert not torch.equal(first["user.weight"][:7], first["tags.weight"])
    # 240 normal numbers: the standard error of their standard deviation is 0.01 / sqrt(480), about 0.0005.
    assert abs(float(first["item.weight"].std()) - 0.01) < 0.002


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_predicting_changes_nothing_and_training_goes_on_after_it(
    mode: Callable[[], AbstractContextManager],
) -> None:
    predicted, other = make(), make()
    bags, history = random_batch(6, 4, seed=0)
    with mode():
        predicted(keyed(bags), history)
    for tables in (predicted, other):
        got = tables(keyed(bags), history)
        torch.autograd.backward([got.features.sum(), got.events.sum()])
    found, expected = predicted.export(), other.export()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_two_sets_of_tables_in_one_process_do_not_touch_each_other() -> None:
    one, two = make(), make()
    before = two.export()
    bags, history = random_batch(8, 5, seed=0)
    one(keyed(bags), history).features.sum().backward()
    after = two.export()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_export_and_load_continue_bit_for_bit() -> None:
    original, copy = make(), make(seed=8)
    for step in range(4):
        if step == 2:
            copy.load(original.export())
        for tables in (original, copy):
            bags, history = random_batch(16, 20, seed=step)
            got = tables(keyed(bags), history)
            (got.features.sum() + got.events.square().sum()).backward()
    expected, found = original.export(), copy.export()
    assert list(expected) == [f"{name}.{part}" for name in SIZES for part in ("weight", "momentum")]
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_export_is_a_copy() -> None:
    tables = make()
    tables.export()["user.weight"].fill_(7.0)
    assert float(tables.export()["user.weight"].max()) < 1.0


def test_state_dict_of_a_model_holds_plain_tensors_and_loads() -> None:
    class Model(nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            self.tables = make(seed=seed)
            self.head = nn.Linear(2, 1)

    model, other = Model(0), Model(1)
    state = model.state_dict()
    assert set(state) == {f"tables.{name}" for name in model.tables.export()} | {"head.weight", "head.bias"}
    assert all(type(tensor) is Tensor for tensor in state.values())
    other.load_state_dict(state)
    assert torch.equal(other.tables.export()["tags.weight"], model.tables.export()["tags.weight"])
    with pytest.raises(RuntimeError, match=r"Missing key.*tables\.user\.momentum"):
        other.load_state_dict({name: t for name, t in state.items() if name != "tables.user.momentum"})


def test_dense_parameters_leave_the_tables_out() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = make()
            self.head = nn.Linear(2, 1)

    model = Model()
    assert {id(p) for p in dense_parameters(model)} == {id(model.head.weight), id(model.head.bias)}
    assert model.tables.n_parameters == (50 + 30 + 7) * DIM


def test_set_learning_rate_holds_from_the_next_backward_pass() -> None:
    tables = make(tables={"item": 2}, dim=4, learning_rate=0.5)
    before = tables.export()["item.weight"]
    tables.set_learning_rate(0.25)
    tables(keyed({"item": [[1]]})).features.sum().backward()
    torch.testing.assert_close(tables.export()["item.weight"], before - torch.tensor([[0.0], [0.25]]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_gradient_stops_before_the_update(bad: float) -> None:
    tables = make()
    bags, history = random_batch(8, 5, seed=0)
    before = tables.export()
    got = tables(keyed(bags), history)
    gradient = torch.ones(5, DIM)
    gradient[3, 2] = bad
    with pytest.raises(FloatingPointError, match="embedding gradient: 1 of"):
        torch.autograd.backward([got.features, got.events], [torch.ones(8, 3, DIM), gradient])
    after = tables.export()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_large_finite_gradients_whose_sum_overflows_are_no_reason_to_stop() -> None:
    tables = make(tables={"item": 2}, dim=4)
    got = tables(keyed({"item": [[0], [1]]}))
    got.features.backward(torch.full((2, 1, 4), 1e38))
    assert torch.isfinite(tables.export()["item.weight"]).all()


@pytest.mark.parametrize(
    ("bags", "history", "message"),
    [
        ({"user": [[0], [50]]}, [], r"feature 'user': got id 50, allowed: 0 to 49 \(size 50\)"),
        ({"item": [[-1], [0]]}, [], r"feature 'item': got id -1, allowed: 0 to 29"),
        ({"tags": [[1, 2], [3, 99]]}, [], r"feature 'tags': got id 99, allowed: 0 to 6"),
        ({}, [1, 30, 2], r"feature 'item': got id 30, allowed: 0 to 29"),
        ({"tags": [[5], [7]]}, [], r"feature 'tags': got id 7, allowed: 0 to 6"),
        ({"tags": [[5], [6]]}, [1, -1], r"feature 'item': got id -1, allowed: 0 to 29"),
    ],
)
def test_an_id_outside_its_table_is_named(
    bags: dict[str, list[list[int]]], history: list[int], message: str
) -> None:
    good: dict[str, list[list[int]]] = {"user": [[1], [2]], "item": [[3], [4]], "tags": [[5], [6, 0]]}
    with pytest.raises(ValueError, match=message):
        make()(keyed(good | bags), torch.tensor(history, dtype=torch.int64))


def test_a_missing_feature_is_named() -> None:
    with pytest.raises(ValueError, match="missing: user, tags"):
        make()(keyed({"item": [[1]]}))


def test_history_ids_without_a_history_feature_are_refused() -> None:
    bags, _ = random_batch(2, 0, seed=0)
    with pytest.raises(ValueError, match="no history_feature was set"):
        make(history_feature=None)(keyed(bags), torch.tensor([1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": {}}, "tables: got none"),
        ({"tables": {"item": 0}}, "got 0 rows for feature 'item'"),
        ({"dim": 6}, "dim: got 6, allowed: a positive multiple of 4"),
        ({"dim": 0}, "dim: got 0"),
        ({"learning_rate": -1.0}, "learning_rate: got -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan"),
        ({"history_feature": "itm"}, "history_feature: got 'itm', allowed: one of user, item, tags"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_loading_another_shape_is_refused_and_changes_nothing() -> None:
    tables = make()
    before = tables.export()
    state = make(seed=9).export()
    state["tags.weight"] = torch.zeros(8, DIM)
    with pytest.raises(ValueError, match=r"'tags.weight' has shape \(8, 8\), allowed: \(7, 8\)"):
        tables.load(state)
    assert torch.equal(tables.export()["user.weight"], before["user.weight"])


def test_the_process_group_is_made_once_and_is_this_process_alone() -> None:
    group = ensure_process_group()
    assert ensure_process_group() is group
    assert dist.get_world_size(group) == 1


QUIET = """
import torch
from kernels.embedding import EmbeddingTables
from torchrec import KeyedJaggedTensor
tables = EmbeddingTables({"a": 5}, 4, seed=0, learning_rate=0.1, history_feature="a")
batch = KeyedJaggedTensor(["a"], torch.tensor([1, 2]), lengths=torch.tensor([1, 1]), stride=2)
tables(batch, torch.tensor([4])).features.sum().backward()
"""


def test_a_process_that_builds_and_trains_tables_prints_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def train_one_of_two(rank: int, port: int, found: Path) -> None:
    """Be one of two processes as torchrun starts them: the tables make the group. The first leaves what they hold."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    tables = make()
    assert (dist.get_rank(), dist.get_world_size()) == (rank, 2)
    for step in range(3):
        bags, history = random_batch(6 + rank, 5 + 4 * rank, seed=10 * step + rank)
        got = tables(keyed(bags), history)
        (got.features.square().sum() + 2 * got.events.sum()).backward()
    state = tables.export()
    if rank == 0:
        torch.save(state, found)
    dist.barrier()
    dist.destroy_process_group()  # left standing, gloo's threads abort the process at its end


def test_two_processes_with_unequal_batches_equal_one(tmp_path: Path) -> None:
    found = tmp_path / "state.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context().Process(target=train_one_of_two, args=(rank, port, found)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    tables = make()
    for step in range(3):
        parts = [random_batch(6 + rank, 5 + 4 * rank, seed=10 * step + rank) for rank in (0, 1)]
        bags = {name: parts[0][0][name] + parts[1][0][name] for name in SIZES}
        got = tables(keyed(bags), torch.cat([parts[0][1], parts[1][1]]))
        # The processes' gradients are averaged, as those of their dense parameters are.
        ((got.features.square().sum() + 2 * got.events.sum()) / 2).backward()
    for name, tensor in torch.load(found).items():
        torch.testing.assert_close(tensor, tables.export()[name], rtol=1e-5, atol=1e-6)
