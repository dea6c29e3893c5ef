"""Files of older versions are read under today's names."""

import pytest
import torch

from sfumato import saved
from sfumato.config import ConfigError, load_recipe, validate
from sfumato.lift import lifted, lifted_weights
from sfumato.model import Model

PLAIN = {"name": "a", "data": {"path": "pictures"}}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"kind": "none"}, {}),
        ({"kind": "auto"}, {"auto": {"kind": "auto"}}),
        ({"kind": "class", "width": 64}, {"class": {"kind": "class", "width": 64}}),
        ({"kind": "text", "depth": 2}, {"text": {"kind": "text", "depth": 2}}),
        ({"kind": "sentence"}, {"text": {"kind": "sentence"}}),
    ],
)
def test_the_one_condition_of_old_settings_becomes_a_mapping(old, new):
    assert lifted({**PLAIN, "condition": old}) == {**PLAIN, "conditions": new}
    assert validate({**PLAIN, "condition": old}, "old") == validate({**PLAIN, "conditions": new}, "new")


def test_settings_of_today_stay_as_they_are():
    settings = load_recipe("emoji").model_dump(mode="json")
    assert lifted(settings) == settings


@pytest.mark.parametrize(
    ("change", "conditions"),
    [
        ("condition.width=64", {"text": ("sentence", 64)}),
        ("condition.kind=class", {"class": ("class", 256)}),
        ("condition.kind=sentence", {"text": ("sentence", 512)}),
        ("condition.kind=none", {}),
        ("conditions.text.width=64", {"text": ("sentence", 64)}),
        ("conditions.class.kind=class", {"text": ("sentence", 512), "class": ("class", 256)}),
        ("conditions={}", {}),
    ],
)
def test_old_and_new_words_of_the_command_line_change_a_recipe(change, conditions):
    found = load_recipe("emoji", [change]).conditions
    assert {name: (c.kind, getattr(c, "width", 0)) for name, c in found.items()} == conditions


def test_old_words_come_before_new_ones_in_whatever_order_they_are_given():
    changes = ["conditions.low.kind=smaller", "condition.kind=class"]
    assert load_recipe("emoji", changes).conditions.keys() == {"class", "low"}


def test_an_old_word_that_could_stand_for_two_conditions_is_refused():
    with pytest.raises(ConfigError, match=r"condition\.width: there is no single condition \(there are: text, class\)"):
        validate({**PLAIN, "condition": {"width": 64}, "conditions": {"text": {}, "class": {}}}, "old")


@pytest.mark.parametrize("kind", ["class", "text", "sentence"])
def test_a_model_folder_of_before_the_mapping_draws_the_same_bytes(kind, tiny, settings_of, tmp_path):
    model = tiny(kind)
    [name] = model.conditioner.parts
    before = model.generate("cat", seed=3)[0].tobytes()

    weights = {own.replace(f"conditioner.{name}.", "conditioner."): p for own, p in model.parameters().items()}
    assert weights.keys() != model.parameters().keys()
    description = {"config": settings_of(kind), "classes": list(model.classes), "record": {}}
    assert "condition" in description["config"]
    files = {saved.WEIGHTS: saved_tensors(weights), **model.conditioner.files()}
    saved.write(tmp_path / "old", description, files)

    assert Model.load(tmp_path / "old").generate("cat", seed=3)[0].tobytes() == before


def saved_tensors(weights: dict[str, torch.nn.Parameter]) -> bytes:
    from safetensors.torch import save

    return save({name: p.detach().contiguous() for name, p in weights.items()})


def test_what_an_optimizer_keeps_is_found_again_under_the_new_name():
    names = {"network.in.weight", "conditioner.class.embedding.weight"}
    old = {"adamw/conditioner.embedding.weight/exp_avg": 1, "muon/network.in.weight/momentum_buffer": 2}
    new = {"adamw/conditioner.class.embedding.weight/exp_avg": 1, "muon/network.in.weight/momentum_buffer": 2}
    assert lifted_weights(old, names) == new == lifted_weights(new, names)


WHOLE = {"weight": "edm", "chain": 1000, "vlb_share": 0.001, "time_mean": -0.2, "time_std": 1.4}


@pytest.mark.parametrize(
    ("objective", "lifted_objective", "times"),
    [
        (
            {"kind": "simple", **WHOLE, "time_law": "logit_normal"},
            {"kind": "simple", "weight": "edm"},
            {"kind": "logit_normal", "mean": -0.2, "std": 1.4},
        ),
        ({"kind": "vlb", **WHOLE, "time_law": "uniform"}, {"kind": "vlb", "chain": 1000}, {"kind": "uniform"}),
        (
            {"kind": "hybrid", **WHOLE, "time_law": "log_normal"},
            {"kind": "hybrid", "weight": "edm", "chain": 1000, "vlb_share": 0.001},
            {"kind": "log_normal", "mean": -0.2, "std": 1.4},
        ),
        ({"weight": "v", "time_law": "uniform"}, {"kind": "simple", "weight": "v"}, {"kind": "uniform"}),
    ],
)
def test_the_law_of_the_times_moves_out_of_the_objective(objective, lifted_objective, times):
    found = lifted({"objective": objective})
    assert (found["objective"], found["times"]) == (lifted_objective, times)


def test_an_old_word_on_the_command_line_changes_the_times_of_a_recipe():
    def of(*changes: str) -> dict:
        return load_recipe("folder", changes).times.model_dump()

    assert of("objective.time_mean=0.5") == {"kind": "logit_normal", "mean": 0.5, "std": 1.4}
    assert of("objective.time_law=uniform") == {"kind": "uniform"}
    assert of("times.kind=log_normal", "times.mean=-1.2") == {"kind": "log_normal", "mean": -1.2, "std": 1.0}
    with pytest.raises(ConfigError, match=r"times\.mean is a setting of another times\.kind"):
        of("times.kind=uniform", "times.mean=1")
    with pytest.raises(ConfigError, match=r"objective\.chain is a setting of another objective\.kind"):
        of("objective.chain=10")
