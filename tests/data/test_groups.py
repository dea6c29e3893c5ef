"""Groups are held out whole: no frame of a film that was learned is among the held-out pictures."""

import io
import json
import tarfile

import numpy as np
import pytest

from sfumato.config import load_recipe
from sfumato.data import DataError, open_source, prepare
from sfumato.data.groups import NoGroup, held_out
from sfumato.data.readers.pictures import Pictures
from sfumato.errors import ConfigError


def groups(source) -> dict[str, str | None]:
    return {record.locator: record.group for record in source.records}


@pytest.mark.parametrize("seed", range(30))
def test_no_group_is_on_both_sides_and_the_fraction_is_right_within_one_group(seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, random.choice([2, 5, 60]), random.integers(2, 200))
    names = random.permutation(np.repeat([f"film {i}" for i in range(len(sizes))], sizes)).tolist()
    for fraction in (0.0, 0.02, 0.1, 0.5):
        out = held_out(names, fraction)
        sides = {name: {bool(o) for n, o in zip(names, out, strict=True) if n == name} for name in set(names)}
        assert all(len(side) == 1 for side in sides.values())
        assert abs(out.sum() - fraction * len(names)) <= sizes.max()
        assert not out.all() and out.any() == (fraction > 0)


def test_the_same_groups_are_held_out_in_any_order_of_the_pictures():
    names = [f"film {i // 7}" for i in range(700)]
    order = np.random.default_rng(0).permutation(700)
    assert np.array_equal(held_out([names[i] for i in order], 0.1), held_out(names, 0.1)[order])


def test_one_group_alone_cannot_be_split():
    with pytest.raises(DataError, match="all 5 pictures are of one group, 'a'"):
        held_out(["a"] * 5, 0.1)
    assert not held_out(["a"] * 5, 0.0).any()


# ---- where groups come from


def test_the_folder_of_a_picture_is_its_group(tmp_path, folder):
    source = open_source(folder(tmp_path, [f"walk/{f}/{n}.png" for f in "ab" for n in range(3)]), "folder")
    assert set(groups(source).values()) == {"walk/a", "walk/b"} and "2 groups" in source.describe()


def test_a_pattern_of_the_name_gives_the_group(tmp_path, folder):
    folder(tmp_path, ["film_1_001.png", "film_1_002.png", "film_2_001.png", "cover.png"])
    source = open_source(tmp_path, r"(.+)_\d+\.")
    assert groups(source) == {
        "cover.png": None, "film_1_001.png": "film_1", "film_1_002.png": "film_1", "film_2_001.png": "film_2",
    }  # fmt: skip
    assert [(fault.path, fault.kind) for fault in source.faults] == [("cover.png", "no group")]
    with pytest.raises(NoGroup, match=r"no name in .* matches"):
        open_source(tmp_path, "(slice)")


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl", "json"])
def test_a_column_gives_the_group(tmp_path, folder, table):
    names = [f"{n}.png" for n in range(4)]
    folder(tmp_path, names)
    rows = [{"file_name": name, "text": "a slice", "patient": n // 2} for n, name in enumerate(names)]
    if table == "json":
        for row in rows:
            (tmp_path / row["file_name"].replace("png", "json")).write_text(json.dumps(row))
    elif table == "metadata.jsonl":
        (tmp_path / table).write_text("\n".join(map(json.dumps, rows)))
    else:
        (tmp_path / table).write_text(
            "file_name,text,patient\n" + "".join(f"{n}.png,a slice,{n // 2}\n" for n in range(4))
        )
    assert list(groups(open_source(tmp_path, "patient")).values()) == ["0", "0", "1", "1"]
    with pytest.raises(NoGroup, match="did you mean 'patient'"):
        open_source(tmp_path, "patent")
    assert set(groups(open_source(tmp_path)).values()) == {None}


def test_shards_and_hugging_face_rows_have_groups(tmp_path, encoded, picture):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for n in range(4):
            about = json.dumps({"text": "a slice", "patient": f"p{n // 2}"}).encode()
            for name, content in ((f"film {n % 2}/{n}.png", encoded(n)), (f"film {n % 2}/{n}.json", about)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    shard = tmp_path / "0.tar"
    assert list(groups(open_source(shard, "patient")).values()) == ["p0", "p0", "p1", "p1"]
    assert list(groups(open_source(shard, "folder")).values()) == ["film 0", "film 1", "film 0", "film 1"]

    import datasets

    columns = {"image": [picture(n) for n in range(4)], "patient": [7, 7, 8, 8]}
    features = datasets.Features(image=datasets.Image(), patient=datasets.Value("int64"))
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "rows"))
    assert list(groups(open_source(tmp_path / "rows", "patient")).values()) == ["7", "7", "8", "8"]
    with pytest.raises(NoGroup, match="did you mean 'patient'"):
        open_source(tmp_path / "rows", "patients")


def test_a_picture_of_two_groups_is_a_fault(tmp_path, folder):
    folder(tmp_path, ["a.png", "b.png"])
    (tmp_path / "metadata.csv").write_text("file_name,text,patient\na.png,x,1\na.png,y,2\nb.png,z,1\n")
    source = open_source(tmp_path, "patient")
    assert [(fault.path, fault.kind) for fault in source.faults] == [("a.png", "ambiguous")]


@pytest.mark.parametrize(
    ("group", "words"), [("(a", "not a regular expression"), ("(a)(b)", "2 groups"), ("(?:a)", "0 groups")]
)
def test_a_pattern_that_cannot_be_used_is_refused_before_anything_starts(group, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe("folder", ["data.path=x", f"data.group={group}"])


# ---- the split of a data set


def test_a_data_set_is_split_by_its_groups_and_without_them_as_ever(tmp_path, folder):
    root = folder(tmp_path / "p", [f"{film:02}-{n}.png" for film in range(10) for n in range(3)])
    plain = prepare(open_source(root), Pictures(8), cache_dir=tmp_path / "plain")
    data = prepare(open_source(root, "(.+)-"), Pictures(8), cache_dir=tmp_path / "grouped")
    assert plain.groups is None and data.groups == [f"{film:02}" for film in range(10) for _ in range(3)]
    train, validation = data.split(0.2)
    assert len(validation) == 6 and not {i // 3 for i in train} & {i // 3 for i in validation}

    places = np.array([int(row["sha256"][:13], 16) / 16**13 for row in plain.manifest])
    assert np.array_equal(plain.split(0.2)[1], np.flatnonzero(places < 0.2))
    assert "group" not in plain.manifest[0] and data.manifest[0]["group"] == "00"
    assert plain.manifest_hash != data.manifest_hash  # the split is part of what a run was trained on


def test_another_law_of_groups_is_another_data_set(tmp_path, folder):
    """The cache is made anew: it may not keep the groups of an earlier setting."""
    root = folder(tmp_path / "p", [f"{film}-{n}.png" for film in range(4) for n in range(3)])
    for group, expected in (("(.+)-", 4), (r"-(\d+)", 3), ("", None)):
        data = prepare(open_source(root, group), Pictures(8), cache_dir=tmp_path / "ready")
        assert (None if data.groups is None else len(set(data.groups))) == expected
