"""Settings: a run has exactly the written settings, and an impossible one is named with its range and its fix."""

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sfumato import settings_yaml
from sfumato.config import Config, change, load_recipe, recipes, validate
from sfumato.config_errors import _settings
from sfumato.errors import ConfigError, UserError
from sfumato.settings.networks import DiT, UNet
from sfumato.settings.sampling import Sampling

NAMES = ("emoji", "fashion", "folder")

# All defaults: tests of numbers stand on these, not on the recipes, which are tuned.
PLAIN = {
    "name": "plain",
    "data": {"path": "pictures"},
    "network": {"kind": "unet"},
    "conditions": {"text": {"kind": "text"}},
}


def plain(*overrides: str) -> Config:
    return validate(change(PLAIN, overrides), "plain")


def refusal(*overrides: str, recipe: str = "emoji") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, overrides)
    return caught.value


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_every_recipe_loads_and_says_what_it_costs():
    shipped = recipes()

    assert set(NAMES) <= set(shipped)
    for name, config in shipped.items():
        assert config.name == name
        for word in ("task", "hardware", "time", "score", "licence"):
            assert getattr(config.about, word), f"about.{word} of {name}"


def test_only_folder_leaves_settings_to_the_data():
    for name, config in recipes().items():
        assert bool(config.automatic) == (name == "folder")
    named = {"codec.kind", "data.depth", "data.validation", "network.channels", "conditions", "training.batch"}
    named |= {f"training.{name}" for name in ("steps", "validate_every", "sample_every", "checkpoint_every")}
    assert set(load_recipe("folder").automatic) == named


@pytest.mark.parametrize("name", NAMES)
def test_yaml_round_trip_is_the_identity(name, tmp_path):
    config = load_recipe(name)
    (tmp_path / "copy.yaml").write_text(config.to_yaml(), encoding="utf-8")

    assert load_recipe(tmp_path / "copy.yaml") == config
    assert config.to_yaml() == load_recipe(tmp_path / "copy.yaml").to_yaml()


@given(
    prompts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5),
    lr=st.floats(1e-8, 1),
)
def test_yaml_round_trip_keeps_any_text_and_number(prompts, lr):
    config = validate(
        {"name": "x", "data": {"path": "p"}, "optimizer": {"lr": lr}, "sampling": {"prompts": prompts}}, "test"
    )
    assert validate(settings_yaml.load(config.to_yaml(), "test"), "test") == config


def test_an_unknown_recipe_fails_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no recipe 'emoij': did you mean 'emoji'\?") as caught:
        load_recipe("emoij")
    assert "fashion" in caught.value.fix


# --- overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("network.channels=64", "network.channels", 64),
        ("network.multipliers=[1, 2]", "network.multipliers", (1, 2)),
        ("network.attention_level=null", "network.attention_level", None),
        ("optimizer.lr=1e-4", "optimizer.lr", 1e-4),
        ("training.steps=6e4", "training.steps", 60000),
        ("data.flip=true", "data.flip", True),
        ("data.path=a=b c", "data.path", "a=b c"),
        ("sampling.prompts=[no, 12:30, on]", "sampling.prompts", ("no", "12:30", "on")),
        ("training.ema=[0.05]", "training.ema", (0.05,)),
    ],
)
def test_set_changes_one_setting_and_no_other(override, path, value):
    before, after = plain(), plain(override)
    group, key = path.split(".")

    assert getattr(getattr(after, group), key) == value
    old, new = before.model_dump(), after.model_dump()
    del old[group][key], new[group][key]
    assert old == new


def test_a_changed_kind_starts_its_group_afresh_in_any_order():
    for overrides in (["network.kind=dit", "network.width=192"], ["network.width=192", "network.kind=dit"]):
        assert plain(*overrides).network == DiT(width=192)


def test_the_same_kind_keeps_its_group():
    config = plain("network.channels=64", "network.kind=unet", "network.blocks=3")
    assert config.network == UNet(channels=64, blocks=3)


