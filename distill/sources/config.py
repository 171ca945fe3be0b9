"""Settings of the sources (`data.options`). Free of torch."""

from dataclasses import dataclass, field
from pathlib import Path

from distill.config import DataConfig
from distill.errors import DataError
from distill.sources.simulator_checks import check_simulator

KUAIRAND_LOGS = ("log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv")
KUAIRAND_USERS = "user_features_pure.csv"
KUAIRAND_VIDEOS = "video_features_basic_pure.csv"
KUAIRAND_PREHISTORY = "history_before_2022_04_25.parquet"


@dataclass
class SourceConfig:
    """What every source's settings say about its files."""

    def files(self, data: DataConfig) -> list[Path]:
        """Files under `data.root` that determine the content; the data set's fingerprint covers them.

        Raises:
            DataError: a file that must be there is not.
        """
        return []


@dataclass
class SimulatorConfig(SourceConfig):
    """Simulated surfaces with known truth; the defaults resemble KuaiRand-Pure (rates, activity, popularity, drift).

    Attributes:
        seed: of the whole world; another seed is another data set.
        start_date: ISO date of day 1 (days begin at 0:00 UTC).
        days: days of the log.
        rows_per_day: mean rows of a day; all days together hold exactly days * rows_per_day rows.
        users: users who exist; the rarely active may never appear.
        items: items that ever exist; also the number of item ids.
        surfaces: names of the surfaces, all of them verticals.
        surface_shares: each surface's share of the rows.
        click_rates: each surface's click rate.
        conversion_rates: each surface's conversion rate given a click.
        surface_regularity: how evenly users share a surface; small values give few users who come often.
        surface_difference: how far a surface's tastes are from the shared ones, from 0 (the same) to 1 (unrelated).
        history_events: mean events per user from before the log, with times and labels, as history only; the active
            have several times that. `data.prehistory` has no part in this.
        history_days: days before the log over which those events are spread; 0 for no history.
        session_rows: mean rows of a session.
        gap_seconds: mean time between rows of a session.
        same_screen: share of a session's rows with the same time as the row before.
        latent_width: numbers that describe a taste.
        topics: topics of items.
        interests: topics that recur in a user's sessions, one phase after the other.
        phase_days: length of a phase. Two topics are active in it, and come back after interests / 2 phases.
        intent_share: share of rows from the user's active topics; the others are what is popular.
        taste_strength: effect on the click logit of taste meeting item (standard deviation).
        preference_strength: effect on the click logit of liking a topic, a lasting trait (standard deviation).
        intent_strength: effect on the click logit of a topic that is active for the user.
        quality_spread: effect on the logits of the item itself (standard deviation).
        user_spread: effect on the logits of the user's general tendency (standard deviation).
        conversion_scale: the effects of taste and liking on conversions, relative to those on clicks.
        activity_spread: standard deviation of the logarithm of users' activity.
        popularity_spread: standard deviation of the logarithm of items' popularity.
        taste_drift: share of a taste that is new each day, as a standard deviation.
        popularity_drift: daily step of the logarithm of popularity, of items and of topics.
        rate_drift: each surface's daily step of its base logit (standard deviation).
        volume_spread: standard deviation of the logarithm of a day's rows.
        new_users: share of users who first come during the log.
        evergreen: share of items that live throughout.
        item_life_days: mean life of the other items.
        attribute_noise: noise in the observed attributes, relative to what they observe.
        missing: share of missing values per attribute, and of items without a content vector.
        content_width: numbers in an item's content vector (modality `content`); 0 for no such vectors.
        content_noise: noise in the content vectors, relative to what they observe.
        window_hours: attribution window of conversions.
        delay_hours: mean delay of a conversion before it is cut off at the window.
    """

    seed: int = 0
    start_date: str = "2026-01-01"
    days: int = 14
    rows_per_day: int = 15_900
    users: int = 26_800
    items: int = 9_800
    surfaces: list[str] = field(default_factory=lambda: ["feed", "explore", "stories", "search", "inbox"])
    surface_shares: list[float] = field(default_factory=lambda: [0.788, 0.092, 0.062, 0.026, 0.032])
    click_rates: list[float] = field(default_factory=lambda: [0.494, 0.086, 0.596, 0.151, 0.481])
    conversion_rates: list[float] = field(default_factory=lambda: [0.704, 0.435, 0.766, 0.543, 0.728])
    surface_regularity: list[float] = field(default_factory=lambda: [2.0, 0.4, 0.5, 20.0, 0.015])
    surface_difference: float = 0.35
    history_events: float = 100.0
    history_days: int = 60
    session_rows: float = 1.2
    gap_seconds: float = 60.0
    same_screen: float = 0.03
    latent_width: int = 12
    topics: int = 12
    interests: int = 8
    phase_days: float = 7.0
    intent_share: float = 0.6
    taste_strength: float = 0.45
    preference_strength: float = 1.0
    intent_strength: float = 0.4
    quality_spread: float = 0.9
    user_spread: float = 0.45
    conversion_scale: float = 0.7
    activity_spread: float = 0.77
    popularity_spread: float = 1.55
    taste_drift: float = 0.15
    popularity_drift: float = 0.08
    rate_drift: list[float] = field(default_factory=lambda: [0.04, 0.02, 0.02, 0.1, 0.07])
    volume_spread: float = 0.12
    new_users: float = 0.08
    evergreen: float = 0.5
    item_life_days: int = 25
    attribute_noise: float = 1.0
    missing: float = 0.08
    content_width: int = 16
    content_noise: float = 0.5
    window_hours: float = 8.0
    delay_hours: float = 1.5

    def __post_init__(self) -> None:
        check_simulator(self)


@dataclass
class KuaiRandConfig(SourceConfig):
    """KuaiRand-Pure, standard log: real exposures, clicks and long views of 25,000 users on 15 surfaces.

    It has no settings: `data.root` names the folder of the official files, either log file or both.
    """

    def files(self, data: DataConfig) -> list[Path]:
        """The log files that are there, in the order of their names, then the feature files."""
        root = data_root(data)
        logs = [root / name for name in KUAIRAND_LOGS if (root / name).is_file()]
        if not logs:
            raise DataError(f"data.root: no log file in {root}, allowed: {' or '.join(KUAIRAND_LOGS)}")
        needed = [root / KUAIRAND_USERS, root / KUAIRAND_VIDEOS]
        if data.prehistory:
            needed.append(root / KUAIRAND_PREHISTORY)
        for path in needed:
            if not path.is_file():
                raise DataError(f"data.root: no {path.name} in {root}; it comes with the log files")
        return logs + needed


@dataclass
class ParquetConfig(SourceConfig):
    """Your own data: Parquet files in one folder per day, beside a schema.yaml.

    It has no settings: everything stands in the schema. `distill/sources/parquet.py` shows an example.
    """

    def files(self, data: DataConfig) -> list[Path]:
        """The schema, the days' files and the extra events if there are any."""
        root = data_root(data)
        if not (root / "schema.yaml").is_file():
            raise DataError(f"data.root: no schema.yaml in {root}. It names the columns")
        return sorted([root / "schema.yaml", *root.rglob("*.parquet")])


def data_root(data: DataConfig) -> Path:
    """The folder `data.root`.

    Raises:
        DataError: not set, or no such folder.
    """
    if not data.root or not Path(data.root).is_dir():
        raise DataError(f"data.root: got {data.root!r}, allowed: the folder of the source's files")
    return Path(data.root)
