"""Processes for the tests, forked from one server that has imported what trainings import: that takes seconds."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def context() -> ForkServerContext:
    """Whose processes begin with all imports behind them.

    The server is started once for all tests of a pytest process, and imports what the first of them asks for: hence the
    same for all.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.pipeline.run", "experiments.catalog"])
    return context
