"""One folder, one run: what it refuses, what it writes, and where it stops."""

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sfumato.data.sources import open_source
from sfumato.diffusion import objectives
from sfumato.errors import UserError
from sfumato.model import Model
from sfumato.report import Silent
from sfumato.training import environment as machine
from sfumato.training import run
from sfumato.training.interrupts import Interrupted, Interruptible, Stop
from sfumato.training.log import Log
from sfumato.training.prepared import prepare_run
from sfumato.training.run import train
from sfumato.training.samples import draw_sheet


def losses(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, drawn: Callable) -> Path:
    return drawn(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def once(pictures: Path, settings: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of six steps."""
    folder = tmp_path_factory.mktemp("once")
    train(settings(pictures), folder)
    return folder


@pytest.fixture
def finished(once: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to do with as one likes."""
    return Path(shutil.copytree(once, tmp_path / "run"))


def test_a_finished_run_explains_itself(finished: Path, pictures: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {"config.yaml", "data.json", "environment.json", "loss.jsonl", "samples", "model", "tensorboard"}
    assert [path.name for path in sorted(finished.glob("checkpoint-*"))] == [
        "checkpoint-00000004",
        "checkpoint-00000006",
    ]
    assert (finished / "latest").read_text() == "checkpoint-00000006"
    assert sorted(path.name for path in (finished / "samples").iterdir()) == ["step-00000000.png"]
    told = json.loads((finished / "environment.json").read_text())
    assert told["torch"] == torch.__version__ and told["threads"] == 1
    assert json.loads((finished / "data.json").read_text())["pictures"] == 24

    model = Model.load(finished / "model")
    assert model.record["steps"] == 6 and model.record["held_out"] > 0
    assert model.record["validation_loss"] == losses(finished)[-1]["validation_loss"]
    card = (finished / "model" / "README.md").read_text()
    assert "Model card: tiny" in card and "<polyline" in (finished / "model" / "loss.svg").read_text()
    assert model.generate("red picture", seed=1)[0].size == (8, 8)


@pytest.mark.parametrize(
    "changes",
    [
        ("condition.kind=text",),
        ('condition={"kind": "text", "width": 16, "depth": 1, "heads": 2, "vocabulary": 128}', "sampling.prompts=[]"),
        ('condition={"kind": "class", "width": 16}', "sampling.prompts=[]"),
        ('condition={"kind": "none"}', "sampling.prompts=[]"),
    ],
)
def test_the_command_that_training_prints_at_its_end_draws(
    changes: tuple[str, ...], pictures: Path, settings: Callable, tmp_path: Path, capsys, monkeypatch
) -> None:
    from sfumato.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(settings(pictures, *changes, "training.steps=1").to_yaml())
    assert main(["train", "--recipe", "recipe.yaml", "--out", "a run"]) == 0
    program, *words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("draw with it: "))
    assert program == "sfumato"
    assert main(words) == 0
    assert "1 picture in" in capsys.readouterr().out


def test_captions_longer_than_the_encoder_reads_are_counted_and_one_is_shown(
    drawn: Callable, settings: Callable, tmp_path: Path, quiet
) -> None:
    pictures = drawn(tmp_path / "pictures")
    for i in (3, 5):
        (pictures / "red" / f"{i}.txt").write_text(f"red {i} " * 20)
    prepare_run(settings(pictures), tmp_path / "run", quiet)
    (told,) = [line for line in quiet.said if "longer" in line]
    assert told.startswith("2 of 24 captions are longer than this model reads; ")
    assert "; conditions.text.max_length sets how much; " in told
    assert "it reads 'red 3 red 3 red 3 red'" in told


def test_every_step_is_logged_once_and_the_last_is_validated(finished: Path) -> None:
    rows = losses(finished)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "validation_loss" in row] == [5, 6]
    assert all(row["gradient_norm"] > 0 for row in rows if "loss" in row)


def test_what_was_logged_after_the_checkpoint_is_written_again_and_not_twice(
    pictures: Path, settings: Callable, finished: Path
) -> None:
    whole = (finished / "loss.jsonl").read_bytes()
    for path in (finished / "checkpoint-00000006").iterdir():
        path.unlink()
    (finished / "checkpoint-00000006").rmdir()
    with (finished / "loss.jsonl").open("ab") as file:
        file.write(b'{"step": 7, "lo')  # torn by a kill
    train(settings(pictures), finished)
    assert (finished / "loss.jsonl").read_bytes() == whole


@pytest.mark.parametrize("left", [None, 0, 100, 101])
def test_a_log_that_was_deleted_or_cut_costs_lines_and_not_the_run(
    left: int | None, pictures: Path, settings: Callable, finished: Path, quiet: Any
) -> None:
    weights, log = (finished / "model" / "weights.safetensors").read_bytes(), finished / "loss.jsonl"
    content = log.read_bytes()
    log.unlink() if left is None else log.write_bytes(content[:left])
    train(settings(pictures), finished, quiet)
    assert "loss.jsonl has lost lines" in "\n".join(quiet.said)
    assert (finished / "model" / "weights.safetensors").read_bytes() == weights
    assert content.startswith(log.read_bytes()) and len(losses(finished)) == content[: left or 0].count(b"\n")


def test_the_log_is_cut_to_what_the_checkpoint_knows(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, 0)
    log.write(1, loss=0.5)
    length = log.length()
    log.write(2, loss=0.25)
    log.close()
    log = Log(tmp_path, length, 1)
    log.write(2, loss=0.125)
    log.close()
    assert [row["loss"] for row in losses(tmp_path)] == [0.5, 0.125]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("optimizer.lr=0.004", r"optimizer\.lr was 0\.003, now 0\.004"),
        ("network.channels=12", r"network\.channels was 8, now 12"),
        ("training.ema=[0.2]", r"training\.ema was \[0\.05, 0\.1\], now \[0\.2\]"),
        ("condition.kind=class", r"conditions\.class\.kind was not there, now class"),
    ],
)
def test_other_settings_are_refused_by_name(
    change: str, told: str, pictures: Path, settings: Callable, finished: Path
) -> None:
    before = contents(finished)
    with pytest.raises(UserError, match=told):
        train(settings(pictures, change, "codec.size=16"), finished)
    assert contents(finished) == before, "refused before anything was touched, the prepared pictures included"
    train(settings(pictures), finished)


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of a run, but for the lock, which names the process."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize(
    "changes",
    [
        ["training.keep=5", "training.checkpoint_every=3"],
        ["training.validate_every=2", "training.sample_every=3"],
        ["training.half=false", "training.activation_checkpointing=true"],
        ["name=other", "data.policy=skip", "sampling.prompts=[red picture]"],
    ],
)
def test_what_changes_no_weight_may_change(
    changes: list[str], pictures: Path, settings: Callable, finished: Path, tmp_path: Path
) -> None:
    last = finished / "checkpoint-00000006" / "weights.safetensors"
    weights = last.read_bytes()
    for folder in ("checkpoint-00000006", "model"):
        shutil.rmtree(finished / folder)
    train(settings(pictures, *changes), finished)
    assert last.read_bytes() == weights


