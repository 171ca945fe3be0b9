"""Makes one environment for each library, with the versions that `requirements/` pins.

    python -m experiments.benchmarks.peers.environments --folder ENVIRONMENTS

They need the CPU build of torch: where the package index has the CUDA build, name an index of CPU builds
by PIP_INDEX_URL or PIP_EXTRA_INDEX_URL first.
"""

from __future__ import annotations

import argparse
import subprocess
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
LIBRARIES = tuple(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))
FUXICTR = "https://github.com/reczoo/FuxiCTR"
# The commit that says 2.3.10 of itself, and the part of it that the package lacks.
FUXICTR_COMMIT = "0245987fdc1d43c36164ea496a02324885a8557a"
FUXICTR_MODELS = ("DeepFM/DeepFM_torch/src", "DCNv2/src", "DIN/src")


def make(library: str, folder: Path) -> None:
    """An environment of one library.

    Args:
        library: a name in `requirements/`.
        folder: the environment's folder.
    """
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "-r", str(REQUIREMENTS / f"{library}.txt")], check=True)


def add_fuxictr_models(source: str, folder: Path) -> None:
    """FuxiCTR's models, which stand in its repository but not in its package.

    Args:
        source: address or folder of the repository.
        folder: FuxiCTR's environment; they go to its `model_zoo`.
    """
    clone = folder / "repository"
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", source, str(clone)], check=True)
    paths = [f"model_zoo/{name}" for name in FUXICTR_MODELS]
    command = ["git", f"--git-dir={clone / '.git'}", f"--work-tree={folder}", "checkout", "--quiet"]
    subprocess.run([*command, FUXICTR_COMMIT, "--", *paths], cwd=folder, check=True)


def interpreter(environments: Path, library: str) -> Path:
    """The library's interpreter."""
    return environments / library / "bin" / "python"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where to make them")
    parser.add_argument("--only", nargs="*", choices=LIBRARIES, default=LIBRARIES)
    parser.add_argument("--fuxictr-source", default=FUXICTR, help="FuxiCTR's repository, or a clone of it")
    settings = parser.parse_args()
    for library in settings.only:
        print(f"{library}: installing", flush=True)
        make(library, settings.folder / library)
        if library == "fuxictr":
            add_fuxictr_models(settings.fuxictr_source, settings.folder.resolve() / library)


if __name__ == "__main__":
    main()
