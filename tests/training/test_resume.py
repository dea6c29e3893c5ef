"""T5, T7, T9: a run that was killed and started again is, byte for byte, the run that was never killed."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest

SEED = 20_261_123  # of the moments; a failure is replayed with it
STEPS = 60
KILLS = 20
PHASES = ("start-up", "step", "mid-accumulation", "update", "validating", "sampling", "evaluating", "saving")


class Death(NamedTuple):
    code: int  # the exit code, negative for a signal
    phase: str
    said: str


@dataclass(frozen=True)
class Lives:
    """Runs of one recipe, each in a process of its own (see lives.py)."""

    server: subprocess.Popen[str]
    recipe: Path
    log: Path

    def __call__(
        self,
        out: Path,
        at: tuple[str, int] | None = None,
        sent: int = signal.SIGKILL,
        again: bool = False,
        forget: str | None = None,
    ) -> Death:
        order = {"recipe": str(self.recipe), "out": str(out), "log": str(self.log), "signal": int(sent)}
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps({**order, "at": at, "again": again, "forget": forget}) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        return Death(answer["code"], answer["phase"], self.log.read_text())


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, drawn: Callable, settings: Callable) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    path = folder / "recipe.yaml"
    path.write_text(
        settings(drawn(folder / "pictures"), f"training.steps={STEPS}", "training.evaluate_every=7").to_yaml()
    )
    return path


@pytest.fixture(scope="module")
def live(recipe: Path) -> Iterator[Lives]:
    script = Path(__file__).with_name("lives.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield Lives(server, recipe, recipe.with_name("life.log"))
        assert server.stdin is not None
        server.stdin.close()


def fingerprint(out: Path) -> dict[str, str]:
    """SHA-256 of everything that a run is: weights, averages, optimizer, every loss, and the model made of them."""
    last = out / f"checkpoint-{STEPS:08d}"
    files = [*sorted(last.glob("*.safetensors")), out / "loss.jsonl", out / "model" / "weights.safetensors"]
    return {file.name if file.parent != last else f"last/{file.name}": _sha256(file) for file in files}


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(live: Lives, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The fingerprint of a run that was never stopped."""
    out = tmp_path_factory.mktemp("whole")
    death = live(out)
    assert death.code == 0, death.said
    prints = fingerprint(out)
    rows = [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "score" in row] == [*range(7, STEPS, 7), STEPS]
    assert prints.keys() == {
        *(f"last/{part}.safetensors" for part in ("weights", "optimizer", "ema-0", "ema-1", "best")),
        "loss.jsonl",
        "weights.safetensors",
    }
    return prints


def moments(seed: int) -> list[tuple[str, int]]:
    """Twenty moments: two in each phase, by its number of entries, and the rest at any function call of the process."""
    chance = random.Random(seed)
    reach = {
        "start-up": 4,
        "step": 5,
        "mid-accumulation": 5,
        "update": 10,
        "validating": 1,
        "sampling": 2,
        "evaluating": 1,
        "saving": 30,
    }
    chosen = [(phase, chance.randint(1, reach[phase])) for phase in PHASES for _ in range(2)]
    chosen += [("call", chance.randint(1, 150_000)) for _ in range(KILLS - len(chosen))]
    chance.shuffle(chosen)
    return chosen


