"""The meaning of an experiment's `sharding` section. Free of torch."""

from __future__ import annotations

from distill.checks import check_at_least, check_known
from distill.config import ExperimentConfig
from distill.errors import nearest
from distill.findings import Findings, show
from distill.schema import FeatureSchema
from distill.strict_yaml import KeyPath
from kernels.table_sharding import KINDS, allowed_instead_of


def check_sharding(config: ExperimentConfig, schema: FeatureSchema | None, findings: Findings) -> None:
    """Kinds that there are, for tables that the teacher has.

    Args:
        config: whose teacher is shared.
        schema: of its data; None when it is not known yet.
        findings: gets the problems.
    """
    sharding = config.sharding
    check_at_least(sharding.group, 0, ("sharding", "group"), findings)
    _check_kind(sharding.tables, ("sharding", "tables"), findings)
    for feature, kind in sharding.kinds.items():
        _check_kind(kind, ("sharding", "kinds", feature), findings)
    if sharding.dense == "fsdp2" and config.teacher is not None and config.teacher.compute.compile:
        allowed = "ddp with `teacher.compute.compile: true`; the two have not been tried together"
        findings.add(("sharding", "dense"), "'fsdp2'", allowed)
    features = [] if config.teacher is None else config.teacher.features
    if not features and schema is not None:
        features = list(schema.sparse)
    if features:
        check_known(sharding.kinds, features, ("sharding", "kinds"), findings)


def _check_kind(kind: str, path: KeyPath, findings: Findings) -> None:
    if kind not in KINDS:
        findings.add(path, show(kind), allowed_instead_of(kind), nearest(kind, KINDS))
