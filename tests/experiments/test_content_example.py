"""The worked example of content vectors: titles become vectors, vectors reach a student, and the student learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from distill.config import DataConfig, OptimizerConfig, StudentConfig
from distill.dataset import DataSet
from distill.errors import UserError
from distill.losses import label_loss
from distill.progress import NoProgress
from distill.protocols import Architecture
from distill.sources.config import ParquetConfig
from distill.sources.parquet import prepare
from distill.stream import DayStream
from experiments.examples.fill_content import encode, main
from experiments.pipeline.build import build_model

EXAMPLES = Path(__file__).parents[2] / "experiments" / "examples"
ITEMS, ROWS = 40, 400
FIRST_MS = 1_767_225_600_000  # the first of January 2026
WORDS = ("cats", "dogs", "tax law", "")


def word(item: int) -> str:
    """Title of an item; one in four has none."""
    return WORDS[item % 4]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """One day of rows, whose clicks depend on the words of the title alone; vectors by the example's own command."""
    folder = tmp_path_factory.mktemp("example")
    root = folder / "my_data"
    (root / "date=2026-01-01").mkdir(parents=True)
    item = np.random.default_rng(0).integers(0, ITEMS, ROWS)
    columns = {
        "example_id": range(ROWS),
        "user_id": [0] * ROWS,
        "timestamp": range(FIRST_MS, FIRST_MS + ROWS),
        "domain": ["feed"] * ROWS,
        "item_id": item,
        "label_click": [int(word(i) in ("cats", "")) for i in item],
    }
    pq.write_table(pa.table(columns), root / "date=2026-01-01" / "rows.parquet")
    schema = {
        "name": "tiny",
        "domains": ["feed"],
        "tasks": {"click": {}},
        "sparse": {"user_id": {"size": 1}, "item_id": {"size": ITEMS, "group": "item"}},
        "content": {"text": {"width": 64}},
    }
    (root / "schema.yaml").write_text(yaml.safe_dump(schema))
    titles = "".join(f"{i},{word(i)}\n" for i in range(ITEMS))
    (folder / "titles.csv").write_text("item_id,title\n" + titles)
    main([str(folder / "titles.csv"), str(root / "content" / "text.parquet")])
    prepare(ParquetConfig(), DataConfig(source="parquet", root=str(root)), folder / "prepared", NoProgress())
    return DataSet.open(folder / "prepared")


def build(data: DataSet, content: list[str]) -> Architecture:
    """The example's student, without the ids of items: all it can know of them is in their vectors."""
    student = StudentConfig(
        name="reader",
        architecture="content_student.py:ContentStudent",
        options={"hidden": 8, "dim": 4},
        features=["user_id"],
        content=content,
    )
    return build_model("student", student, OptimizerConfig(), data.schema, 0, EXAMPLES)


def test_the_hash_is_of_words() -> None:
    vectors = encode(["Cats and dogs", "dogs and cats", "cats", ""], width=16)
    assert np.array_equal(vectors[0], vectors[1])
    assert np.linalg.norm(vectors[:3], axis=1) == pytest.approx(1.0)
    assert np.count_nonzero(vectors[2]) == 1 and not vectors[3].any()


def test_titles_become_vectors_and_the_untitled_are_missing(data: DataSet) -> None:
    text = next(iter(DayStream(data, 1, ROWS, ["item_id"], content=["text"]))).content["text"]
    items = next(iter(DayStream(data, 1, ROWS, ["item_id"]))).sparse["item_id"].values()
    assert text.item_known.tolist() == [word(int(i)) != "" for i in items]
    expected = torch.from_numpy(encode([word(int(i)) for i in items]))
    torch.testing.assert_close(text.item, expected, atol=5e-4, rtol=0)


def test_a_day_of_training_finds_what_only_the_vectors_tell(data: DataSet) -> None:
    model = build(data, ["text"])
    assert model.content == ("text",)
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for batch in DayStream(data, 1, 20, model.features, content=model.content):
        adam.zero_grad()
        loss = label_loss(model(batch).logits, batch.labels, batch.label_mask)
        loss.backward()
        adam.step()
        losses.append(loss.item())
    # Half of the rows are clicks: whoever knows no item stays at log 2 = 0.69.
    assert np.mean(losses[-3:]) < 0.2


def test_it_does_not_go_without_content(data: DataSet) -> None:
    with pytest.raises(
        UserError, match="content: got nothing, allowed: at least one modality; ContentStudent needs"
    ):
        build(data, [])


def test_an_unknown_modality_is_named(data: DataSet) -> None:
    with pytest.raises(UserError, match="content: got 'txt', allowed: text. Did you mean 'text'"):
        build(data, ["txt"])
