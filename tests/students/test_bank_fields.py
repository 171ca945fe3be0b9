"""Members with fields of what the teacher left behind, and rows of other surfaces: as those trained one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from distill.batch import Batch
from distill.dataset import DataSet
from distill.delay import Unlabelled
from distill.errors import UserError
from distill.module import DistillModule
from distill.other_surfaces import OthersFirst, other_surfaces
from distill.protocols import Architecture, Channel
from distill.stream import DayStream
from distill.tensor_file import write_tensors
from distill.training import DayCallback, DayData, fit
from students.bank import Bank, BankModule, Member
from tests.distill.prepared_data import DENSE
from tests.distill.tiny_training import Memory, Silence
from tests.students.bank_training import (
    BATCH,
    FEATURES,
    PLAN,
    Days,
    One,
    Uncounted,
    make,
    state_of,
    write_days,
)

Channels = dict[str, dict[str, Any]]
REPR: dict[str, Any] = {"group": "both", "dim": 6, "history_length": 3}
SHARING: dict[str, Any] = {"dim": 8, "tables": ["user_id", "tags"]}
ALL: Channels = {"ah": {"other_surfaces": 1.0}, "adapter": {}, "repr": REPR, "sharing": SHARING}
LABELS: Channels = {
    "ah": {"other_surfaces": 0.5},
    "adapter": {"other_surfaces": 0.5, "labels": "all", "head": "serving", "surface": True},
}
LEVELS: Channels = {
    "single": {"other_surfaces": 1.0, "target": "labels", "level": "labels"},
    "adapter": {"other_surfaces": 1.0, "labels": "all", "head": "serving", "level": "labels"},
    "sharing": SHARING,
}


def members(channels: Channels) -> list[One]:
    """Two of seeds and settings of their own."""
    other = {name: options | ({"weight": 2.0} if name == "ah" else {}) for name, options in channels.items()}
    settings = {"clip_norm": 0.05, "learning_rate": 0.02, "weight_decay": 0.1, "table_learning_rate": 0.3}
    return [One(0, channels), One(1, other, settings)]


@dataclass(frozen=True)
class World:
    """Days, and the teacher's snapshots of the evenings before them.

    Attributes:
        data: the data set.
        snapshots: by day; none before the first.
    """

    data: DataSet
    snapshots: Mapping[int, Path | None]

    def days(
        self, model: Architecture, channels: Mapping[str, Channel], double: bool
    ) -> Callable[[int, bool], IterableDataset]:
        """Rows of feed; from day 2 on those of reels are learnt from first, where a channel asks for them."""
        asked = other_surfaces(channels.values())

        def day_of(day: int, training: bool) -> Days:
            read = partial(
                DayStream, self.data, day, BATCH, FEATURES, DENSE, history_length=model.history_length
            )
            own = read(domains=["feed"])
            if not training or day == 1 or not asked:
                return Days(own, double)
            labelled = any(channel.other_labels for channel in channels.values())
            rule = None if labelled else Unlabelled(self.data.schema)
            others = read(domains=["reels"], labels=rule, own=False)
            return Days(OthersFirst(others, own), double)

        return day_of

    def begin(self, channels: Mapping[str, Channel], day: int) -> None:
        for channel in channels.values():
            channel.begin_day(day, self.snapshots[day])

    def fit(self, module: DistillModule, channels: Mapping[str, Channel], double: bool) -> None:
        """Through the real trainer."""
        callback = DayCallback(PLAN, Silence(), {}, "one", before_day=partial(self.begin, channels))
        fit(module, DayData(self.days(module.model, channels, double), PLAN), callback)

    def batches(self, bank: Bank) -> list[Batch]:
        """Those of day 2, of which half are others'."""
        return list(self.days(bank.plain, bank.forms, False)(2, True))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    data = write_days(folder / "small")
    snapshots: dict[int, Path | None] = {1: None}
    for day in (2, 3):
        generator, tensors = torch.Generator().manual_seed(day), {}
        for name in SHARING["tables"]:
            rows = data.schema.sparse[name].size
            tensors[f"tables.{name}.weight"] = torch.randn(rows, SHARING["dim"], generator=generator)
            tensors[f"tables.{name}.momentum"] = (
                torch.arange(rows).clamp_max(1).float()
            )  # row 0 was never seen
        snapshots[day] = folder / f"{day}.safetensors"
        write_tensors(folder / f"{day}.safetensors", tensors, {})
    return World(data, snapshots)


def makes_of(
    world: World, kind: str, chosen: Sequence[One], double: bool = False, **options: Any
) -> list[Callable[[], Member]]:
    return [partial(make, kind, world.data, one, double, **options) for one in chosen]


def of_encoder(encoder: str) -> Channels:
    return {"repr": REPR | {"encoder": encoder}, "ah": {}}


