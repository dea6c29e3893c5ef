"""The objective is a setting: every kind trains, resumes to the same bits, and changes what it should change."""

from collections.abc import Callable

import pytest
import torch

from sfumato.diffusion.importance import Importance
from sfumato.diffusion.learned_schedule import LearnedSchedule
from sfumato.errors import UserError
from sfumato.model import Model
from sfumato.training.loop import Trainer

LEARNED = "network.learned_variance=true"
CHAIN = "objective.chain=4"
KINDS = {
    "hybrid": [LEARNED, "objective.kind=hybrid", CHAIN],
    "vlb": ["objective.kind=vlb", CHAIN],
    "vlb of a learned variance": [LEARNED, "objective.kind=vlb", CHAIN],
    "importance": [LEARNED, "objective.kind=vlb", "times.kind=importance", CHAIN],
    "learned schedule": ["objective.kind=vlb", "diffusion.schedule=learned", CHAIN],
}


@pytest.fixture
def trainer(drawn: Callable, settings: Callable, trainer_of: Callable, tmp_path_factory) -> Callable[..., Trainer]:
    pictures = drawn(tmp_path_factory.mktemp("pictures"))

    def build(*changes: str) -> Trainer:
        return trainer_of(settings(pictures, *changes), tmp_path_factory.mktemp("run"))

    return build


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """A copy of all tensors that a checkpoint holds."""
    return {f"{part}/{k}": v.detach().clone() for part, values in trainer.parts().items() for k, v in values.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_and_resumes_to_the_same_bits(trainer, kind):
    whole = trainer(*KINDS[kind])
    for _ in range(3):
        whole.train_step()
    parts = {part: {k: v.detach().clone() for k, v in values.items()} for part, values in whole.parts().items()}
    for _ in range(3):
        whole.train_step()
    assert whole.validate() > 0

    resumed = trainer(*KINDS[kind])
    resumed.restore(3, parts)
    for _ in range(3):
        resumed.train_step()

    expected, found = state(whole), state(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_hybrid_loss_trains_the_mean_and_the_variance(trainer):
    start, hybrid = trainer(*KINDS["hybrid"]), trainer(*KINDS["hybrid"])
    for _ in range(3):
        hybrid.train_step()
    before, after = (t.model.denoiser.network.head.weight.detach() for t in (start, hybrid))
    mean, variance = (after - before).abs().amax(dim=(1, 2, 3)).chunk(2)

    assert mean.gt(0).all()
    assert variance.gt(0).all()


def test_importance_remembers_every_loss_and_turns_to_where_they_are_large(trainer):
    run = trainer(*KINDS["importance"])
    while isinstance(run.law, Importance) and run.law.count.min() < 10:
        run.train_step()
    assert isinstance(run.law, Importance)
    p = run.law.probabilities()

    assert run.law.count.sum() == run.step * 8  # two micro-batches of four
    assert p.max() > 1.5 * p.min()


def test_validation_losses_compare_although_the_law_of_training_moves(trainer):
    run = trainer(*KINDS["importance"])
    before = run.validate()
    for _ in range(10):
        run.law = run.law.seen(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([1.0, 2.0, 3.0, 40.0]))
    assert run.law.draw(torch.linspace(0.1, 0.9, 9))[1].std() > 0.1, "the law has not moved"
    assert run.validate() == before


def test_a_checkpoint_without_the_memory_of_its_law_is_refused(trainer):
    run = trainer(*KINDS["importance"])
    parts = {part: dict(tensors) for part, tensors in run.parts().items() if part != "law"}
    with pytest.raises(UserError, match="the checkpoint's law"):
        run.restore(0, parts)


def test_a_learned_schedule_moves_and_is_part_of_the_saved_model(trainer, tmp_path):
    run = trainer(*KINDS["learned schedule"])
    schedule = run.model.denoiser.process.schedule
    assert isinstance(schedule, LearnedSchedule)
    t = torch.linspace(0, 1, 7)
    before = schedule.log_snr(t).detach()
    for _ in range(3):
        run.train_step()
    after = schedule.log_snr(t).detach()

    assert (after - before).abs().max() > 1e-3
    loaded = Model.load(run.model.save(tmp_path / "model"))
    assert torch.equal(loaded.denoiser.process.schedule.log_snr(t), after)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([LEARNED], "network.learned_variance = true, but objective.kind = simple"),
        (["objective.kind=hybrid"], "objective.kind = hybrid, but the network has no variance"),
        (["times.kind=importance"], "times.kind = importance, but objective.kind = simple"),
        (["diffusion.schedule=learned"], "diffusion.schedule = learned, but objective.kind = simple"),
        (["objective.kind=vlb", "diffusion.schedule=learned", "diffusion.shift=2"], "diffusion.shift = 2"),
    ],
)
def test_settings_that_would_train_nothing_are_refused_with_the_fix(drawn, settings, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as refusal:
        settings(drawn(tmp_path), *changes)
    assert "use" in str(refusal.value)
