"""Files that somebody has changed: refused by name or as good as before, never another kind of error, never a hang."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.checkpoint import file_hash
from distill.dataset import DataSet
from distill.errors import DataError, LogError, UserError
from distill.log_files import LogManifest, RepresentationFacts
from distill.schema import FeatureSchema
from distill.sources.writer import MANIFEST
from distill.teacher_log import TeacherLog, write_day
from tests.distill.prepared_data import small_schema, write_small

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "60"))
"""Mutations of each kind; set it to thousands for a long search."""

TASKS = ("click", "order")
IDS = np.arange(40) * 3
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.floats(),
    st.sampled_from(
        ["", "../../x", "/etc/passwd", "click", "???", "${x}", "\0", "9" * 5000, "!!python/name:os.system"]
    ),
    st.text(max_size=4),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in mappings and lists."""
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in list(items):
        yield content, key
        yield from places(value)


def mutated(content: Any, data: st.DataObject) -> Any:
    """The content with one to three values replaced, keys renamed or left out."""
    content = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(places(content)) or [({"": None}, "")]))
        what = data.draw(st.sampled_from(["replace", "replace", "rename", "leave out"]))
        if what == "replace" or isinstance(container, list):
            container[key] = data.draw(JUNK)
        else:
            value = container.pop(key)
            if what == "rename":
                container[data.draw(st.text(max_size=4))] = value
    return content


@pytest.fixture(scope="module", params=["int8", "int4"])
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of one day with representations; its folder."""
    folder = tmp_path_factory.mktemp("log") / "lag-1"
    random = np.random.default_rng(0)
    facts = RepresentationFacts(["user"], 4, [], request.param)
    manifest = LogManifest("gem", "c" * 64, 7, 9, 1, "f" * 64, "s", list(TASKS), 0, representation=facts)
    write_day(folder, IDS, random.normal(size=(40, 2)), manifest, random.uniform(-1, 1, (40, 4)))
    return folder


def join(folder: Path, representation: bool) -> torch.Tensor:
    """The logits of every example."""
    log = TeacherLog(folder, TASKS, TASKS, "f" * 64, {9: 7}, representation)
    return log.join(torch.from_numpy(IDS), 9).logits


@settings(max_examples=EXAMPLES)
@given(data=st.data(), representation=st.booleans())
def test_mutated_manifest_of_a_log(
    log: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, representation: bool
) -> None:
    expected, folder = join(log, representation), tmp_path_factory.mktemp("mutated")
    facts = json.loads((log / "day-0009.json").read_text())
    (folder / "day-0009.json").write_text(json.dumps(mutated(facts, data)))
    os.link(log / "day-0009.parquet", folder / "day-0009.parquet")
    try:
        assert torch.equal(join(folder, representation), expected)
    except UserError as error:
        assert "day-0009" in str(error)


def test_centroids_of_different_lengths(log: Path, tmp_path: Path) -> None:
    facts = json.loads((log / "day-0009.json").read_text())
    facts["representation"] |= {"codec": "int4", "centroids": [[0.0] * 16, [0.0]]}
    (tmp_path / "day-0009.json").write_text(json.dumps(facts))
    os.link(log / "day-0009.parquet", tmp_path / "day-0009.parquet")
    with pytest.raises(LogError, match="day-0009.parquet: representation: "):
        join(tmp_path, representation=True)


@settings(max_examples=EXAMPLES)
@given(data=st.data(), believed=st.booleans())
def test_mutated_bytes_of_a_log(
    log: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, believed: bool
) -> None:
    """Also where the manifest was changed with them, so that the checksum says nothing."""
    folder = tmp_path_factory.mktemp("mutated")
    content = bytearray((log / "day-0009.parquet").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(len(content) // 2, len(content)))]
    (folder / "day-0009.parquet").write_bytes(content)
    facts = json.loads((log / "day-0009.json").read_text())
    if believed:
        facts["checksum"] = file_hash(folder / "day-0009.parquet")
    (folder / "day-0009.json").write_text(json.dumps(facts))
    try:
        join(folder, representation=True)
    except UserError as error:
        assert "day-0009" in str(error) or "teacher log" in str(error)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("logit_click", None),
        ("logit_click", pa.array(["1.5"] * 40)),
        ("logit_click", pa.array([None] + [0.5] * 39, pa.float32())),
        ("logit_click", pa.array([[0.5]] * 40)),
        ("logit_click", pa.array([float("nan")] * 40, pa.float32())),
        ("example_id", pa.array([None, *IDS[1:]], pa.int64())),
        ("example_id", pa.array([str(value) for value in IDS])),
        ("representation", None),
        ("representation", pa.array([b"abc"] * 40, pa.binary(3))),
        ("representation", pa.array([None] * 40, pa.binary(4))),
        ("representation", pa.array(["abcd"] * 40)),
    ],
)
def test_log_of_other_columns_with_a_manifest_to_match(
    log: Path, tmp_path: Path, column: str, values: pa.Array | None
) -> None:
    table = pq.read_table(log / "day-0009.parquet")
    place = table.column_names.index(column)
    table = table.remove_column(place)
    if values is not None:
        table = table.add_column(place, column, values)
    pq.write_table(table, tmp_path / "day-0009.parquet")
    facts = json.loads((log / "day-0009.json").read_text())
    facts["checksum"] = file_hash(tmp_path / "day-0009.parquet")
    (tmp_path / "day-0009.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=column):
        join(tmp_path, representation=True)


@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_mutated_schema(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "schema.yaml"
    small_schema().save(path)
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(mutated(content, data), allow_unicode=True))
    try:
        schema = FeatureSchema.load(path)
    except DataError as error:
        assert "schema" in str(error)
    else:
        schema.save(path)
        assert FeatureSchema.load(path) == schema


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['touch x']",
        "a: &a [x, x]\nname: *a",
        "name: " + "[" * 5000,
        "name: \xff",
    ],
)
def test_schema_that_is_more_than_plain_values(tmp_path: Path, text: str) -> None:
    (tmp_path / "schema.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="^schema: "):
        FeatureSchema.load(tmp_path / "schema.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["schema.yaml"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_small(tmp_path_factory.mktemp("data") / "small")


@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_mutated_manifest_of_a_data_set(prepared: DataSet, data: st.DataObject) -> None:
    path = prepared.folder / MANIFEST
    whole = path.read_text()
    path.write_text(json.dumps(mutated(json.loads(whole), data)))
    try:
        found = DataSet.open(prepared.folder)
    except DataError:
        pass
    else:
        assert found.folder == prepared.folder and found.schema == prepared.schema
    finally:
        path.write_text(whole)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "\xff", "null", "[]", '"x"', "NaN", ""])
def test_manifest_that_is_no_object(prepared: DataSet, tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=MANIFEST):
        DataSet.open(tmp_path)
