"""`sfumato release`: the gate before a model leaves the house."""

from __future__ import annotations

from pathlib import Path

from sfumato.cli.progress import Terminal
from sfumato.errors import UserError


def release(
    model: str,
    data: str | None = None,
    /,
    *,
    recipe: str | None = None,
    at_most: tuple[str, ...] = (),
    at_least: tuple[str, ...] = (),
    n: int = 500,
    nll_n: int = 16,
    seed: int = 0,
    out: Path = Path("release"),
) -> int:
    """Check a model, then write it with its cards or say why not; exits with 1 if it is refused.

    It checks the thresholds, that the data are the training data, that the code was committed, and that every source
    has an allowed licence.

    Parameters
    ----------
    model
        Name of a model in the package, or a run or model folder.
    data
        The training data; by default the place where the training read them.
    recipe
        Recipe whose group `release` gives the thresholds; by default the recipe of the training.
    at_most
        One more upper threshold, e.g. membership.auc=0.6 or "memorization-*.near-copies=0.01".
        May be given several times.
    at_least
        One more lower threshold, e.g. accuracy.all=0.9; may be given several times.
    n
        Number of pictures to draw, and of real ones to compare them with.
    nll_n
        Number of pictures, at most, for the likelihood, if a threshold demands it.
    seed
        Seed of every random choice and draw.
    out
        Folder for the report, release.json, data-card.md and, if released, model/.
    """
    if n < 16:
        raise UserError(f"release: n = {n} is not possible", "set --n to 16 or more")

    from sfumato.config import load_recipe
    from sfumato.evaluation import release as gate
    from sfumato.evaluation.pictures import material_for
    from sfumato.evaluation.report import told
    from sfumato.evaluation.report_page import written
    from sfumato.evaluation.run import evaluate
    from sfumato.evaluation.settings import METRICS, Likelihoods, Measuring
    from sfumato.generation.draw import model_folder
    from sfumato.model import Model
    from sfumato.page import folder

    place = model_folder(model)
    opened = Model.load(place)
    demands = load_recipe(recipe).release if recipe is not None else opened.config.release
    demands = demands.model_copy(
        update={
            "at_most": {**demands.at_most, **dict(map(threshold, at_most))},
            "at_least": {**demands.at_least, **dict(map(threshold, at_least))},
        }
    )
    named = [*demands.at_most, *demands.at_least]
    metrics = [metric for metric in METRICS if metric != "nll" or any(name.startswith("nll") for name in named)]
    how = Measuring(metrics, n, seed, likelihoods=Likelihoods(nll_n))
    path = data or opened.config.data.path
    with Terminal() as terminal:
        folder(out)
        material = material_for(opened, path, out / "data", terminal)
        for why in gate.foreseen(named, material, n):
            terminal.say(f"this release will be refused: {why}")
        found = evaluate(opened, path, opened.sampling(), how, out, terminal)
    parts, trained_on = told(found.parts), material.data
    checks = [
        *gate.threshold_checks(parts, demands, found.left_out),
        *gate.lineage_checks(opened, trained_on),
        *gate.licence_checks(trained_on, demands),
    ]
    if not named:
        found.words.append("there are no thresholds: set release.at_most and release.at_least in the recipe")
    passed = gate.released(place, trained_on, parts, checks, out)
    title = f"Release of {opened.config.name}"
    print(written(out, title, found, [gate.section(checks)]))
    print(f"\n{gate.verdict(checks)}")
    return 0 if passed else 1


def threshold(text: str) -> tuple[str, float]:
    """ "part.row=0.5" -> its name and number."""
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise UserError(f"release: {text!r} is no threshold", "write it as part.row=number") from None
