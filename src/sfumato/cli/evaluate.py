"""`sfumato evaluate`: how good a model is, in numbers."""

from __future__ import annotations

import json
from pathlib import Path

from sfumato.cli.progress import Terminal
from sfumato.errors import UserError, unknown

METRICS = ("nll",)


def evaluate(
    model: str,
    data: str,
    /,
    *,
    metrics: tuple[str, ...] = METRICS,
    n: int = 32,
    steps: int = 1000,
    probes: int = 4,
    seed: int = 0,
    out: Path = Path("evaluation"),
) -> None:
    """Measure a model on pictures that it was not trained on.

    Parameters
    ----------
    model
        Name of a model in the package, or a run or model folder.
    data
        Folder of pictures, or the name of a public data set; of the training data, held-out pictures are taken.
    metrics
        What to measure. nll: negative log likelihood in bits per dimension, by two bounds and the probability-flow ODE.
    n
        Pictures at most.
    steps
        Steps of the chain whose bound is measured.
    probes
        Random vectors a picture for the divergence of the ODE; two or more give an interval.
    seed
        Of the choice of pictures and of all draws; the same seed gives the same numbers.
    out
        Folder for report.json, kl.csv and kl.svg.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
    for name, value, least in (("n", n, 1), ("steps", steps, 2), ("probes", probes, 1)):
        if value < least:
            raise UserError(f"evaluate: {name} = {value} is not possible", f"set --{name} to {least} or more")

    from sfumato.evaluation.nll import nll
    from sfumato.evaluation.nll_report import kl_csv, kl_svg, numbers, text
    from sfumato.evaluation.pictures import pictures_for
    from sfumato.generation.draw import open_model

    with Terminal() as terminal:
        opened = open_model(model)
        pictures = pictures_for(opened, data, n, seed, out / "data", terminal)
        found = nll(opened, pictures, steps, probes, seed, terminal)

    about = {
        "model": {"name": opened.config.name, "weights_sha256": opened.fingerprint},
        "data": {"path": data, "manifest_sha256": pictures.manifest, "held_out": pictures.held_out},
        "pictures": list(pictures.names),
        "seed": seed,
        "nll": numbers(found),
    }
    written = {
        "report.json": json.dumps(about, indent=1) + "\n",
        "kl.csv": kl_csv(found, opened.denoiser.process.schedule),
        "kl.svg": kl_svg(found),
    }
    for name, content in written.items():
        (out / name).write_text(content, encoding="utf-8")
    which = f"{len(pictures.keys)} {'held-out ' if pictures.held_out else ''}pictures of {data}"
    print(f"bits/dim of {which}, with intervals of 95 % over pictures\n\n{text(found)}\n")
    print(f"{', '.join(written)} in {out.resolve()}")
