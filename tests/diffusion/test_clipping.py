"""An estimate of a picture, clipped to the range of pictures, is nearer to the true mean."""

import torch

from sfumato.diffusion import DDIM, Clipped, Denoiser, Gaussian, Guided, denoisers, linear_beta, sample

T = torch.tensor(0.9, dtype=torch.float64)


class Coins:
    """The exact posterior mean of pixels that are -1 or 1 with equal chance: tanh(alpha x / sigma^2)."""

    process = Gaussian(linear_beta())

    def __call__(self, x_t, t, **cond):
        alpha, sigma = self.process.schedule(t)
        return torch.tanh(x_t * (alpha / sigma**2).to(x_t.dtype))


def nearly(shrunk: float = 0.0, shifted: float = 0.0) -> Denoiser:
    """A denoiser of coins whose network predicts (1 - shrunk) times the noise, plus `shifted`."""

    def network(x, level, **cond):
        alpha = torch.cos(level[0].double() * torch.pi / 2000)
        mean = torch.tanh(x * (alpha / (1 - alpha**2)))
        return ((1 - shrunk) * (x - alpha * mean) / (1 - alpha**2).sqrt() + shifted).to(x.dtype)

    return Denoiser(network, Coins.process, denoisers.epsilon)  # pyright: ignore[reportArgumentType]


def test_a_mean_within_the_range_stays_as_it_is():
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Clipped(Coins())(x, T), Coins()(x, T))


def test_the_network_of_the_tests_predicts_the_noise_of_coins():
    x = torch.linspace(-2, 2, 9)[:, None]
    torch.testing.assert_close(nearly()(x, T), Coins()(x, T), rtol=1e-3, atol=1e-3)


def test_a_clipped_estimate_is_never_farther_from_the_true_mean():
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    gains = []
    for t in torch.linspace(0.05, 1, 20, dtype=torch.float64):
        true, denoiser = Coins()(x, t), nearly(shrunk=0.05)
        plain, clipped = ((d(x, t) - true).abs() for d in (denoiser, Clipped(denoiser)))
        assert (clipped <= plain + 1e-6).all()
        gains.append(plain.mean() / clipped.mean())
    assert gains[-1] > 5


def test_guidance_is_clipped_as_a_whole_and_the_variance_is_not():
    x = torch.full((2, 1), 3.0)
    guided = Guided(Coins(), {}, 1.0)
    assert Clipped(guided, 0.5)(x, torch.tensor(0.1, dtype=torch.float64)).tolist() == [[0.5], [0.5]]

    class WithVariance(Coins):
        def predict(self, x_t, t, **cond):
            return 9 * x_t, 7 * x_t

    mean, raw = Clipped(WithVariance()).predict(x, T)
    assert mean.tolist() == [[1.0], [1.0]]
    assert raw is not None and raw.tolist() == [[21.0], [21.0]]


def test_a_small_error_in_the_noise_spoils_less_of_what_is_drawn():
    x = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(1, 0, 101, dtype=torch.float64)

    def imbalance(denoiser) -> float:
        *_, last = sample(denoiser, x, times, DDIM())
        return ((last.x > 0).double().mean() - 0.5).abs().item()

    assert imbalance(nearly()) < 0.02
    assert 0.02 < imbalance(Clipped(nearly(shifted=0.1))) < 0.7 * imbalance(nearly(shifted=0.1))
