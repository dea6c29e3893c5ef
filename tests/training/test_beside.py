"""Conditions that lie beside x, trained: they are used, hidden, dropped and resumed as promised; second pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import generate as cli
from sfumato.conditioning.values import Planes
from sfumato.config import Config, load_recipe
from sfumato.data.dataset import Dataset
from sfumato.data.faults import DataError
from sfumato.errors import UserError
from sfumato.model import Model
from sfumato.training.estimate import dry_run
from sfumato.training.prepared import trainer_of
from sfumato.training.run import prepare_run, train
from sfumato.training.unfinished import open_unfinished

SMALL = [
    "network.channels=16", "network.multipliers=[1]", "network.blocks=1", "network.attention_level=null",
    "network.groups=4", "network.patch=1", "optimizer.kind=adamw", "optimizer.lr=3e-3", "optimizer.warmup=5",
    "data.validation=0.1", "data.flip=false", "codec.size=8", "training.batch=16", "training.validate_every=1000",
    "training.sample_every=1000", "training.half=false", "training.precision=fp32", "training.threads=1",
    "sampling.steps=8", "training.checkpoint_every=1000",
]  # fmt: skip


def settings(data: Path, conditions: dict, *changes: str, steps: int = 4) -> Config:
    given = [f"data.path={data}", *SMALL, f"conditions={json.dumps(conditions)}", f"training.steps={steps}", *changes]
    return load_recipe("folder", given)


def weights(out: Path) -> bytes:
    return (out / "model" / "weights.safetensors").read_bytes()


def halves(folder: Path, count: int = 64, deep: bool = False) -> Path:
    """Grey pictures of 8 pixels; each half has a random grey level of its own."""
    folder.mkdir(exist_ok=True)
    levels = np.random.default_rng(0).integers(0, 256, (count, 2))
    for i, (left, right) in enumerate(levels):
        Image.fromarray(np.repeat([[left] * 4 + [right] * 4], 8, 0).astype(np.uint8)).save(folder / f"{i:02}.png")
    return folder


def paired(folder: Path, count: int = 40) -> Path:
    """Pictures of one grey level each; a second picture, of 16 bits, has the opposite level."""
    (folder / "low").mkdir(parents=True)
    rows = ["file_name,low"]
    for i, level in enumerate(np.random.default_rng(1).integers(0, 65536, count)):
        Image.fromarray(np.full((8, 8), level // 257, np.uint8)).save(folder / f"{i:02}.png")
        Image.fromarray(np.full((12, 16), 65535 - level, np.uint16)).save(folder / "low" / f"{i:02}.png")
        rows.append(f"{i:02}.png,low/{i:02}.png")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


LOW = {"low": {"kind": "picture"}}


# --- training uses them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditions", [{"small": {"kind": "smaller", "factor": 2}}, {"part": {"kind": "mask"}}, LOW])
def test_a_condition_beside_x_brings_the_loss_below_that_of_the_same_network_without_it(conditions, tmp_path):
    folder = paired(tmp_path / "data") if conditions is LOW else halves(tmp_path / "data")
    validation = {}
    for name, dropout in (("with", 0.0), ("without", 0.9)):
        kinds = {key: {**value, "dropout": dropout} for key, value in conditions.items()}
        prepared = prepare_run(settings(folder, kinds, steps=120), tmp_path / name, Quiet())
        trainer = trainer_of(prepared)
        if name == "without":  # the same network, to which the condition is never shown
            for part in trainer.model.conditioner.parts.values():
                part.dropout = 1.0
        for _ in range(120):
            trainer.train_step()
        with torch.no_grad():
            batches = [trainer.batch(number) for number in range(1000, 1008)]
            losses = [trainer.loss(batch, batch.u.clamp(0.02, 0.98)).mean() for batch in batches]
        validation[name] = torch.stack(losses).mean().item()
    assert validation["with"] < 0.8 * validation["without"]


class Quiet:
    def say(self, text: str) -> None:
        return None

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        return None


def test_what_is_drawn_has_the_means_of_the_smaller_picture_it_was_given(tmp_path):
    folder = halves(tmp_path / "data")
    model = train(settings(folder, {"small": {"kind": "smaller", "factor": 2}}, steps=250), tmp_path / "out")
    data = Dataset(tmp_path / "out" / "data")
    x_0 = model.codec.encode(data.rows[:8])
    given = [model.conditioner.normalize({"small": block_means(x)}) for x in x_0]
    drawn = torch.cat([x for _, x in model.drawn(given, range(8), model.sampling(guidance=1))])
    means = torch.stack([block_means(x) for x in drawn])
    wanted = torch.stack([block_means(x) for x in x_0])
    error = (means - wanted).square().mean()
    chance = (means - wanted.roll(1, 0)).square().mean()
    assert error < 0.25 * chance


def block_means(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean((2, 4))


def test_the_known_part_is_kept_and_the_hidden_part_cannot_be_seen(tmp_path):
    folder = halves(tmp_path / "data")
    model = train(settings(folder, {"part": {"kind": "mask", "law": "halves"}}, steps=250), tmp_path / "out")
    row = Dataset(tmp_path / "out" / "data").rows[0].copy()
    x = model.codec.encode(row[None])[0]
    known = torch.zeros(1, 8, 8)
    known[..., :4] = 1
    asked = []
    for hidden in (0.0, 0.9):  # another picture where nothing is known
        shown = torch.where(known > 0, x, torch.full_like(x, hidden))
        asked.append(model.conditioner.normalize({"part": torch.cat([shown, known])}))
    planes = [model.conditioner([each])["planes"] for each in asked]
    assert torch.equal(*planes) and not planes[0][0, 1:, :, 4:].any()
    first, second = (torch.cat([x for _, x in model.drawn([each], [3], model.sampling(guidance=1))]) for each in asked)
    assert torch.equal(first, second)
    error = (first[0, :, :, :4] - x[:, :, :4]).square().mean()
    others = model.codec.encode(Dataset(tmp_path / "out" / "data").rows)[:, :, :, :4]
    assert error < 0.25 * (others - x[:, :, :4]).square().mean()


@pytest.mark.parametrize("conditions", [{"small": {"kind": "smaller", "factor": 2}}, {"part": {"kind": "mask"}}, LOW])
def test_a_run_with_planes_resumes_to_the_same_bits_and_is_saved(conditions, tmp_path):
    folder = paired(tmp_path / "data") if conditions is LOW else halves(tmp_path / "data")
    changes = ("data.flip=true", "training.checkpoint_every=2")
    whole = train(settings(folder, conditions, *changes), tmp_path / "whole")
    train(settings(folder, conditions, *changes, steps=2), tmp_path / "cut")
    train(settings(folder, conditions, *changes), tmp_path / "cut")
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")
    again = Model.load(tmp_path / "whole" / "model")
    [name] = conditions
    data = Dataset(tmp_path / "whole" / "data")
    value = again.conditioner.parts[name].of(data, 0, again.codec.encode(data.rows[:1])[0], 0.3)
    first, second = (
        torch.cat([x for _, x in m.drawn([{name: value}], [1], m.sampling())]) for m in (whole.eval(), again)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", ["smaller", "mask", "picture"])
def test_a_condition_is_withheld_as_often_as_its_law_says(kind, tmp_path):
    folder = paired(tmp_path / "data") if kind == "picture" else halves(tmp_path / "data")
    prepared = prepare_run(settings(folder, {"low": {"kind": kind, "dropout": 0.3}}), tmp_path / "out", Quiet())
    trainer = trainer_of(prepared)
    shown = [condition for number in range(100) for condition in trainer.batch(number).conditions]
    withheld = sum("low" not in condition for condition in shown) / len(shown)
    assert abs(withheld - 0.3) < 4 * (0.3 * 0.7 / len(shown)) ** 0.5


# --- second pictures -------------------------------------------------------------------------------------------------


def test_second_pictures_keep_16_bits_are_no_data_and_are_flipped_with_x(tmp_path):
    folder = paired(tmp_path / "data")
    levels = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 300
    Image.fromarray(levels).save(folder / "low" / "00.png")
    prepared = prepare_run(settings(folder, LOW, "data.flip=true", "codec.channels=1"), tmp_path / "out", Quiet())
    data, condition = prepared.data, prepared.config.second_pictures["low"]
    codec = condition.codec.model_dump()
    assert (codec["kind"], codec["bits"], codec["channels"], list(codec["size"])) == ("pixels", 16, 1, [8, 8])
    assert len(data) == 40 and data.beside["low"].shape == (40, 8, 8, 1) and data.beside["low"].dtype == np.uint16
    assert len(np.unique(data.beside["low"][0])) > 40  # 8 bits would have fewer levels between 0 and 57,300, or 64
    assert all(row["beside"]["low"]["path"] == f"low/{row['path']}" for row in data.manifest)
    plain = prepared.model.conditioner.parts["low"].of(data, 0, torch.zeros(1, 8, 8), 0.0)
    trainer = trainer_of(prepared)
    seen: list[torch.Tensor] = []
    for batch in map(trainer.batch, range(12)):
        for shown, index in zip(batch.conditions, batch.indices, strict=True):
            if index == 0 and isinstance(value := shown.get("low"), Planes):
                seen.append(value.x)
    assert plain is not None and not isinstance(plain, str) and seen
    assert all(torch.equal(x, plain.x) or torch.equal(x, plain.x.flip(-1)) for x in seen)
    assert any(torch.equal(x, plain.x.flip(-1)) for x in seen)


def test_a_file_given_to_generate_is_prepared_as_in_training_with_all_its_bits(tmp_path, monkeypatch, capsys):
    folder = paired(tmp_path / "data")
    model = train(settings(folder, LOW), tmp_path / "out")
    data = Dataset(tmp_path / "out" / "data")
    file = folder / "low" / "03.png"
    value = model.conditioner.normalize({"low": str(file)})["low"]
    of_training = model.conditioner.parts["low"].of(data, 3, torch.zeros(1, 8, 8), 0.0)
    assert not isinstance(value, str) and not isinstance(of_training, str) and of_training is not None
    assert torch.equal(value.x, of_training.x)
    monkeypatch.chdir(tmp_path)
    ask = (f"low={file}",)
    assert cli.generate(model=str(tmp_path / "out"), condition=ask, seed=1, out=tmp_path / "new") == 0
    [picture] = (tmp_path / "new").glob("*.png")
    assert cli.rerun(picture, model=str(tmp_path / "out" / "model"), condition=ask) == 0
    assert "the same, byte for byte" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"condition low: .*none.png cannot be read"):
        cli.generate(model=str(tmp_path / "out"), condition=(f"low={tmp_path / 'none.png'}",))
    with pytest.raises(UserError, match=r"condition low: .*metadata.csv: "):
        cli.generate(model=str(tmp_path / "out"), condition=(f"low={folder / 'metadata.csv'}",))


def test_a_second_picture_that_is_missing_or_damaged_is_a_fault_of_its_row(tmp_path):
    folder = paired(tmp_path / "data")
    (folder / "low" / "03.png").unlink()
    (folder / "low" / "05.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as told:
        prepare_run(settings(folder, LOW), tmp_path / "out", Quiet())
    assert "03.png: condition missing: line 5 of metadata.csv names 'low/03.png' as its 'low'" in str(told.value)
    assert "05.png: not a picture: its 'low', low/05.png: it holds text" in str(told.value)
    with pytest.raises(DataError, match=r"there is no column 'lwo' of the tables in .*\n.*choose one of low"):
        prepare_run(settings(folder, {"lwo": {"kind": "picture"}}), tmp_path / "out", Quiet())


def test_a_dry_run_counts_second_pictures(tmp_path):
    folder = paired(tmp_path / "data")
    found = dry_run(settings(folder, LOW), Quiet())
    assert found.scan.pictures == 40 and found.config.second_pictures["low"].codec.open == ()


def test_arrays_have_second_arrays_whose_range_is_saved(tmp_path):
    folder = tmp_path / "data"
    (folder / "map").mkdir(parents=True)
    rows = ["file_name,map"]
    for i in range(20):
        np.save(folder / f"{i}.npy", np.random.default_rng(i).normal(0, 1, (8, 8)).astype(np.float32))
        np.save(folder / "map" / f"{i}.npy", np.random.default_rng(i).integers(-900, 3000, (4, 4, 2)).astype(np.int16))
        rows.append(f"{i}.npy,map/{i}.npy")
    (folder / "metadata.csv").write_text("\n".join(rows))
    codec = {"kind": "arrays", "channel_axis": "last"}
    config = settings(folder, {"map": {"kind": "picture", "codec": codec}}, "sampling.steps=2", steps=2)
    train(config, tmp_path / "out")
    train(config, tmp_path / "out")  # the same command agrees with what was resolved
    model = open_unfinished(tmp_path / "out", lambda text: None)
    again = Model.load(tmp_path / "out" / "model")
    values = [m.conditioner.normalize({"map": str(folder / "map" / "1.npy")})["map"] for m in (model, again)]
    assert not any(isinstance(value, str) for value in values)
    assert torch.equal(values[0].x, values[1].x) and values[0].x.shape == (3, 4, 4)  # pyright: ignore
    assert again.conditioner([{"map": values[1]}])["planes"].shape == (1, 3, 8, 8)


# --- 16 bits for conditions that are made of x -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["smaller", "mask"])
def test_a_given_picture_of_16_bits_keeps_them(kind, tmp_path):
    folder = halves(tmp_path / "data")
    model = prepare_run(settings(folder, {"low": {"kind": kind}}, "codec.channels=1"), tmp_path / "out", Quiet()).model
    levels = (np.arange(64, dtype=np.uint16) * 4 + 30000).reshape(8, 8)
    if kind == "smaller":
        Image.fromarray(levels).save(tmp_path / "deep.png")
        x = model.conditioner.normalize({"low": str(tmp_path / "deep.png")})["low"].x[:1]  # pyright: ignore
        wanted = torch.from_numpy(levels / 32767.5 - 1)[None].float()
        torch.testing.assert_close(x, wanted, rtol=0, atol=1e-6)
    else:
        imagecodecs = pytest.importorskip("imagecodecs")
        opacity = np.where(np.arange(8) < 4, 65535, 0).astype(np.uint16)
        rgba = np.stack([levels, levels, levels, np.broadcast_to(opacity, (8, 8))], axis=2)
        (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(rgba)))
        x = model.conditioner.normalize({"low": str(tmp_path / "deep.png")})["low"].x  # pyright: ignore
        assert x[0].bool().tolist() == [[True] * 4 + [False] * 4] * 8 and not x[1, :, 4:].any()
        torch.testing.assert_close(
            x[1, :, :4], torch.from_numpy(levels / 32767.5 - 1)[:, :4].float(), rtol=0, atol=2e-5
        )


def test_a_device_given_as_a_condition_is_refused_at_once(tmp_path):
    folder = halves(tmp_path / "data")
    prepared = prepare_run(settings(folder, {"low": {"kind": "smaller"}}), tmp_path / "out", Quiet())
    with pytest.raises(UserError, match=r"condition low: /dev/zero is a pipe or a device"):
        prepared.model.conditioner.normalize({"low": "/dev/zero"})


def test_an_unfinished_run_of_arrays_draws_in_the_units_of_the_data(tmp_path):
    values = np.random.default_rng(0).normal(5000, 30, (24, 8, 8)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    model = train(settings(tmp_path / "a.npy", {}, steps=2), tmp_path / "out")
    unfinished = open_unfinished(tmp_path / "out", lambda text: None)
    assert all(torch.equal(value, unfinished.fitted[name]) for name, value in model.fitted.items()) and model.fitted
    assert 4000 < unfinished.codec.decode(torch.zeros(1, 1, 8, 8)).mean() < 6000
