"""Tables of points as people export them, and ids that stay below the root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_trees import picture, save, write

from gate_cache.core.errors import DataError, UserError
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.tables import inside, number, read_csv, whole
from gate_cache.datasets.pairs import Pairs
from gate_cache.datasets.registry import open_dataset
from gate_cache.learn.features.pairs import load_pairs
from gate_cache.manifest.dataset_specs import PairsSpec

HEAD = "image,point,x,y,visible\n"
ROWS = ("cat/1.png,nose,2.5,3,1\ncat/1.png,ear,6,1,1\n"
        "cat/2.png,nose,2,4.25,1\ncat/2.png,ear,7,2,0\n")
TABLE = HEAD + ROWS


def tree(root: Path, text: str | bytes, *more: str, **options: Any) -> Pairs:
    """Pictures of 8 × 12 (height × width) and a table of their points."""
    for k, name in enumerate(("cat/1.png", "cat/2.png", *more)):
        save(root / name, picture(k, 8, 12))
    data = text.encode() if isinstance(text, str) else text
    (root / "points.csv").write_bytes(data)
    return Pairs(root, **options)


def points(data: Pairs) -> dict[str, list[tuple[float, ...] | None]]:
    """The visible points of every image, None where one is not visible."""
    found = {}
    for sample in data.samples():
        known = data.keypoints(sample.id)
        found[sample.id] = [tuple(xy) if v else None for xy, v in
                            zip(known.xy.tolist(), known.visible, strict=True)]
    return found


PLAIN = {"cat/1.png": [(2.5, 3.0), (6.0, 1.0)], "cat/2.png": [(2.0, 4.25), None]}


@pytest.mark.parametrize("text", [
    TABLE, TABLE.replace(",", ";"), TABLE.replace(",", "\t"), TABLE.replace(",", ", "),
    TABLE.replace("\n", "\r\n"), TABLE.replace("\n", "\r"), TABLE.encode("utf-8-sig"),
    TABLE.encode("utf-16"), HEAD.title() + ROWS,
    TABLE.replace(",", ";").replace("2.5", "2,5").replace("4.25", "4,25"),
    TABLE.replace(",1\n", ",1.0\n").replace(",0\n", ",0.0\n"),
    TABLE.replace(",1\n", ",TRUE\n").replace(",0\n", ",FALSE\n"),
    TABLE.replace(",1\n", ",2\n"), TABLE.replace("7,2,0", "nan,NaN,0"),
    TABLE.replace("7,2,0", ",,"), TABLE.replace("7,2,0", "-1,-1,1"),
    TABLE.replace("7,2,0", "-1.0,-1.0,"), TABLE.replace("7,2,0", "500,2,1"),
    TABLE.replace("7,2,0", "-3,2,1"), TABLE.replace("7,2,0", "7,8.5,1"),
    TABLE.replace("7,2,0", "0,0,"), TABLE.replace("cat/2", "./cat/../cat/2"),
    TABLE.replace("cat/", "cat\\"), "\n" + HEAD + "\n" + ROWS,
    "".join(f"{'' if n == 0 else n},{line}\n" for n, line in enumerate(TABLE.splitlines())),
])
def test_tables_of_one_meaning_give_the_same_points(tmp_path: Path, text: str | bytes) -> None:
    assert points(tree(tmp_path, text)) == PLAIN


def test_a_point_that_is_not_visible_is_in_no_box_and_no_pair(tmp_path: Path) -> None:
    for text in (TABLE.replace("7,2,0", "500,2,1"), TABLE.replace("7,2,0", "-1,-1,1")):
        data = tree(tmp_path, text)
        np.testing.assert_array_equal(data.keypoints("cat/2.png").box, [2, 4.25, 2, 4.25])
        assert [p.shared.tolist() for p in load_pairs(data, "train")] == [[True, False]] * 2


def test_cocos_flags_are_read_where_there_is_a_2(tmp_path: Path) -> None:
    text = TABLE.replace("2.5,3,1", "2.5,3,2").replace("2,4.25,1", "2,4.25,2")
    data = tree(tmp_path, text)
    assert points(data) == {"cat/1.png": [(2.5, 3.0), None], "cat/2.png": [(2.0, 4.25), None]}
    assert any("1 point hidden" in note for note in data.notes())


def test_a_corner_counts_where_the_table_says_so(tmp_path: Path) -> None:
    assert points(tree(tmp_path, TABLE.replace("7,2,0", "0,0,1")))["cat/2.png"][1] == (0, 0)
    assert points(tree(tmp_path, TABLE.replace("7,2,0", "12,8,1")))["cat/2.png"][1] == (12, 8)
    data = tree(tmp_path, TABLE.replace("7,2,0", "0,0,"))
    assert points(data) == PLAIN
    assert ["at 0, 0" in note for note in data.notes()] == [True]


def test_names_that_are_numbers_are_one_name(tmp_path: Path) -> None:
    text = ("image,point,x,y\ncat/1.png,1,1,1\ncat/1.png,2,2,2\n"
            "cat/2.png,1.0,3,3\ncat/2.png,2.0,4,4\n")
    assert points(tree(tmp_path, text)) == {"cat/1.png": [(1, 1), (2, 2)],
                                            "cat/2.png": [(3, 3), (4, 4)]}


@pytest.mark.parametrize(("text", "reason"), [
    (TABLE.replace("2.5", "inf"), ":2: x = 'inf', y = '3' are not numbers"),
    (TABLE.replace("2.5", "1_0"), ":2: x = '1_0'"),
    (TABLE.replace("2.5", "1e400"), ":2: x = '1e400', y = '3' are not numbers; leave both empty"),
    (TABLE.replace("cat/1.png,nose", "cat/1.png,nan"), ":2: no 'point'"),
    (TABLE.replace("cat/1.png,nose", "cat/\0.png,nose"), r":2: 'cat/\\x00.png' is not a path"),
    (TABLE.replace("2.5,3,1", "2.5"), ":2: no 'y', and there is the other"),
    (TABLE.replace("2.5,3,1", "2.5,3,1,more"), r":2: 6 values in 5 columns \('more'"),
    (TABLE.replace("visible", "x"), "two columns 'x'"),
    (TABLE.replace("3,1\n", "3,3\n"), ":2: visible is '3', expected 1 or 0, or COCO's"),
    (TABLE.replace("cat/2.png,nose", "cat/2.png,Nose"), "'Nose', 'nose', which differ by case"),
    (TABLE.replace("cat/1.png,nose", "cat/1.png,n\u00e9z")
     .replace("cat/2.png,nose", "cat/2.png,ne\u0301z"), "coding of accents alone"),
    (TABLE.encode("latin-1").replace(b"nose", b"n\xe4se"), "not UTF-8"),
    (TABLE + "cat/9.png,nose,1,1,1\ncat/8.png,nose,1,1,1\n",
     r"8\.png: image not found \(and 1 more"),
    (TABLE.replace("6,1,1", "six,1,1").replace("7,2,0", "seven,2,0"), ":3: .*2 lines are wrong"),
])
def test_what_is_no_table_of_points_is_one_line(tmp_path: Path, text: str | bytes,
                                                reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        points(tree(tmp_path, text))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------- ids and their root


def test_the_category_is_the_images_own_folder(tmp_path: Path) -> None:
    names = ("images/train/cat/1.png", "images/test/dog/1.png", "images/test/1.png")
    rows = "".join(f"{n},nose,1,1\n" for n in names)
    data = tree(tmp_path, "image,point,x,y\n" + rows, *names)
    assert [(data.category(i), data.split_of(i)) for i in names] == [
        ("cat", "train"), ("dog", "test"), ("images", "test")]


def test_absolute_paths_below_the_root_become_ids(tmp_path: Path) -> None:
    assert points(tree(tmp_path, TABLE.replace("cat/", f"{tmp_path}/cat/"))) == PLAIN


@pytest.mark.parametrize("name", ["../other/3.png", "/etc/passwd", "cat/../../other/3.png",
                                  "..\\other\\3.png", "C:\\3.png", "~/3.png", "cat/link.png",
                                  "away/3.png"])
def test_ids_stay_below_the_root_unless_allowed(tmp_path: Path, name: str) -> None:
    save(tmp_path / "other" / "3.png", picture(3))
    root = tmp_path / "root"
    data = tree(root, TABLE + f"{name},nose,1,1,1\n")
    (root / "cat" / "link.png").symlink_to(tmp_path / "other" / "3.png")
    (root / "away").symlink_to(tmp_path / "other")
    with pytest.raises(DataError, match=r"points\.csv:6: .*or pass --allow-outside"):
        data.samples()
    if name == "../other/3.png":
        allowed = tree(root, TABLE + f"{name},nose,1,1,1\n", links=None)
        assert next(s.id for s in allowed.samples()) == name


def test_links_inside_the_data_root_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "other" / "3.png", picture(3))
    tree(tmp_path / "root", TABLE + "away/3.png,nose,1,1,1\n")
    (tmp_path / "root" / "away").symlink_to(tmp_path / "other")
    spec = PairsSpec(name="pairs", root="root")
    assert len(open_dataset(spec, Roots(data=tmp_path)).samples()) == 3


@pytest.mark.parametrize("field", ["points", "pairs"])
def test_tables_stay_below_the_root(tmp_path: Path, field: str) -> None:
    spec = PairsSpec(name="pairs", root="root", **{field: "../../x.csv"})
    with pytest.raises(UserError, match=rf"dataset\.{field}: '\.\./\.\./x\.csv' climbs out"):
        open_dataset(spec, Roots(data=tmp_path))


def test_listed_pairs_are_normalised_like_points(tmp_path: Path) -> None:
    write(tmp_path / "pairs.csv", "Source;Target\n./cat/1.png;cat\\2.png\n")
    (pair,) = tree(tmp_path, TABLE, pairs="pairs.csv").pairs("train")
    assert (pair.source, pair.target) == ("cat/1.png", "cat/2.png")


def test_parts_of_tables() -> None:
    assert [number(t) for t in ("", "NaN", "n/a", "1e2", "-.5", "+3.")] == [
        None, None, None, 100, -0.5, 3]
    assert [whole(t) for t in ("3.0", "3.10", "v1.0", "12.000")] == ["3", "3.10", "v1.0", "12"]
    assert inside(Path("/a"), "x//./y", "here") == "x/y"


def test_commas_inside_quotes_do_not_separate(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'a,b\n"x, y",1\n')
    assert read_csv(path, ("a", "b"), "") == [(2, {"a": "x, y", "b": "1"})]
