"""`tiny`, a small diffusion transformer and a small ViT in one manifest, by every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from small_encoders import small
from small_encoders import write as write_encoder
from small_transformers import write_transformer
from viewing import served

from gate_cache.analysis.session import open_session
from gate_cache.cli import app
from gate_cache.core.errors import UserError
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots

pytestmark = pytest.mark.long

TEXT: dict[str, Any] = {
    "dataset": {"name": "toyworld", "train": 16, "val": 0, "test": 16},
    "models": {"sd": {"source": "tiny"}, "dit": {"source": "dit", "size": 64},
               "vit": {"source": "vit", "size": 64}},
    "conv": {"a": {"prompt": "a photo", "maps": ["up1", "up2"]},
             "d": {"model": "dit", "prompt": "a photo", "t": 100},
             "v": {"model": "vit"}},
    "attention": {"t": {"model": "dit", "prompt": "a horse"}, "empty": {"prompt": ""}},
    "store": {"path": "one.zarr"},
    "train": {"head": "nn", "mix": "concat", "steps": 2, "validate_steps": 2, "batch": 2,
              "hidden": 8}}
PAIR = "test/horse/00007", "test/horse/00015"


class Home:
    """A folder with models and manifest, extracted once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roots = Roots(*(folder / name for name in ("data", "models", "stores", "runs")))
        write_encoder(self.roots.models / "vit", small("dinov2"))
        write_transformer("sigma", self.roots.models / "dit")
        self.manifest = folder / "one.yaml"
        self.manifest.write_text(yaml.safe_dump(TEXT, sort_keys=False))
        (folder / "dense.yaml").write_text(yaml.safe_dump({**TEXT, "train": {
            **TEXT["train"], "head": {"name": "pixel-mlp", "members": 2}}}, sort_keys=False))
        (folder / "trials.yaml").write_text("grid: {gamma1: [0.0, 0.1]}\n")

    def run(self, *args: str) -> None:
        """A command line."""
        app(list(args), standalone_mode=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("one"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home.folder)
        home.run("extract", "one.yaml")
        home.run("train", "one.yaml", "--out", "runs/nn")
    return home


@pytest.fixture(autouse=True)
def there(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.folder)


def test_a_plan_and_an_inspection_name_the_three(home: Home,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    home.run("plan", "one.yaml", "--json")
    planned = json.loads(capsys.readouterr().out)
    assert planned["sizes"] == {"sd": 64, "dit": 64, "vit": 64}
    home.run("inspect", "stores/one.zarr")
    shown = capsys.readouterr().out
    for model in ("tiny", "dit", "vit"):
        assert f"model: {model}, float32" in shown


@pytest.mark.parametrize("target", ["one.yaml", "stores/one.zarr"])
def test_pictures_of_all_are_drawn(home: Home, target: str, tmp_path: Path) -> None:
    """With a T5 whose tokens are letters, and a prompt without a word."""
    home.run("show", target, "--image", PAIR[0], "--out", str(tmp_path))
    (picture,) = tmp_path.glob("*.png")
    with Image.open(picture) as image:
        assert image.height > 5 * 100  # a row of each combo


def test_the_viewer_has_maps_words_and_matches_of_all(home: Home) -> None:
    session = open_session(home.manifest, home.roots, Silent(), runs=[home.folder / "runs/nn"])
    with served(session) as server:
        combos = {c["name"]: c for c in server.ask("api/store").json["combos"]}
        assert combos.keys() == {"a", "d", "v", "t", "empty"}
        assert combos["t"]["tokens"][:6] == ["▁", "a", "▁", "h", "o", "r"]
        for name, combo in combos.items():
            (level, shape), *_ = combo["maps"].items()
            found = server.ask("api/maps", {"image": PAIR[0], "combo": name, "maps": [level],
                                            "tokens": [1]}).json
            tile, *_ = found["tiles"]
            assert [tile["height"], tile["width"]] == shape[1:]
        features = [f["name"] for f in server.ask("api/store").json["features"]]
        own = ["combo a", "combo d", "combo v", "run nn"]
        assert set(own) <= set(features)
        for feature in own:  # a cell's centre is most like itself
            at = 3.5 / 8 if feature == "combo v" else 6.5 / 16
            found = server.ask("api/match", {"feature": feature, "image": PAIR[0],
                                             "target": PAIR[0], "x": at, "y": at}).json
            assert found["similarity"] > 0.99
            assert (found["x"], found["y"]) == pytest.approx((at, at), abs=0.01)


def test_points_are_matched_by_each_and_by_the_trained(home: Home, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--combo", "a"], ["--combo", "d"], ["--combo", "v"], ["--run", "runs/nn"]):
        home.run("match", "one.yaml", *PAIR, *more, "--json", "--out", str(tmp_path / "x.png"))
        found = json.loads(capsys.readouterr().out)
        assert found["points"] and (tmp_path / "x.png").is_file()


def test_trainings_are_evaluated_reported_and_drawn(home: Home, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    home.run("evaluate", "runs/nn", "--manifest", "one.yaml", "--json")
    again = json.loads(capsys.readouterr().out)["values"]
    assert again["pck@0.10/radius=box/average=point"] >= 0
    home.run("report", "runs/nn")
    page = (home.folder / "runs/nn/report.html").read_text()
    assert all(f"model: {model}" in page or model in page for model in ("tiny", "dit", "vit"))
    home.run("train", "dense.yaml", "--out", str(tmp_path / "dense"))
    home.run("predict", str(tmp_path / "dense"), "--manifest", "dense.yaml",
             "--image", PAIR[0], "--out", str(tmp_path))
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_a_sweep_and_a_probe_of_the_three(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.run("sweep", "one.yaml", "trials.yaml", "--json")
    trials = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["trained"]]
    assert len(trials) == 2 and not any(row["failed"] for row in trials)
    home.run("probe", "one.yaml", "--images", "4", "--split", "test", "--probe", "knn", "--json")
    for table in json.loads(capsys.readouterr().out)["tables"]:
        assert {tuple(row["combos"]) for row in table["rows"]} >= {("a",), ("d",), ("v",)}


@pytest.mark.parametrize("combo", ["a", "d"])
def test_content_shift_is_of_one_model(home: Home, combo: str, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"of 3 models \(sd, dit, vit\); this reads one"):
        home.run("score", "one.yaml")
    home.run("score", "one.yaml", "--images", "2", "--combo", combo, "--out", str(tmp_path))
    assert combo in capsys.readouterr().out
    with pytest.raises(UserError, match="vision encoder"):
        home.run("score", "one.yaml", "--images", "2", "--combo", "v")
