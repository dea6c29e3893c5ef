"""How well drawn pictures fit their prompts, by a small probe that is trained on real captioned pictures.

Frozen features of pictures and frozen sentence vectors of texts go through one linear head each to vectors of unit
length, trained by the symmetric InfoNCE loss of CLIP (Radford et al. 2021, arXiv:2103.00020, fig. 3; van den Oord et
al. 2018, arXiv:1807.03748, eq. 4). Pictures of the same text in one batch do not count as negatives of each other.

The probe cannot read more in drawn pictures than in real ones: its scores on real pictures of texts that it was not
trained on are the ceiling. So the model is asked for those texts. In both cases each text is told from equally many
others, because the share of right answers depends on their number. The probe knows its training texts too well to
judge them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from sfumato import saved
from sfumato.conditioning.text import find_encoder, fingerprint, load_encoder, mean_over
from sfumato.conditioning.tokens import tokenize
from sfumato.durable import write_atomically
from sfumato.errors import UserError
from sfumato.keyed import generator
from sfumato.measures.interval import Interval, interval, of_share
from sfumato.report import Report

WEIGHTS, DESCRIPTION = "alignment.safetensors", "alignment.json"
SENTENCE = 384  # entries of a sentence vector
WIDTH = 128  # of the space that pictures and texts share
STEPS, BATCH, RATE, DECAY = 200, 512, 5e-3, 0.1
DROPPED = 0.5  # share of the features that a training step does not see
SHARPNESS, SHARPEST = 20.0, 100.0  # 1 / temperature: the first and the highest
ENCODED_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class ImageText:
    """The two heads.

    Attributes:
        picture: (WIDTH, D).
        shift: (WIDTH,).
        text: (WIDTH, SENTENCE).
        space: the SHA-256 of the feature space.
        encoder: the name or folder of the sentence encoder.
    """

    picture: Tensor
    shift: Tensor
    text: Tensor
    space: str
    encoder: str

    def pictures(self, features: Tensor) -> Tensor:
        """Features (N, D) -> vectors of unit length (N, WIDTH)."""
        return normalize(features @ self.picture.T + self.shift, dim=1)

    def texts(self, vectors: Tensor) -> Tensor:
        """Sentence vectors (N, SENTENCE) -> vectors of unit length (N, WIDTH)."""
        return normalize(vectors @ self.text.T, dim=1)

    @property
    def sha256(self) -> str:
        """The hash of the weights and of the features that they read."""
        return hashlib.sha256(self._bytes()).hexdigest()

    def _bytes(self) -> bytes:
        tensors = {"picture": self.picture, "shift": self.shift, "text": self.text}
        encoder = fingerprint(find_encoder(self.encoder), ())
        return save(tensors, {"reads": f"{self.space} {encoder}"})  # one entry: of several the order is random

    def save(self, folder: Path) -> None:
        """Write the two files; a folder that is left half new does not load."""
        data = self._bytes()
        description = {"space": self.space, "encoder": self.encoder, "sha256": hashlib.sha256(data).hexdigest()}
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / WEIGHTS, data)
        write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, space: str) -> "ImageText":
        """Read a probe for features of the space with this SHA-256.

        Raises:
            UserError: it is not there, damaged, or reads another space or another encoder.
        """
        again = "train the probe again"
        try:
            description = json.loads((folder / DESCRIPTION).read_bytes())
            data = (folder / WEIGHTS).read_bytes()
            own, encoder, digest = (str(description[name]) for name in ("space", "encoder", "sha256"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: no alignment probe can be read there ({error})", again) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{folder / WEIGHTS}: its SHA-256 is not the one in {DESCRIPTION}", again)
        if own != space:
            raise UserError(f"{folder}: this probe reads features of space {own[:10]}, not {space[:10]}", again)
        tensors = saved.read_tensors(folder / WEIGHTS, data)
        probe = cls(tensors["picture"], tensors["shift"], tensors["text"], own, encoder)
        if probe.sha256 != digest:
            raise UserError(f"{folder}: this probe was trained on another sentence encoder than {encoder!r}", again)
        return probe


def train(features: Tensor, texts: Sequence[str], space: str, encoder: str, seed: int, report: Report) -> ImageText:
    """Train the heads; the same arguments give the same heads.

    Args:
        features: (N, D) of real pictures.
        texts: (N) the text of each picture.
        space: the SHA-256 of the feature space.
        encoder: the name or folder of the sentence encoder.
        seed: decides the first weights, the batches and the dropped features.
        report: told how far it is.
    """
    unique = sorted(set(texts))
    number = {text: i for i, text in enumerate(unique)}
    what = torch.tensor([number[text] for text in texts])
    vectors = sentences(unique, encoder, report)
    g = generator(seed, "alignment")

    mean, std = features.mean(0), features.std(0)
    scale = std.clamp(min=0.1 * std.mean().item())  # a feature that hardly varied here must not dominate elsewhere
    x = (features - mean) / scale
    picture = (torch.randn(WIDTH, x.shape[1], generator=g) / x.shape[1] ** 0.5).requires_grad_()
    text = (torch.randn(WIDTH, SENTENCE, generator=g) / SENTENCE**0.5).requires_grad_()
    log_sharpness = torch.tensor(SHARPNESS).log().requires_grad_()
    optimizer = torch.optim.AdamW(
        [{"params": [picture, text], "weight_decay": DECAY}, {"params": [log_sharpness], "weight_decay": 0.0}], lr=RATE
    )
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

    for step in range(STEPS):
        batch = torch.randperm(len(x), generator=g)[:BATCH]
        kept = (torch.rand(len(batch), x.shape[1], generator=g) >= DROPPED) / (1 - DROPPED)
        shown = normalize((x[batch] * kept) @ picture.T, dim=1)
        said = normalize(vectors[what[batch]] @ text.T, dim=1)
        likeness = shown @ said.T * log_sharpness.exp().clamp(max=SHARPEST)

        own = torch.arange(len(batch))
        same = what[batch, None] == what[None, batch]
        likeness = likeness.masked_fill(same & (own[:, None] != own), -torch.inf)
        loss = (cross_entropy(likeness, own) + cross_entropy(likeness.T, own)) / 2

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        report.progress("training the alignment probe", step + 1, STEPS)

    head = (picture / scale).detach()
    return ImageText(head, -head @ mean, text.detach(), space, encoder)


@torch.no_grad()
def sentences(texts: Sequence[str], encoder: str, report: Report) -> Tensor:
    """The sentence vectors (N, SENTENCE) of texts, of unit length, by a frozen encoder.

    Raises:
        UserError: the encoder is not installed.
    """
    tokenizer, transformer = load_encoder(encoder, SENTENCE)
    lengths = [len(tokenizer.encode(text).ids) for text in texts]
    order = sorted(range(len(texts)), key=lengths.__getitem__)
    found = torch.empty(len(texts), SENTENCE)
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        part = order[start : start + ENCODED_AT_ONCE]
        ids, mask = tokenize(tokenizer, [texts[i] for i in part], lengths[part[-1]])
        found[part] = normalize(mean_over(transformer(ids, mask), mask), dim=1)
        report.progress("reading prompts", start + len(part), len(texts))
    return found


# --- scores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alignment:
    """How pictures fit their prompts; intervals are over prompts.

    Attributes:
        cosine: cosine of a picture and its prompt.
        shuffled: cosine of a picture and the other prompts.
        gap: `cosine` minus `shuffled`.
        recall_1: how often a picture's own prompt is the nearest of all.
        recall_10: how often it is among the ten nearest.
        chance_1, chance_10: the same by guessing.
        pictures: number of pictures.
        prompts: number of prompts that were told apart.
    """

    cosine: Interval
    shuffled: Interval
    gap: Interval
    recall_1: Interval
    recall_10: Interval
    chance_1: float
    chance_10: float
    pictures: int
    prompts: int


def aligned(
    probe: ImageText, features: Tensor, prompts: Sequence[str], among: Sequence[str], report: Report
) -> Alignment:
    """Measure how pictures fit their prompts.

    Args:
        probe: from `train`.
        features: (N, D).
        prompts: (N) the prompt that each picture was drawn from, or the text that it shows.
        among: further prompts to tell them from.
        report: told how far it is.

    Raises:
        UserError: there is only one prompt.
    """
    asked = sorted({*prompts, *among})
    if len(asked) < 2:
        raise UserError(f"alignment: {asked} leaves nothing to tell it from", fix="give two prompts or more")
    number = {text: i for i, text in enumerate(asked)}
    own = torch.tensor([number[text] for text in prompts])
    cosines = (probe.pictures(features) @ probe.texts(sentences(asked, probe.encoder, report)).T).double()

    right = cosines.gather(1, own[:, None])[:, 0]
    others = (cosines.sum(1) - right) / (len(asked) - 1)
    rank = (cosines >= right[:, None]).sum(1)  # ties count against the picture
    return Alignment(
        cosine=_over_prompts(right, own),
        shuffled=_over_prompts(others, own),
        gap=_over_prompts(right - others, own),
        recall_1=_share_over_prompts(rank <= 1, own),
        recall_10=_share_over_prompts(rank <= 10, own),
        chance_1=1 / len(asked),
        chance_10=min(1.0, 10 / len(asked)),
        pictures=len(own),
        prompts=len(asked),
    )


def _means(values: Tensor, own: Tensor) -> Tensor:
    """The mean over each prompt's pictures (P,): these are alike, so they count as one."""
    mine = own.unique(return_inverse=True)[1]
    sums = torch.zeros(int(mine.max()) + 1, dtype=torch.float64).index_add(0, mine, values.double())
    return sums / torch.bincount(mine)


def _over_prompts(values: Tensor, own: Tensor) -> Interval:
    means = _means(values, own)
    n = len(means)
    return interval(means.mean().item(), means.std().item() / n**0.5 if n > 1 else 0.0, n - 1)


def _share_over_prompts(hits: Tensor, own: Tensor) -> Interval:
    means = _means(hits, own)
    return of_share(means.sum().item(), len(means))
