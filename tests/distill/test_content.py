"""Content vectors in the prepared form: written whole or not at all, looked up by item, damage and bad input named."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.content import ContentStore
from distill.dataset import DataSet
from distill.errors import DataError
from distill.schema import Content, FeatureSchema
from distill.sources import content as builder_module
from distill.sources.content import ContentBuilder
from distill.sources.writer import PreparedWriter
from tests.distill.prepared_data import day_table, small_schema

# Items 0 to 6; 1, 3 and 6 have no image. 0.1 in half precision is 0.0999755859375.
ITEMS = np.array([5, 0, 4, 2])
VECTORS = np.array([[5.0, 0.5], [0.1, -1.0], [4.0, 65504.0], [2.0, 0.0]])
ROWS = [[0.0999755859375, -1.0], [0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [4.0, 65504.0], [5.0, 0.5], [0.0, 0.0]]
KNOWN = [True, False, True, False, True, True, False]


def schema(**widths: int) -> FeatureSchema:
    return replace(small_schema(1), content={name: Content(name, width) for name, width in widths.items()})


def writer(folder: Path, **widths: int) -> PreparedWriter:
    return PreparedWriter(folder, schema(**widths), source="test", fingerprint="f" * 64)


def write(folder: Path) -> DataSet:
    with writer(folder, image=2, text=1) as out:
        out.write_day(1, day_table(1))
        out.add_content("image", ITEMS[:1], VECTORS[:1])
        out.add_content("text", np.array([6]), np.array([[0.25]]))
        out.add_content("image", ITEMS[1:], VECTORS[1:])
    return DataSet.open(folder)


def store(data: DataSet, *names: str) -> ContentStore:
    return ContentStore(data.content_folder, data.schema, names or None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write(tmp_path_factory.mktemp("content") / "d")


# Looking up


def test_every_item_has_its_vector_or_none(data: DataSet) -> None:
    vectors, known = store(data).look_up("image", torch.arange(7))
    assert vectors.dtype == torch.float32 and known.dtype == torch.bool
    assert vectors.tolist() == ROWS
    assert known.tolist() == KNOWN


def test_items_come_in_the_order_asked_for_and_any_number_of_times(data: DataSet) -> None:
    vectors, known = store(data).look_up("image", torch.tensor([2, 3, 2, 5]))
    assert vectors.tolist() == [[2.0, 0.0], [0.0, 0.0], [2.0, 0.0], [5.0, 0.5]]
    assert known.tolist() == [True, False, True, True]


def test_no_item_has_no_vector(data: DataSet) -> None:
    vectors, known = store(data).look_up("image", torch.zeros(0, dtype=torch.int64))
    assert vectors.shape == (0, 2) and known.shape == (0,)


def test_modalities_are_apart(data: DataSet) -> None:
    opened = store(data)
    assert opened.names == ("image", "text")
    vectors, known = opened.look_up("text", torch.tensor([6, 5]))
    assert vectors.tolist() == [[0.25], [0.0]] and known.tolist() == [True, False]


def test_a_pickled_store_opens_itself(data: DataSet) -> None:
    copy = pickle.loads(pickle.dumps(store(data, "text")))
    assert copy.names == ("text",)
    assert copy.look_up("text", torch.tensor([6]))[0].tolist() == [[0.25]]


@pytest.mark.parametrize("item", [-1, 7])
def test_an_item_outside_the_table_is_refused(data: DataSet, item: int) -> None:
    with pytest.raises(DataError, match=f"content.image: got item_id {item}, allowed: 0 to 6"):
        store(data).look_up("image", torch.tensor([0, item]))


def test_an_unknown_modality_is_refused_with_the_nearest(data: DataSet) -> None:
    with pytest.raises(DataError, match=r"got 'imag', allowed: image, text\. Did you mean 'image'\?"):
        store(data, "imag")


def test_a_data_set_without_content_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"got 'image', allowed: none \(the data set has no content vectors\)"
    ):
        ContentStore(tmp_path, small_schema(1), ["image"])


# Damage


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "d")
    (data.content_folder / "image" / "known.npy").unlink()
    with pytest.raises(DataError, match=r"image/known\.npy: not readable .*it is made anew"):
        store(data)
    store(data, "text")


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "d")
    path = data.content_folder / "text" / "vectors.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"text/vectors\.npy: not readable"):
        store(data)


def test_a_file_of_another_shape_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "d")
    np.save(data.content_folder / "image" / "vectors.npy", np.zeros((7, 3), np.float16))
    with pytest.raises(DataError, match=r"vectors\.npy: got float16 \[7, 3\], allowed: float16 \[7, 2\]"):
        store(data)


# Writing


def test_chunks_change_nothing(data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder_module, "CHUNK", 3)
    again = write(tmp_path / "d")
    for name in ("image/vectors.npy", "image/known.npy", "text/vectors.npy"):
        assert (again.content_folder / name).read_bytes() == (data.content_folder / name).read_bytes()


def test_scratch_files_are_gone(data: DataSet) -> None:
    names = sorted(
        path.relative_to(data.content_folder).as_posix() for path in data.content_folder.glob("*/*")
    )
    assert names == ["image/known.npy", "image/vectors.npy", "text/known.npy", "text/vectors.npy"]


def test_an_empty_part_is_every_item_missing(tmp_path: Path) -> None:
    builder = ContentBuilder(tmp_path, schema(image=2), "test")
    builder.append("image", np.zeros(0, np.int64), np.zeros((0, 2)))
    builder.build()
    vectors, known = ContentStore(tmp_path, schema(image=2)).look_up("image", torch.arange(7))
    assert not vectors.any() and not known.any()


BAD = [
    (
        "image",
        [0],
        [[1.0]],
        r"test: content\.image: got vectors of shape \[1, 1\] for 1 items, allowed: \[1, 2\]",
    ),
    ("image", [0, 1], [[1.0, 2.0]], r"got vectors of shape \[1, 2\] for 2 items, allowed: \[2, 2\]"),
    (
        "image",
        [0, 4],
        [[1.0, 2.0], [3.0, float("nan")]],
        "got nan in the vector of item_id 4, allowed: numbers",
    ),
    ("image", [3], [[float("-inf"), 0.0]], "got -inf in the vector of item_id 3"),
    ("image", [3], [[70000.0, 0.0]], "got 70000.0 in the vector of item_id 3, .* from -65504 to 65504"),
    ("image", [7], [[0.0, 0.0]], "got item_id 7, outside its table, allowed: 0 to 6"),
    ("image", [-1], [[0.0, 0.0]], "got item_id -1, outside its table"),
    ("image", [2, 1, 2], [[0.0, 0.0]] * 3, r"item_id: 1 items have two vectors \(2\), allowed: one each"),
    ("imagee", [0], [[0.0, 0.0]], "content: got 'imagee', allowed: image. Did you mean 'image'"),
]


@pytest.mark.parametrize(("name", "item", "vectors", "message"), BAD)
def test_bad_vectors_are_named_and_nothing_is_left(
    tmp_path: Path, name: str, item: list, vectors: list, message: str
) -> None:
    with pytest.raises(DataError, match=message), writer(tmp_path / "d", image=2) as out:
        out.write_day(1, day_table(1))
        out.add_content(name, np.array(item), np.array(vectors))
    assert list(tmp_path.iterdir()) == []


def test_an_item_in_two_parts_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"1 items have two vectors \(5\)"),
        writer(tmp_path / "d", image=2) as out,
    ):
        out.write_day(1, day_table(1))
        out.add_content("image", ITEMS, VECTORS)
        out.add_content("image", ITEMS[:1], VECTORS[:1])


def test_a_modality_that_never_comes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="test: content: got no vectors of text, which the schema names"):
        with writer(tmp_path / "d", image=2, text=1) as out:
            out.write_day(1, day_table(1))
            out.add_content("image", ITEMS, VECTORS)


def test_a_schema_without_content_takes_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"content: got 'image', allowed: none \(the schema has no content\)"):
        with writer(tmp_path / "d") as out:
            out.add_content("image", ITEMS, VECTORS)
