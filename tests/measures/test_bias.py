"""Bias is found where it was planted, with its size in the interval, and nowhere else."""

import pytest
import torch

from sfumato.measures import bias as module
from sfumato.measures.bias import Counts, amplification, compare, drift, monitor, multinomial, permuted, truth
from sfumato.measures.probes import GENDER, Attribute
from sfumato.report import Silent

VALUES = ("woman", "man", "none")
LAW = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
OTHER = torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64)  # total variation 0.3
NOISY = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(module, "DRAWS", 100)


def counts(law, n, g, templates=1):
    """(templates, V) of n pictures a template."""
    drawn = torch.multinomial(law.expand(templates, -1), n, True, generator=g)
    return torch.nn.functional.one_hot(drawn, len(law)).sum(1)


def confusions(g, n=60):
    return torch.cat([counts(row, n, g) for row in NOISY])


def inside(found, value):
    return found.low - 1e-9 <= value <= found.high + 1e-9


def test_of_one_law_about_one_in_twenty_has_a_small_p_value_and_none_gives_an_alarm():
    g = torch.Generator().manual_seed(0)
    found = [compare(VALUES, Counts(counts(LAW, 400, g)), Counts(counts(LAW, 60, g)), i) for i in range(200)]
    assert 3 <= sum(one.p_value <= 0.05 for one in found) <= 19  # 10 expected
    assert sum(one.alarm for one in found) <= 2
    assert sum(inside(one.distance, 0) for one in found) >= 178

    # what chance alone makes of one law is what is told
    mean = sum(one.distance.mean for one in found) / 200
    told = sum(one.by_chance for one in found) / 200
    assert mean > 0.04 and abs(mean - told) < 0.006


def test_a_planted_bias_is_found_and_its_size_is_in_the_interval():
    g = torch.Generator().manual_seed(1)
    found = [compare(VALUES, Counts(counts(LAW, 1000, g)), Counts(counts(OTHER, 200, g)), i) for i in range(30)]
    assert all(one.alarm for one in found)
    assert sum(inside(one.distance, 0.3) for one in found) >= 27
    for value, share in enumerate(OTHER.tolist()):
        assert sum(inside(one.after[value], share) for one in found) >= 25


def test_intervals_hold_for_many_templates_of_few_pictures():
    g = torch.Generator().manual_seed(6)
    rare = torch.tensor([0.9, 0.08, 0.02], dtype=torch.float64)
    found = [compare(VALUES, Counts(counts(rare, 4, g, 30)), Counts(counts(rare, 4, g, 30)), i) for i in range(40)]
    assert sum(inside(one.distance, 0) for one in found) >= 34
    for value, share in enumerate(rare.tolist()):
        assert sum(inside(one.after[value], share) for one in found) >= 34


def test_a_noisy_probe_neither_hides_a_bias_nor_makes_one():
    g = torch.Generator().manual_seed(2)
    for law, size in ((LAW, 0.0), (OTHER, 0.3)):
        found = []
        for i in range(30):
            read = Counts(counts(law @ NOISY, 300, g), confusions(g))
            found.append(compare(VALUES, Counts(counts(LAW, 1000, g)), read, i))
        assert sum(inside(one.distance, size) for one in found) >= 26
        for value, share in enumerate(law.tolist()):
            assert sum(inside(one.after[value], share) for one in found) >= 25
        alarms, small = sum(one.alarm for one in found), sum(one.p_value <= 0.05 for one in found)
        assert (alarms >= 22 and small >= 28) if size else (alarms == 0 and small <= 5)

    # without the correction the probe's errors alone would look like a difference
    raw = compare(VALUES, Counts(counts(LAW, 5000, g)), Counts(counts(LAW @ NOISY, 5000, g)), 0)
    assert raw.p_value <= 0.05


def test_templates_weigh_the_same_however_many_pictures_each_has():
    before = Counts(torch.tensor([[90, 10, 0], [10, 0, 0]]))
    after = Counts(torch.tensor([[10, 0, 0], [0, 10, 0]]))
    found = compare(VALUES, before, after, 0)
    assert [round(one.mean, 9) for one in found.before] == [0.95, 0.05, 0]
    assert [one.mean for one in found.after] == [0.5, 0.5, 0]
    assert abs(found.distance.mean - 0.45) < 1e-9


def test_amplification_is_zhaos_by_hand():
    # template 1: woman .6 > 1/3 grows by .2; template 2: man .5 and none .4 prevail, and change by -.1 and .1
    before = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.5, 0.4]])
    after = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.4, 0.5]])
    assert abs(amplification(before, after).item() - (0.2 + 0.0) / 2) < 1e-6

    even = torch.tensor([[0.4, 0.3, 0.3], [0.1, 0.6, 0.3]])
    assert amplification(before, even).item() < 0  # .6 falls to .4
    assert amplification(before, before).item() == 0


@pytest.mark.parametrize(("law", "size"), [((0.8, 0.1, 0.1), 0.2), ((0.4, 0.3, 0.3), -0.2), ((0.6, 0.2, 0.2), 0.0)])
def test_amplification_has_its_sign_and_its_size_in_the_interval(law, size):
    g = torch.Generator().manual_seed(3)
    before = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64)
    hits = 0
    for i in range(25):
        found = compare(
            VALUES, Counts(counts(before, 500, g, 3)), Counts(counts(torch.tensor(law).double(), 100, g, 3)), i
        )
        hits += inside(found.amplification, size)
        assert found.amplification.low is not None and found.amplification.high is not None
        if size:
            assert found.amplification.low * size > 0 and found.amplification.high * size > 0
    assert hits >= 21


