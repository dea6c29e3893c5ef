"""Guidance is the affine combination it says, in one call, within its interval."""

import pytest
import torch

from sfumato.diffusion import DDIM, Denoiser, Flow, Gaussian, Guided, denoisers, from_x, sample

C, N = torch.tensor([[2.0], [3.0], [-1.0]]), torch.tensor([[0.5]])
T = torch.tensor(0.5, dtype=torch.float64)


class Conditional:
    """A denoiser that depends on a vector and, when given, on a context; it records the sizes of its batches."""

    def __init__(self):
        self.process, self.batches = Gaussian(Flow()), []

    def __call__(self, x_t, t, **cond):
        self.batches.append(len(x_t))
        extra = 0 if cond.get("context") is None else cond["context"].sum(1)
        return torch.tanh(x_t * cond["vector"]) + cond["vector"] + extra + t


@pytest.fixture
def x():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def test_scale_1_is_the_condition_at_the_cost_of_one(x):
    denoiser = Conditional()
    assert torch.equal(Guided(denoiser, {"vector": N}, 1.0)(x, T, vector=C), Conditional()(x, T, vector=C))
    assert denoiser.batches == [3]


def test_scale_0_is_the_null_condition(x):
    guided = Guided(Conditional(), {"vector": N}, 0.0)
    torch.testing.assert_close(guided(x, T, vector=C), Conditional()(x, T, vector=N.expand(3, 1)))


def test_the_guided_mean_is_the_extrapolation_from_null_to_condition_in_one_doubled_batch(x):
    denoiser = Conditional()
    guided = Guided(denoiser, {"vector": N}, 3.5)(x, T, vector=C)
    mean, null = Conditional()(x, T, vector=C), Conditional()(x, T, vector=N)

    torch.testing.assert_close(guided, null + 3.5 * (mean - null))
    assert denoiser.batches == [6]


def test_a_negative_prompt_pushes_linearly_with_its_weight(x):
    prompt, negative = Conditional()(x, T, vector=C), Conditional()(x, T, vector=-C)
    for scale in (0.0, 1.5, 4.0):
        guided = Guided(Conditional(), {"vector": -C}, scale)(x, T, vector=C)
        torch.testing.assert_close(guided, scale * prompt + (1 - scale) * negative)


def test_guiding_the_mean_is_guiding_the_noise_estimate(x):
    alpha, sigma = Flow()(T)
    guided = Guided(Conditional(), {"vector": N}, 2.5)(x, T, vector=C)
    eps, eps_null = (from_x(denoisers.epsilon, Conditional()(x, T, vector=v), x, alpha, sigma) for v in (C, N))
    torch.testing.assert_close(from_x(denoisers.epsilon, guided, x, alpha, sigma), eps_null + 2.5 * (eps - eps_null))


@pytest.mark.parametrize(("t", "acts"), [(0.19, False), (0.2, True), (0.5, True), (0.7, True), (0.71, False)])
def test_guidance_acts_only_inside_its_interval(x, t, acts):
    t, denoiser = torch.tensor(t, dtype=torch.float64), Conditional()
    guided = Guided(denoiser, {"vector": N}, 3.0, interval=(0.2, 0.7))(x, t, vector=C)
    plain = Conditional()(x, t, vector=C)

    assert torch.equal(guided, plain) != acts
    assert denoiser.batches == [6 if acts else 3]


def test_each_example_has_its_own_time_in_the_interval(x):
    t = torch.tensor([0.1, 0.5, 0.9])
    guided = Guided(TimePerExample(), {"vector": N}, 3.0, interval=(0.2, 0.7))(x, t, vector=C)
    mean, null = TimePerExample()(x, t, vector=C), TimePerExample()(x, t, vector=N)
    expected = torch.stack([mean[0], (null + 3 * (mean - null))[1], mean[2]])
    torch.testing.assert_close(guided, expected)


class TimePerExample(Conditional):
    def __call__(self, x_t, t, **cond):
        return super().__call__(x_t, t[:, None], **cond)


def test_absent_fields_stay_absent_and_every_field_is_doubled(x):
    context = torch.ones(3, 2, 4)
    guided = Guided(Conditional(), {"vector": N, "context": torch.zeros(1, 2, 4)}, 2.0)
    mean, null = Conditional()(x, T, vector=C, context=context), Conditional()(x, T, vector=N)
    torch.testing.assert_close(guided(x, T, vector=C, context=context), null + 2 * (mean - null))

    without = Guided(Conditional(), {"vector": N, "context": None}, 2.0)(x, T, vector=C, context=None)
    torch.testing.assert_close(without, Guided(Conditional(), {"vector": N}, 2.0)(x, T, vector=C))


def test_conditions_of_unlike_shape_are_refused_by_field(x):
    guided = Guided(Conditional(), {"vector": N, "context": torch.zeros(1, 5, 4)}, 2.0)
    with pytest.raises(ValueError, match=r"'context' has shape \(2, 4\).*\(5, 4\)"):
        guided(x, T, vector=C, context=torch.ones(3, 2, 4))
    with pytest.raises(ValueError, match="'context' has shape None"):
        guided(x, T, vector=C)


def test_an_impossible_interval_is_refused():
    with pytest.raises(ValueError, match="interval"):
        Guided(Conditional(), {}, 2.0, interval=(0.7, 0.2))


def test_a_guided_denoiser_is_sampled_like_any_other(x):
    class Network(torch.nn.Module):
        def forward(self, x, time, vector):
            return x * vector + time[:, None] / 1000

    denoiser = Denoiser(Network(), Gaussian(Flow()), denoisers.v)
    guided, times = Guided(denoiser, {"vector": N}, 2.0), torch.linspace(1, 0, 5, dtype=torch.float64)
    *_, step = sample(guided, x, times, DDIM(), torch.randn_like, vector=C)
    assert step.x.shape == x.shape and step.x.isfinite().all()
    *_, plain = sample(denoiser, x, times, DDIM(), torch.randn_like, vector=C)
    assert not torch.allclose(step.x, plain.x)
