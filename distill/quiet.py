"""Lightning's trainer without its tips, and without its own way of being interrupted; libraries without what they say
of their own outdated calls."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_interrupt() -> Iterator[None]:
    """Lightning answers Ctrl-C by leaving the process; here it stays an interrupt, so that callers can act on it."""
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's tips, and `without_advice`."""
    loggers = [
        logging.getLogger(name) for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with without_advice():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def without_advice() -> Iterator[None]:
    """Without warnings that nobody here can act on."""
    with warnings.catch_warnings():
        for message in _ADVICE:
            warnings.filterwarnings("ignore", message=message)
        yield


_ADVICE = (
    ".*Total length of `list` across ranks is zero.*",  # a day after which nothing is predicted
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
)
