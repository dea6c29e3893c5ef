"""Does a model learn by heart what it sees often, and does the scan for near-duplicates prevent it?

    python benchmarks/memorization.py
    python benchmarks/memorization.py --seeds 0 1 2

Nine pictures of Fashion-MNIST, each of another class, are planted among others: three once, three ten times, three a
hundred times. Every copy is compressed and brightened a little differently, so that no two files are equal. A small
model is trained on all of it, another on the rest after the scan, and both draw pictures of the nine classes. A drawn
picture counts as extracted if it is nearer to the planted picture, in the space of pixels, than all but 0.1 % of real
test pictures are to any training picture (see `sfumato.measures.memorization`). Extraction should rise with the number
of copies, and fall when they are gone.

Runs are kept in runs/memorization; the same command goes on where it was stopped.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from scipy.stats import binomtest
from torch import Tensor

from sfumato import load_recipe, train
from sfumato.cli.progress import Terminal
from sfumato.codecs.grid import labelled_grid
from sfumato.codecs.pixels import Pixels
from sfumato.data.catalogue import get
from sfumato.data.dataset import Dataset
from sfumato.data.duplicates import find_duplicates
from sfumato.data.preparation import prepare
from sfumato.data.readers.pictures import Pictures
from sfumato.data.sources import open_source
from sfumato.evaluation.samples import draw_samples
from sfumato.keyed import generator, key
from sfumato.measures.memorization import QUANTILE, nearness
from sfumato.model import Model
from sfumato.report import Report

OUT = Path("runs/memorization")
TIMES = (1, 10, 100)
EACH = 3  # pictures for each number of copies
CONTROL = 4000  # test pictures that set the threshold
SETTINGS = (
    "data.validation=0",
    "network.channels=32",
    "training.sample_every=100000",
    "training.validate_every=100000",
    "training.checkpoint_every=300",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=3000, help="of training")
    parser.add_argument("--pictures", type=int, default=600, help="beside those that are planted, of all ten classes")
    parser.add_argument("--draws", type=int, default=64, help="a planted picture")
    arguments = parser.parse_args()

    found: dict[tuple[str, int], list[np.ndarray]] = {}
    with Terminal() as terminal:
        for seed in arguments.seeds:
            out = OUT / f"{arguments.pictures}-{arguments.steps}-{seed}"
            for arm, folder in folders(out, arguments.pictures, seed, terminal).items():
                model = trained(out / arm, folder, seed, arguments.steps, terminal)
                for times, hits in extracted(model, out, arm, seed, arguments.draws, terminal).items():
                    found.setdefault((arm, times), []).append(hits)

    print("\n| training set | copies | extracted | of draws | 95 % | by seed |\n|---|---|---|---|---|---|")
    for (arm, times), by_seed in found.items():
        hits = np.concatenate(by_seed)
        ends = binomtest(int(hits.sum()), len(hits)).proportion_ci()
        seeds = ", ".join(f"{each.mean():.1%}" for each in by_seed)
        print(f"| {arm} | {times} | {hits.mean():.1%} | {len(hits)} | {ends.low:.1%} to {ends.high:.1%} | {seeds} |")


# --- data ------------------------------------------------------------------------------------------------------------


def real(part: str, report: Report) -> Dataset:
    """A part of Fashion-MNIST."""
    source = open_source(get("fashion-mnist") / f"{part}-images-idx3-ubyte.gz")
    return prepare(source, Pictures(28, 1), OUT / part, progress=lambda a, b: report.progress(f"reading {part}", a, b))


def folders(out: Path, pictures: int, seed: int, report: Report) -> dict[str, Path]:
    """The two training sets; `planted.json` names the planted pictures and `planted.npy` holds them."""
    arms = {arm: out / f"{arm} pictures" for arm in ("as planted", "scanned")}
    if (out / "planted.json").exists():
        return arms

    data = real("train", report)
    assert data.labels is not None
    order = torch.randperm(len(data), generator=generator(seed, "pictures")).tolist()
    planted: list[int] = []  # the first of each of nine classes
    for index in order:
        if len(planted) < EACH * len(TIMES) and data.labels[index] not in {data.labels[i] for i in planted}:
            planted.append(index)
    others = [index for index in order if index not in planted][:pictures]

    first = arms["as planted"]
    first.mkdir(parents=True, exist_ok=True)
    for index in others:
        save(data, index, first, f"other-{index}")
    facts = []
    for place, index in enumerate(planted):
        times = TIMES[place // EACH]
        for copy in range(times):
            save(data, index, first, f"planted-{index}-{copy:03}", key(seed, index, copy) if copy else None)
        facts.append({"index": index, "label": str(data.labels[index]), "times": times})

    whole = prepare(open_source(first), Pictures(28, 1), out / "to scan")
    duplicates = find_duplicates(whole, Pixels(28, 1), lambda a, b: report.progress("scanning", a, b))
    duplicates.save(out / "duplicates.json")
    names = [row["path"] for row in whole.manifest]
    kept = [names[i] for i in duplicates.keep()]
    for path in kept:
        target = arms["scanned"] / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((first / path).read_bytes())
    left = [sum(f"planted-{fact['index']}-" in path for path in kept) for fact in facts]
    report.say(f"the scan keeps {len(kept)} of {len(whole)} pictures; of the nine that were planted {left}")

    np.save(out / "reference.npy", data.rows[planted + others])
    (out / "planted.json").write_text(json.dumps(facts, indent=1))
    return arms


def save(data: Dataset, index: int, folder: Path, name: str, change: int | None = None) -> None:
    """Write a picture to its class's folder; a copy is a little brighter or darker, and compressed."""
    assert data.labels is not None
    place = folder / str(data.labels[index])
    place.mkdir(exist_ok=True)
    picture = Image.fromarray(data.rows[index][:, :, 0])
    if change is None:
        picture.save(place / f"{name}.png")
        return
    random = np.random.default_rng(change)
    picture = ImageEnhance.Brightness(picture).enhance(random.uniform(0.95, 1.0))
    picture.save(place / f"{name}.jpg", quality=int(random.integers(85, 96)))


