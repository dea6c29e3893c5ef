"""Claim 6: what attention, depth and width of the U-Net are worth at equal training.

    python benchmarks/claims/networks.py

Each variant trains the same number of steps on the same pictures, with three seeds; the table has the loss on held-out
pictures, the Fréchet distance of drawn pictures (see `common`), parameters and the arithmetic of one evaluation.
"""

import argparse

from common import SEEDS, Features, frechet, head, row, shown, trained
from solvers import BATCH, draw
from torch.utils.flop_counter import FlopCounterMode

STEPS = 600
VARIANTS = {
    "baseline": [],
    "attention in the bottleneck only": ["network.attention_level=null"],
    "attention at 14 x 14": ["network.attention_level=0"],
    "1 block a stage": ["network.blocks=1"],
    "3 blocks a stage": ["network.blocks=3"],
    "half as wide": ["network.channels=16", "network.groups=16"],
    "twice as wide": ["network.channels=64"],
    "time scales and shifts": ["network.scale_shift=true"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    arguments = parser.parse_args()

    features = Features()
    real = features(features.test)
    head("network", "parameters", "validation loss", "Fréchet distance", "multiply-adds of an evaluation")
    for name in arguments.variants:
        models = [trained(f"network-{name.replace(' ', '-')}", VARIANTS[name], seed, STEPS) for seed in SEEDS]
        records = [model.record for model in models]
        sets = [draw(model, "dpm++2m", "log-snr", 20, arguments.pictures, seed) for seed, model in enumerate(models)]
        with FlopCounterMode(display=False) as counted:
            draw(models[0], "ddim", "uniform", 1, 1, 0)
        row(
            name,
            f"{records[0]['parameters']:,}",
            shown([record["validation_loss"] for record in records], 4),
            shown([frechet(features(x), real) for x in sets], 2),
            f"{counted.get_total_flops() / 2 / BATCH / 1e6:.0f} M",
        )


if __name__ == "__main__":
    main()
