"""The KuaiRand source: official files in, leak rules kept, published counts found again on the real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distill.config import DataConfig
from distill.dataset import DataSet
from distill.errors import DataError
from distill.history import EventStore
from distill.progress import NoProgress
from distill.sources.config import (
    KUAIRAND_LOGS,
    KUAIRAND_PREHISTORY,
    KUAIRAND_USERS,
    KUAIRAND_VIDEOS,
    KuaiRandConfig,
)
from distill.sources.kuairand import prepare
from distill.stream import DayStream

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "kuairand_pure"
FIRST, SECOND = KUAIRAND_LOGS

# 25 April 2022, 0:00 in China.
MIDNIGHT = 1_650_816_000_000
HOUR = 3_600_000
LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
USERS = """user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,\
follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,\
register_days_range,{}
0,full_active,0,1,1,514,500+,150,"[100,1k)",34,"[30,60)",799,730+,{}
1,day_new,0,-124,0,7,"(0,10]",2,"[1,10)",3,"[1,5)",14,8-14,{}
""".format(
    ",".join(f"onehot_feat{i}" for i in range(18)),
    ",".join(["3", *["0"] * 3, "1.0", *["0"] * 13]),
    ",".join(["2", *["0"] * 3, "", *["0"] * 13]),
)
VIDEOS = """video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,\
server_height,music_id,music_type,tag
0,900,NORMAL,2022-04-10,LongImport,0.0,87000.0,720.0,1280.0,9155697141,9.0,39
1,700,AD,2022-04-24,Kmovie,0.0,,720.0,1280.0,6355810746,9.0,"20,9"
2,900,NORMAL,2022-04-10,Kmovie,0.0,4000.0,720.0,1280.0,9155697141,9.0,
"""


def row(
    user: int, video: int, date: int, time_ms: int, click: int = 0, long_view: int = 0, **other: int
) -> str:
    """One line of the log; everything known only after the exposure says something loud."""
    tab, hourmin = other.get("tab", 1), other.get("hourmin", 2300)
    return f"{user},{video},{date},{hourmin},{time_ms},{click},1,1,1,1,1,{long_view},99999,5,9,9,1,0,{tab}"


ROWS = [
    row(0, 0, 20220425, MIDNIGHT + 10 * HOUR, click=1, long_view=1),
    row(1, 1, 20220425, MIDNIGHT + 9 * HOUR + 1800_000, click=1),
    row(0, 0, 20220425, MIDNIGHT + 10 * HOUR, click=0, tab=4),  # repeats line 0
    row(1, 2, 20220426, MIDNIGHT + 23 * HOUR, long_view=1, tab=0),  # dated a day later than its time
    row(0, 1, 20220426, MIDNIGHT + 25 * HOUR, click=1, long_view=1, tab=6),
]


def write_files(root: Path, rows: list[str] = ROWS, name: str = SECOND) -> DataConfig:
    root.mkdir(exist_ok=True)
    (root / name).write_text("\n".join([LOG_HEADER, *rows]) + "\n")
    (root / KUAIRAND_USERS).write_text(USERS)
    (root / KUAIRAND_VIDEOS).write_text(VIDEOS)
    return DataConfig(source="kuairand", root=str(root))


def make(config: DataConfig) -> DataSet:
    folder = Path(config.root or "") / "prepared"
    prepare(KuaiRandConfig(), config, folder, NoProgress())
    return DataSet.open(folder)


def read(data: DataSet, day: int) -> dict[str, list]:
    return pq.read_table(data.parts(day)[0]).to_pydict()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return make(write_files(tmp_path_factory.mktemp("kuairand") / "files"))


def test_days_are_the_distinct_dates(small: DataSet) -> None:
    assert [day.date for day in small.schema.days] == ["2022-04-25", "2022-04-26"]
    assert small.rows_per_day == {1: 2, 2: 2}


def test_rows_are_ordered_by_time_and_numbered_by_line(small: DataSet) -> None:
    assert read(small, 1)["example_id"] == [1, 0]
    assert read(small, 1)["timestamp"] == [MIDNIGHT + 9 * HOUR + 1800_000, MIDNIGHT + 10 * HOUR]
    assert read(small, 2)["example_id"] == [3, 4]


def test_first_of_repeated_rows_is_kept(small: DataSet) -> None:
    day = read(small, 1)
    assert (day["label_click"], day["domain"]) == ([1, 1], [1, 1])


def test_tasks_are_click_and_clicked_long_view(small: DataSet) -> None:
    assert list(small.schema.tasks) == ["click", "conversion"]
    assert [read(small, day)["label_click"] for day in (1, 2)] == [[1, 1], [0, 1]]
    assert [read(small, day)["label_conversion"] for day in (1, 2)] == [[0, 1], [0, 1]]


def test_surfaces_are_tabs_and_five_are_verticals(small: DataSet) -> None:
    assert small.schema.domains == tuple(str(tab) for tab in range(15))
    assert small.schema.verticals == ("1", "0", "4", "6", "2")
    assert read(small, 2)["domain"] == read(small, 2)["tab"] == [0, 6]


def test_planted_leak_hour_comes_from_the_time_not_from_hourmin(small: DataSet) -> None:
    assert read(small, 1)["hour"] == [9, 10]
    assert read(small, 2)["hour"] == [23, 1]


def test_planted_leak_nothing_known_after_the_exposure_is_a_column(small: DataSet) -> None:
    after = {
        "play",
        "stay",
        "hourmin",
        "is_like",
        "is_follow",
        "is_comment",
        "is_forward",
        "is_hate",
        "enter",
        "is_rand",
    }
    names = [name for name in read(small, 1) if not name.startswith(("label_", "onehot", "follow_user"))]
    assert not [name for name in names if any(word in name for word in after)]
    assert "is_click" not in names and "long_view" not in names


def test_planted_leak_inputs_do_not_change_with_what_happened_after(tmp_path: Path, small: DataSet) -> None:
    rows = [
        ",".join([*line.split(",")[:5], *["0"] * 7, "1", "2", "3", "4", "0", "1", line.split(",")[-1]])
        for line in ROWS
    ]
    other = make(write_files(tmp_path / "files", rows))
    for day in (1, 2):
        ours, theirs = read(small, day), read(other, day)
        inputs = [name for name in ours if not name.startswith("label_")]
        assert {name: ours[name] for name in inputs} == {name: theirs[name] for name in inputs}


def test_user_attributes_are_numbered_from_the_file_with_0_for_missing(small: DataSet) -> None:
    day = read(small, 1)  # user 1, then user 0
    assert day["user_active_degree"] == [1, 2]  # day_new, full_active
    assert day["is_live_streamer"] == [1, 2]  # -124, 1
    assert day["onehot_feat0"] == [1, 2]  # 2, 3
    assert day["onehot_feat4"] == [0, 1]  # missing, 1.0
    assert small.schema.sparse["onehot_feat4"].size == 2
    assert small.schema.sparse["fans_user_num_range"].group == "user"


def test_video_attributes(small: DataSet) -> None:
    day = read(small, 1)  # video 1, then video 0
    assert day["author_id"] == [1, 2]  # 700, 900
    assert day["video_type"] == [1, 2]  # AD, NORMAL
    assert day["tags"] == [[1, 3], [2]]  # "20", "39", "9" in the order of text
    assert day["duration"] == [0, 9]  # missing; 87 s lies between 60 and 90
    assert day["log_duration"] == pytest.approx([0.0, np.log(88.0)])
    assert day["age"] == [2, 5]  # 1 day: from 1 to 3; 15 days: from 14 to 30
    assert read(small, 2)["tags"] == [[0], [1, 3]]  # video 2 has none


def test_ids_that_the_feature_files_lack_are_unknown(tmp_path: Path) -> None:
    data = make(
        write_files(
            tmp_path / "files", [row(5, 9, 20220425, MIDNIGHT), row(0, 0, 20220426, MIDNIGHT + 24 * HOUR)]
        )
    )
    day = read(data, 1)
    assert (day["user_id"], day["video_id"]) == ([5], [9])
    assert (day["author_id"], day["age"], day["tags"], day["user_active_degree"]) == ([0], [0], [[0]], [0])
    assert (data.schema.sparse["user_id"].size, data.schema.sparse["video_id"].size) == (6, 10)


def test_labels_near_midnight_are_matured(tmp_path: Path) -> None:
    # Dated the 25th, stamped two hours into the 26th: usable when day 1 is trained on.
    late = row(0, 1, 20220425, MIDNIGHT + 26 * HOUR, click=1)
    data = make(write_files(tmp_path / "files", [*ROWS, late]))
    batch = list(DayStream(data, 1, 10, ["video_id"]))[0]
    assert batch.timestamp[-1].item() == MIDNIGHT + 26 * HOUR
    assert batch.label_mask.all()
    assert [day.end_ms for day in data.schema.days] == [MIDNIGHT + 26 * HOUR + 1, MIDNIGHT + 48 * HOUR]


def test_both_log_files_are_read_in_name_order(tmp_path: Path) -> None:
    config = write_files(tmp_path / "files")
    write_files(
        tmp_path / "files",
        [row(1, 1, 20220424, MIDNIGHT - HOUR), row(1, 1, 20220424, MIDNIGHT - HOUR)],
        FIRST,
    )
    data = make(config)
    assert data.rows_per_day == {1: 1, 2: 2, 3: 2}
    assert [read(data, day)["example_id"] for day in (1, 2, 3)] == [[0], [3, 2], [5, 6]]


def test_first_log_file_alone(tmp_path: Path) -> None:
    data = make(write_files(tmp_path / "files", [row(1, 1, 20220421, MIDNIGHT - 96 * HOUR)], FIRST))
    assert data.rows == 1


def test_history_holds_earlier_rows(small: DataSet) -> None:
    history = list(DayStream(small, 2, 10, ["video_id"], history_length=5))[0].history
    assert history is not None
    # User 1 saw video 1 on tab 1 before, user 0 video 0.
    assert history.offsets.tolist() == [0, 1, 2]
    assert history.item.tolist() == [1, 0]
    assert history.labels.tolist() == [[1, 0], [1, 1]]


def write_prehistory(root: Path) -> None:
    lists = pa.array([[2, 1], [0]], pa.large_list(pa.int64()))
    pq.write_table(pa.table({"user_id": pa.array([1, 7]), "video_ids": lists}), root / KUAIRAND_PREHISTORY)


def test_prehistory_comes_before_the_first_row_without_labels(tmp_path: Path) -> None:
    config = write_files(tmp_path / "files")
    write_prehistory(tmp_path / "files")
    config.prehistory = True
    store = EventStore(make(config).events_folder)
    first = MIDNIGHT + 9 * HOUR + 1800_000
    events = store.last(torch.tensor([1, 7]), torch.tensor([first, first]), limit=5)
    assert events.item.tolist() == [2, 1, 0]
    assert events.time.tolist() == [first - 2000, first - 1000, first - 1000]
    assert events.labels.tolist() == [[-1, -1]] * 3


def test_prehistory_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    config = write_files(tmp_path / "files")
    write_prehistory(tmp_path / "files")
    assert len(EventStore(make(config).events_folder)) == 4


def test_planted_leak_prehistory_that_overlaps_the_log_is_refused(tmp_path: Path) -> None:
    config = write_files(tmp_path / "files")
    write_files(tmp_path / "files", [row(1, 1, 20220424, MIDNIGHT - HOUR)], FIRST)
    write_prehistory(tmp_path / "files")
    config.prehistory = True
    with pytest.raises(DataError, match="log begins before 25 April"):
        make(config)


@pytest.mark.parametrize("missing", [SECOND, KUAIRAND_USERS, KUAIRAND_VIDEOS])
def test_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    config = write_files(tmp_path / "files")
    (tmp_path / "files" / missing).unlink()
    with pytest.raises(DataError, match=missing.replace(".", r"\.")):
        make(config)


@pytest.mark.parametrize("root", [None, "nowhere"])
def test_missing_root_is_named(root: str | None) -> None:
    with pytest.raises(DataError, match="data.root: got"):
        prepare(KuaiRandConfig(), DataConfig(source="kuairand", root=root), Path("unused"), NoProgress())


def test_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    config = write_files(tmp_path / "files")
    log = tmp_path / "files" / SECOND
    log.write_text(log.read_text().replace("long_view", "longview"))
    with pytest.raises(DataError, match=r"column 'long_view' is missing\. Did you mean 'longview'"):
        make(config)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(0, 0, 20220426, MIDNIGHT + 30 * HOUR, tab=15), "tab: got 15 on data line 5, allowed: 0 to 14"),
        (row(0, 0, 20220426, MIDNIGHT + 30 * HOUR, click=2), "label_click: got 2 at example_id 5"),
        (row(-1, 0, 20220426, MIDNIGHT + 30 * HOUR), "user_id: got id -1 at example_id 5"),
        ("0,0,20220426,0,,1,0,0,0,0,0,0,0,0,0,0,0,0,1", "time_ms: 1 values are missing"),
        ("0,0,20220426,0,soon,1,0,0,0,0,0,0,0,0,0,0,0,0,1", "not readable as KuaiRand's CSV"),
        ("0,0,20220426", "not readable as KuaiRand's CSV"),
    ],
)
def test_bad_line_is_refused(tmp_path: Path, bad: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(write_files(tmp_path / "files", [*ROWS, bad]))


def test_log_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"the log is empty: {SECOND}"):
        make(write_files(tmp_path / "files", []))


def test_feature_file_with_a_repeated_id_is_refused(tmp_path: Path) -> None:
    config = write_files(tmp_path / "files")
    path = tmp_path / "files" / KUAIRAND_VIDEOS
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(DataError, match="ids are empty, missing, negative or stand twice"):
        make(config)


# The real data


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("real") / "prepared"
    prepare(KuaiRandConfig(), DataConfig(source="kuairand", root=str(REAL)), folder, NoProgress())
    return DataSet.open(folder)


def test_published_counts(real: DataSet) -> None:
    positives, known = real.label_counts(range(1, 15))
    assert (real.rows, real.schema.n_days) == (222_444, 14)
    assert known.sum(axis=0).tolist() == [222_444, 222_444]
    assert positives[:, 0].sum() / 222_444 == pytest.approx(0.450, abs=5e-4)
    assert positives[:, 1].sum() / 222_444 == pytest.approx(0.316, abs=5e-4)


def test_published_surfaces(real: DataSet) -> None:
    _, known = real.label_counts(range(1, 15))
    # Before repeated rows are dropped there are 173,008, 20,254 and 13,647; nearly all repeats are in tab 6.
    assert [int(rows) for rows in known[[1, 0, 4], 0]] == pytest.approx([173_008, 20_254, 13_647], rel=0.01)
    assert known[6, 0] < 11_208 * 0.7
    assert known[[1, 0, 4, 6, 2], 0].sum() / 222_444 == pytest.approx(0.986, abs=0.003)


def test_planted_leak_no_event_at_or_after_its_row(real: DataSet) -> None:
    for batch in DayStream(real, 9, 2048, ["video_id"], history_length=50):
        assert batch.history is not None
        owner = torch.repeat_interleave(batch.timestamp, batch.history.offsets.diff())
        assert (batch.history.time < owner).all()


def test_every_label_of_the_real_days_is_matured(real: DataSet) -> None:
    assert all(real.outcomes(day).matured.all() for day in range(1, 15))
