"""A transformer that encodes token ids: each token becomes a vector that depends on its whole sentence.

Token and position embeddings are summed, normalised, and passed through `depth` layers of self-attention and a
perceptron with GELU (Vaswani et al. 2017). Two arrangements of the normalisation are in use. BERT (Devlin et al. 2018,
arXiv 1810.04805) normalises after each residual sum; sentence encoders in the style of MiniLM have this form, and
`load_bert` reads their weights. Normalising before each branch trains more easily from scratch (Xiong et al. 2020,
arXiv 2002.04745) and is the default.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.networks.layers import check_heads


class TextTransformer(nn.Module):
    """Token ids (B, L) and their mask (B, L) -> one vector per token, (B, L, width).

    Args:
        vocabulary: the number of different tokens.
        width: width of the vectors.
        depth: the number of layers.
        heads: attention heads, a divisor of width.
        max_length: the longest sequence, in tokens.
        mlp_ratio: width of the hidden layer of each perceptron, as a multiple of width.
        dropout: probability of dropping an activation.
        pre_norm: normalise before each branch and once at the end; False for BERT's order.
        eps: added to variances by the normalisations.

    Raises:
        ValueError: if heads does not divide width.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        depth: int,
        heads: int,
        max_length: int,
        mlp_ratio: float = 4,
        dropout: float = 0.0,
        pre_norm: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()

        layer = nn.TransformerEncoderLayer(
            width,
            check_heads(width, heads),
            round(mlp_ratio * width),
            dropout,
            "gelu",
            eps,
            batch_first=True,
            norm_first=pre_norm,
        )

        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(max_length, width)
        self.norm = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(width, eps) if pre_norm else None, enable_nested_tensor=False
        )

        # The encoder's layers are copies of one; each gets its own draw. BERT's embeddings have deviation 0.02.
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode a batch of sentences.

        Args:
            ids: (B, L), integers below `vocabulary`.
            mask: (B, L), True where there is a token and False where there is padding. Each row needs one True.

        Returns:
            (B, L, width). Values at padding have no meaning.

        Raises:
            ValueError: if L is more than max_length.
        """
        length, limit = ids.shape[1], self.positions.num_embeddings
        if length > limit:
            raise ValueError(f"ids has {length} tokens a row: at most max_length = {limit}; truncate in the tokenizer")

        h = self.norm(self.tokens(ids) + self.positions.weight[:length])

        return self.encoder(self.dropout(h), src_key_padding_mask=~mask.bool())


def load_bert(folder: str | Path) -> TextTransformer:
    """Read a BERT-type encoder (BERT, MiniLM, BGE small, ...) from a folder with config.json and model.safetensors.

    All tokens count as the first segment, so its embedding is added to the position embeddings once.

    Returns:
        The encoder, in evaluation mode and float32.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        ValueError: if the configuration or the weights are not those of a BERT-type encoder of reasonable size.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    config = read_config(folder / "config.json")

    weights = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("bert."): tensor.float() for name, tensor in weights.items()}

    # The random weights of the constructor are discarded, so they must not disturb the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        encoder = TextTransformer(
            config["vocab_size"],
            config["hidden_size"],
            config["num_hidden_layers"],
            config["num_attention_heads"],
            config["max_position_embeddings"],
            config["intermediate_size"] / config["hidden_size"],
            pre_norm=False,
            eps=config["layer_norm_eps"],
        )

    try:
        encoder.load_state_dict(from_bert(weights, config["num_hidden_layers"]))
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{folder / 'model.safetensors'} does not hold the BERT encoder that config.json describes: {error}"
        ) from error

    return encoder.eval()


LIMITS = {
    "vocab_size": (1, 1_000_000),
    "hidden_size": (1, 4096),
    "num_hidden_layers": (1, 64),
    "num_attention_heads": (1, 64),
    "max_position_embeddings": (1, 65_536),
    "intermediate_size": (1, 16_384),
}


def read_config(path: Path) -> dict:
    """The settings of a BERT-type encoder that matter here, each within its limits.

    Raises:
        ValueError: naming the setting, its value and what it should be.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config = {"hidden_act": "gelu", "position_embedding_type": "absolute", "layer_norm_eps": 1e-12} | config

    for field, (low, high) in LIMITS.items():
        value = config.get(field)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{path}: {field} = {value!r} must be an integer in {low:,} ... {high:,}; is this a BERT?")

    for field, value in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if config[field] != value:
            raise ValueError(f"{path}: {field} = {config[field]!r} is not supported; choose an encoder with {value!r}")

    eps = config["layer_norm_eps"]
    if type(eps) is not float or not 0 < eps < 0.1:
        raise ValueError(f"{path}: layer_norm_eps = {eps!r} must be a number between 0 and 0.1")

    return config


def from_bert(weights: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The state of a `TextTransformer` (post-norm) from the state of a BERT encoder with `depth` layers."""
    state = {
        "tokens.weight": weights["embeddings.word_embeddings.weight"],
        "positions.weight": weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0],
    }

    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = weights[f"embeddings.LayerNorm.{kind}"]

        for i in range(depth):
            theirs, ours = f"encoder.layer.{i}", f"encoder.layers.{i}"
            qkv = [weights[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{ours}.self_attn.in_proj_{kind}"] = torch.cat(qkv)
            state[f"{ours}.self_attn.out_proj.{kind}"] = weights[f"{theirs}.attention.output.dense.{kind}"]
            state[f"{ours}.norm1.{kind}"] = weights[f"{theirs}.attention.output.LayerNorm.{kind}"]
            state[f"{ours}.linear1.{kind}"] = weights[f"{theirs}.intermediate.dense.{kind}"]
            state[f"{ours}.linear2.{kind}"] = weights[f"{theirs}.output.dense.{kind}"]
            state[f"{ours}.norm2.{kind}"] = weights[f"{theirs}.output.LayerNorm.{kind}"]

    return state
