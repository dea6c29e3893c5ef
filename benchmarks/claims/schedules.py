"""Claim 1: at equal training the cosine schedule needs fewer bits per dimension than the linear one.

    python benchmarks/claims/schedules.py

Improved DDPM (Nichol & Dhariwal 2021, table 1) says so for CIFAR-10. Here both train the same small network on
Fashion-MNIST with the simple loss (the mean squared error of the noise, uniform times) and are measured by the bound of
1,000 steps on pictures of the test part. The network predicts v, because the noise cannot be a target on the cosine
schedule, where alpha(1) is 5e-5.
"""

import argparse

from common import SEEDS, Features, bits, head, row, shown, trained

STEPS = 1200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100, help="of the test part")
    parser.add_argument("--schedules", nargs="+", default=["linear", "cosine"])
    arguments = parser.parse_args()

    x = Features().test[: arguments.pictures]
    simple = ["diffusion.parameterization=v", "objective.weight=simple", "times.kind=uniform"]
    head("schedule", "L_T", "sum of KL", "L_0", "bits/dim")
    for schedule in arguments.schedules:
        models = [trained(f"schedule-{schedule}", [f"diffusion.schedule={schedule}", *simple], s, STEPS) for s in SEEDS]
        found = [bits(model, x) for model in models]
        row(schedule, *(shown([f[part] for f in found]) for part in ("prior", "kl", "decoder", "total")))


if __name__ == "__main__":
    main()
