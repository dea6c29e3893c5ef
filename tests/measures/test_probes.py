"""Attributes are read from words, from colours and by a probe whose errors are known and corrected."""

import numpy as np
import pytest
import torch

from sfumato.codecs.pixels import Pixels
from sfumato.data.emoji import COLOURS
from sfumato.errors import ConfigError, UserError
from sfumato.measures.probes import (
    GENDER,
    SKIN_TONE,
    Attribute,
    ColourHistogram,
    apart,
    colours,
    condition,
    confusion,
    correct,
    on_simplex,
    read_attributes,
    train_probe,
)
from sfumato.report import Silent

KINDS = ("round", "square", "none")


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (["woman running", "sport, man"], "woman"),
        (["runner", "fast, Men, sport"], "man"),
        (["a human-woman hybrid"], "none"),
        (["womanly"], "none"),
        ([], "none"),
    ],
)
def test_the_first_caption_that_names_a_value_decides_by_whole_words(texts, value):
    assert GENDER.values[GENDER.read(texts)] == value


def test_a_text_that_names_two_values_names_none_of_them_alone():
    assert GENDER.labels([["kiss of woman and man", "woman"], ["woman"]]).tolist() == [-1, 0]


def test_a_tone_is_not_found_inside_another():
    tones = [f"waving hand of {tone} skin tone" for tone in SKIN_TONE.words]
    assert SKIN_TONE.labels([[text] for text in tones]).tolist() == list(range(5))


def test_attributes_of_a_file_are_read_and_mistakes_in_it_are_named():
    found = read_attributes("season:\n  winter: [Snow, ice cream]\n  summer: sun\n", "own.yaml")
    assert found == (Attribute("season", {"winter": ["snow", "ice cream"], "summer": ["sun"]}),)
    assert found[0].without("an ice cream in the sun").split() == ["an", "in", "the"]

    for text, words in (
        ("[a, b]", "holds no attributes"),
        ("season: winter", "season: 'winter' holds no values"),
        ("season:\n  winter: [1]", "season: winter: [1] is no list of words"),
        ("season:\n  none: [a]", "'none'"),
    ):
        with pytest.raises(ConfigError) as error:
            read_attributes(text, "own.yaml")
        assert "own.yaml" in error.value.message and words in error.value.message


def test_a_colour_histogram_holds_the_shares_of_colours_wherever_they_are():
    picture = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    picture[0, :1] = (255, 0, 0)
    space = ColourHistogram(Pixels(16))
    found = space(picture)
    assert found.square()[0, [0, 7 * 64]].tolist() == [0.75, 0.25] and found.square().sum() == 1
    assert torch.equal(space(picture[:, ::-1]), found)
    grey = np.full((1, 4, 4, 1), 200, dtype=np.uint8)
    assert torch.equal(space(grey), space(np.repeat(grey, 3, axis=3)))


def test_the_colour_of_a_picture_is_that_of_most_of_it_without_the_ground():
    pictures = np.full((3, 32, 32, 3), 255, dtype=np.uint8)
    pictures[0, :12, :12] = (200, 20, 20)
    pictures[0, 20:24, :12] = (20, 20, 220)
    pictures[1, :12, :12] = (20, 160, 40)
    assert [(*COLOURS, "none")[i] for i in colours(pictures, Silent())] == ["red", "green", "none"]


