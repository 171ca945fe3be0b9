"""What `distill ls kernels` prints: every operator, the path it takes on this machine, and why.

Free of torch, so that the command line stays fast: it asks what is installed, and builds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Kernel:
    """One operator.

    Attributes:
        name: its folder in `kernels`.
        summary: what it computes, in one line.
        path: the implementation that runs here; `unavailable` when none can.
        why: what decided it.
    """

    name: str
    summary: str
    path: str
    why: str


def kernels() -> list[Kernel]:
    """All operators by name."""
    return [
        Kernel(
            "embedding",
            "embedding tables with fused row-wise AdaGrad; features and history in one look-up",
            *_embedding_path(),
        ),
        Kernel(
            "jagged_attention",
            "attention within rows of any length, by softmax, SiLU, GELU or squared ReLU: self, cross, window, seeds",
            *_dense_path(
                "rows of equal length share one flash call, or batched products without a softmax",
                "heads of up to 256 numbers",
            ),
        ),
        Kernel(
            "jagged_mix",
            "a matrix of each example's own, applied to its tokens, whatever their number",
            *_dense_path(
                "weighted sums as of embedding bags", "up to 64 numbers per token and widths of up to 128"
            ),
        ),
        Kernel(
            "multitask_distillation",
            "losses of labels, of a teacher's soft labels and logits, of all tasks of one model or of a bank",
            *_dense_path(
                "one model's is plain PyTorch, a bank's goes in pieces that stay in the cache",
                "any number of tasks and models",
            ),
        ),
        Kernel(
            "norm_ffn",
            "layer norm, feed-forward or gated block, residual, the hidden layer computed again going back",
            *_dense_path("products of many rows, in chunks that stay in the cache", "widths of up to 128"),
        ),
        Kernel(
            "wukong_fm",
            "Wukong's factorization machine of low rank, with linear compression and the norm of its pairs",
            *_dense_path("batched products, closed backward", "up to 128 tokens and rank 32"),
        ),
    ]


def _embedding_path() -> tuple[str, str]:
    if find_spec("torchrec") is None or find_spec("fbgemm_gpu") is None:
        return "unavailable", "torchrec or fbgemm-gpu is not installed"
    cpu_build, on_cpu = _version("fbgemm-gpu-cpu"), "tables on the CPU: fbgemm"
    if cpu_build is None:
        build = f"fbgemm-gpu {_version('fbgemm-gpu')} is installed"
        if _has_gpu():
            return "fbgemm-cuda", f"{build}, for device='cuda'; {on_cpu}"
        return "fbgemm-cpu", f"{build}; no GPU here, where it would serve device='cuda'"
    build = f"fbgemm-gpu-cpu {cpu_build} is installed; it has no CUDA operators"
    if find_spec("triton") is None:
        return "fbgemm-cpu", f"{build}, triton is not installed, device='cuda' is refused"
    if _has_gpu():
        return "triton", f"{build}: Triton kernels stand in for device='cuda' in one process; {on_cpu}"
    return "fbgemm-cpu", f"{build}; no GPU here, where Triton kernels would stand in for device='cuda'"


def _dense_path(on_cpu: str, on_gpu: str) -> tuple[str, str]:
    """Path and reason of an operator without tables.

    Args:
        on_cpu: how the CPU path works.
        on_gpu: what the Triton path takes.
    """
    if find_spec("torch") is None:
        return "unavailable", "torch is not installed"
    if find_spec("triton") is None:
        return "cpu-fast", f"{on_cpu}; triton is not installed, tensors on a GPU are refused"
    if _has_gpu():
        return "triton", f"on the GPU, {on_gpu}; tensors on the CPU: {on_cpu}"
    return "cpu-fast", f"{on_cpu}; no GPU here, where Triton kernels would take {on_gpu}"


def _has_gpu() -> bool:
    """Whether NVIDIA's driver lists a GPU; asking torch would take a second."""
    return any(DRIVER.glob("*"))


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
