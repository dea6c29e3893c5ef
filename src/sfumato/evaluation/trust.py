"""Whether a model can be trusted: copies of training pictures, membership, prompts, and the shares of groups.

Where a measurement needs something that a model or its data do not have (prompts, held-out pictures, words that say a
value), the report gives the reason instead of numbers.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.conditioning.values import Condition
from sfumato.data.duplicates import find_duplicates, flat, reduced
from sfumato.errors import UserError
from sfumato.evaluation.report import Part
from sfumato.evaluation.samples import draw_samples
from sfumato.evaluation.trust_parts import (
    Reading,
    alignment_part,
    bias_part,
    duplicates_part,
    membership_part,
    memorization_part,
)
from sfumato.features.spaces import FeatureSpace, LearnedFeatures, features_of
from sfumato.material import Material, asked_of, chosen
from sfumato.measures import alignment, bias
from sfumato.measures.membership import membership
from sfumato.measures.memorization import memorization, sheet
from sfumato.measures.probes import (
    ATTRIBUTES,
    LEAST,
    SKIN_TONE,
    Attribute,
    ColourHistogram,
    Probe,
    apart,
    confusion,
    train_probe,
)
from sfumato.model import Model
from sfumato.page import Figure, png
from sfumato.report import Report
from sfumato.settings.sampling import Sampling

MOST = 20_000  # largest number of real pictures whose features a network computes
HELD_OUT = 0.3  # share of the prompts, and of the things that probes are measured on, kept from their training
TEMPLATES = ("a person", "a doctor", "a teacher", "a cook", "an artist")
TOLD_APART = 300  # prompts among which each picture's own is searched
EACH = 40  # pictures drawn for each template


@dataclass(frozen=True, eq=False)
class Drawn:
    """The input of every measurement of drawn pictures.

    Attributes:
        model: in evaluation mode.
        material: the data, and which of them the model has seen.
        settings: how pictures are drawn.
        reference: indices (N,) of real pictures that drawn ones are compared with.
        control: indices (N,) of other real pictures.
        asked: indices (N,) of the real pictures that gave the prompts.
        conditions: (N) the conditions of the drawn pictures.
        rows: stored rows (N, ...), drawn.
        spaces: feature spaces; the first is learned on the data.
        out: folder of what is drawn.
        kept: folder of features and probes.
        basis: what all numbers depend on.
        seed: decides every choice.
        report: told how far it is.
    """

    model: Model
    material: Material
    settings: Sampling
    reference: np.ndarray
    control: np.ndarray
    asked: np.ndarray
    conditions: Sequence[Condition]
    rows: np.ndarray
    spaces: Sequence[FeatureSpace]
    out: Path
    kept: Path
    basis: dict[str, Any]
    seed: int
    report: Report

    @property
    def codec(self) -> Codec:
        """Of the model, and so of all rows."""
        return self.model.codec

    def features(self, space: FeatureSpace, rows: np.ndarray) -> Tensor:
        """(N, D)"""
        return features_of(space, rows, self.report, self.kept)

    @property
    def real(self) -> np.ndarray:
        """The reference, stored rows (N, ...)."""
        return self.material.data.rows[self.reference]

    @property
    def last_space(self) -> FeatureSpace:
        """A space that was not learned on these data, so it cannot recognise training pictures."""
        return self.spaces[-1]


# --- copies ----------------------------------------------------------------------------------------------------------


class Pixels:
    """The space (N, D) of the pictures themselves, at no more than 32 x 32 pixels.

    Args:
        codec: of pictures.
    """

    name = "pixels"
    blind = "A picture that is moved by a pixel is another one."
    sha256 = hashlib.sha256(name.encode()).hexdigest()

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def __call__(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(reduced(np.asarray(self.codec.levels(rows)))).flatten(1).float() / 255


class Values:
    """The space (N, D) of x itself, by means of blocks where it has many values.

    Args:
        codec: of any kind of data.
    """

    name = "values"
    blind = "What is moved by one place is another."

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.sha256 = hashlib.sha256(f"{self.name} {codec.scaling}".encode()).hexdigest()

    def __call__(self, rows: np.ndarray) -> Tensor:
        return flat(self.codec.encode(rows))


def raw(codec: Codec) -> FeatureSpace:
    """The space of the data themselves, which knows nothing of what they show."""
    return Pixels(codec) if codec.pictorial else Values(codec)


def memorization_parts(drawn: Drawn) -> list[Part]:
    """Copies, in the pixels or values and in every feature space.

    Raises:
        UserError: not the data of the training, or too few held-out pictures.
    """
    data, seen, unseen = drawn.material.data, drawn.material.seen, drawn.material.unseen
    if not drawn.material.trained_on:
        raise UserError(
            "memorization: these are not the data that the model was trained on",
            fix="give the folder or the data set of the training, unchanged",
        )
    if len(unseen) > len(seen):
        unseen = chosen(unseen, len(seen), drawn.seed)
    parts = []
    for space in (raw(drawn.codec), *drawn.spaces):
        searched = chosen(seen, MOST, drawn.seed) if parts else seen  # the data themselves need no network
        if len(searched) < len(unseen):
            unseen = chosen(unseen, len(searched), drawn.seed)
        sets = (drawn.rows, data.rows[searched], data.rows[unseen])
        features = [drawn.features(space, x) for x in sets]
        task = f"searching copies, {space.name}"
        found = memorization(
            *features, seed=drawn.seed, progress=lambda done, total, task=task: drawn.report.progress(task, done, total)
        )
        figure = Figure(
            f"copies-{len(parts)}.png",
            png(sheet(*sets, found.nearest, drawn.codec.picture)),
            "Drawn pictures, each beside the nearest training and the nearest held-out picture.",
            "The drawn pictures that are nearest to a training picture, relative to held-out ones: drawn, nearest of "
            "the training, nearest held out.",
            strip=True,
        )
        basis = {
            **drawn.basis,
            "features": f"{space.name} {space.sha256[:12]}",
            "searched": len(searched),
            "held out": len(unseen),
        }
        parts.append(memorization_part(space.name, found, [figure], basis))
    return parts


def membership_parts(model: Model, material: Material, n: int, seed: int, report: Report) -> list[Part]:
    """The membership test on at most `n` pictures of a kind.

    Raises:
        UserError: not the data of the training, or too few held-out pictures.
    """
    found = membership(model, material, n, seed, report)
    return [membership_part(found, {"data": material.data.manifest_hash[:12], "seed": seed})]


def duplicates_parts(material: Material, codec: Codec, report: Report) -> list[Part]:
    """The near-duplicates among the pictures of the data.

    Raises:
        UserError: the pictures are smaller than 12 pixels.
    """
    data = material.data
    found = find_duplicates(data, codec, lambda done, total: report.progress("searching near-duplicates", done, total))
    return [duplicates_part(found, codec, {"data": data.manifest_hash[:12]})]


# --- prompts ---------------------------------------------------------------------------------------------------------


def alignment_parts(drawn: Drawn) -> list[Part]:
    """How well drawn pictures fit their prompts, for prompts that the probe has not seen.

    Raises:
        UserError: no prompts, or too few.
    """
    data = drawn.material.data
    name = drawn.model.conditioner.named("text")
    if name is None:
        told = drawn.model.conditioner.describe() or "none"
        raise UserError(
            f"alignment: the model has no prompts (its conditions: {told})", fix="leave the metric alignment out"
        )
    prompts = [str(condition.get(name)) for condition in drawn.conditions]
    hidden = apart(prompts, HELD_OUT)
    asked = {prompt for prompt, is_hidden in zip(prompts, hidden.tolist(), strict=True) if is_hidden}
    if len(asked) < LEAST:
        raise UserError(
            f"alignment: {len(asked)} prompts are too few to tell apart, which needs {LEAST}", fix="raise --n"
        )
    texts = [str(condition.get(name)) for condition in asked_of(drawn.model, data, np.arange(len(data)))]
    kept_apart = apart(texts, HELD_OUT)
    known = chosen(np.flatnonzero(~kept_apart.numpy()), MOST, drawn.seed)
    if len(known) < LEAST:
        raise UserError(f"alignment: {len(known)} pictures are too few to train a probe on", fix="give more pictures")

    space, encoder = drawn.last_space, getattr(drawn.model.config.conditions[name], "encoder", "minilm")
    features = drawn.features(space, data.rows[known])
    probe = alignment.train(features, [texts[i] for i in known], space.sha256, encoder, drawn.seed, drawn.report)
    places = torch.nonzero(hidden)[:, 0].numpy()
    scored = [prompts[i] for i in places.tolist()]
    more = sorted({text for text, apart_from in zip(texts, kept_apart.tolist(), strict=True) if apart_from} - asked)
    others = more[: max(0, TOLD_APART - len(asked))]

    def aligned(rows: np.ndarray) -> alignment.Alignment:
        return alignment.aligned(probe, drawn.features(space, rows), scored, others, drawn.report)

    of_drawn = aligned(drawn.rows[places])
    of_real = aligned(data.rows[drawn.asked[places]])
    told = {**drawn.basis, "features": f"{space.name} {space.sha256[:12]}", "probe": probe.sha256[:12]}
    return [alignment_part(of_drawn, of_real, told)]


# --- groups ----------------------------------------------------------------------------------------------------------


def bias_parts(
    drawn: Drawn, templates: Sequence[str], attributes: Sequence[Attribute], threshold: float
) -> tuple[list[Part], list[str]]:
    """The shares of labels, and of the values of attributes in pictures of prompt templates.

    Returns:
        the parts, and why an attribute has none.
    """
    parts: list[Part] = []
    left_out: list[str] = []
    own = drawn.spaces[0]
    if isinstance(own, LearnedFeatures) and own.classes:
        parts.append(_labels(drawn, own, threshold))
    if drawn.model.conditioner.named("text") is None:
        return parts, left_out if parts else [
            "bias: the data have neither labels nor prompts to read an attribute from"
        ]

    prompts = [template for template in templates or TEMPLATES for _ in range(EACH)]
    readers: list[tuple[Attribute, Probe, FeatureSpace]] = []
    for attribute in attributes or ATTRIBUTES:
        try:
            readers.append((attribute, *_probe(drawn, attribute)))
        except UserError as error:
            left_out.append(f"bias, {attribute.name}: {error.message}")
    if not readers:
        return parts, left_out
    rows = draw_samples(drawn.model, prompts, drawn.settings, drawn.seed, drawn.out / "templates", drawn.report).rows
    captions = drawn.material.data.captions
    for attribute, probe, space in readers:
        said = probe(space(rows))
        found = bias.monitor(
            attribute, captions, prompts, said, probe.confusion, drawn.seed, drawn.report, threshold=threshold
        )
        if found.overall is None:
            left_out.append(f"bias, {attribute.name}: no picture of the data is about any template")
            continue
        about = (
            f"In the data, words give the value; in {EACH} drawn pictures of each template, a probe on {space.name} "
            f"reads it, corrected for its errors (it is right about {_accuracy(probe)} of held-out pictures)."
        )
        if found.without_data:
            about += f" Without pictures in the data: {', '.join(found.without_data)}."
        basis = {**drawn.basis, "features": f"{space.name} {space.sha256[:12]}", "templates": len(found.templates)}
        number = {template: i for i, template in enumerate(dict.fromkeys(prompts))}
        reading = Reading(said, torch.tensor([number[prompt] for prompt in prompts]), probe.confusion)
        parts.append(bias_part(attribute.name, found.overall, found.templates, about, basis, reading))
    return parts, left_out


def _labels(drawn: Drawn, own: LearnedFeatures, threshold: float) -> Part:
    """The shares of classes, by the classifier of the learned features, whose errors control pictures tell."""
    data, size = drawn.material.data, len(own.classes)
    assert data.labels is not None
    labels = torch.tensor(data.labels)
    of_control = own.classify(data.rows[drawn.control]).argmax(1)
    errors = confusion(labels[torch.from_numpy(drawn.control)], of_control, size)
    said = own.classify(drawn.rows).argmax(1)
    real = bias.tally(labels[torch.from_numpy(drawn.asked)], size)
    found = bias.compare(
        own.classes,
        bias.Counts(real[None]),
        bias.Counts(bias.tally(said, size)[None], errors),
        drawn.seed,
        threshold=threshold,
    )
    about = (
        "Labels of the data, and classes that the classifier of the learned features reads, corrected for its errors."
    )
    basis = {**drawn.basis, "classifier": own.sha256[:12]}
    return bias_part("label", found, {}, about, basis, Reading(said, torch.zeros_like(said), errors))


def _probe(drawn: Drawn, attribute: Attribute) -> tuple[Probe, FeatureSpace]:
    """A probe of an attribute, and the space that it reads.

    Raises:
        UserError: too few pictures have captions that name its values.
    """
    data = drawn.material.data
    labels = attribute.labels(data.captions)
    says = torch.nonzero((labels >= 0) & (labels < len(attribute.words)))[:, 0].numpy()
    if not len(says):
        raise UserError(f"no caption of the data names a value ({', '.join(attribute.words)})")
    silent = torch.nonzero(labels == len(attribute.words))[:, 0].numpy()
    index = np.sort(
        np.concatenate([chosen(part, max(4 * LEAST, min(len(says), MOST)), drawn.seed) for part in (says, silent)])
    )
    held_out = apart([data.captions[i][0] if data.captions[i] else "" for i in index.tolist()], HELD_OUT)
    by_colour = attribute.name == SKIN_TONE.name and drawn.codec.pictorial
    space = ColourHistogram(drawn.codec) if by_colour else drawn.last_space
    features = features_of(space, data.rows[index], drawn.report, drawn.kept)
    return train_probe(attribute.values, features, labels[torch.from_numpy(index)], held_out, drawn.report), space


def _accuracy(probe: Probe) -> str:
    shares = [f"{100 * each.mean:.0f} % {value}" for value, each in zip(probe.values, probe.accuracy, strict=True)]
    return ", ".join(shares)
