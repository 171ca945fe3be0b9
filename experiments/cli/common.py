"""What several verbs share: the experiment argument, `--set`, and running steps of the pipeline."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distill.errors import UserError
from distill.load_config import LoadedConfig, load_config
from distill.progress import NoProgress, Progress, progress_on


def add_debug(parser: argparse.ArgumentParser, default: bool | str = argparse.SUPPRESS) -> None:
    """`--debug`; a verb leaves the default to the command above it, so that the option may stand anywhere."""
    parser.add_argument(
        "--debug", action="store_true", default=default, help="show the traceback of an error"
    )


def add_set(
    parser: argparse.ArgumentParser, examples: str = "seeds=[0,1] or students.NAME.options.dim=8"
) -> None:
    """`--set KEY=VALUE`, as often as needed."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"replace one value, such as {examples}; may be repeated",
    )


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """The experiment file and `--set`."""
    parser.add_argument("config", metavar="CONFIG", help="experiment file (YAML)")
    add_set(parser)


def add_final(parser: argparse.ArgumentParser) -> None:
    """`--final REASON`."""
    parser.add_argument(
        "--final",
        metavar="REASON",
        type=_reason,
        help="read the test days; the reason is recorded with time, commit and config hash in "
        "experiments/results/test_reads.csv",
    )


def add_on(parser: argparse.ArgumentParser) -> None:
    """`--on ray[:ADDRESS]`."""
    parser.add_argument(
        "--on",
        metavar="ray[:ADDRESS]",
        type=_ray_address,
        help="train on Ray instead of in processes of this machine: 'ray' starts one here, 'ray:HOST:PORT' uses a "
        "running cluster whose machines share the folders",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """`--quiet`."""
    parser.add_argument("--quiet", action="store_true", help="show no progress; results and errors only")


def progress_of(args: argparse.Namespace) -> Progress:
    """Where progress is shown: on standard error, or nowhere when `--quiet` asks for it."""
    return NoProgress() if args.quiet else progress_on()


@contextmanager
def training_where(args: argparse.Namespace) -> Iterator[None]:
    """Inside, jobs run where `--on` of the arguments says."""
    if under_torchrun():
        from experiments.pipeline.pool import jobs_on
        from experiments.pipeline.torchrun import Meeting, TogetherRunner, refuse_both

        refuse_both(args.on)
        with TogetherRunner(Meeting.taken()) as together, jobs_on(together):
            yield
        return
    if args.on is None:
        yield
        return
    from experiments.pipeline.pool import jobs_on
    from experiments.pipeline.ray_jobs import RayRunner

    with RayRunner(args.on or None) as runner, jobs_on(runner):
        yield


def under_torchrun() -> bool:
    """True in one of several processes that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def refuse_under_torchrun(verb: str) -> None:
    """Refuse what several processes would do as often as there are of them.

    Raises:
        UserError: torchrun with another verb than `run`.
    """
    if under_torchrun() and verb != "run":
        raise UserError(
            f"WORLD_SIZE: got {os.environ['WORLD_SIZE']} processes of torchrun with `distill {verb}`, allowed: with "
            "`distill run` alone. Start this command without torchrun"
        )


def load(args: argparse.Namespace) -> LoadedConfig:
    """The experiment that the arguments name."""
    import experiments.catalog  # noqa: F401  fills the registries

    return load_config(args.config, args.overrides)


def run_steps(args: argparse.Namespace, steps: Sequence[str]) -> Path:
    """Load the experiment and run steps of the pipeline; the run folder.

    Args:
        args: of a verb with `add_experiment`, `add_final` and `add_quiet`.
        steps: some of teacher, log, student, score.
    """
    loaded = load(args)
    # After loading, so that a mistake in the file is told at once: torch takes seconds to import.
    from experiments.pipeline.run import run

    return run(loaded, final=args.final, steps=steps, progress=progress_of(args))


def folder(text: str, allowed: str = "a run folder (the `output` of an experiment)") -> Path:
    """A folder that must be there.

    Args:
        text: as the user wrote it.
        allowed: what it may be, for the message.

    Raises:
        UserError: it is not there.
    """
    path = Path(text)
    if not path.is_dir():
        raise UserError(f"{text}: got no such folder, allowed: {allowed}")
    return path


def _ray_address(text: str) -> str:
    """The address after `ray:`; empty for `ray` alone."""
    engine, colon, address = text.partition(":")
    if engine != "ray" or bool(colon) != bool(address):
        raise argparse.ArgumentTypeError(f"got '{text}', allowed: ray, or ray:ADDRESS of a running cluster")
    return address


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("got an empty text, allowed: why the test days are read")
    return text.strip()
