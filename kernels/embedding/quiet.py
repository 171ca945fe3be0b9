"""One message less: torch warns at the first KeyedJaggedTensor about a function that nobody here calls.

torchrec's classes ask torch.fx whether they are being traced, and torch 2.13 answers with a warning about the
name of that question. Nothing follows from it for a user, and there is no setting for it.
"""

from __future__ import annotations

import logging


class _Unless(logging.Filter):
    def __init__(self, start: str):
        super().__init__()
        self.start = start

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.start)


logging.getLogger("torch.fx._symbolic_trace").addFilter(_Unless("is_fx_tracing will return true"))
