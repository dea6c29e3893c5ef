"""Conditions without text: none, and classes by name."""

import pytest
import torch

from sfumato.conditioning.conditioners import ClassConditioner, Conditioner, Conditioners
from sfumato.errors import UserError

CLASSES = ("Apple", "brown dog", "cat", "7")


@pytest.fixture
def classes() -> ClassConditioner:
    torch.manual_seed(0)
    return ClassConditioner(CLASSES, 8)


@pytest.mark.parametrize("blank", [None, "", "  ", "\n"])
def test_a_blank_condition_is_the_null_condition(classes, blank):
    for conditioner in (Conditioner(), classes):
        assert conditioner.normalize(blank) is None
    assert Conditioners({}).normalize(blank) == Conditioners({"class": classes}).normalize(blank) == {}


def test_without_conditions_there_are_no_tensors():
    assert Conditioners({})([{}, {}]) == {}


@pytest.mark.parametrize("field", ["prompt", "negative"])
def test_a_model_without_conditions_refuses_a_prompt_and_names_the_field(field):
    with pytest.raises(UserError) as caught:
        Conditioners({}).normalize("a cat", field)
    assert caught.value.message.startswith(f"{field}: 'a cat'")
    assert f"leave the {field} out" in caught.value.fix


def test_every_class_and_the_null_condition_have_a_vector_of_their_own(classes):
    vectors = classes([*CLASSES, None])["vector"]
    assert vectors.shape == (5, 8) and classes.vector_dim == 8 and classes.context_dim == 0
    assert len({tuple(vector.tolist()) for vector in vectors}) == 5
    assert torch.equal(vectors, classes.embedding.weight)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Apple", "Apple"),
        ("APPLE", "Apple"),
        ("apple", "Apple"),
        (" Brown Dog ", "brown dog"),
        ("7", "7"),
    ],
)
def test_a_class_is_named_in_any_case(classes, written, meant):
    assert classes.normalize(written) == meant


@pytest.mark.parametrize(("written", "meant"), [("0", "Apple"), ("2", "cat"), ("3", "7")])
def test_the_place_of_a_class_is_no_name_of_it(classes, written, meant):
    with pytest.raises(UserError) as caught:
        classes.normalize(written)
    assert caught.value.fix == f"did you mean {meant!r}? Classes go by name."


def test_a_folder_of_numbers_is_drawn_by_its_name():
    conditioner = ClassConditioner(("1", "5", "10"), 2)
    assert [conditioner.normalize(name) for name in ("1", "5", "10")] == ["1", "5", "10"]
    with pytest.raises(UserError, match="'2' is not one of"):
        conditioner.normalize("2")


def test_names_that_differ_only_in_case_stay_apart():
    conditioner = ClassConditioner(("a", "A"), 2)
    assert [conditioner.normalize(name) for name in ("a", "A")] == ["a", "A"]


@pytest.mark.parametrize("written", ["appel", "²", "-1", "4", "9" * 5000, "1.0", "cat dog"])
def test_an_unknown_class_is_refused_with_the_classes(classes, written):
    with pytest.raises(UserError) as caught:
        classes.normalize(written)
    assert "4 classes: Apple, brown dog, cat, 7" in caught.value.message


def test_the_nearest_class_is_told(classes):
    with pytest.raises(UserError, match="did you mean 'brown dog'"):
        classes.normalize("brwn dog")


def test_the_message_stays_short_with_a_thousand_classes():
    with pytest.raises(UserError) as caught:
        ClassConditioner([f"class {i}" for i in range(1000)], 2).normalize("none of these")
    assert "1000 classes" in caught.value.message
    assert len(caught.value.message) < 400


def test_an_abstract_conditioner_says_what_it_lacks():
    with pytest.raises(NotImplementedError, match="Conditioner must say"):
        Conditioner()([None])
