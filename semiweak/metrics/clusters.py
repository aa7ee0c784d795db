"""How well clusters that were found without labels agree with classes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

Assignment = Literal["one_to_one", "many_to_one"]


class ClusterMappedIoU(Metric):
    """IoU of clusters, each of which stands for a class (Ji et al., ICCV 2019, Section 4).

    Clusters have no names. Those of all images are counted against the annotation first, in one
    table (M, K), which is summed over processes; then each is mapped to a class:

    - ``"one_to_one"``: the assignment of as many clusters as classes that has the most pixels right
      (Hungarian method), for the main head
    - ``"many_to_one"``: to the class with which a cluster shares the most pixels, for an
      over-clustering head. A cluster that never occurs stands for class 0.

    As the annotation of the very images that are scored decides, this is an upper bound of what
    the same clusters reach on other images.

    Args:
        num_clusters: M.
        num_classes: K, at least 2; the background is one of them.
        assignment: See above.
        ignore_index: The id of unknown pixels in the annotation.

    Raises:
        ValueError: An argument is out of its range, or ``"one_to_one"`` has other numbers of
            clusters and classes.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    table: Tensor

    def __init__(
        self,
        num_clusters: int,
        num_classes: int,
        *,
        assignment: Assignment = "one_to_one",
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if num_classes < 2 or num_clusters < 1:
            raise ValueError(
                f"num_clusters is {num_clusters} and num_classes is {num_classes}; there must be "
                "at least 1 cluster and 2 classes"
            )
        if assignment not in get_args(Assignment):
            raise ValueError(
                f"assignment is {assignment!r}; it must be one of {', '.join(get_args(Assignment))}"
            )
        if assignment == "one_to_one" and num_clusters != num_classes:
            raise ValueError(
                f"{num_clusters} clusters cannot stand for {num_classes} classes one to one; take "
                "assignment='many_to_one'"
            )
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index is {ignore_index}, which is one of the classes")
        self.num_clusters = num_clusters
        self.num_classes = num_classes
        self.assignment: Assignment = assignment
        self.ignore_index = ignore_index
        self.add_state(
            "table",
            torch.zeros(num_clusters, num_classes, dtype=torch.int64),
            dist_reduce_fx="sum",
        )

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Counts the pixels of each cluster in each class.

        Args:
            preds: Cluster ids, integer ``(B, *S)``, or scores, floating ``(B, M, *S)``, of which
                the largest counts.
            target: Class ids, integer ``(B, *S)``, ``ignore_index`` where unknown.

        Raises:
            ValueError: The shapes do not fit, or there is no such cluster or class.
        """
        if preds.is_floating_point():
            if preds.ndim < 2 or preds.shape[1] != self.num_clusters:
                raise ValueError(
                    f"the scores have the shape {tuple(preds.shape)}; for {self.num_clusters} "
                    f"clusters it must be (B, {self.num_clusters}, ...)"
                )
            preds = preds.max(dim=1).indices
        if preds.shape != target.shape:
            raise ValueError(
                f"the clusters have the shape {tuple(preds.shape)}, the annotation "
                f"{tuple(target.shape)}; they must be equal"
            )
        known = target != self.ignore_index
        clusters, classes = preds[known].long(), target[known].long()
        for what, ids, number in (
            ("cluster", clusters, self.num_clusters),
            ("class", classes, self.num_classes),
        ):
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < number:
                raise ValueError(
                    f"there is a {what} id outside 0 to {number - 1}: "
                    f"{int(ids.min())} to {int(ids.max())}"
                )
        pairs = clusters * self.num_classes + classes
        counts = torch.bincount(pairs, minlength=self.table.numel())
        self.table += counts.view_as(self.table)

    def compute(self) -> Tensor:
        """Returns the mean IoU over classes, a scalar; NaN where nothing was annotated."""
        return self.scores()["iou"].nanmean()

    def mapping(self) -> Tensor:
        """Returns the class of each cluster by what this process has counted, ``int64 (M,)``."""
        if self.assignment == "many_to_one":
            return self.table.max(dim=1).indices
        rows, columns = linear_sum_assignment(self.table.cpu().numpy(), maximize=True)
        mapping = torch.empty(self.num_clusters, dtype=torch.int64)
        mapping[torch.from_numpy(rows)] = torch.from_numpy(columns)
        return mapping.to(self.table.device)

    def scores(self) -> dict[str, Tensor]:
        """Returns ``dice`` and ``iou`` of each class, ``(K,)``, under the mapping.

        NaN stands for a class that occurs neither in the annotation nor in the clusters.
        """
        mapped = torch.zeros(
            self.num_classes, self.num_classes, dtype=torch.int64, device=self.table.device
        ).index_add_(0, self.mapping(), self.table)
        # On the CPU, because float64 exists there in any case.
        right = mapped.diagonal().cpu().double()
        both = (mapped.sum(0) + mapped.sum(1)).cpu().double()
        found = {"dice": 2 * right / both, "iou": right / (both - right)}
        return {name: score.float().to(self.table.device) for name, score in found.items()}

    def scores_and_mapping(self) -> tuple[dict[str, Tensor], Tensor]:
        """Returns `scores` and `mapping` of all processes, which are asked once."""
        with self.sync_context():
            return self.scores(), self.mapping()
