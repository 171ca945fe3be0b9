"""An environment of a few packages and what these need, linked from the present one: made in moments, offline."""

from __future__ import annotations

import venv
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_environment(folder: Path, packages: Iterable[str]) -> Path:
    """An environment in which nothing else can be imported.

    Args:
        folder: to be made.
        packages: names of installed distributions.

    Returns:
        Its Python.
    """
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    for name in _with_requirements(packages):
        found = distribution(name)
        assert found.files is not None
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))).absolute())
    return folder / "bin" / "python"


def _with_requirements(packages: Iterable[str]) -> set[str]:
    waiting, found = list(packages), set[str]()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            wanted = [Requirement(text) for text in distribution(name).requires or []]
            waiting += [
                one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})
            ]
    return found
