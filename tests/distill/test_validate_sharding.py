"""What the `sharding` section of an experiment may say, and that it changes no result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.distill.experiment_files import experiment, load, problems, toy_registries


@pytest.fixture(autouse=True)
def _toys() -> Iterator[None]:
    with toy_registries():
        yield


KINDS = "row_wise, table_wise, data_parallel"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"tables": "row"},
            f"sharding.tables: got 'row'; allowed: {KINDS}. Did you mean 'row_wise'?",
        ),
        ({"kinds": {"item_id": "grid"}}, f"sharding.kinds.item_id: got 'grid'; allowed: {KINDS}."),
        (
            {"kinds": {"itm_id": "row_wise"}},
            "sharding.kinds.itm_id: got 'itm_id'; allowed: user_id, item_id. Did you mean 'item_id'?",
        ),
        ({"group": -1}, "sharding.group: got -1; allowed: at least 0."),
        ({"dense": "fsdp"}, "sharding.dense: got 'fsdp'; allowed: ddp, fsdp2. Did you mean 'fsdp2'?"),
        ({"table": "row_wise"}, "sharding.table: got an unknown key; allowed: tables, kinds, group, dense."),
    ],
)
def test_a_mistake_is_named(section: dict[str, Any], message: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, experiment(sharding=section))
    assert message in found


def test_column_wise_is_refused_with_the_reason(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, experiment(sharding={"kinds": {"item_id": "column_wise"}}))
    assert (
        f"sharding.kinds.item_id: got 'column_wise'; allowed: {KINDS}; not column_wise, which splits rows"
        in found
    )
    assert "every piece would have a moment of its own, and that is another algorithm" in found


def test_tables_are_those_that_the_teacher_reads(tmp_path: Path) -> None:
    content = experiment(teacher__features=["item_id"], sharding={"kinds": {"user_id": "table_wise"}})
    (found,) = problems(tmp_path, content)
    assert "sharding.kinds.user_id: got 'user_id'; allowed: item_id." in found


def test_split_parameters_of_a_compiled_model_are_refused(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, experiment(teacher__compute={"compile": True}, sharding={"dense": "fsdp2"}))
    assert "sharding.dense: got 'fsdp2'; allowed: ddp with `teacher.compute.compile: true`" in found


def test_it_is_no_part_of_what_is_trained_but_for_copies_of_the_tables(tmp_path: Path) -> None:
    elsewhere = {"tables": "table_wise", "kinds": {"item_id": "data_parallel"}, "dense": "fsdp2"}
    nothing, same, copies, others = (
        load(tmp_path, experiment(sharding=section)).config_hash
        for section in ({}, elsewhere, elsewhere | {"group": 2}, elsewhere | {"group": 4})
    )
    assert nothing == same
    assert len({same, copies, others}) == 3
