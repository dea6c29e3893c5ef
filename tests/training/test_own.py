"""Parts of one's own: a data set, a network, an objective and callbacks that a program hands to ``train``."""

import io
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sfumato.config import load_recipe
from sfumato.data.faults import DataError
from sfumato.data.map_style import source_of
from sfumato.diffusion import objectives
from sfumato.errors import UserError
from sfumato.evaluation.pictures import material_for
from sfumato.generation.draw import open_model
from sfumato.model import Model, part_name
from sfumato.report import Silent
from sfumato.training.events import Event
from sfumato.training.run import train

SMALL = [
    "network.channels=8", "network.multipliers=[1,2]", "network.blocks=1", "network.attention_level=null",
    "network.groups=4", "network.patch=1", "optimizer.kind=adamw", "condition.kind=none", "data.validation=0.1",
    "training.batch=4", "training.validate_every=2", "training.sample_every=100", "training.half=false",
    "training.precision=fp32", "sampling.steps=2", "sampling.guidance=1",
]  # fmt: skip


def config(*changes: str, steps: int = 4, every: int = 2) -> Any:
    given = [*SMALL, *changes, f"training.steps={steps}", f"training.checkpoint_every={every}"]
    return load_recipe("folder", given)


class Waves:
    """Forty sine waves of 24 samples, whose class is their frequency."""

    classes = ("slow", "fast")

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> tuple[np.ndarray, dict[str, Any]]:
        t = np.linspace(0, 2 * np.pi, 24, dtype=np.float32)
        return np.sin((1 + i % 2) * t + i), {"class": i % 2, "text": f"wave {i}", "group": f"g{i // 4}"}


