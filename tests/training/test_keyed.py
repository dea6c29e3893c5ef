"""What a sample sees is a function of the seed and its number, and of nothing else."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sfumato.keyed import Order, _state, draw, generator, key, seed_process, seeded


def test_a_draw_does_not_depend_on_the_order_of_asking() -> None:
    forwards = [draw((3, 4, 4), 7, "train", n) for n in range(10)]
    torch.randn(1000)  # the global generator has no part in it
    backwards = [draw((3, 4, 4), 7, "train", n) for n in reversed(range(10))][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert torch.equal(a.noise, b.noise) and torch.equal(a.uniforms, b.uniforms)


def test_samples_do_not_depend_on_batch_size_and_accumulation(
    pictures: Path, settings: Callable, trainer_of: Callable, tmp_path: Path
) -> None:
    def samples(batch: int, accumulate: int) -> tuple[list[torch.Tensor], list, list]:
        config = settings(pictures, f"training.batch={batch}", f"training.accumulate={accumulate}")
        trainer = trainer_of(config, tmp_path)
        batches = [trainer.batch(number) for number in reversed(range(48 // batch))][::-1]
        tensors = [torch.cat([getattr(b, name) for b in batches]) for name in ("x_0", "noise", "u")]
        return tensors, [c for b in batches for c in b.conditions], [i for b in batches for i in b.indices]

    fours, eights = samples(4, 2), samples(8, 1)
    assert len(fours[2]) == 48 > len(set(fours[2]))  # more than one epoch
    assert all(torch.equal(a, b) for a, b in zip(fours[0], eights[0], strict=True))
    assert fours[1:] == eights[1:]


def test_an_epoch_is_a_permutation_and_no_two_are_alike() -> None:
    indices = torch.arange(100, 150)
    order = Order(indices, seed=3)
    epochs = [tuple(order[n] for n in range(start, start + 50)) for start in range(0, 200, 50)]
    assert all(sorted(epoch) == indices.tolist() for epoch in epochs)
    assert len(set(epochs)) == 4
    assert tuple(Order(indices, seed=4)[n] for n in range(50)) != epochs[0]
    assert [order[n] for n in (199, 0, 60)] == [epochs[3][49], epochs[0][0], epochs[1][10]]


def test_keys_are_distinct_and_well_mixed() -> None:
    keys = [key(seed, kind, n) for seed in range(10) for kind in ("train", "validation") for n in range(500)]
    assert len(set(keys)) == len(keys)
    assert all(0 <= k < 2**63 for k in keys)
    bits = torch.tensor([[k >> i & 1 for i in range(63)] for k in keys], dtype=torch.float64)
    # Each bit is a fair coin: 10,000 throws have a standard deviation of 0.005, and 63 bits stay within 5 of them.
    assert (bits.mean(0) - 0.5).abs().max() < 0.025
    # Neighbours share half of their bits: the mean over 10,000 pairs of 63 bits has a standard deviation of 0.0006.
    assert abs((bits[1:] != bits[:-1]).double().mean().item() - 0.5) < 0.003


def test_neighbouring_draws_are_independent_standard_normal() -> None:
    noise = torch.stack([draw((1024,), 0, "train", n).noise for n in range(200)])
    # 204,800 numbers: the mean has a standard deviation of 0.0022, the variance of 0.0031.
    assert abs(noise.mean().item()) < 0.01 and abs(noise.var().item() - 1) < 0.015
    correlation = (noise[1:] * noise[:-1]).mean(1)
    assert correlation.abs().max() < 5 / 1024**0.5
    uniforms = torch.stack([draw((1,), 0, "train", n).uniforms for n in range(2000)])
    assert uniforms.min() >= 0 and uniforms.max() < 1
    assert (uniforms.mean(0) - 0.5).abs().max() < 5 * (1 / 12 / 2000) ** 0.5
    assert torch.corrcoef(uniforms.T).fill_diagonal_(0).abs().max() < 5 / 2000**0.5


def test_no_two_of_200000_training_keys_begin_alike() -> None:
    first = {_state(0, "train", n).numpy()[24:40].tobytes() for n in range(200_000)}  # two words of the twister's state
    assert len(first) == 200_000
    shared = {key(0, "train", n) % 2**32 for n in range(200_000)}
    assert len(shared) < 200_000, "32 bits, which PyTorch's own seeding takes, are too few"


def test_a_generator_is_the_mersenne_twister_with_a_state_of_its_key() -> None:
    words = np.frombuffer(hashlib.shake_256(b"7/train/3").digest(4 * 624), "<u4")
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    drawn = torch.empty(2000, dtype=torch.int64).random_(2**31, generator=generator(7, "train", 3))
    assert drawn.tolist() == (twister.random_raw(4000)[1::2] % 2**31).tolist()  # of 64 bits the lower


def test_seeds_of_32_bits_draw_as_pytorch_does_and_larger_ones_draw_something_else() -> None:
    def first(g: torch.Generator) -> list[float]:
        return torch.randn(20, generator=g).tolist()

    for seed in (0, 7, 2**31, 2**32 - 1):
        assert first(seeded(seed)) == first(torch.Generator().manual_seed(seed))
    large = [2**32, 2**32 + 7, 2**33 + 7, 2**63 - 1]
    found = [first(seeded(seed)) for seed in (*large, *(seed % 2**32 for seed in large))]
    assert len({tuple(numbers) for numbers in found}) == len({*large, *(seed % 2**32 for seed in large)})


def test_dropout_repeats_with_its_key_and_with_no_other() -> None:
    def mask(*parts: int | str) -> torch.Tensor:
        seed_process(*parts)
        return torch.nn.functional.dropout(torch.ones(4096), 0.5)

    with torch.random.fork_rng(devices=[]):
        first, again, other = mask(0, "dropout", 1), mask(0, "dropout", 1), mask(0, "dropout", 2)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert abs(first.mean().item() - 1) < 5 / 4096**0.5  # each is 0 or 2


def test_a_generator_depends_on_every_part_of_its_key() -> None:
    first = {
        torch.rand(1, generator=generator(*parts)).item() for parts in [(1, 2), (2, 1), (12,), (1, "2x"), (1, 2, 0)]
    }
    assert len(first) == 5
