"""What a served student is asked with: the names, types and shapes of its program's inputs. Free of torch.

A program scores candidates. What it knows of a user stands once for each user, and `user` says whose each candidate is,
so that a request of one user and hundreds of candidates looks the user up, and pools the history, once.

Shape letters: B candidates, U users, F single-valued features of candidates, G those of users, N dense features, T
history events of all users, P events of every candidate's user together, H and Q the same of vectors that the teacher
stored, I those of candidates' items, K tasks of the data set, V ids of a multi-valued feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

ARRAYS: dict[Precision, tuple[str, ...]] = {
    "fp32": ("rows",),
    "fp16": ("rows",),
    "int8": ("codes", "scale", "low"),
}
"""What a table is made of: its rows, or by row a scale and a lowest value, so that a row is low + scale * codes."""


@dataclass(frozen=True)
class ServedFeature:
    """A sparse feature that the program reads.

    Attributes:
        name: its column.
        size: ids lie in [0, size).
        multi: any number of ids, an input pair of its own.
        of_user: the same for all candidates of a user.
        ids: how a request's values become ids (`distill.vocabulary`): `rows`, `vocabulary` or `hash`.
        unknown: whether row 0 stands for unknown values; of no meaning under `rows`.
        raw: kind of a request's values: `integer` or `text`.
    """

    name: str
    size: int
    multi: bool
    of_user: bool
    ids: str = "rows"
    unknown: bool = True
    raw: str = "integer"


@dataclass(frozen=True)
class ServedTable:
    """A table of rows, of one or more features one after another.

    Attributes:
        name: the files' name, and the module's in the student.
        width: numbers in a row.
        first_rows: by feature, in the order in which the student reads them.
        n_rows: rows of all features.
    """

    name: str
    width: int
    first_rows: dict[str, int]
    n_rows: int


PAST_USER, PAST_ITEM, TEACHER = "past_user", "past_item", "teacher_vector"


@dataclass(frozen=True)
class ServedVectors:
    """Representations of the teacher that the program reads.

    Attributes:
        name: PAST_USER, those that the teacher stored of the user's last examples; PAST_ITEM, the one of the item;
            TEACHER, that of the row itself.
        width: numbers of a vector.
        length: most vectors of a row.
    """

    name: str
    width: int
    length: int


@dataclass(frozen=True)
class ServedInput:
    """One argument of the program.

    Attributes:
        name: of the argument.
        dtype: of numpy.
        shape: of shape letters and numbers; `U+1` for offsets.
        meaning: for people.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    meaning: str


@dataclass(frozen=True)
class Signature:
    """Everything that is needed to call a program; `signature.json` of an export.

    Attributes:
        tasks: of the program's output, in its columns.
        features: sparse features that it reads.
        dense: dense features that it reads.
        item_feature: whose ids the history holds.
        domains: surfaces; a surface is given as its place here.
        history_tasks: tasks of the history's labels.
        history_length: most events of a user; 0 for a program without a history.
        vectors: representations of the teacher, for a program that reads them.
        precision: of the tables.
        tables: tables, whose arrays (`ARRAYS`) are the first arguments.
        inputs: the arguments after them.
    """

    tasks: tuple[str, ...]
    features: tuple[ServedFeature, ...]
    dense: tuple[str, ...]
    item_feature: str
    domains: tuple[str, ...]
    history_tasks: tuple[str, ...]
    history_length: int
    vectors: tuple[ServedVectors, ...]
    precision: Precision
    tables: tuple[ServedTable, ...]
    inputs: tuple[ServedInput, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.inputs)

    @property
    def arrays(self) -> list[str]:
        """Names of the tables' arrays, in the order of the arguments: `tables.rows`."""
        return [f"{table.name}.{array}" for table in self.tables for array in ARRAYS[self.precision]]

    def single(self, of_user: bool) -> list[ServedFeature]:
        """The columns of `user_values` or of `values`."""
        return [one for one in self.features if not one.multi and one.of_user == of_user]

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "arrays": self.arrays}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> Signature:
        """From what `to_plain` gave; KeyError or TypeError for anything else."""
        plain = {one.name: content[one.name] for one in fields(cls)}
        plain |= {name: tuple(plain[name]) for name in ("tasks", "dense", "domains", "history_tasks")}
        plain["features"] = tuple(ServedFeature(**one) for one in plain["features"])
        plain["vectors"] = tuple(ServedVectors(**one) for one in plain["vectors"])
        plain["tables"] = tuple(ServedTable(**one) for one in plain["tables"])
        plain["inputs"] = tuple(
            ServedInput(**{**one, "shape": tuple(one["shape"])}) for one in plain["inputs"]
        )
        return cls(**plain)


