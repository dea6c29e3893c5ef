"""The whole evaluation of a model: pictures drawn once, looked at by every metric, told in one report.

Three sets of one size are compared: drawn pictures; reference pictures, which the model was trained on where the data
are its own; and control pictures, real ones that are none of these (held-out ones first). The drawn ones are asked for
what other pictures show: were it the reference, the two would be alike in more than their laws, and unbiased distances
fall below 0. Every metric of the drawn set is also that of the control set: what a perfect model would
reach.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sfumato.codecs.grid import labelled_grid
from sfumato.config import Sampling
from sfumato.errors import UserError
from sfumato.evaluation import trust
from sfumato.evaluation.nll_report import kl_csv, kl_svg, numbers, text
from sfumato.evaluation.parts import accuracy_part, likelihood_part, quality_part, speed_part, statistics_part
from sfumato.evaluation.pictures import material_for, pictures_of
from sfumato.evaluation.report import Part
from sfumato.evaluation.samples import Samples, draw_samples
from sfumato.features.spaces import LearnedFeatures, spaces_for
from sfumato.generation.recipe import of_picture
from sfumato.material import Material, asked_of, chosen
from sfumato.measures.bias import THRESHOLD
from sfumato.measures.nll import nll
from sfumato.measures.probes import Attribute
from sfumato.model import Model
from sfumato.page import Figure, png
from sfumato.report import Report

METRICS = ("quality", "statistics", "speed", "nll", "memorization", "membership", "alignment", "bias", "duplicates")
OF_SAMPLES = {"quality", "statistics", "speed", "memorization", "alignment", "bias"}  # those that need drawn pictures
FEWEST = 16  # pictures of a set: fewer have no intervals
SHOWN = 12  # pictures a row of the sheet


@dataclass(frozen=True)
class Likelihoods:
    """How the likelihood is measured: pictures at most, steps of the chain, random vectors a picture."""

    pictures: int = 32
    chain: int = 1000
    probes: int = 4


DEFAULT_LIKELIHOODS = Likelihoods()


@dataclass(frozen=True)
class Groups:
    """What is monitored for bias: prompt templates, attributes, the total variation from which on there is an alarm.

    Without templates or attributes, `trust.TEMPLATES` and `probes.ATTRIBUTES` are.
    """

    templates: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    threshold: float = THRESHOLD


DEFAULT_GROUPS = Groups()


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        about: model, data, settings: what the numbers are of.
        parts: the numbers.
        files: more files of the report by name.
        words: what the terminal is told besides the rows.
    """

    about: dict[str, Any]
    parts: list[Part]
    files: dict[str, str]
    words: list[str]


def evaluate(
    model: Model,
    path: str,
    settings: Sampling,
    metrics: Sequence[str],
    n: int,
    seed: int,
    out: Path,
    report: Report,
    likelihoods: Likelihoods = DEFAULT_LIKELIHOODS,
    shared: Path | None = None,
    groups: Groups = DEFAULT_GROUPS,
    inception: Sequence[str] = (),
    strict: bool = True,
) -> Evaluation:
    """Measure a model on a folder of pictures or a named data set.

    Args:
        model: in evaluation mode.
        path: of the data.
        settings: how the pictures are drawn.
        metrics: some of METRICS.
        n: pictures of each set; fewer where the data hold fewer than three times as many.
        seed: of every choice and draw.
        out: keeps the drawn pictures, so that a stopped evaluation goes on.
        report: told how far it is.
        likelihoods: how "nll" measures.
        shared: keeps the data and what is learned of them, which several evaluations may share; `out` by default.
        groups: what "bias" monitors.
        inception: files with the weights of Inception, for a further feature space.
        strict: whether a metric that the model or the data do not allow is an error; else the report says so.

    Raises:
        UserError: no such data, too few of them, a class that the model does not know, or (if strict) a metric that
            cannot be measured.
    """
    shared = shared or out
    material = material_for(model, path, shared / "data", report)
    about: dict[str, Any] = {
        "model": {"name": model.config.name, "weights_sha256": model.fingerprint},
        "data": {"path": path, "manifest_sha256": material.data.manifest_hash, "held_out": material.trained_on},
        "sampling": of_picture(settings),
        "seed": seed,
    }
    if material.trained_on and model.config.data.group:
        about["data"]["held_out_by"] = f"whole groups: {model.config.data.group}"
    found = Evaluation(about, [], {}, [])

    def attempt(measure: Callable[[], Sequence[Part]]) -> None:
        try:
            found.parts.extend(measure())
        except UserError as error:
            if strict:
                raise
            found.words.append(f"left out: {error.message}")

    if OF_SAMPLES & set(metrics):
        drawn, samples = _drawn(found, model, material, settings, metrics, n, out, shared, inception, report)
        if "quality" in metrics:
            found.parts.extend(_quality(drawn))
        if "statistics" in metrics:
            of_real, of_drawn = (torch.from_numpy(np.array(x)) for x in (drawn.real, drawn.pictures))
            found.parts.append(statistics_part(of_real, of_drawn, seed, drawn.basis))
        if "speed" in metrics:
            machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {model.device.type}"
            found.parts.append(speed_part(samples, machine))
        if "alignment" in metrics:
            attempt(lambda: trust.alignment_parts(drawn))
        if "memorization" in metrics:
            attempt(lambda: trust.memorization_parts(drawn))
        if "bias" in metrics:
            parts, left_out = trust.bias_parts(drawn, groups.templates, groups.attributes, groups.threshold)
            found.parts.extend(parts)
            found.words.extend(f"left out: {why}" for why in left_out)
        if found.parts:
            first = found.parts[0]
            found.parts[0] = replace(first, figures=[sheet(samples, drawn), *first.figures])
    if "membership" in metrics:
        attempt(lambda: trust.membership_parts(model, material, max(n, 1000), seed, report))
    if "duplicates" in metrics:
        attempt(lambda: trust.duplicates_parts(material, report))
    if "nll" in metrics:
        attempt(lambda: _likelihood(found, model, material, path, likelihoods, report))
    return found