class Own(nn.Module):
    """A perceptron on 24 samples with a running mean, a frozen scale, and the sizes of a class where there is one."""

    def __init__(self, vector: int = 0, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.norm = nn.BatchNorm1d(channels)
        self.inside = nn.Linear(24 * channels + 1 + vector, 32)
        self.outside = nn.Linear(32, 24 * channels)
        self.scale = nn.Parameter(torch.full((1,), 0.5), requires_grad=False)

    def forward(self, x: Tensor, level: Tensor, vector: Tensor | None = None) -> Tensor:
        parts = [self.norm(x).flatten(1), level[:, None] / 1000, *([] if vector is None else [vector])]
        return self.outside(self.inside(torch.cat(parts, 1)).tanh()).unflatten(1, (self.channels, 24)) * self.scale


def mean_square(denoiser: Any, x_0: Tensor, t: Tensor, noise: Tensor, **cond: Tensor) -> Tensor:
    """The squared error of x_0, without a weight."""
    return (denoiser(denoiser.process.forward(x_0, t, noise), t, **cond) - x_0).square().flatten(1).mean(1)


def built(seed: int = 0, **sizes: int) -> Own:
    torch.manual_seed(seed)
    return Own(**sizes)


def tensors(model: Model) -> dict[str, Tensor]:
    return {**model.parameters(), **model.buffers()}


def test_own_parts_train_resume_to_the_same_bits_and_load_again(tmp_path):
    parts: dict[str, Any] = {"data": Waves(), "network": built(), "objective": mean_square}
    whole = train(config(), tmp_path / "whole", **parts)
    train(config(steps=2), tmp_path / "cut", **parts)
    resumed = train(config(), tmp_path / "cut", **parts)
    assert tensors(whole).keys() == tensors(resumed).keys()
    for name, value in tensors(whole).items():
        assert torch.equal(value, tensors(resumed)[name]), name
    assert tensors(whole)["network.norm.num_batches_tracked"].item() == 4
    assert torch.equal(tensors(whole)["network.norm.running_mean"], tensors(resumed)["network.norm.running_mean"])

    again = Model.load(tmp_path / "whole" / "model", network=Own())
    (_, x), *_ = again.drawn([None] * 2, [1, 2], again.sampling())
    (_, same), *_ = whole.drawn([None] * 2, [1, 2], whole.sampling())
    assert torch.equal(x, same) and x.shape == (2, 1, 24)
    assert (
        getattr(whole.config.network, "name", "") == "Own"
        and getattr(whole.config.objective, "name", "") == "mean_square"
    )
    assert whole.config.data.path == "own:Waves" and whole.config.times.kind == "logit_normal"


def test_a_network_that_is_handed_in_stays_as_it_is(tmp_path):
    network = built()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train(config(steps=2), tmp_path / "run", data=Waves(), network=network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_only_what_requires_gradients_enters_optimizer_averages_and_checkpoint(tmp_path):
    from safetensors import safe_open

    model = train(config(steps=2), tmp_path / "run", data=Waves(), network=built())
    folder = tmp_path / "run" / "checkpoint-00000002"
    for part in ("weights", "optimizer", "ema-0"):
        with safe_open(folder / f"{part}.safetensors", "pt") as file:
            assert not [name for name in file.keys() if "scale" in name], part  # noqa: SIM118
    assert model.parameters()["network.scale"].item() == 0.5
    with safe_open(tmp_path / "run" / "model" / "weights.safetensors", "pt") as file:
        assert file.get_tensor("network.scale").item() == 0.5

    other = built()
    nn.init.constant_(other.scale, 0.7)
    with pytest.raises(UserError, match="require no gradient are not those"):
        train(config(steps=4), tmp_path / "run", data=Waves(), network=other)


def test_a_saved_model_is_refused_without_its_network_or_with_another(tmp_path):
    class Other(Own):
        pass

    train(config(steps=2), tmp_path / "run", data=Waves(), network=built())
    folder = tmp_path / "run" / "model"
    with pytest.raises(UserError, match="its network is Own, a part of the program"):
        Model.load(folder)
    with pytest.raises(UserError, match="its network is Own, and Other was handed in"):
        Model.load(folder, network=Other())
    with pytest.raises(UserError, match="weights do not fit"):
        Model.load(folder, network=Own(vector=3))
    with pytest.raises(UserError, match="data: Waves is a part of the program"):
        train(config("data.path=own:Waves"), tmp_path / "run")
    with pytest.raises(UserError, match="objective: mean is a part of the program"):
        train(config("objective.kind=own", "objective.name=mean"), tmp_path / "other", data=Waves())
    with pytest.raises(UserError, match="is a unet, and Own was handed in"):
        Model.load(open_model("emoji").save(tmp_path / "emoji"), network=Own())


def test_a_run_with_other_parts_is_refused(tmp_path):
    class Louder(Waves):
        def __getitem__(self, i: int) -> Any:
            values, said = super().__getitem__(i)
            return 2 * values, said

    def other(*args: Any, **cond: Any) -> Tensor:
        return mean_square(*args, **cond)

    parts: dict[str, Any] = {"data": Waves(), "network": built(), "objective": mean_square}
    train(config(steps=2), tmp_path / "run", **parts)
    with pytest.raises(UserError, match=r"objective\.name was mean_square, now other"):
        train(config(steps=4), tmp_path / "run", **{**parts, "objective": other})
    with pytest.raises(UserError, match="other data"):
        train(config(steps=4), tmp_path / "run", **{**parts, "data": Louder()})


def test_an_unfinished_run_opens_with_its_network(tmp_path):
    def stop(event: Event) -> None:
        if event.name == "step" and event.step == 3:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        train(config(), tmp_path / "run", data=Waves(), network=built(), callbacks=[stop])
    model = open_model(tmp_path / "run", say=lambda text: None, network=Own())
    assert model.record["steps"] == 3, "what a callback raises ends the run after all has been saved"
    assert model.buffers()["network.norm.num_batches_tracked"].item() == 3
    assert train(config(), tmp_path / "run", data=Waves(), network=built()).record["steps"] == 4


def test_conditions_groups_and_validation_come_from_the_items(tmp_path):
    model = train(
        config("condition.kind=class", "condition.width=8"), tmp_path / "run", data=Waves(), network=built(vector=8)
    )
    assert model.classes == ("slow", "fast")
    assert len(model.generate({"class": "fast"}, n=2, seed=3)) == 2
    data = source_of(Waves(), "Waves")
    assert [r.captions for r in data.records[:2]] == [("wave 0",), ("wave 1",)] and data.records[5].group == "g1"


def test_a_second_array_of_every_item_is_a_condition(tmp_path):
    class Echoes(Waves):
        def __getitem__(self, i: int) -> Any:
            values, said = super().__getitem__(i)
            return values, {"class": said["class"], "before": np.roll(values, 1)}

    class Beside(Own):
        def __init__(self) -> None:
            super().__init__(channels=3)  # x, the second array, and where there is one

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return super().forward(x, level)[:, :1]

    asked = ["conditions={before: {kind: picture, dropout: 0}}"]
    changes = [change for change in SMALL if not change.startswith("condition.")]
    given = load_recipe("folder", [*changes, *asked, "training.steps=2", "training.checkpoint_every=2"])
    with pytest.raises(RuntimeError) as caught:
        train(given, tmp_path / "unseen", data=Echoes(), network=Own())
    assert any("x (2, 3, 24)" in note for note in caught.value.__notes__)
    model = train(given, tmp_path / "run", data=Echoes(), network=Beside())
    assert model.conditioner.planes == 2
    prepared = list((tmp_path / "run" / "data").glob("*.npy"))
    assert len(prepared) == 2 and all(len(np.load(file)) == 40 for file in prepared)
    with pytest.raises(DataError, match="says nothing of 'before'"):
        train(given, tmp_path / "none", data=Waves(), network=Beside())


def test_the_default_objective_handed_in_gives_the_same_weights_as_by_name(tmp_path):
    own = partial(objectives.denoising_loss, weight=objectives.edm(0.5))
    named = train(config(steps=3), tmp_path / "named", data=Waves())
    handed = train(config(steps=3), tmp_path / "handed", data=Waves(), objective=own)
    assert all(torch.equal(value, tensors(handed)[name]) for name, value in tensors(named).items())


@pytest.mark.parametrize("what", ["array", "tensor", "image", "uint8 as a picture"])
def test_arrays_tensors_and_images_are_items(what, tmp_path):
    class Noise:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, i: int) -> Any:
            values = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            floats = values.astype(np.float32)
            made = {"array": floats, "tensor": torch.from_numpy(floats).permute(2, 0, 1)}
            return made.get(what, Image.fromarray(values) if what == "image" else values)

    pictures = ["codec.kind=pixels", "codec.size=8"] if what.startswith("uint8") else []
    model = train(config(*pictures, *(["codec.size=8"] if what == "image" else []), steps=1), tmp_path, data=Noise())
    assert model.codec.shape == (3, 8, 8)
    assert model.config.codec.kind == ("arrays" if what in ("array", "tensor") else "pixels")


def test_callbacks_hear_of_everything_in_order(tmp_path):
    heard: list[Event] = []
    changes = ["training.sample_every=2", "training.validate_every=2"]
    model = train(config(*changes), tmp_path, data=Waves(), network=built(), callbacks=[heard.append])
    names = [event.name for event in heard if event.name not in ("said", "progress")]
    step2 = ["step", "step", "validated", "sampled", "saved"]
    assert names == ["sampled", *step2, *step2, "saved", "finished"]
    losses = [event.numbers["loss"] for event in heard if event.name == "step"]
    assert len(losses) == 4 and all(np.isfinite(losses))
    sheet = next(event for event in heard if event.name == "sampled")
    shown = sheet._repr_png_()
    assert shown is not None and Image.open(io.BytesIO(shown)).format == "PNG"
    done = next(event for event in heard if event.name == "finished")
    assert done.file == tmp_path / "model" and done._repr_png_() is None
    assert {event.text for event in heard if event.name == "progress"} >= {"listing the data", "training"}
    assert model.record["validation_loss"] == pytest.approx(
        [event.numbers["validation_loss"] for event in heard if event.name == "validated"][-1], rel=1e-6
    )


def test_training_is_quiet_unless_a_report_is_given(tmp_path, capfd):
    train(config(steps=1), tmp_path, data=Waves(), network=built())
    assert capfd.readouterr() == ("", "")


def test_a_notebook_shows_pictures():
    pictures = open_model("emoji").generate("a red heart", n=2, steps=1)
    shown = pictures._repr_png_()
    assert shown is not None
    sheet = Image.open(io.BytesIO(shown))
    assert isinstance(pictures, list) and sheet.format == "PNG" and sheet.width > sheet.height
    assert type(pictures)()._repr_png_() is None


@pytest.mark.parametrize(
    ("returns", "words"),
    [(lambda x: x[:, :, :5], r"returned \(2, 1, 5\)"), (lambda x: [x], "returned list"), (lambda x: x / 0, None)],
)
def test_a_network_that_does_not_fit_is_told_before_the_first_step(returns, words, tmp_path):
    class Odd(Own):
        def forward(self, x: Tensor, level: Tensor) -> Any:
            if words is None:
                raise TypeError("no")
            return returns(super().forward(x, level))

    with pytest.raises(UserError if words else TypeError, match=words) as caught:
        train(config(), tmp_path, data=Waves(), network=Odd())
    if words is None:
        assert any("x (2, 1, 24), noise level (2,)" in note for note in caught.value.__notes__)


def test_an_objective_must_give_one_loss_an_example(tmp_path):
    def mean(*args: Any, **cond: Any) -> Tensor:
        return mean_square(*args, **cond).mean()

    with pytest.raises(UserError, match=r"objective: it gave \(\) for a batch of 4"):
        train(config(), tmp_path, data=Waves(), network=built(), objective=mean)
    with pytest.raises(UserError, match="MSELoss has parameters"):
        loss = nn.MSELoss()
        loss.weight = nn.Parameter(torch.ones(1))
        train(config(), tmp_path, data=Waves(), objective=loss)


class Items(list):
    pass


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "is empty"),
        (["a cat"], "data[0] is a str"),
        ([(np.zeros(8), 1, 2)], "a tuple of 3"),
        ([(np.zeros(8), 0.5)], "says 0.5 beside its values"),
        ([(np.zeros(8), {"colour": "red"})], "says 'colour', which nothing reads"),
        ([(np.zeros(8), {"text": 3})], "its text is 3"),
        ([np.zeros(8), np.array([{}], dtype=object)], "array of object"),
        ([np.full(8, np.nan)] * 20, "NaN"),
    ],
)
def test_items_that_cannot_be_used_are_told(items, words, tmp_path):
    with pytest.raises((UserError, DataError)) as caught:
        train(config(), tmp_path, data=Items(items))
    assert words in str(caught.value)


