"""Writes .npy files piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np


def create_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> BinaryIO:
    """A .npy file up to its values. Plain writes follow: a memory map would crash on a full disk.

    Args:
        path: the file.
        shape: of the values to come, in C order.
        dtype: of the values.
    """
    file = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file
