"""Really loads torch, fbgemm and torchrec and trains one embedding table for one step; prints JSON.

Run as a script in a process of its own: builds that do not fit can end the process instead of raising.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def train_one_row(device: str) -> None:
    """One fused step of row-wise AdaGrad: row 1 of a table of ones moves by the learning rate, row 0 stays.

    Args:
        device: `cpu` or `cuda`.

    Raises:
        AssertionError: the op ran and its result is wrong.
        Exception: whatever an op that is missing or does not load raises.
    """
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        EmbeddingLocation,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    cuda = device == "cuda"
    place = EmbeddingLocation.DEVICE if cuda else EmbeddingLocation.HOST
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(2, 4, place, ComputeDevice.CUDA if cuda else ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.25,
    )
    weights = table.split_embedding_weights()[0]
    weights.fill_(1.0)
    ids, offsets = torch.tensor([1], device=device), torch.tensor([0, 1], device=device)
    table(ids, offsets).sum().backward()
    expected = torch.tensor([[1.0] * 4, [0.75] * 4], device=device)
    assert torch.allclose(weights, expected, atol=1e-3), f"got {weights.tolist()}"


def describe_torch() -> dict[str, Any]:
    """Version, CUDA release it was built for (None on a CPU build) and the names of the GPUs it can use."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "gpus": gpus,
    }


def import_torchrec() -> str:
    """The parts of torchrec that the project stands on can be imported; returns its version."""
    import torchrec
    from torchrec.distributed.model_parallel import DistributedModelParallel  # noqa: F401

    return torchrec.__version__


def attempt(step: Callable[[], Any]) -> dict[str, Any]:
    """Runs one step; its value, or the error as text: the doctor reports it."""
    try:
        return {"value": step(), "error": None}
    except Exception as error:
        return {"value": None, "error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Runs the steps one by one and prints one line of JSON, the last line of the output."""
    outcome = {"torch": attempt(describe_torch), "fbgemm on CPU": attempt(lambda: train_one_row("cpu"))}
    if (outcome["torch"]["value"] or {}).get("gpus"):
        outcome["fbgemm on GPU"] = attempt(lambda: train_one_row("cuda"))
    outcome["torchrec import"] = attempt(import_torchrec)
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
