"""Look at the installation and the machine, and say what to do about each problem.

Prints what is found beside what is needed, then the problems. Exits with 0 when everything needed works, with
1 when something is broken; notes alone do not count as broken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from experiments.doctor.findings import Finding

PROJECT = Path(__file__).parents[2]
OWN_NEEDS = ("packaging", "rich")
COLOURS = {"note": "yellow", "broken": "bold red"}
# A pipe has no width of its own.
PIPED_WIDTH = 110


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The doctor takes no options; the command line asks every verb for its arguments.

    Args:
        parser: parser of this verb.
    """


def run(args: argparse.Namespace) -> int:
    """Looks at everything and prints it.

    Args:
        args: parsed arguments, none of them used.

    Returns:
        0 when nothing is broken, else 1.
    """
    missing = [name for name in OWN_NEEDS if find_spec(name) is None]
    if missing:
        print(f"broken: {sys.executable} has no {' and no '.join(missing)}. Run: make setup")
        return 1
    findings = examine()
    show(findings, sys.stdout)
    return int(any(finding.state == "broken" for finding in findings))


def examine() -> list[Finding]:
    """Everything the doctor looks at, in the order of its table."""
    from experiments.doctor.compiled import compiled_findings, run_probe
    from experiments.doctor.installation import installation_findings
    from experiments.doctor.machine import machine_findings

    return [
        *installation_findings(PROJECT),
        *compiled_findings(run_probe()),
        *machine_findings(Path.cwd()),
    ]


def show(findings: Sequence[Finding], stream: TextIO) -> None:
    """Prints one table, then one line per finding that needs something done.

    Args:
        findings: in the order of the table.
        stream: a terminal or anything else that takes text.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    piped = not stream.isatty()
    console = Console(file=stream, width=PIPED_WIDTH if piped else None, highlight=False, markup=False)
    table = Table("what", "found", "needed", "state", box=box.ASCII2 if piped else box.SIMPLE)
    for finding in findings:
        cells = (finding.name, finding.found, finding.needed, finding.state)
        table.add_row(*cells, style="" if finding.state == "ok" else COLOURS[finding.state])
    console.print(table)
    problems = sorted((f for f in findings if f.state != "ok"), key=lambda f: f.state)
    for finding in problems:
        line = f"{finding.state}: {finding.name}: {finding.found}. {finding.remedy}"
        console.print(line, style=COLOURS[finding.state], soft_wrap=True)
    broken = sum(finding.state == "broken" for finding in problems)
    console.print(
        f"{broken} broken, {len(problems) - broken} to note." if problems else "Everything needed works."
    )
