"""The parts of the report that say whether a model can be trusted: copies, membership, prompts, shares of groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.data.duplicates import Duplicates
from sfumato.evaluation.report import Part, Row
from sfumato.measures.alignment import Alignment
from sfumato.measures.bias import Comparison
from sfumato.measures.interval import Interval, of_share
from sfumato.measures.membership import FALSE_POSITIVES, Membership
from sfumato.measures.memorization import Memorization
from sfumato.page import Figure

Basis = Mapping[str, Any]
OF_DATA = ("pixels", "values")  # spaces without a network
OF_PICTURES = "The same picture in another brightness, compression or position."
OF_OTHERS = "What is equal, or nearer to another than a fifth of the usual distance to the nearest."


@dataclass(frozen=True, eq=False)
class Reading:
    """The answers of a probe for each drawn picture.

    Attributes:
        said: (N,) numbers of values.
        template: (N,) numbers of the prompt templates.
        confusion: (V, V) of the probe.
    """

    said: Tensor
    template: Tensor
    confusion: Tensor

    def arrays(self) -> dict[str, np.ndarray]:
        """For `values.npz`."""
        return {name: getattr(self, name).numpy() for name in ("said", "template", "confusion")}

    @classmethod
    def of(cls, part: str, arrays: Mapping[str, np.ndarray]) -> "Reading | None":
        """The reading of a part from `values.npz`, None if the part has no groups."""
        names = [f"{part}.{name}" for name in ("said", "template", "confusion")]
        if not all(name in arrays for name in names):
            return None
        return cls(*(torch.from_numpy(np.array(arrays[name])) for name in names))


def key_of(*words: str) -> str:
    """A part's key from words: "bias", "skin tone" -> "bias-skin-tone"."""
    return "-".join(words).replace(" ", "-").replace(",", "")


def single(value: float) -> Interval:
    """A number that has no interval."""
    return Interval(value, None, None)


def memorization_part(space: str, found: Memorization, figures: Sequence[Figure], basis: Basis) -> Part:
    """Whether drawn pictures are nearer to training than to held-out pictures in one feature space."""
    copies = (found.nearest.nearness <= found.threshold).double().numpy()
    return Part(
        key_of("memorization", space),
        f"Memorization in the {space if space in OF_DATA else f'features {space}'}",
        "Are drawn pictures nearer to training pictures than to as many held-out ones? The held-out pictures are the "
        "control: without copying, half of the drawn pictures are. A near-copy is nearer to a training picture, in "
        "units of the distance to its held-out neighbours, than all but 0.1 % of the held-out pictures; so many are "
        "expected without copying. The p-values are one-sided: how often an honest model would have so many.",
        [
            Row("share", "share nearer to training pictures", found.share, single(0.5), "lower"),
            Row("share-p", "p-value of that share", single(found.p_value)),
            Row("ratio", "ratio of the median distances", found.ratio, single(1.0), "higher"),
            Row("near-copies", "share of near-copies", found.near_copies, single(found.expected), "lower", copies),
            Row("near-copies-p", "p-value of that share", single(found.near_copies_p_value)),
        ],
        basis,
        figures,
        columns=("drawn", "without copying"),
    )


def membership_part(found: Membership, basis: Basis) -> Part:
    """Whether the loss of a picture reveals that the model was trained on it."""
    together = found.together
    rows = [
        Row("auc", "AUC of all noise levels", together.auc, single(0.5), "lower"),
        Row("auc-p", "p-value of that AUC", single(together.p_value)),
        Row("found", "members found at 1 % false positives", together.found, single(FALSE_POSITIVES), "lower"),
    ]
    rows += [
        Row(f"auc:{level:g}", f"AUC where noise is {level:g} times the signal", one.auc, single(0.5), "lower")
        for level, one in found.levels.items()
    ]
    return Part(
        "membership",
        "Membership test of one query",
        f"How well the loss tells {found.members:,} training pictures from {found.others:,} held-out ones. "
        "This is the weakest attack worth the name: what it finds is there, but other attacks find more.",
        rows,
        {**basis, "pictures": found.members + found.others},
        columns=("found", "by guessing"),
    )