LEARNED: Channels = {"sharing": SHARING | {"projection": "learned", "unseen": "mean"}}
FROZEN: Channels = {"sharing": SHARING | {"copies": "frozen"}}
LONGER: Channels = {"rawid": {"history_length": 5, "encoder": "sum"}, "pfd": {"warmup_examples": 20}}
SHORTER: Channels = {"rawid": {"history_length": 2}} | LABELS

FORMS: list[tuple[str, bool, Channels, dict[str, Any]]] = [
    ("deepfm", True, ALL, {}),
    ("deepfm", False, ALL, {"history_length": 4}),
    ("dlrm", True, of_encoder("mean") | LEARNED, {}),
    ("dcn_v2", True, of_encoder("din") | FROZEN, {}),
    # The channel reads more of the history than the student, and less.
    ("dcn_v2", True, LONGER, {"history_length": 3}),
    ("din", True, SHORTER, {"history_length": 4}),
    ("deepfm", True, LEVELS, {}),
]


@pytest.mark.parametrize(("kind", "double", "channels", "options"), FORMS)
def test_members_are_those_trained_one_by_one(
    world: World, kind: str, double: bool, channels: Channels, options: dict[str, Any]
) -> None:
    near: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9} if double else {"rtol": 1e-2, "atol": 2e-3}
    makes = makes_of(world, kind, members(channels), double, **options)
    bank, memories = Bank(makes), [Memory() for _ in makes]
    module = BankModule([bank], [memories])
    world.fit(module, bank.forms, double)
    assert bank.frozen == {}
    for place, made in enumerate(makes):
        member, alone = made(), Memory()
        start = {name: parameter.clone() for name, parameter in member.model.inputs.named_parameters()}
        kept = (Uncounted if double else DistillModule)(
            member.model, member.channels, member.optimizer, alone
        )
        world.fit(kept, member.channels, double)
        found, expected = bank.export(place), state_of(member)
        assert all(not torch.equal(expected[f"inputs.{name}"], tensor) for name, tensor in start.items())
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, **near), name
        for day, logits in alone.days.items():
            torch.testing.assert_close(memories[place].days[day], logits, **near)


def everything(
    world: World, chosen: Sequence[One], spoiled: int | None = None
) -> tuple[Bank, list[dict[str, Any]]]:
    """Through a day, half of whose rows are others'; a member may be spoiled before the third batch."""
    bank = Bank(makes_of(world, "deepfm", chosen))
    world.begin(bank.forms, 2)
    for index, batch in enumerate(world.batches(bank)):
        if index == 2 and spoiled is not None:
            with torch.no_grad():
                dict(bank.trunk.named_parameters())["inputs.repr.encoders.user.output.weight"][spoiled] = (
                    torch.nan
                )
        bank.step(batch, index)
    return bank, [bank.export(member) for member in range(bank.size)]


def test_a_member_that_is_not_finite_is_frozen_and_the_others_stay_bit_identical(world: World) -> None:
    bank, found = everything(world, members(ALL), spoiled=1)
    _, expected = everything(world, members(ALL))
    assert list(bank.frozen) == [1] and bank.frozen[1].startswith("loss is nan on day 2, batch 2")
    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(found[0][name], tensor) for name, tensor in expected[0].items())


def test_a_member_exports_as_a_plain_student_with_the_teachers_tables(world: World) -> None:
    bank, states = everything(world, members(ALL))
    batch = world.batches(bank)[-1]
    for place, made in enumerate(makes_of(world, "deepfm", members(ALL))):
        plain = made().model
        plain.load_state_dict(states[place])
        torch.testing.assert_close(plain(batch).logits, bank.predict(batch)[place])


def test_a_bank_goes_on_bit_identical_from_its_state(world: World) -> None:
    whole, expected = everything(world, members(ALL))
    first, second = (Bank(makes_of(world, "deepfm", members(ALL))) for _ in range(2))
    world.begin(first.forms, 2)
    batches = world.batches(first)
    for batch in batches[:5]:
        first.step(batch)
    second.load_state_dict(first.state_dict())
    for batch in batches[5:]:
        second.step(batch)
    assert second.forms["sharing"].training_state() == {"taken": str(world.snapshots[2])}
    for member, of_member in enumerate(expected):
        found = second.export(member)
        assert all(torch.equal(found[name], tensor) for name, tensor in of_member.items())
    for name, values in whole.means().items():
        assert torch.equal(second.means()[name], values), name


def test_members_that_learn_from_others_rows_by_other_channels_are_refused(world: World) -> None:
    one = One(1, {"adapter": {"other_surfaces": 1.0}})
    with pytest.raises(UserError, match=r"member 1: other_surfaces: got \{'adapter': 1.0\}, allowed: \{\}"):
        Bank(makes_of(world, "deepfm", [One(0), one]))


def test_copies_that_are_trained_are_refused(world: World) -> None:
    one = One(0, {"sharing": SHARING | {"copies": "trained"}})
    with pytest.raises(UserError, match="member 0: got channel 'sharing' with these settings"):
        Bank(makes_of(world, "deepfm", [one]))