def test_data_that_change_at_every_reading_are_refused(tmp_path):
    class Random:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, i: int) -> np.ndarray:
            return np.random.default_rng().normal(size=24)

    with pytest.raises(UserError, match="changes from one reading to the next"):
        train(config(), tmp_path, data=Random())


def test_what_a_run_has_prepared_is_data_for_its_evaluation(tmp_path):
    model = train(config("data.validation=0.2"), tmp_path / "run", data=Waves())
    found = material_for(model, str(tmp_path / "run" / "data"), tmp_path / "cache", Silent())
    assert found.trained_on and len(found.seen) + len(found.unseen) == 40 and len(found.unseen) > 0
    with pytest.raises(UserError, match="a data set that a program handed in"):
        material_for(model, model.config.data.path, tmp_path / "cache", Silent())
    other = train(config(steps=1), tmp_path / "other", data=Items([np.full((2, 8), float(i)) for i in range(20)]))
    with pytest.raises(UserError, match="was prepared as"):
        material_for(other, str(tmp_path / "run" / "data"), tmp_path / "cache", Silent())


def test_parts_are_known_by_the_name_of_their_class_or_function():
    assert [part_name(part) for part in (Waves(), Own(), mean_square, partial(partial(mean_square)))] == [
        "Waves", "Own", "mean_square", "mean_square"
    ]  # fmt: skip


