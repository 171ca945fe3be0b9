"""Saves the pages of a dashboard to W&B; a page that was saved before is replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distill.errors import UserError
from distill.files import atomic_path
from experiments.dashboard.views import View
from experiments.tracking import log_in, without_key

SAVED = "wandb_views.json"
"""`<entity>/<project>/<page>` to the name, id and address under which W&B keeps it."""

_INSTEAD = "write the definition without one: `distill dashboard ... --save FILE.json`"


def sign_in() -> None:
    """Find a key and have the server check it.

    Raises:
        UserError: offline by WANDB_MODE, no key, or not a valid one.
    """
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode != "online":
        raise UserError(
            f"WANDB_MODE: got {mode}, allowed: online, or unset, to save a dashboard; or {_INSTEAD}."
        )
    log_in("dashboard: got no way in", _INSTEAD)


def default_entity() -> str:
    """The entity of the key that `sign_in` found.

    Raises:
        UserError: the account has none.
    """
    import wandb

    with _answers("the account"):
        entity = wandb.Api().default_entity
    if not entity:
        raise UserError("--entity: got none, and the account names none, allowed: a user's or a team's name.")
    return entity


def save(views: Sequence[View], folder: Path) -> dict[str, str]:
    """Save every page.

    Args:
        views: pages; their entity and project must exist.
        folder: the run folder, which remembers them.

    Returns:
        Page to address.

    Raises:
        UserError: what W&B answered instead; the text never holds the key.
    """
    path = folder / SAVED
    saved: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.is_file() else {}
    addresses = {}
    for view in views:
        place = f"{view.workspace.entity}/{view.workspace.project}/{view.page}"
        with _answers(place):
            saved[place] = _save(view, saved.get(place))
        addresses[view.page] = saved[place]["url"]
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(saved, indent=1) + "\n")
    return addresses


def _save(view: View, before: dict[str, str] | None) -> dict[str, str]:
    workspace = view.workspace
    if before is not None:  # what `Workspace.from_url` would find out by asking
        workspace._internal_name, workspace._internal_id = before["name"], before["id"]
    workspace.save()
    return {"name": workspace._internal_name, "id": workspace._internal_id, "url": workspace.url}


@contextmanager
def _answers(place: str) -> Iterator[None]:
    """Inside, what W&B refuses is the user's to correct; an error chained to it could hold the key."""
    import wandb
    from wandb.apis.public.service_api import WandbApiFailedError

    try:
        yield
    except (wandb.Error, WandbApiFailedError, ValueError) as error:
        problem = without_key(str(error)).strip()
        raise UserError(
            f"dashboard: {place}: W&B answered: {problem}. Allowed: an entity and a project that exist and that the "
            "key may write to."
        ) from None
