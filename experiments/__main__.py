"""The command `distill`.

Exit codes: 0 done, 1 failed or interrupted, 2 something to correct in the input.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from distill.errors import ConfigErrors, UserError
from experiments.cli import VERBS
from experiments.cli.common import add_debug, refuse_under_torchrun

SUMMARY = "One large teacher, many small students, and a measure of how much arrives."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments; those of the process when None.

    Returns:
        The exit code.
    """
    debug = False
    try:
        args = _parser().parse_args(argv)
        debug = args.debug
        refuse_under_torchrun(args.verb)
        return args.run(args)
    except SystemExit as stop:  # argparse has printed help or a usage error
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:
        return _fail(_interrupted(stop, sys.argv[1:] if argv is None else argv), 1, debug)
    except UserError as error:
        return _fail(_user_message(error), 2, debug)
    except BrokenPipeError:
        # The reader of a pipe has gone (`distill ls | head`); Python would complain again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        notes = "".join(f", {note}" for note in getattr(error, "__notes__", []))
        hint = "" if debug else " (--debug shows where)"
        return _fail(f"{type(error).__name__}: {error}{notes}{hint}", 1, debug)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"distill: {message}", file=sys.stderr)
    return code


def _interrupted(stop: KeyboardInterrupt, argv: Sequence[str]) -> str:
    """What is kept, as `RunStatus` notes it, and the command that goes on."""
    kept = getattr(stop, "__notes__", [])
    return f"interrupted. {kept[0]}. To go on: {shlex.join(['distill', *argv])}" if kept else "interrupted"


def _user_message(error: UserError) -> str:
    if isinstance(error, ConfigErrors):
        count = len(error.problems)
        return f"{count} problem{'s' if count > 1 else ''}\n" + "\n".join(f"  {p}" for p in error.problems)
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="distill", description=SUMMARY)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    add_debug(parser, default=False)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        module = import_module(f"experiments.cli.{name}")
        verb = verbs.add_parser(
            name,
            help=_first_line(module),
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_debug(verb)
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n")[0].rstrip(".").replace("%", "%%")


class _Version(argparse.Action):
    """Looks the version up only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> None:
        from importlib.metadata import version

        print(f"gem-distill {version('gem-distill')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
