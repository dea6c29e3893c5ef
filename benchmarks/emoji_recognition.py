"""Does the default model draw the thing that it is asked for? The nearest real emoji say how often.

    sfumato data get emoji
    python benchmarks/emoji_recognition.py src/sfumato/models/emoji

For 500 of the things in the data (chosen by seed), the model draws one picture from the thing's name alone. Its nearest
real pictures are looked up among all drawings of all things, by the squared distance of 16 x 16 averages. The table
says how often a drawing of that thing is the nearest (or among the five nearest). For comparison, the same search looks
up real pictures: how often is the nearest drawing in *another* style one of the same thing? Chance is under 0.1 %.

A high score says that the model draws what the word means. It also draws close to what it has seen, as its card says.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from sfumato.data.catalogue import get
from sfumato.data.preparation import prepare
from sfumato.data.readers.pictures import Pictures
from sfumato.data.sources import open_source
from sfumato.model import Model

THINGS = 500


def features(pixels: Tensor) -> Tensor:
    """Pictures (N, H, W, 3) of bytes -> averages over a 16 x 16 grid, (N, 768)."""
    return torch.nn.functional.adaptive_avg_pool2d(pixels.permute(0, 3, 1, 2) / 255, 16).flatten(1)


def style_of(path: str) -> int:
    """A number for the style of a picture, which is the first folder of its path."""
    return ["fluent", "noto", "twemoji"].index(Path(path).parts[0])


def found(distances: Tensor, names: list[str], wanted: list[str]) -> tuple[float, float]:
    """How often the nearest, and one of the five nearest, of ``names`` is the wanted one; distances (N, M)."""
    nearest = [[names[i] for i in row] for row in distances.topk(5, largest=False).indices.tolist()]
    first = sum(row[0] == name for row, name in zip(nearest, wanted, strict=True))
    five = sum(name in row for row, name in zip(nearest, wanted, strict=True))
    return first / len(wanted), five / len(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the saved model")
    parser.add_argument("--things", type=int, default=THINGS)
    parser.add_argument("--json", type=Path, help="write the numbers")
    arguments = parser.parse_args()

    model = Model.load(arguments.model)
    with tempfile.TemporaryDirectory() as cache:
        data = prepare(open_source(get("emoji")), Pictures(model.codec.shape[-1]), cache)
        real = features(torch.tensor(data.rows[:]))
        names = [captions[0] for captions in data.captions]
        styles = torch.tensor([style_of(row["path"]) for row in data.manifest])

    distances = torch.cdist(real, real)
    distances[styles[:, None] == styles[None, :]] = torch.inf
    count = Counter(names)
    asked = [i for i, name in enumerate(names) if count[name] > 1]
    ceiling = found(distances[asked], names, [names[i] for i in asked])
    print(f"real pictures, nearest in another style: {ceiling[0]:.1%} first, {ceiling[1]:.1%} among five", flush=True)

    things = sorted(set(names))
    order = torch.randperm(len(things), generator=torch.Generator().manual_seed(0))
    wanted = [things[i] for i in order[: arguments.things].tolist()]
    begin = time.perf_counter()
    drawn = model.generate(wanted, seed=7)
    seconds = time.perf_counter() - begin
    size = model.codec.shape[-1]
    pixels = torch.stack([torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in drawn])
    score = found(torch.cdist(features(pixels.view(-1, size, size, 3)), real), names, wanted)
    print(f"{len(wanted)} drawn pictures: {score[0]:.1%} first, {score[1]:.1%} among five ({seconds:.0f} s)")

    if arguments.json:
        numbers = {"real": ceiling, "drawn": score, "things": len(wanted)}
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
