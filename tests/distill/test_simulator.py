"""The simulator: the same values from the same settings, rules of time and delay, drift, truth kept apart."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import distill.sources.simulator as simulator
from distill.config import DataConfig
from distill.dataset import DataSet
from distill.errors import UserError
from distill.progress import NoProgress
from distill.schema import Content, FeatureSchema
from distill.sources.config import SimulatorConfig
from distill.sources.simulator.content import content_vectors
from distill.sources.simulator.exposures import active_topics, day_sizes, sample_day
from distill.sources.simulator.outcomes import calibrate, draw_outcomes
from distill.sources.simulator.world import build_world

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_767_225_600_000  # 2026-01-01, 0:00 UTC
WINDOW_MS = 8 * HOUR_MS
SMALL = replace(
    SimulatorConfig(), days=4, rows_per_day=800, users=400, items=200, history_events=10.0, history_days=8
)


def write(folder: Path, config: SimulatorConfig, **options: int) -> Path:
    simulator.prepare(config, DataConfig(), folder, NoProgress(), **options)
    return folder


def log_of(folder: Path) -> pa.Table:
    """All days of a data set."""
    return pa.concat_tables([pq.read_table(part) for part in sorted(folder.glob("days/*/*.parquet"))])


def truth_of(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(part) for part in sorted(folder.glob("truth/*.parquet"))])


def events_of(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in sorted(folder.glob("events/*.npy"))}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("simulator") / "small", SMALL)


@pytest.fixture(scope="module")
def log(small: Path) -> pa.Table:
    return log_of(small)


def test_same_settings_same_values(small: Path, log: pa.Table, tmp_path: Path) -> None:
    again = write(tmp_path / "again", SMALL)
    assert log_of(again).equals(log)
    assert truth_of(again).equals(truth_of(small))
    ours, theirs = events_of(small), events_of(again)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_another_seed_is_another_data_set(log: pa.Table, tmp_path: Path) -> None:
    other = log_of(write(tmp_path / "other", replace(SMALL, seed=1)))
    assert not other["label_click"].equals(log["label_click"])
    assert not other["user_id"].equals(log["user_id"])


def test_pieces_change_nothing(
    small: Path, log: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulator, "ROW_GROUP", 101)
    cut = write(tmp_path / "cut", SMALL, chunk=37)
    assert log_of(cut).equals(log)
    assert truth_of(cut).equals(truth_of(small))


def test_the_log_does_not_depend_on_the_number_of_history_events(log: pa.Table, tmp_path: Path) -> None:
    alone = write(tmp_path / "alone", replace(SMALL, history_events=0.0))
    assert log_of(alone).equals(log)
    assert len(events_of(alone)["time"]) == 3200


def test_ids_and_times_rise_within_their_day(small: Path) -> None:
    first = 0
    for day in range(1, 5):
        table = pq.read_table(small / f"days/day={day:04d}/part-0.parquet")
        time = table["timestamp"].to_numpy()
        assert table["example_id"].to_pylist() == list(range(first, first + len(time)))
        assert (np.diff(time) >= 0).all()
        assert START_MS + (day - 1) * DAY_MS <= time[0] and time[-1] < START_MS + day * DAY_MS
        first += len(time)


def test_the_schema_is_known_before_the_data(small: Path) -> None:
    expected = simulator.schema(SMALL, DataConfig())
    assert FeatureSchema.load(small / "schema.yaml") == expected
    assert expected.verticals == expected.domains == ("feed", "explore", "stories", "search", "inbox")
    assert {task.name: task.window_ms for task in expected.tasks.values()} == {
        "click": 0,
        "conversion": WINDOW_MS,
    }
    assert [(day.date, day.end_ms) for day in expected.days][:2] == [
        ("2026-01-01", START_MS + DAY_MS),
        ("2026-01-02", START_MS + 2 * DAY_MS),
    ]


def test_every_row_is_there_and_days_differ(small: Path) -> None:
    rows = DataSet.open(small).rows_per_day
    assert sum(rows.values()) == 4 * 800
    assert len(set(rows.values())) == 4
    assert 500 < min(rows.values()) and max(rows.values()) < 1200


def test_day_sizes_add_up_however_few_rows_there_are() -> None:
    assert day_sizes(SMALL, 5, 5, "volume", least=1).tolist() == [1] * 5
    assert day_sizes(SMALL, 0, 3, "history volume", least=0).tolist() == [0] * 3
    assert day_sizes(SMALL, 0, 0, "history volume", least=0).tolist() == []
    assert day_sizes(SMALL, 10_007, 13, "volume", least=1).sum() == 10_007


def test_truth_is_kept_apart(small: Path, log: pa.Table) -> None:
    assert truth_of(small).column_names == ["example_id", "p_click", "p_conversion"]
    schema = FeatureSchema.load(small / "schema.yaml")
    known = {"example_id", "user_id", "timestamp", "domain", *schema.sparse, *schema.dense}
    assert set(log.column_names) - known == {"label_click", "label_conversion", "matures_conversion"}
    assert not [name for name in known if name.startswith("p_") or "label" in name]


def test_no_feature_depends_on_what_users_did(small: Path, log: pa.Table, tmp_path: Path) -> None:
    """With other outcomes every input is the same, so none of them carries an outcome."""
    other = replace(
        SMALL, click_rates=[0.3] * 5, taste_strength=1.5, preference_strength=0.0, user_spread=1.0
    )
    changed = log_of(write(tmp_path / "other", other))
    assert not changed["label_click"].equals(log["label_click"])
    inputs = [name for name in log.column_names if not name.startswith(("label_", "matures_"))]
    assert changed.select(inputs).equals(log.select(inputs))
    for name in ("vectors", "known"):
        ours, theirs = (folder / f"content/content/{name}.npy" for folder in (small, tmp_path / "other"))
        assert theirs.read_bytes() == ours.read_bytes()


# Content vectors


def vectors_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [I, M] and whether each is known, by item id."""
    vectors, known = (np.load(folder / f"content/content/{name}.npy") for name in ("vectors", "known"))
    return vectors.astype(np.float64), known


