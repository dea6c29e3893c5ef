"""`sfumato evaluate`: how good a model is, in numbers."""

from __future__ import annotations

from pathlib import Path

from sfumato import settings_yaml
from sfumato.cli.progress import Terminal
from sfumato.errors import UserError, unknown


def evaluate(
    model: str,
    data: str,
    /,
    *,
    metrics: tuple[str, ...] | None = None,
    n: int = 500,
    steps: int | None = None,
    solver: str | None = None,
    guidance: float | None = None,
    nll_n: int = 32,
    chain: int = 1000,
    probes: int = 4,
    template: tuple[str, ...] = (),
    attributes: Path | None = None,
    alarm: float = 0.1,
    inception: tuple[str, ...] = (),
    seed: int = 0,
    out: Path = Path("evaluation"),
) -> None:
    """Measure a model on real pictures, in one report.

    Parameters
    ----------
    model
        Name of a model in the package, or a run or model folder.
    data
        Folder of data, or the name of a public data set; best the training data.
    metrics
        What to measure; by default everything that model and data allow, except nll, which takes long.
        quality: distances, fidelity and diversity in two or more feature spaces, class accuracy.
        statistics: sharpness and colours.
        speed: pictures per second.
        nll: bits per dimension, by two bounds and the probability-flow ODE.
        memorization: copies of training pictures.
        membership: whether the loss tells training pictures from others.
        alignment: how well the pictures follow their prompts.
        bias: shares of labels, or of words by template.
        duplicates: near-duplicates in the training data.
    n
        Number of pictures to draw, and of real ones to compare them with.
    steps
        Steps from noise to picture; the model's own by default.
    solver
        Solver that draws; the model's own by default.
    guidance
        How strictly to follow the prompt; the model's own by default.
    nll_n
        Number of pictures, at most, for the likelihood.
    chain
        Steps of the chain for the variational bound.
    probes
        Random vectors for each picture for the divergence of the ODE; two or more give an interval.
    template
        Prompt for bias that leaves an attribute open, such as "a doctor"; may be given several times.
    attributes
        YAML file of attributes for bias: `attribute: {value: [word, word]}`; gender and skin tone by default.
    alarm
        Total variation from the data, 0 to 1, above which bias raises an alarm.
    inception
        File with the weights of Inception, for the published FID.
    seed
        Seed of every random choice and draw; the same seed gives the same numbers.
    out
        Folder for index.html, report.json and more; the same command goes on where it was stopped.
    """
    for name, value, least in (("n", n, 16), ("nll-n", nll_n, 1), ("chain", chain, 2), ("probes", probes, 1)):
        if value < least:
            raise UserError(f"evaluate: {name} = {value} is not possible", f"set --{name} to {least} or more")

    if not 0 <= alarm <= 1:
        raise UserError(f"evaluate: alarm = {alarm} is not possible", "set --alarm to a number from 0 to 1")

    from sfumato.evaluation.report_page import written
    from sfumato.evaluation.run import evaluate as measured
    from sfumato.evaluation.settings import BY_DEFAULT, METRICS, Groups, Likelihoods, Measuring
    from sfumato.generation.draw import open_model
    from sfumato.measures.probes import read_attributes
    from sfumato.page import folder

    for metric in metrics or ():
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
    own = read_attributes(settings_yaml.read(attributes), str(attributes)) if attributes else ()
    how = Measuring(
        metrics=metrics or BY_DEFAULT,
        n=n,
        seed=seed,
        likelihoods=Likelihoods(nll_n, chain, probes),
        groups=Groups(template, own, alarm),
        inception=inception,
        strict=metrics is not None,
    )
    with Terminal() as terminal:
        opened = open_model(model)
        settings = opened.sampling(steps=steps, solver=solver, guidance=guidance)
        folder(out)
        found = measured(opened, data, settings, how, out, terminal)
    print(written(out, f"Evaluation of {opened.config.name}", found))
