"""`sfumato explain`: the mathematics, and a model, on one page."""

from __future__ import annotations

from pathlib import Path

from sfumato.cli.progress import Terminal


def explain(
    model: str | None = None,
    /,
    *,
    picture: Path | None = None,
    prompt: str | None = None,
    out: Path = Path("explained"),
    steps: int | None = None,
    seed: int = 0,
) -> int:
    """Show the mathematics, and a model at work, on one page.

    Parameters
    ----------
    model
        Name of a model in the package, or a run or model folder; without one, the mathematics alone.
    picture
        A picture file to turn into noise; by default one that the model draws, or one made by a formula.
    prompt
        What the model draws.
    out
        Folder for the page (index.html) and its pictures.
    steps
        Steps from noise to picture; the model's own by default, 50 without a model.
    seed
        Seed of all random choices on the page; the same seed gives the same page.
    """
    from sfumato.explain.report import explain as make
    from sfumato.generation.draw import open_model

    with Terminal() as terminal:
        opened = open_model(model) if model else None
        path = make(out, opened, picture, prompt, steps, seed, terminal)
    print(path.resolve())
    return 0
