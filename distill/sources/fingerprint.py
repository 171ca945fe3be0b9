"""What determines a data set's content, as one sha256: source, settings, its files' bytes. Free of torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import lru_cache
from pathlib import Path

from distill.config import DataConfig
from distill.registry import SOURCES
from distill.sources.config import SourceConfig
from distill.sources.writer import PREPARED_VERSION
from distill.structured import build


def fingerprint(source: str, config: SourceConfig, data: DataConfig) -> str:
    """The data set's fingerprint; equal content on two machines has equal fingerprints.

    Args:
        source: registered name.
        config: the source's settings (`data.options`).
        data: for `root` and `prehistory`; where the cache lies does not matter.

    Returns:
        64 hexadecimal digits.
    """
    root = Path(data.root or ".")
    content = {
        "prepared_version": PREPARED_VERSION,
        "source": source,
        "options": dataclasses.asdict(config),
        "prehistory": data.prehistory,
        "files": {path.relative_to(root).as_posix(): file_digest(path) for path in config.files(data)},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint_of(data: DataConfig) -> str:
    """The fingerprint of the data set that a checked config asks for, which need not be prepared yet."""
    return fingerprint(data.source, build(SOURCES.get(data.source).config, data.options), data)


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file, read once per process as long as neither its size nor its time of change differ."""
    stat = path.stat()
    return _digest_once(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_once(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
