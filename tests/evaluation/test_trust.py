"""Copies, membership, prompts and groups in the report: from the command line, on models that do and do not copy."""

import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main as cli
from sfumato.errors import UserError
from sfumato.evaluation import trust
from sfumato.evaluation.pictures import material_for
from sfumato.features.learned import untrained
from sfumato.features.spaces import NetworkFeatures
from sfumato.material import Material
from sfumato.report import Silent

KINDS = ("big", "small", "old", "new", "good", "bad", "tall", "short", "wet", "dry", "hot", "cold")
WORDS = ("woman", "man", "person", "apple")


def pictures(folder, count, captions=(), seed=0):
    """Coloured noise; with captions, each has its own colour."""
    g = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for i in range(count):
        pixels = g.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        if captions:
            text = captions[i % len(captions)]
            pixels[:, :, WORDS.index(text.split()[-1]) % 3] //= 8
            rows.append({"file_name": f"{i}.png", "text": text})
        Image.fromarray(pixels).save(folder / f"{i}.png")
    if rows:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("sfumato.features.learned.LEAST", 256)
    monkeypatch.setattr("sfumato.features.learned.MOST", 256)
    monkeypatch.setattr("sfumato.features.spaces.installed", lambda: False)


def trained_on(model, folder, cache):
    """The model with a record that says that it was trained on the pictures of the folder."""
    model.record["manifest_sha256"] = material_for(model, str(folder), cache, Silent()).data.manifest_hash
    return model


@pytest.fixture
def drawn_of(tiny, tmp_path, quick):
    """(pictures that a model draws of the training pictures, held-out share) -> what the report starts from."""
    folder = pictures(tmp_path / "pictures", 240)
    model = trained_on(tiny(data={"path": "pictures", "size": 16, "validation": 0.3}), folder, tmp_path / "cache")
    material = material_for(model, str(folder), tmp_path / "cache", Silent())
    network = untrained(material.data, model.codec, material.seen)

    def build(draws):
        seen, data = material.seen, material.data
        return trust.Drawn(
            model=model,
            material=material,
            settings=model.sampling(),
            reference=seen[:60],
            control=material.unseen[:60],
            asked=seen[60:120],
            conditions=[{}] * 60,
            rows=draws(data.rows[seen]),
            spaces=[NetworkFeatures("random convolutions", network, model.codec.encode)],
            out=tmp_path,
            kept=tmp_path / "features",
            basis={},
            seed=0,
            report=Silent(),
        )

    return build


def rows(part):
    return {row.key: row.drawn for row in part.rows}


def test_a_model_that_copies_is_found_in_every_space_and_an_honest_one_in_none(drawn_of):
    def copies(seen):
        return np.clip(
            seen[:60].astype(int) + np.random.default_rng(1).integers(-3, 4, (60, 16, 16, 3)), 0, 255
        ).astype(np.uint8)

    def fresh(seen):
        return np.random.default_rng(2).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)

    for part in trust.memorization_parts(drawn_of(copies)):
        assert rows(part)["near-copies"].mean > 0.95 and rows(part)["near-copies-p"].mean < 1e-6
        assert part.figures and part.figures[0].data.startswith(b"\x89PNG")
    found = trust.memorization_parts(drawn_of(fresh))
    assert [part.key for part in found] == ["memorization-pixels", "memorization-random-convolutions"]
    for part in found:
        assert rows(part)["near-copies"].mean < 0.1 and rows(part)["near-copies-p"].mean > 0.01
        share = rows(part)["share"]
        assert share.low is not None and share.high is not None and share.low < 0.5 < share.high


def test_copies_are_only_looked_for_in_the_data_of_the_training(drawn_of):
    drawn = drawn_of(lambda seen: seen[:60])
    other = Material(drawn.material.data, np.arange(0), np.arange(240))
    with pytest.raises(UserError, match="not the data that the model was trained on"):
        trust.memorization_parts(cast(Any, SimpleNamespace(material=other)))


