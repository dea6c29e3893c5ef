"""The report of `evaluate --metrics nll`: text for people, JSON for programs, the bound as CSV and SVG.

Intervals are Student's, of 95 %: over pictures they say what another choice of pictures might have given, and hold the
noise of all draws; over probes, what other probes might have given for these pictures.
"""

import csv
import io
import math
from dataclasses import asdict

import torch
from torch import Tensor

from sfumato import plots
from sfumato.diffusion.schedules import Schedule
from sfumato.measures.interval import Interval, digits, interval
from sfumato.measures.nll import NLL


def over_pictures(values: Tensor) -> Interval:
    """The interval of the mean of (B,), over the choice of pictures."""
    n = len(values)
    return interval(values.mean().item(), values.std().item() / math.sqrt(n) if n > 1 else 0.0, n - 1)


def over_probes(probes: Tensor) -> Interval:
    """The interval of the mean of (K, B), over the choice of probes."""
    count, pictures = probes.shape
    error = math.sqrt(probes.var(0).sum().item() / count) / pictures if count > 1 else 0.0
    return interval(probes.mean().item(), error, pictures * (count - 1))


def numbers(found: NLL) -> dict:
    """All means and intervals, for report.json."""
    bound, entropies = found.bound, found.bound.entropies
    return {
        "unit": "bits per dimension",
        "pictures": len(bound.prior),
        "bound": {
            "steps": len(bound.times) - 1,
            "total": asdict(over_pictures(bound.total)),
            "L_T": asdict(over_pictures(bound.prior)),
            "sum_of_KL": asdict(over_pictures(bound.kl.sum(1))),
            "L_0": asdict(over_pictures(bound.decoder)),
        },
        "entropies": {
            "total": asdict(over_pictures(entropies.total)),
            "sum_of_KL": entropies.kl.mean().item(),
            "H_p(X_T)": entropies.prior.item(),
            "H_q(X_T|X_0)": entropies.last.item(),
            "H_q(X_1|X_0)": entropies.first.item(),
            "ends": entropies.ends.mean().item(),
            "largest_difference_to_bound": difference(found),
        },
        "continuous": {
            "total": asdict(over_pictures(found.continuous.total)),
            "L_T": asdict(over_pictures(found.continuous.prior)),
            "L_inf": asdict(over_pictures(found.continuous.diffusion)),
            "L_0": asdict(over_pictures(found.continuous.decoder)),
            "standard_error_of_draws": draws_error(found),
        },
        "ode": {
            "total": asdict(over_pictures(found.ode.total)),
            "over_probes": asdict(over_probes(found.ode.probes)),
            "probes": len(found.ode.probes),
            "evaluations": found.ode.evaluations,
            "dequantisation": "uniform",
        },
    }


def difference(found: NLL) -> float:
    """The largest difference, over pictures, of the two forms of the bound."""
    return (found.bound.total - found.bound.entropies.total).abs().max().item()


def draws_error(found: NLL) -> float:
    """The standard error of the mean continuous bound over its draws of time and noise."""
    error = found.continuous.error
    return error.square().sum().sqrt().item() / len(error)


def text(found: NLL) -> str:
    """The result for people."""
    bound, entropies, continuous, ode = found.bound, found.bound.entropies, found.continuous, found.ode
    means = {
        name: digits(value.mean().item())
        for name, value in {
            "prior": bound.prior,
            "kl": bound.kl.sum(1),
            "decoder": bound.decoder,
            "entropy kl": entropies.kl,
            "ends": entropies.ends,
            "infinite": continuous.diffusion,
            "continuous decoder": continuous.decoder,
        }.items()
    }
    prior, last, first = (digits(entropy.item()) for entropy in (entropies.prior, entropies.last, entropies.first))
    return "\n".join(
        [
            f"variational bound, {len(bound.times) - 1} steps:  {over_pictures(bound.total)}",
            f"    L_T {means['prior']} + sum of KL {means['kl']} + L_0 {means['decoder']}",
            f"by conditional entropies:  {over_pictures(entropies.total)}, the same to {difference(found):.0e}",
            f"    sum of KL {means['entropy kl']} + H_p(X_T) {prior} - H_q(X_T|X_0) {last} + H_q(X_1|X_0) {first}"
            f" + ends {means['ends']}",
            f"continuous-time bound:  {over_pictures(continuous.total)}, draws +- {digits(1.96 * draws_error(found))}",
            f"    L_T {means['prior']} + L_inf {means['infinite']} + L_0 {means['continuous decoder']}",
            f"probability-flow ODE:  {over_pictures(ode.total)}, over probes {over_probes(ode.probes)}",
            f"    uniform dequantisation, {len(ode.probes)} probes a picture, {ode.evaluations} slopes",
        ]
    )


def terms(found: NLL) -> list[tuple[int, float, Tensor]]:
    """(i, t, L_i of each picture (B,)) of the bound from i = T to 0; t is the time of the state that the term starts
    from, and 1 for L_T."""
    bound = found.bound
    columns = torch.cat([bound.prior[:, None], bound.kl, bound.decoder[:, None]], dim=1).unbind(1)
    times = [1.0, *bound.times[:-1].tolist()]
    return [(len(columns) - 1 - place, t, column) for place, (t, column) in enumerate(zip(times, columns, strict=True))]


def kl_csv(found: NLL, schedule: Schedule) -> str:
    """The terms of the bound, one a line; their sum is the bound."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["term", "t", "log_snr", "bits_per_dim", "standard_error"])
    for i, t, column in terms(found):
        log_snr = schedule.log_snr(torch.tensor(t, dtype=torch.float64)).item()
        error = column.std().item() / math.sqrt(len(column)) if len(column) > 1 else math.nan
        writer.writerow([f"L_{i}", f"{t:.6f}", f"{log_snr:.4f}", f"{column.mean().item():.8f}", f"{error:.8f}"])
    return file.getvalue()


def kl_svg(found: NLL) -> str:
    """The terms L_{T-1} .. L_1 over time, on a logarithmic axis."""
    inner = terms(found)[1:-1]
    x, y = [t for _, t, _ in inner], [column.mean().item() for _, _, column in inner]
    above = [v for v in y if v > 0] or [1.0]
    y_range = (10 ** math.floor(math.log10(min(above))), 10 ** (math.floor(math.log10(max(above))) + 1))
    curve = plots.Curve("KL(q || p) of the step from t", x, y, plots.BLUE)
    return plots.plot(
        [curve], "terms of the bound over time", "t", "bits/dim", (0, 1), y_range, logarithmic=True, ground=True
    )