def clusters(n, spread, seed=0, sizes=(6, 3, 1)):
    """Points (n, 8) about three centres, the values of very unequal frequency."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor(sizes, dtype=torch.float64), n, True, generator=g)
    centres = 3 * torch.eye(3, 8)
    return centres[labels] + spread * torch.randn(n, 8, generator=g), labels


def test_a_probe_reads_what_is_there_and_its_errors_are_those_on_new_pictures():
    x, y = clusters(1200, spread=1.5)
    held_out = torch.arange(1200) % 3 == 0
    probe = train_probe(KINDS, x, y, held_out, Silent())
    assert int(probe.confusion.sum()) == 400

    new, true = clusters(20000, spread=1.5, seed=1)
    right = (probe(new) == true).double()
    for value, told in enumerate(probe.accuracy):
        assert told.low is not None and told.high is not None
        assert told.low < right[true == value].mean() < told.high

    again = train_probe(KINDS, x, y, held_out, Silent())
    assert torch.equal(again.weight, probe.weight)


def test_rare_values_weigh_as_much_as_frequent_ones():
    x, y = clusters(3000, spread=2.0, sizes=(90, 9, 2))
    probe = train_probe(KINDS, x, y, torch.arange(3000) % 2 == 0, Silent())
    right = [told.mean for told in probe.accuracy]
    assert min(right) > 0.5 and max(right) - min(right) < 0.25


def test_a_feature_that_never_varied_in_training_does_not_decide():
    x, y = clusters(600, spread=1.0)
    x = torch.cat([x, torch.zeros(600, 1)], 1)
    probe = train_probe(KINDS, x, y, torch.arange(600) % 3 == 0, Silent())
    moved = x.clone()
    moved[:, -1] = 5.0
    assert torch.equal(probe(moved), probe(x))


def test_pictures_of_several_values_have_no_part_and_a_value_without_pictures_is_an_error():
    x, y = clusters(600, spread=1.0)
    held_out = torch.arange(600) % 3 == 0
    some = torch.where(torch.arange(600) % 10 == 0, -1, y)
    without = some >= 0
    one = train_probe(KINDS, x, some, held_out, Silent())
    other = train_probe(KINDS, x[without], y[without], held_out[without], Silent())
    assert torch.equal(one.weight, other.weight) and torch.equal(one.confusion, other.confusion)

    with pytest.raises(UserError, match="'none' has 0 pictures"):
        train_probe(KINDS, x, torch.where(y == 2, -1, y), held_out, Silent())


def test_no_group_is_on_both_sides_and_new_ones_move_none():
    groups = [f"thing {i // 3}" for i in range(3000)]
    held_out = apart(groups, 0.2)
    assert torch.equal(held_out.view(-1, 3).any(1), held_out.view(-1, 3).all(1))
    assert 0.15 < held_out.double().mean() < 0.25
    assert torch.equal(apart([*groups, "new"], 0.2)[:-1], held_out)


def test_the_correction_finds_the_true_shares_behind_a_noisy_probe():
    x, y = clusters(6000, spread=2.5, sizes=(1, 1, 1))
    probe = train_probe(KINDS, x, y, torch.arange(6000) % 2 == 0, Silent())
    new, true = clusters(20000, spread=2.5, seed=1, sizes=(7, 2, 1))
    said = torch.bincount(probe(new), minlength=3) / 20000
    truth = torch.bincount(true, minlength=3) / 20000

    assert (said - truth).abs().max() > 0.05
    assert (on_simplex(correct(said, probe.confusion)) - truth).abs().max() < 0.03


def test_for_two_values_the_correction_is_rogan_and_gladens():
    found = correct(torch.tensor([0.4, 0.6]), torch.tensor([[80, 20], [10, 90]]))
    torch.testing.assert_close(found[0].item(), (0.4 + 0.9 - 1) / (0.8 + 0.9 - 1))
    impossible = correct(torch.tensor([0.05, 0.95]), torch.tensor([[80, 20], [10, 90]]))
    assert impossible[0] < 0 and on_simplex(impossible).tolist() == [0, 1]


def test_the_nearest_point_of_the_simplex_is_nearer_than_any_other():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=g, dtype=torch.float64)
    found = on_simplex(x)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(50, dtype=torch.float64))
    others = torch.rand(2000, 1, 4, generator=g, dtype=torch.float64).log()
    others = others / others.sum(2, keepdim=True)
    assert ((others - x).norm(dim=2) >= (found - x).norm(dim=1) - 1e-12).all()
    torch.testing.assert_close(on_simplex(others), others)


def test_a_probe_that_guesses_is_ill_conditioned():
    assert condition(torch.tensor([[50, 50], [50, 50]])) > 1e6
    assert condition(torch.tensor([[97, 3], [2, 98]])) < 1.2
    # the value named by the prompt tells how a probe reads drawn pictures; prompts that name several have no part
    found = confusion(torch.tensor([0, 0, 1, -1]), torch.tensor([0, 1, 1, 0]), 2)
    assert found.tolist() == [[1, 1], [0, 1]]
