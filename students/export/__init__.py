"""A trained student as a folder that is served without this project: `Export.load(folder).score(table)`."""

from __future__ import annotations

from students.export.folder import Export
from students.export.rows import inputs_of
from students.export.signature import PRECISIONS, Precision, Signature

__all__ = ["PRECISIONS", "Export", "Precision", "Signature", "inputs_of"]
