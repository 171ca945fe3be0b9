"""W&B workspaces of an experiment, built from its settings: the whole family, and a page per student.

The definition is made and read offline; `save` alone needs a key.
"""

from experiments.dashboard.shown import Shown, shown_by_file, shown_by_run
from experiments.dashboard.views import View, pages

__all__ = ["Shown", "View", "pages", "shown_by_file", "shown_by_run"]