def test_items_have_content_vectors_but_for_a_share(small: Path) -> None:
    assert FeatureSchema.load(small / "schema.yaml").content == {"content": Content("content", 16)}
    vectors, known = vectors_of(small)
    assert vectors.shape == (200, 16)
    assert 1 - known.mean() == pytest.approx(0.08, abs=0.06)
    assert not vectors[~known].any()
    assert vectors[known].std() == pytest.approx(1.0, abs=0.1)


def test_without_content_the_rest_is_the_same(small: Path, log: pa.Table, tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", replace(SMALL, content_width=0))
    assert FeatureSchema.load(plain / "schema.yaml").content == {}
    assert not (plain / "content").exists()
    assert log_of(plain).equals(log)
    assert truth_of(plain).equals(truth_of(small))


def explained(vectors: np.ndarray, values: np.ndarray) -> float:
    """Share of the values' variance that a linear model finds in the vectors."""
    inputs = np.column_stack([vectors, np.ones(len(vectors))])
    left = values - inputs @ np.linalg.lstsq(inputs, values, rcond=None)[0]
    return 1 - float((left.var(axis=0) / values.var(axis=0)).mean())


def test_vectors_are_noisy_projections_of_what_items_are() -> None:
    config = replace(SMALL, items=5000, latent_width=4, content_width=24, content_noise=0.0, missing=0.0)
    world = build_world(config)
    ids, vectors = content_vectors(world)
    assert np.array_equal(ids, world.items.public_id)
    topics = np.eye(config.topics)[world.items.topic]
    # 4 latent numbers, 2 qualities and 12 topics in 24 numbers: everything can be read back without noise.
    for values in (world.items.latent, world.items.quality.mean(1), topics):
        assert explained(vectors, values) == pytest.approx(1.0, abs=1e-9)
    noisy = content_vectors(build_world(replace(config, content_noise=1.0)))[1]
    assert 0.3 < explained(noisy, world.items.latent) < 0.9
    # Signal and noise have the same variance, and the sum is scaled to that of the signal.
    assert np.corrcoef(noisy.ravel(), vectors.ravel())[0, 1] == pytest.approx(2**-0.5, abs=0.03)


def test_vectors_belong_to_the_shown_ids(small: Path) -> None:
    ids, vectors = content_vectors(build_world(SMALL))
    stored, known = vectors_of(small)
    assert np.flatnonzero(known).tolist() == sorted(ids.tolist())
    assert np.abs(stored[ids] - vectors).max() < 2e-3


def test_the_vectors_are_frozen(small: Path) -> None:
    vectors, known = vectors_of(small)
    # Three digits: the last ones may differ between processors.
    digest = hashlib.sha256(np.round(vectors * 1e3).astype(np.int64).tobytes() + known.tobytes())
    assert digest.hexdigest() == "4e308612afc18d45a78d931ea679ca5682645546c07ed941138b00315f191568"


def test_labels_follow_the_true_probabilities(small: Path, log: pa.Table) -> None:
    truth = truth_of(small)
    assert truth["example_id"].equals(log["example_id"])
    for task in ("click", "conversion"):
        p, y = truth[f"p_{task}"].to_numpy(), log[f"label_{task}"].to_numpy()
        assert abs(np.sum(y - p)) < 4 * math.sqrt(np.sum(p * (1 - p)))
        # A label that knew nothing of p would have a mean p(1-p) larger than this by the variance of p.
        assert np.mean((y - p) ** 2) == pytest.approx(np.mean(p * (1 - p)), rel=0.06)
    assert (truth["p_conversion"].to_numpy() < truth["p_click"].to_numpy()).all()


def test_conversions_need_a_click_and_mature_by_the_rule(log: pa.Table) -> None:
    click, conversion = log["label_click"].to_numpy(), log["label_conversion"].to_numpy()
    wait = log["matures_conversion"].to_numpy() - log["timestamp"].to_numpy()
    assert (click[conversion == 1] == 1).all()
    assert (wait[click == 0] == 0).all()
    assert (wait[(click == 1) & (conversion == 0)] == WINDOW_MS).all()
    delay = wait[conversion == 1]
    assert 0 < delay.min() and delay.max() <= WINDOW_MS
    # Median of an exponential of mean 1.5 h that is cut off at 8 h.
    expected = -1.5 * math.log(1 - 0.5 * (1 - math.exp(-8 / 1.5))) * HOUR_MS
    assert np.median(delay) == pytest.approx(expected, rel=0.15)


def test_a_later_window_waits_longer(tmp_path: Path) -> None:
    config = replace(SMALL, history_events=0.0, window_hours=0.5, delay_hours=100.0)
    table = log_of(write(tmp_path / "d", config))
    wait = (table["matures_conversion"].to_numpy() - table["timestamp"].to_numpy())[
        table["label_click"].to_numpy() == 1
    ]
    assert wait.max() == HOUR_MS // 2
    converted = wait[wait < HOUR_MS // 2]
    # A delay much longer than the window is uniform within it.
    assert converted.mean() == pytest.approx(HOUR_MS / 4, rel=0.1)


def test_history_lies_before_the_log_and_is_labelled(small: Path) -> None:
    events = events_of(small)
    before = events["time"] < START_MS
    assert before.sum() == 400 * 10
    assert len(before) == 4000 + 3200
    assert events["time"].min() >= START_MS - 8 * DAY_MS
    label = events["label"][before]
    assert set(np.unique(label)) == {0, 1}
    assert (label[:, 1] <= label[:, 0]).all()
    assert (events["matures"][before][:, 1] == events["time"][before] + WINDOW_MS).mean() > 0.5


def test_items_are_shown_only_while_they_live_and_users_only_after_they_came() -> None:
    config = replace(SMALL, evergreen=0.1, item_life_days=2, new_users=0.5)
    world = build_world(config)
    shown = []
    for _ in range(12):
        rows = sample_day(world, 500)
        assert (world.items.born[rows.item] <= world.day).all()
        assert (world.items.retired[rows.item] >= world.day).all()
        assert (world.users.joined[rows.user] <= world.day).all()
        shown.append(set(rows.item.tolist()))
        world.step()
    assert shown[-1] - shown[0], "no item was born"
    assert (world.items.born > 1).any() and (world.items.retired < 4).any()
    assert 100 < (world.users.joined > 1).sum() < 300


def test_tastes_and_popularities_drift_and_keep_their_spread() -> None:
    world = build_world(replace(SMALL, users=3000, items=3000))
    taste, popularity = world.users.taste.copy(), world.items.popularity.copy()
    alike = []
    for _ in range(10):
        world.step()
        alike.append(np.corrcoef(world.users.taste.ravel(), taste.ravel())[0, 1])
    # sqrt(1 - 0.15^2) per day.
    assert alike[0] == pytest.approx(0.98869, abs=0.002)
    assert alike[9] == pytest.approx(0.98869**10, abs=0.01)
    assert world.users.taste.std() == pytest.approx(1.0, abs=0.02)
    assert world.items.popularity.std() == pytest.approx(1.55, abs=0.1)
    assert 0.9 < np.corrcoef(world.items.popularity, popularity)[0, 1] < 0.99


def test_rates_drift_by_surface() -> None:
    walk = build_world(replace(SMALL, days=200, rate_drift=[0.05] * 5)).surfaces.walk
    assert walk.shape == (201, 5, 2)
    assert (walk[0] == 0).all()
    assert np.diff(walk[1:], axis=0).std() == pytest.approx(0.05, rel=0.1)
    assert np.abs(np.corrcoef(np.diff(walk[1:, :, 0], axis=0).T) - np.eye(5)).max() < 0.3
    assert np.ptp(build_world(replace(SMALL, rate_drift=[0.0] * 5)).surfaces.walk) == 0


def test_surfaces_have_their_rates() -> None:
    config = replace(SMALL, rate_drift=[0.0] * 5, surface_shares=[1.0] * 5, surface_regularity=[2.0] * 5)
    world = build_world(config)
    calibrate(world)
    rows = sample_day(world, 40_000)
    outcomes = draw_outcomes(world, rows)
    size = np.bincount(rows.surface)
    assert size.min() > 6000
    click = np.bincount(rows.surface, outcomes.p_click) / size
    assert click.tolist() == pytest.approx(config.click_rates, abs=0.02)
    converted = np.bincount(rows.surface, outcomes.p_conversion) / size / click
    assert converted.tolist() == pytest.approx(config.conversion_rates, abs=0.03)


def test_topics_come_back_after_their_cycle() -> None:
    """Two of eight topics are active in a phase of seven days: the same ones again after 28 days."""
    world = build_world(SMALL)
    users = np.arange(400)
    first = active_topics(world, users)
    world.day += 28
    assert np.array_equal(active_topics(world, users), first)
    world.day += 7
    later = active_topics(world, users)
    assert not (later[:, :, None] == first[:, None, :]).any()


def test_sessions_are_bursts_of_one_user_on_one_surface() -> None:
    world = build_world(replace(SMALL, session_rows=4.0))
    rows = sample_day(world, 5000)
    sessions = (rows.position == 0).sum()
    assert 5000 / sessions == pytest.approx(4.0, rel=0.1)
    order = np.lexsort((rows.position, rows.timestamp, rows.user))
    user, time, surface = rows.user[order], rows.timestamp[order], rows.surface[order]
    close = (np.diff(user) == 0) & (np.diff(time) < 10 * 60_000)
    assert close.sum() > 0.95 * (5000 - sessions)
    assert (np.diff(surface)[close] == 0).mean() > 0.95
    assert 0.01 < (np.diff(time)[close] == 0).mean() < 0.06


def test_some_attributes_are_missing(log: pa.Table) -> None:
    for name in ("age_band", "segment", "category", "duration_level"):
        owner = "user_id" if name in ("age_band", "segment") else "item_id"
        _, first = np.unique(log[owner].to_numpy(), return_index=True)
        missing = (log[name].to_numpy()[first] == 0).mean()
        assert missing == pytest.approx(0.08, abs=0.06), name
    assert 0 in {len(tags) for tags in log["tags"].to_pylist()}
    assert 4 >= max(len(tags) for tags in log["tags"].to_pylist()) > 1


@pytest.mark.parametrize("history", [0, 3])
def test_any_size(tmp_path: Path, history: int) -> None:
    config = replace(SMALL, users=1, items=1, days=2, rows_per_day=1, topics=1, interests=1, latent_width=1)
    config = replace(config, history_days=history, history_events=float(history))
    data = DataSet.open(write(tmp_path / "d", config))
    assert data.rows_per_day == {1: 1, 2: 1}
    assert len(events_of(data.folder)["time"]) == 2 + history


def test_one_user_may_have_every_row(tmp_path: Path) -> None:
    config = SimulatorConfig(
        days=1,
        rows_per_day=3000,
        users=1,
        items=2,
        history_events=0.0,
        history_days=0,
        surfaces=["feed"],
        surface_shares=[1.0],
        click_rates=[0.5],
        conversion_rates=[0.5],
        surface_regularity=[1.0],
        rate_drift=[0.0],
    )
    table = log_of(write(tmp_path / "d", config))
    assert table.num_rows == 3000
    assert set(table["user_id"].to_pylist()) == {0}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"days": 0}, "days: got 0, allowed: 1 to 3650"),
        ({"rows_per_day": -1}, "rows_per_day: got -1, allowed: 1 to"),
        ({"seed": -3}, "seed: got -3, allowed: 0 to 4294967295"),
        ({"missing": float("nan")}, "missing: got nan, allowed: 0 to 1"),
        ({"activity_spread": float("inf")}, "activity_spread: got inf, allowed: 0 to 5"),
        ({"interests": 13}, "interests: got 13, allowed: at most topics, 12"),
        ({"history_days": 0}, "history_days: got 0, allowed: at least 1 while history_events is above 0"),
        ({"start_date": "May 1"}, "start_date: got 'May 1', allowed: a date such as 2026-01-01"),
        ({"click_rates": [0.5]}, "click_rates: got 1 values, allowed: one for each of 5 surfaces"),
        ({"click_rates": [0.5, 0.5, 1.0, 0.5, 0.5]}, r"click_rates\[2\]: got 1.0, allowed: 0.001 to 0.999"),
        ({"surfaces": ["a", "a", "b", "c", "d"]}, "surfaces: got .* each once"),
        ({"surfaces": []}, "surfaces: got .*, allowed: at least one name"),
        ({"content_width": -1}, "content_width: got -1, allowed: 0 to 4096"),
        ({"content_noise": float("nan")}, "content_noise: got nan, allowed: 0 to 100"),
        ({"window_hours": 0.0}, "window_hours: got 0.0, allowed: 0.01 to"),
    ],
)
def test_bad_settings_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SMALL, **changed)