def all_inputs(
    features: Sequence[ServedFeature],
    dense: Sequence[str],
    item: str,
    history_tasks: int,
    history: bool,
    one_by_one: bool,
    vectors: Sequence[ServedVectors] = (),
) -> tuple[ServedInput, ...]:
    """The inputs of a program.

    Args:
        features: sparse features.
        dense: dense features.
        item: feature whose ids the history holds.
        history_tasks: K.
        history: whether there is a history.
        one_by_one: whether its events are read one by one, as DIN does, or only pooled.
        vectors: representations of the teacher.
    """
    inputs = _of_features(features, dense)
    if history:
        inputs += [
            ServedInput("history_items", "int64", ("T",), f"ids of {item}, by user, oldest first"),
            ServedInput("history_offsets", "int64", ("U+1",), "where each user's events begin"),
        ]
    if history and one_by_one:
        inputs += _of_events(history_tasks)
    for one in vectors:
        inputs += _of_vectors(one)
    if (history and one_by_one) or any(one.name != TEACHER for one in vectors):
        inputs.append(ServedInput("timestamp", "int64", ("B",), "ms, of the request"))
    return tuple(inputs)


def _of_features(features: Sequence[ServedFeature], dense: Sequence[str]) -> list[ServedInput]:
    single = [one for one in features if not one.multi]
    users, own = ([one.name for one in single if one.of_user == side] for side in (True, False))
    inputs = [ServedInput("user", "int64", ("B",), "which of the U users a candidate is shown to")]
    if users:
        inputs.append(ServedInput("user_values", "int64", ("U", len(users)), f"ids: {', '.join(users)}"))
    if own:
        inputs.append(ServedInput("values", "int64", ("B", len(own)), f"ids: {', '.join(own)}"))
    for place, feature in enumerate(one for one in features if one.multi):
        side = "U" if feature.of_user else "B"
        inputs += [
            ServedInput(f"values_{feature.name}", "int64", (f"V{place}",), f"ids of {feature.name}"),
            ServedInput(f"offsets_{feature.name}", "int64", (f"{side}+1",), "where each one's ids begin"),
        ]
    if dense:
        inputs.append(ServedInput("dense", "float32", ("B", len(dense)), ", ".join(dense)))
    return inputs


def _of_events(tasks: int) -> list[ServedInput]:
    return [
        ServedInput("history_domains", "int64", ("T",), "surface of each event"),
        ServedInput("history_labels", "int8", ("T", tasks), "1, 0, or -1 where not known at the request"),
        ServedInput("history_times", "int64", ("T",), "ms, before the request"),
        ServedInput("events", "int64", ("P",), "places among the T events of each candidate's user"),
        ServedInput("event_offsets", "int64", ("B+1",), "where each candidate's places begin"),
    ]


def _of_vectors(vectors: ServedVectors) -> list[ServedInput]:
    name, width = vectors.name, vectors.width
    if name == TEACHER:
        return [
            ServedInput(name, "float32", ("B", width), "what the teacher makes of the candidate"),
            ServedInput(f"{name}_known", "int8", ("B",), "1, or 0 where it makes nothing"),
        ]
    count, of = ("H", "the user") if name == PAST_USER else ("I", "the item")
    inputs = [
        ServedInput(
            f"{name}_vectors", "float32", (count, width), f"what the teacher stored of {of}, oldest first"
        ),
        ServedInput(f"{name}_times", "int64", (count,), "ms, before the request"),
    ]
    if name == PAST_USER:
        inputs.append(
            ServedInput(f"{name}_places", "int64", ("Q",), "places among the H of each candidate's user")
        )
    return [*inputs, ServedInput(f"{name}_offsets", "int64", ("B+1",), "where each candidate's begin")]
