"""What `distill ls kernels` prints: every operator, the path it takes on this machine, and why.

Free of torch, so that the command line stays fast: it asks what is installed, and builds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


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
            "softmax attention within rows of any length: self, cross, pooling by seeds",
            *_dense_path("rows of equal length share one flash call"),
        ),
        Kernel(
            "jagged_mix",
            "a matrix of each example's own, applied to its tokens, whatever their number",
            *_dense_path("weighted sums as of embedding bags"),
        ),
        Kernel(
            "wukong_fm",
            "Wukong's factorization machine of low rank, with linear compression",
            *_dense_path("batched products, closed backward"),
        ),
    ]


def _embedding_path() -> tuple[str, str]:
    if find_spec("torchrec") is None or find_spec("fbgemm_gpu") is None:
        return "unavailable", "torchrec or fbgemm-gpu is not installed"
    build = _version("fbgemm-gpu-cpu")
    if build is not None:
        return (
            "fbgemm-cpu",
            f"fbgemm-gpu-cpu {build} is installed; it has no CUDA operators, device='cuda' is refused",
        )
    return (
        "fbgemm-cpu",
        f"fbgemm-gpu {_version('fbgemm-gpu')} is installed; tables on a GPU with device='cuda'",
    )


def _dense_path(how: str) -> tuple[str, str]:
    if find_spec("torch") is None:
        return "unavailable", "torch is not installed"
    return "cpu-fast", f"{how}; no GPU kernel yet, tensors on a GPU are refused"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
