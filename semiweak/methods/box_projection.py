"""The losses of BoxInst for boxes of classes: projections, and neighbours of one colour."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from semiweak.data.annotations import Kind
from semiweak.data.batch import SemanticBatch
from semiweak.data.batch_annotations import box_pixels
from semiweak.losses.box_projection import projection_loss
from semiweak.losses.colour_affinity import affinity_threshold, colour_affinity, pairwise_loss
from semiweak.losses.supervised import cross_entropy
from semiweak.methods.arguments import check_at_least, check_choices, check_weights, ramp_up
from semiweak.methods.semantic import SemanticModule
from semiweak.networks.build import build_network


class BoxProjectionModule(SemanticModule):
    """The losses of BoxInst on top of the segmentation head, next to cross-entropy.

    The "Box Proj." of the tables of Reiss et al. (CVPR 2023), by Tian et al., "BoxInst", CVPR 2021.
    A box says that each of its rows and of its columns holds a pixel of its class, and that none
    outside does; which pixels these are is told by the image, as neighbours of one colour are of
    one class.

        cross_entropy = mean over known pixels of  -log p[y]
        projection    = 1 - Dice of the projections of p onto each axis with those of the boxes
        pairwise      = mean over neighbours of one colour in a box of  -log P(both in, or both out)

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them; at least 2.
        spatial_dims: 2 or 3.
        network: See `build_network`.
        widths: Feature maps of the U-Net, a level each.
        norm: Normalisation of the U-Net.
        encoder: Encoder of the other architectures.
        encoder_weights: Their pretrained weights, such as ``"imagenet"``; downloads them.
        ce_weight: Weight of the cross-entropy; 0 switches it off.
        projection_weight: Weight of the projection loss; 0 switches it off.
        pairwise_weight: Weight of the pairwise loss; 0 switches it off.
        reading: ``"box"``: each box is projected by itself, and a class has to be low wherever the
            annotations rule it out; ``"class"``: the boxes of a class are one mask, which is
            projected as a whole. See `projection_loss`.
        cut_boxes: ``"skip"``: where the border of a patch may have cut a box, nothing is said of
            rows that may hold nothing of the object any more; ``"keep"``: as if it were whole.
        pairwise_warmup: In so many steps the weight of the pairwise loss grows from 0; 0 for its
            full value from the start.
        similarity_threshold: Neighbours at least so similar are of one colour, above 0 to 1; see
            `colour_affinity`. None for that which 95 % of the neighbours reach that differ by noise
            alone: 0.25 for images of one channel, 0.32 for three; see `affinity_threshold`.
        similarity_smoothing: Compare the means of windows of so many pixels a side, an odd number,
            for images in which noise is as strong as what there is to see; 1 for single pixels.
        dilation: Distance of neighbours along each axis, in pixels.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_factor: The learning rate is multiplied by this when the validation Dice stops improving.
        lr_patience: After this many validations without improvement.
        min_lr: It does not fall below this.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "mask": "cross-entropy on every pixel",
        "scribbles": "cross-entropy on the painted pixels",
        "points": "cross-entropy on the clicked pixels",
        "boxes": "their projections, and neighbours of one colour inside",
    }

    annotation_terms: ClassVar[frozenset[str]] = frozenset(
        {"cross_entropy", "projection", "pairwise"}
    )
    sample_means: ClassVar[frozenset[str]] = annotation_terms
    term_kinds: ClassVar[dict[str, frozenset[Kind]]] = {
        "cross_entropy": frozenset({"mask", "scribbles", "points"}),
        "projection": frozenset({"boxes"}),
        "pairwise": frozenset({"boxes"}),
    }

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        spatial_dims: Literal[2, 3] = 2,
        network: str = "unet",
        widths: list[int] = [16, 32, 64, 128, 256, 512],  # noqa: B006 never changed; [SPOCO Tab. 1]
        norm: Literal["batch", "group", "none"] = "batch",
        encoder: str = "resnet34",
        encoder_weights: str | None = None,
        ce_weight: float = 1.0,
        projection_weight: float = 1.0,  # BoxInst's code
        pairwise_weight: float = 1.0,  # BoxInst's code
        reading: Literal["box", "class"] = "box",  # BoxInst projects each object by itself
        cut_boxes: Literal["skip", "keep"] = "skip",  # BoxInst's images are whole: not in the paper
        pairwise_warmup: int = 10_000,  # BoxInst's code
        similarity_threshold: float | None = None,  # BoxInst's code: 0.3, in Lab, of photographs
        similarity_smoothing: int = 1,
        dilation: int = 2,  # BoxInst's code
        lr: float = 2e-4,  # this and the next four: as SupervisedModule, to be compared with it
        weight_decay: float = 1e-5,
        lr_factor: float = 0.2,
        lr_patience: int = 10,
        min_lr: float = 1e-6,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            spatial_dims=spatial_dims,
            lr=lr,
            weight_decay=weight_decay,
            lr_factor=lr_factor,
            lr_patience=lr_patience,
            min_lr=min_lr,
        )
        self.save_hyperparameters()
        check_weights(
            {
                "ce_weight": ce_weight,
                "projection_weight": projection_weight,
                "pairwise_weight": pairwise_weight,
            }
        )
        check_choices(
            {
                "reading": (reading, ("box", "class")),
                "cut_boxes": (cut_boxes, ("skip", "keep")),
            }
        )
        check_at_least(1, {"dilation": dilation, "similarity_smoothing": similarity_smoothing})
        check_at_least(0, {"pairwise_warmup": pairwise_warmup})
        if similarity_smoothing % 2 == 0:
            raise ValueError(
                f"similarity_smoothing is {similarity_smoothing}; a window with a pixel in its "
                "middle has an odd number of pixels a side"
            )
        if similarity_threshold is None:
            similarity_threshold = affinity_threshold(in_channels)
        if not 0 < similarity_threshold <= 1:
            raise ValueError(
                f"similarity_threshold is {similarity_threshold}; it is a similarity: above 0, "
                "which that of the pixels beyond the image is, and at most 1"
            )
        self.network = build_network(
            network,
            in_channels=in_channels,
            out_channels=num_classes,
            spatial_dims=spatial_dims,
            widths=tuple(widths),
            norm=norm,
            encoder=encoder,
            encoder_weights=encoder_weights,
        )
        self.weights = {
            "cross_entropy": ce_weight,
            "projection": projection_weight,
            "pairwise": pairwise_weight,
        }
        self.reading: Literal["box", "class"] = reading
        self.cut_boxes: Literal["skip", "keep"] = cut_boxes
        self.pairwise_warmup = pairwise_warmup
        self.similarity_threshold = similarity_threshold
        self.similarity_smoothing, self.dilation = similarity_smoothing, dilation

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, *S)`` of images ``(B, C, *S)`` of any size."""
        logits: Tensor = self.network(image)
        return logits

    def losses(self, batch: SemanticBatch) -> dict[str, Tensor]:
        """Cross-entropy, and what boxes say; each a mean over the images that it speaks about."""
        image, valid = batch["image"], batch["valid"]
        logits = self(image)
        terms = {}
        if self.weights["cross_entropy"]:
            values, known = cross_entropy(logits, batch["labels"])
            terms["cross_entropy"] = self.mean_over_samples(values, known)
        boxes, classes = box_pixels(batch)
        if self.weights["projection"]:
            values, known = projection_loss(
                logits,
                boxes,
                classes,
                batch["candidates"],
                valid,
                reading=self.reading,
                cut_boxes=self.cut_boxes,
            )
            terms["projection"] = self.mean_over_samples(values, known)
        if self.weights["pairwise"]:
            similarity = colour_affinity(
                image, valid, dilation=self.dilation, smoothing=self.similarity_smoothing
            )
            values, known = pairwise_loss(
                logits,
                boxes,
                classes,
                similarity,
                valid,
                threshold=self.similarity_threshold,
                dilation=self.dilation,
            )
            terms["pairwise"] = self.mean_over_samples(values, known)
        return terms

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor; that of the pairwise loss grows at first."""
        ramp = ramp_up(self.global_step, self.pairwise_warmup)
        return self.weights | {"pairwise": ramp * self.weights["pairwise"]}
