"""Small models with random weights, built in the process, for tests that need no trained model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from sfumato.config import Config
from sfumato.model import Model

# A busy machine is no fault of the code.
hypothesis.settings.register_profile("sfumato", deadline=None)
hypothesis.settings.load_profile("sfumato")

CLASSES = ("Apple", "brown dog", "cat", "house")
CAPTIONS = ("a red apple", "a brown dog", "a cat on a red house", "flag of Japan", "the house of the brown cat")

WORDS = sorted({word.lower() for caption in CAPTIONS for word in caption.split()} | {"##s", "##ish", "blue", "green"})


@pytest.fixture(autouse=True)
def own_features(monkeypatch, tmp_path):
    """Keep the features that a test learns in its own folder, and not in the user's cache."""
    monkeypatch.setattr("sfumato.features.cache.user_cache", lambda part: tmp_path / "user-cache" / part)


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> Path:
    """The folder of a random sentence encoder of MiniLM's width: one layer, 16 positions, a few words."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=16)  # as sentence encoders are shipped
    tokenizer.save(str(folder / "tokenizer.json"))

    config = {
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": 384,
        "num_hidden_layers": 1,
        "num_attention_heads": 12,
        "max_position_embeddings": 16,
        "intermediate_size": 64,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }
    (folder / "config.json").write_text(json.dumps(config))

    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(vocabulary), 384),
        "embeddings.position_embeddings.weight": (16, 384),
        "embeddings.token_type_embeddings.weight": (2, 384),
    }
    linear = {
        "attention.self.query": (384, 384),
        "attention.self.key": (384, 384),
        "attention.self.value": (384, 384),
        "attention.output.dense": (384, 384),
        "intermediate.dense": (64, 384),
        "output.dense": (384, 64),
    }
    for name, shape in linear.items():
        shapes[f"encoder.layer.0.{name}.weight"], shapes[f"encoder.layer.0.{name}.bias"] = shape, shape[:1]
    norms = ("embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output")
    for name in norms:
        shapes[f"{name}.LayerNorm.weight"], shapes[f"{name}.LayerNorm.bias"] = (384,), (384,)

    generator = torch.Generator().manual_seed(5)
    weights = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in norms:
        weights[f"{name}.LayerNorm.weight"] += 1
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def settings_of(bert) -> Callable[..., dict[str, Any]]:
    """Settings of a small model by its kind of condition; further groups as keywords."""

    def settings(kind: str = "none", **groups: dict[str, Any]) -> dict[str, Any]:
        conditions: dict[str, dict[str, Any]] = {
            "none": {},
            "class": {"width": 16},
            "text": {"width": 32, "depth": 1, "heads": 2, "vocabulary": 64, "max_length": 8},
            "sentence": {"width": 16, "encoder": str(bert)},
        }
        unet = {"kind": "unet", "channels": 32, "multipliers": [1, 2], "blocks": 1, "attention_level": 1, "groups": 8}
        given = {
            "data": {"path": "pictures", "size": 16},
            "network": unet,
            "diffusion": {"schedule": "flow", "parameterization": "karras"},
            "sampling": {"steps": 3, "grid": "log-snr"},
        }
        merged = {name: given.get(name, {}) | groups.get(name, {}) for name in given.keys() | groups.keys()}
        return {"name": f"tiny-{kind}", "condition": {"kind": kind, **conditions[kind]}, **merged}

    return settings


@pytest.fixture(scope="session")
def tiny(settings_of) -> Callable[..., Model]:
    """A small model by its kind of condition; no weight is zero, so every part of it has an effect."""

    def build(kind: str = "none", **groups: dict[str, Any]) -> Model:
        torch.manual_seed(0)
        config = Config.model_validate(settings_of(kind, **groups))
        model = Model.build(config, CLASSES if kind == "class" else (), CAPTIONS)
        with torch.no_grad():
            for parameter in model.parameters().values():
                if not parameter.any():
                    parameter.normal_(std=0.2)
        return model.to("cpu").eval()

    return build
