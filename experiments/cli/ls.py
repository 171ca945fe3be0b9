"""List what a config may name, with every setting: teachers, students, channels, sources, kernels."""

from __future__ import annotations

import argparse

from distill.errors import UserError, nearest
from distill.fields import describe
from distill.registry import CHANNELS, SOURCES, STUDENTS, TEACHERS
from kernels.catalog import kernels

REGISTRIES = {"teachers": TEACHERS, "students": STUDENTS, "channels": CHANNELS, "sources": SOURCES}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to list, and which of it."""
    kinds = [*REGISTRIES, "kernels"]
    parser.add_argument("kind", metavar="KIND", choices=kinds, help=", ".join(kinds))
    parser.add_argument("name", metavar="NAME", nargs="?", help="only this one")


def run(args: argparse.Namespace) -> int:
    """Print the entries."""
    entries = _kernels() if args.kind == "kernels" else _registered(args.kind)
    if args.name is not None and args.name not in entries:
        hint = nearest(args.name, entries)
        raise UserError(f"{args.kind}: got '{args.name}', allowed: {', '.join(entries)}. {hint}".rstrip())
    print("\n\n".join(entries[name] for name in ([args.name] if args.name else entries)))
    return 0


def _registered(kind: str) -> dict[str, str]:
    """Name to what is printed about it, by name."""
    import experiments.catalog  # noqa: F401  fills the registries

    texts = {}
    for entry in REGISTRIES[kind].entries():
        needs = f" Needs: {', '.join(entry.needs)}." if entry.needs else ""
        settings = describe(entry.config) or "  no settings."
        texts[entry.name] = f"{entry.name}: {entry.summary}.{needs}\n{settings}"
    return texts


def _kernels() -> dict[str, str]:
    """Every operator with the path it takes on this machine."""
    return {k.name: f"{k.name}: {k.summary}.\n  path here: {k.path} ({k.why})" for k in kernels()}