def test_one_folder_may_be_written_in_many_ways(
    pictures: Path, settings: Callable, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures.parent)
    (pictures.parent / "link").unlink(missing_ok=True)
    (pictures.parent / "link").symlink_to(pictures, target_is_directory=True)
    for path in (pictures.name, f"{pictures.name}/", f"./{pictures.name}", f"{pictures}/red/..", "link"):
        train(settings(path), finished)


def test_another_number_of_threads_is_told_and_goes_on(
    pictures: Path, settings: Callable, finished: Path, quiet: Any
) -> None:
    train(settings(pictures, "training.threads=2"), finished, quiet)
    assert "began with 1 thread(s) and goes on with 2" in "\n".join(quiet.said)


def test_a_run_that_is_given_more_steps_goes_on(
    pictures: Path, settings: Callable, finished: Path, tmp_path: Path, quiet: Any
) -> None:
    longer = settings(pictures, "training.steps=12")
    model = train(longer, finished, quiet)
    said = "\n".join(quiet.said)
    assert "resuming at step 6 of 12" in said and "12 steps instead of 6, from step 6 on" in said
    assert [row["step"] for row in losses(finished) if "loss" in row] == list(range(1, 13))
    assert model.record["schedules"] == [{"from": 0, "steps": 6}, {"from": 6, "steps": 12}]
    assert Model.load(finished / "model").config.training.steps == 12

    with pytest.raises(UserError, match=r"training\.steps = 11, but the run .* has done 12 steps"):
        train(settings(pictures, "training.steps=11"), finished)


