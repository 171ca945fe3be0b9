"""Batches that hold about as many events each: heavy rows beside light ones."""

from __future__ import annotations

import numpy as np
import torch

from distill.batch import Batch
from distill.stream import DayStream


def balanced_batches(stream: DayStream, count: int) -> list[Batch]:
    """The stream's first `count` full batches, their rows dealt anew.

    This is a window of a day that is shuffled: rows of `count` batches change places, days stay in order. Trainings do
    not deal their rows, whose order is the data's.

    Args:
        stream: of a day, with a history.
        count: batches.
    """
    assert stream.events is not None, "a stream without histories has nothing to balance"
    block = stream.reader.read(0, count * stream.batch_size)
    begin, end = stream.events.locate(block.user_id.numpy(), block.timestamp.numpy(), stream.history_length)
    return [stream.batch_of(block.take(torch.from_numpy(rows))) for rows in deal(end - begin, count)]


def deal(lengths: np.ndarray, hands: int) -> list[np.ndarray]:
    """Deal rows by falling length to and fro, so that every hand has as many rows and about as many events.

    Args:
        lengths: int64 [n], n a multiple of `hands`.
        hands: how many.

    Returns:
        For each hand its rows, rising.
    """
    assert len(lengths) % hands == 0, f"{len(lengths)} rows, {hands} hands"
    rounds = np.argsort(-lengths, kind="stable").reshape(-1, hands)
    rounds[1::2] = rounds[1::2, ::-1]
    return [np.sort(rounds[:, hand]) for hand in range(hands)]
