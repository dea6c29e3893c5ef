"""Texts and token ids: how a tokenizer is trained, read from a file, and applied.

A file of the format ``tokenizer.json`` can hold far more than Sfumato writes: regular expressions that never end,
padding to any length, ids beyond the vocabulary. So nothing in it is run. The vocabulary and the merges are read as
plain values, within bounds, and the tokenizer is built here from parts that are named here. A file that asks for any
other part is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from sfumato.bounded import parse_json
from sfumato.errors import UserError, shown

START, PAD, UNKNOWN = "[start]", "[pad]", "[unknown]"
SPECIAL = (PAD, START, UNKNOWN)
MOST_TOKENS = 131_072 + len(SPECIAL)
LARGEST = 16 * 2**20  # bytes of a tokenizer.json
LONGEST_TOKEN = 1024  # characters
ENDS = "[CLS]", "[SEP]"  # what BERT puts around a text
BERT_SPECIAL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
LETTERS = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")  # switches of BERT's normaliser


def blank(model: models.Model) -> Tokenizer:
    """A tokenizer that folds letters of one meaning into one and splits at spaces and punctuation."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def train_tokenizer(captions: Sequence[str], vocabulary: int) -> Tokenizer:
    """A lower-casing byte-pair tokenizer of at most ``vocabulary`` entries, the same for the same captions."""
    tokenizer = blank(models.BPE(unk_token=UNKNOWN))
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False, max_token_length=LONGEST_TOKEN
    )
    tokenizer.train_from_iterator(sorted(captions), trainer)
    return tokenizer


def read_tokenizer(file: Path, data: bytes) -> Tokenizer:
    """The tokenizer of a trained text encoder from the content of ``file``.

    Raises:
        UserError: ``train_tokenizer`` did not build it; names the difference.
    """
    content = parsed(file, data)

    def build() -> Tokenizer:
        vocabulary = vocabulary_of(content, SPECIAL)
        tokenizer = blank(models.BPE(vocabulary, merges_of(content, vocabulary), unk_token=UNKNOWN))
        tokenizer.add_special_tokens(list(SPECIAL))
        return tokenizer

    return agreed(file, content, built(file, build))


def read_bert_tokenizer(file: Path, data: bytes) -> Tokenizer:
    """The tokenizer of a BERT-type encoder, without the padding and the cutting in its file.

    Raises:
        UserError: it is not of BERT's kind; names the difference.
    """
    content = parsed(file, data)

    def build() -> Tokenizer:
        vocabulary = vocabulary_of(content, ("[UNK]", *ENDS))
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        switches = {name: content["normalizer"][name] for name in LETTERS}
        tokenizer.normalizer = normalizers.BertNormalizer(**switches)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        ends = [(end, vocabulary[end]) for end in ENDS]
        if ends_of(content["post_processor"]) != ends:
            raise ValueError(f"its post_processor does not put {' and '.join(ENDS)} around a text")
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
        added = [token["content"] for token in content["added_tokens"]]
        if not BERT_SPECIAL.issuperset(added):
            raise ValueError(f"it adds tokens beside {', '.join(sorted(BERT_SPECIAL))}")
        tokenizer.add_special_tokens(added)
        return tokenizer

    tokenizer = built(file, build)
    return agreed(file, content, tokenizer, unread={"truncation", "padding", "post_processor"})


# --- what a file says ------------------------------------------------------------------------------------------------


def parsed(file: Path, data: bytes) -> dict[str, Any]:
    """The content of a tokenizer.json, within bounds."""
    try:
        if len(data) > LARGEST:
            raise ValueError(f"{len(data):,} bytes are more than the limit of {LARGEST:,}")
        content = parse_json(data)
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise ValueError("it describes no model")
    except ValueError as error:
        raise no_tokenizer(file, error) from error
    return content


