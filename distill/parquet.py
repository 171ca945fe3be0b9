"""Parquet files read by row group, with errors that name the file. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distill.errors import DataError


class ParquetPart:
    """One file; its footer is read at once, its data when asked.

    Args:
        path: the file.

    Raises:
        DataError: missing, cut off, damaged, or no Parquet file.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error

    @property
    def columns(self) -> list[str]:
        return self._file.schema_arrow.names

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._file.schema_arrow

    @property
    def row_groups(self) -> list[int]:
        """Rows of each row group."""
        metadata = self._file.metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def read(self, columns: Sequence[str], row_group: int | None = None) -> pa.Table:
        """Some columns of one row group, or of the whole file.

        Raises:
            DataError: the data is damaged.
        """
        try:
            if row_group is None:
                return self._file.read(columns=list(columns), use_threads=False)
            return self._file.read_row_group(row_group, columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.path, error) from error


def _unreadable(path: Path, error: BaseException) -> DataError:
    return DataError(
        f"{path}: not readable as Parquet ({error}). It is missing, cut off or damaged; write it again."
    )
