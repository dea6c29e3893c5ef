"""Evaluation while training: it changes no bit of the run, and the model gets the weights of the best step."""

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.model import Model
from sfumato.report import Report
from sfumato.training import run
from sfumato.training.best import Best, Score
from sfumato.training.estimate import drawing_seconds
from sfumato.training.interrupts import Interrupted
from sfumato.training.loop import Trainer


def train(config: Any, out: Path, report: Report | None = None, judge: Any = None) -> Model:
    """As `run.train`, judged by ``judge``."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "judge", judge)
        return run.train(config, out, report)


class Scripted:
    """A judge that gives the scores it was told to, and remembers the weights it saw."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = list(scores)
        self.seen: dict[int, dict[str, Tensor]] = {}

    def __call__(self, trainer: Trainer, folder: Path, report: Report) -> Score:
        assert not trainer.model.denoiser.training and not trainer.model.conditioner.training
        report.progress("judging", 0, 1)
        torch.rand(3)
        self.seen[trainer.step] = {name: p.detach().clone() for name, p in trainer.parameters.items()}
        return Score("made up", self.scores[len(self.seen) - 1], control=1.0)


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]


def end(out: Path, part: str) -> bytes:
    return (out / "checkpoint-00000006" / f"{part}.safetensors").read_bytes()


def same(model: Model, weights: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(p, weights[name]) for name, p in model.parameters().items())


@pytest.fixture
def judged(pictures: Path, settings: Callable) -> Any:
    """Settings of six steps that are evaluated at 2, 4 and 6."""
    return settings(pictures, "training.evaluate_every=2", "training.half=false")


def test_evaluating_changes_no_bit_of_the_training(
    judged: Any, pictures: Path, settings: Callable, tmp_path: Path
) -> None:
    train(judged, tmp_path / "with", judge=Scripted([3, 1, 2]))
    train(settings(pictures), tmp_path / "without")
    for part in ("weights", "optimizer", "ema-0", "ema-1"):
        assert end(tmp_path / "with", part) == end(tmp_path / "without", part)
    assert [row for row in rows(tmp_path / "with") if "score" not in row] == rows(tmp_path / "without")
    assert not (tmp_path / "without" / "checkpoint-00000006" / "best.safetensors").exists()


@pytest.mark.parametrize(("scores", "best"), [((3, 1, 2), 4), ((1, 2, 3), 2), ((3, 2, 1), 6), ((1, 1, 1), 2)])
def test_the_model_gets_the_averaged_weights_of_the_lowest_score(
    scores: tuple[float, ...], best: int, judged: Any, tmp_path: Path, quiet: Any
) -> None:
    judge = Scripted(scores)
    model = train(judged, tmp_path / "run", quiet, judge=judge)
    assert list(judge.seen) == [2, 4, 6]
    assert [step for step, weights in judge.seen.items() if same(model, weights)] == [best]
    assert same(Model.load(tmp_path / "run" / "model"), judge.seen[best])

    told = {"best_step": best, "evaluations": 3}
    assert model.record.items() >= told.items()
    assert model.record["best_score"] == {
        "name": "made up",
        "value": min(scores),
        "low": None,
        "high": None,
        "control": 1.0,
    }
    assert f"of step {best}, the best of 3 evaluations" in (tmp_path / "run" / "model" / "README.md").read_text()
    assert f"the model gets the weights of step {best}, the best of 3 evaluations" in quiet.said
    logged = [(row["step"], row["score"], row["score_control"]) for row in rows(tmp_path / "run") if "score" in row]
    assert logged == [(2, scores[0], 1.0), (4, scores[1], 1.0), (6, scores[2], 1.0)]
    said = [line for line in quiet.said if "made up" in line]
    assert [line.startswith(f"step {step}: made up") for line, step in zip(said, (2, 4, 6), strict=True)] == [True] * 3


def test_the_validation_loss_of_the_record_is_none_that_was_measured_later(
    pictures: Path, settings: Callable, tmp_path: Path
) -> None:
    config = settings(pictures, "training.evaluate_every=2", "training.validate_every=3")
    model = train(config, tmp_path / "run", judge=Scripted([3, 1, 2]))
    losses = {row["step"]: row["validation_loss"] for row in rows(tmp_path / "run") if "validation_loss" in row}
    assert list(losses) == [3, 6] and losses[3] != losses[6]
    assert model.record["validation_loss"] == losses[3]


