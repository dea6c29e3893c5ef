"""Every kind of data goes through the one evaluation: arrays of one to three dimensions, deep pictures, a toy kind."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.cli import main as cli
from sfumato.codecs.png import png
from sfumato.config import load_recipe
from sfumato.model import Model
from sfumato.training.run import train

ROWS = 180
SMALL = [
    "network.channels=8", "network.multipliers=[1]", "network.blocks=1", "network.attention_level=null",
    "network.groups=4", "network.patch=1", "optimizer.kind=adamw", "condition.kind=none", "data.validation=0.35",
    "training.batch=4", "training.validate_every=100", "training.sample_every=100", "training.half=false",
    "training.precision=fp32", "sampling.steps=2", "training.steps=2", "training.checkpoint_every=100",
]  # fmt: skip
ARRAYS = {
    "signal": ((30,), "int16"),
    "field": ((2, 10, 12), "float64"),
    "volume": ((6, 7, 8), "int32"),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("sfumato.features.learned.LEAST", 256)
    monkeypatch.setattr("sfumato.features.learned.MOST", 256)
    monkeypatch.setattr("sfumato.measures.memorization.SUBSAMPLES", 2)
    monkeypatch.setattr("sfumato.features.spaces.installed", lambda: False)


def arrays(folder: Path, name: str) -> Path:
    shape, dtype = ARRAYS[name]
    chance = np.random.default_rng(0)
    folder.mkdir()
    for i in range(ROWS):
        np.save(folder / f"{i:03}.npy", chance.normal(40, 9, shape).astype(dtype))
    return folder


def deep_pictures(folder: Path, channels: int) -> Path:
    """Pictures of 24 x 16 and 16 bits that lie within one level of 255, so that 8 bits would see none of it."""
    chance = np.random.default_rng(0)
    folder.mkdir()
    for i in range(ROWS):
        values = chance.integers(20_000, 20_200, (16, 24, channels), dtype=np.uint16)
        if channels == 4:
            values[:, :, 3] = 65_535
        (folder / f"{i:03}.png").write_bytes(png(values, 16, {}))
    return folder


def evaluated(data: Path, out: Path, *changes: str, metrics: tuple[str, ...] = ()) -> dict:
    """The report of a model that was trained for two steps."""
    train(load_recipe("folder", [f"data.path={data}", *SMALL, *changes]), out / "run")
    chosen = [word for metric in metrics for word in ("--metrics", metric)]
    how = ["--n", "50", "--nll-n", "2", "--chain", "3", "--probes", "1", "--out", str(out / "report")]
    assert cli.main(["evaluate", str(out / "run"), str(data), *chosen, *how]) == 0
    return json.loads((out / "report" / "report.json").read_text())


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_evaluated_in_every_part_that_they_allow(name, tmp_path, capsys):
    data = arrays(tmp_path / "data", name)
    report = evaluated(data, tmp_path)
    told = capsys.readouterr()
    parts, page = report["parts"], (tmp_path / "report" / "index.html").read_text()
    assert parts.keys() == {
        "quality-learned-without-labels", "quality-random-convolutions", "statistics", "speed", "memorization-values",
        "memorization-learned-without-labels", "memorization-random-convolutions", "membership", "duplicates",
    }  # fmt: skip
    assert "pretrained networks see pictures alone" in told.err + told.out
    means = [row for key, row in parts["statistics"]["rows"].items() if key.startswith("mean")]
    channels = 2 if name == "field" else 1
    assert len(means) == 2 * channels and abs(means[0]["real"]["mean"] - 40) < 2  # in the unit of the data
    assert "neither labels nor prompts" in page and "nearest to a training" in page
    assert (tmp_path / "report" / "samples.png").is_file() and (tmp_path / "report" / "samples" / "7.png").is_file()


def test_the_likelihood_has_the_bin_of_whole_numbers_and_is_left_out_of_real_ones_with_the_reason(tmp_path, capsys):
    report = evaluated(arrays(tmp_path / "whole", "signal"), tmp_path / "a", metrics=("nll",))
    model = Model.load(tmp_path / "a" / "run" / "model")
    assert model.codec.bin is not None and report["nll"]["pictures"] == 2
    other = tmp_path / "b"
    train(load_recipe("folder", [f"data.path={arrays(tmp_path / 'real', 'field')}", *SMALL]), other / "run")
    capsys.readouterr()
    command = ["evaluate", str(other / "run"), str(tmp_path / "real"), "--metrics", "nll", "--out", str(other / "out")]
    assert cli.main(command) == 2
    assert "the values of these data are continuous" in capsys.readouterr().err
    for file in (tmp_path / "whole").iterdir():
        np.save(file, np.load(file) + np.int16(300))
    command = ["evaluate", str(tmp_path / "a" / "run"), str(tmp_path / "whole"), "--metrics", "nll"]
    assert cli.main([*command, "--out", str(tmp_path / "c")]) == 2
    assert "hold values that the training had not" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [3, 4])
def test_deep_pictures_are_judged_by_what_lies_between_the_levels_of_8_bits(channels, tmp_path):
    data = deep_pictures(tmp_path / "data", channels)
    shape = ["codec.kind=pixels", "codec.size=[24,16]", f"codec.channels={channels}", "codec.bits=16"]
    metrics = ("quality", "statistics", "memorization", "duplicates", "nll")
    report = evaluated(data, tmp_path, *shape, metrics=metrics)
    parts = report["parts"]
    assert {"memorization-pixels", "quality-learned-without-labels", "nll"} <= parts.keys()
    assert parts["duplicates"]["rows"]["spare"]["drawn"]["mean"] == 0  # at 8 bits they all are one picture
    contrast = parts["statistics"]["rows"]["contrast"]["real"]["mean"]
    assert 0.05 < contrast < 0.5
    rows = np.load(tmp_path / "report" / "samples" / "samples.npy", mmap_mode="r")
    assert rows.shape == (50, 16, 24, channels) and rows.dtype == np.uint16
    assert Image.open(tmp_path / "report" / "samples" / "0.png").size == (24, 16)


def test_models_of_arrays_are_compared_and_released(tmp_path, capsys):
    data = arrays(tmp_path / "data", "signal")
    train(load_recipe("folder", [f"data.path={data}", *SMALL]), tmp_path / "run")
    shutil.copytree(tmp_path / "run" / "model", tmp_path / "twin")
    command = ["compare", str(tmp_path / "run"), str(tmp_path / "twin"), "--data", str(data), "--n", "20"]
    assert cli.main([*command, "--out", str(tmp_path / "compared")]) == 0
    rows = json.loads((tmp_path / "compared" / "comparison.json").read_text())["rows"]
    assert {"mean", "roughness-distance"} < {row["row"] for row in rows}
    assert all(row["to_first"][0]["mean"] == 0 for row in rows if row["to_first"][0]["p"] is not None)
    assert (tmp_path / "compared" / "pictures.png").is_file()
    grid = ["compare", str(tmp_path / "run"), "--data", str(data), "--n", "20", "--grid", "steps=1,2"]
    assert cli.main([*grid, "--out", str(tmp_path / "grid")]) == 0
    release = ["release", str(tmp_path / "run"), "--n", "20", "--at-most", "statistics.mean=1e9"]
    cli.main([*release, "--out", str(tmp_path / "released")])
    assert "passed   statistics.mean" in capsys.readouterr().out


def test_a_run_of_arrays_is_judged_while_it_trains(tmp_path):
    judged = ["training.evaluate_every=1", "training.evaluate_pictures=64"]
    train(load_recipe("folder", [f"data.path={arrays(tmp_path / 'data', 'field')}", *SMALL, *judged]), tmp_path / "run")
    assert "KID" in (tmp_path / "run" / "model" / "README.md").read_text()


BLIND = ("training", "evaluation", "measures", "features", "drawing.py", "model.py", "material.py", "generation")


def test_no_part_that_trains_draws_saves_or_measures_asks_which_kind_of_data_it_has():
    """No comparison of a codec's kind, and no look at the class of a codec."""
    root, classes = Path(sfumato.__file__).parent, {"Arrays", "Pixels", "ArrayCodec", "PixelCodec"}
    for part in BLIND:
        for file in [root / part] if part.endswith(".py") else sorted((root / part).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                where = f"{file.relative_to(root)}:{getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.Compare):
                    assert not any(".codec.kind" in ast.unparse(side) for side in (node.left, *node.comparators)), where
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                    assert not {name.id for name in ast.walk(node) if isinstance(name, ast.Name)} & classes, where
