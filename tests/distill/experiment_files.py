"""Registries of small made-up entries, and experiment files that ask for them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import yaml

from distill import registry
from distill.config import DataConfig
from distill.errors import ConfigErrors, DataError
from distill.load_config import LoadedConfig, load_config
from distill.schema import Content, DayInfo, FeatureSchema, SparseFeature, Task
from distill.sources.config import SourceConfig


@dataclass
class ToySourceConfig(SourceConfig):
    """Attributes:
    items: number of items.
    """

    items: int = 10


@dataclass
class FilesConfig(SourceConfig):
    """Nothing to set."""

    def files(self, data: DataConfig) -> list[Path]:
        """One file that must be there."""
        path = Path(data.root or "") / "rows.csv"
        if not path.is_file():
            raise DataError(f"data.root: no {path.name} in {data.root}")
        return [path]


@dataclass
class Inner:
    """Attributes:
    depth: layers.
    """

    depth: int = 2


@dataclass
class ModelConfig:
    """Attributes:
    width: of a layer.
    layers: widths.
    rate: of dropout.
    mode: how.
    inner: a section.
    """

    width: int = 8
    layers: list[int] = field(default_factory=lambda: [4, 2])
    rate: float = 0.0
    mode: Literal["sum", "mean"] = "sum"
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.width % 4:
            raise ValueError(f"width: got {self.width}, allowed: a multiple of 4")


@dataclass
class ChannelConfig:
    """Attributes:
    weight: of the loss.
    """

    weight: float = 1.0


def schema(config: ToySourceConfig, data: DataConfig) -> FeatureSchema:
    """What `distill.validate` asks the module of the source `toy` for."""
    if config.items < 2:
        raise DataError(f"data.options.items: got {config.items}, allowed: at least 2")
    return FeatureSchema(
        name="toy",
        domains=("feed", "reels", "0"),
        verticals=("feed", "0"),
        days=tuple(DayInfo(f"2026-01-{day:02d}", day * 1000) for day in range(1, 9)),
        tasks={"click": Task("click"), "conversion": Task("conversion", 5)},
        sparse={name: SparseFeature(name, config.items) for name in ("user_id", "item_id")},
        dense=("age",),
        content={"image": Content("image", 4)},
    )


@contextmanager
def toy_registries() -> Iterator[None]:
    """The four registries hold the made-up entries only."""
    names = ("TEACHERS", "STUDENTS", "CHANNELS", "SOURCES")
    registries = [getattr(registry, name) for name in names]
    with mock.patch.multiple(registries[0], _entries={}), mock.patch.multiple(registries[1], _entries={}):
        with mock.patch.multiple(registries[2], _entries={}), mock.patch.multiple(registries[3], _entries={}):
            registry.TEACHERS.add("big", ModelConfig, "nowhere:build", "a teacher")
            registry.STUDENTS.add("small", ModelConfig, "nowhere:build", "a student")
            registry.STUDENTS.add("seeing", ModelConfig, "nowhere:build", "reads vectors", reads=("content",))
            registry.CHANNELS.add(
                "soft", ChannelConfig, "nowhere:build", "needs a teacher", needs=("teacher",)
            )
            registry.CHANNELS.add("own", ChannelConfig, "nowhere:build", "needs none")
            registry.SOURCES.add("toy", ToySourceConfig, f"{__name__}:prepare", "knows its schema")
            registry.SOURCES.add(
                "files", FilesConfig, "distill.errors:prepare", "reads files", needs=("root",)
            )
            yield


BASE: dict[str, Any] = {
    "name": "trial",
    "output": "runs/trial",
    "seeds": [0, 1],
    "data": {"source": "toy"},
    "teacher": {"architecture": "big"},
    "channels": {"ah": {"soft": {"weight": 0.5}}},
    "students": [
        {"name": "one", "architecture": "small", "verticals": ["feed"]},
        {"name": "two", "architecture": "small", "verticals": ["feed", "0"], "options": {"width": 16}},
    ],
    "schedule": {"tune_days": [5, 6], "test_days": [7, 8]},
}
"""An experiment without a problem."""


def experiment(**changes: Any) -> dict[str, Any]:
    """BASE with some values replaced; `a__b` replaces b below a, an int in the middle is an index."""
    content = copy.deepcopy(BASE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner: Any = content
        for parent in parents:
            inner = inner[int(parent)] if parent.isdigit() else inner.setdefault(parent, {})
        inner[int(last) if last.isdigit() else last] = value
    return content


def load(folder: Path, content: Any, *overrides: str) -> LoadedConfig:
    """Write an experiment file (a mapping, or YAML text) and load it."""
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    (folder / "trial.yaml").write_text(text)
    return load_config(folder / "trial.yaml", overrides)


def problems(folder: Path, content: Any, *overrides: str) -> list[str]:
    """What loading complains about, without the folder's name."""
    try:
        load(folder, content, *overrides)
    except ConfigErrors as error:
        return [str(problem).replace(f"{folder}/", "") for problem in error.problems]
    return []
