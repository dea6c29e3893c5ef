"""Files of tokenizers: our files and BERT's give the same tokens as before, and nothing else of the format runs."""

import json
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from sfumato.conditioning.text import find_encoder
from sfumato.conditioning.tokens import START, read_bert_tokenizer, read_tokenizer, train_tokenizer
from sfumato.errors import UserError

CAPTIONS = [
    "A red apple",
    "a brown dog",
    "a cat on a red house",
    "flag of Japan",
    "the house of the brown cat",
    "Ünïcode 日本",
]
TEXTS = [
    *CAPTIONS,
    "",
    "an unseen zebra é",
    "ＷＩＤＥ  letters\tand\n[start] [pad]",
    "x" * 10_000,
    "🍎 !?",
    "[CLS] [MASK] ##s",
]
FILE = Path("model") / "tokenizer.json"


@pytest.fixture(scope="module")
def ours() -> dict:
    return json.loads(train_tokenizer(CAPTIONS, 80).to_str())


def encoded(content: object) -> bytes:
    return json.dumps(content).encode()


def test_a_tokenizer_is_the_same_when_it_is_read_back(ours):
    again = read_tokenizer(FILE, encoded(ours))
    library = Tokenizer.from_str(json.dumps(ours))
    for text in TEXTS:
        assert again.encode(f"{START} {text}").ids == library.encode(f"{START} {text}").ids
    assert json.loads(again.to_str()) == ours


def test_merges_as_older_versions_wrote_them_are_read(ours):
    older = {**ours, "model": {**ours["model"], "merges": [" ".join(merge) for merge in ours["model"]["merges"]]}}
    assert read_tokenizer(FILE, encoded(older)).to_str() == read_tokenizer(FILE, encoded(ours)).to_str()


@pytest.mark.parametrize("name", ["a folder", "minilm"])
def test_the_tokenizer_of_a_sentence_encoder_gives_the_tokens_that_the_library_gives(name, bert):
    try:
        file = (bert if name == "a folder" else find_encoder(name)) / "tokenizer.json"
    except UserError:
        pytest.skip("the sentence encoder is not installed")
    library = Tokenizer.from_file(str(file))
    library.no_padding()
    library.no_truncation()
    again = read_bert_tokenizer(file, file.read_bytes())
    for text in TEXTS:
        assert again.encode(text).ids == library.encode(text).ids


CATASTROPHE = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
ADDED = {"id": 3, "content": "x", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("normalizer", CATASTROPHE, "normalizer"),
        ("normalizer.normalizers", [{"type": "NFKC"}, CATASTROPHE], "normalizer"),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a|a)*b"}, "behavior": "Isolated"}, "pre_tokenizer"),
        ("padding", {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 0}, "padding"),
        ("truncation", {"max_length": 0, "strategy": "LongestFirst", "stride": 10**9}, "truncation"),
        ("post_processor", {"type": "TemplateProcessing", "single": []}, "post_processor"),
        ("added_tokens", [ADDED], "added_tokens"),
        ("added_tokens", [], "added_tokens"),
        ("extra", 5, "extra"),
        ("model.type", "Unigram", "model.type"),
        ("model.dropout", 0.5, "model.dropout"),
        ("model.unk_token", "nobody", "model.unk_token"),
        ("model.byte_fallback", True, "model.byte_fallback"),
        ("model.vocab.a", 10**9, "numbered"),
        ("model.vocab.a", -1, "numbered"),
        ("model.vocab.a", 0, "numbered"),
        ("model.vocab.a", True, "numbered"),
        ("model.vocab.a", 3.0, "numbered"),
        ("model.vocab", ["a"], "lacks"),
        ("model.vocab", None, "not a tokenizer"),
        ("model.merges", [["a", "nobody"]], "merge"),
        ("model.merges", [["a", "b", "c"]], "not a tokenizer"),
        ("model.merges", 10**9, "not a tokenizer"),
        ("model", [], "no model"),
    ],
)
def test_a_part_that_training_does_not_write_is_refused_by_name_and_at_once(ours, path, value, named):
    content = json.loads(json.dumps(ours))
    *groups, last = path.split(".")
    group = content
    for name in groups:
        group = group[name]
    group[last] = value

    start = time.monotonic()
    with pytest.raises(UserError, match=r"tokenizer\.json") as caught:
        read_tokenizer(FILE, encoded(content))
    assert named in caught.value.message
    assert len(caught.value.message) < 400
    assert caught.value.fix
    assert time.monotonic() - start < 1


def test_a_text_that_is_larger_than_any_tokenizer_is_refused_before_it_is_read(ours):
    with pytest.raises(UserError, match="more than the limit of 16,777,216"):
        read_tokenizer(FILE, b" " * (16 * 2**20 + 1))
    with pytest.raises(UserError, match="more than 1,000,000 entries"):
        read_tokenizer(FILE, b"[" + b"[]," * 1_000_001 + b"[]]")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("normalizer", CATASTROPHE),
        ("normalizer.lowercase", "yes"),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("post_processor", {"type": "Sequence", "processors": []}),
        ("post_processor.single", []),
        ("post_processor.special_tokens.[CLS].ids", [10**9]),
        ("post_processor.special_tokens.[CLS].ids", []),
        ("added_tokens", [ADDED]),
        ("model.max_input_chars_per_word", 10**9),
        ("model.continuing_subword_prefix", "@@"),
        ("model.vocab.[SEP]", 10**9),
    ],
)
def test_a_sentence_encoder_whose_tokenizer_is_not_of_bert_is_refused(bert, path, value):
    content = json.loads((bert / "tokenizer.json").read_bytes())
    *groups, last = path.split(".")
    group = content
    for name in groups:
        group = group[name]
    group[last] = value
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        read_bert_tokenizer(FILE, encoded(content))
