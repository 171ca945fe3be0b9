"""What every test shares: one thread per process, nothing sent anywhere, the same examples every time."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Before torch is imported: tests run in several processes, whose thread pools would fight for the cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
# No test may reach an account, whatever the machine that runs it is logged in to.
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ.pop("WANDB_API_KEY", None)

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# A shell that starts the tests in the background has them ignore Ctrl-C, and with them every process they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
