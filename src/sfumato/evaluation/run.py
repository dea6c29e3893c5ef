"""The whole evaluation of a model: pictures are drawn once, measured by every metric, and reported together.

Three sets of one size are compared: drawn pictures; reference pictures, which the model was trained on where the data
are its own; and control pictures, real ones that are none of these (held-out ones first). The prompts of the drawn ones
come from yet other pictures: with the prompts of the reference, the two sets would be alike in more than their laws,
and unbiased distances would fall below 0. Every metric is also measured on the control set: a perfect model would reach
that value.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.conditioning.values import record_of, words_of
from sfumato.errors import UserError
from sfumato.evaluation import trust
from sfumato.evaluation.cost import Cost, told
from sfumato.evaluation.nll_report import kl_csv, numbers, text
from sfumato.evaluation.parts import accuracy_part, likelihood_part, quality_part, speed_part, statistics_part
from sfumato.evaluation.pictures import material_for, pictures_of
from sfumato.evaluation.report import Evaluation, Part
from sfumato.evaluation.samples import SHOWN, Samples, draw_samples, drawn_already, show
from sfumato.evaluation.settings import Likelihoods, Measuring
from sfumato.evaluation.sheets import labelled_rows, strip
from sfumato.features.cache import feature_cache
from sfumato.features.learned import seconds_left
from sfumato.features.spaces import LearnedFeatures, seconds_a_picture, spaces_for
from sfumato.generation.recipe import of_picture
from sfumato.material import Material, asked_of, chosen
from sfumato.measures.membership import LEVELS
from sfumato.measures.nll import nll
from sfumato.measures.statistics import statistics
from sfumato.model import Model
from sfumato.page import Figure, png
from sfumato.report import Report
from sfumato.settings.sampling import Sampling

OF_SAMPLES = {"quality", "statistics", "speed", "memorization", "alignment", "bias"}  # those that need drawn pictures
OF_FEATURES = {"quality", "memorization", "alignment", "bias"}
FEWEST = 16  # pictures of a set: fewer have no intervals
LEAST_MEMBERS = 1000  # pictures of each kind in the membership test, if there are as many


def evaluate(
    model: Model,
    path: str,
    settings: Sampling,
    how: Measuring,
    out: Path,
    report: Report,
    shared: Path | None = None,
) -> Evaluation:
    """Measure a model on a folder of pictures or a named data set.

    Args:
        model: in evaluation mode.
        path: a folder of pictures, or the name of a data set.
        settings: how the pictures are drawn.
        how: what is measured, of how many pictures.
        out: keeps the drawn pictures, so that a stopped evaluation goes on.
        report: told what is measured and about how long it takes, and then how far it is.
        shared: keeps the data, which several evaluations may share; `out` by default.

    Raises:
        UserError: no such data, too few of them, a class that the model does not know, or (if `how.strict`) a metric
            that cannot be measured.
    """
    material, codec = material_for(model, path, (shared or out) / "data", report), model.codec
    about: dict[str, Any] = {
        "model": {"name": model.config.name, "weights_sha256": model.fingerprint},
        "data": {"path": path, "manifest_sha256": material.data.manifest_hash, "held_out": material.trained_on},
        "sampling": of_picture(settings),
        "seed": how.seed,
    }
    if material.trained_on and model.config.data.group:
        about["data"]["held_out_by"] = f"whole groups: {model.config.data.group}"
    found, metrics = Evaluation(about, [], {}, [], {}, []), set(how.metrics)

    def attempt(metric: str, measure: Callable[[], Sequence[Part]]) -> None:
        try:
            found.parts.extend(measure())
        except UserError as error:
            if how.strict:
                raise
            found.left_out[metric] = f"{error.message}; fix: {error.fix}" if error.fix else error.message

    sets = sets_of(material, how.n, how.seed) if OF_SAMPLES & metrics else None
    report.say(planned(model, material, settings, how, sets, out))
    if sets is not None:
        drawn, samples = _drawn(found, model, material, settings, how, sets, out, report)
        found.pictures.append(sheet(samples, drawn))
        if "quality" in metrics:
            found.parts.extend(_quality(drawn))
        if "statistics" in metrics:
            of_real, of_drawn = statistics(codec, drawn.real), statistics(codec, drawn.rows)
            found.parts.append(statistics_part(codec, of_real, of_drawn, how.seed, drawn.basis))
        if "speed" in metrics:
            machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {model.device.type}"
            found.parts.append(speed_part(samples, machine))
        if "alignment" in metrics:
            attempt("alignment", lambda: trust.alignment_parts(drawn))
        if "memorization" in metrics:
            attempt("memorization", lambda: trust.memorization_parts(drawn))
        if "bias" in metrics:
            groups = how.groups
            parts, left_out = trust.bias_parts(drawn, groups.templates, groups.attributes, groups.threshold)
            found.parts.extend(parts)
            if left_out:
                found.left_out["bias"] = "; ".join(left_out)
    if "membership" in metrics:
        most = max(how.n, LEAST_MEMBERS)
        attempt("membership", lambda: trust.membership_parts(model, material, most, how.seed, report))
    if "duplicates" in metrics:
        attempt("duplicates", lambda: trust.duplicates_parts(material, codec, report))
    if "nll" in metrics:
        attempt("nll", lambda: _likelihood(found, model, material, path, how.likelihoods, report))
    found.words.extend(f"left out: {why}" for why in found.left_out.values())
    return found


def sets_of(material: Material, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference, control, and the pictures that give the prompts: three disjoint sets of `n` indices, or of a third of
    the data each.

    Raises:
        UserError: the data are too few.
    """
    n = min(n, len(material.data) // 3)
    if n < FEWEST:
        raise UserError(
            f"data: {len(material.data)} pictures are too few to compare with, which needs {3 * FEWEST}",
            fix="give more pictures, or --metrics nll",
        )
    unseen = chosen(material.unseen, 3 * n, seed)
    order = np.concatenate([unseen[:n], chosen(material.seen, 3 * n, seed), unseen[n:]])
    return order[n : 2 * n], order[:n], order[2 * n : 3 * n]


def _drawn(
    found: Evaluation,
    model: Model,
    material: Material,
    settings: Sampling,
    how: Measuring,
    sets: tuple[np.ndarray, np.ndarray, np.ndarray],
    out: Path,
    report: Report,
) -> tuple[trust.Drawn, Samples]:
    """The drawn pictures beside the real ones, with the feature spaces that the metrics need."""
    data, seed, kept = material.data, how.seed, feature_cache()
    reference, control, asked = sets
    conditions = asked_of(model, data, asked)
    samples = draw_samples(model, conditions, settings, seed, out / "samples", report)
    show(samples, model.codec, out / "samples")
    found.about["draws"] = hashlib.sha256(
        json.dumps([[record_of(condition) for condition in conditions], seed]).encode()
    ).hexdigest()
    spaces = []
    if OF_FEATURES & set(how.metrics):
        spaces = spaces_for(data, model.codec, learned_from(material, control), kept, report, how.inception)
    drawn = trust.Drawn(
        model=model,
        material=material,
        settings=settings,
        reference=reference,
        control=control,
        asked=asked,
        conditions=conditions,
        rows=samples.rows,
        spaces=spaces,
        out=out,
        kept=kept,
        basis={"pictures": len(reference), "data": data.manifest_hash[:12], "seed": seed},
        seed=seed,
        report=report,
    )
    return drawn, samples


def learned_from(material: Material, control: np.ndarray) -> np.ndarray:
    """Indices of the pictures that features are learned on: never a control picture."""
    return material.seen if material.trained_on else np.setdiff1d(material.unseen, control)


def planned(
    model: Model,
    material: Material,
    settings: Sampling,
    how: Measuring,
    sets: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    out: Path,
) -> str:
    """What will be measured, and about how long it takes on this machine."""
    cost, metrics = Cost.measured(model, settings), set(how.metrics)
    parts: list[tuple[str, float]] = []
    if sets is not None:
        left = len(sets[0]) - drawn_already(out / "samples")
        parts.append((f"drawing {len(sets[0]):,} pictures", left * cost.picture))
        if OF_FEATURES & metrics:
            if {"memorization", "alignment", "bias"} & metrics:
                seconds = min(len(material.data), trust.MOST) * seconds_a_picture(material.data, model.codec)
                parts.append(("features of the data, at most; kept for the next time", seconds))
            learning = seconds_left(material.data, model.codec, learned_from(material, sets[1]), feature_cache())
            parts.append(("learning features, once for these data", learning))
    if "bias" in metrics and model.conditioner.named("text"):
        prompts = trust.EACH * len(how.groups.templates or trust.TEMPLATES)
        parts.append((f"drawing {prompts} pictures of templates, for bias", prompts * cost.picture))
    if "membership" in metrics and material.trained_on:
        kinds = sum(min(len(part), max(how.n, LEAST_MEMBERS)) for part in (material.seen, material.unseen))
        parts.append(("membership", kinds * len(LEVELS) * cost.evaluation))
    likelihood = ("likelihood", cost.likelihood(how.likelihoods, len(material.unseen)))
    if "nll" in metrics:
        parts.append(likelihood)
    return told(parts, [] if "nll" in metrics or model.codec.bin is None else [likelihood])


def _quality(drawn: trust.Drawn) -> list[Part]:
    """Distances, fidelity and diversity in every space, and the class accuracy where there are classes."""
    data, parts = drawn.material.data, []
    for space in drawn.spaces:
        told = {"features": f"{space.name} {space.sha256[:12]}", **drawn.basis}
        features = [drawn.features(space, x) for x in (drawn.real, data.rows[drawn.control], drawn.rows)]
        parts.append(quality_part(space, *features, seed=drawn.seed, basis=told, report=drawn.report))
    own = drawn.spaces[0]
    name = drawn.model.conditioner.named("class")
    if isinstance(own, LearnedFeatures) and own.classes and name is not None:
        assert data.labels is not None
        asked = [own.classes.index(condition[name]) for condition in drawn.conditions]
        of_control = [data.labels[i] for i in drawn.control.tolist()]
        drawn_as, real_as = (own.classify(x).argmax(1) for x in (drawn.rows, data.rows[drawn.control]))
        told = {"classifier": own.sha256[:12], **drawn.basis}
        parts.append(accuracy_part(own.classes, drawn_as, asked, real_as, of_control, told))
    return parts


def sheet(samples: Samples, drawn: trust.Drawn) -> Figure:
    """Real pictures, and below each what the model draws when it is asked for the same."""
    count = min(SHOWN, len(samples.rows))
    real, own = drawn.material.data.rows[drawn.asked[:count]], samples.rows[:count]
    labels = [words_of(condition) for condition in samples.conditions[:count]]
    picture = labelled_rows(
        [[strip([drawn.codec.picture(one)]) for one in row] for row in (real, own)], ["real", "drawn"], labels
    )
    caption = "Above what the data show, below what the model draws when it is asked for the same."
    return Figure("samples.png", png(picture), "Real pictures above drawn ones.", caption, True)


def _likelihood(
    found: Evaluation, model: Model, material: Material, path: str, how: Likelihoods, report: Report
) -> list[Part]:
    """Bits per dimension, with the terms of the bound as files."""
    seed = found.about["seed"]
    pictures = pictures_of(model, material, path, how.pictures, seed)
    measured = nll(model, pictures, how.chain, how.probes, seed, report)
    found.about["nll"] = {**numbers(measured), "names": list(pictures.names)}
    found.files["kl.csv"] = kl_csv(measured, model.denoiser.process.schedule)
    which = f"{len(pictures.keys)} {'held-out ' if pictures.held_out else ''}pictures of {path}"
    found.words.append(f"bits/dim of {which}, with intervals of 95 % over pictures\n\n{text(measured)}")
    return [likelihood_part(measured, {"data": pictures.manifest[:12], "seed": seed})]
