"""Checkpoints within a training: from one of them it goes on, in the middle of a day, bit for bit.

They hold all that the next step depends on (`state`), lie in a folder of their own beside the training's results
(`store`), and are gone when it has ended. A model on disk, to be read by others, is `distill.checkpoint`.
"""

from __future__ import annotations

from distill.checkpoints.saver import Checkpoints, Start
from distill.checkpoints.store import CheckpointStore

__all__ = ["CheckpointStore", "Checkpoints", "Start"]
