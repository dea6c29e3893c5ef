"""Does a class-conditional model draw what it is asked for? A classifier trained on real pictures says how often.

    sfumato data get fashion-mnist
    sfumato train --recipe fashion
    python benchmarks/fashion_accuracy.py runs/fashion/model --sheet docs/images/fashion.png

A small convolutional classifier learns Fashion-MNIST's 60,000 training pictures; its accuracy on the 10,000 test
pictures is given for comparison. Then the model draws 100 pictures of each class, and the table gives the share that
the classifier takes for the class that was asked for. The classifier never sees a drawn picture in training.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.codecs.grid import labelled_grid
from sfumato.codecs.pixels import Pixels
from sfumato.data.catalogue import get
from sfumato.data.preparation import prepare
from sfumato.data.readers.pictures import Pictures
from sfumato.data.sources import open_source
from sfumato.model import Model

PER_CLASS = 100
EPOCHS, BATCH = 3, 128


def classifier(classes: int) -> nn.Sequential:
    """A plain convolutional network for 28 x 28 grey pictures in [-1, 1]."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        *block(1, 32), *block(32, 64), *block(64, 128), nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 9, classes)
    )


def real(folder: Path, size: int, part: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Pictures (N, 1, size, size) in [-1, 1], labels (N,) and class names of one part of the data set."""
    source = open_source(folder / f"{part}-images-idx3-ubyte.gz")
    with tempfile.TemporaryDirectory() as cache:
        data = prepare(source, Pictures(size, 1), cache)
        assert data.labels is not None
        return Pixels(size, 1).encode(data.rows[:]), torch.tensor(data.labels), data.classes


def train(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Three epochs of AdamW with a cosine rate and mirrored pictures."""
    steps = EPOCHS * len(x) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for step in range(steps):
        if step % (len(x) // BATCH) == 0:
            order = torch.randperm(len(x))
        at = step % (len(x) // BATCH) * BATCH
        chosen = order[at : at + BATCH]
        batch = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, x[chosen].flip(-1), x[chosen])
        loss = nn.functional.cross_entropy(net(batch), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()


@torch.inference_mode()
def classify(net: nn.Module, x: Tensor) -> Tensor:
    """The class index of each picture (N,)."""
    net.eval()
    return torch.cat([net(part).argmax(1) for part in x.split(1000)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the saved model")
    parser.add_argument("--sheet", type=Path, help="write a sheet of ten pictures a class")
    parser.add_argument("--json", type=Path, help="write the numbers")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = Model.load(arguments.model)
    folder, size = get("fashion-mnist"), model.codec.shape[-1]
    x, y, classes = real(folder, size, "train")
    net = classifier(len(classes))
    train(net, x, y)
    x, y, _ = real(folder, size, "t10k")
    ceiling = (classify(net, x) == y).float().mean().item()
    print(f"classifier on {len(x):,} real test pictures: {ceiling:.1%}", flush=True)

    begin, drawn = time.perf_counter(), {}
    for name in model.classes:
        drawn[name] = model.generate(name, n=PER_CLASS, seed=0)
        print(f"drew {name}", flush=True)
    seconds = time.perf_counter() - begin

    right = {}
    for name, pictures in drawn.items():
        pixels = torch.stack([torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in pictures])
        found = classify(net, model.codec.encode(pixels.view(-1, size, size, 1).numpy()))
        right[name] = (found == classes.index(name)).float().mean().item()
        print(f"{name:<14}{right[name]:.0%}")
    accuracy = sum(right.values()) / len(right)
    count = PER_CLASS * len(right)
    print(f"class accuracy on {count:,} drawn pictures: {accuracy:.1%} ({count / seconds:.1f} pictures/s)")

    if arguments.sheet:
        arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
        rows = [(p, name) for name, pictures in drawn.items() for p in pictures[:10]]
        labelled_grid([p for p, _ in rows], [name for _, name in rows], 10, tile=56).save(arguments.sheet)
    if arguments.json:
        numbers = {"real_test": ceiling, "drawn": accuracy, "by_class": right, "pictures_per_second": count / seconds}
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
