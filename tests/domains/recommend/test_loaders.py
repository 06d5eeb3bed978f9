"""Readers of public logs on small files written by hand in their formats."""

import hashlib
import io
import zipfile

import pandas as pd
import pytest

from polytask.domains.recommend import loaders, recommender
from polytask.domains.recommend.loaders import census, files
from polytask.errors import UserError


def usable(log):
    """The features fit, a model of all tasks runs on the rows."""
    fitted = log.features.fit(log.frame)
    source = fitted.source(log.frame, log.tasks)
    outputs = recommender("mmoe", fitted, log.tasks, width=4, depth=1, tower=(), experts=2)(source.inputs)
    assert set(outputs) == set(log.tasks) == set(source.targets)
    return fitted.inputs(log.frame)


def test_census_income(tmp_path):
    cells = dict.fromkeys(census.COLUMNS, "x") | dict.fromkeys(census.NUMBERS, "1")
    one = cells | {"marital_stat": "Never married", "income_50k": "- 50000.", "age": "30"}
    two = cells | {"marital_stat": "Divorced", "income_50k": "50000+.", "age": "50"}
    path = tmp_path / "census-income.data"
    path.write_text("".join(", ".join(row.values()) + "\n" for row in (one, two)))
    log = loaders.census_income(path)
    assert log.frame["income_50k"].tolist() == [0, 1]
    assert log.frame["never_married"].tolist() == [1, 0]
    assert not {"marital_stat", "instance_weight", "income_50k", "never_married"} & set(log.features.names)
    assert (len(log.features.ids), len(log.features.numbers)) == (32, 7)
    usable(log)
    path.write_text("1,2,3\n")
    with pytest.raises(UserError, match="3 columns instead of 42"):
        loaders.census_income(path)


def test_ali_ccp(tmp_path):
    path = tmp_path / "ali.csv"
    path.write_text("click,purchase,101,205,301,D109_14\n1,0,5,7,1,0.5\n0,0,6,7,2,0.1\n")
    log = loaders.ali_ccp(path)
    assert list(log.tasks) == ["click", "purchase"]
    assert {c.name: c.side for c in log.features.ids} == {"101": "user", "205": "item", "301": "context"}
    assert usable(log)["numeric"].shape == (2, 1)


def test_ali_ccp_as_published(tmp_path):
    skeleton, common = tmp_path / "sample_skeleton.csv", tmp_path / "common_features.csv"
    common.write_text("u1,3,101\x0211\x031.0\x01109_14\x0221\x030.7\x01109_14\x0222\x030.3\nu2,1,101\x0212\x031.0\n")
    skeleton.write_text("1,1,0,u1,2,205\x0231\x031.0\x01210\x0241\x031.0\n2,0,0,u2,1,205\x0232\x031.0\n"
                        "3,1,1,u1,1,205\x0232\x031.0\n")  # fmt: skip
    logs = list(loaders.ali_ccp_raw(skeleton, common, chunk=2))
    assert [len(log.frame) for log in logs] == [2, 1]
    frame = pd.concat([log.frame for log in logs])
    assert frame["101"].tolist() == ["11", "12", "11"]
    assert frame["109_14"].tolist() == ["21|22", "", "21|22"]
    assert frame["210"].tolist() == ["41", "", ""]
    assert frame["purchase"].tolist() == [0, 0, 1]
    arrays = usable(logs[0])
    assert (arrays["109_14"][0] > 0).sum() == 2
    assert logs[0].features.fit(log.frame for log in logs).codings["205"].values == ("31", "32")
    skeleton.write_text("1,1,0,u9,1,205\x0231\x031.0\n")
    with pytest.raises(UserError, match="lacks the user features 'u9'"):
        list(loaders.ali_ccp_raw(skeleton, common))
    skeleton.write_text("1,1\n")
    with pytest.raises(UserError, match=r"line 1 .* 2 parts instead of 6"):
        list(loaders.ali_ccp_raw(skeleton, common))


def test_aliexpress(tmp_path):
    path = tmp_path / "NL.csv"
    path.write_text(
        "search_id,categorical_1,categorical_2,numerical_1,click,conversion\n1,3,4,0.5,1,0\n1,3,5,0.1,0,0\n"
    )
    log = loaders.aliexpress(path)
    assert log.features.names == ("categorical_1", "categorical_2", "numerical_1")
    assert list(log.tasks) == ["click", "conversion"]
    usable(log)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="lacks the column 'click': get AliExpress"):
        loaders.aliexpress(path)


def test_criteo(tmp_path):
    path = tmp_path / "train.txt"
    first = ["1", *map(str, range(13)), *(f"{i:08x}" for i in range(26))]
    second = ["0", *([""] * 13), *([""] * 25), "0000001a"]
    path.write_text("\t".join(first) + "\n" + "\t".join(second) + "\n")
    log = loaders.criteo(path, buckets=100)
    assert log.frame["click"].tolist() == [1, 0]
    assert log.frame["C26"].tolist() == ["00000019", "0000001a"]  # text, with its zeros
    arrays = usable(log)
    assert (arrays["categorical"][1, :25] == 0).all()
    assert arrays["numeric"].shape == (2, 26)  # each with its gap


