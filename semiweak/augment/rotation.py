"""Turns about the centre of an image that can be taken back, for predictions to be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Corners = Literal["reflection", "black"]

# In pixels. Rounding must not decide whether a position on a border pixel's centre lies outside;
# what is this near is taken for being on it.
TOLERANCE = 5e-4


@dataclass(frozen=True, eq=False)
class Rotation:
    """A turn of each image of a batch, in the plane of the last two axes, about the centre.

    An image turned keeps its frame, so that its corners go and others have to be filled. Of a
    volume each slice is turned alike. Values are interpolated between the four nearest pixels, in
    single precision or double, also under autocast. Quarter turns move pixels and change no value;
    what is not turned comes back to the last bit.

    The gradient is PyTorch's of ``grid_sample``; under ``torch.use_deterministic_algorithms``,
    where that has none on a GPU, a slower one of the same values.

    Attributes:
        angles: ``(B,)``, in degrees, counter-clockwise as an image is looked at (rows downwards).

    Raises:
        ValueError: The angles are not one finite number an image.
    """

    angles: Tensor

    def __post_init__(self) -> None:
        if self.angles.ndim != 1 or not self.angles.isfinite().all():
            raise ValueError(
                "angles must be one finite number an image, (B,), not "
                f"{tuple(self.angles.shape)} {self.angles.tolist()}"
            )
        # On each device the same sines, and no waiting for a GPU to know what to turn.
        object.__setattr__(self, "angles", self.angles.detach().to("cpu", torch.float64))

    def turn(self, image: Tensor, fill: Corners = "reflection") -> Tensor:
        """Images as they look when turned.

        Args:
            image: ``(B, C, *S)``, of a floating type.
            fill: What stands where the turned image has nothing: its ``"reflection"`` about the
                border, or ``"black"``, the smallest value of that image and channel.

        Returns:
            The same shape, type and memory format; the images themselves if none is turned.

        Raises:
            ValueError: The images are of another number than the angles, of an integer type or
                with other axes; or the fill is unknown.
        """
        if fill not in get_args(Corners):
            raise ValueError(f"fill is {fill!r}; it must be 'reflection' or 'black'")
        self._check(image)
        if fill == "reflection":
            return self._turned(image, self.angles, None)
        return self._turned(image, self.angles, image.flatten(2).amin(2))

    def turn_back(self, maps: Tensor) -> Tensor:
        """What was predicted of turned images, where the images themselves have it.

        Args:
            maps: ``(B, K, *S)``, of a floating type, in the frame of the turned images.

        Returns:
            The same shape, type and memory format, differentiable; 0 in pixels that are not
            `valid`. The maps themselves if none is turned.

        Raises:
            ValueError: The maps are of another number than the angles, of an integer type or with
                other axes.
        """
        self._check(maps)
        return self._turned(maps, -self.angles, maps.new_zeros(()))

    def valid(self, pixels: Tensor) -> Tensor:
        """Which pixels of an image its turned frame shows.

        Args:
            pixels: ``(B, *S)``, of which only the shape and device count.

        Returns:
            bool ``(B, *S)``, True where all pixels that `turn_back` interpolates between lie in the
            turned frame.

        Raises:
            ValueError: The pixels are of another number of images than the angles, or have other
                axes.
        """
        if pixels.ndim not in (3, 4):
            raise ValueError(f"pixels must be (B, H, W) or (B, D, H, W), not {tuple(pixels.shape)}")
        self._check_number(pixels)
        inside = _inside(_positions(-self.angles, pixels))
        return inside if pixels.ndim == 3 else inside[:, None].repeat(1, pixels.shape[1], 1, 1)

    def _check(self, maps: Tensor) -> None:
        if maps.ndim not in (4, 5) or not maps.is_floating_point():
            raise ValueError(
                "what is turned must be (B, C, H, W) or (B, C, D, H, W) of a floating type, not "
                f"{maps.dtype} {tuple(maps.shape)}"
            )
        self._check_number(maps)

    def _check_number(self, maps: Tensor) -> None:
        if len(maps) != len(self.angles):
            raise ValueError(f"there are {len(self.angles)} angles for a batch of {len(maps)}")

    def _turned(self, maps: Tensor, angles: Tensor, outside: Tensor | None) -> Tensor:
        """Maps turned by angles, with a value ``(B, C)`` or scalar outside, or their reflection."""
        height, width = maps.shape[-2:]
        groups: dict[int | None, list[int]] = {}
        for image, angle in enumerate(angles.tolist()):
            quarters, rest = divmod(angle, 90)
            # Interpolation would round, and lose what rounds to a position outside.
            exact = rest == 0 and (height == width or quarters % 2 == 0)
            groups.setdefault(int(quarters % 4) if exact else None, []).append(image)
        result = maps
        for quarters_of_all, images in groups.items():
            if quarters_of_all == 0:
                continue
            chosen = torch.tensor(images)
            part = maps if len(images) == len(maps) else maps[chosen.to(maps.device)]
            if quarters_of_all is not None:
                part = part.rot90(quarters_of_all, (-2, -1))
            else:
                value = outside[chosen] if outside is not None and outside.ndim else outside
                part = _interpolated(part, angles[chosen], value)
            everything = len(images) == len(maps)
            result = part if everything else result.index_copy(0, chosen.to(maps.device), part)
        return result.contiguous(memory_format=_memory_format(maps))


def _interpolated(maps: Tensor, angles: Tensor, outside: Tensor | None) -> Tensor:
    """Maps of which each is turned by an angle of its own."""
    positions = _positions(angles, maps)
    padding = "reflection" if outside is None else "border"
    # Slices as channels: they are turned alike, and 2D sampling is all it takes.
    planes = maps.flatten(1, -3)
    positions = positions.to(torch.promote_types(planes.dtype, torch.float32))
    planes = planes.to(positions.dtype)
    deterministic = torch.are_deterministic_algorithms_enabled() and planes.requires_grad
    if deterministic and padding == "border":
        planes = _gathered(planes, positions)
    else:
        planes = F.grid_sample(planes, positions, padding_mode=padding, align_corners=False)
    turned = planes.reshape(maps.shape).to(maps.dtype)
    if outside is None:
        return turned
    inside = _inside(positions.float())[(slice(None), *[None] * (maps.ndim - 3))]
    return torch.where(inside, turned, outside.reshape(*outside.shape, *[1] * (maps.ndim - 2)))


def _positions(angles: Tensor, maps: Tensor) -> Tensor:
    """Where in an image its turned self looks for its pixels: ``(B, H, W, 2)``, x before y.

    In units of ``grid_sample``: -1 and 1 are the outer borders of the first and last pixel. In
    single precision whatever the maps' type, so that it never decides what is inside.
    `torch.nn.functional.affine_grid` is a product of matrices, which autocast and TF32 round to a
    pixel and more.
    """
    height, width = maps.shape[-2:]
    cos, sin = angles.deg2rad().cos(), angles.deg2rad().sin()
    # How far a step along x, along y leads: a turn in pixels, which the units are not. As complex
    # numbers, since adding pairs takes a CPU ten times as long.
    along_x = torch.complex(cos, sin * (width / height))
    along_y = torch.complex(-sin * (height / width), cos)
    x, y = (
        (torch.arange(size, device=maps.device, dtype=torch.float32) * 2 + 1 - size) / size
        for size in (width, height)
    )
    along_x, along_y = torch.stack((along_x, along_y)).to(maps.device, torch.complex64)[..., None]
    return torch.view_as_real((x * along_x)[:, None] + (y * along_y)[:, :, None])


def _inside(positions: Tensor) -> Tensor:
    """Which positions lie between centres of pixels: bool ``(B, H, W)``."""
    height, width = positions.shape[1:3]
    far_x, far_y = ((size - 1 + 2 * TOLERANCE) / size for size in (width, height))
    x, y = positions.unbind(-1)
    return (x.abs() <= far_x) & (y.abs() <= far_y)


def _gathered(planes: Tensor, positions: Tensor) -> Tensor:
    """``grid_sample`` with the border outside, of which a GPU has a deterministic gradient."""
    height, width = planes.shape[-2:]
    x, y = (
        ((places + 1) * size - 1).div(2).clamp(0, size - 1)
        for places, size in zip(positions.unbind(-1), (width, height), strict=True)
    )
    left, top = x.floor(), y.floor()
    pixels = planes.flatten(2)
    result = torch.zeros_like(planes)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = (1 - (x - left - right).abs()) * (1 - (y - top - down).abs())
        # Beyond the last pixel the weight is 0.
        column, row = (left + right).clamp(max=width - 1), (top + down).clamp(max=height - 1)
        index = (row * width + column).long().flatten(1)[:, None].expand(-1, pixels.shape[1], -1)
        result = result + weight[:, None] * pixels.gather(2, index).reshape(planes.shape)
    return result


def _memory_format(maps: Tensor) -> torch.memory_format:
    layout = torch.channels_last if maps.ndim == 4 else torch.channels_last_3d
    last = maps.is_contiguous(memory_format=layout) and not maps.is_contiguous()
    return layout if last else torch.contiguous_format
