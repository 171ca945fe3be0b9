"""The feature schema: what a data set holds, read from its `schema.yaml`. Free of torch.

A data set is a folder of days (PROTOCOL.md). Its schema names the domains (surfaces), the tasks with the time after
which their labels are final, the sparse features with the size of their id space, the dense features, and the
modalities in which items have content vectors.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distill.errors import ConfigErrors, DataError, nearest
from distill.plain_form import as_list, as_mapping, as_names, as_settings, is_count
from distill.schema_checks import check_schema
from distill.strict_yaml import read

ID_COLUMNS = ("example_id", "user_id", "timestamp", "domain")


@dataclass(frozen=True)
class SparseFeature:
    """A categorical feature.

    Attributes:
        name: its column.
        size: ids lie in [0, size); also the number of rows of its table. 0 in a source's schema.yaml, under
            `vocabulary`, for as many as its data need.
        group: `user`, `item` or `context`.
        multi: True when an example holds any number of ids (a list column).
        ids: how raw values become ids (`distill.vocabulary`): `rows`, they are ids already; `vocabulary`, numbered in
            the order in which they first appear; `hash`.
        unknown: whether row 0 stands for null, and for values outside the vocabulary; of no meaning under `rows`.
    """

    name: str
    size: int
    group: str = "context"
    multi: bool = False
    ids: str = "rows"
    unknown: bool = True


@dataclass(frozen=True)
class Task:
    """A binary outcome.

    Attributes:
        name: task name; its columns are `label_<name>` and, optionally, `matures_<name>`.
        window_ms: no label of the task is used before timestamp + window_ms (a negative is only known then).
    """

    name: str
    window_ms: int = 0


@dataclass(frozen=True)
class Content:
    """A modality in which items have vectors that were computed elsewhere, such as image, text, audio or video.

    Attributes:
        name: the modality; also the name of its files, so letters, digits and _ + - only.
        width: M, numbers in a vector. Vectors belong to ids of the schema's item feature; some items may have none.
    """

    name: str
    width: int


@dataclass(frozen=True)
class DayInfo:
    """Day n of the data set.

    Attributes:
        date: ISO date.
        end_ms: first millisecond after the day; the time at which training on the day happens.
    """

    date: str
    end_ms: int


@dataclass(frozen=True)
class FeatureSchema:
    """Everything the code needs to know about a data set's columns.

    Attributes:
        name: data set's name.
        domains: surfaces; the column `domain` holds the index into this tuple.
        verticals: the domains that are pooled in "pooled" scores and may have students.
        days: Day 1, Day 2, ... in order.
        tasks: by name, in order; K = len(tasks).
        sparse: by name, in order.
        dense: names of float features, in order.
        item_feature: the sparse feature whose table the ids of history events share.
        content: modalities of the items' content vectors by name, in order; empty for none.
    """

    name: str
    domains: tuple[str, ...]
    verticals: tuple[str, ...]
    days: tuple[DayInfo, ...]
    tasks: dict[str, Task]
    sparse: dict[str, SparseFeature]
    dense: tuple[str, ...] = ()
    item_feature: str = "item_id"
    content: dict[str, Content] = field(default_factory=dict)
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_schema(self)

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(self.tasks)

    @property
    def n_days(self) -> int:
        return len(self.days)

    def domain_index(self, name: str) -> int:
        """Index of a domain by its name; DataError when there is none."""
        if str(name) not in self.domains:
            raise DataError(
                f"domain: got '{name}', allowed: {', '.join(self.domains)}. {nearest(name, self.domains)}"
            )
        return self.domains.index(str(name))

    def save(self, path: str | Path) -> None:
        """Write as YAML; `FeatureSchema.load` gives an equal schema back."""
        content = {
            "name": self.name,
            "domains": list(self.domains),
            "verticals": list(self.verticals),
            "tasks": {task.name: {"window_ms": task.window_ms} for task in self.tasks.values()},
            "sparse": {f.name: _without_name(f) for f in self.sparse.values()},
            "dense": list(self.dense),
            "history": {"item": self.item_feature},
            "days": [dataclasses.asdict(day) for day in self.days],
        }
        if self.content:
            content["content"] = {c.name: {"width": c.width} for c in self.content.values()}
        Path(path).write_text(yaml.safe_dump(content, sort_keys=False, width=120))

    @classmethod
    def load(cls, path: str | Path) -> FeatureSchema:
        """Read a `schema.yaml`.

        Args:
            path: the file.

        Raises:
            DataError: missing file, unreadable YAML, unknown or missing keys, values out of range.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"schema: no file {path}. A data set needs a schema.yaml beside its days.")
        try:
            content = read(path).content
        except ConfigErrors as error:
            raise DataError(f"schema: {error}") from error
        return cls.from_mapping(content, source=str(path))

    @classmethod
    def from_mapping(cls, content: Any, source: str = "schema") -> FeatureSchema:
        """Build from the plain form that `save` writes (see README, "bring your data")."""
        content = as_mapping(content, source, "the schema", _TOP_KEYS, required=_TOP_KEYS[:4])
        domains = as_names(content["domains"], source, "domains")
        sparse = {
            n: _sparse(n, v, source) for n, v in as_settings(content["sparse"], source, "sparse").items()
        }
        tasks = {n: _task(n, v, source) for n, v in as_settings(content["tasks"], source, "tasks").items()}
        days = tuple(
            _day(place, day, source)
            for place, day in enumerate(as_list(content.get("days") or [], source, "days"))
        )
        history = as_mapping(content.get("history") or {}, source, "history", ("item",))
        modalities = as_settings(content["content"], source, "content") if content.get("content") else {}
        return cls(
            name=str(content["name"]),
            domains=domains,
            verticals=as_names(content.get("verticals") or list(domains), source, "verticals"),
            days=days,
            tasks=tasks,
            sparse=sparse,
            dense=as_names(content.get("dense") or [], source, "dense"),
            item_feature=str(history.get("item", "item_id")),
            content={name: _content(name, value, source) for name, value in modalities.items()},
            source=source,
        )


