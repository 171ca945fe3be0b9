"""Every name that a config may ask for. Importing this module fills the registries.

Free of torch: a builder is an import path until somebody builds.
"""

from __future__ import annotations

from adapters.adapter_config import GatedConfig, StudentAdapterConfig
from adapters.config import AuxiliaryHeadConfig
from adapters.representation_config import (
    CurrentConfig,
    FitNetsConfig,
    RawHistoryConfig,
    StoredRepresentationsConfig,
)
from adapters.sharing_config import SharingConfig
from distill.channel_config import PrivilegedFeaturesConfig, SingleConfig
from distill.registry import CHANNELS, SOURCES, STUDENTS, TEACHERS
from distill.sources.config import KuaiRandConfig, ParquetConfig, SimulatorConfig
from students.config import DCNv2Config, DeepFMConfig, DINConfig, DLRMConfig
from teachers.config import GEMConfig

SOURCES.add(
    "simulator",
    SimulatorConfig,
    "distill.sources.simulator:prepare",
    "simulated surfaces with known truth: drift, long histories, delayed conversions, cold items",
)
SOURCES.add(
    "kuairand",
    KuaiRandConfig,
    "distill.sources.kuairand:prepare",
    "KuaiRand-Pure's standard log: 14 days, five tabs as verticals, clicks and long views",
    needs=("root",),
)
SOURCES.add(
    "parquet",
    ParquetConfig,
    "distill.sources.parquet:prepare",
    "bring your own: a folder of days as Parquet with a schema.yaml",
    needs=("root",),
)

# Every architecture may take either role: peers learn from all surfaces as the teacher does, GEM may serve one surface.
for _role in (TEACHERS, STUDENTS):
    _role.add(
        "gem",
        GEMConfig,
        "teachers.gem:build",
        "GEM: a Wukong tower over the features beside a sequence tower over the history",
        reads=("content",),
    )
    _role.add(
        "dlrm",
        DLRMConfig,
        "students.dlrm:build",
        "DLRM: dot products of all pairs of embeddings",
        reads=("fields",),
    )
    _role.add(
        "deepfm",
        DeepFMConfig,
        "students.deepfm:build",
        "DeepFM: a factorization machine and an MLP side by side",
        reads=("fields",),
    )
    _role.add(
        "dcn_v2",
        DCNv2Config,
        "students.dcn_v2:build",
        "DCN-v2: cross layers of explicit products, and an MLP",
        reads=("fields",),
    )
    _role.add(
        "din",
        DINConfig,
        "students.din:build",
        "DIN: attention of the item at hand over the user's history",
        reads=("fields",),
    )

CHANNELS.add(
    "single",
    SingleConfig,
    "distill.single:build",
    "soft labels on the serving head itself: the control that ah must beat",
    needs=("teacher",),
)
CHANNELS.add(
    "pfd",
    PrivilegedFeaturesConfig,
    "distill.pfd:build",
    "soft labels on the serving head of a teacher that reads what the student lacks, after a warm-up",
    needs=("teacher", "privileged"),
)
CHANNELS.add(
    "ah",
    AuxiliaryHeadConfig,
    "adapters.auxiliary_head:build",
    "soft labels on an auxiliary head beside the serving head, used in training only",
    needs=("teacher",),
)
CHANNELS.add(
    "adapter",
    StudentAdapterConfig,
    "adapters.student_adapter:build",
    "the Student Adapter: the teacher corrected by matured labels, on a distill head of its own; with ah, ah_adapter",
    needs=("teacher",),
)
CHANNELS.add(
    "gated",
    GatedConfig,
    "adapters.gate:build",
    "several teachers, weighed anew for every example, on a distill head of its own",
    needs=("teacher", "others"),
)
CHANNELS.add(
    "repr",
    StoredRepresentationsConfig,
    "adapters.representation:build",
    "the teacher's representations of earlier examples, of the user or of the item, as fields",
    needs=("teacher", "representation"),
)
CHANNELS.add(
    "rawid",
    RawHistoryConfig,
    "adapters.raw_history:build",
    "raw items of the user's history as a field: the control that repr must beat",
)
CHANNELS.add(
    "current",
    CurrentConfig,
    "adapters.current:build",
    "the teacher's representation of the example itself as a field: a control that runs the teacher when serving",
    needs=("teacher", "representation"),
)
CHANNELS.add(
    "fitnets",
    FitNetsConfig,
    "adapters.fitnets:build",
    "the student's tap learns to foretell the teacher's representation, in training only: a control of repr",
    needs=("teacher", "representation"),
)
CHANNELS.add(
    "sharing",
    SharingConfig,
    "adapters.sharing:build",
    "the teacher's tables as further fields of the student or as its initial rows; the teacher's modules",
    needs=("teacher",),
)
