"""The model: it is built from settings, saved, read back, and draws; and it refuses impossible settings in words."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sfumato.config import Config
from sfumato.diffusion import Categorical, Clipped, Flow, Gaussian
from sfumato.drawing import SeededNoise
from sfumato.errors import ConfigError, UserError
from sfumato.generation.recipe import of_picture
from sfumato.model import Model

KINDS = ("none", "class", "text", "sentence")
PROMPTS = {"none": None, "class": "cat", "text": "a brown cat", "sentence": "a blue house"}


def pixels(pictures) -> list[bytes]:
    return [picture.tobytes() for picture in pictures]


# --- saved and read back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_read_back_draws_the_very_same_pictures(tiny, kind, tmp_path):
    model = tiny(kind)
    again = Model.load(model.save(tmp_path / "model"))
    for name, parameter in model.parameters().items():
        assert torch.equal(parameter, again.parameters()[name]), name
    assert again.config == model.config
    assert again.classes == model.classes
    drawn = [m.generate(PROMPTS[kind], n=2, seed=3) for m in (model, again)]
    assert pixels(drawn[0]) == pixels(drawn[1])


def test_a_transformer_network_is_read_back_too(tiny, tmp_path):
    dit = {"kind": "dit", "patch": 4, "width": 32, "depth": 1, "heads": 2}
    # the fixture's settings of a U-Net do not apply
    config = tiny("class").config.model_dump(mode="json") | {"network": dit}
    torch.manual_seed(0)
    model = Model.build(Config.model_validate(config), ("a", "b")).to("cpu").eval()
    again = Model.load(model.save(tmp_path / "model"))
    assert pixels(model.generate("b")) == pixels(again.generate("b"))


def test_the_folder_keeps_the_record_the_choice_of_average_and_the_attachments(tiny, tmp_path):
    model = tiny("class", training={"ema": [0.05, 0.1]}, sampling={"ema": 1, "steps": 2})
    model.record = {"steps": 7, "seed": 2**40, "validation_loss": 0.1 + 0.2, "environment": {"torch": "2"}, "é": ["ü"]}
    folder = model.save(tmp_path / "model", {"README.md": b"# card", "samples.png": b"\x89PNG"})
    again = Model.load(folder)
    assert again.record == model.record
    assert again.config.training.ema[again.config.sampling.ema] == 0.1
    assert (folder / "README.md").read_bytes() == b"# card"
    assert set(again.hashes) == {"model.json", "weights.safetensors", "README.md", "samples.png"}
    assert again.hashes == model.hashes


def test_half_precision_halves_the_file_and_is_computed_with_in_single(tiny, tmp_path):
    model = tiny("class")
    whole, half = model.save(tmp_path / "whole"), model.save(tmp_path / "half", half=True)
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in (whole, half)]
    assert 0.5 <= sizes[1] / sizes[0] < 0.56  # the header does not shrink

    stored = load_file(half / "weights.safetensors")
    again = Model.load(half)
    for name, parameter in again.parameters().items():
        assert stored[name].dtype == torch.float16 and parameter.dtype == torch.float32
        assert torch.equal(parameter, model.parameters()[name].half().float()), name
    difference = np.abs(np.asarray(again.generate("cat")[0], int) - np.asarray(model.generate("cat")[0], int))
    assert difference.mean() < 1  # of 255 levels; weights differ by one part in two thousand


def test_saving_over_a_model_leaves_no_trace_of_it(tiny, tmp_path):
    tiny("text").save(tmp_path / "model")
    tiny("class").save(tmp_path / "model")
    assert Model.load(tmp_path / "model").config.conditions.keys() == {"class"}
    assert not list((tmp_path / "model").glob(".*"))


def test_loading_leaves_the_random_numbers_of_the_caller_alone(tiny, tmp_path):
    folder = tiny("text").save(tmp_path / "model")
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    Model.load(folder)
    assert torch.equal(torch.rand(3), expected)


def test_parameters_have_one_order_and_one_first_draw(settings_of):
    def build() -> dict[str, torch.Tensor]:
        torch.manual_seed(4)
        return dict(Model.build(Config.model_validate(settings_of("text")), captions=["a cat", "a dog"]).parameters())

    one, two = build(), build()
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    parts = [name.split(".")[0] for name in one]
    assert parts == sorted(parts, reverse=True)  # the network's, then the conditioner's


def test_the_fingerprint_is_the_hash_of_the_weights_saved_or_not(tiny, tmp_path):
    model = tiny()
    unsaved = model.fingerprint
    model.save(tmp_path / "model")
    assert model.fingerprint == unsaved == Model.load(tmp_path / "model").fingerprint
    model.save(tmp_path / "half", half=True)
    assert model.fingerprint != unsaved


def test_the_description_is_plain_json_without_a_path_of_this_machine(tiny, tmp_path):
    folder = tiny().save(tmp_path / "model")
    text = (folder / "model.json").read_text("ascii")
    assert str(tmp_path) not in text
    assert json.loads(text)["format"] == 1


# --- settings that cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "part"),
    [
        ({"data": {"size": 0}}, "size"),
        ({"condition": {"kind": "auto"}}, "conditions.auto.kind: 'auto'"),
        ({"diffusion": {"schedule": "cosine", "parameterization": "epsilon"}}, "epsilon is ill-posed"),
    ],
)
def test_settings_that_do_not_go_together_are_told_in_words(settings_of, groups, part):
    settings = settings_of("none") | {"condition": {"kind": "none"}}
    for name, changes in groups.items():
        settings[name] = settings.get(name, {}) | changes
    with pytest.raises(UserError) as caught:
        Model.build(Config.model_validate(settings))
    assert part in str(caught.value)
    assert caught.value.fix


# --- drawing: bad input from A to Z ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tiny) -> dict[str, Model]:
    return {kind: tiny(kind) for kind in KINDS}


@pytest.mark.parametrize(
    ("kind", "arguments", "parts"),
    [
        ("class", {"prompts": "catt"}, ["prompt: 'catt'", "'cat'"]),
        ("class", {"prompts": ["cat", "dog house"]}, ["prompt: 'dog house'", "Apple, brown dog, cat, house"]),
        ("class", {"prompts": 3}, ["prompt: 3 is not a text"]),
        ("class", {"prompts": [2]}, ["prompt: 2 is not a text"]),
        ("class", {"prompts": "cat", "negative": "blurry"}, ["negative: 'blurry'", "Apple"]),
        ("none", {"prompts": "a cat"}, ["prompt: 'a cat'", "without captions or classes"]),
        ("none", {"negative": "a cat"}, ["negative: 'a cat'", "without captions or classes"]),
        ("none", {"guidance": 2.5}, ["guidance: 2.5 has no effect", "without captions or classes"]),
        ("text", {"prompts": []}, ["prompt: none is given"]),
        ("text", {"prompts": b"a cat"}, ["prompt: 97 is not a text"]),
        ("text", {"prompts": {"a cat"}}, ["prompt: {'a cat'} is not a text"]),
        ("text", {"prompts": "cat" * 5000}, ["prompt: 15,000 characters", "10,000"]),
        ("text", {"prompts": "caf\udce9"}, ["prompt: 'caf\\udce9' is not valid text"]),
        ("text", {"prompts": "a cat", "negative": 7}, ["negative: 7 is not a text"]),
        ("text", {"prompts": "a cat", "negative": "a dog", "guidance": 1}, ["negative: 'a dog' has no effect"]),
        ("text", {"n": 0}, ["n: 0", "1 to 10000"]),
        ("text", {"n": -3}, ["n: -3", "1 to 10000"]),
        ("text", {"n": 2.0}, ["n: 2.0 is not a whole number"]),
        ("text", {"n": True}, ["n: True is not a whole number"]),
        ("text", {"prompts": ["a", "b"], "n": 6000}, ["n: 6000", "up to 5000"]),
        ("text", {"seed": -1}, ["seed: -1", "0 to 9223372036854775807"]),
        ("text", {"seed": 2**63}, ["seed: 9223372036854775808"]),
        ("text", {"seed": 2**63 - 1, "n": 2}, ["seed: 9223372036854775807", "0 to 9223372036854775806"]),
        ("text", {"seed": "7"}, ["seed: '7' is not a whole number"]),
        ("text", {"seed": None}, ["seed: None is not a whole number"]),
        ("text", {"size": 0}, ["size: 0", "4 to 1024"]),
        ("text", {"size": -16}, ["size: -16"]),
        ("text", {"size": (16, 16, 16)}, ["size", "3 sides", "16x16"]),
        ("text", {"size": 4096}, ["size: 4096", "4 to 1024"]),
        ("text", {"size": 16.0}, ["size: 16.0 is not a whole number"]),
        ("text", {"steps": 0}, ["steps = 0", "1 to 10,000"]),
        ("text", {"steps": 10**6}, ["steps = 1000000", "1 to 10,000"]),
        ("text", {"steps": 2.5}, ["steps = 2.5", "a whole number"]),
        ("text", {"guidance": float("nan")}, ["guidance = nan", "from 0 to 100"]),
        ("text", {"guidance": float("inf")}, ["guidance = inf", "from 0 to 100"]),
        ("text", {"guidance": -1}, ["guidance = -1", "from 0 to 100"]),
        ("text", {"guidance": "strong"}, ["guidance = 'strong'", "a number"]),
        ("text", {"guidance_interval": (0.7, 0.2)}, ["guidance_interval = [0.7, 0.2] is empty"]),
        ("text", {"guidance_interval": 0.5}, ["guidance_interval = 0.5", "a list of 2 numbers"]),
        ("text", {"solver": "dmp++2m"}, ["solver = 'dmp++2m'", "'dpm++2m'"]),
        ("text", {"grid": "log_snr"}, ["grid = 'log_snr'", "'log-snr'"]),
        ("text", {"stepps": 5}, ["'stepps'", "'steps'"]),
        ("text", {"num_inference_steps": 5}, ["'num_inference_steps'", "steps"]),
        ("text", {"ema": 1}, ["'ema'"]),
    ],
)
def test_bad_input_is_refused_before_the_first_step_with_field_value_and_fix(models, kind, arguments, parts):
    steps = []
    with pytest.raises(UserError) as caught:
        models[kind].generate(on_step=steps.append, **arguments)
    assert not steps
    assert caught.value.fix
    for part in parts:
        assert part in str(caught.value)


def test_the_last_of_all_seeds_can_be_drawn(models):
    assert len(models["none"].generate(seed=2**63 - 1, steps=1)) == 1


def test_a_transformer_draws_its_own_size_only(settings_of):
    settings = settings_of("none") | {"network": {"kind": "dit", "patch": 4, "width": 16, "depth": 1, "heads": 2}}
    model = Model.build(Config.model_validate(settings)).eval()
    assert model.generate(size=16, steps=1)[0].size == (16, 16)
    with pytest.raises(UserError, match="size: this model draws 16 x 16 x 3 and not 32"):
        model.generate(size=32)


def test_a_convolutional_network_draws_other_sizes(models):
    assert [picture.size for picture in models["none"].generate(size=24, steps=1)] == [(24, 24)]


def test_a_grey_model_draws_grey_pictures(tiny):
    assert tiny("none", data={"channels": 1}).generate(steps=1)[0].mode == "L"


def test_a_picture_that_is_not_finite_is_an_error_and_not_black(tiny):
    model = tiny()
    with torch.no_grad():
        next(iter(model.parameters().values()))[:] = float("inf")
    with pytest.raises(UserError, match="not finite"):
        model.generate()


def test_a_batch_is_never_larger_than_its_lanes(models):
    model = models["none"]
    for count in (0, model.lanes + 1):
        with pytest.raises(ValueError, match=f"give 1 to {model.lanes}"):
            next(model.steps([None] * count, range(count), model.sampling()))
    with pytest.raises(ValueError, match="2 conditions and 1 seeds"):
        next(model.steps([None, None], [1], model.sampling()))


@pytest.mark.parametrize("count", [1, 4, 5, 64])
def test_batches_cover_every_picture_once(models, count):
    batches = models["none"].batches(count)
    assert [i for batch in batches for i in batch] == list(range(count))
    assert all(len(batch) <= models["none"].lanes for batch in batches)


def test_settings_that_are_not_given_are_the_models_own(models):
    model = models["text"]
    assert model.sampling(steps=None, solver=None) == model.config.sampling
    assert model.sampling(steps=9).steps == 9 and model.config.sampling.steps == 3


def test_settings_are_checked_like_those_of_a_recipe(models):
    with pytest.raises(ConfigError, match="sampling: steps = -1"):
        models["text"].sampling(steps=-1)


def test_noise_is_standard_normal_and_knows_its_seed_alone():
    x = torch.empty(3, 3, 64, 64)
    noise = SeededNoise([5, 6, 5], Gaussian(Flow()))(x)
    assert torch.equal(noise[0], noise[2]) and not torch.equal(noise[0], noise[1])
    assert torch.equal(SeededNoise([6], Gaussian(Flow()))(x[:1])[0], noise[1])
    assert abs(noise[:2].mean()) < 0.03 and abs(noise[:2].std() - 1) < 0.03  # 24,576 numbers: 4 sigma are 0.026


def test_noise_for_tokens_is_that_of_their_process_and_not_rounded_to_whole_numbers():
    noise = SeededNoise([5, 6], Categorical(Flow(), 3))(torch.zeros(2, 100, dtype=torch.int64))
    assert noise.is_floating_point() and 0 <= noise.min() < 0.1 and 0.9 < noise.max() < 1


# --- guidance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["class", "text", "sentence"])
def test_guidance_of_one_is_the_condition_itself_and_never_asks_the_null_condition(models, kind, monkeypatch):
    model, asked = models[kind], []
    forward = model.conditioner.forward
    monkeypatch.setattr(
        model.conditioner,
        "forward",
        lambda conditions, sides: asked.append(conditions) or forward(conditions, sides),
    )
    alone = model.generate(PROMPTS[kind], guidance=1)
    assert [{} in conditions for conditions in asked] == [False]

    # 1 + 1e-6 takes the way of guidance, and comes to the same picture but for rounding
    guided = model.generate(PROMPTS[kind], guidance=1 + 1e-6)
    assert any({} in conditions for conditions in asked)
    assert np.abs(np.asarray(alone[0], int) - np.asarray(guided[0], int)).max() <= 1


@pytest.mark.parametrize("kind", ["class", "text", "sentence"])
def test_the_prompt_its_strength_and_the_negative_prompt_change_the_picture(models, kind):
    model = models[kind]
    other, against = {
        "class": ("house", "Apple"),
        "text": ("flag of Japan", "a red apple"),
        "sentence": ("green cat", "flag"),
    }[kind]
    variants = [
        model.generate(PROMPTS[kind], guidance=3),
        model.generate(PROMPTS[kind], guidance=6),
        model.generate(other, guidance=3),
        model.generate(PROMPTS[kind], guidance=3, negative=against),
        model.generate(None, guidance=3),
    ]
    assert len({pixels(pictures)[0] for pictures in variants}) == len(variants)


def test_a_blank_negative_prompt_is_none(models):
    model = models["text"]
    assert pixels(model.generate("a cat", negative=" ")) == pixels(model.generate("a cat"))


def test_steering_away_from_the_prompt_itself_leaves_the_condition(models):
    model = models["text"]  # the two answers are equal, so their difference has no weight
    same = np.asarray(model.generate("a cat", negative="a cat", guidance=7)[0], int)
    assert np.abs(same - np.asarray(model.generate("a cat", guidance=1)[0], int)).max() <= 1


def test_outside_its_interval_there_is_no_guidance(models):
    model = models["class"]
    plain, full = (pixels(model.generate("cat", guidance=g)) for g in (1, 5))
    # three steps on this grid start at the times 1, 0.9 or more, and one near the data
    never = pixels(model.generate("cat", guidance=5, guidance_interval=(0.001, 0.002)))
    always = pixels(model.generate("cat", guidance=5, guidance_interval=(0, 1)))
    partly = pixels(model.generate("cat", guidance=5, guidance_interval=(0.95, 1)))
    assert never == plain
    assert always == full
    assert partly not in (plain, full)


def test_deep_features_are_kept_for_the_calls_of_one_trajectory_and_forgotten_after_it(models):
    model = models["class"]
    exact = pixels(model.generate("cat", steps=6))
    assert pixels(model.generate("cat", steps=6, reuse=1)) == exact
    near = pixels(model.generate("cat", steps=6, reuse=2))
    assert near != exact
    assert pixels(model.generate("cat", steps=6, reuse=2)) == near


def test_where_the_network_predicts_the_noise_estimates_are_clipped_unless_asked_otherwise(tiny):
    settings = tiny("class").config.model_dump(mode="json")
    for parameterization, clips in (("epsilon", True), ("v", False)):
        diffusion = {"schedule": "linear", "parameterization": parameterization, "sigma_data": 1}
        model = Model.build(Config.model_validate(settings | {"diffusion": diffusion}), ("a", "b")).to("cpu").eval()
        for clip, wanted in (("auto", clips), (False, False), (True, True)):
            asked = model.sampling(clip=clip)
            assert isinstance(model.guided(["a"], asked)[0], Clipped) == wanted, (parameterization, clip)
            assert ("clip" in of_picture(asked)) == (clip != "auto")


def test_a_transformer_has_no_deep_features_to_keep(tiny):
    dit = {"kind": "dit", "patch": 4, "width": 32, "depth": 1, "heads": 2}
    config = tiny("class").config.model_dump(mode="json") | {"network": dit}
    model = Model.build(Config.model_validate(config), ("a", "b")).to("cpu").eval()
    with pytest.raises(UserError, match="reuse: 2 needs a U-Net"):
        model.generate("b", reuse=2)


# --- strict lanes: a picture is its own ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["dpm++2m", "ddpm"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_the_same_alone_among_64_at_any_place_and_beside_any_neighbour(models, kind, solver):
    model, prompt = models[kind], PROMPTS[kind]
    own = {"guidance": 1 if kind == "none" else 4, "solver": solver, "steps": 2, "size": 8}
    alone = pixels(model.generate(prompt, seed=77, **own))[0]

    among = pixels(model.generate(prompt, n=64, seed=50, **own))
    assert among[77 - 50] == alone
    assert len(set(among)) == 64  # other seeds, other pictures

    settings = model.sampling(guidance=own["guidance"], solver=solver, steps=2)
    strangers = {"none": None, "class": "house", "text": "flag of a red house", "sentence": "green"}
    for place in range(model.lanes):
        conditions = [strangers[kind]] * model.lanes
        conditions[place] = prompt
        seeds = [1000 + 10 * place + i for i in range(model.lanes)]
        seeds[place] = 77
        *_, last = model.steps(conditions, seeds, settings, size=8)
        assert model.pictures(last.x)[place].tobytes() == alone, place


def test_the_order_of_prompts_and_their_number_change_no_picture(models):
    model = models["text"]
    prompts = ["a red apple", "a brown dog", "flag of Japan", "a cat", "the house"]
    forwards = pixels(model.generate(prompts, seed=5))
    assert pixels(model.generate(prompts[::-1], seed=5))[::-1] == forwards
    assert pixels(model.generate(prompts[3], seed=5))[0] == forwards[3]
    assert pixels(model.generate(prompts[1:3], n=2, seed=5))[::2] == forwards[1:3]


def test_a_deterministic_solver_needs_no_noise_but_the_first(models, monkeypatch):
    monkeypatch.setattr(SeededNoise, "__call__", lambda self, x: pytest.fail("noise was drawn"))
    models["none"].generate(solver="ddim")


def test_given_times_are_visited_and_other_steps_put_the_models_own_aside(tiny):
    model = tiny("none", sampling={"steps": 2, "times": [1, 0.3, 0]})
    assert [float(step.t) for step in model.steps([None], [0], model.sampling())] == [0.3, 0.0]
    assert len(list(model.steps([None], [0], model.sampling(steps=3)))) == 3
    uniform = model.sampling(times=[1, 0.75, 0.5, 0.25, 0], steps=4)
    named = model.sampling(grid="uniform", steps=4)
    ends = [[*model.steps([None], [0], settings)][-1].x for settings in (uniform, named)]
    assert torch.equal(*ends)
