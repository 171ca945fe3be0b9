"""What an experiment file may say. OmegaConf checks types; `distill.validate` checks meaning.

Free of torch. Every field is documented where it stands; the command line prints these texts as help
(`distill validate --help`, `distill ls students`).
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class DataConfig:
    """Which data, and what of it is an input.

    Attributes:
        source: name of the source: simulator, kuairand or parquet (`distill ls sources`).
        root: folder of the source's files, relative to the current directory; not used by the simulator.
        cache: folder that keeps prepared data sets for later runs, relative to the current directory.
        prehistory: also use history events from before the log (sources that have them).
        options: settings of the source (`distill ls sources` prints them).
    """

    source: str = "simulator"
    root: str | None = None
    cache: str = "runs/data"
    prehistory: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class OptimizerConfig:
    """How one model is trained.

    Attributes:
        batch_size: examples per step.
        learning_rate: of the dense parameters (Adam).
        table_learning_rate: of the embedding tables (fused row-wise AdaGrad).
        weight_decay: of the dense parameters (decoupled).
        clip_norm: largest norm of the model's dense gradient, and of each channel's own; 0 leaves them alone. Fused
            tables are never clipped.
    """

    batch_size: int = 512
    learning_rate: float = 1e-3
    table_learning_rate: float = 0.02
    weight_decay: float = 0.0
    clip_norm: float = 0.0


@dataclass
class TeacherConfig:
    """The large model.

    Attributes:
        name: its name in tables and pictures.
        architecture: registered name (`distill ls teachers`) or `file.py:Class`, relative to this YAML file.
        options: settings of the architecture.
        tasks: tasks it learns; empty for all of the schema.
        features: sparse features it reads; empty for all of the schema.
        dense: dense features it reads; empty for all of the schema.
        optimizer: training settings.
    """

    name: str = "gem"
    architecture: str = "gem"
    options: dict[str, Any] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    dense: list[str] = field(default_factory=list)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass
class StudentConfig:
    """A small model for one vertical, or the same one for several verticals.

    Attributes:
        name: its name in tables and pictures.
        architecture: registered name (`distill ls students`) or `file.py:Class`, relative to this YAML file.
        options: settings of the architecture.
        verticals: the surfaces it serves, one student each.
        tasks: tasks it predicts; empty for all of the schema.
        features: sparse features it reads; empty for all of the schema.
        dense: dense features it reads; empty for all of the schema.
        channels: names of the experiment's channel sets to compare, one training each; empty for all of them.
            `none` is always trained, since every transfer ratio is measured against it.
        optimizer: training settings.
        channel_optimizers: training settings of single channel sets by name, complete, instead of `optimizer`;
            a fair comparison tunes each set by the same number of trials (`distill study tune`).
    """

    name: str = "???"
    architecture: str = "deepfm"
    options: dict[str, Any] = field(default_factory=dict)
    verticals: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    dense: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    channel_optimizers: dict[str, OptimizerConfig] = field(default_factory=dict)


@dataclass
class ScheduleConfig:
    """Who trains on which day, and what is scored (PROTOCOL.md, "Schedules, snapshots, lag").

    Attributes:
        kind: progressive or frozen.
        lag: days by which the logging snapshot is older than the newest possible one.
        teacher_days: frozen: the last day the teacher trains on; it starts on day 1. Progressive: ignored.
        student_first_day: first day students train on; 0 for the schedule's own (progressive: day 1, frozen:
            the day after the teacher's last).
        student_last_day: frozen: last day students train on. Progressive: ignored, every day is trained on.
        tune_days: days whose progressive predictions choose settings and are scored in ordinary runs.
        test_days: days read only under --final.
    """

    kind: str = "progressive"
    lag: int = 1
    teacher_days: int = 7
    student_first_day: int = 0
    student_last_day: int = 11
    tune_days: list[int] = field(default_factory=lambda: [9, 10, 11])
    test_days: list[int] = field(default_factory=lambda: [12, 13, 14])


@dataclass
class WandbConfig:
    """Weights & Biases.

    Attributes:
        enabled: record runs. WANDB_MODE decides between offline (default) and online.
        project: project name.
    """

    enabled: bool = True
    project: str = "gem-distill"


@dataclass
class ExperimentConfig:
    """One experiment: data, teacher, students, channels, schedule.

    Attributes:
        name: experiment's name; part of every cell's identity.
        output: folder that gets the run, relative to the current directory.
        seeds: one training of teacher and students per seed; a student learns from its own seed's teacher.
        data: which data.
        teacher: the large model; null for none, which leaves only what needs no teacher.
        students: inline mappings, or `file: student.yaml` relative to the experiment file.
        channels: channel sets by name; each maps channel names to their settings (`distill ls channels`).
            `none`, the empty set, is always there.
        schedule: days.
        floor: also score a logistic regression on smoothed rates of earlier days; the teacher must beat it.
        wandb: recording.
        workers: processes that train seeds and students side by side; 0 for one per core.
        threads: torch threads per process.
    """

    name: str = "???"
    output: str = "???"
    seeds: list[int] = field(default_factory=lambda: [0])
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig | None = field(default_factory=TeacherConfig)
    students: list[StudentConfig] = field(default_factory=list)
    channels: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    floor: bool = False
    wandb: WandbConfig = field(default_factory=WandbConfig)
    workers: int = 0
    threads: int = 1
