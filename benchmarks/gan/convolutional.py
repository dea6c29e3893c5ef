"""Generators and critics of pictures of 28 x 28, after the papers; `width` is that of the map of 14 x 14.

DCGAN    two transposed convolutions with batch normalisation, two convolutions (Radford et al. 2016, sec. 3)
WGAN-GP  the same; the critic without normalisation, which would mix what is penalised one by one (Gulrajani et al.
         2017, sec. 4)
R3GAN    residual blocks without normalisation, bilinear resampling (Huang et al. 2024, sec. 3)
"""

from torch import Tensor, nn


def deconvolution(width: int, channels: int, latent: int) -> nn.Module:
    """DCGAN's generator for 28 pixels: noise (B, latent) -> 7 x 7 -> 14 x 14 -> pictures (B, channels, 28, 28)."""
    return normal(
        nn.Sequential(
            nn.Linear(latent, 2 * width * 49, bias=False),
            nn.Unflatten(1, (2 * width, 7, 7)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
            nn.Tanh(),
        )
    )


def convolution(width: int, channels: int, norm: bool) -> nn.Module:
    """DCGAN's critic for 28 pixels: the generator's way back, with leaky rectifiers."""
    return normal(
        nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.BatchNorm2d(2 * width) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * 49, 1),
        )
    )


class Residual(nn.Module):
    """x + conv(leaky(conv(leaky(x)))), the last convolution zero at first (Fixup), which needs no normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.leaky = nn.LeakyReLU(0.2)
        nn.init.kaiming_normal_(self.first.weight, 0.2)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same."""
        return x + self.second(self.leaky(self.first(self.leaky(x))))


def residual_generator(width: int, channels: int, latent: int) -> nn.Module:
    """R3GAN's generator, of plain residual blocks: 7 x 7, 14 x 14, 28 x 28, half as wide where it is larger."""
    return nn.Sequential(
        nn.Linear(latent, 2 * width * 49),
        nn.Unflatten(1, (2 * width, 7, 7)),
        Residual(2 * width),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(2 * width, width, 1),
        Residual(width),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(width, width // 2, 1),
        Residual(width // 2),
        nn.Conv2d(width // 2, channels, 3, padding=1),
    )


def residual_critic(width: int, channels: int) -> nn.Module:
    """R3GAN's critic: the generator's way back."""
    return nn.Sequential(
        nn.Conv2d(channels, width // 2, 3, padding=1),
        Residual(width // 2),
        nn.AvgPool2d(2),
        nn.Conv2d(width // 2, width, 1),
        Residual(width),
        nn.AvgPool2d(2),
        nn.Conv2d(width, 2 * width, 1),
        Residual(2 * width),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2 * width * 49, 1),
    )


def normal(net: nn.Module) -> nn.Module:
    """`net` with DCGAN's first weights: normal, of standard deviation 0.02."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
    return net