def test_one_command_measures_copies_membership_prompts_and_groups(tiny, tmp_path, capsys, quick, monkeypatch):
    monkeypatch.setattr(trust, "EACH", 12)
    captions = [f"the {kind} {word}" for word in WORDS for kind in KINDS]
    folder = pictures(tmp_path / "pictures", 480, captions)
    model = tiny("sentence", data={"path": "pictures", "size": 16, "validation": 0.3})
    trained_on(model, folder, tmp_path / "cache").save(tmp_path / "model")
    command = ["evaluate", str(tmp_path / "model"), str(folder), "--n", "60", "--out", str(tmp_path / "out")]
    metrics = [word for name in ("memorization", "membership", "alignment", "bias") for word in ("--metrics", name)]
    assert cli.main([*command, *metrics, "--template", "the good", "--template", "old"]) == 0
    told = capsys.readouterr().out

    parts = json.loads((tmp_path / "out" / "report.json").read_text())["parts"]
    assert {"memorization-pixels", "membership", "alignment", "bias-gender-word"} < parts.keys()
    assert "skin tone: no caption of the data names a value" in told
    page = (tmp_path / "out" / "index.html").read_text()
    assert ("Membership test of one query" in page and "copies-0.png" in page) or "nearest to a training" in page

    auc = parts["membership"]["rows"]["auc"]["drawn"]  # the weights are random: nothing is remembered
    assert auc["low"] < 0.5 < auc["high"]
    shares = {k: v for k, v in parts["bias-gender-word"]["rows"].items() if k.startswith("share:")}
    assert shares.keys() == {"share:woman", "share:man", "share:person", "share:none"}
    for side in ("drawn", "real"):
        assert sum(row[side]["mean"] for row in shares.values()) == pytest.approx(1)
    assert all(abs(row["real"]["mean"] - 0.25) < 0.01 for row in shares.values())
    recall = parts["alignment"]["rows"]["recall-1"]
    assert 0 <= recall["drawn"]["mean"] <= 1
    assert parts["alignment"]["rows"]["gap"]["real"]["mean"] > 0  # the colour tells the word of real pictures


def test_what_cannot_be_measured_is_told_or_refused_when_asked_for_by_name(tiny, tmp_path, capsys, quick, monkeypatch):
    folder = pictures(tmp_path / "pictures", 60)
    tiny().save(tmp_path / "model")
    command = ["evaluate", str(tmp_path / "model"), str(folder), "--n", "20"]
    assert cli.main([*command, "--out", str(tmp_path / "all")]) == 0
    told = capsys.readouterr().out
    for reason in ("memorization: these are not the data", "membership: these are not", "the model has no prompts"):
        assert f"left out: {reason}" in told or f"left out: alignment: {reason}" in told
    assert cli.main([*command, "--metrics", "membership", "--out", str(tmp_path / "one")]) == 2
    assert "not the data that the model was trained on" in capsys.readouterr().err


def test_labels_that_a_model_drops_raise_the_alarm(drawn_of):
    drawn = drawn_of(lambda seen: seen[:60])
    labels = torch.arange(240) % 4
    classes = ("a", "b", "c", "d")

    class Own:
        """A classifier that is right about real pictures, and says of drawn ones what it is told to."""

        sha256 = "0" * 64

        def __init__(self, said):
            self.classes, self.said = classes, said

        def classify(self, x):
            is_drawn = x is drawn.rows
            return torch.nn.functional.one_hot(self.said if is_drawn else labels[drawn.control], 4).float()

    object.__setattr__(drawn.material.data, "labels", labels.tolist())
    even = trust._labels(drawn, cast(Any, Own(labels[drawn.asked])), 0.1)
    dropped = trust._labels(drawn, cast(Any, Own(labels[drawn.asked].clamp(max=1))), 0.1)
    assert rows(even)["alarm"].mean == 0 and rows(even)["tv"].mean < 0.05
    assert rows(dropped)["alarm"].mean == 1 and rows(dropped)["tv"].mean > 0.3
    assert rows(dropped)["share:d"].mean < 0.05
