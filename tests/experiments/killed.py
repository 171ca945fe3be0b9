"""A `distill` that kills itself after a chosen step."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from experiments.benchmarks import victims


def run_until(step: int, arguments: list[str], log: Path) -> int:
    """Run `distill` in a process of its own, which gets SIGKILL after some of its steps, whatever it trains.

    Args:
        step: after which; a step is over when it has been saved, if it was to be.
        arguments: of the command.
        log: file that gets what it prints.

    Returns:
        The exit code, minus the signal.
    """
    return victims.started(_main, (step, arguments, log)).code


def _main(step: int, arguments: list[str], log: Path) -> None:
    from distill.checkpoints import Checkpoints

    saving, steps = Checkpoints.on_train_batch_end, 0

    def after(self: Checkpoints, *batch: Any, **named: Any) -> None:
        nonlocal steps
        saving(self, *batch, **named)
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.on_train_batch_end = after  # type: ignore[method-assign]
    victims.command(arguments, log)
