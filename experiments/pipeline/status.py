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
    """

    def __init__(self, folder: Path, config_hash: str, final: str | None):
        self.folder = folder
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
        elif issubclass(kind, KeyboardInterrupt):
            self._write(state="interrupted")
        else:
            self._write(state="failed", error=str(error))

    def _write(self, **change: str) -> None:
        self.content |= {**change, "updated": now()}
        with atomic_path(self.folder / "status.json") as temporary:
            temporary.write_text(json.dumps(self.content, indent=1) + "\n")