def built(file: Path, build: Callable[[], Tokenizer]) -> Tokenizer:
    try:
        return build()
    except Exception as error:  # tokenizers raise nothing narrower
        raise no_tokenizer(file, error) from error


def no_tokenizer(file: Path, error: Exception) -> UserError:
    what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
    return UserError(f"{file}: not a tokenizer that can be read ({what[:200]})", fix="copy the whole folder again")


def agreed(file: Path, content: dict[str, Any], tokenizer: Tokenizer, unread: Set[str] = frozenset()) -> Tokenizer:
    """``tokenizer``, if each of its parts is what the file asks for.

    Args:
        unread: parts of the file that have no effect, or that were checked before.
    """
    ours = json.loads(tokenizer.to_str())
    model = {name: value for name, value in content["model"].items() if name not in ("vocab", "merges")}
    known = {name: value for name, value in ours["model"].items() if name not in ("vocab", "merges")}
    parts = {**content, **{f"model.{name}": value for name, value in model.items()}}
    wanted = {**ours, **{f"model.{name}": value for name, value in known.items()}}
    for name in parts.keys() - {"version", "decoder", "model"} - unread:
        if parts[name] != wanted.get(name):
            raise UserError(
                f"{file}: its {shown(name)[1:-1]} is {shown(parts[name])}, and not {shown(wanted.get(name))}",
                fix="use the tokenizer that the model was trained with: copy the whole folder again",
            )
    return tokenizer


def vocabulary_of(content: dict[str, Any], needed: Sequence[str]) -> dict[str, int]:
    """Tokens and their ids, which are 0, 1, 2 and so on."""
    vocabulary = content["model"]["vocab"]
    lacking = [token for token in needed if token not in vocabulary]
    if lacking:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    if len(vocabulary) > MOST_TOKENS:
        raise ValueError(f"{len(vocabulary):,} tokens are more than the limit of {MOST_TOKENS:,}")
    if not all(type(number) is int for number in vocabulary.values()) or sorted(vocabulary.values()) != list(
        range(len(vocabulary))
    ):
        raise ValueError(f"its {len(vocabulary)} tokens are not numbered from 0 on: a number is beyond, or given twice")
    if max(map(len, vocabulary)) > LONGEST_TOKEN:
        raise ValueError(f"a token has more than {LONGEST_TOKEN:,} characters")
    return vocabulary


def merges_of(content: dict[str, Any], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs of tokens that become one, the most frequent first; older files have "a b" for ["a", "b"]."""
    merges: list[tuple[str, str]] = []
    for merge in content["model"]["merges"]:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        if not {first, second, first + second} <= vocabulary.keys():
            raise ValueError(f"a merge is not of two tokens that make a third: {shown(merge)}")
        merges.append((first, second))
    if len(merges) > len(vocabulary):
        raise ValueError(f"{len(merges):,} merges are more than its {len(vocabulary):,} tokens")
    return merges


def ends_of(processor: dict[str, Any]) -> list[tuple[str, int]]:
    """The tokens, with their ids, that a post-processor puts before and behind a text."""
    if processor["type"] == "BertProcessing":
        return [tuple(processor["cls"]), tuple(processor["sep"])]
    if processor["type"] != "TemplateProcessing":
        raise ValueError(f"its post_processor is of the type {shown(processor['type'])}")
    first, text, last = processor["single"]
    if text["Sequence"]["id"] != "A":
        raise ValueError("its post_processor leaves the text out")
    names = [end["SpecialToken"]["id"] for end in (first, last)]
    return [(name, *processor["special_tokens"][name]["ids"]) for name in names]


# --- what it does ----------------------------------------------------------------------------------------------------


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, length), cut or padded, and the mask (B, length), True where a token is real.

    The length is fixed, and not the length of the longest text, so a prompt's result does not depend on its neighbours.
    """
    rows = [encoding.ids[:length] for encoding in tokenizer.encode_batch(list(texts))]
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    return ids, mask
