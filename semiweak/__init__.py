"""A PyTorch Lightning model zoo for learning segmentation from few and weak labels.

Every public name is imported when it is first used, so that ``import semiweak`` is quick.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semiweak.clustering.consistency import ConsistencyClustering as ConsistencyClustering
    from semiweak.clustering.hdbscan import HDBSCAN as HDBSCAN
    from semiweak.clustering.mean_shift import MeanShift as MeanShift
    from semiweak.clustering.mutex_watershed import MutexWatershed as MutexWatershed
    from semiweak.data.annotations import Annotation as Annotation
    from semiweak.data.annotations import Sample as Sample
    from semiweak.data.bbbc039 import BBBC039DataModule as BBBC039DataModule
    from semiweak.data.bigbrain import BigBrainDataModule as BigBrainDataModule
    from semiweak.data.cell_tracking import CellTrackingDataModule as CellTrackingDataModule
    from semiweak.data.folder import MixedAnnotationDataModule as MixedAnnotationDataModule
    from semiweak.data.openorganelle import OpenOrganelleDataModule as OpenOrganelleDataModule
    from semiweak.data.sparse_instances import (
        SparseInstanceDataModule as SparseInstanceDataModule,
    )
    from semiweak.data.synthetic_module import SyntheticDataModule as SyntheticDataModule
    from semiweak.data.vnc import VNCDataModule as VNCDataModule
    from semiweak.data.weaken import Weakening as Weakening
    from semiweak.inference.tiling import Tiling as Tiling
    from semiweak.inference.writer import LabelWriter as LabelWriter
    from semiweak.methods.adversarial_spoco import (
        AdversarialSpocoModule as AdversarialSpocoModule,
    )
    from semiweak.methods.box_projection import BoxProjectionModule as BoxProjectionModule
    from semiweak.methods.chance import ClassPriorModule as ClassPriorModule
    from semiweak.methods.chance import RandomModule as RandomModule
    from semiweak.methods.classification_branch import (
        ClassificationBranchModule as ClassificationBranchModule,
    )
    from semiweak.methods.con2r import Con2RModule as Con2RModule
    from semiweak.methods.dsp import DSPModule as DSPModule
    from semiweak.methods.fixmatch import FixMatchModule as FixMatchModule
    from semiweak.methods.iic import IICModule as IICModule
    from semiweak.methods.point_distance import PointDistanceModule as PointDistanceModule
    from semiweak.methods.pseudo_label import PseudoLabelModule as PseudoLabelModule
    from semiweak.methods.spoco import SpocoModule as SpocoModule
    from semiweak.methods.supervised import SupervisedModule as SupervisedModule
    from semiweak.methods.uda import UDAModule as UDAModule
    from semiweak.metrics.clusters import ClusterMappedIoU as ClusterMappedIoU
    from semiweak.metrics.instances import AdaptedRandError as AdaptedRandError
    from semiweak.metrics.instances import DifferenceInCount as DifferenceInCount
    from semiweak.metrics.instances import ForegroundDice as ForegroundDice
    from semiweak.metrics.instances import InstanceAveragePrecision as InstanceAveragePrecision
    from semiweak.metrics.instances import InstanceScores as InstanceScores
    from semiweak.metrics.instances import SymmetricBestDice as SymmetricBestDice
    from semiweak.metrics.overlap import DiceScore as DiceScore
    from semiweak.metrics.overlap import IoU as IoU
    from semiweak.metrics.overlap import OverlapScores as OverlapScores

_HOME = {
    "AdversarialSpocoModule": "semiweak.methods.adversarial_spoco",
    "BoxProjectionModule": "semiweak.methods.box_projection",
    "Con2RModule": "semiweak.methods.con2r",
    "ClassificationBranchModule": "semiweak.methods.classification_branch",
    "ClassPriorModule": "semiweak.methods.chance",
    "DSPModule": "semiweak.methods.dsp",
    "FixMatchModule": "semiweak.methods.fixmatch",
    "IICModule": "semiweak.methods.iic",
    "PointDistanceModule": "semiweak.methods.point_distance",
    "PseudoLabelModule": "semiweak.methods.pseudo_label",
    "RandomModule": "semiweak.methods.chance",
    "SpocoModule": "semiweak.methods.spoco",
    "SupervisedModule": "semiweak.methods.supervised",
    "UDAModule": "semiweak.methods.uda",
    "BBBC039DataModule": "semiweak.data.bbbc039",
    "BigBrainDataModule": "semiweak.data.bigbrain",
    "CellTrackingDataModule": "semiweak.data.cell_tracking",
    "MixedAnnotationDataModule": "semiweak.data.folder",
    "OpenOrganelleDataModule": "semiweak.data.openorganelle",
    "SparseInstanceDataModule": "semiweak.data.sparse_instances",
    "SyntheticDataModule": "semiweak.data.synthetic_module",
    "VNCDataModule": "semiweak.data.vnc",
    "ConsistencyClustering": "semiweak.clustering.consistency",
    "HDBSCAN": "semiweak.clustering.hdbscan",
    "MeanShift": "semiweak.clustering.mean_shift",
    "MutexWatershed": "semiweak.clustering.mutex_watershed",
    "ClusterMappedIoU": "semiweak.metrics.clusters",
    "AdaptedRandError": "semiweak.metrics.instances",
    "DifferenceInCount": "semiweak.metrics.instances",
    "ForegroundDice": "semiweak.metrics.instances",
    "InstanceAveragePrecision": "semiweak.metrics.instances",
    "InstanceScores": "semiweak.metrics.instances",
    "SymmetricBestDice": "semiweak.metrics.instances",
    "DiceScore": "semiweak.metrics.overlap",
    "IoU": "semiweak.metrics.overlap",
    "OverlapScores": "semiweak.metrics.overlap",
    "Annotation": "semiweak.data.annotations",
    "Sample": "semiweak.data.annotations",
    "Weakening": "semiweak.data.weaken",
    "LabelWriter": "semiweak.inference.writer",
    "Tiling": "semiweak.inference.tiling",
}
__all__ = ["__version__", *_HOME]

try:
    __version__ = version("semiweak")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'semiweak' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
