"""Which value of an attribute a picture shows: read from its words, or from the picture by a linear probe.

An attribute has values, such as woman, man and person; a picture that shows none of them has the value "none". If there
are words, the value is read from a caption or prompt. Otherwise a probe reads it: multinomial logistic regression on
frozen features, trained on real pictures whose words name the value (Alain & Bengio 2016, arXiv:1610.01644).

A probe errs, so its answers are a mixture: with p the true shares and C[i, j] the probability that it answers j for a
picture of value i, its answers have the shares q = p C. So p = q C^-1 (for two values Rogan & Gladen 1978,
doi:10.1093/oxfordjournals.aje.a112510; for more Lipton et al. 2018, arXiv:1802.03916), if the probe errs on drawn
pictures as it does on real ones.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato import settings_yaml
from sfumato.codecs.codec import Codec
from sfumato.data import emoji
from sfumato.errors import ConfigError, UserError
from sfumato.measures.interval import Interval, of_share
from sfumato.report import Report

NONE = "none"
LEAST = 5  # pictures of each value to train a probe on, and to measure it on
L2 = 0.1
ITERATIONS = 200
ILL_CONDITIONED = 10.0  # above this, an error of 0.01 in a probe's answers can be 0.1 in the true shares


# --- words -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attribute:
    """Values, and the words that name them.

    Attributes:
        name: for people.
        words: value -> words or phrases, in lower case; at least one.
    """

    name: str
    words: Mapping[str, Sequence[str]]

    @property
    def values(self) -> tuple[str, ...]:
        """The values, "none" last."""
        return (*self.words, NONE)

    def read(self, texts: Sequence[str]) -> int:
        """The number of the value in the first text that names any; -1 if that text names several.

        The shortest caption is read first, because the long ones hold loose tags.
        """
        for text in texts:
            named = [i for i, words in enumerate(self.words.values()) if _pattern(tuple(words)).search(text)]
            if named:
                return named[0] if len(named) == 1 else -1
        return len(self.words)

    def labels(self, captions: Sequence[Sequence[str]]) -> Tensor:
        """`read` for every picture's captions, or every prompt as a list of one: (N,) int64."""
        return torch.tensor([self.read(texts) for texts in captions], dtype=torch.int64)

    def without(self, text: str) -> str:
        """The text without the words of this attribute."""
        return _pattern(tuple(word for words in self.words.values() for word in words)).sub(" ", text)


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Whole words; "light skin tone" is not in "medium-light skin tone"."""
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, words))})(?![\w-])", re.IGNORECASE)


GENDER = Attribute(
    "gender word",
    {
        "woman": [
            "woman",
            "women",
            "girl",
            "girls",
            "lady",
            "ladies",
            "female",
            "mother",
            "princess",
            "queen",
            "bride",
            "mrs",
            "mermaid",
        ],
        "man": [
            "man",
            "men",
            "boy",
            "boys",
            "gentleman",
            "male",
            "father",
            "prince",
            "king",
            "groom",
            "mr",
            "merman",
            "santa",
        ],
        "person": ["person", "people"],
    },
)
SKIN_TONE = Attribute(
    "skin tone",
    {tone: [f"{tone} skin tone"] for tone in ("light", "medium-light", "medium", "medium-dark", "dark")},
)
ATTRIBUTES = (GENDER, SKIN_TONE)


def read_attributes(text: str, where: str) -> tuple[Attribute, ...]:
    """Attributes of a YAML text: attribute -> value -> a word or a list of words.

    Args:
        text: the content of the file.
        where: its name, for messages.

    Raises:
        ConfigError: the text is not such YAML.
    """
    content = settings_yaml.load(text, where)
    fix = "write `attribute: {value: [word, word]}`"
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{where}: holds no attributes", fix)
    return tuple(_attribute(str(name), values, where, fix) for name, values in content.items())


def _attribute(name: str, values: Any, where: str, fix: str) -> Attribute:
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"{where}: {name}: {values!r} holds no values", fix)
    table = {}
    for value, words in values.items():
        words = [words] if isinstance(words, str) else words
        if not isinstance(words, list) or not words or not all(isinstance(w, str) and w.strip() for w in words):
            raise ConfigError(f"{where}: {name}: {value}: {words!r} is no list of words", fix)
        if str(value) == NONE:
            raise ConfigError(f"{where}: {name}: {NONE!r} is what names no value, and has no words", fix)
        table[str(value)] = [word.strip().lower() for word in words]
    return Attribute(name, table)


# --- colours ---------------------------------------------------------------------------------------------------------


class ColourHistogram:
    """A feature space (N, 512): square roots of the shares of 8 x 8 x 8 colours.

    For emoji in a style that it has seen, a probe on these features reads skin tones better than one on learned
    features. It knows the palettes, so it says little about a new style: train and measure it on the style to be read.

    Args:
        codec: of pictures.
    """

    name = "colour histogram, 8 x 8 x 8"
    blind = "A histogram does not see where the colours are."
    sha256 = hashlib.sha256(name.encode()).hexdigest()

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Stored rows (N, ...) of pictures -> features (N, 512)."""
        found = torch.empty(len(rows), 512)
        for i, row in enumerate(rows):
            picture = self.codec.levels(row[None])[0]
            r, g, b = np.broadcast_to(picture, (*picture.shape[:2], 3)).reshape(-1, 3).T.astype(np.int64) >> 5
            counts = np.bincount(r * 64 + g * 8 + b, minlength=512)
            found[i] = torch.from_numpy(counts / len(r)).sqrt()
        return found


