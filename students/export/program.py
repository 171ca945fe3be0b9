"""The program of a served student: its own forward pass, with look-ups made of plain torch operations.

The student is copied, and in the copy the fused tables are replaced by look-ups in arrays that the caller hands over:
the arrays are arguments of the program, so that a folder holds them once, whatever runs the program.

Shape letters: B candidates, U users, F features of a table, D its width, T history events, k tasks of the student.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from distill.batch import Batch, Events, SharedHistory
from distill.protocols import Architecture
from kernels.embedding import Embedded, EmbeddingTables
from students.export.representations import past_of, signal_of
from students.export.signature import ARRAYS, ServedTable, Signature
from students.export.tables import gather, gather_bags


@dataclass(frozen=True)
class Request:
    """The arguments of a call by name; stands where a training batch has its ids.

    Attributes:
        signature: of the program.
        inputs: by name, as `signature.inputs` describes them; those that it does not name are absent.
        arrays: of each table.
    """

    signature: Signature
    inputs: Mapping[str, Tensor]
    arrays: Mapping[str, Sequence[Tensor]]

    def features(self, table: ServedTable) -> Tensor:
        """Rows of a table's features, [B, F, D], in the table's order."""
        where: dict[str, tuple[Tensor, int]] = {}
        for of_user in (True, False):
            for names, rows in self._parts(table, of_user):
                rows = rows.index_select(0, self.inputs["user"]) if of_user else rows
                where |= {name: (rows, place) for place, name in enumerate(names)}
        # As few slices as the order allows, and no index: `students.export.once` follows them.
        runs: list[tuple[Tensor, int, int]] = []
        for rows, place in (where[name] for name in table.first_rows):
            if runs and runs[-1][0] is rows and runs[-1][2] == place:
                runs[-1] = rows, runs[-1][1], place + 1
            else:
                runs.append((rows, place, place + 1))
        return torch.cat([rows[:, start:stop] for rows, start, stop in runs], dim=1)

    def events(self, table: ServedTable) -> Tensor:
        """Rows of the history's items, [T, D]."""
        first = table.first_rows[self.signature.item_feature]
        return gather(self.arrays[table.name], self.inputs["history_items"] + first)

    def _parts(self, table: ServedTable, of_user: bool) -> list[tuple[list[str], Tensor]]:
        """Features of users or of candidates with their rows, [U or B, features, D]: the single-valued ones in one."""
        arrays, parts = self.arrays[table.name], []
        single = [one.name for one in self.signature.single(of_user)]
        wanted = [name for name in single if name in table.first_rows]
        if wanted:
            ids = self.inputs["user_values" if of_user else "values"]
            ids = ids if wanted == single else ids[:, [single.index(name) for name in wanted]]
            first = torch.tensor([table.first_rows[name] for name in wanted], device=ids.device)
            parts.append((wanted, gather(arrays, ids + first)))
        for one in self.signature.features:
            if one.multi and one.of_user == of_user and one.name in table.first_rows:
                ids = self.inputs[f"values_{one.name}"] + table.first_rows[one.name]
                rows = gather_bags(arrays, ids, self.inputs[f"offsets_{one.name}"])
                parts.append(([one.name], rows.unsqueeze(1)))
        return parts


class ServedTables(nn.Module):
    """Stands for `EmbeddingTables` in the served student.

    Args:
        table: what it looks into.
    """

    def __init__(self, table: ServedTable):
        super().__init__()
        self.table = table

    def forward(self, request: Request, history_ids: Tensor | None = None) -> Embedded:
        return Embedded(
            request.features(self.table), None if history_ids is None else request.events(self.table)
        )


class ServedFields(nn.Module):
    """Stands for a channel's module whose fields are rows of a table (`distill.protocols.ServedRows`).

    Args:
        table: what it looks into.
    """

    def __init__(self, table: ServedTable):
        super().__init__()
        self.table = table

    def forward(self, batch: Batch, item: Tensor) -> Tensor:
        return cast(Request, batch.sparse).features(self.table)


class ServedStudent(nn.Module):
    """From the arguments of a call to the student's logits.

    Args:
        student: stays as it is; its dense parameters are copied.
        signature: names the arguments.
        replaced: the modules of the student whose tables stand among the arguments, by the table's name.
    """

    def __init__(self, student: Architecture, signature: Signature, replaced: Mapping[str, nn.Module]):
        super().__init__()
        self.signature = signature
        instead: dict[int, Any] = {}
        for table in signature.tables:
            module = replaced[table.name]
            kind = ServedTables if isinstance(module, EmbeddingTables) else ServedFields
            instead[id(module)] = kind(table)
        # What is in the memo is not copied: the copy gets what stands there.
        self.student = copy.deepcopy(student, instead).eval().requires_grad_(False)

    def forward(self, *arguments: Tensor) -> Tensor:
        """Logits float32 [B, k].

        Args:
            arguments: the arrays of the tables, then the inputs, in the order of the signature.
        """
        request = self._request(arguments)
        return self.student(self._batch(request)).logits

    def _request(self, arguments: Sequence[Tensor]) -> Request:
        names = ARRAYS[self.signature.precision]
        tables, end = self.signature.tables, len(names) * len(self.signature.tables)
        arrays = {
            table.name: arguments[place * len(names) : (place + 1) * len(names)]
            for place, table in enumerate(tables)
        }
        inputs = dict(zip(self.signature.input_names, arguments[end:], strict=True))
        return Request(self.signature, inputs, arrays)

    def _batch(self, request: Request) -> Batch:
        """The batch that the student's forward pass reads; what the program does not know of it is 0."""
        inputs = request.inputs
        zeros = torch.zeros_like(inputs["user"])
        dense = inputs.get("dense", zeros.unsqueeze(1)[:, :0].float())
        return Batch(
            day=0,
            example_id=zeros,
            user_id=zeros,
            timestamp=inputs.get("timestamp", zeros),
            domain=zeros,
            sparse=cast(Any, request),
            dense=dense,
            labels=dense,
            label_mask=dense,
            matured=dense,
            history=self._history(inputs),
            shared=self._shared(inputs),
            teacher=signal_of(inputs),
            past=past_of(inputs),
        )

    def _shared(self, inputs: Mapping[str, Tensor]) -> SharedHistory | None:
        if not self.signature.history_length:
            return None
        user = inputs["user"]
        nothing = user[:0]
        return SharedHistory(user, inputs.get("events", nothing), inputs.get("event_offsets", nothing))

    def _history(self, inputs: Mapping[str, Tensor]) -> Events | None:
        if not self.signature.history_length:
            return None
        item = inputs["history_items"]
        unknown = torch.full((item.size(0), len(self.signature.history_tasks)), -1, dtype=torch.int8)
        return Events(
            offsets=inputs["history_offsets"],
            item=item,
            time=inputs.get("history_times", torch.zeros_like(item)),
            domain=inputs.get("history_domains", torch.zeros_like(item)),
            labels=inputs.get("history_labels", unknown),
        )
