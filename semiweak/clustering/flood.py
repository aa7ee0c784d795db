"""A seeded watershed: clusters flood the pixels that have none."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from semiweak.compiled import compiled


@compiled
def flood(
    labels: NDArray[np.int32],
    values: NDArray[np.float32],
    means: NDArray[np.float32],
    inside: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    strides: NDArray[np.int64],
) -> NDArray[np.int32]:
    """Gives every pixel of label 0 that a cluster can reach the label of that cluster.

    Clusters grow over direct neighbours inside the mask: always the pixel next whose embedding
    lies nearest to the mean of the cluster that wants it. The others keep 0.

    Args:
        labels: ``(N,)``, 0 = none.
        values: The embeddings ``(N, D)``.
        means: The means of the clusters, row i of cluster i; row 0 is not used.
        inside: The mask ``(N,)``.
        lengths: The image's shape.
        strides: How far apart neighbours along each axis lie in raster order.
    """
    result = labels.copy()
    dim = values.shape[1]
    queue = [(np.float32(0.0), np.int64(0), np.int32(0))]
    queue.pop()
    seed = 0
    while seed < len(labels) or len(queue) > 0:
        if seed < len(labels):  # every labelled pixel makes its offers first
            pixel = np.int64(seed)
            label = labels[seed]
            seed += 1
            if label == 0:
                continue
        else:
            _, pixel, label = heapq.heappop(queue)
            if result[pixel] != 0:
                continue
            result[pixel] = label
        for a in range(len(lengths)):
            position = pixel // strides[a] % lengths[a]
            for side in (-1, 1):
                if not 0 <= position + side < lengths[a]:
                    continue
                neighbour = pixel + side * strides[a]
                if result[neighbour] != 0 or not inside[neighbour]:
                    continue
                squared = np.float32(0.0)
                for d in range(dim):
                    difference = values[neighbour, d] - means[label, d]
                    squared += difference * difference
                heapq.heappush(queue, (squared, neighbour, label))
    return result