def colours(pictures: np.ndarray, report: Report) -> Tensor:
    """The number in `emoji.COLOURS` of the most frequent basic colour of a picture; near-white counts as background.

    Args:
        pictures: uint8 (N, H, W, 1 or 3).
        report: told how far it is.

    Returns:
        (N,) int64; len(COLOURS), which is "none", if there is hardly anything in the picture.
    """
    found = []
    for picture in pictures:
        rgb = np.broadcast_to(picture, (*picture.shape[:2], 3))
        drawn = np.where(rgb.min(-1, keepdims=True) < 240, 255, 0).astype(np.uint8)
        name = emoji.colour(Image.fromarray(np.concatenate([rgb, drawn], -1), "RGBA"), share=0)
        found.append(len(emoji.COLOURS) if name is None else emoji.COLOURS.index(name))
        report.progress("finding colours", len(found), len(pictures))
    return torch.tensor(found, dtype=torch.int64)


# --- the probe -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Probe:
    """Reads a value from features.

    Attributes:
        values: (V) names.
        weight: (V, D + 1), the bias last, of standardised features.
        mean: (D,) of the training pictures.
        scale: (D,).
        confusion: (V, V) for how many held-out pictures of value i it answers j.
    """

    values: tuple[str, ...]
    weight: Tensor
    mean: Tensor
    scale: Tensor
    confusion: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Features (N, D) -> numbers of values (N,)."""
        return _scores(self.weight, (features.double() - self.mean) / self.scale).argmax(1)

    @property
    def accuracy(self) -> tuple[Interval, ...]:
        """For each value, the share of its held-out pictures that are read correctly."""
        right, of = self.confusion.diagonal().tolist(), self.confusion.sum(1).tolist()
        return tuple(of_share(r, n) for r, n in zip(right, of, strict=True))

    @property
    def condition(self) -> float:
        """How much an error in its answers can grow in the corrected shares."""
        return condition(self.confusion)


def train_probe(values: Sequence[str], features: Tensor, labels: Tensor, held_out: Tensor, report: Report) -> Probe:
    """A probe trained with each value weighing the same, to convergence from zero: the same pictures, the same probe.

    Args:
        values: (V) names.
        features: (N, D) of real pictures.
        labels: (N,) numbers of values; pictures of -1 are left out.
        held_out: (N,) bool, the pictures that it is measured on; see `apart`.
        report: told how far it is.

    Raises:
        UserError: a value has too few pictures to train or to measure on.
    """
    known = labels >= 0
    training, measuring = known & ~held_out, known & held_out
    for i, value in enumerate(values):
        counts = [int((part & (labels == i)).sum()) for part in (training, measuring)]
        if min(counts) < LEAST:
            raise UserError(
                f"{value!r} has {counts[0]} pictures to train a probe on and {counts[1]} to measure it on, fewer than "
                f"{LEAST}",
                fix="leave the value out, give it more words, or give more pictures of it",
            )

    x, y = features[training].double(), labels[training]
    mean, std = x.mean(0), x.std(0)
    scale = std.clamp(min=0.1 * std.mean().item() or 1.0)  # a feature that hardly varied must not dominate
    x = (x - mean) / scale
    balance = (1 / torch.bincount(y, minlength=len(values)).double())[y] / len(values)

    weight = torch.zeros(len(values), x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        nll = torch.nn.functional.cross_entropy(_scores(weight, x), y, reduction="none")
        value = (balance * nll).sum() + L2 / 2 * weight[:, :-1].square().sum()
        value.backward()
        report.progress("training a probe", min(solver.state[weight].get("n_iter", 0), ITERATIONS), ITERATIONS)
        return value

    with torch.enable_grad():
        solver.step(loss)
    report.progress("training a probe", ITERATIONS, ITERATIONS)
    probe = Probe(tuple(values), weight.detach(), mean, scale, torch.empty(0))
    return replace(probe, confusion=confusion(labels[measuring], probe(features[measuring]), len(values)))


def _scores(weight: Tensor, x: Tensor) -> Tensor:
    return x @ weight[:, :-1].T + weight[:, -1]


def apart(groups: Sequence[str], part: float) -> Tensor:
    """Which of (N) pictures are held out (N,), about `part` of the groups; no group is on both sides.

    A probe that has seen a thing in one style would read the same thing in another too well: give the things' names.
    """
    places = [int(hashlib.sha256(group.encode()).hexdigest()[:13], 16) / 16**13 for group in groups]
    return torch.tensor([place < part for place in places])


# --- errors of the probe ---------------------------------------------------------------------------------------------


def confusion(labels: Tensor, said: Tensor, values: int) -> Tensor:
    """(values, values): how many pictures of value i are read as j.

    Labels may also come from prompts, to see whether a probe reads drawn pictures as it reads real ones.
    """
    known = labels >= 0
    return torch.bincount(labels[known] * values + said[known], minlength=values**2).view(values, values)


def condition(confusion: Tensor) -> float:
    """The 2-norm condition number of C; above `ILL_CONDITIONED`, do not trust the correction."""
    return float(torch.linalg.cond(rates(confusion)))


def rates(confusion: Tensor) -> Tensor:
    """C (..., V, V) in float64: rows that sum to one."""
    return confusion.double() / confusion.double().sum(-1, keepdim=True)


def correct(said: Tensor, confusion: Tensor) -> Tensor:
    """The true shares (..., V) from the shares (..., V) that a probe of this confusion (..., V, V) reads: q C^-1.

    It is unbiased, but noise may move it outside of the simplex.
    """
    return (said.double()[..., None, :] @ torch.linalg.pinv(rates(confusion)))[..., 0, :]


def on_simplex(x: Tensor) -> Tensor:
    """The nearest point of the probability simplex, along the last axis (Held, Wolfe & Crowder 1974)."""
    ordered = x.sort(dim=-1, descending=True).values
    excess = (ordered.cumsum(-1) - 1) / torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    last = (ordered > excess).sum(-1, keepdim=True) - 1
    return (x - excess.gather(-1, last)).clamp(min=0)
