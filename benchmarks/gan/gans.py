"""Three GANs in plain torch: the losses of critic and generator, and how they are trained.

A generator G makes data from noise z, a critic D gives each datum a number. They learn in turns; softplus(a) is
log(1 + e^a).

    DCGAN    Radford et al. 2016, arXiv:1511.06434, with the non-saturating loss of Goodfellow et al. 2014, sec. 3
             D: softplus(-D(x)) + softplus(D(G(z)))                                     G: softplus(-D(G(z)))
    WGAN-GP  Gulrajani et al. 2017, arXiv:1704.00028, alg. 1; five steps of D for one of G
             D: D(G(z)) - D(x) + lambda (|grad D(x')| - 1)^2, x' between x and G(z)     G: -D(G(z))
    R3GAN    Huang et al. 2024, arXiv:2501.05441, sec. 2; no normalisation, residual networks
             D: softplus(D(G(z)) - D(x)) + gamma/2 (|grad D(x)|^2 + |grad D(G(z))|^2)   G: softplus(D(x) - D(G(z)))
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim.swa_utils import update_bn

from sfumato.training.ema import EMA

Critic = Callable[[Tensor], Tensor]  # data (B, ...) -> scores (B, 1)
Loss = Callable[[Critic, Tensor, Tensor], Tensor]  # (critic, real, fake) -> ()
Real = Callable[[], Tensor]  # the next batch of data
AVERAGE = 0.05  # relative width of the average of the weights that draws
REFRESH = 20  # batches of noise from which the averaged generator's normalisation is measured


# --- what they are trained for ---------------------------------------------------------------------------------------


def logistic_critic(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """The cross entropy of telling real from fake."""
    return softplus(-critic(real)).mean() + softplus(critic(fake)).mean()


def logistic_generator(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """The non-saturating loss: the cross entropy of taking fake for real."""
    return softplus(-critic(fake)).mean()


def wasserstein_critic(penalty: float = 10.0) -> Loss:
    """The negative dual of the Wasserstein distance, and `penalty` times the gradient penalty."""

    def loss(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
        return critic(fake).mean() - critic(real).mean() + penalty * gradient_penalty(critic, real, fake)

    return loss


def wasserstein_generator(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """The negative score of what is drawn."""
    return -critic(fake).mean()


def relativistic_critic(gamma: float = 1.0) -> Loss:
    """The relativistic pairing loss with R1 and R2, the squared gradients at real and at fake data."""

    def loss(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
        real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
        a, b = critic(real), critic(fake)
        penalties = squared_gradient(a, real) + squared_gradient(b, fake)
        return softplus(b - a).mean() + gamma / 2 * penalties.mean()

    return loss


def relativistic_generator(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """The pairing loss with the parts of real and fake exchanged."""
    return softplus(critic(real) - critic(fake)).mean()


def squared_gradient(scores: Tensor, x: Tensor) -> Tensor:
    """|grad of the score|^2 (B,) of each datum of x (B, ...); the critic must not mix the data of a batch."""
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """The mean of (|grad D| - 1)^2 at random places on the lines from real to fake data."""
    share = torch.rand(len(real), *[1] * (real.ndim - 1))
    x = torch.lerp(real.detach(), fake.detach(), share).requires_grad_()
    return ((squared_gradient(critic(x), x) + 1e-12).sqrt() - 1).square().mean()


# --- the methods -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A GAN as its paper gives it: losses, steps of the critic for one of the generator, betas of Adam."""

    critic_loss: Loss
    generator_loss: Loss
    critic_steps: int
    betas: tuple[float, float]


def methods(penalty: float, gamma: float) -> dict[str, Method]:
    """The three by name; `penalty` is WGAN-GP's lambda, `gamma` R3GAN's."""
    return {
        "dcgan": Method(logistic_critic, logistic_generator, 1, (0.5, 0.999)),
        "wgan-gp": Method(wasserstein_critic(penalty), wasserstein_generator, 5, (0.0, 0.9)),
        "r3gan": Method(relativistic_critic(gamma), relativistic_generator, 1, (0.0, 0.99)),
    }


class GAN:
    """A generator and a critic in training; the average of the generator's weights draws.

    Args:
        method: what they are trained for, and how.
        generator: noise (B, latent) -> data.
        critic: data -> scores (B, 1).
        latent: width of the noise.
        lr: the peak learning rate of both.
    """

    def __init__(self, method: Method, generator: nn.Module, critic: nn.Module, latent: int, lr: float) -> None:
        self.method, self.latent, self.lr = method, latent, lr
        self.generator, self.critic = generator, critic
        self.networks = {"generator": generator, "critic": critic}
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr=lr, betas=method.betas, fused=True) for net in (critic, generator)
        ]
        self.ema = EMA(dict(generator.named_parameters()), (AVERAGE,))
        self.steps = 0

    def step(self, real: Real, factor: float) -> dict[str, float]:
        """One step of the generator, after those of the critic, at `factor` times the peak rate.

        Returns:
            the last loss of each.
        """
        of_critic, of_generator = self.optimizers
        for _ in range(self.method.critic_steps):
            x = real()
            with torch.no_grad():
                fake = self.generator(torch.randn(len(x), self.latent))
            critic_loss = self.method.critic_loss(self.critic, x, fake)
            descend(critic_loss, of_critic, self.lr * factor)

        x = real()
        generator_loss = self.method.generator_loss(self.critic, x, self.generator(torch.randn(len(x), self.latent)))
        descend(generator_loss, of_generator, self.lr * factor)

        self.steps += 1
        self.ema.update(self.steps)
        return {"critic": critic_loss.item(), "generator": generator_loss.item()}

    @torch.no_grad()
    def draw(self, n: int, chance: torch.Generator, batch: int = 250) -> Tensor:
        """(n, ...) from the average of the weights, `batch` at once; its normalisation is measured anew."""
        with self.ema.swapped(0):
            update_bn((torch.randn(batch, self.latent, generator=chance) for _ in range(REFRESH)), self.generator)
            self.generator.eval()
            parts = [self.generator(torch.randn(batch, self.latent, generator=chance)) for _ in range(0, n, batch)]
            self.generator.train()
        return torch.cat(parts)[:n]


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, lr: float) -> None:
    """One step of the optimizer; only its own weights get a gradient."""
    (group,) = optimizer.param_groups
    group["lr"] = lr
    for p, gradient in zip(group["params"], torch.autograd.grad(loss, group["params"]), strict=True):
        p.grad = gradient
    optimizer.step()