def test_a_model_has_not_drifted_from_itself_and_has_from_another():
    g = torch.Generator().manual_seed(4)
    prompts = [f"thing {i % 4}" for i in range(240)]
    said = torch.multinomial(LAW @ NOISY, 240, True, generator=g)
    other = torch.multinomial(OTHER @ NOISY, 240, True, generator=g)
    for confusion in (None, confusions(g)):
        same = drift(VALUES, prompts, said, said, confusion, 0)
        assert same.distance.mean == 0 and same.p_value == 1 and not same.alarm and same.amplification.mean == 0
        changed = drift(VALUES, prompts, said, other, confusion, 0)
        assert changed.alarm and changed.pictures == (240, 240)
        assert changed == drift(VALUES, prompts, said, other, confusion, 0)
    assert inside(changed.distance, 0.3)


def test_drift_read_by_one_probe_is_flagged_by_chance_one_time_in_twenty():
    g = torch.Generator().manual_seed(5)
    prompts, few = ["a thing"] * 80, 0
    for i in range(120):
        pair = torch.multinomial((LAW @ NOISY).expand(2, -1), 80, True, generator=g)
        few += drift(VALUES, prompts, pair[0], pair[1], confusions(g), i).p_value <= 0.05
    assert 1 <= few <= 14


def test_permuted_counts_have_the_moments_of_the_hypergeometric_law(monkeypatch):
    monkeypatch.setattr(module, "DRAWS", 4000)
    a, b = torch.tensor([30, 10, 0]), torch.tensor([20, 30, 60])
    mine, rest = permuted(a, b, torch.Generator().manual_seed(0))
    assert (mine.sum(1) == 40).all() and torch.equal(mine + rest, (a + b).expand(4000, 3))
    share = (a + b) / 150
    spread = 40 * share * (1 - share) * (150 - 40) / (150 - 1)
    assert ((mine.double().mean(0) - 40 * share).abs() < 4 * (spread / 4000).sqrt()).all()
    assert ((mine.double().var(0) / spread - 1).abs() < 0.12).all()


def test_drawn_counts_have_the_moments_of_the_multinomial_law(monkeypatch):
    monkeypatch.setattr(module, "DRAWS", 4000)
    law, size = torch.stack([LAW, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)]), torch.tensor([[50], [7]])
    found = multinomial(law, size, torch.Generator().manual_seed(0))
    assert (found.sum(-1) == torch.tensor([50, 7])).all() and (found[:, 1] == torch.tensor([0, 7, 0])).all()
    covariance = 50 * (torch.diag(LAW) - LAW[:, None] * LAW)
    assert (found[:, 0].T.cov() - covariance).abs().max() < 1
    assert (found[:, 0].mean(0) - 50 * LAW).abs().max() < 4 * (12.5 / 4000) ** 0.5


def test_shares_known_by_words_are_left_alone():
    assert torch.equal(truth(LAW[None], None), LAW[None])
    torch.testing.assert_close(truth((LAW @ NOISY)[None], NOISY), LAW[None])


# --- templates -------------------------------------------------------------------------------------------------------

CAPTIONS = (
    [["woman doctor", "health, doctor"]] * 30
    + [["man doctor"]] * 30
    + [["man running, sport"]] * 30
    + [["red apple", "food"]] * 100
)


def drawn(women_of_doctors):
    """Prompts and what each of 100 pictures a template shows."""
    prompts = ["a doctor"] * 100 + ["a person running"] * 100 + ["a zebra"] * 100 + ["a person"] * 100
    shows = [0] * women_of_doctors + [1] * (100 - women_of_doctors) + [1] * 100 + [3] * 100 + [0] * 33 + [1] * 67
    return prompts, torch.tensor(shows)


def test_a_template_is_compared_with_the_pictures_that_are_about_it():
    found = monitor(GENDER, CAPTIONS, *drawn(50), None, 0, Silent())
    assert set(found.templates) == {"a doctor", "a person running", "a person"}
    assert found.without_data == ("a zebra",)
    assert found.templates["a doctor"].pictures == (60, 100)
    assert found.templates["a person running"].pictures == (30, 100)
    assert found.templates["a person"].pictures == (90, 100)  # all that show anyone
    assert found.overall is not None and found.overall.distance.mean < 0.01
    assert not any(one.alarm for one in (found.overall, *found.templates.values()))


def test_one_biased_template_is_named():
    found = monitor(GENDER, CAPTIONS, *drawn(5), None, 0, Silent(), threshold=0.1)
    assert [name for name, one in found.templates.items() if one.alarm] == ["a doctor"]
    told = found.templates["a doctor"].sentence()
    assert told.startswith("differs: ") and "50 % [" in told and "(60 pictures)" in told and "(100 pictures)" in told
    assert not monitor(GENDER, CAPTIONS, *drawn(5), None, 0, Silent(), threshold=0.9).templates["a doctor"].alarm


def test_a_probe_that_guesses_is_told():
    guessing = torch.tensor([[26, 25, 25], [25, 26, 25], [25, 25, 26]])
    known = Counts(torch.tensor([[50, 30, 20]]))
    found = compare(VALUES, known, Counts(torch.tensor([[40, 30, 30]]), guessing), 0)
    assert not found.alarm and "too badly" in found.sentence()
    assert "too badly" not in compare(VALUES, known, known, 0).sentence()


def test_what_no_picture_shows_is_compared_with_nothing():
    nothing = monitor(
        Attribute("hat", {"hat": ["hat"]}), CAPTIONS, ["a zebra"] * 3, torch.tensor([1, 1, 1]), None, 0, Silent()
    )
    assert nothing.overall is None and not nothing.templates
    with pytest.raises(ValueError, match="needs a picture"):
        Counts(torch.tensor([[3, 1], [0, 0]]))
