"""The command line, one verb a file.

Each has `add_arguments(parser)`, `run(args) -> exit code`, and a docstring whose first line is its help.
"""

VERBS = (
    "run",
    "teacher",
    "log",
    "student",
    "validate",
    "ls",
    "data",
    "compare",
    "report",
    "export",
    "score",
    "dashboard",
    "study",
    "doctor",
)
"""In the order of `distill --help`; each is a module of this package."""