def test_criteo_attribution(tmp_path):
    path = tmp_path / "criteo.tsv"
    names = [
        "timestamp",
        "uid",
        "campaign",
        "conversion",
        "click",
        "time_since_last_click",
        *(f"cat{i}" for i in range(1, 10)),
    ]
    path.write_text("\t".join(names) + "\n" + "\t".join(map(str, [0, 5, 6, 1, 0, -1, *range(9)])) + "\n"
                    + "\t".join(map(str, [0, 7, 6, 1, 1, 60, *range(9)])) + "\n")  # fmt: skip
    log = loaders.criteo_attribution(path)
    assert log.frame["conversion"].tolist() == [0, 1]
    assert log.frame["time_since_last_click"].isna().tolist() == [True, False]
    usable(log)


def test_kuairand(tmp_path):
    log, users, videos = (tmp_path / name for name in ("log.csv", "users.csv", "videos.csv"))
    log.write_text("user_id,video_id,date,hourmin,time_ms,is_click,is_like,long_view,play_time_ms,duration_ms,tab\n"
                   "1,10,20220408,2359,1,1,0,1,5000,4000,1\n2,11,20220408,5,1,0,0,0,1000,4000,0\n"
                   "2,12,20220408,100,1,0,0,0,1000,0,0\n")  # fmt: skip
    plain = loaders.kuairand(log)
    assert plain.frame["hour"].tolist() == [23, 0, 1]
    assert plain.frame["completion"].tolist()[:2] == [1.0, 0.25]
    assert plain.frame["completion"].isna().tolist() == [False, False, True]
    from polytask.domains.recommend.loaders.kuairand import USER, VIDEO

    users.write_text(",".join(["user_id", *USER]) + "\n" + ",".join(["1", *["a"] * len(USER)]) + "\n")
    videos.write_text(",".join(["video_id", "tag", *VIDEO]) + "\n" + '10,"3,7",' + ",".join(["5"] * len(VIDEO)) + "\n")
    whole = loaders.kuairand(log, users, videos)
    assert list(whole.tasks) == ["is_click", "is_like", "long_view", "completion"]
    arrays = usable(whole)
    assert (arrays["tag"][0] > 0).sum() == 2
    assert (arrays["tag"][1] == 0).all()


@pytest.mark.parametrize("form", ["dat", "csv"])
def test_movielens(tmp_path, form):
    if form == "dat":
        (tmp_path / "ratings.dat").write_text("1::10::5::200\n2::11::3::100\n")
        (tmp_path / "movies.dat").write_text(
            "10::A: film (1999)::Drama|War\n11::Amélie (2001)::Comedy\n", encoding="latin-1"
        )
        (tmp_path / "users.dat").write_text("1::F::25::3::123\n2::M::35::4::456\n")
    else:
        (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,10,5.0,200\n2,11,3.5,100\n")
        (tmp_path / "movies.csv").write_text('movieId,title,genres\n10,"A, film",Drama|War\n11,B,Comedy\n')
    log = loaders.movielens(tmp_path)
    assert log.frame["user_id"].tolist() == [2, 1]  # in the order of time
    assert log.frame["liked"].tolist() == [0, 1]
    assert ("gender" in log.features.names) == (form == "dat")
    arrays = usable(log)
    assert (arrays["genres"] > 0).sum(1).tolist() == [1, 2]


def test_a_missing_file_says_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match=r"no file .* get KuaiRand-Pure"):
        loaders.kuairand(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match=r"neither ratings.dat nor ratings.csv"):
        loaders.movielens(tmp_path)


def archive():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        packed.writestr("ml-1m/ratings.dat", "1::2::3::4\n")
        packed.writestr("../../escape.dat", "no\n")
    return data.getvalue()


def test_downloads_are_checked_and_kept(tmp_path, monkeypatch):
    asked = []

    def answer(url, timeout):
        asked.append(url)
        return io.BytesIO(archive())

    monkeypatch.setattr(files.urllib.request, "urlopen", answer)
    with pytest.raises(UserError, match="is not the expected file: MD5"):
        loaders.fetch("ml-1m", tmp_path)
    assert not list(tmp_path.iterdir())
    right = hashlib.md5(archive()).hexdigest()
    monkeypatch.setitem(files.PUBLIC, "ml-1m", ("https://example.org/ml-1m.zip", right))
    for _ in range(2):
        folder = loaders.fetch("ml-1m", tmp_path)
    assert (folder / "ratings.dat").read_text() == "1::2::3::4\n"
    assert len(asked) == 2
    assert not (tmp_path.parent / "escape.dat").exists()
    with pytest.raises(UserError, match="no archive 'ml-2m'"):
        loaders.fetch("ml-2m")


def test_no_network_is_said(tmp_path, monkeypatch):
    def answer(url, timeout):
        raise OSError("no route")

    monkeypatch.setattr(files.urllib.request, "urlopen", answer)
    with pytest.raises(UserError, match=r"could not be downloaded .no route."):
        loaders.fetch("ml-1m", tmp_path)