def test_a_later_override_wins_and_the_given_settings_stay_as_they_are():
    settings = {"codec": {"size": 32}}

    assert change(settings, ["codec.size=64", "codec.size=16"]) == {"codec": {"size": 16}}
    assert settings == {"codec": {"size": 32}}


@pytest.mark.parametrize("override", ["network.channels", "=3", "network.channels 64"])
def test_an_override_without_a_value_is_refused(override):
    assert "not of the form name=value" in refusal(override).message


def test_an_override_below_a_value_is_refused():
    error = refusal("codec.size.x=3")
    assert "codec.size is no group" in error.message
    assert "codec.size" in error.fix


# --- did you mean ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("network.chanels", "network.channels"),
        ("network.Channels", "network.channels"),
        ("training.stps", "training.steps"),
        ("trainig.steps", "training.steps"),
        ("steps", "training.steps"),
        ("training.batch_size", "training.batch"),
        ("learning_rate", "optimizer.lr"),
        ("condition.encodr", "conditions.text.encoder"),
        ("conditions.text.encodr", "conditions.text.encoder"),
        ("diffusion.schedul", "diffusion.schedule"),
        ("sampling.guidence", "sampling.guidance"),
    ],
)
def test_an_unknown_key_fails_with_the_nearest_name_also_from_yaml(typed, meant, tmp_path):
    meant = meant if typed.partition(".")[0] != "trainig" else "training"
    assert refusal(f"{typed}=1").message.endswith(f"did you mean {meant}?")

    file = tmp_path / "mine.yaml"
    settings = change(load_recipe("emoji").model_dump(mode="json"), [f"{typed}=1"])
    file.write_text(settings_yaml.dump(settings))
    with pytest.raises(ConfigError, match=re.escape(str(file))) as caught:
        load_recipe(file)
    assert meant in caught.value.message


def test_every_setting_is_found_again_from_a_misspelling():
    schema = Config.model_json_schema()
    settings = [path for path, _ in _settings(schema, schema, ("unet", "sentence", "pixels", "simple", "logit_normal"))]

    assert len(settings) > 50
    for path in settings:
        error = refusal(f"{path}{path[-1] * 2}=1")
        assert error.message.endswith(f"did you mean {path}?"), path


def test_a_key_of_another_kind_is_named_as_such():
    assert "network.width is a setting of another network.kind" in refusal("network.width=64").message


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("network.kind=unett", "'unet'"),
        ("condition.kind=txt", "'text'"),
        ("conditions.text.kind=txt", "'text'"),
        ("diffusion.schedule=cosin", "'cosine'"),
        ("sampling.solver=dpm++", "'dpm++2m'"),
        ("optimizer.kind=adam", "'adamw'"),
        ("data.policy=quarantene", "'quarantine'"),
    ],
)
def test_an_unknown_word_fails_with_the_nearest(override, meant):
    error = refusal(override)
    assert f"did you mean {meant}?" in error.message
    assert meant.strip("'") in error.fix


# --- ranges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.batch=-1", ["training.batch = -1", "a whole number from 0 to 65,536"]),
        ("training.batch=many", ["training.batch = 'many'", "a whole number from 0 to 65,536"]),
        ("training.batch=1.5", ["training.batch = 1.5", "a whole number"]),
        ("optimizer.lr=-1", ["optimizer.lr = -1", "a number from 1e-08 to 1"]),
        ("optimizer.lr=.nan", ["optimizer.lr = nan", "a number from"]),
        ("optimizer.lr=.inf", ["optimizer.lr = inf", "a number from"]),
        ("training.ema=[0.05, 3]", ["training.ema[1] = 3", "a number above 0 to 0.25"]),
        ("training.ema=[]", ["training.ema = []", "a list of 1 to 8 numbers, each above 0 to 0.25"]),
        ("optimizer.betas=[0.9, 1]", ["optimizer.betas[1] = 1", "from 0 to below 1"]),
        ("data.flip=maybe", ["data.flip = 'maybe'", "true or false"]),
        ("codec.channels=2", ["codec.channels = 2", "3 or 4"]),
        ("network=3", ["network = 3", "a group of settings"]),
        ("network.attention_level=9", ["network.attention_level = 9", "from 0 to 7 or null"]),
        ("name=../../etc", ["name = '../../etc'", "letters of any script, digits, dots and dashes"]),
    ],
)
def test_a_value_out_of_range_names_field_value_range_and_fix(override, parts):
    error = refusal(override)
    for part in parts:
        assert part in error.message
    assert parts[1] in error.fix
    assert error.message.startswith(override.partition("=")[0])  # the recipe is not to blame, and the command is known


