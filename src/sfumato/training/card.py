"""The model card (Mitchell et al. 2019): what the model is, what it saw, how it was made, and what it cannot do."""

from collections import Counter
from pathlib import Path
from typing import Any

from sfumato import kinds
from sfumato.bounded import parse_json
from sfumato.config import Config
from sfumato.data.dataset import Dataset
from sfumato.plots import BLUE, RED, Curve, plot
from sfumato.training.best import Score


def licences(data: Dataset) -> list[tuple[str, str, int]]:
    """(source, licence, pictures) of the data, most pictures first."""
    counts = Counter((row.get("source", "not stated"), row.get("licence", "not stated")) for row in data.manifest)
    return [(source, licence, n) for (source, licence), n in counts.most_common()]


def read_losses(path: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(step, training loss) and (step, validation loss) of a run's loss.jsonl; damaged lines are left out, because no
    single line matters to a curve."""
    rows = [row for line in path.read_bytes().splitlines() if (row := row_of(line)) is not None]
    training, validation = (
        [(row["step"], float(row[name])) for row in rows if isinstance(row.get(name), int | float)]
        for name in ("loss", "validation_loss")
    )
    return training, validation


def row_of(line: bytes) -> dict[str, Any] | None:
    """One line of the log; None if it is damaged."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def loss_curve(training: list[tuple[int, float]], validation: list[tuple[int, float]]) -> str:
    """An SVG of both curves; the training loss is the mean over hundredths of the run."""
    chunk = max(1, len(training) // 100)
    groups = [training[i : i + chunk] for i in range(0, len(training), chunk)]
    smooth = [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]
    points = smooth + validation
    last = max((step for step, _ in points), default=1)
    # The first hundredth is far above the rest and would flatten the curve.
    losses = [loss for step, loss in points if step > last / 100 or len(points) < 3] or [0.0, 1.0]
    low, high = min(losses), max(losses)
    margin = 0.05 * (high - low) or 0.5
    curves = [
        Curve(name, [step for step, _ in curve], [loss for _, loss in curve], colour)
        for name, curve, colour in (("training", smooth, BLUE), ("validation (EMA)", validation, RED))
    ]
    label = "Training and validation loss over the steps of the run."
    return plot(curves, label, "step", "loss", (0, last), (low - margin, high + margin), ground=True)


def model_card(config: Config, data: Dataset, record: dict) -> str:
    """The card in Markdown.

    Args:
        config: resolved settings.
        data: the training data.
        record: the model's record (seed, steps, hours, losses, environment, hashes; the best step, if chosen).
    """
    environment, held_out_loss = record["environment"], record["validation_loss"]
    track = f"EMA track {config.training.ema[config.sampling.ema]:g}"
    rows = "\n".join(f"| {source} | {licence} | {n:,} |" for source, licence, n in licences(data))
    best = {}
    if "best_step" in record:
        drawn = f"of {config.training.evaluate_pictures:,} drawn pictures"
        best["Weights"] = f"of step {record['best_step']:,}, the best of {record['evaluations']:,} evaluations"
        best["Score"] = f"{Score(**record['best_score'])} ({drawn}; the weights were chosen by it, so it flatters them)"
    facts = {
        "Task": config.about.task,
        "Shape": kinds.kind_of(config.codec).codec(config.codec).describe(),
        "Network": f"{config.network.kind}, {record['parameters'] / 1e6:.1f} M parameters",
        "Process": f"{config.diffusion.schedule} schedule, {config.diffusion.parameterization} prediction",
        "Conditions": config.conditions_in_words,
        "Steps": f"{record['steps']:,} of {config.training.batch * config.training.accumulate} pictures",
        **best,
        "Time": f"{record['hours']:.2f} hours of training steps, {record['waiting_for_data']:.1%} of it waiting for "
        "data",
        "Hardware": f"{environment['processor']}, {environment['threads']} thread(s), {environment['device']}",
        "Precision": record["precision"],
        "Seed": record["seed"],
        "Validation loss": "not measured" if held_out_loss is None else f"{held_out_loss:.4f} ({track})",
        "Software": f"sfumato {environment['sfumato']}, torch {environment['torch']}",
        "Data manifest": f"SHA-256 `{record['manifest_sha256']}`",
        "Reproduce": f"`{record['command']}`",
    }
    whole = f", in whole groups (`data.group: {config.data.group}`)" if config.data.group else ""
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""# Model card: {config.name}

{config.about.notes.strip()}

![samples](samples.png)

|  |  |
|---|---|
{table}

## Data

{len(data):,} pictures; {record["held_out"]:,} held out for the validation loss{whole}.

| source | licence | pictures |
|---|---|---|
{rows}

## Loss

![loss](loss.svg)

## Settings

```yaml
{config.to_yaml().strip()}
```
"""