# --- models ----------------------------------------------------------------------------------------------------------


def trained(out: Path, folder: Path, seed: int, steps: int, report: Report) -> Model:
    """The model of one training set, from its folder or trained now."""
    if not (out / "model" / "model.json").exists():
        report.say(f"training on {folder}")
        settings = [
            *SETTINGS,
            f"data.path={json.dumps(str(folder))}",
            f"training.steps={steps}",
            f"training.seed={seed}",
        ]
        train(load_recipe("fashion", settings), out, report)
    return Model.load(out / "model").eval()


def extracted(model: Model, out: Path, arm: str, seed: int, draws: int, report: Report) -> dict[int, np.ndarray]:
    """By number of copies: whether each drawn picture is a near-copy of the planted one. It also writes a sheet."""
    planted = json.loads((out / "planted.json").read_text())
    reference = np.load(out / "reference.npy")
    asked = [fact["label"] for fact in planted for _ in range(draws)]
    drawn = draw_samples(model, asked, model.sampling(guidance=1.0), seed, out / arm / "drawn", report).rows

    test = real("t10k", report).rows[:CONTROL]
    known, control = pixels(reference), pixels(test)
    threshold = nearness(control, known, control, itself=True).nearness.quantile(QUANTILE)
    found = nearness(pixels(drawn), known, control)
    copies = (found.nearness <= threshold) & (found.training == torch.arange(len(planted)).repeat_interleave(draws))

    tiles, labels = [], []
    for place, fact in enumerate(planted):
        of_place = found.nearness[place * draws : (place + 1) * draws]
        nearest = of_place.argsort()[:5].tolist()
        tiles += [Image.fromarray(reference[place, :, :, 0])]
        labels += [f"x {fact['times']}"]
        tiles += [Image.fromarray(drawn[place * draws + i, :, :, 0]) for i in nearest]
        labels += [f"{of_place[i]:.2f}{' copy' if copies[place * draws + i] else ''}" for i in nearest]
    labelled_grid(tiles, labels, 6, tile=84).save(out / f"{arm}.png")

    by_times: dict[int, list[np.ndarray]] = {}
    for fact, hits in zip(planted, copies.view(len(planted), draws).numpy(), strict=True):
        by_times.setdefault(fact["times"], []).append(hits)
    return {times: np.concatenate(hits) for times, hits in by_times.items()}


def pixels(pictures: np.ndarray) -> Tensor:
    """uint8 (N, H, W, C) -> features (N, D), the values themselves from 0 to 1."""
    return torch.from_numpy(np.array(pictures)).flatten(1).float() / 255


if __name__ == "__main__":
    main()