_FEATURE_KEYS = ("size", "group", "multi", "ids", "unknown")
_TOP_KEYS = ("name", "domains", "tasks", "sparse", "verticals", "dense", "history", "days", "content")


def _without_name(feature: SparseFeature) -> dict[str, Any]:
    plain = {"size": feature.size, "group": feature.group, "multi": feature.multi}
    return plain if feature.ids == "rows" else plain | {"ids": feature.ids, "unknown": feature.unknown}


def _day(place: int, value: Any, source: str) -> DayInfo:
    keys = ("date", "end_ms")
    day = as_mapping(value, source, f"days[{place}]", keys, required=keys)
    if not isinstance(day["date"], str) or not is_count(day["end_ms"]):
        raise DataError(
            f"{source}: days[{place}]: got {day}, allowed: a date as text and end_ms, milliseconds >= 0"
        )
    return DayInfo(**day)


def _sparse(name: str, value: Any, source: str) -> SparseFeature:
    settings = as_mapping(value, source, f"sparse.{name}", _FEATURE_KEYS)
    raw = settings.get("ids", "rows") != "rows"
    if "size" not in settings and settings.get("ids") != "vocabulary":
        raise DataError(f"{source}: sparse.{name}: key 'size' is missing")
    if "unknown" in settings and not raw:
        raise DataError(
            f"{source}: sparse.{name}.unknown: got {settings['unknown']!r}, allowed: with ids: vocabulary or hash. "
            "Row numbers are all known; leave it out."
        )
    return SparseFeature(name=name, **{"size": 0, **settings})


def _task(name: str, value: Any, source: str) -> Task:
    return Task(name=name, **as_mapping(value or {}, source, f"tasks.{name}", ("window_ms",)))


def _content(name: str, value: Any, source: str) -> Content:
    return Content(name, **as_mapping(value, source, f"content.{name}", ("width",), required=("width",)))