def test_the_next_network_of_a_program_has_first_weights_of_its_own(tmp_path):
    torch.manual_seed(3)
    first = Own()
    train(config(steps=1), tmp_path / "a", data=Waves(), network=first)
    after, drawn = Own(), torch.rand(1)
    train(config(steps=1), tmp_path / "b", data=Waves(), network=after)
    assert not torch.equal(after.inside.weight, first.inside.weight) and not torch.equal(torch.rand(1), drawn)
    assert not torch.equal(Own().inside.weight, after.inside.weight)


def test_a_checkpoint_of_another_shape_is_refused_and_never_spread(tmp_path):
    class Scaled(Own):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(size))

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return super().forward(x, level) * self.gain

    train(config(steps=2), tmp_path, data=Waves(), network=Scaled(1))
    with pytest.raises(UserError, match="do not fit this model"):
        train(config(steps=4), tmp_path, data=Waves(), network=Scaled(24))


def test_what_half_precision_cannot_hold_is_kept_and_the_returned_model_is_the_saved_one(tmp_path):
    class Odd(Own):
        def __init__(self) -> None:
            super().__init__()
            self.scale.data.fill_(1 / 3)
            self.large = nn.Parameter(torch.full((2,), 1e5), requires_grad=False)
            self.table = nn.Parameter(torch.tensor([2049, 2051]), requires_grad=False)
            self.register_buffer("mask", torch.full((2, 2), -torch.inf))
            self.deep = nn.Parameter(torch.zeros(1, 2, 3, 1, 1), requires_grad=False)

    model = train(config("training.half=true"), tmp_path / "run", data=Waves(), network=Odd())
    again = Model.load(tmp_path / "run" / "model", network=Odd())
    for name, value in tensors(model).items():
        assert torch.equal(value, tensors(again)[name]), name
    assert again.parameters()["network.large"].tolist() == [1e5, 1e5]
    assert again.parameters()["network.table"].tolist() == [2049, 2051]

    later = train(config(f"start.model={tmp_path / 'run'}", "optimizer.lr=1e-8", steps=1), tmp_path / "later",
                  data=Waves(), network=Odd())  # fmt: skip
    assert later.buffers()["network.norm.num_batches_tracked"].item() == 5


