"""What an experiment file may say. OmegaConf checks types; `distill.validate` checks meaning.

Free of torch. Every field is documented where it stands; the command line prints these texts as help
(`distill validate --help`, `distill ls students`).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

DelayedLabels = Literal["matured", "weighted", "final"]

OMITTED = {"omitted": True}
"""Of a field that came after there were runs: a config does not speak of it where it has its default, so that the hash
and the resolved config of such a run stay what they were."""


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
        clip_norm: largest norm of the model's dense gradient, and of each channel's; 0 leaves them alone. Fused tables,
            and what a channel trains by an optimiser of its own, are never clipped.
    """

    batch_size: int = 512
    learning_rate: float = 1e-3
    table_learning_rate: float = 0.02
    weight_decay: float = 0.0
    clip_norm: float = 0.0


@dataclass
class ComputeConfig:
    """How a model computes; none of it changes results beyond rounding.

    Attributes:
        precision: fp32, or bf16: matrix products in bfloat16 (autocast). Parameters, tables and losses stay float32. It
            pays on wide layers, where the processor multiplies bfloat16.
        compile: compile the model around its tables (torch.compile; needs a C++ compiler). The first batches take
            minutes, so that only long trainings gain.
    """

    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False


@dataclass
class RepresentationConfig:
    """What the teacher log keeps of the teacher's inside: taps, compressed by an autoencoder that trains beside it.

    Attributes:
        taps: named taps of the architecture (GEM: embedding, each interaction layer, penultimate, user, item, cross);
            a name it lacks is refused with those it has.
        dim: width of the representation.
        hidden: widths of the encoder's hidden layers, the decoder's in reverse; none for linear ones.
        prefixes: rising widths below `dim` that are trained to stand alone (Matryoshka), for students that want less.
        codec: how the log stores it: fp16 (2 bytes a number), int8 (1 byte) or int4 (k-means, half a byte).
        learning_rate: of the autoencoder's own Adam.
    """

    taps: list[str] = field(default_factory=lambda: ["penultimate"])
    dim: int = 32
    hidden: list[int] = field(default_factory=lambda: [128])
    prefixes: list[int] = field(default_factory=list)
    codec: Literal["fp16", "int8", "int4"] = "int8"
    learning_rate: float = 3e-3


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
        content: modalities whose content vectors it reads, if its architecture can; empty for none.
        optimizer: training settings.
        delayed_labels: what is learnt from rows whose labels are not final when their day is trained on: matured,
            nothing; weighted, what is seen so far, made up for what is still to come; final, a control for simulated
            data, their labels from the future.
        compute: precision and compilation.
        representation: what the teacher log keeps beside the logits; null for nothing.
        start: file of a model of this shape that was trained before, relative to the current directory; `{seed}` in it
            stands for the seed. Training begins with its parameters, rows and the rows' moments; Adam's moments of the
            dense parameters begin anew. Tables may have more rows than there, for new ids: those begin as in any
            training. null to begin anew.
    """

    name: str = "gem"
    architecture: str = "gem"
    options: dict[str, Any] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    dense: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    delayed_labels: DelayedLabels = "matured"
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    representation: RepresentationConfig | None = None
    start: str | None = field(default=None, metadata=OMITTED)


def of_seed(start: str, seed: int) -> str:
    """The file that `start` of a teacher names for a seed."""
    return start.replace("{seed}", str(seed))


@dataclass
class DomainTeacherConfig(TeacherConfig):
    """A teacher of some surfaces, between the teacher and their students of `route: hierarchical`.

    Attributes:
        verticals: the surfaces whose rows it learns from, one model for all of them.
        channel: the channel set by which it learns from the teacher, beside the labels.
    """

    name: str = "???"
    verticals: list[str] = field(default_factory=list)
    channel: str = "ah"


@dataclass
class StudentConfig:
    """A small model for one vertical, or the same one for several verticals.

    Attributes:
        name: its name in tables and pictures.
        architecture: registered name (`distill ls students`) or `file.py:Class`, relative to this YAML file.
        options: settings of the architecture.
        verticals: the surfaces it serves, one student each.
        route: whom it learns from: direct, the teacher; hierarchical, the domain teacher of its surface.
        tasks: tasks it predicts; empty for all of the schema.
        features: sparse features it reads; empty for all of the schema.
        dense: dense features it reads; empty for all of the schema.
        content: modalities whose content vectors it reads, if its architecture can; empty for none.
        channels: names of the experiment's channel sets to compare, one training each; empty for all of them.
            `none` is always trained, since every transfer ratio is measured against it.
        optimizer: training settings.
        channel_optimizers: training settings of single channel sets by name, complete, instead of `optimizer`;
            a fair comparison tunes each set by the same number of trials (`distill study tune`).
        channel_settings: settings of single channels, by set and channel, that this student has instead of the
            experiment's; those left out are the experiment's.
        delayed_labels: as the teacher's: matured, weighted or (simulated data only) final.
        negative_sampling: share of the rows not known to be positive that it trains on, above 0; 1 for all. Less than 1
            only for a student of exactly one task, without weighted labels. What it predicts is corrected for it.
        compute: precision and compilation.
    """

    name: str = "???"
    architecture: str = "deepfm"
    options: dict[str, Any] = field(default_factory=dict)
    verticals: list[str] = field(default_factory=list)
    route: Literal["direct", "hierarchical"] = "direct"
    tasks: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    dense: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    channel_optimizers: dict[str, OptimizerConfig] = field(default_factory=dict)
    channel_settings: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    delayed_labels: DelayedLabels = "matured"
    negative_sampling: float = 1.0
    compute: ComputeConfig = field(default_factory=ComputeConfig)


@dataclass
class ScheduleConfig:
    """Who trains on which day, and what is scored (PROTOCOL.md, "Schedules, snapshots, lag").

    Attributes:
        kind: progressive or frozen.
        lag: progressive: days by which the logging snapshot is older than the newest possible one. Frozen: ignored,
            every day is logged by the teacher's last.
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
class CheckpointConfig:
    """Checkpoints within a training, from which it goes on after it was stopped or killed; gone when it has ended. One
    is also made when a training is asked to stop (SIGTERM, Ctrl-C). None of it changes results.

    Attributes:
        every_minutes: minutes between two, or more, so that they take at most a twentieth of the training's time; 0
            for none.
        every_batches: batches between two, beside those by minutes; 0 for none.
        keep: the newest ones that stay, 1 or more; the one with the least loss stays beside them.
    """

    every_minutes: float = 5.0
    every_batches: int = 0
    keep: int = 2


