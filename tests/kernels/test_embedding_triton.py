"""Embedding tables where fbgemm has no CUDA build: Triton kernels in the interpreter against fbgemm's CPU tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor

from kernels.embedding import EmbeddingTables, History, WideTables, bags, store, substitute, wide_bags
from kernels.embedding import gpu as compiled
from kernels.embedding.store import EPS
from kernels.embedding.substitute import SubstituteTable, complete_cumsum, in_order, permuted
from tests.kernels.norm_ffn_cases import poisoned_memory
from tests.kernels.test_embedding import SIZES, keyed, make, random_batch
from tests.kernels.triton_tools import interpreted, lowered

CPU = torch.device("cpu")
MEAN = {PoolingMode.SUM: False, PoolingMode.MEAN: True}


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return interpreted("kernels.embedding.gpu")


@pytest.fixture(autouse=True)
def interpreter(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Substitutes run in the interpreter, in small blocks, on memory that is poisoned, and have said what they mean."""
    monkeypatch.setattr(gpu, "BAGS", 4)
    monkeypatch.setattr(gpu, "IDS", 2)
    monkeypatch.setattr(substitute, "_path", lambda: gpu)
    monkeypatch.setattr(substitute, "_say_what_it_means", lambda: None)
    with poisoned_memory():
        yield