def test_a_longer_run_has_the_bits_of_one_that_was_long_from_the_start_where_the_rate_had_not_begun_to_fall(
    pictures: Path, settings: Callable, tmp_path: Path
) -> None:
    ends = {}
    for decay in (0.0, 0.5):
        for name, lengths in (("grown", (6, 12)), ("whole", (12,))):
            out = tmp_path / f"{name}-{decay}"
            for steps in lengths:
                train(settings(pictures, f"optimizer.decay={decay}", f"training.steps={steps}"), out)
            ends[name, decay] = (out / "checkpoint-00000012" / "weights.safetensors").read_bytes()
    assert ends["grown", 0.0] == ends["whole", 0.0]
    assert ends["grown", 0.5] != ends["whole", 0.5]  # its steps 4 to 6 were made at falling rates


def test_a_longer_run_that_is_stopped_and_resumed_ends_the_same(
    pictures: Path, settings: Callable, finished: Path, tmp_path: Path
) -> None:
    longer = settings(pictures, "training.steps=12")
    stopped = Path(shutil.copytree(finished, tmp_path / "stopped"))
    train(longer, finished)
    train(longer, stopped)
    shutil.rmtree(stopped / "checkpoint-00000012")
    train(longer, stopped)
    name = "checkpoint-00000012/weights.safetensors"
    assert (stopped / name).read_bytes() == (finished / name).read_bytes()
    assert (stopped / "loss.jsonl").read_bytes() == (finished / "loss.jsonl").read_bytes()


def test_what_a_recipe_says_about_itself_may_change(pictures: Path, settings: Callable, finished: Path) -> None:
    train(settings(pictures, "about.time=ten minutes"), finished)


def test_other_data_is_refused(pictures: Path, settings: Callable, finished: Path) -> None:
    file = pictures / "red" / "1.png"
    before = file.read_bytes()
    try:
        Image.new("RGB", (8, 8), "green").save(file)
        kept = contents(finished)
        with pytest.raises(UserError, match="was trained on other data"):
            train(settings(pictures), finished)
        assert contents(finished) == kept, "the prepared pictures are those of the run"
    finally:
        file.write_bytes(before)
    train(settings(pictures), finished)  # and with the old data it goes on


