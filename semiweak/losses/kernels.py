"""The sums of the SPOCO terms over pixels, and their gradient, compiled for the CPU.

Does for float32 on a CPU what `semiweak.losses.distances` does by operations of PyTorch, between
which every distance would go through memory some twenty times. Here a few pixels are looked at for
all terms at once, while all that belongs to them lies in the nearest cache. Numba compiles this on
the first call, which takes some seconds, and keeps the machine code for later processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiweak.compiled import compiled, compiled_freely

Array = NDArray[Any]

_TILE = 128  # pixels that are looked at together
_JOIN = 4  # so many dimensions, or rows, share a loop over the pixels
_OUTSIDE, _FREE = -1, 0  # padding and unlabelled pixels, as in `semiweak.losses.objects`
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)
_TINY = np.float32(1e-12)  # below this a squared distance is rounding, and has no direction

# exp(x) = 2^n exp(r), where n is the whole number next to x / ln 2. Added to 1.5 * 2^23, n stands
# in the last bits of the sum; ln 2 in two parts makes r exact; exp(r) is its series to r^6.
_LOWEST, _SHIFT = np.float32(-87), np.float32(1.5 * 2**23)
_INVERSE, _HIGH, _LOW = (np.float32(c) for c in (1.44269504089, 0.693359375, -2.12194440055e-4))
_C2, _C3, _C4, _C5, _C6 = (np.float32(1 / c) for c in (2, 6, 24, 120, 720))


class Terms(NamedTuple):
    """What is summed over the pixels.

    Centres that do not exist are not looked at, and their sums are 0. A term without centres is
    left out.

    Attributes:
        number: The object of each pixel, 0 for unlabelled, -1 for padding, ``int64 (B, N)``.
        exists: Which numbers are objects, ``bool (B, C)``.
        means: Their mean embeddings, ``(B, C, D)``, for the pull and the unlabelled push.
        singles: Their anchors, ``(B, C, D)``, for the object loss by Dice.
        used: Which anchors of the consistency exist, ``bool (B, K)``.
        of_f: Their embeddings by the first network, ``(B, K, D)``.
        of_g: Those by the second.
        delta_v: Margin of the pull.
        delta_d: Margin of the unlabelled push; 0 leaves it out.
        width: 2 sigma^2 of the kernel.
    """

    number: Array
    exists: Array
    means: Array
    singles: Array
    used: Array
    of_f: Array
    of_g: Array
    delta_v: np.float32
    delta_d: np.float32
    width: np.float32

    def centres(self) -> tuple[Array, Array, Array, Array]:
        """All centres, in the order of `Gradients`."""
        return self.means, self.singles, self.of_f, self.of_g


class Pixels(NamedTuple):
    """Embeddings ``(B, D, N)`` of any layout: all that lies between the first and the last."""

    flat: Array
    image: int  # steps from one image, dimension, pixel to the next
    dimension: int
    pixel: int


class Sums(NamedTuple):
    """What is summed, or the derivatives by it, ``(B, K, 2)``.

    Attributes:
        means: The pull's hinges over the object, the push's over the unlabelled.
        singles: The soft mask over the object, its square over all.
        anchors: The product of both soft masks, their squares.
    """

    means: Array
    singles: Array
    anchors: Array


class Gradients(NamedTuple):
    """The derivatives by the centres, ``(B, K, D)``."""

    means: Array
    singles: Array
    of_f: Array
    of_g: Array


class _Room(NamedTuple):
    """Memory of one thread, for the pixels of a tile and the centres of an image."""

    number: Array  # (tile,): the object of each pixel
    f: Array  # (D, tile): embeddings; D is rounded up to a multiple of _JOIN
    g: Array  # (D, tile)
    of_f: Array  # (R, tile): squared distances to each row, then soft masks, then slopes
    of_g: Array  # (R, tile): the same for the anchors
    rows_f: Array  # (R, D): the centres that exist: first means, then singles, then anchors
    rows_g: Array  # (R, D): the anchors
    which: Array  # (R,): their places among the means, the singles or the anchors
    row: Array  # (C,): at which row the single of an object is
    scratch: Array  # (tile,)
    gradient: Array  # (D, tile)


def can_look_at(*embeddings: Tensor) -> bool:
    """Whether these loops take such embeddings."""
    return all(
        e.device.type == "cpu" and e.dtype == torch.float32 and e.numel() > 0 for e in embeddings
    )


@compiled
def _collect(terms: Terms, b: int, room: _Room) -> tuple[int, int, int]:
    """Writes the centres of an image into rows; where the means, the singles, the anchors end."""
    r, dim = 0, terms.means.shape[2]
    room.rows_f[:] = 0
    room.rows_g[:] = 0
    if terms.delta_d > 0:
        for k in range(terms.means.shape[1]):
            if terms.exists[b, k]:
                room.rows_f[r, :dim], room.which[r] = terms.means[b, k], k
                r += 1
    means = r
    for k in range(terms.singles.shape[1]):
        if terms.exists[b, k]:
            room.rows_f[r, :dim], room.which[r], room.row[k] = terms.singles[b, k], k, r
            r += 1
    singles = r
    for k in range(terms.of_f.shape[1]):
        if terms.used[b, k]:
            room.rows_f[r, :dim], room.which[r] = terms.of_f[b, k], k
            room.rows_g[r - singles, :dim] = terms.of_g[b, k]
            r += 1
    return means, singles, r


@compiled
def _load(tile: Array, number: Array, pixels: Pixels, b: int, start: int, dim: int) -> None:
    """Copies the embeddings of pixels; 0 in padding."""
    first = b * pixels.image + start * pixels.pixel
    for i in range(_TILE):
        at = first + i * pixels.pixel
        for d in range(dim):
            tile[d, i] = pixels.flat[at + d * pixels.dimension] if number[i] > _OUTSIDE else _ZERO


@compiled_freely
def _distances(tile: Array, centres: Array, first: int, last: int, d2: Array) -> None:
    """||e_i - c_k||^2 to the centres from ``first`` to ``last``."""
    for k in range(first, last):
        row = d2[k]
        row[:] = 0
        for d in range(0, tile.shape[0], _JOIN):
            e0, e1, e2, e3 = tile[d], tile[d + 1], tile[d + 2], tile[d + 3]
            c0, c1, c2, c3 = centres[k, d], centres[k, d + 1], centres[k, d + 2], centres[k, d + 3]
            for i in range(_TILE):
                x0, x1, x2, x3 = e0[i] - c0, e1[i] - c1, e2[i] - c2, e3[i] - c3
                row[i] += x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3


@compiled
def _kernel(row: Array, factor: np.float32, scratch: Array) -> None:
    """Overwrites x by exp(factor x), never below exp(-87)."""
    for i in range(_TILE):
        x = row[i] * factor
        x = _LOWEST if x < _LOWEST else x
        shifted = x * _INVERSE + _SHIFT
        scratch[i] = shifted
        n = shifted - _SHIFT
        r = x - n * _HIGH - n * _LOW
        series = ((((_C6 * r + _C5) * r + _C4) * r + _C3) * r + _C2) * r * r + r + _ONE
        row[i] = series
    bits, exponents = row.view(np.int32), scratch.view(np.int32)
    for i in range(_TILE):
        bits[i] += exponents[i] << 23


@compiled_freely
def _dot(a: Array, b: Array) -> np.float32:
    total = _ZERO
    for i in range(_TILE):
        total += a[i] * b[i]
    return total


@compiled
def _look(
    terms: Terms, f: Pixels, g: Pixels, room: _Room, b: int, start: int, ends: tuple[int, int, int]
) -> int:
    """Squared distances to the means and soft masks of all else; the first row that matters."""
    means, singles, anchors = ends
    dim, length = terms.means.shape[2], terms.number.shape[1]
    inside, free = True, False
    for i in range(_TILE):
        room.number[i] = terms.number[b, start + i] if start + i < length else _OUTSIDE
        inside &= room.number[i] > _OUTSIDE
        free |= room.number[i] == _FREE
    _load(room.f, room.number, f, b, start, dim)
    first = 0 if free else means
    _distances(room.f, room.rows_f, first, anchors, room.of_f)
    for r in range(means, anchors):
        _kernel(room.of_f[r], -_ONE / terms.width, room.scratch)
    if anchors > singles:
        _load(room.g, room.number, g, b, start, dim)
        _distances(room.g, room.rows_g, 0, anchors - singles, room.of_g)
        for r in range(anchors - singles):
            _kernel(room.of_g[r], -_ONE / terms.width, room.scratch)
    if not inside:
        for i in range(_TILE):
            if room.number[i] == _OUTSIDE:
                room.of_f[means:anchors, i] = 0
                room.of_g[: anchors - singles, i] = 0
    return first


@compiled
def _own_distance(terms: Terms, room: _Room, b: int, i: int) -> np.float32:
    """The squared distance of a pixel from the mean of its object."""
    k, d2 = room.number[i] - 1, _ZERO
    for d in range(terms.means.shape[2]):
        x = room.f[d, i] - terms.means[b, k, d]
        d2 += x * x
    return d2


@compiled_freely
def _push_sum(d2: Array, number: Array, delta_d: np.float32) -> np.float32:
    total = _ZERO
    for i in range(_TILE):
        hinge = max(delta_d - np.sqrt(d2[i]), _ZERO)
        total += hinge * hinge if number[i] == _FREE else _ZERO
    return total


@compiled
def _sums(
    terms: Terms, f: Pixels, g: Pixels, first: int, last: int, room: _Room, out: Sums
) -> None:
    """Adds the sums over the tiles from ``first`` to ``last``, counted through all images."""
    tiles = -(-terms.number.shape[1] // _TILE)
    image, ends = -1, (0, 0, 0)
    for t in range(first, last):
        b = t // tiles
        if b != image:
            image, ends = b, _collect(terms, b, room)
        means, singles, anchors = ends
        start = _look(terms, f, g, room, b, t % tiles * _TILE, ends)
        if terms.means.shape[1] > 0:
            for i in range(_TILE):
                if room.number[i] > _FREE:
                    hinge = np.sqrt(_own_distance(terms, room, b, i)) - terms.delta_v
                    if not hinge <= 0:
                        out.means[b, room.number[i] - 1, 0] += hinge * hinge
        for r in range(start, means):
            out.means[b, room.which[r], 1] += _push_sum(room.of_f[r], room.number, terms.delta_d)
        if singles > means:
            for i in range(_TILE):
                if room.number[i] > _FREE:
                    k = room.number[i] - 1
                    out.singles[b, k, 0] += room.of_f[room.row[k], i]
        for r in range(means, singles):
            out.singles[b, room.which[r], 1] += _dot(room.of_f[r], room.of_f[r])
        for r in range(singles, anchors):
            of_f, of_g, k = room.of_f[r], room.of_g[r - singles], room.which[r]
            out.anchors[b, k, 0] += _dot(of_f, of_g)
            out.anchors[b, k, 1] += _dot(of_f, of_f) + _dot(of_g, of_g)


@compiled_freely
def _push_slopes(d2: Array, number: Array, delta_d: np.float32, grad: np.float32) -> None:
    """Overwrites the squared distance x by d/dx [delta_d - sqrt(x)]+^2 = -[...]+ / sqrt(x)."""
    for i in range(_TILE):
        counts = (number[i] == _FREE) & (d2[i] > _TINY)
        ratio = min(_ONE - delta_d / np.sqrt(max(d2[i], _TINY)), _ZERO)
        d2[i] = grad * ratio if counts else _ZERO


@compiled_freely
def _single_slopes(
    mask: Array, number: Array, own: int, by_own: np.float32, by_square: np.float32
) -> None:
    """Overwrites a soft mask S by the slopes of sum_own S and sum S^2, where dS = -S / (2 sigma^2).

    That factor is in ``by_own`` and ``by_square``, as in `_pair_slopes`.
    """
    for i in range(_TILE):
        of_own = by_own if number[i] == own else _ZERO
        mask[i] *= of_own + _TWO * by_square * mask[i]


@compiled_freely
def _pair_slopes(of_f: Array, of_g: Array, by_product: np.float32, by_squares: np.float32) -> None:
    """Overwrites two soft masks S and T by the slopes of sum S T and sum S^2 + T^2."""
    for i in range(_TILE):
        product, s, t = by_product * of_f[i] * of_g[i], of_f[i], of_g[i]
        of_f[i] = product + _TWO * by_squares * s * s
        of_g[i] = product + _TWO * by_squares * t * t


@compiled_freely
def _spread(
    tile: Array, rows: Array, slopes: Array, first: int, last: int, gradient: Array, to_rows: Array
) -> None:
    """From slopes by squared distances to gradients: of the pixels, and added up of the rows."""
    for d in range(to_rows.shape[1]):
        e, out = tile[d], gradient[d]
        out[:] = 0
        for r in range(first, last, _JOIN):
            s0, s1, s2, s3 = slopes[r], slopes[r + 1], slopes[r + 2], slopes[r + 3]
            c0, c1, c2, c3 = rows[r, d], rows[r + 1, d], rows[r + 2, d], rows[r + 3, d]
            t0 = t1 = t2 = t3 = _ZERO
            for i in range(_TILE):
                x = e[i]
                y0, y1, y2, y3 = (
                    s0[i] * (x - c0),
                    s1[i] * (x - c1),
                    s2[i] * (x - c2),
                    s3[i] * (x - c3),
                )
                out[i] += _TWO * (y0 + y1 + y2 + y3)
                t0 += y0
                t1 += y1
                t2 += y2
                t3 += y3
            to_rows[r, d] -= _TWO * t0
            to_rows[r + 1, d] -= _TWO * t1
            to_rows[r + 2, d] -= _TWO * t2
            to_rows[r + 3, d] -= _TWO * t3


@compiled
def _pull(
    terms: Terms, grads: Array, room: _Room, b: int, gradient: Array, to_means: Array
) -> None:
    """Adds the gradient of the pull, whose slope is d/dx [sqrt(x) - v]+^2 = [...]+ / sqrt(x)."""
    for i in range(_TILE):
        if room.number[i] > _FREE:
            k, d2 = room.number[i] - 1, _own_distance(terms, room, b, i)
            ratio = _ONE - terms.delta_v / np.sqrt(max(d2, _TINY))
            if d2 > _TINY and ratio > 0:
                slope = _TWO * ratio * grads[b, k, 0]
                for d in range(terms.means.shape[2]):
                    x = slope * (room.f[d, i] - terms.means[b, k, d])
                    gradient[d, i] += x
                    to_means[b, k, d] -= x


@compiled
def _store(gradient: Array, into: Pixels, b: int, start: int, stop: int, dim: int) -> None:
    first = b * into.image + start * into.pixel
    for i in range(stop - start):
        at = first + i * into.pixel
        for d in range(dim):
            into.flat[at + d * into.dimension] = gradient[d, i]


@compiled
def _slopes(
    terms: Terms,
    f: Pixels,
    g: Pixels,
    grads: Sums,
    first: int,
    last: int,
    room: _Room,
    to_f: Pixels,
    to_g: Pixels,
    out: Gradients,
) -> None:
    """The gradients: writes those of the pixels of some tiles, and adds up those of the centres."""
    length, dim = terms.number.shape[1], terms.means.shape[2]
    tiles = -(-length // _TILE)
    image, ends, rows = -1, (0, 0, 0), len(room.of_f)
    to_rows_f, to_rows_g = np.zeros((rows, dim)), np.zeros((rows, dim))
    for t in range(first, last):
        b, at = t // tiles, t % tiles * _TILE
        if b != image:
            if image >= 0:
                _hand_out(to_rows_f, to_rows_g, room, image, ends, out)
            image, ends = b, _collect(terms, b, room)
            means, singles, anchors = ends
            # What fills a block of rows up has no slope.
            room.of_f[anchors : anchors + _JOIN] = 0
            room.of_g[anchors - singles : anchors - singles + _JOIN] = 0
        start = _look(terms, f, g, room, b, at, ends)
        for r in range(start, means):
            grad = grads.means[b, room.which[r], 1]
            _push_slopes(room.of_f[r], room.number, terms.delta_d, grad)
        for r in range(means, singles):
            k = room.which[r]
            by_own, by_square = grads.singles[b, k] / -terms.width
            _single_slopes(room.of_f[r], room.number, k + 1, by_own, by_square)
        for r in range(singles, anchors):
            by_product, by_squares = grads.anchors[b, room.which[r]] / -terms.width
            _pair_slopes(room.of_f[r], room.of_g[r - singles], by_product, by_squares)
        stop = min(at + _TILE, length)
        _spread(room.f, room.rows_f, room.of_f, start, anchors, room.gradient, to_rows_f)
        if terms.means.shape[1] > 0:
            _pull(terms, grads.means, room, b, room.gradient, out.means)
        if to_f.flat.size > 0:
            _store(room.gradient, to_f, b, at, stop, dim)
        if to_g.flat.size > 0:
            _spread(room.g, room.rows_g, room.of_g, 0, anchors - singles, room.gradient, to_rows_g)
            _store(room.gradient, to_g, b, at, stop, dim)
    if image >= 0:
        _hand_out(to_rows_f, to_rows_g, room, image, ends, out)


@compiled
def _hand_out(
    to_rows_f: Array,
    to_rows_g: Array,
    room: _Room,
    b: int,
    ends: tuple[int, int, int],
    out: Gradients,
) -> None:
    """Moves the gradients by rows to the centres that they are."""
    means, singles, anchors = ends
    for r in range(means):
        out.means[b, room.which[r]] += to_rows_f[r]
    for r in range(means, singles):
        out.singles[b, room.which[r]] += to_rows_f[r]
    for r in range(singles, anchors):
        out.of_f[b, room.which[r]] += to_rows_f[r]
        out.of_g[b, room.which[r]] += to_rows_g[r - singles]
    to_rows_f[:] = 0
    to_rows_g[:] = 0


@compiled
def _object_sums(number: Array, f: Pixels, first: int, last: int, sums: Array) -> None:
    tiles = -(-number.shape[1] // _TILE)
    for t in range(first, last):
        b, start = t // tiles, t % tiles * _TILE
        for i in range(start, min(start + _TILE, number.shape[1])):
            k = number[b, i] - 1
            if k >= 0:
                at = b * f.image + i * f.pixel
                for d in range(sums.shape[2]):
                    sums[b, k, d] += f.flat[at + d * f.dimension]


@compiled
def _add_to_objects(number: Array, values: Array, first: int, last: int, into: Pixels) -> None:
    tiles = -(-number.shape[1] // _TILE)
    for t in range(first, last):
        b, start = t // tiles, t % tiles * _TILE
        for i in range(start, min(start + _TILE, number.shape[1])):
            k = number[b, i] - 1
            if k >= 0:
                at = b * into.image + i * into.pixel
                for d in range(values.shape[2]):
                    into.flat[at + d * into.dimension] += values[b, k, d]


def object_sums(number: Array, f: Tensor, objects: int) -> Array:
    """The sum of the embeddings ``(B, D, N)`` of each object, ``(B, C, D)``."""
    pixels, shape = _pixels(f), (len(f), objects, f.shape[1])

    def run(first: int, last: int) -> list[Array]:
        out = np.zeros(shape)
        _object_sums(number, pixels, first, last, out)
        return [out]

    return _in_threads(run, number)[0]


def add_to_objects(number: Array, values: Array, into: Tensor) -> None:
    """Adds to each pixel of ``(B, D, N)`` what its object has in ``(B, C, D)``."""
    pixels = _pixels(into)

    def run(first: int, last: int) -> list[Array]:
        _add_to_objects(number, values, first, last, pixels)
        return []

    _in_threads(run, number)


def sums(terms: Terms, f: Tensor, g: Tensor) -> Sums:
    """The sums over all pixels of the embeddings, each ``(B, D, N)``; g is for the anchors."""
    of_f, of_g = _pixels(f), _pixels(g)

    def run(first: int, last: int) -> Sums:
        out = Sums(*(np.zeros((*c.shape[:2], 2)) for c in terms.centres()[:3]))
        _sums(terms, of_f, of_g, first, last, _room(terms), out)
        return out

    return Sums(*_in_threads(run, terms.number))


def gradients(
    terms: Terms, f: Tensor, g: Tensor, grads: Sums, to_f: Tensor | None, to_g: Tensor | None
) -> Gradients:
    """The gradients by the embeddings and by the centres.

    Args:
        terms: As in `sums`.
        f: As in `sums`.
        g: As in `sums`.
        grads: The derivatives by what `sums` returns, float32.
        to_f: Overwritten by those by f; None if nobody needs them.
        to_g: Those by g. If None, those by the anchors of g are 0.
    """
    nothing = f.new_empty(0, 0, 0)
    into = [_pixels(nothing if t is None else t) for t in (to_f, to_g)]
    of_f, of_g = _pixels(f), _pixels(g)

    def run(first: int, last: int) -> Gradients:
        out = Gradients(*(np.zeros(c.shape) for c in terms.centres()))
        _slopes(terms, of_f, of_g, grads, first, last, _room(terms), into[0], into[1], out)
        return out

    return Gradients(*_in_threads(run, terms.number))


def _pixels(embeddings: Tensor) -> Pixels:
    e = embeddings.detach()
    size = 1 + sum((n - 1) * s for n, s in zip(e.shape, e.stride(), strict=True))
    flat = e.as_strided((size if e.numel() else 0,), (1,))
    return Pixels(flat.numpy(), *e.stride())


def _room(terms: Terms) -> _Room:
    rows = sum(c.shape[1] for c in terms.centres()[:3]) + _JOIN
    dim = -(-terms.means.shape[2] // _JOIN) * _JOIN
    return _Room(
        number=np.zeros(_TILE, np.int64),
        f=np.zeros((dim, _TILE), np.float32),
        g=np.zeros((dim, _TILE), np.float32),
        of_f=np.zeros((rows, _TILE), np.float32),
        of_g=np.zeros((rows, _TILE), np.float32),
        rows_f=np.zeros((rows, dim), np.float32),
        rows_g=np.zeros((rows, dim), np.float32),
        which=np.zeros(rows, np.int64),
        row=np.zeros(terms.exists.shape[1], np.int64),
        scratch=np.zeros(_TILE, np.float32),
        gradient=np.zeros((dim, _TILE), np.float32),
    )


def _in_threads(run: Callable[[int, int], Sequence[Array]], number: Array) -> list[Array]:
    """Runs a function on parts of the tiles, in as many threads as PyTorch uses; adds up."""
    batch, length = number.shape
    tiles = batch * -(-length // _TILE)
    threads = max(1, min(torch.get_num_threads(), tiles))
    bounds = [tiles * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:  # one that stays would not survive a fork
        parts = list(pool.map(run, bounds[:-1], bounds[1:]))
    return [np.sum(each, 0) for each in zip(*parts, strict=True)]