def sets_of(material: Material, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference, control, and the pictures whose conditions are asked for: three sets of `n` indices, or a third of the
    data each, without a common one.

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
    metrics: Sequence[str],
    n: int,
    out: Path,
    shared: Path,
    inception: Sequence[str],
    report: Report,
) -> tuple[trust.Drawn, Samples]:
    """The drawn pictures beside the real ones, with the feature spaces that the metrics need."""
    data, seed, kept = material.data, found.about["seed"], shared / "features"
    reference, control, asked = sets_of(material, n, seed)
    conditions = asked_of(model, data, asked)
    samples = draw_samples(model, conditions, settings, seed, out / "samples", report)
    found.about["draws"] = hashlib.sha256(json.dumps([conditions, seed]).encode()).hexdigest()
    spaces = []
    if {"quality", "memorization", "alignment", "bias"} & set(metrics):
        learn_from = material.seen if material.trained_on else np.setdiff1d(material.unseen, control)
        spaces = spaces_for(data, learn_from, kept, report, inception)
    drawn = trust.Drawn(
        model=model,
        material=material,
        settings=settings,
        reference=reference,
        control=control,
        asked=asked,
        conditions=conditions,
        pictures=samples.pictures,
        spaces=spaces,
        out=out,
        kept=kept,
        basis={"pictures": len(reference), "data": data.manifest_hash[:12], "seed": seed},
        seed=seed,
        report=report,
    )
    return drawn, samples


def _quality(drawn: trust.Drawn) -> list[Part]:
    """Distances, fidelity and diversity in every space, and the class accuracy where there are classes."""
    data, parts = drawn.material.data, []
    for space in drawn.spaces:
        told = {"features": f"{space.name} {space.sha256[:12]}", **drawn.basis}
        features = [drawn.features(space, x) for x in (drawn.real, data.pictures[drawn.control], drawn.pictures)]
        parts.append(quality_part(space.name, *features, seed=drawn.seed, basis=told, report=drawn.report))
    own = drawn.spaces[0]
    if isinstance(own, LearnedFeatures) and own.classes and drawn.model.config.condition.kind == "class":
        assert data.labels is not None
        asked = [own.classes.index(str(condition)) for condition in drawn.conditions]
        of_control = [data.labels[i] for i in drawn.control.tolist()]
        drawn_as, real_as = (own.classify(x).argmax(1) for x in (drawn.pictures, data.pictures[drawn.control]))
        told = {"classifier": own.sha256[:12], **drawn.basis}
        parts.append(accuracy_part(own.classes, drawn_as, asked, real_as, of_control, told))
    return parts


def sheet(samples: Samples, drawn: trust.Drawn) -> Figure:
    """Drawn pictures above real ones of the same conditions."""
    count = min(SHOWN, len(samples.pictures))
    tiles = [
        Image.fromarray(picture if picture.shape[2] == 3 else picture[:, :, 0])
        for pictures in (samples.pictures, drawn.material.data.pictures[drawn.asked])
        for picture in pictures[:count]
    ]
    labels = [condition or "" for condition in samples.conditions[:count]]
    drawn_above = "Above the first drawn pictures, below what the data show of the same."
    alt = "A row of drawn pictures above a row of real ones."
    return Figure("samples.png", png(labelled_grid(tiles, [*labels, *[""] * count], count)), alt, drawn_above)


def _likelihood(
    found: Evaluation, model: Model, material: Material, path: str, how: Likelihoods, report: Report
) -> list[Part]:
    """Bits per dimension, with the terms of the bound as files."""
    seed = found.about["seed"]
    pictures = pictures_of(model, material, path, how.pictures, seed)
    measured = nll(model, pictures, how.chain, how.probes, seed, report)
    found.about["nll"] = {**numbers(measured), "names": list(pictures.names)}
    found.files["kl.csv"] = kl_csv(measured, model.denoiser.process.schedule)
    found.files["kl.svg"] = kl_svg(measured)
    which = f"{len(pictures.keys)} {'held-out ' if pictures.held_out else ''}pictures of {path}"
    found.words.append(f"bits/dim of {which}, with intervals of 95 % over pictures\n\n{text(measured)}")
    return [likelihood_part(measured, {"data": pictures.manifest[:12], "seed": seed})]
