"""A new kind of data is one reader, one codec, one recipe: arrays of 1 to 3 dimensions, and a toy kind made here."""

import io
import json
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
from sfumato.cli import main as cli
from sfumato.codecs.arrays import Arrays, axis_of
from sfumato.codecs.codec import Codec
from sfumato.config import Config, load_recipe
from sfumato.data.faults import DataError
from sfumato.data.formats import FURTHER
from sfumato.data.readers import Row, Unusable
from sfumato.data.readers.arrays import NumPyArrays, opened
from sfumato.errors import UserError
from sfumato.kinds import Kind
from sfumato.model import Model
from sfumato.settings.codecs import CodecSettings
from sfumato.training.loop import precision_of
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
    beyond = codec.decode(torch.tensor([-1.4, 1.4]).expand(1, 1, 2))
    assert beyond.ravel().tolist() == [rows.min(), rows.max()]
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


def written(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


GOOD = np.arange(20, dtype=np.float32).reshape(4, 5)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((4, 6), np.float32), "it holds 4 x 6 float32, and the other files 4 x 5 float32"),
        (GOOD.astype(np.float64), "it holds 4 x 5 float64, and the other files 4 x 5 float32"),
        (np.where(GOOD == 7, np.nan, GOOD), r"1 NaN of 20 values, the first at \[1, 2\]"),
        (np.where(GOOD > 17, -np.inf, GOOD), r"2 infinite of 20 values, the first at \[3, 3\]"),
        (np.array([{"a": 1}], dtype=object), "Python objects"),
        (GOOD.astype(np.complex64), "complex numbers"),
        (GOOD.astype(np.longdouble), "Save it as float64"),
        (np.array(["a", "b"]), "are no numbers"),
        (np.float32(3), "a single number"),
        (np.zeros((2, 2, 2, 2, 2), np.float32), "5 dimensions. .* data.stacked to true"),
        (np.zeros((0, 5), np.float32), "has no values"),
    ],
)
def test_arrays_that_do_not_fit_are_faults_with_the_reason(bad, words):
    with pytest.raises(Unusable, match=words):
        NumPyArrays((4, 5), "float32")(written(bad), "a.npy")


@pytest.mark.parametrize("length", [0, 6, 8, 60, 127, 130, -1])
def test_an_array_cut_anywhere_is_a_fault(length):
    with pytest.raises(Unusable):
        NumPyArrays((4, 5), "float32")(written(GOOD)[:length], "a.npy")


def test_byte_order_and_order_of_axes_change_no_number():
    for values in (GOOD, GOOD.astype(">f4"), np.asfortranarray(GOOD), GOOD[::-1][::-1]):
        row = NumPyArrays((4, 5), "float32")(written(values), "a.npy").values
        assert np.array_equal(row, GOOD) and row.dtype == np.float32 and row.flags.c_contiguous
    row = NumPyArrays((4, 5), "uint8")(written(GOOD > 9), "a.npy")
    assert np.array_equal(row.values, GOOD > 9) and row.notes == ("true and false as 1 and 0",)


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int64", ">i2", "bool"])
def test_every_dtype_is_drawn_as_it_came(dtype, tmp_path):
    for i in range(12):
        (tmp_path / "data").mkdir(exist_ok=True)
        values = np.random.default_rng(i).normal(50, 20, (6, 8)).clip(0, 120)
        np.save(tmp_path / "data" / f"{i}.npy", (values > 50 if dtype == "bool" else values).astype(dtype))
    model = run(tmp_path / "data", tmp_path / "out", steps=1, every=1)
    (_, x), *_ = model.drawn([None], [1], model.sampling())
    row = opened(model.codec.files(model.codec.decode(x)[0], {})[".npy"])
    assert row.dtype == ("uint8" if dtype == "bool" else np.dtype(dtype).newbyteorder("=")) and row.shape == (6, 8)


def test_arrays_of_many_shapes_are_named_with_their_counts(tmp_path):
    for i in range(12):
        np.save(tmp_path / f"{i}.npy", np.zeros((4, 6 if i % 3 else 5)) + i)
    with pytest.raises(DataError, match="2 shapes and dtypes: 8 of 4 x 6 float64, 4 of 4 x 5 float64, of 12 looked at"):
        run(tmp_path, tmp_path / "out")


def test_a_stack_trains_to_the_same_weights_as_a_folder_of_its_samples(tmp_path):
    values = np.random.default_rng(0).normal(0, 1, (20, 6, 8)).astype(np.float32)
    (tmp_path / "data").mkdir()
    for i, value in enumerate(values):
        np.save(tmp_path / "data" / f"{i:02}.npy", value)
    np.save(tmp_path / "stack.npy", values)
    run(tmp_path / "data", tmp_path / "a")
    run(tmp_path / "stack.npy", tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


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


def test_a_kind_of_ones_own_trains_resumes_draws_and_is_evaluated(tmp_path, monkeypatch):
    for bound in ("LEAST", "MOST"):
        monkeypatch.setattr(f"sfumato.features.learned.{bound}", 256)
    before = set(FURTHER)
    make = Kind("tides", TideSettings, Tides, lambda c: cast(Any, TideReader(hours(c))), TideReader.extensions)
    kinds.register(make)
    try:
        (tmp_path / "sea").mkdir()
        for i in range(60):
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
        command = ["evaluate", str(tmp_path / "whole"), str(tmp_path / "sea"), "--out", str(tmp_path / "report")]
        assert cli.main([*command, "--n", "16"]) == 0
        parts = json.loads((tmp_path / "report" / "report.json").read_text())["parts"]
        assert {"quality-learned-without-labels", "statistics", "duplicates"} < parts.keys()
        assert cli.main(["data", "scan", str(tmp_path / "sea")]) == 0
        with pytest.raises(ValueError, match="kind 'tides' is there already"):
            kinds.register(make)
    finally:
        del kinds.KINDS["tides"], kinds.CODECS["tides"]
        FURTHER.intersection_update(before)


def hours(config: Config) -> int:
    assert isinstance(config.codec, TideSettings)
    return config.codec.hours


def test_volumes_are_trained_in_single_precision_on_a_cpu_where_bfloat16_gives_wrong_gradients():
    cpu = torch.device("cpu")
    assert precision_of("auto", cpu, 3) == torch.float32
    with pytest.raises(UserError, match="gradients of volumes in bfloat16 are wrong"):
        precision_of("bf16", cpu, 3)
    assert precision_of("bf16", cpu, 2) == torch.bfloat16


@pytest.mark.parametrize(
    ("rows", "words"),
    [(np.array([[[0, 2**60]]]), "beyond 9,007,199,254,740,992"), (np.array([[[-1e300, 1e300]]]), "too large to be")],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_numbers_that_cannot_be_scaled_are_refused_before_training(rows, words):
    with pytest.raises(UserError, match=words):
        Arrays((1, 2), str(rows.dtype), "first").fit(rows)
