"""Which image comes next, by kind of annotation and alike on any number of ranks and workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from semiweak.data.annotations import Kind


@dataclass(frozen=True)
class Draw:
    """One item of a training batch: which image, and the seed of its random geometry.

    The seed travels with the index, so that a batch does not depend on which worker or rank
    makes it.
    """

    index: int
    seed: int


class StratifiedSampler(DistributedSampler[Draw]):
    """Fills every batch with equal shares of the kinds of annotation in use.

    The stratified sampling of the DSP supplement (section 4): images of rare kinds come more often,
    so that each kind of loss sees its images in every batch, or where a batch has fewer places than
    there are kinds, at a regular pace. Per kind the images come in rounds: each once, in random
    order, before any comes again. The rule is laid out over the global batch and cut into one piece
    a rank, so that R ranks with batches of B / R see in each step what one rank with B sees.

    It is a `DistributedSampler`, which Lightning leaves as it is.

    Args:
        strata: The stratum of each image, by any label.
        batch_size: Images per rank and step.
        num_samples: Images per epoch over all ranks, rounded up to whole batches. By default the
            most frequent stratum is seen once.
        num_replicas: The number of ranks.
        rank: This rank.
        seed: Repeats a run.
    """

    def __init__(
        self,
        strata: Sequence[str],
        *,
        batch_size: int,
        num_samples: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(_Sized(len(strata)), num_replicas=num_replicas, rank=rank, seed=seed)
        self.batch_size = batch_size
        members: dict[str, list[int]] = {}
        for index, stratum in enumerate(strata):
            members.setdefault(stratum, []).append(index)
        self.members = [members[stratum] for stratum in sorted(members)]
        wanted = num_samples or len(self.members) * max(len(m) for m in self.members)
        self.steps = math.ceil(wanted / (batch_size * num_replicas))

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        place = list(rng.permutation(len(self.members)))
        rounds: list[list[int]] = [[] for _ in self.members]
        world = self.num_replicas * self.batch_size
        mine = range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        # Neighbouring slots hold different strata. After `period` steps the pattern would repeat;
        # it is then moved on by one, so that a rank does not meet the same strata for ever.
        period = len(place) // math.gcd(len(place), world)
        for step in range(self.steps):
            for slot in range(world):
                stratum = place[(step * world + slot + step // period) % len(place)]
                if not rounds[stratum]:
                    rounds[stratum] = list(rng.permutation(self.members[stratum]))
                index, seed = rounds[stratum].pop(), int(rng.integers(2**63))
                if slot in mine:
                    yield Draw(int(index), seed)


def strata(kinds: Sequence[Kind]) -> list[str]:
    """The stratum of each image by its most telling kind of annotation.

    Images with painted objects are one stratum, all of them painted or some. If they are half of
    the images or more, there is one stratum only: a few unlabelled images need no larger share of
    the batches than they have of the images.
    """
    painted = [kind in ("instances", "objects") for kind in kinds]
    if not any(painted):
        return list(kinds)
    if 2 * sum(painted) >= len(kinds):
        return ["all"] * len(kinds)
    return ["painted" if has else "none" for has in painted]


class EvaluationSampler(DistributedSampler[int]):
    """Every image once, on exactly one rank, in order.

    Lightning's own sampler repeats images until all ranks have equally many, which changes the
    scores of a data set whose size is no multiple of the number of ranks.
    """

    def __init__(self, size: int, *, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(_Sized(size), num_replicas=num_replicas, rank=rank, shuffle=False)
        self.indices = range(rank, size, num_replicas)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class _Sized(Dataset[None]):
    """A length, which is all that `DistributedSampler` asks of a data set."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size
