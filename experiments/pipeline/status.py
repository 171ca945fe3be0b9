"""status.json of a run folder: what the run is doing, or how it ended."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from distill.files import atomic_path
from experiments.pipeline.environment import now


class RunStatus:
    """Context of a run: `running` inside, then `done`, `failed` or `interrupted`; always readable.

    Inside, SIGTERM, by which batch systems end a job, interrupts like Ctrl-C.

    Args:
        folder: the run folder.
        config_hash: of the experiment.
        final: reason for reading the test days, or None.
        goes_on: an interruption is told what is kept; False of what begins anew.
    """

    def __init__(self, folder: Path, config_hash: str, final: str | None, goes_on: bool = True):
        self.folder, self._goes_on = folder, goes_on
        self.content = {
            "state": "running",
            "step": "start",
            "started": now(),
            "process": os.getpid(),
            "config_hash": config_hash,
            "final": final,
        }

    def __enter__(self) -> Callable[[str], None]:
        self._write()
        self._handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return lambda step: self._write(step=step)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        signal.signal(signal.SIGTERM, self._handler)
        if kind is None:
            self._write(state="done")
        elif isinstance(error, KeyboardInterrupt):
            self._write(state="interrupted")
            if self._goes_on:
                error.add_note(
                    f"What is finished is kept in {self.folder}, a training under way as of its newest checkpoint"
                )
        else:
            self._write(state="failed", error=str(error))

    def _write(self, **change: str) -> None:
        self.content |= {**change, "updated": now()}
        with atomic_path(self.folder / "status.json") as temporary:
            temporary.write_text(json.dumps(self.content, indent=1) + "\n")
