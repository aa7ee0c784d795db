"""Random views that leave every pixel where it is: colour jitter, grey, blur, noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from semiweak.augment.seeds import check_images


@dataclass(frozen=True)
class Photometric:
    """Random views of normalised images: other colours, sharpness and noise, the same geometry.

    These are the "geometry preserving transformations" of SPOCO's two views (Wolny et al., CVPR
    2022, Section 4.1 and Appendix A.1), which names them without strengths: jitter, grey and blur
    have those of the authors' code for CVPPP, the noise, which the paper has for light and electron
    microscopy, is set here so that it can be seen and nothing drowns in it.

    A normalised image has no black and no white, so strengths are in units of the image's own mean
    and standard deviation (over all its pixels and channels), whatever the normalisation, and
    nothing is clipped. In this order, each with its own probability:

    - colour jitter: ``contrast`` scales about the mean, ``brightness`` adds an offset; of images
      with three channels ``saturation`` scales the distance to the grey image and ``hue`` turns
      about the grey axis. All four are linear, so their order makes no difference.
    - grey: each channel becomes the mean of the channels, if there are three or more
    - Gaussian blur, the same number of pixels along each axis, mirrored at the border
    - additive Gaussian noise, independent in each pixel and channel

    An image's view depends on that image and its own random numbers alone. The first images of a
    larger batch get the same views as those of a smaller one.

    Attributes:
        brightness: The offset is up to this many standard deviations, up or down.
        contrast: The factor is within 1 - contrast and 1 + contrast.
        saturation: The factor is within 1 - saturation and 1 + saturation.
        hue: The angle is up to this share of the full circle, either way; at most 0.5.
        jitter_p: Probability of colour jitter.
        blur_p: Probability of blur.
        blur_sigma: Smallest and largest standard deviation of the blur, in pixels.
        noise_p: Probability of noise.
        noise_std: Smallest and largest standard deviation of the noise, in the image's own.
        gray_p: Probability of grey.

    Raises:
        ValueError: A probability, strength or range is none.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_p: float = 0.5
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    noise_p: float = 0.5
    noise_std: tuple[float, float] = (0.0, 0.2)
    gray_p: float = 0.2

    def __post_init__(self) -> None:
        limits = {"brightness": math.inf, "hue": 0.5}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("blur_sigma", "noise_std"):
                _check_range(field.name, value)
                # YAML has lists only, with which this would not be hashable.
                object.__setattr__(self, field.name, tuple(value))
            elif not 0 <= value <= limits.get(field.name, 1.0) or value == math.inf:
                at_most = limits.get(field.name, 1.0)
                allowed = "0 or more" if at_most == math.inf else f"between 0 and {at_most:g}"
                raise ValueError(f"{field.name} is {value}; it must be {allowed}")

    @torch.no_grad()
    def __call__(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Returns a view of each image, a new tensor of the same shape, type and memory format.

        Args:
            image: ``(B, C, *S)``, normalised, of a floating type; half precision is computed in
                single.
            generator: Where the random numbers come from, on any device; by default torch's own.
                The strengths it leads to are the same on each kind of device, the noise is not.

        Raises:
            ValueError: The images have other axes, or are of an integer type.
        """
        check_images(image)
        device = "cpu" if generator is None else generator.device
        seeds = torch.randint(2**63 - 1, (len(image), 2), generator=generator, device=device)
        views = torch.empty_like(image)
        # Image by image: on a CPU that is quicker than grouped convolutions, and a blurred image
        # keeps nobody else's company.
        for one, view, (seed, noise_seed) in zip(image, views, seeds.tolist(), strict=True):
            view.copy_(self._view(one, seed, noise_seed))
        return views

    def _view(self, image: Tensor, seed: int, noise_seed: int) -> Tensor:
        """A view of one image ``(C, *S)``."""
        draws = torch.rand(10, generator=torch.Generator().manual_seed(seed)).tolist()
        # All are drawn whatever the probabilities: those of one step do not move the others.
        jitter, brightness, contrast, saturation, hue, gray, blur, sigma, noise, std = draws
        if image.dtype not in (torch.float32, torch.float64):
            image = image.float()
        mean = image.mean()
        deviation = (image - mean).square().mean().sqrt()
        if jitter < self.jitter_p:
            image = jitter_color(
                image,
                center=mean,
                offset=deviation * _between(brightness, -self.brightness, self.brightness),
                contrast=_between(contrast, 1 - self.contrast, 1 + self.contrast),
                saturation=_between(saturation, 1 - self.saturation, 1 + self.saturation),
                hue=_between(hue, -self.hue, self.hue),
            )
        if gray < self.gray_p and len(image) >= 3:
            image = image.mean(dim=0, keepdim=True).expand_as(image)
        if blur < self.blur_p:
            image = gaussian_blur(image, _between(sigma, *self.blur_sigma))
        if noise < self.noise_p:
            on_device = torch.Generator(image.device).manual_seed(noise_seed)
            grain = torch.empty_like(image, memory_format=torch.contiguous_format)
            grain.normal_(generator=on_device)
            image = torch.addcmul(image, grain, deviation * _between(std, *self.noise_std))
        return image


def jitter_color(
    image: Tensor,
    *,
    center: Tensor,
    offset: Tensor,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
) -> Tensor:
    """An image with other contrast, brightness and, if it has three channels, other colours.

    With g the mean of a pixel's channels, R the rotation about the axis of the greys,

        (x - c) -> contrast (g + saturation R (x - g) - c) + offset

    Args:
        image: ``(C, *S)``.
        center: c, the value that the contrast leaves alone; a scalar.
        offset: What is added; a scalar.
        contrast: A factor, 1 for none.
        saturation: A factor, 1 for none.
        hue: The angle as a share of the full circle, 0 for none.
    """
    shift = (1 - contrast) * center + offset
    if len(image) != 3:
        return torch.add(shift, image, alpha=contrast)
    along = contrast * saturation * math.cos(2 * math.pi * hue)
    across = contrast * saturation * math.sin(2 * math.pi * hue) / math.sqrt(3)
    gray = image.mean(dim=0, keepdim=True)
    # Rodrigues' formula: the cross product with (1, 1, 1) is the difference of the other channels.
    turned = (image.roll(1, dims=0) - image.roll(-1, dims=0)).mul_(across)
    return turned.add_(image, alpha=along).add_(gray, alpha=contrast - along).add_(shift)


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blurs an image axis by axis, mirroring it about its border pixels.

    Args:
        image: ``(C, *S)``.
        sigma: Standard deviation in pixels; the kernel reaches 4 of them to each side.
    """
    reach = int(4 * sigma + 0.5)
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(1, reach + 1)] if reach else []
    total = 1 + 2 * sum(weights)
    for dim in range(1, image.ndim) if reach else ():
        size = image.shape[dim]
        padded = _mirror(image, dim, reach)
        image = padded.narrow(dim, reach, size) / total
        # A few passes over an image that the cache holds beat a convolution.
        for distance, weight in enumerate(weights, start=1):
            for start in (reach - distance, reach + distance):
                image.add_(padded.narrow(dim, start, size), alpha=weight / total)
    return image


def _mirror(image: Tensor, dim: int, reach: int) -> Tensor:
    """Pads an axis by its mirror image, as often as it takes: ``F.pad`` wants larger images."""
    size = image.shape[dim]
    outside = torch.arange(-reach, reach, device=image.device)
    outside[reach:] += size
    inside = outside.remainder(max(2 * size - 2, 1))
    inside = torch.minimum(inside, (2 * size - 2) - inside)
    border = image.index_select(dim, inside)
    before, after = border.narrow(dim, 0, reach), border.narrow(dim, reach, reach)
    return torch.cat((before, image, after), dim)


def _between(share: float, low: float, high: float) -> float:
    return low + share * (high - low)


def _check_range(name: str, value: tuple[float, float]) -> None:
    if len(value) != 2 or not 0 <= value[0] <= value[1] < math.inf:
        raise ValueError(
            f"{name} is {tuple(value)}; it must be a smallest and a largest value, both 0 or more"
        )
