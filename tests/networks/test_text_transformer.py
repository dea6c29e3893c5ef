"""The text transformer reads what it is told to read, and BERT's weights fit it exactly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, BertConfig, BertModel

from sfumato.networks import TextTransformer, load_bert

SMALL: dict[str, Any] = {"vocabulary": 50, "width": 32, "depth": 2, "heads": 4, "max_length": 12}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small BERT with random weights, biases and normalisations included, as `transformers` saves it."""
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=80,
        max_position_embeddings=16,
    )
    model = BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)

    return tmp_path


def sentences() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]

    return torch.randint(50, (3, 9)), mask


@pytest.mark.parametrize("gradient", [False, True])  # PyTorch has a separate fast path where no gradient is asked for
def test_a_loaded_bert_agrees_with_transformers(folder, gradient):
    ids, mask = sentences()
    peer = AutoModel.from_pretrained(folder).eval()

    with torch.set_grad_enabled(gradient):
        ours = load_bert(folder)(ids, mask)
        theirs = peer(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    assert theirs[mask].std() > 0.1
    assert (ours - theirs)[mask].abs().max() < 1e-4


def test_loading_disturbs_no_random_numbers_and_leaves_evaluation_mode(folder):
    state = torch.random.get_rng_state()

    encoder = load_bert(folder)

    assert not encoder.training
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", 10**9, "hidden_size = 1000000000 must be an integer in 1 ... 4,096"),
        ("vocab_size", -1, "vocab_size = -1"),
        ("num_hidden_layers", "3", "num_hidden_layers = '3'"),
        ("num_attention_heads", None, "num_attention_heads = None"),
        ("num_attention_heads", 5, "heads = 5: must divide the width 32"),
        ("max_position_embeddings", True, "max_position_embeddings = True"),
        ("hidden_act", "relu", "hidden_act = 'relu' is not supported"),
        ("position_embedding_type", "relative_key", "position_embedding_type = 'relative_key' is not supported"),
        ("layer_norm_eps", 2.0, "layer_norm_eps = 2.0 must be a number"),
        ("num_hidden_layers", 4, "does not hold the BERT encoder that config.json describes"),
        ("hidden_size", 64, "does not hold the BERT encoder that config.json describes"),
    ],
)
def test_a_configuration_out_of_bounds_is_refused(folder, field, value, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))

    with pytest.raises(ValueError, match=message):
        load_bert(folder)


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(FileNotFoundError):
        load_bert(folder)


def test_weights_in_half_precision_and_under_a_prefix_are_read(folder):
    from safetensors.torch import load_file

    expected = load_bert(folder).state_dict()
    weights = load_file(folder / "model.safetensors")
    save_file({f"bert.{name}": value.half() for name, value in weights.items()}, folder / "model.safetensors")

    for name, value in load_bert(folder).state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=2**-10)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_padding_changes_nothing(pre_norm):
    encoder = TextTransformer(**SMALL, pre_norm=pre_norm)
    ids, mask = sentences()
    other = torch.where(mask, ids, torch.randint(50, ids.shape))

    out = encoder(ids, mask)

    torch.testing.assert_close(encoder(other, mask)[mask], out[mask])
    torch.testing.assert_close(encoder(ids[1:2, :4], mask[1:2, :4])[0], out[1, :4], atol=1e-5, rtol=1e-5)


def test_every_token_and_its_place_matter():
    encoder = TextTransformer(**SMALL).eval()
    ids, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.bool)
    first = encoder(ids, mask)[0, 0]

    assert not torch.allclose(encoder(torch.tensor([[1, 2, 4]]), mask)[0, 0], first, atol=1e-3)
    assert not torch.allclose(encoder(torch.tensor([[1, 3, 2]]), mask)[0, 0], first, atol=1e-3)


def test_a_pre_norm_encoder_ends_normalised():
    ids, mask = sentences()

    out = TextTransformer(**SMALL)(ids, mask)

    torch.testing.assert_close(out.mean(-1), torch.zeros(3, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(-1, correction=0), torch.ones(3, 9), atol=1e-3, rtol=0)


def test_layers_start_different():
    state = TextTransformer(**SMALL).encoder.state_dict()

    for name in ("linear1.weight", "self_attn.in_proj_weight"):
        assert not torch.equal(state[f"layers.0.{name}"], state[f"layers.1.{name}"])


@pytest.mark.parametrize("pre_norm", [True, False])
def test_gradients_reach_every_parameter(pre_norm):
    encoder = TextTransformer(**SMALL, pre_norm=pre_norm)
    ids, mask = sentences()

    (encoder(ids, mask)[mask] * torch.randn(int(mask.sum()), 32)).sum().backward()

    assert not [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_sentence_that_is_too_long_is_refused_with_the_fix():
    encoder = TextTransformer(**SMALL)

    with pytest.raises(ValueError, match="13 tokens a row: at most max_length = 12; truncate"):
        encoder(torch.zeros(1, 13, dtype=torch.long), torch.ones(1, 13, dtype=torch.bool))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="heads = 5: must divide the width 32"):
        TextTransformer(50, width=32, depth=2, heads=5, max_length=12)