@pytest.mark.parametrize(
    ("overrides", "message", "fix"),
    [
        (["codec.size=2"], "codec.size = 2 is too small", "0 for automatic"),
        (
            ["network.channels=100"],
            "network.channels = 100 times 1 is not a multiple of groups = 32",
            "use channels = 96",
        ),
        (["network.heads=3"], "network.heads = 3 does not divide 256", "divisor of 256"),
        (["network.attention_level=5"], "multipliers name 4 levels", "use 0 to 3"),
        (["network.kind=dit", "network.width=100"], "network.width = 100 is not a multiple", "multiple of 12"),
        (["sampling.ema=2"], "sampling.ema = 2, but training.ema has 2 entries", "use 0 to 1"),
        (["sampling.guidance_interval=[0.7, 0.2]"], "guidance_interval = [0.7, 0.2] is empty", "low below high"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_with_the_fix(overrides, message, fix):
    with pytest.raises(ConfigError) as caught:
        plain(*overrides)
    assert message in caught.value.message
    assert fix in caught.value.fix


def test_all_faults_are_told_at_once():
    error = refusal("training.batch=-1", "data.flip=maybe", "network.chanels=3")
    assert error.message.startswith("3 settings are wrong\n")
    for text in (error.message, error.fix):
        assert all(word in text for word in ("training.batch", "data.flip", "network.ch"))
    assert all(line.strip() for line in error.fix.splitlines())


def test_a_fault_of_the_file_is_told_with_its_name_also_beside_changes(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\ndata: {path: p}\ntraining: {batch: -1}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: training\.batch = -1"):
        load_recipe(tmp_path / "mine.yaml", ["optimizer.lr=0.1"])


def test_a_thousand_faults_are_told_in_a_few_lines():
    with pytest.raises(ConfigError) as caught:
        validate({"name": "x", "data": {"path": "p"}, **{f"{i}\x1b[31m" + "y" * 500: 1 for i in range(1000)}}, "mine")
    assert "mine: 1,000 settings are wrong" in caught.value.message
    assert "and 990 more" in caught.value.message
    assert len(str(caught.value)) < 4000
    assert "\x1b" not in str(caught.value)


def test_a_name_like_no_other_is_told_without_a_guess():
    assert "did you mean" not in refusal("zzz.qqq=1").message
    assert "did you mean" not in refusal("network.kind=zzz").message
    with pytest.raises(ConfigError) as caught:
        load_recipe("zzz")
    assert "did you mean" not in caught.value.message
    assert "fashion" in caught.value.fix


def test_a_missing_setting_is_named():
    with pytest.raises(ConfigError, match=r"mine: data\.path is missing"):
        validate({"name": "x", "data": {}}, "mine")
    with pytest.raises(ConfigError, match=r"network\.kind is missing"):
        validate({"name": "x", "data": {"path": "p"}, "network": {"channels": 64}}, "mine")


def numbers(schema: dict, definitions: dict, path: str = ""):
    """Every schema of a number below `schema`, with its path."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if schema.get("type") in ("integer", "number") and "enum" not in schema:
        yield path, schema
    for key, below in schema.get("properties", {}).items():
        yield from numbers(below, definitions, f"{path}.{key}")
    for below in [*schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("prefixItems", [])]:
        yield from numbers(below, definitions, path)
    if schema.get("items"):
        yield from numbers(schema["items"], definitions, f"{path}[]")


def test_every_number_is_bounded_on_both_sides():
    schema = Config.model_json_schema()
    found = list(numbers(schema, schema["$defs"]))

    assert len(found) > 40
    for path, number in found:
        assert {"minimum", "exclusiveMinimum"} & number.keys(), f"{path} has no lower bound"
        assert {"maximum", "exclusiveMaximum"} & number.keys(), f"{path} has no upper bound"


# --- the object ------------------------------------------------------------------------------------------------------


def test_settings_are_frozen():
    config = load_recipe("emoji")
    with pytest.raises(ValidationError):
        config.training.steps = 3
    with pytest.raises(ValidationError):
        config.name = "other"


def test_the_fingerprint_is_that_of_the_run_and_not_of_its_description():
    config = load_recipe("emoji")

    assert config.fingerprint() == load_recipe("emoji").fingerprint()
    assert config.fingerprint() == load_recipe("emoji", ["about.time=an hour"]).fingerprint()
    assert config.fingerprint() != load_recipe("emoji", ["training.seed=1"]).fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", config.fingerprint())


def test_one_group_can_be_checked_alone():
    assert validate({"steps": 7}, "sampling", Sampling).steps == 7
    with pytest.raises(ConfigError, match=r"sampling: steps = 0 is not possible: it must be a whole number from 1"):
        validate({"steps": 0}, "sampling", Sampling)
    with pytest.raises(ConfigError, match=r"stepps is not a setting: did you mean steps\?"):
        validate({"stepps": 3}, "sampling", Sampling)


# --- YAML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "line 2: 'name' is given twice"),
        ("name: &a b\ndata: *a\n", r"aliases \(\*name\) are not allowed"),
        ("name: [1, 2\n", "mine.yaml, line 2"),
        ("name: !!python/object/apply:os.system [echo]\n", "could not determine a constructor"),
        ("just words\n", "holds no settings"),
        ("", "holds no settings"),
        ("[" * 5000, "mine.yaml"),
    ],
)
def test_bad_yaml_is_refused_with_its_place(text, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "name: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "a" * 70_000,
        "[" * 60_000,
        "{a: " * 15_000,
        "- " * 30_000,
        "? " * 30_000,
        "name: " + "9" * 60_000,
        "name: !!binary " + "A" * 60_000,
        "name: 'a\0b'",
        "".join(f"k{i}: {i}\n" for i in range(5000)),
    ],
    ids=["laughs", "long", "lists", "groups", "dashes", "keys", "digits", "binary", "zero", "many"],
)
def test_hostile_yaml_is_refused_within_seconds(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        load_recipe(tmp_path / "mine.yaml")
    assert time.process_time() - start < 3
    assert len(str(caught.value)) < 4000
    assert caught.value.fix


def test_a_recipe_that_is_no_file_is_named_as_what_it_is(tmp_path):
    with pytest.raises(UserError, match="is a folder and no file"):
        load_recipe(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        load_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1.", 1.0), (".5", 0.5), ("-3", -3), ("010", "010"), ("12:30", "12:30"), ("yes", "yes"),
     ("true", True), ("null", None), ("2020-01-01", "2020-01-01"), ("1_000", "1_000"), ("[1, a]", [1, "a"])],
)  # fmt: skip
def test_words_and_numbers_are_read_as_a_person_means_them(text, value):
    read = settings_yaml.load(text, "test")
    assert read == value
    assert type(read) is type(value)


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_what_json_writes_is_read_as_the_same_text_and_dumped_so(text):
    """Lone surrogates as well: Python writes a byte of a file name that is not UTF-8 as one."""
    meant = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    assert settings_yaml.load(json.dumps(text), "x") == meant
    dumped = settings_yaml.dump({"path": meant})
    assert settings_yaml.load(dumped.encode().decode(), "x") == {"path": meant}
