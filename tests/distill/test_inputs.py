"""What a model asks of the schema."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distill.errors import UserError
from distill.inputs import check_inputs
from distill.schema import Content, FeatureSchema, SparseFeature, Task

SCHEMA = FeatureSchema(
    name="tiny",
    domains=("feed",),
    verticals=("feed",),
    days=(),
    tasks={"click": Task("click")},
    sparse={"item_id": SparseFeature("item_id", 5), "country": SparseFeature("country", 3)},
)


WITH_CONTENT = replace(SCHEMA, content={"image": Content("image", 4)})


def test_content_that_is_there_passes_without_the_items_ids() -> None:
    check_inputs(WITH_CONTENT, ["click"], ["country"], content=["image"])


@pytest.mark.parametrize(
    ("schema", "content", "message"),
    [
        (WITH_CONTENT, ["imag"], "content: got 'imag', allowed: image. Did you mean 'image'?"),
        (WITH_CONTENT, ["image"] * 2, "content: 'image' stands twice in image, image; name it once"),
        (SCHEMA, ["image"], "content: got 'image', allowed: none (the data set has none)."),
    ],
)
def test_content_refused(schema: FeatureSchema, content: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_inputs(schema, ["click"], ["country"], content=content)
    assert str(caught.value) == message


def test_what_is_there_passes() -> None:
    check_inputs(SCHEMA, ["click"], ["country", "item_id"], history_length=5)
    check_inputs(SCHEMA, ["click"], ["country"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["clik"], ["country"]), "tasks: got 'clik', allowed: click. Did you mean 'click'?"),
        (([], ["country"]), "tasks: got none, allowed: at least one of click"),
        (
            (["click"], ["contry"]),
            "features: got 'contry', allowed: item_id, country. Did you mean 'country'?",
        ),
        (
            (["click"], ["country", "country"]),
            "features: 'country' stands twice in country, country; name it once",
        ),
        (
            (["click"], ["country"], ["age"]),
            "dense: got 'age', allowed: none (the data set has none).",
        ),
        ((["click"], ["country"], [], -1), "options.history_length: got -1, allowed: 0 (no history) or more"),
        (
            (["click"], ["country"], [], 5),
            "features: got country; the history's items share the table of 'item_id': add it, or set "
            "options.history_length to 0",
        ),
    ],
)
def test_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_inputs(SCHEMA, *arguments)
    assert str(caught.value) == message
