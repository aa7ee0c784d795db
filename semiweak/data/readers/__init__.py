"""Images and label images from files: PNG, JPEG, BMP, TIFF, and HDF5 as ``file.h5:/key``.

What arrives is what the file stores, unscaled, channels first and (z,) y, x after them:

- Alpha is dropped: it is no measurement. Colours under transparent pixels count as they stand.
  (A TIFF keeps an alpha that is not opaque everywhere, since writers call any fourth channel so.)
- A palette gives the colours it stands for, and one channel when they are all grey. A TIFF's
  lookup table is for display only and plays no part.
- 1-bit and boolean images are 0 and 255, as the same picture saved with 8 bits.
- A JPEG is turned as its EXIF orientation says, as browsers and annotation tools show it.
- Label images keep the stored numbers: indices, not colours, of a palette; 0 and 1 of one bit.
"""

from semiweak.data.readers.images import image_shape, read_image
from semiweak.data.readers.labels import ValueTable, check_mask, read_labels
from semiweak.data.readers.names import SUFFIXES, list_images, split_source, stem_of
from semiweak.data.readers.objects import read_objects

__all__ = [
    "SUFFIXES",
    "ValueTable",
    "check_mask",
    "image_shape",
    "list_images",
    "read_image",
    "read_labels",
    "read_objects",
    "split_source",
    "stem_of",
]
