"""Whether a teacher reads something that its student lacks, without which there is nothing privileged to distill.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from distill.config import StudentConfig, TeacherConfig
from distill.findings import Findings
from distill.schema import FeatureSchema
from distill.strict_yaml import KeyPath

Model = StudentConfig | TeacherConfig


def check_privileged(
    student: Model, teacher: Model, schema: FeatureSchema | None, path: KeyPath, findings: Findings
) -> None:
    """Refuse a channel of privileged features whose teacher reads no more than the student.

    What cannot be told is let pass: all features of a schema that is not known yet, and the history of a user's own
    architecture whose options do not say it.

    Args:
        student: who learns, a domain teacher included.
        teacher: whom from.
        schema: the data set's schema, when it is known.
        path: of the channel in its set.
        findings: gets the problem.
    """
    sparse = list(schema.sparse) if schema is not None else None
    dense = list(schema.dense) if schema is not None else None
    if (
        _lacks(student.features, teacher.features, sparse)
        or _lacks(student.dense, teacher.dense, dense)
        or set(teacher.content) - set(student.content)
        or _lacks_past(_history(student), _history(teacher))
    ):
        return
    got = (
        f"privileged features for '{student.name}', whose teacher '{teacher.name}' reads no more: the student reads "
        f"{_inputs(student)}; the teacher {_inputs(teacher)}"
    )
    allowed = (
        "a teacher with a feature, dense feature, content or a longer history that the student lacks, or the "
        "channel `single`"
    )
    findings.add(path, got, allowed)


def _lacks(own: Sequence[str], of_teacher: Sequence[str], all_names: Sequence[str] | None) -> bool:
    """The teacher may read a name that the student does not; no names are all of the schema."""
    if not own:
        return False
    names = of_teacher or all_names
    return names is None or bool(set(names) - set(own))


def _history(model: Model) -> int | None:
    """Events of the user's past that it reads; None when its options do not say."""
    return model.options.get("history_length")


def _lacks_past(own: int | None, of_teacher: int | None) -> bool:
    """The teacher may read an older event than the student."""
    return own is None or of_teacher is None or of_teacher > own


def _inputs(model: Model) -> str:
    parts = [
        f"features {', '.join(model.features) or 'all'}",
        f"dense {', '.join(model.dense) or 'all'}",
        f"content {', '.join(model.content) or 'none'}",
        f"history {_history(model)}",
    ]
    return ", ".join(parts)