def test_the_best_step_keeps_its_running_statistics(tmp_path, monkeypatch):
    from sfumato.training import run
    from sfumato.training.best import Score

    monkeypatch.setattr(run, "judge", lambda trainer, folder, report: Score("luck", float(trainer.step)))
    changes = ["training.evaluate_every=2", "training.evaluate_pictures=64"]
    model = train(config(*changes, steps=4), tmp_path, data=Waves(), network=built())
    assert model.record["best_step"] == 2 and model.buffers()["network.norm.num_batches_tracked"].item() == 2


def test_a_run_goes_on_only_with_its_network(tmp_path):
    train(config(steps=2), tmp_path, data=Waves(), network=built())
    with pytest.raises(UserError, match="the network of this run is Own"):
        train(config(steps=4), tmp_path, data=Waves())


class Complex(Own):
    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.zeros(3, dtype=torch.cfloat))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"network": Own}, "is no torch.nn.Module"),
        ({"network": Complex()}, "network: phase is complex"),
        ({"network": nn.LazyLinear(3)}, "weight has no size yet"),
        ({"objective": 3}, "cannot be called"),
        ({"objective": lambda denoiser, x_0, t, noise, **cond: 1.0}, "it gave float for a batch of 4"),
        ({"objective": lambda *args, **cond: mean_square(*args, **cond).detach()}, "its loss has no gradient"),
        ({"data": iter([1])}, "has no length or no items"),
        ({"data": Waves}, "has no length or no items"),
        ({"data": Items([(np.zeros(8), torch.tensor(0.7))] * 20)}, "beside its values"),
        ({"data": Items([np.ma.masked_greater(np.arange(8.0), 3)] * 20)}, "a masked array"),
        ({"data": Items([(np.ones(8) * i, {"class": "a" if i else None}) for i in range(20)])}, "data[0] has no class"),
    ],
)
def test_parts_that_cannot_be_used_are_told_before_they_cost(parts, words, tmp_path):
    with pytest.raises(UserError) as caught:
        train(config(), tmp_path, **{"data": Waves(), **parts})
    assert words in str(caught.value)


def test_tensors_in_half_precision_are_items(tmp_path):
    items = Items([torch.linspace(0, i, 24).bfloat16() for i in range(20)])
    assert train(config(steps=1), tmp_path, data=items).codec.shape == (1, 24)


def test_progress_and_words_know_the_step_of_the_run(tmp_path):
    heard: list[Event] = []
    train(config(), tmp_path, data=Waves(), network=built(), callbacks=[heard.append])
    assert {e.steps for e in heard if e.name == "progress" and e.text == "training"} == {4}
    assert [e.step for e in heard if e.name == "said" and "validation loss" in e.text] == [2, 4]