def test_all_bad_settings_are_named_at_once() -> None:
    with pytest.raises(UserError, match="users: got 0.*; items: got 0"):
        replace(SMALL, users=0, items=0)


def test_prehistory_is_refused(tmp_path: Path) -> None:
    data = DataConfig(prehistory=True)
    with pytest.raises(UserError, match="data.prehistory: got true, allowed: false for the simulator"):
        simulator.prepare(SMALL, data, tmp_path / "d", NoProgress())
    assert list(tmp_path.iterdir()) == []


def test_the_defaults_are_frozen() -> None:
    """Changing a default means re-running every table that used it (PROTOCOL.md, "Scores")."""
    settings = asdict(SimulatorConfig())
    assert (settings.pop("content_width"), settings.pop("content_noise")) == (16, 0.5)
    content = json.dumps(settings, sort_keys=True)
    assert (
        hashlib.sha256(content.encode()).hexdigest()
        == "e6e4f43109fe9cb9ee7fca7da380e50a0d1855623aba82becd2891ffa91f2450"
    )


def test_the_values_are_frozen(log: pa.Table, small: Path) -> None:
    """Other values from the same settings need a higher PREPARED_VERSION: caches hold the old ones."""
    digest = hashlib.sha256()
    for name in sorted(log.column_names):
        column = log[name].combine_chunks()
        values = column.flatten() if name == "tags" else column
        digest.update(name.encode() + np.ascontiguousarray(values.to_numpy()).tobytes())
    events = events_of(small)
    for name in ("user_id", "time", "item", "domain", "label", "matures"):
        digest.update(name.encode() + events[name].tobytes())
    for name in ("p_click", "p_conversion"):
        # Six digits: the last ones may differ between processors.
        digest.update(np.round(truth_of(small)[name].to_numpy() * 1e6).astype(np.int64).tobytes())
    assert digest.hexdigest() == "5a916ccc77680897e86118b46f01a80363482a18ee152767ced22397ccee7ae9"
