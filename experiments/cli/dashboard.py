"""Save W&B workspaces of an experiment: the whole family, and a page per student.

They show the runs that `distill run` records, once these are at W&B (WANDB_MODE=online, or `wandb sync`). Saving needs
an account's key; --print and --save need neither key nor network.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from distill.errors import UserError
from experiments.cli.common import add_set, load

if TYPE_CHECKING:
    from experiments.dashboard import Shown, View

_NOBODY = "ENTITY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run folder or experiment, whose and which project, and where the definition goes."""
    parser.add_argument("config", metavar="RUN_OR_YAML", help="run folder, or experiment file (YAML)")
    add_set(parser)
    parser.add_argument("--entity", help="user or team at W&B; the key's own when left out")
    parser.add_argument("--project", help="project at W&B; `wandb.project` of the experiment when left out")
    offline = parser.add_mutually_exclusive_group()
    offline.add_argument(
        "--print", action="store_true", dest="shown", help="print the definition, save nothing"
    )
    offline.add_argument(
        "--save", metavar="FILE.json", type=Path, help="write the definition, save nothing at W&B"
    )


def run(args: argparse.Namespace) -> int:
    """Print, write or save the pages."""
    shown, folder = _read(args)
    from experiments.dashboard import pages

    if args.shown or args.save is not None:
        _write(pages(shown, args.entity or _NOBODY, args.project or shown.project), args.save)
        return 0
    from experiments.dashboard.save import default_entity, save, sign_in

    sign_in()
    found = pages(shown, args.entity or default_entity(), args.project or shown.project)
    for page, url in save(found, folder).items():
        print(f"{page}: {url}")
    return 0


def _read(args: argparse.Namespace) -> tuple[Shown, Path]:
    """What to show, and the run folder."""
    path = Path(args.config)
    from experiments.dashboard import shown_by_file, shown_by_run

    if path.is_dir():
        if args.overrides:
            raise UserError("--set: got a run folder beside it, allowed: beside an experiment file.")
        return shown_by_run(path), path
    if not path.is_file():
        raise UserError(
            f"{path}: got no such file or folder, allowed: a run folder, or an experiment file (YAML)"
        )
    loaded = load(args)
    import yaml

    return shown_by_file(loaded, yaml.safe_load(loaded.to_yaml())), Path(loaded.config.output)


def _write(found: list[View], path: Path | None) -> None:
    text = json.dumps({view.page: view.definition for view in found}, indent=1) + "\n"
    if path is None:
        print(text, end="")
        return
    from distill.files import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(text)
    print(f"Definition of {len(found)} pages: {path}")
