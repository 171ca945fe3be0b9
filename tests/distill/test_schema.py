"""The schema's content vectors: saved, loaded, checked, and absent from a schema that has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.errors import DataError
from distill.schema import Content, FeatureSchema
from tests.distill.prepared_data import small_schema

PLAIN: dict[str, Any] = {
    "name": "tiny",
    "domains": ["feed"],
    "tasks": {"click": {}},
    "sparse": {"item_id": {"size": 5}, "tags": {"size": 3, "multi": True}},
    "dense": ["price"],
}


def test_content_is_saved_and_loaded_in_order(tmp_path: Path) -> None:
    schema = replace(small_schema(), content={"text": Content("text", 3), "image": Content("image", 64)})
    schema.save(tmp_path / "schema.yaml")
    loaded = FeatureSchema.load(tmp_path / "schema.yaml")
    assert loaded == schema
    assert list(loaded.content) == ["text", "image"]
    assert yaml.safe_load((tmp_path / "schema.yaml").read_text())["content"] == {
        "text": {"width": 3},
        "image": {"width": 64},
    }


def test_a_schema_without_content_says_nothing_of_it(tmp_path: Path) -> None:
    small_schema().save(tmp_path / "schema.yaml")
    keys = list(yaml.safe_load((tmp_path / "schema.yaml").read_text()))
    assert keys == ["name", "domains", "verticals", "tasks", "sparse", "dense", "history", "days"]


@pytest.mark.parametrize("nothing", [{}, None])
def test_no_content_may_be_written_out(nothing: Any) -> None:
    assert FeatureSchema.from_mapping(PLAIN | {"content": nothing}).content == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image": {"width": 0}}, "schema: content.image.width: got 0, allowed: an integer >= 1"),
        ({"image": {"width": "64"}}, "schema: content.image.width: got '64', allowed: an integer >= 1"),
        ({"image": {"width": True}}, "schema: content.image.width: got True, allowed: an integer >= 1"),
        ({"image": {"widht": 4}}, "schema: content.image: unknown key 'widht', allowed: width. Did you mean"),
        ({"image": {}}, "schema: content.image: key 'width' is missing"),
        ({"image": 64}, "schema: content.image: got 64, allowed: a mapping with keys width"),
        (["image"], r"schema: content: got \['image'\], allowed: a mapping of at least one name"),
        ({"price": {"width": 4}}, "schema: content: got 'price', which is a feature already"),
        ({"tags": {"width": 4}}, "schema: content: got 'tags', which is a feature already"),
        ({"../up": {"width": 4}}, r"schema: content: got '\.\./up', allowed: a name of letters, digits and"),
        ({"": {"width": 4}}, "schema: content: got '', allowed: a name of letters"),
    ],
)
def test_wrong_content_is_named(content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        FeatureSchema.from_mapping(PLAIN | {"content": content})


def test_vectors_need_one_item_an_example() -> None:
    several = PLAIN | {"history": {"item": "tags"}, "content": {"image": {"width": 4}}}
    with pytest.raises(DataError, match=r"content: vectors belong to .* 'tags' \(history.item\) is multi"):
        FeatureSchema.from_mapping(several)
