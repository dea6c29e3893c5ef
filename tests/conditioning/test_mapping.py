"""Several conditions of one model: how they are given, how they are joined, and how each is dropped."""

import math

import numpy as np
import pytest
import torch

from sfumato.conditioning.conditioners import ClassConditioner, Conditioner, Conditioners
from sfumato.conditioning.values import record_of, words_of
from sfumato.errors import UserError
from sfumato.keyed import draw


class Words(Conditioner):
    """A text as tokens of ones, as many as it has letters up to 4."""

    takes = "text"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.context_dim = width

    def of(self, data, index, x_0, u):
        return f"picture {index}"

    def forward(self, values, sides=None):
        mask = torch.tensor([[i < len(str(value or "")) for i in range(4)] for value in values])
        return {"context": torch.ones(len(values), 4, self.context_dim), "context_mask": mask}


def class_of(width: int = 3) -> ClassConditioner:
    return ClassConditioner(("cat", "dog"), width)


def test_a_bare_text_stands_for_the_text_else_for_the_class():
    assert Conditioners({"kind": class_of(), "words": Words(2)}).normalize("dog") == {"words": "dog"}
    assert Conditioners({"kind": class_of()}).normalize(" DOG") == {"kind": "dog"}


def test_a_mapping_is_put_in_order_and_loses_what_is_blank():
    both = Conditioners({"words": Words(2), "kind": class_of()})
    assert list(both.parts) == ["kind", "words"]
    found = both.normalize({"words": "a cat", "kind": "Cat"})
    assert list(found.items()) == [("kind", "cat"), ("words", "a cat")]
    assert both.normalize({"words": " ", "kind": None}) == {}


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ({"word": "a"}, ["there is no condition 'word'", "did you mean 'words'", "kind (2 classes)"]),
        ({"kind": "dgo"}, ["condition kind: 'dgo'", "2 classes: cat, dog", "did you mean 'dog'"]),
        ({"words": 3}, ["condition words: 3 is not a text"]),
    ],
)
def test_a_wrong_condition_is_named_with_its_value_and_what_the_model_has(asked, parts):
    with pytest.raises(UserError) as caught:
        Conditioners({"kind": class_of(), "words": Words(2)}).normalize(asked)
    for part in parts:
        assert part in str(caught.value)


def test_vectors_and_tokens_of_all_conditions_stand_in_one_row():
    torch.manual_seed(0)
    parts = {"a": class_of(3), "b": class_of(2), "c": Words(5), "d": Words(5)}
    all_of = Conditioners(parts)
    assert (all_of.vector_dim, all_of.context_dim, all_of.planes) == (5, 5, 0)
    found = all_of([{"a": "cat", "c": "x"}, {"b": "dog", "d": "xyz"}])
    expected = torch.cat([parts["a"](["cat", None])["vector"], parts["b"]([None, "dog"])["vector"]], dim=1)
    assert torch.equal(found["vector"], expected)
    assert found["context"].shape == (2, 8, 5)
    assert found["context_mask"].int().tolist() == [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 0]]


def test_tokens_of_different_widths_are_refused_with_both():
    with pytest.raises(ValueError, match=r"differ in width: a of 4 entries, b of 6 entries"):
        Conditioners({"a": Words(4), "b": Words(6)})


def test_a_name_that_modules_use_themselves_is_a_name_like_any_other():
    both = Conditioners({"half": class_of(), "forward": class_of()})
    assert {name for name, _ in both.named_parameters()} == {"half.embedding.weight", "forward.embedding.weight"}
    assert both([{"half": "cat"}])["vector"].shape == (1, 6)


def test_each_condition_is_dropped_at_its_own_rate_and_by_itself():
    rates = {"a": 0.0, "b": 0.1, "c": 0.5}
    parts = {name: Words(2) for name in rates}
    for name, rate in rates.items():
        parts[name].dropout = rate
    all_of, n = Conditioners(parts), 4000
    nothing = torch.zeros(0)
    shown = [all_of.of(None, i, nothing, draw((1,), 0, "train", i, conditions=3).conditions) for i in range(n)]  # pyright: ignore
    dropped = {name: np.array([name not in condition for condition in shown]) for name in rates}
    for name, rate in rates.items():
        assert abs(dropped[name].mean() - rate) <= 5 * math.sqrt(rate * (1 - rate) / n)
    together = (dropped["b"] & dropped["c"]).mean()
    assert abs(together - 0.05) <= 5 * math.sqrt(0.05 * 0.95 / n)


def test_the_first_uniforms_do_not_depend_on_the_number_of_conditions():
    none, one, three = (draw((2, 3), 5, "train", 9, conditions=n) for n in (0, 1, 3))
    for other in (none, three):
        assert torch.equal(one.uniforms, other.uniforms) and torch.equal(one.noise, other.noise)
    assert none.conditions.shape == (0, 2)
    assert torch.equal(one.conditions[0], one.uniforms[2:]) and torch.equal(one.conditions[0], three.conditions[0])
    assert len(set(three.conditions.flatten().tolist())) == 6


def test_guidance_steers_away_from_the_null_of_each_condition_that_was_ever_dropped():
    parts = {"kind": class_of(), "words": Words(2), "always": Words(2)}
    parts["kind"].dropout = parts["words"].dropout = 0.1
    asked = [{"always": "x", "kind": "cat", "words": "y"}]
    assert Conditioners(parts).null(asked, {}) == [{"always": "x"}]
    assert Conditioners(parts).null(asked, {"words": "no"}) == [{"always": "x", "words": "no"}]


def test_a_condition_is_written_one_way_for_people_and_one_way_for_disk():
    assert words_of({}) == "" and words_of({"text": "a cat"}) == "a cat"
    assert words_of({"class": "cat", "text": "a cat"}) == "class: cat, text: a cat"
    assert record_of({"class": "cat", "text": "a cat"}) == {"class": "cat", "text": "a cat"}