@dataclass
class ShardingConfig:
    """How the processes of one torchrun share the teacher; unused where one process trains it. Apart from `group`, none
    of it changes results beyond rounding.

    Attributes:
        tables: how an embedding table is shared: row_wise, every process holds an equal range of its rows; table_wise,
            one process holds all of it; data_parallel, every process holds a copy (small tables).
        kinds: tables, by their feature, that are shared in another way than `tables` says.
        group: processes that hold all tables between them; every such group has a copy, and copies are averaged after
            each step (2-D sparse parallelism; CUDA only). 0 for all processes, and no copies.
        dense: the other parameters: ddp, every process holds a copy; fsdp2, a part of them and of their optimiser's
            state, gathered while it is needed.
    """

    tables: str = "row_wise"
    kinds: dict[str, str] = field(default_factory=dict)
    group: int = 0
    dense: Literal["ddp", "fsdp2"] = "ddp"


@dataclass
class ExperimentConfig:
    """One experiment: data, teachers, students, channels, schedule.

    Attributes:
        name: experiment's name; part of every cell's identity.
        output: folder that gets the run, relative to the current directory.
        seeds: one training of teacher and students per seed; a student learns from its own seed's teacher.
        data: which data.
        teacher: the large model, or `file: teacher.yaml` relative to the experiment file; null for none, which leaves
            only what needs no teacher.
        domain_teachers: teachers of some surfaces each, which learn from the teacher and teach in its place; inline
            mappings, or `file: teacher.yaml`.
        students: inline mappings, or `file: student.yaml` relative to the experiment file.
        channels: channel sets by name; each maps channel names to their settings (`distill ls channels`).
            `none`, the empty set, is always there.
        schedule: days.
        floor: also score a logistic regression on smoothed rates of earlier days; the teacher must beat it.
        wandb: recording.
        checkpoint: checkpoints within a training.
        sharding: how several processes share the teacher.
        workers: processes that train seeds and students side by side; 0 for one per core.
        threads: torch threads per process.
        bank: students of one shape, stream and seed that are trained as one at most, where their channels allow it (all
            but `gated`, `current` and `fitnets`, copies of tables that are trained, adapters that read ids): cheaper,
            and equal to training alone within rounding. 1 trains each by itself, so that what changes nothing leaves
            every bit as it was.
    """

    name: str = "???"
    output: str = "???"
    seeds: list[int] = field(default_factory=lambda: [0])
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig | None = field(default_factory=TeacherConfig)
    domain_teachers: list[DomainTeacherConfig] = field(default_factory=list)
    students: list[StudentConfig] = field(default_factory=list)
    channels: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    floor: bool = False
    wandb: WandbConfig = field(default_factory=WandbConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    workers: int = 0
    threads: int = 1
    bank: int = 1