def test_the_last_step_is_evaluated_too_and_only_once(pictures: Path, settings: Callable, tmp_path: Path) -> None:
    judge = Scripted([2, 1])
    config = settings(pictures, "training.evaluate_every=4")
    train(config, tmp_path / "run", judge=judge)
    assert list(judge.seen) == [4, 6]
    model = train(config, tmp_path / "run", judge=judge)  # the finished run again: nothing is left to do
    assert list(judge.seen) == [4, 6] and model.record["best_step"] == 6


def test_a_signal_in_an_evaluation_saves_and_the_evaluation_comes_first_next_time(judged: Any, tmp_path: Path) -> None:
    class Signalled(Scripted):
        def __call__(self, trainer: Trainer, folder: Path, report: Report) -> Score:
            if trainer.step == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(trainer, folder, report)

        at = 4

    whole = train(judged, tmp_path / "whole", judge=Scripted([3, 1, 2]))

    out, judge = tmp_path / "run", Signalled([3, 1, 2])
    for step in (4, 6):  # also in the last one, when all steps are done
        judge.at = step
        with pytest.raises(Interrupted, match="stopped while judging; everything is saved"):
            train(judged, out, judge=judge)
        assert (out / "latest").read_text() == f"checkpoint-{step:08d}" and step not in judge.seen
    model = train(judged, out, judge=Scripted([2]))

    assert list(judge.seen) == [2, 4]
    assert rows(out) == rows(tmp_path / "whole")
    assert same(model, whole.parameters()) and model.record["best_step"] == 4


def test_a_damaged_best_costs_the_steps_since_the_checkpoint_before_and_is_told(
    judged: Any, tmp_path: Path, quiet: Any
) -> None:
    out = tmp_path / "run"
    before = train(judged, out, judge=Scripted([3, 1, 2]))
    file = out / "checkpoint-00000006" / "best.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)

    again = Scripted([2])
    model = train(judged, out, quiet, judge=again)
    said = "\n".join(quiet.said)
    assert "checkpoint-00000006/best.safetensors is damaged" in said and "resuming at step 4 of 6" in said
    assert list(again.seen) == [6] and same(model, before.parameters())


def test_a_score_that_no_checkpoint_knows_is_taken_again(judged: Any, tmp_path: Path) -> None:
    class Killed(Scripted):
        def __call__(self, trainer: Trainer, folder: Path, report: Report) -> Score:
            score = super().__call__(trainer, folder, report)
            if trainer.step == 4:
                raise KeyboardInterrupt  # nobody catches it: as a kill, after the best was found and before it was kept
            return score

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(judged, out, judge=Killed([3, 1]))
    again = Scripted([1, 2])
    assert train(judged, out, judge=again).record["best_step"] == 4
    assert list(again.seen) == [4, 6]
    assert [row["score"] for row in rows(out) if "score" in row] == [3, 1, 2]


def test_scores_and_weights_come_back_as_they_were() -> None:
    best = Best([(2, Score("KID", 0.1, 0.05, 0.15, 0.01)), (4, Score("KID", 0.3))], {"w": torch.ones(2)})
    again = Best.restored(json.loads(json.dumps(best.state())), best.parts())
    assert again == best and again.lowest == (2, best.scores[0][1])
    assert Best.restored({}, {}).record() == {} and Best().parts() == {} and Best().state() == {}


def test_a_score_is_told_with_its_interval_and_its_control() -> None:
    assert str(Score("KID x 1000", 1.234, 1.0, 1.5, 0.1)) == "KID x 1000 1.23 [1.00, 1.50]; held-out pictures 0.10"
    assert str(Score("KID x 1000", 1.234)) == "KID x 1000 1.23"
    assert Score("KID x 1000", 1.5).numbers() == {"score": 1.5}


def test_the_estimate_counts_the_pictures_of_the_evaluations(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(*changes: str) -> float:
        clock = iter([0.0, 1.0])  # a second for two steps of a batch
        trainer = trainer_of(settings(pictures, *changes), tmp_path)
        with monkeypatch.context() as still:
            still.setattr("sfumato.training.estimate.time.perf_counter", lambda: next(clock))
            return drawing_seconds(trainer)

    # Two sheets of two pictures; evaluations after 4 and 6 of 6 steps, of 16 batches of 4 pictures.
    assert seconds() == 2
    assert seconds("training.evaluate_every=4", "training.evaluate_pictures=64") == 2 + 2 * 16
