"""What a program says of a user is computed once for each user, not once for each candidate.

    W x + b   =  W_own x_own + (W_user x_user + b)[user]
    sum of x  =  sum of x_own + (sum of x_user)[user]          and the same of squares

Which numbers of a row are the user's is read off the traced program: a row is followed back through what cuts, joins
and reshapes it to the tensors that it is made of, and those that were chosen by `user` are the user's. Whatever else a
program computes is left alone, so that a student of a form not foreseen here is as right, and merely not faster. Sums
are taken in another order: logits differ by rounding.

Shape letters: B candidates, U users, F fields, D their width, W columns of a layer's input.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.fx.node import map_arg

aten = torch.ops.aten
_RESHAPES = {
    aten.flatten.using_ints,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
}
_SAME = {aten.contiguous.default, aten.clone.default}
_CUTS = {aten.slice.Tensor, aten.select.int, aten.split_with_sizes.default, aten.cat.default}


@dataclass(frozen=True)
class Block:
    """Numbers of a row that stand together in the tensor they are from, too.

    Attributes:
        source: that tensor, [B, F, D], or [B, D] as one field.
        field, n_fields: which fields of it.
        first, width: which numbers of each of these fields.
        column: where the numbers begin in the row.
    """

    source: Node
    field: int
    n_fields: int
    first: int
    width: int
    column: int

    @property
    def length(self) -> int:
        """How many numbers."""
        return self.n_fields * self.width


def share_users(program: ExportedProgram, user: str) -> ExportedProgram:
    """The same program with less computed for each candidate.

    Args:
        program: of a student.
        user: name of its argument that says whose each candidate is, int64 [B].
    """
    program = program.run_decompositions({})  # without operations in place, whose order counts
    graph = program.graph
    (of,) = [node for node in graph.nodes if node.op == "placeholder" and node.name == user]
    origins = Origins()
    for node in [node for node in graph.nodes if node.target in _SHARES]:
        blocks = list(origins.blocks(_args(node)[0]))
        users = [block for block in blocks if _is_of_user(block.source, of)]
        if users and _can_be_shared(node, blocks):
            _put_shares(graph, node, of, [block for block in blocks if block not in users], users)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


class Origins:
    """Of every number in a row, from which tensor it is and where it stands there."""

    def __init__(self) -> None:
        self._sources: list[Node] = []
        self._starts = [0]
        self._known: dict[Node, Any] = {}

    def blocks(self, node: Node) -> Iterator[Block]:
        """What a row of a tensor [B, ...] is made of, in its order; nothing where rows have no fixed length."""
        if not _keeps_rows(node.meta["val"]):
            return
        last = None
        for piece in self._pieces(self._of(node).flatten().tolist()):
            if last is not None and _follows(last, piece):
                last = replace(last, n_fields=last.n_fields + 1)
                continue
            if last is not None:
                yield last
            last = piece
        if last is not None:
            yield last

    def _pieces(self, numbers: Sequence[int]) -> Iterator[Block]:
        """Blocks of one field."""
        last = None
        for column, number in enumerate(numbers):
            which = bisect_right(self._starts, number) - 1
            source = self._sources[which]
            field, first = divmod(number - self._starts[which], source.meta["val"].size(-1))
            if last and (last.source, last.field, last.first + last.width) == (source, field, first):
                last = replace(last, width=last.width + 1)
                continue
            if last is not None:
                yield last
            last = Block(source, field, 1, first, 1, column)
        if last is not None:
            yield last

    def _of(self, node: Node) -> Any:
        """A number for each in a row, int64 of its shape; by part of a split."""
        if node not in self._known:
            found = self._followed(node)
            self._known[node] = self._new(node) if found is None else found
        return self._known[node]

    def _new(self, node: Node) -> Tensor:
        shape = node.meta["val"].shape[1:]
        self._sources.append(node)
        self._starts.append(self._starts[-1] + math.prod(shape))
        return torch.arange(*self._starts[-2:]).view(shape)

    def _followed(self, node: Node) -> Any:
        """Through an operation that computes nothing; None where it computes, or mixes rows."""
        if node.target is operator.getitem and _is_followed(_args(node)[0]):
            return self._of(_args(node)[0])[_args(node)[1]]
        if node.target in _SAME:
            return self._of(_args(node)[0])
        if not _is_followed(node):
            return None
        if node.target in _RESHAPES:
            return self._of(_args(node)[0]).reshape(node.meta["val"].shape[1:])
        operation: Any = node.target
        arguments = map_arg(node.args, lambda source: self._of(source).unsqueeze(0))
        found = operation(*arguments, **node.kwargs)
        return found[0] if isinstance(found, Tensor) else tuple(part[0] for part in found)


def _args(node: Node) -> tuple[Any, ...]:
    """Without the many types that an argument may have."""
    return node.args


def _follows(block: Block, piece: Block) -> bool:
    """Whether a piece is of the field after a block's, and cut alike."""
    expected = (block.source, block.field + block.n_fields, block.first, block.width)
    return (piece.source, piece.field, piece.first, piece.width) == expected