def test_a_run_killed_at_twenty_moments_ends_as_one_that_was_never_killed(
    live: Lives, whole: dict[str, str], tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    landed, after_a_checkpoint = [], 0
    for moment in moments(SEED):
        after_a_checkpoint += any(tmp_path.glob("checkpoint-*"))
        death = live(tmp_path, moment)
        print(moment, death.code, death.phase, sorted(p.name[-2:] for p in tmp_path.glob("checkpoint-*")))
        assert death.code == -signal.SIGKILL, f"{moment} was never reached: {death.said}"
        landed.append(death.phase)
    assert len(landed) == KILLS
    assert after_a_checkpoint >= KILLS // 2
    assert set(PHASES) <= set(landed)

    assert live(tmp_path).code == 0
    assert fingerprint(tmp_path) == whole


PARTS = ("random numbers", "averages", "learning rate", "place in the epoch", "optimizer")


@pytest.fixture(scope="module")
def killed(live: Lives, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed half-way through."""
    out = tmp_path_factory.mktemp("killed")
    assert live(out, ("mid-accumulation", STEPS * 2 // 3)).code == -signal.SIGKILL
    return out


@pytest.mark.parametrize("part", [None, *PARTS])
def test_a_restore_that_forgets_a_part_of_the_state_is_caught(
    part: str | None, live: Lives, whole: dict[str, str], killed: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(killed, tmp_path / "run"))
    death = live(out, forget=part)
    assert death.code == 0, death.said
    assert (fingerprint(out) == whole) == (part is None)


def test_sigterm_saves_the_step_says_how_to_resume_and_fails_the_command(
    live: Lives, whole: dict[str, str], tmp_path: Path
) -> None:
    for phase in PHASES:
        death = live(tmp_path, (phase, 1), signal.SIGTERM)
        assert death.code == 2, f"{phase}: {death.said}"
        assert "stopped" in death.said and "resume: sfumato train these pictures" in death.said, phase
        if phase != "start-up":
            log = (tmp_path / "loss.jsonl").read_text().splitlines()
            done = json.loads(log[-1])["step"] if log else 0
            assert (tmp_path / f"checkpoint-{done:08d}").is_dir(), f"{phase}: step {done} was not saved"
    assert live(tmp_path).code == 0
    assert fingerprint(tmp_path) == whole


def test_a_second_sigterm_ends_the_process_at_once_and_the_run_still_goes_on(
    live: Lives, whole: dict[str, str], tmp_path: Path
) -> None:
    for moment in [("step", 5), ("saving", 4), ("saving", 9)]:
        death = live(tmp_path, moment, signal.SIGTERM, again=True)
        assert death.code == 128 + signal.SIGTERM, death.said
    assert live(tmp_path).code == 0
    assert fingerprint(tmp_path) == whole


def test_a_terminal_that_closes_and_says_so_twice_costs_no_step(
    live: Lives, whole: dict[str, str], tmp_path: Path
) -> None:
    death = live(tmp_path, ("step", 5), signal.SIGHUP, again=True)
    assert death.code == 2, death.said
    done = json.loads((tmp_path / "loss.jsonl").read_text().splitlines()[-1])["step"]
    assert (tmp_path / f"checkpoint-{done:08d}").is_dir()
    assert live(tmp_path).code == 0
    assert fingerprint(tmp_path) == whole


def test_the_command_line_resumes_in_new_processes(recipe: Path, live: Lives, tmp_path: Path) -> None:
    plain = tmp_path / "plain.yaml"  # the command's own judge would learn features for a minute
    plain.write_text(recipe.read_text().replace("evaluate_every: 7", "evaluate_every: 0"))
    assert replace(live, recipe=plain)(tmp_path / "whole").code == 0
    whole = fingerprint(tmp_path / "whole")
    recipe, out, chance = plain, tmp_path / "run", random.Random(SEED)
    command = [sys.executable, "-m", "sfumato", "train", "--recipe", str(recipe), "--out", str(out)]

    def steps() -> int:
        return max((int(folder.name[-8:]) for folder in out.glob("checkpoint-*")), default=0)

    kills = 0
    for sent in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        start, wanted = steps(), chance.randint(1, STEPS // 6)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and steps() < start + wanted:
                time.sleep(0.002)
            process.send_signal(sent)
            _, told = process.communicate(timeout=60)
        kills += process.returncode == -signal.SIGKILL
        if sent == signal.SIGTERM:
            assert process.returncode == 2
            assert f"resume: sfumato train --recipe {recipe} --out {out}" in told
    assert kills == 2
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert fingerprint(out) == whole
