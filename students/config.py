"""Settings of the students, free of torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from distill.errors import UserError


@dataclass
class DLRMConfig:
    """DLRM (arXiv 1906.00091): dot products of all pairs of embeddings, dense features through an MLP of
    their own.

    Attributes:
        dim: width D of the embeddings; a multiple of 4.
        bottom: hidden widths of the MLP that makes one more embedding of the dense features.
        mlp: widths of the top MLP; its last layer feeds the serving heads.
        history_length: last events of the user that are read, pooled to one more embedding; 0 for none.
        history_pooling: how they are pooled: mean or sum.
    """

    dim: int = 16
    bottom: list[int] = field(default_factory=lambda: [64])
    mlp: list[int] = field(default_factory=lambda: [256, 128])
    history_length: int = 0
    history_pooling: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        check_widths(self.dim, {"bottom": self.bottom, "mlp": self.mlp}, may_be_empty=("bottom",))
        check_history(self.history_length)


@dataclass
class DeepFMConfig:
    """DeepFM (arXiv 1703.04247): a factorization machine and an MLP over the same embeddings.

    Its rows are 4 wider than the embeddings, for the first-order weights: `table_learning_rate` likes to be
    higher than for the others.

    Attributes:
        dim: width D of the embeddings; a multiple of 4.
        mlp: widths of the MLP; its last layer feeds the serving heads beside the machine's terms.
        history_length: last events of the user that are read, pooled to one more embedding; 0 for none.
        history_pooling: how they are pooled: mean or sum.
    """

    dim: int = 16
    mlp: list[int] = field(default_factory=lambda: [256, 128])
    history_length: int = 0
    history_pooling: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        check_widths(self.dim, {"mlp": self.mlp})
        check_history(self.history_length)


@dataclass
class DCNv2Config:
    """DCN-v2 (arXiv 2008.13535): cross layers of explicit products, and an MLP.

    Attributes:
        dim: width D of the embeddings; a multiple of 4.
        cross_layers: number of cross layers; the highest product has cross_layers + 1 factors.
        cross_rank: rank of a cross layer's matrix; 0 for a full matrix.
        structure: parallel (cross layers beside the MLP) or stacked (the MLP on top of them).
        mlp: widths of the MLP.
        history_length: last events of the user that are read, pooled to one more embedding; 0 for none.
        history_pooling: how they are pooled: mean or sum.
    """

    dim: int = 16
    cross_layers: int = 2
    cross_rank: int = 64
    structure: Literal["parallel", "stacked"] = "parallel"
    mlp: list[int] = field(default_factory=lambda: [256, 128])
    history_length: int = 0
    history_pooling: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        check_widths(self.dim, {"mlp": self.mlp})
        check_history(self.history_length)
        if self.cross_layers < 1:
            raise UserError(f"options.cross_layers: got {self.cross_layers}, allowed: 1 or more")
        if self.cross_rank < 0:
            raise UserError(f"options.cross_rank: got {self.cross_rank}, allowed: 0 (full matrix) or more")


@dataclass
class DINConfig:
    """DIN (arXiv 1706.06978): every past event is weighed by its relevance to the item at hand.

    Attributes:
        dim: width D of the embeddings; a multiple of 4.
        attention: hidden widths of the unit that weighs an event.
        mlp: widths of the MLP; its last layer feeds the serving heads.
        activation: of the unit and the MLP: prelu, or dice (the paper's, slower).
        softmax: make an example's weights sum to 1. The paper leaves them raw, so that their sum tells how
            strong the interest is.
        event_context: add what is known of an event beside its item: the surface and the labels.
        history_length: last events of the user that are read; at least 1.
    """

    dim: int = 16
    attention: list[int] = field(default_factory=lambda: [32])
    mlp: list[int] = field(default_factory=lambda: [256, 128])
    activation: Literal["prelu", "dice"] = "prelu"
    softmax: bool = False
    event_context: bool = True
    history_length: int = 50

    def __post_init__(self) -> None:
        check_widths(self.dim, {"attention": self.attention, "mlp": self.mlp})
        if self.history_length < 1:
            raise UserError(
                f"options.history_length: got {self.history_length}, allowed: 1 or more. "
                "DIN is nothing without a history: take deepfm, dlrm or dcn_v2"
            )


def check_widths(dim: int, layers: dict[str, list[int]], may_be_empty: Iterable[str] = ()) -> None:
    """Refuse sizes that no student can have.

    Args:
        dim: embedding width.
        layers: option to its widths.
        may_be_empty: options that may hold no width.

    Raises:
        UserError: naming the option.
    """
    if dim < 4 or dim % 4:
        raise UserError(
            f"options.dim: got {dim}, allowed: a positive multiple of 4 (the tables' rows are read in fours)"
        )
    for name, widths in layers.items():
        if not widths and name not in may_be_empty:
            raise UserError(f"options.{name}: got no layer, allowed: at least one width")
        if any(width < 1 for width in widths):
            raise UserError(f"options.{name}: got {list(widths)}, allowed: widths of at least 1")


def check_history(history_length: int) -> None:
    """Refuse a negative number of events.

    Raises:
        UserError: naming the option.
    """
    if history_length < 0:
        raise UserError(f"options.history_length: got {history_length}, allowed: 0 (no history) or more")
