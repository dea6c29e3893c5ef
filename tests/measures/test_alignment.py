"""The probe tells pictures that fit their prompts from others, and its hash depends on its weights."""

import dataclasses
import json

import pytest
import torch

from sfumato.errors import UserError
from sfumato.measures import alignment as module
from sfumato.measures.alignment import DESCRIPTION, WEIGHTS, ImageText, aligned, sentences, train
from sfumato.measures.probes import apart
from sfumato.report import Silent

SPACE = "a" * 64
COLOURS, THINGS, PLACES = ("red", "brown", "blue", "green"), ("apple", "dog", "cat", "house"), ("japan", "house", "cat")
TEXTS = [f"a {colour} {thing} of {place}" for colour in COLOURS for thing in THINGS for place in PLACES]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(module, "STEPS", 60)
    monkeypatch.setattr(module, "BATCH", 64)


@pytest.fixture(scope="module")
def world(bert):
    """Pictures of 48 texts, three each: their features hold the sentence, through a random map and noise."""
    texts = TEXTS * 3
    g = torch.Generator().manual_seed(0)
    mapping = torch.randn(384, 96, generator=g)
    features = sentences(texts, str(bert), Silent()) @ mapping + 0.3 * torch.randn(len(texts), 96, generator=g)
    return features, texts, apart(texts, 0.3)


@pytest.fixture
def probe(world, bert):
    features, texts, held_out = world
    known = [text for text, out in zip(texts, held_out.tolist(), strict=True) if not out]
    return train(features[~held_out], known, SPACE, str(bert), 0, Silent())


def new(world):
    """The held-out pictures and their texts, of which the probe has seen none."""
    features, texts, held_out = world
    return features[held_out], [text for text, out in zip(texts, held_out.tolist(), strict=True) if out]


def test_pictures_fit_their_own_prompts_better_than_others_ones(world, probe):
    features, texts = new(world)
    right = aligned(probe, features, texts, TEXTS, Silent())
    assert right.gap.low is not None and right.gap.low > 0
    assert right.recall_1.low is not None and right.recall_1.low > right.chance_1
    assert right.recall_10.low is not None and right.recall_10.low > right.chance_10
    assert (right.chance_1, right.chance_10) == (1 / 48, 10 / 48) and right.prompts == 48
    assert abs(right.cosine.mean - right.shuffled.mean - right.gap.mean) < 1e-9

    # the same pictures with the prompts of others
    turn = len(set(texts)) // 2
    wrong = dict(zip(sorted(set(texts)), sorted(set(texts))[turn:] + sorted(set(texts))[:turn], strict=True))
    shuffled = aligned(probe, features, [wrong[text] for text in texts], TEXTS, Silent())
    assert shuffled.cosine.mean < right.cosine.mean - 0.2
    assert shuffled.recall_1.mean < right.recall_1.mean / 2


def test_pictures_that_are_all_the_same_gain_nothing_by_ties(world, probe, monkeypatch):
    features, texts = new(world)
    monkeypatch.setattr(ImageText, "texts", lambda self, vectors: torch.ones(len(vectors), 1))
    monkeypatch.setattr(ImageText, "pictures", lambda self, features: torch.ones(len(features), 1))
    found = aligned(probe, features, texts, TEXTS, Silent())
    assert found.recall_1.mean == found.recall_10.mean == 0 and found.gap.mean == 0


def test_pictures_of_one_prompt_count_as_one(world, probe):
    features, texts = new(world)
    once, thrice = (aligned(probe, features.repeat(n, 1), texts * n, (), Silent()) for n in (1, 3))
    assert thrice.pictures == 3 * once.pictures
    for one, three in ((once.cosine, thrice.cosine), (once.recall_1, thrice.recall_1)):
        assert one.low is not None and three.low is not None and abs(one.low - three.low) < 1e-6


def test_the_same_pictures_make_the_same_probe_and_another_seed_another(world, bert):
    features, texts, _ = world
    first, again, other = (train(features, texts, SPACE, str(bert), seed, Silent()) for seed in (0, 0, 1))
    assert first.sha256 == again.sha256 != other.sha256


def test_the_units_of_the_features_do_not_matter(world, bert):
    features, texts, _ = world
    one = train(features, texts, SPACE, str(bert), 0, Silent()).pictures(features)
    units = torch.linspace(0.5, 2.0, features.shape[1])
    other = train(5 + features * units, texts, SPACE, str(bert), 0, Silent()).pictures(5 + features * units)
    assert (one * other).sum(1).min() > 0.999


def test_the_hash_of_a_probe_is_the_same_each_time(probe):
    assert len({probe.sha256 for _ in range(10)}) == 1


def test_the_hash_of_a_probe_changes_with_each_of_its_weights_and_with_its_space(probe):
    for name in ("picture", "shift", "text"):
        changed = getattr(probe, name).clone()
        changed.view(-1)[3] += 1e-3
        assert dataclasses.replace(probe, **{name: changed}).sha256 != probe.sha256
    assert dataclasses.replace(probe, space="b" * 64).sha256 != probe.sha256


def test_a_saved_probe_is_the_same_and_one_that_was_changed_is_refused(world, probe, tmp_path):
    features, texts = new(world)
    probe.save(tmp_path)
    again = ImageText.load(tmp_path, SPACE)
    assert again.sha256 == probe.sha256
    assert aligned(again, features, texts, (), Silent()) == aligned(probe, features, texts, (), Silent())

    with pytest.raises(UserError, match="features of space"):
        ImageText.load(tmp_path, "c" * 64)
    with pytest.raises(UserError, match="no alignment probe"):
        ImageText.load(tmp_path / "nowhere", SPACE)

    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(UserError, match="SHA-256"):
        ImageText.load(tmp_path, SPACE)


def test_a_probe_is_refused_with_another_encoder(probe, bert, tmp_path):
    probe.save(tmp_path)
    other = tmp_path / "encoder"
    other.mkdir()
    for file in bert.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "config.json").write_text(json.dumps(json.loads((bert / "config.json").read_text()) | {"changed": 1}))
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps(description | {"encoder": str(other)}))
    with pytest.raises(UserError, match="another sentence encoder"):
        ImageText.load(tmp_path, SPACE)


def test_one_prompt_alone_cannot_be_told_from_others(world, probe):
    features, texts = new(world)
    with pytest.raises(UserError, match="nothing to tell it from"):
        aligned(probe, features[:1], texts[:1], (), Silent())


def test_a_sentence_has_its_vector_in_any_company(bert):
    together = sentences(["a red apple", "the house of the brown cat"], str(bert), Silent())
    alone = sentences(["a red apple"], str(bert), Silent())
    torch.testing.assert_close(together[:1], alone)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))