@pytest.fixture
def substituted(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether tables that are built or used from now on are substitutes."""

    def set_to(value: bool) -> None:
        for module in (bags, store, wide_bags):
            monkeypatch.setattr(module, "is_substituted", lambda device: value)

    return set_to


def fbgemm_table(weight: Tensor, rate: float, pooling: PoolingMode) -> SplitTableBatchedEmbeddingBagsCodegen:
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(*weight.shape, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=rate,
        eps=EPS,
        pooling_mode=pooling,
    )
    (rows,) = table.split_embedding_weights()
    rows.copy_(weight)
    return table


def moments(table: SplitTableBatchedEmbeddingBagsCodegen) -> Tensor:
    return table.get_optimizer_state()[0]["sum"].view(-1)


# Ids by bag: empty bags first, last and between; a row in several bags, and several times in one; more bags than a
# block of 4 has, more ids of a row than the 2 loaded at once.
LOOK_UPS = [
    [[], [3, 1], [3], [], [1, 3, 3, 0], [3], []],
    [[2]],
    [[], []],
    [],
]


@pytest.mark.parametrize("pooling", list(MEAN), ids=str)
@pytest.mark.parametrize("look_up", LOOK_UPS, ids=["many", "one", "empty bags", "empty batch"])
def test_it_trains_as_fbgemms_table_does(look_up: list[list[int]], pooling: PoolingMode) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 12, generator=generator)
    theirs = fbgemm_table(start, 0.3, pooling)
    mine = SubstituteTable(5, 12, 0.3, EPS, CPU, mean=MEAN[pooling])
    mine.weight.copy_(start)
    rows = torch.tensor([row for bag in look_up for row in bag], dtype=torch.int64)
    offsets = complete_cumsum(torch.tensor([len(bag) for bag in look_up], dtype=torch.int64))
    for _ in range(2):
        gradient = torch.randn(len(look_up), 12, generator=generator)
        got = mine.pooled(rows, offsets)
        got.backward(gradient)
        if look_up:  # fbgemm refuses an empty batch
            expected = theirs(rows, offsets)
            torch.testing.assert_close(got, expected)
            expected.backward(gradient)
    (weights,) = theirs.split_embedding_weights()
    torch.testing.assert_close(mine.weight, weights, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine.moment, moments(theirs), rtol=1e-5, atol=1e-6)
    untouched = [row for row in range(5) if row not in rows]
    assert torch.equal(mine.weight[untouched], start[untouched]) and not mine.moment[untouched].any()


def test_each_table_has_a_learning_rate_of_its_own_and_one_step_is_as_by_hand() -> None:
    slow, fast = (SubstituteTable(3, 4, rate, 0.0, CPU) for rate in (0.25, 9.0))
    fast.set_learning_rate(0.5)
    rows, offsets = torch.tensor([1, 1, 2]), torch.tensor([0, 1, 3])
    for table in (slow, fast):
        # Row 1 gets 1 of the first bag and 2 of the second, row 2 gets 2; AdaGrad's first step is the rate itself.
        table.pooled(rows, offsets).backward(torch.tensor([[1.0] * 4, [2.0] * 4]))
    assert slow.moment.tolist() == fast.moment.tolist() == [0, 9, 4]
    assert slow.weight[:, 0].tolist() == [0, -0.25, -0.25] and fast.weight[:, 0].tolist() == [0, -0.5, -0.5]


@pytest.mark.parametrize(("examples", "events", "single"), [(5, 1, False), (6, 13, True)])
def test_the_front_gives_the_same_with_it(
    substituted: Callable[[bool], None], examples: int, events: int, single: bool
) -> None:
    ours: list[tuple[EmbeddingTables, list[Tensor]]] = []
    for value in (False, True):
        substituted(value)
        table, found = make(), []
        for step in range(2):
            ids, history = random_batch(examples, events, step, single)
            shuffled = {name: ids[name] for name in ("tags", "user", "item")}
            got = table(keyed(shuffled), history)
            assert got.events is not None
            (got.features.square().sum() + 2 * got.events.sum()).backward()
            found += [got.features.detach(), got.events.detach()]
        ours.append((table, found))
    (theirs, expected), (mine, found) = ours
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    state, truth = mine.export(), theirs.export()
    for name, tensor in truth.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-6)
    theirs.load(state)  # one's state is the other's
    assert torch.equal(theirs.export()["item.momentum"], state["item.momentum"])


def test_wide_tables_deal_bags_without_fbgemm_as_with_it(substituted: Callable[[bool], None]) -> None:
    ids, history = random_batch(6, 13, 0)
    of_examples = History(history, torch.tensor([0, 2, 2, 5, 9, 13, 13]), mean=True)
    ends = []
    for value in (False, True):
        substituted(value)
        wide = WideTables(SIZES, 8, (0.1, 0.3), seeds=(1, 2), history_feature="item")
        found = wide(keyed(ids), history)
        assert found.events is not None
        (found.features.square().sum() + 2 * found.events.sum()).backward()
        pooled = wide.pooled(keyed(ids), of_examples)
        pooled.square().sum().backward()
        ends.append((found.features, found.events, pooled, wide.weight, wide.moment))
    assert all(torch.equal(mine, theirs) for theirs, mine in zip(*ends, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_on_a_gpu_wide_tables_train_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fbgemm_gpu.__variant__", "cpu")
    ends = []
    for device in ("cuda", "cpu"):
        wide = WideTables(SIZES, 8, (0.1, 0.3), seeds=(1, 2), history_feature="item", device=device)
        for step in range(3):
            ids, history = random_batch(33, 100, step)
            found = wide(keyed(ids).to(torch.device(device)), history.to(device))
            assert found.events is not None
            (found.features.square().sum() + 2 * found.events.sum()).backward()
        ends.append(wide.weight.cpu())
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_a_gradient_that_is_not_finite_and_a_prediction_change_nothing(
    substituted: Callable[[bool], None],
) -> None:
    substituted(True)
    table = make()
    table.set_learning_rate(0.7)
    before = table.export()
    ids, history = random_batch(2, 2, 0)
    with torch.inference_mode():
        table(keyed(ids), history)
    with pytest.raises(FloatingPointError, match="embedding gradient"):
        table(keyed(ids), history).features.backward(torch.full((2, 3, 8), torch.nan))
    with pytest.raises(ValueError, match="feature 'item': got id 30"):
        table(keyed(ids), torch.tensor([30, 1]))
    after = table.export()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not list(table.parameters())


def test_repeats_are_bitwise_equal() -> None:
    ends = []
    for _ in range(2):
        table = SubstituteTable(3, 8, 0.1, EPS, CPU)
        rows, offsets = torch.tensor([0, 2, 0, 0, 2, 0, 0]), torch.tensor([0, 3, 5, 7])
        generator = torch.Generator().manual_seed(1)
        table.pooled(rows, offsets).backward(torch.randn(3, 8, generator=generator))
        ends.append(table.weight)
    assert torch.equal(*ends)


def test_bags_are_put_in_order_as_by_fbgemm() -> None:
    ids = keyed({"user": [[1], [], [2, 3]], "item": [[4, 5], [6], []], "tags": [[], [7], [8]]})
    mine, theirs = in_order(ids, [2, 0, 1]), ids.permute([2, 0, 1])
    assert mine.keys() == theirs.keys() and mine.values().equal(theirs.values())
    assert mine.lengths().equal(theirs.lengths())
    order, lengths = torch.tensor([2, 0, 3, 1], dtype=torch.int32), torch.tensor([1, 0, 3, 2])
    rows = torch.arange(6)
    expected = torch.ops.fbgemm.permute_1D_sparse_data(order, lengths, rows, None, 6)
    assert all(a.equal(b) for a, b in zip(permuted(order, lengths, rows), expected[:2], strict=True))
    assert complete_cumsum(lengths).equal(torch.ops.fbgemm.asynchronous_complete_cumsum(lengths))


def test_the_front_chooses_by_device_and_build(monkeypatch: pytest.MonkeyPatch) -> None:
    for variant, chosen in (("cpu", True), ("cuda", False)):
        monkeypatch.setattr("fbgemm_gpu.__variant__", variant)
        assert substitute.is_substituted(torch.device("cuda")) is chosen
        assert not substitute.is_substituted(CPU)


def test_it_says_once_what_it_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    substitute._say_what_it_means.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            SubstituteTable(3, 4, 0.1, EPS, CPU)
    (warning,) = caught
    assert "Triton kernels stand in" in str(warning.message) and "slower" in str(warning.message)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="got 'cuda' in 2 processes, allowed: 'cpu'"):
        SubstituteTable(3, 4, 0.1, EPS, CPU)


POINTERS = {
    "weight_ptr": "*fp32:16",
    "moment_ptr": "*fp32:16",
    "out_ptr": "*fp32:16",
    "gradient_ptr": "*fp32:16",
}
KERNELS: dict[str, tuple[Any, dict[str, int], int]] = {
    "pool": (compiled.pool_kernel, {"BB": compiled.BAGS}, 4),
    "update": (compiled.update_kernel, {"BI": compiled.IDS}, 2),
}


@pytest.mark.parametrize("capability", [90, 80])
@pytest.mark.parametrize(("dim", "mean"), [(32, False), (128, True)])
@pytest.mark.parametrize("name", KERNELS)
def test_it_compiles_for_a_gpu_without_spilling(name: str, dim: int, mean: bool, capability: int) -> None:
    kernel, block, warps = KERNELS[name]
    constants = {"MEAN": mean, "BD": dim} | block
    types = POINTERS | {"bags": "i32", "D": "i32:16", "learning_rate": "fp32", "eps": "fp32"}
    signature = {arg: types.get(arg, "*i64:16") for arg in kernel.arg_names if arg not in constants}
    code = lowered(kernel, signature, constants, capability, num_warps=warps)
    assert code.spilled == 0 and code.registers <= 128 and code.shared <= 4096
    assert "ld.global.v4" in code.ptx  # a row is read sixteen bytes at a time


def test_it_compiles_for_a_single_bag() -> None:
    # Triton makes a constant of every number that is 1.
    constants = {"MEAN": True, "BB": 16, "BD": 4, "bags": 1}
    types = POINTERS | {"D": "i32"}
    names = [arg for arg in compiled.pool_kernel.arg_names if arg not in constants]
    code = lowered(
        compiled.pool_kernel, {n: types.get(n, "*i64:16") for n in names}, constants, 90, num_warps=4
    )
    assert code.spilled == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("mean", [False, True])
def test_on_a_gpu_it_trains_as_on_the_cpu(
    mean: bool, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against unfused bags of torch in float64, many ids of few rows."""
    monkeypatch.setattr(substitute, "_path", lambda: compiled)
    generator = torch.Generator().manual_seed(0)
    start, lengths = (
        torch.randn(40, 32, generator=generator),
        torch.randint(0, 9, (1000,), generator=generator),
    )
    offsets = complete_cumsum(lengths)
    rows = (40 * torch.rand(int(offsets[-1]), generator=generator) ** 3).long()
    gradient = torch.randn(1000, 32, generator=generator)
    table = SubstituteTable(40, 32, 0.3, EPS, torch.device("cuda"), mean=mean)
    table.weight.copy_(start)
    weight = start.double().requires_grad_()
    mode = "mean" if mean else "sum"
    bag = torch.nn.functional.embedding_bag(rows, weight, offsets, mode=mode, include_last_offset=True)
    bag.backward(gradient.double())
    got = table.pooled(rows.cuda(), offsets.cuda())
    got.backward(gradient.cuda())
    torch.testing.assert_close(got.cpu(), bag.float(), rtol=1e-5, atol=1e-5)
    assert weight.grad is not None
    moment = weight.grad.square().mean(1)
    stepped = weight.detach() - 0.3 * weight.grad / (moment.sqrt() + EPS).unsqueeze(1)
    torch.testing.assert_close(table.moment.cpu(), moment.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(table.weight.cpu(), stepped.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_on_a_gpu_the_front_trains_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(substitute, "_path", lambda: compiled)
    monkeypatch.setattr("fbgemm_gpu.__variant__", "cpu")
    ends = []
    for device in ("cuda", "cpu"):
        table = make(device=device)
        for step in range(3):
            ids, history = random_batch(33, 100, step)
            got = table(keyed(ids).to(torch.device(device)), history.to(device))
            assert got.events is not None
            (got.features.square().sum() + 2 * got.events.sum()).backward()
        ends.append(table.export())
    for name in [f"{feature}.weight" for feature in SIZES]:
        torch.testing.assert_close(ends[0][name].cpu(), ends[1][name], rtol=1e-4, atol=1e-5)
