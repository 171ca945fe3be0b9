"""InterFormer (arXiv 2411.09852): the towers over features and history tell each other what they know, layer by layer.

    X_sum = Gate(MLP_n(X)),  S_sum = Gate([target attention ‖ PMA ‖ CLS ‖ recent events])
    X'    = interaction([X ‖ S_sum]),  S' = sequence(PFFN(X_sum, S))

Both summaries are made before either tower moves on, so that none of the two sees the other's new state.

CLS tokens lie at the new end of their row, behind the newest event (ours; the paper puts them in front). In
front, causal attention would show them nothing but themselves, a sliding window only the oldest events, and a
pyramid, whose layers keep the newest tokens, would drop them first. At the end they read the whole history, survive
every layer, and are to a summary just the newest tokens of the row. `keep` of a pyramid counts them in.

Shape letters: B examples, n tokens of the features, n_sum of them compressed, T tokens of all histories (jagged), d
width, c CLS tokens, S seeds, R recent events.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kernels.jagged_mix import jagged_mix
from teachers.sequence import Summaries


class Gate(nn.Module):
    """Gate(x) = x ⊙ σ(MLP(x)), over the last dimension.

    Ours: the paper prints σ(x ⊙ MLP(x)). With σ the sigmoid that leaves nothing of the sign and the scale of x, and
    makes 0.5 of the zeros that stand for events that there are not. A gate multiplies what it lets through.

    Args:
        width: of what is gated.
    """

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [..., width]. Returns: the same shape; zeros stay zeros."""
        return x * self.mlp(x).sigmoid()


class FeatureSummary(nn.Module):
    """X_sum = Gate(MLP_n(X)), the MLP along the tokens: n to n (ReLU) to n_sum.

    Args:
        tokens: n.
        out_tokens: n_sum.
        dim: d.
        gate: whether there is a gate.
    """

    def __init__(self, tokens: int, out_tokens: int, dim: int, gate: bool):
        super().__init__()
        self.out_tokens, self.dim = out_tokens, dim
        self.mlp = nn.Sequential(nn.Linear(tokens, tokens), nn.ReLU(), nn.Linear(tokens, out_tokens))
        self.gate = Gate(dim) if gate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, n, d]. Returns: [B, n_sum, d]."""
        return self.gate(self.mlp(x.transpose(1, 2)).transpose(1, 2))


class SequenceSummary(nn.Module):
    """S_sum = Gate([target attention ‖ PMA ‖ CLS ‖ recent events]), a fixed number of tokens about a history.

    CLS tokens are the last of every row (`append_tokens`), so that they come out as the newest tokens, the last of them
    first, with the newest events after them and zeros for events that there are not. Target attention and PMA read
    CLS tokens beside the events, as parts of S.

    Args:
        dim: d.
        heads: of attention, dividing d.
        cls_tokens: c, how many CLS tokens every row ends with.
        seeds: S.
        recent: R.
        target: whether the item at hand attends to the history, one token.
        gates: whether there is a gate.

    Attributes:
        tokens: how many come out.
    """

    def __init__(
        self, dim: int, heads: int, cls_tokens: int, seeds: int, recent: int, target: bool, gates: bool
    ):
        super().__init__()
        self.cls_tokens = cls_tokens
        self.summaries = Summaries(dim, heads, seeds, cls_tokens + recent, target=target)
        self.tokens = self.summaries.tokens
        self.gate = Gate(dim) if gates else nn.Identity()

    def forward(self, tokens: Tensor, offsets: Tensor, target: Tensor) -> Tensor:
        """Args: tokens [T, d], offsets int64 [B + 1], target [B, d]. Returns: [B, tokens, d]."""
        return self.gate(self.summaries(tokens, offsets, target))


class PersonalizedFFN(nn.Module):
    """PFFN(X_sum, S) = S + (X_sum W) LN(S): a matrix [d, d] of each example's own, applied to all of its events.

    The matrix has a rank of at most n_sum and is never formed: y_t = sum over j of (W s_t)_j x_sum_j. Ours: residual,
    over normed events, and W small, so that y starts at about a tenth of X_sum; deep stacks diverge without.

    Args:
        summary_tokens: n_sum.
        dim: d.
    """

    def __init__(self, summary_tokens: int, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.weight = nn.Linear(dim, summary_tokens, bias=False)
        nn.init.normal_(self.weight.weight, std=0.1 * (dim * summary_tokens) ** -0.5)

    def forward(self, summary: Tensor, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Args: summary [B, n_sum, d], tokens [T, d], offsets int64 [B + 1]. Returns: [T, d]."""
        return tokens + jagged_mix(self.weight(self.norm(tokens)), summary, offsets)


