"""What the code of docs/your-own-parts.md gives: its blocks, run as they stand, and a judge of what it draws.

    python benchmarks/own_parts.py [--steps 4000]

The judge is scikit-learn's support vector machine, fitted to the digits that the run learnt from; digits that it held
out say how far the judge is to be believed.
"""

import argparse
import os
import re
import tempfile
from pathlib import Path

import numpy as np
from sklearn.svm import SVC

PAGE = Path(__file__).parents[1] / "docs" / "your-own-parts.md"
DRAWN = 20  # of every digit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4000)
    steps = parser.parse_args().steps
    page = PAGE.read_text("utf-8").replace("training.steps=4000", f"training.steps={steps}")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    names: dict = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)

    model, data = names["model"], names["Digits"]()
    from sfumato.data.dataset import Dataset

    train, held_out = Dataset(folder / "runs" / "digits" / "data").split(model.config.data.validation)
    judge = SVC(gamma=0.001).fit(  # pyright: ignore[reportArgumentType]
        data.images[train].reshape(len(train), -1), data.labels[train]
    )
    right = judge.predict(data.images[held_out].reshape(len(held_out), -1)) == data.labels[held_out]
    asked = np.repeat(np.arange(10), DRAWN)
    rows = [
        model.codec.decode(x)
        for _, x in model.drawn([{"class": str(n)} for n in asked], range(len(asked)), model.sampling())
    ]
    drawn = judge.predict(np.concatenate(rows).reshape(len(asked), -1)) == asked
    print(f"parameters: {model.record['parameters']:,}; hours: {model.record['hours']:.3f}")
    print(f"validation losses: {', '.join(f'{loss:.4f}' for loss in names['losses'])}")
    print(f"read rightly: {right.mean():.3f} of {len(right)} held out, {drawn.mean():.3f} of {len(drawn)} drawn")


if __name__ == "__main__":
    main()