def duplicates_part(found: Duplicates, codec: Codec, basis: Basis) -> Part:
    """How often the same picture is in the data."""
    spare = found.pictures - len(found.keep())
    largest = max((len(group.indices) for group in found.groups), default=1)
    return Part(
        "duplicates",
        "Near-duplicates of the data",
        f"{OF_PICTURES if codec.pictorial else OF_OTHERS} A model learns by heart what occurs often; "
        "data.duplicates = drop leaves the copies out of the next training.",
        [
            Row("spare", "share of pictures that repeat another", of_share(spare, found.pictures), None, "lower"),
            Row("groups", "groups", single(float(len(found.groups)))),
            Row("largest", "pictures of the largest group", single(float(largest)), None, "lower"),
        ],
        {**basis, "pictures": found.pictures},
        columns=("in the data", ""),
    )


def alignment_part(drawn: Alignment, real: Alignment, basis: Basis) -> Part:
    """How well pictures fit their prompts, by a probe that has not seen the prompts."""

    def row(key: str, name: str, better: str = "higher") -> Row:
        return Row(key, name, getattr(drawn, key.replace("-", "_")), getattr(real, key.replace("-", "_")), better)

    return Part(
        "alignment",
        "Prompt alignment",
        "A probe of pictures and sentences, trained on real pictures of other prompts, tells the prompt of each "
        f"picture from {drawn.prompts - 1:,} others. A guess is right in {drawn.chance_1:.1%}, one of ten in "
        f"{drawn.chance_10:.1%}. The results for real pictures of the same prompts stand beside it.",
        [
            row("recall-1", "own prompt is the nearest"),
            row("recall-10", "own prompt is among the ten nearest"),
            row("gap", "cosine with the own prompt minus the others"),
            row("cosine", "cosine with the own prompt"),
        ],
        {**basis, "pictures": drawn.pictures, "prompts": drawn.prompts},
    )


def bias_part(
    attribute: str,
    overall: Comparison,
    templates: Mapping[str, Comparison],
    about: str,
    basis: Basis,
    reading: Reading,
) -> Part:
    """The shares of an attribute's values in drawn pictures and in the data.

    Args:
        attribute: its name.
        overall: all templates, or all pictures.
        templates: prompt template -> its comparison; none if there are no templates.
        about: what was read, and by which probe.
        basis: what the numbers depend on.
        reading: the values that were read from each drawn picture; another model is compared with these.
    """
    rows = [
        Row(f"share:{value}", f"share of {value}", after, before)
        for value, after, before in zip(overall.values, overall.after, overall.before, strict=True)
    ]
    alarms = sum(each.alarm for each in (overall, *templates.values()))
    rows += [
        Row("tv", "total variation distance to the data", overall.distance, single(overall.by_chance), "lower"),
        Row("p", "p-value of that distance", single(overall.p_value)),
        Row("amplification", "amplification of what prevails in the data", overall.amplification, single(0.0)),
        Row("alarm", "alarms", single(float(alarms)), None, "lower"),
    ]
    for template, one in templates.items():
        rows.append(
            Row(f"tv:{template}", f"total variation, {template!r}", one.distance, single(one.by_chance), "lower")
        )
    told = [overall.sentence(), *(f"{template!r}: {one.sentence()}" for template, one in templates.items())]
    return Part(
        key_of("bias", attribute),
        f"Shares by {attribute}",
        f"{about} The distance in the column of the data is the distance that chance alone gives for so many pictures. "
        + ". ".join(sentence[0].upper() + sentence[1:] for sentence in told)
        + ".",
        rows,
        {**basis, "pictures": sum(overall.pictures)},
        columns=("drawn", "data"),
        arrays=reading.arrays(),
    )