def _is_followed(node: Node) -> bool:
    if node.target not in _RESHAPES | _CUTS:
        return False
    given = node.meta["val"]
    values = [source.meta["val"] for source in node.all_input_nodes]
    values += given if isinstance(given, list | tuple) else [given]
    return _keeps_rows(*(value for value in values if isinstance(value, Tensor)))


def _keeps_rows(*values: Tensor) -> bool:
    """Whether tensors have the same first dimension, and rows of a fixed shape each."""
    if not all(value.dim() > 1 for value in values):
        return False
    fixed = all(isinstance(size, int) for value in values for size in value.shape[1:])
    return fixed and len({str(value.size(0)) for value in values}) == 1


def _is_of_user(source: Node, user: Node) -> bool:
    return source.target is aten.index_select.default and _args(source)[1:] == (0, user)


def _can_be_shared(node: Node, blocks: Sequence[Block]) -> bool:
    """Whether the operation is one of the forms above, over whole rows."""
    if any(block.source.meta["val"].dim() > 3 for block in blocks):
        return False
    if node.target is aten.linear.default:
        return _args(node)[0].meta["val"].dim() == 2
    if node.target is aten.linalg_vecdot.default:
        return _args(node)[0] is _args(node)[1] and not node.kwargs and _args(node)[0].meta["val"].dim() == 2
    width = _args(node)[0].meta["val"].size(-1)
    return (
        list(_args(node)[1:]) == [[1]] and not node.kwargs and all(block.width == width for block in blocks)
    )


def _put_shares(graph: Graph, node: Node, user: Node, own: Sequence[Block], users: Sequence[Block]) -> None:
    """Put the sum of the candidate's and the user's share in the place of an operation."""
    share = _SHARES[node.target]
    with graph.inserting_before(node):
        total = _call(graph, aten.index_select.default, share(graph, node, users, True), 0, user)
        if own:
            total = _call(graph, aten.add.Tensor, share(graph, node, own, False), total)
    node.replace_all_uses_with(total)
    graph.erase_node(node)


def _layer(graph: Graph, layer: Node, blocks: Sequence[Block], of_users: bool) -> Node:
    """The share of some columns of a linear layer; the bias is in the users'."""
    weight, *bias = _args(layer)[1:]
    x = _joined(graph, [_flat(graph, _cut(graph, block, of_users)) for block in blocks])
    columns: list[list[int]] = []
    for block in blocks:
        if columns and columns[-1][1] == block.column:
            columns[-1][1] += block.length
        else:
            columns.append([block.column, block.column + block.length])
    cut = [_call(graph, aten.slice.Tensor, weight, 1, start, stop) for start, stop in columns]
    return _call(graph, aten.linear.default, x, _joined(graph, cut), *(bias if of_users else []))


def _sum(graph: Graph, node: Node, blocks: Sequence[Block], of_users: bool) -> Node:
    """The share of some fields of their sum."""
    cut = [_cut(graph, block, of_users) for block in blocks]
    whole = (_call(graph, aten.sum.dim_IntList, x, [1]) if x.meta["val"].dim() > 2 else x for x in cut)
    return _added(graph, whole)


def _squares(graph: Graph, node: Node, blocks: Sequence[Block], of_users: bool) -> Node:
    """The share of some numbers of the sum of squares."""
    flat = (_flat(graph, _cut(graph, block, of_users)) for block in blocks)
    return _added(graph, (_call(graph, aten.linalg_vecdot.default, x, x) for x in flat))


_SHARES: dict[Any, Callable[[Graph, Node, Sequence[Block], bool], Node]] = {
    aten.linear.default: _layer,
    aten.sum.dim_IntList: _sum,
    aten.linalg_vecdot.default: _squares,
}


def _cut(graph: Graph, block: Block, of_user: bool) -> Node:
    """A block as a tensor: [B, fields, width], or [B, width] of one field; of a user's, U rows in the place of B."""
    source = _args(block.source)[0] if of_user else block.source
    if source.meta["val"].dim() == 3:
        stop = block.field + block.n_fields
        source = _call(graph, aten.slice.Tensor, source, 1, block.field, stop)
    return _call(graph, aten.slice.Tensor, source, -1, block.first, block.first + block.width)


def _flat(graph: Graph, source: Node) -> Node:
    return _call(graph, aten.flatten.using_ints, source, 1) if source.meta["val"].dim() > 2 else source


def _joined(graph: Graph, parts: Sequence[Node]) -> Node:
    return parts[0] if len(parts) == 1 else _call(graph, aten.cat.default, list(parts), 1)


def _added(graph: Graph, parts: Iterable[Node]) -> Node:
    return reduce(lambda one, other: _call(graph, aten.add.Tensor, one, other), parts)


def _call(graph: Graph, target: Callable[..., Any], *arguments: Any) -> Node:
    """A new operation, with what the compiler wants to know of its result."""
    node = graph.call_function(target, arguments)
    node.meta["val"] = target(*map_arg(arguments, lambda source: source.meta["val"]))
    return node