def test_a_folder_that_cannot_be_made_is_told_in_words(pictures: Path, settings: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not be written"):
        train(settings(pictures), tmp_path / "file" / "run")


def test_a_full_disk_ends_the_run_in_words_and_the_same_command_goes_on(
    pictures: Path, settings: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(log: Log) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as fault:
        length = Log.length
        fault.setattr(Log, "length", lambda log: length(log) if log.path.stat().st_size == 0 else full(log))
        with pytest.raises(UserError, match="No space left on device"):
            train(settings(pictures), tmp_path / "run")
    train(settings(pictures), tmp_path / "run")
    assert [row["step"] for row in losses(tmp_path / "run") if "loss" in row] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_in_that_step_and_names_the_pictures(
    what: str, pictures: Path, settings: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, honest, calls = tmp_path / "run", objectives.denoising_loss, 0

    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * float("inf")

    def spoilt(*arguments: Any, **named: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        value = honest(*arguments, **named)
        if calls != 10:  # the second micro-batch of step 5
            return value
        return value.index_fill(0, torch.tensor([2]), float("nan")) if what == "loss" else Spoil.apply(value)

    with monkeypatch.context() as fault:
        fault.setattr(objectives, "denoising_loss", spoilt)
        with pytest.raises(UserError, match=f"the {what} of step 5 is not finite") as told:
            train(settings(pictures), out)
    assert calls == 10
    named = [path for path in pictures.rglob("*.png") if f"{path.parent.name}/{path.name}" in told.value.message]
    # The picture at fault, or the first five of all that were added up; at the end of an epoch one may come twice.
    assert len(named) in ((1,) if what == "loss" else (4, 5))
    assert (out / "latest").read_text() == "checkpoint-00000004"
    train(settings(pictures), out)
    assert [row["step"] for row in losses(out) if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_the_validation_loss_is_a_function_of_the_weights(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path
) -> None:
    trainer = trainer_of(settings(pictures), tmp_path)
    first = trainer.validate()
    torch.manual_seed(123)
    trainer.model.denoiser.train()  # dropout would show
    assert trainer.validate() == first
    weights = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    trainer.train_step()
    assert trainer.validate() != first
    for track in trainer.ema.tracks:
        for name, value in track.items():
            value.copy_(weights[name])
    assert trainer.validate() == first  # whatever the live weights are by now
    other = trainer_of(settings(pictures, "training.batch=3"), tmp_path)
    assert other.validate() == pytest.approx(first, rel=1e-5)


def test_the_validation_loss_is_that_of_the_average_that_will_draw(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path
) -> None:
    values = []
    for track in (0, 1):
        trainer = trainer_of(settings(pictures, f"sampling.ema={track}", "optimizer.warmup=0"), tmp_path)
        for _ in range(4):
            trainer.train_step()
        values.append(trainer.validate())
    assert values[0] != values[1]


def test_batch_and_accumulation_multiply(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path
) -> None:
    ends = []
    for batch, accumulate in ((8, 1), (4, 2), (2, 4)):
        changes = (f"training.batch={batch}", f"training.accumulate={accumulate}", "network.dropout=0.0")
        trainer = trainer_of(settings(pictures, "optimizer.kind=adamw", *changes), tmp_path)
        ends.append([trainer.train_step()["loss"] for _ in range(3)])
    # The same samples and noises: only sums are in another order.
    assert ends[1] == pytest.approx(ends[0], rel=1e-4) and ends[2] == pytest.approx(ends[0], rel=1e-4)


def test_a_run_without_held_out_pictures_has_no_validation_loss(
    pictures: Path, settings: Callable, tmp_path: Path
) -> None:
    model = train(settings(pictures, "data.validation=0.0"), tmp_path / "run")
    assert model.record["validation_loss"] is None and model.record["held_out"] == 0
    assert not any("validation_loss" in row for row in losses(tmp_path / "run"))
    assert "not measured" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_the_settings_reach_the_process(pictures: Path, settings: Callable, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    train(settings(pictures, "training.steps=1", "training.threads=1"), tmp_path / "run")
    assert torch.get_num_threads() == 1


def test_bfloat16_trains_and_keeps_single_precision_weights(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path
) -> None:
    trainer = trainer_of(settings(pictures, "training.precision=bf16"), tmp_path)
    assert trainer.train_step()["loss"] > 0
    assert {p.dtype for p in trainer.parameters.values()} == {torch.float32}
    assert {v.dtype for track in trainer.ema.tracks for v in track.values()} == {torch.float32}
    assert trainer.validate() > 0


def test_the_sheet_shows_each_condition_with_the_seed_of_its_place(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, shown = trainer_of(settings(pictures), tmp_path).model.eval(), []

    def grid(drawn: list[Image.Image], labels: list[str], columns: int) -> Image.Image:
        shown.extend(drawn)
        assert labels[:3] == ["red picture", "", "blue picture"] and columns == 8
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("sfumato.training.samples.labelled_grid", grid)
    conditions = ["red picture", None, "blue picture", "a", "b", "c"]  # more than are drawn at once
    draw_sheet(model, conditions, 8, tmp_path / "sheets" / "sheet.png")
    alone = [model.generate([condition], seed=seed)[0] for seed, condition in enumerate(conditions)]
    assert [a.tobytes() for a in shown] == [b.tobytes() for b in alone]
    assert (tmp_path / "sheets" / "sheet.png").is_file()


def test_the_environment_is_known_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.environment()["commit"] is None


def test_the_environment_says_when_the_code_was_changed_since_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        person = ["-c", "user.name=a", "-c", "user.email=b"]
        return subprocess.run(
            ["git", *person, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    file = package / "environment.py"
    file.write_text("")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(machine, "__file__", str(file))
    monkeypatch.setattr(machine, "PACKAGE", package)

    (tmp_path / "notes.txt").write_text("beside the package, and no part of it")
    assert machine.commit() == git("rev-parse", "HEAD")
    file.write_text("changed")
    assert machine.commit() == f"{git('rev-parse', 'HEAD')} with uncommitted changes"


def test_a_signal_before_the_first_step_ends_the_preparation(
    pictures: Path, settings: Callable, tmp_path: Path
) -> None:
    stop = Stop(tmp_path, "the command")
    try:
        report = Interruptible(Silent(), stop)
        prepare_run(settings(pictures), tmp_path / "calm", report)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"stopped while reading the data(.|\n)*resume: the command"):
            prepare_run(settings(pictures), tmp_path / "stopped", report)
        with pytest.raises(SystemExit) as second:
            os.kill(os.getpid(), signal.SIGTERM)
        assert second.value.code == 128 + signal.SIGTERM
    finally:
        stop.restore()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_the_process_was_started_to_ignore_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        stop = Stop(tmp_path, "the command")
        os.kill(os.getpid(), signal.SIGHUP)
        stop.restore()
        assert not stop()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_end_of_a_terminal_is_polite_and_a_second_one_is_no_haste(tmp_path: Path) -> None:
    stop = Stop(tmp_path, "the command")
    try:
        for sent in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), sent)
        assert stop()
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        stop.restore()


def test_a_damaged_checkpoint_costs_steps_and_not_the_run(
    pictures: Path, settings: Callable, finished: Path, quiet: Any
) -> None:
    weights = (finished / "model" / "weights.safetensors").read_bytes()
    file = finished / "checkpoint-00000006" / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    train(settings(pictures), finished, quiet)
    said = "\n".join(quiet.said)
    assert "checkpoint-00000006/optimizer.safetensors is damaged" in said and "resuming at step 4 of 6" in said
    assert (finished / "model" / "weights.safetensors").read_bytes() == weights


def test_a_checkpoint_of_another_network_is_refused(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path
) -> None:
    parts = trainer_of(settings(pictures), tmp_path).parts()
    other = trainer_of(settings(pictures, "network.blocks=2"), tmp_path)
    with pytest.raises(UserError, match="weights do not fit this model"):
        other.restore(3, parts)


def test_saving_twice_at_a_step_keeps_the_first(finished: Path, pictures: Path, settings: Callable) -> None:
    file = finished / "checkpoint-00000006" / "state.json"
    before = file.stat().st_mtime_ns
    run.train(settings(pictures), str(finished))  # a path may be text
    assert file.stat().st_mtime_ns == before


def test_a_run_inside_the_folder_of_its_pictures_is_not_taken_for_pictures(
    pictures: Path, settings: Callable, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(pictures, tmp_path / "own"))
    before = {record.locator for record in open_source(own).records}
    train(settings(own), own / "runs" / "mine")
    assert {record.locator for record in open_source(own).records} == before
