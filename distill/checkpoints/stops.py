"""SIGTERM and Ctrl-C while a training runs: noted, and obeyed between two steps, when its state can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from distill.distributed.share import processes

STOPS = (signal.SIGTERM, signal.SIGINT)


class Stops:
    """Context in which `listen` may be called; outside, signals mean what they meant before.

    A second Ctrl-C stops at once, without saving, unless several processes train together: each of them hears it from
    the terminal and from torchrun, and all have to save after the same step. Signals that are ignored stay so; only the
    main thread may listen. One that came too late to be obeyed inside, when all was done, is obeyed at the end.

    Attributes:
        asked: the signal that came.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stops:
        self.asked = None
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in STOPS}
            # None stands for a handler that Python did not set and could not put back.
            self._before = {
                number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)
            }
        return self

    def __exit__(self, kind: type[BaseException] | None, *unused: object) -> None:
        if kind is None and self.asked is not None:
            self.obey()
        self._give_back()

    def listen(self) -> None:
        """From here on stops are noted, whatever handlers were set since the context began."""
        for number in self._before:
            signal.signal(number, self._note)

    def obey(self) -> None:
        """Let the signal that was noted do what it did before the context began.

        Raises:
            KeyboardInterrupt: as Ctrl-C and `distill run`'s SIGTERM do.
        """
        assert self.asked is not None, "nobody asked to stop"
        self._give_back()
        signal.raise_signal(self.asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and self.asked == signal.SIGINT and processes() == 1
        self.asked = number
        if again:
            self.obey()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
