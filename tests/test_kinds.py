"""A new kind of data is one reader, one codec, one recipe: arrays of 1 to 3 dimensions, and a toy kind made here."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import kinds
from sfumato.codecs.arrays import Arrays
from sfumato.codecs.codec import Codec
from sfumato.config import Config, load_recipe
from sfumato.data.formats import FURTHER
from sfumato.data.readers import Row, Unusable
from sfumato.data.readers.arrays import axis_of, opened
from sfumato.kinds import Kind
from sfumato.model import Model
from sfumato.settings.codecs import CodecSettings
from sfumato.training.run import train

SMALL = [
    "network.channels=8", "network.multipliers=[1,2]", "network.blocks=1", "network.attention_level=null",
    "network.groups=4", "network.patch=1", "optimizer.kind=adamw", "condition.kind=none", "data.validation=0.1",
    "training.batch=4", "training.validate_every=100", "training.sample_every=100", "training.half=false",
    "training.precision=fp32", "sampling.steps=2",
]  # fmt: skip


def run(data: Path, out: Path, *changes: str, steps: int = 4, every: int = 2) -> Model:
    given = [f"data.path={data}", *SMALL, *changes, f"training.steps={steps}", f"training.checkpoint_every={every}"]
    return train(load_recipe("folder", given), out)


def weights(out: Path) -> bytes:
    return (out / "model" / "weights.safetensors").read_bytes()


# ---- arrays


SHAPES = {"signal": (30,), "stereo": (2, 30), "field": (10, 13), "colours": (9, 12, 3), "volume": (6, 7, 8)}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_folder_of_arrays_trains_resumes_to_the_same_bits_and_draws_arrays(name, dtype, tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(20):
        values = generator.normal(40, 9, SHAPES[name]).astype(dtype)
        np.save(tmp_path / "data" / f"{i}.npy", values)
    whole = run(tmp_path / "data", tmp_path / "whole")
    run(tmp_path / "data", tmp_path / "cut", steps=2)
    run(tmp_path / "data", tmp_path / "cut")
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")
    assert (tmp_path / "whole" / "samples" / "step-00000000.png").exists()

    again = Model.load(tmp_path / "whole" / "model")
    (_, x), *_ = again.drawn([None] * 2, [1, 2], again.sampling())
    (_, same), *_ = whole.drawn([None] * 2, [1, 2], whole.sampling())
    assert torch.equal(x, same)
    row = again.codec.decode(x)[0]
    assert opened(again.codec.files(row, {})[".npy"]).shape == SHAPES[name]
    assert row.dtype == dtype and isinstance(again.codec.picture(row), Image.Image)
    assert (again.codec.bin is None) == (dtype == "float32")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32"])
def test_every_whole_number_survives_and_has_a_bin_of_its_own(dtype):
    low, high = -(2**14) if dtype.startswith("i") else 3, 200 if dtype == "uint8" else 2**14
    rows = np.linspace(low, high, 1001).round().astype(dtype).reshape(1, 1, 1001)
    codec = Arrays((1, 1001), dtype)
    codec.fit(rows)
    x = codec.encode(rows)
    assert np.array_equal(codec.decode(x), rows)
    assert (x.min(), x.max()) == (-1, 1) and codec.bin == pytest.approx(2 / (int(rows.max()) - int(rows.min())))


def test_real_numbers_have_mean_0_and_standard_deviation_one_half():
    rows = np.random.default_rng(0).gamma(2.0, 300.0, (50, 2, 40)).astype(np.float32)
    codec = Arrays((2, 40), "float32")
    codec.fit(rows)
    x = codec.encode(rows)
    assert x.mean().item() == pytest.approx(0, abs=1e-4) and x.std().item() == pytest.approx(0.5, abs=1e-3)
    assert np.allclose(codec.decode(x), rows, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((30,), "none"), ((30, 40), "none"), ((2, 40), "first"), ((3, 32, 32), "first"), ((32, 32, 3), "last"),
     ((16, 32, 32), "none"), ((1, 8, 8, 8), "first"), ((8, 8, 8, 2), "last"), ((9, 8, 8, 8), "first")],
)  # fmt: skip
def test_channels_are_an_end_of_at_most_four(shape: Sequence[int], axis: str):
    assert axis_of(shape) == axis


def test_arrays_that_do_not_fit_are_faults_with_the_reason(tmp_path):
    good = np.zeros((4, 4), np.float32)
    reader = kinds.arrays.NumPyArrays((1, 4, 4), "float32", "none")

    def content(values: Any) -> bytes:
        np.save(tmp_path / "a.npy", values, allow_pickle=True)
        return (tmp_path / "a.npy").read_bytes()

    assert reader(content(good), "a.npy").values.shape == (1, 4, 4)
    for bad, words in [
        (np.zeros((4, 5), np.float32), r"float32 of shape \(4, 5\)"),
        (good.astype(np.float64), "float64"),
        (good + np.nan, "NaN"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),
    ]:
        with pytest.raises(Unusable, match=words):
            reader(content(bad), "a.npy")
    with pytest.raises(Unusable, match="cannot be read"):
        reader(b"\x93NUMPY\x01\x00", "a.npy")


# ---- a kind of one's own, in less than 60 lines


class TideSettings(CodecSettings):
    kind: Literal["tides"] = "tides"
    hours: int = 24

    @property
    def sides(self) -> tuple[int, ...]:
        return (self.hours,)


@dataclass(frozen=True)
class TideReader:
    """Files of little-endian doubles, an hour each."""

    hours: int
    extensions: ClassVar[frozenset[str]] = frozenset((".tide",))
    dtype: ClassVar[np.dtype] = np.dtype(np.float64)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.hours,)

    def notes(self, row: dict) -> list[str]:
        return []

    def loss(self, rows: Sequence[dict]) -> str:
        return ""

    def __call__(self, data: bytes, name: str) -> Row:
        if len(data) != 8 * self.hours:
            raise Unusable("tide", f"{len(data)} bytes are not {self.hours} hours", "Measure again")
        return Row(np.frombuffer(data), (self.hours,), "double")


class Tides(Codec):
    def __init__(self, settings: TideSettings) -> None:
        self.shape = (1, settings.hours)

    def encode(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(rows, np.float32) / 4)[:, None]

    def decode(self, x: torch.Tensor) -> np.ndarray:
        return 4 * x[:, 0].double().cpu().numpy()

    def picture(self, row: np.ndarray) -> Image.Image:
        return Image.fromarray((row.clip(-4, 4) * 31 + 128).astype(np.uint8)[None])

    def files(self, row: np.ndarray, texts: Any) -> dict[str, bytes]:
        return {".tide": struct.pack(f"<{len(row)}d", *row)}


def test_a_kind_of_ones_own_trains_resumes_and_draws(tmp_path):
    before = set(FURTHER)
    make = Kind("tides", TideSettings, Tides, lambda c: cast(Any, TideReader(hours(c))), TideReader.extensions)
    kinds.register(make)
    try:
        (tmp_path / "sea").mkdir()
        for i in range(12):
            tide = np.sin(np.arange(24) / 4 + i)
            (tmp_path / "sea" / f"{i}.tide").write_bytes(tide.tobytes())
        run(tmp_path / "sea", tmp_path / "whole", "codec.kind=tides")
        run(tmp_path / "sea", tmp_path / "cut", "codec.kind=tides", steps=2)
        run(tmp_path / "sea", tmp_path / "cut", "codec.kind=tides")
        assert weights(tmp_path / "whole") == weights(tmp_path / "cut")
        model = Model.load(tmp_path / "whole" / "model")
        (_, x), *_ = model.drawn([None], [3], model.sampling())
        (name, content), *_ = model.codec.files(model.codec.decode(x)[0], {}).items()
        assert name == ".tide" and TideReader(24)(content, "a.tide").values.shape == (24,)
        with pytest.raises(ValueError, match="kind 'tides' is there already"):
            kinds.register(make)
    finally:
        del kinds.KINDS["tides"], kinds.CODECS["tides"]
        FURTHER.intersection_update(before)


def hours(config: Config) -> int:
    assert isinstance(config.codec, TideSettings)
    return config.codec.hours
