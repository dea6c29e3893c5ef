"""Training in processes that end at a chosen moment. torch is imported once; every life is a fork of this process.

Each line of standard input is one life as JSON, and one line of standard output tells how it ended:

    {"recipe": ..., "out": ..., "log": ..., "signal": 9, "at": ["saving", 3], "again": false, "forget": null}
    {"code": -9, "phase": "saving"}

``at`` is the n-th entry into a phase, or ["call", n], the n-th function call of the process: any moment at all.
``again`` sends the signal a second time at the next phase. ``forget`` breaks the restoring of one part of the state.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # what training imports late and a fork would import again: a second each
import torch.utils.tensorboard

from sfumato.config import load_recipe
from sfumato.durable import sha256
from sfumato.errors import UserError
from sfumato.keyed import Order, key
from sfumato.report import Report
from sfumato.training import best, loop, prepared, run, samples
from sfumato.training.ema import EMA
from sfumato.training.loop import Trainer
from sfumato.training.optimizers import Optimizer

COMMAND = "sfumato train these pictures"


class Moments:
    """Notes where a life is, in a file that outlives it, and sends the signal when the moment has come."""

    def __init__(self, notes: Path, order: dict[str, Any]) -> None:
        self.file = os.open(notes, os.O_RDWR | os.O_CREAT)
        self.signal, self.again = order["signal"], order["again"]
        self.phase, self.number = order["at"] or ("never", 0)
        self.counts: Counter[str] = Counter()
        self.stack = ["start-up"]
        self.calls = 0
        self.note()
        if self.phase == "call":
            sys.setprofile(self.count_call)

    def count_call(self, frame: object, event: str, argument: object) -> None:
        self.calls += event == "call"
        if self.calls == self.number:
            os.kill(os.getpid(), self.signal)

    def note(self) -> None:
        os.pwrite(self.file, self.stack[-1].ljust(32).encode(), 0)

    def enter(self, phase: str) -> None:
        self.stack.append(phase)
        self.note()
        self.counts[phase] += 1
        if self.phase == "any" or (phase, self.counts[phase]) == (self.phase, self.number):
            self.phase = "any" if self.again and self.phase != "any" else "done"
            os.kill(os.getpid(), self.signal)

    def leave(self) -> None:
        self.stack.pop()
        self.note()

    def watch(self, owner: object, name: str, phase: Callable[..., str | None]) -> None:
        """Lets a call of ``owner.name`` count as the phase that ``phase(*arguments)`` names, if any."""
        original = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            now = phase(*arguments)
            if now is None:
                return original(*arguments, **named)
            self.enter(now)
            try:
                return original(*arguments, **named)
            finally:
                self.leave()

        setattr(owner, name, watched)


def watch_training(moments: Moments) -> None:
    def always(phase: str) -> Callable[..., str]:
        return lambda *arguments: phase

    def micro_batch(trainer: Trainer, number: int) -> str:
        return "mid-accumulation" if number % trainer.config.training.accumulate else "step"

    def while_saving(*arguments: object) -> str | None:
        return "saving" if "saving" in moments.stack else None

    for owner, name in ((prepared, "prepared_data"), (prepared, "build"), (run, "claim"), (run, "newest_whole")):
        moments.watch(owner, name, always("start-up"))
    moments.watch(Trainer, "batch", micro_batch)
    moments.watch(Optimizer, "step", always("update"))
    moments.watch(EMA, "update", always("update"))
    moments.watch(Trainer, "validate", always("validating"))
    moments.watch(samples, "draw_sheet", always("sampling"))
    moments.watch(samples, "labelled_grid", always("sampling"))
    moments.watch(run, "save_checkpoint", always("saving"))
    for owner, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "unlink"), (shutil, "rmtree")):
        moments.watch(owner, name, while_saving)
    moments.watch(best.Best, "add", always("evaluating"))
    moments.watch(run, "finish", always("finishing"))


def forget(what: str) -> None:
    """Breaks the restoring of one part of the state, as a careless trainer might."""
    restore, load_state, draw, rate_factor = Trainer.restore, Optimizer.load_state, loop.draw, loop.rate_factor

    def forgetful(self: Trainer, step: int, parts: dict, frozen: str = "") -> None:
        fresh = [{name: v.clone() for name, v in track.items()} for track in self.ema.tracks]
        if what == "optimizer":
            Optimizer.load_state = lambda self, tensors: None
        restore(self, step, parts, frozen)
        Optimizer.load_state = load_state
        if what == "random numbers":
            loop.draw = lambda shape, *key, **named: draw(shape, "another process", *key, **named)
        if what == "averages":
            self.ema.tracks = fresh
        if what == "learning rate":
            loop.rate_factor = lambda now, *rest: rate_factor(now - step, *rest)
        if what == "place in the epoch":
            seen = step * self.config.training.batch * self.config.training.accumulate
            self.order = Afresh(self.order, seen)

    Trainer.restore = forgetful


class Afresh(Order):
    """An order that begins again at its first sample."""

    def __init__(self, order: Order, seen: int) -> None:
        super().__init__(order.indices, order.seed)
        self.seen = seen

    def __getitem__(self, n: int) -> int:
        return super().__getitem__(n - self.seen)


def judge(trainer: Trainer, folder: Path, report: Report) -> best.Score:
    """A score that every bit of the averaged weights decides, so that any step may be the best."""
    torch.rand(7)  # a judge may spend the process's random numbers
    report.progress("judging", 0, 1)
    weights = b"".join(p.detach().numpy().tobytes() for p in trainer.parameters.values())
    report.progress("judging", 1, 1)
    return best.Score("luck", key(sha256(weights)) / 2**63)


def live(order: dict[str, Any]) -> int:
    """One life; returns its exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as at a terminal, also if the tests run under nohup
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    watch_training(Moments(Path(order["log"]).with_suffix(".phase"), order))
    if order["forget"]:
        forget(order["forget"])
    run.judge = judge
    try:
        run.train(load_recipe(order["recipe"]), Path(order["out"]), command=COMMAND)
    except UserError as error:
        print(error)
        return 2
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def main() -> None:
    torch.set_num_threads(1)  # before any fork: a pool of threads would be lost in it
    for line in sys.stdin:
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            code = 1
            try:
                code = live(order)
            except Exception:  # noqa: BLE001 - a fault: its traceback goes to the log
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(process, 0)
        phase = Path(order["log"]).with_suffix(".phase").read_text().strip()
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "phase": phase}), flush=True)


if __name__ == "__main__":
    main()
