"""A simulated platform with known truth: surfaces, drift, long histories, cold items, clicks and late conversions.

Several surfaces show items to users. What a user likes is shared by the surfaces, each sees it through a projection of
its own. Four things decide about a click: a slowly drifting taste that meets an item's latent vector; a lasting
preference for topics, which come back phase by phase, so that the last time a topic was active may lie hundreds of
events back; the present phase; the quality of the item on the surface. Observed attributes are coarse, noisy and partly
missing. Content vectors, as an encoder of pictures would give, are noisy projections of what items are. The log is
preceded by a history of events. True probabilities go to `truth/` and into no feature.

Ours; the defaults resemble the marginals of KuaiRand-Pure (`tests/distill/test_simulator_marginals.py`).

Memory: the users' and items' latents, and one day of rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from distill.config import DataConfig
from distill.errors import UserError
from distill.schema import FeatureSchema
from distill.sources.config import SimulatorConfig
from distill.sources.fingerprint import fingerprint
from distill.sources.simulator.content import MODALITY, content_vectors
from distill.sources.simulator.exposures import Exposures, day_sizes, sample_day
from distill.sources.simulator.features import Attributes, feature_columns, feature_schema, observe
from distill.sources.simulator.outcomes import CHUNK, Outcomes, calibrate, draw_outcomes
from distill.sources.simulator.world import World, build_world
from distill.sources.writer import ROW_GROUP, PreparedWriter

if TYPE_CHECKING:
    from distill.progress import Progress, Task


def schema(config: SimulatorConfig, data: DataConfig) -> FeatureSchema:
    """The schema of the data set that `prepare` would write.

    Args:
        config: settings of the simulator.
        data: `prehistory` must be false.

    Raises:
        UserError: `data.prehistory` is asked for.
    """
    if data.prehistory:
        raise UserError(
            "data.prehistory: got true, allowed: false for the simulator. Events from before its log are part of it; "
            "data.options.history_events says how many."
        )
    return feature_schema(config)


def prepare(
    config: SimulatorConfig, data: DataConfig, folder: Path, progress: Progress, chunk: int = CHUNK
) -> None:
    """Write the simulated data set.

    Args:
        config: settings of the simulator.
        data: `root` is not used, `prehistory` must be false.
        folder: where to write.
        progress: shown to the user.
        chunk: rows computed at once; bounds memory, changes no value.

    Raises:
        UserError: `data.prehistory` is asked for.
    """
    target = schema(config, data)
    world = build_world(config)
    calibrate(world)
    events, rows = _sizes(config)
    with (
        PreparedWriter(
            folder, target, source="simulator", fingerprint=fingerprint("simulator", config, data)
        ) as writer,
        progress.task("simulate", total=int(events.sum() + rows.sum()), unit="events") as bar,
    ):
        for size in events:
            _write_history(writer, world, int(size), chunk)
            bar.advance(int(size))
            world.step()
        attributes = observe(world)
        if config.content_width:
            writer.add_content(MODALITY, *content_vectors(world))
        first = 0
        for size in rows:
            _write_day(writer, world, attributes, first, int(size), chunk, bar)
            first += int(size)
            if world.day < config.days:
                world.step()


def _sizes(config: SimulatorConfig) -> tuple[np.ndarray, np.ndarray]:
    """Events of every history day, rows of every day of the log."""
    history = round(config.users * config.history_events)
    events = day_sizes(config, history, config.history_days, "history volume", least=0)
    return events, day_sizes(config, config.days * config.rows_per_day, config.days, "volume", least=1)


def _write_history(writer: PreparedWriter, world: World, size: int, chunk: int) -> None:
    if not size:
        return
    rows = sample_day(world, size)
    outcomes = draw_outcomes(world, rows, chunk)
    item = world.items.public_id[rows.item]
    labels = np.stack([outcomes.click, outcomes.conversion], axis=1)
    matures = np.stack([rows.timestamp, outcomes.matures], axis=1)
    writer.add_events(rows.user, rows.timestamp, item, rows.surface, labels, matures)


def _write_day(
    writer: PreparedWriter, world: World, attributes: Attributes, first: int, size: int, chunk: int, bar: Task
) -> None:
    rows = sample_day(world, size)
    outcomes = draw_outcomes(world, rows, chunk)
    example_id = np.arange(first, first + size)
    for start in range(0, size, ROW_GROUP):
        part = slice(start, min(start + ROW_GROUP, size))
        writer.write_day(
            world.day, _table(world, attributes, rows.part(part), outcomes.part(part), example_id[part])
        )
        bar.advance(part.stop - part.start)
    truth = {"click": outcomes.p_click, "conversion": outcomes.p_conversion}
    writer.write_truth(world.day, example_id, truth)


def _table(
    world: World, attributes: Attributes, rows: Exposures, outcomes: Outcomes, example_id: np.ndarray
) -> pa.Table:
    columns = {"example_id": example_id, "timestamp": rows.timestamp, "domain": rows.surface.astype(np.int32)}
    columns |= feature_columns(world, attributes, rows)
    columns |= {"label_click": outcomes.click, "label_conversion": outcomes.conversion}
    columns["matures_conversion"] = outcomes.matures
    return pa.table(columns)