class InterFormerLayer(nn.Module):
    """One layer of both towers, each told by the other's summary of what went in.

    Args:
        feature_summary: of the n tokens that come in.
        sequence_summary: of the history that comes in.
        interaction: over the features, [B, n + sequence_summary.tokens, d] to [B, n', d].
        sequence: over the history, (tokens [T, d], offsets [B + 1]) to (tokens [T', d], offsets [B + 1]).
        first: whether this is the first layer, which puts the CLS tokens behind the events: the first c of X_sum.

    Raises:
        ValueError: more CLS tokens than X_sum has.
    """

    def __init__(
        self,
        feature_summary: FeatureSummary,
        sequence_summary: SequenceSummary,
        interaction: nn.Module,
        sequence: nn.Module,
        first: bool = False,
    ):
        super().__init__()
        if sequence_summary.cls_tokens > feature_summary.out_tokens:
            raise ValueError(
                f"cls_tokens: got {sequence_summary.cls_tokens}, allowed: at most the tokens of the features' summary, "
                f"{feature_summary.out_tokens}"
            )
        self.feature_summary, self.sequence_summary = feature_summary, sequence_summary
        self.personal = PersonalizedFFN(feature_summary.out_tokens, feature_summary.dim)
        self.interaction, self.sequence = interaction, sequence
        self.appended = sequence_summary.cls_tokens if first else 0

    def forward(
        self, x: Tensor, tokens: Tensor, offsets: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both towers, one layer on.

        Args:
            x: features [B, n, d].
            tokens: of the history [T, d].
            offsets: int64 [B + 1].
            target: token of the item at hand [B, d].

        Returns:
            Features [B, n', d], tokens of the history [T', d], and their offsets int64 [B + 1].
        """
        x_sum = self.feature_summary(x)
        if self.appended:
            tokens, offsets = append_tokens(tokens, offsets, x_sum[:, : self.appended])
        s_sum = self.sequence_summary(tokens, offsets, target)
        crossed = self.interaction(torch.cat([x, s_sum], dim=1))
        tokens, offsets = self.sequence(self.personal(x_sum, tokens, offsets), offsets)
        return crossed, tokens, offsets


def append_tokens(tokens: Tensor, offsets: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
    """Put tokens behind the last one of every row.

    Args:
        tokens: [T, d].
        offsets: int64 [B + 1].
        extra: [B, c, d].

    Returns:
        Tokens [T + B c, d] and offsets [B + 1] of the longer rows.
    """
    assert len(extra) == len(offsets) - 1, f"{len(extra)} examples, {len(offsets) - 1} rows"
    count, device = extra.shape[1], offsets.device
    added = torch.arange(len(offsets), device=device) * count
    shift = added[:-1].repeat_interleave(offsets.diff(), output_size=len(tokens))
    places = torch.arange(len(tokens), device=device) + shift
    extra_places = (offsets[1:] + added[:-1]).unsqueeze(1) + torch.arange(count, device=device)
    dtype = torch.promote_types(tokens.dtype, extra.dtype)
    together = _Interleave.apply(
        tokens.to(dtype), extra.flatten(0, 1).to(dtype), places, extra_places.flatten()
    )
    return together, offsets + added


class _Interleave(torch.autograd.Function):
    """Two lists of tokens as one, given the places of each; the gradient of either is read from its places."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, a_places: Tensor, b_places: Tensor) -> Tensor:
        ctx.save_for_backward(a_places, b_places)
        out = a.new_empty(len(a) + len(b), a.shape[1])
        return out.index_copy_(0, a_places, a).index_copy_(0, b_places, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        a_places, b_places = ctx.saved_tensors
        return gradients[0].index_select(0, a_places), gradients[0].index_select(0, b_places), None, None
