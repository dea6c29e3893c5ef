"""Randomness by key: what a sample sees depends on (seed, number of the sample) and on nothing else.

Training has no random state to save. The order of an epoch is keyed by (seed, epoch); the time, the noise, the
flip, the caption and the dropped condition of a sample by (seed, its number); dropout by (seed, step). So neither the
batch size, nor the number of workers, nor a kill in the middle of an epoch changes what is drawn.

PyTorch seeds its CPU generator (the Mersenne Twister MT19937) with 32 bits: of 200,000 keys some five pairs would share
all their draws. So SHAKE-256 (FIPS 202) fills its whole state, 624 words, from the key.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL_SEEDS = 2**32  # seeds below have the state that ``manual_seed`` gives them
WORDS, FIRST_WORD = 624, 3  # words of the twister's state, and where they begin in the 64-bit words of PyTorch's state


def key(*parts: int | str) -> int:
    """A 63-bit integer from the parts, by BLAKE2b: well mixed, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator whose state is made from the parts."""
    return torch.Generator().set_state(_state(*parts))


def seeded(seed: int) -> torch.Generator:
    """A CPU generator for a seed of any size: PyTorch's own below 2^32, where PyTorch tells seeds apart."""
    return torch.Generator().manual_seed(seed) if seed < SMALL_SEEDS else generator("seed", seed)


def seed_process(*parts: int | str) -> None:
    """Seed the generators of this process, on all devices, e.g. for dropout."""
    torch.manual_seed(key(*parts))
    torch.default_generator.set_state(_state(*parts))


def _state(*parts: int | str) -> Tensor:
    """The state of a CPU generator that has drawn nothing yet, in the form that ``set_state`` takes."""
    digest = hashlib.shake_256("/".join(map(str, parts)).encode()).digest(4 * WORDS)
    state = _FRESH.clone()
    state.view(torch.int64)[FIRST_WORD : FIRST_WORD + WORDS] = torch.frombuffer(bytearray(digest), dtype=torch.uint32)
    return state


_FRESH = torch.Generator().manual_seed(0).get_state()


@dataclass(frozen=True)
class Draw:
    """Everything that chance decides about one training sample.

    Attributes:
        uniforms: (4,) in [0, 1): for the time, the flip, and the two of the first condition.
        noise: standard normal of the sample's shape (C, *spatial).
        conditions: (K, 2) in [0, 1), a row for each condition: for its value, e.g. which caption, and its dropping.
    """

    uniforms: Tensor
    noise: Tensor
    conditions: Tensor


def draw(shape: tuple[int, ...], *parts: int | str, conditions: int = 1) -> Draw:
    """The draw of the sample with key ``parts``, e.g. ``draw((3, 32, 32), seed, "train", n)``.

    Args:
        shape: the shape of the sample.
        parts: the parts of the key.
        conditions: number of conditions. The uniforms of all but the first are drawn last, so the other draws do not
            depend on this number.
    """
    g = generator(*parts)
    uniforms = torch.rand(4, generator=g, dtype=torch.float64)
    noise = torch.randn(shape, generator=g)
    more = torch.rand(max(0, conditions - 1), 2, generator=g, dtype=torch.float64)
    return Draw(uniforms, noise, torch.cat([uniforms[None, 2:], more])[:conditions])


class Order:
    """The endless sequence of data indices: every epoch is a permutation keyed by (seed, epoch).

    Args:
        indices: (N,) data indices to shuffle.
        seed: the run's seed.
    """

    def __init__(self, indices: Tensor, seed: int) -> None:
        self.indices, self.seed = indices, seed
        self._epoch, self._permutation = -1, indices

    def __getitem__(self, n: int) -> int:
        """The data index of the n-th sample of the run."""
        epoch, position = divmod(n, len(self.indices))
        if epoch != self._epoch:
            shuffle = torch.randperm(len(self.indices), generator=generator(self.seed, "epoch", epoch))
            self._epoch, self._permutation = epoch, self.indices[shuffle]
        return int(self._permutation[position])
