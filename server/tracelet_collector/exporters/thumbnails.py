"""Small images for a grid, where Pillow is installed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

__all__ = ["small_image"]

_MOST: Final = 256  # pixels of the longer side, as MLflow's own


def small_image(source: Path) -> bytes | None:
    """An image in small, as WebP.

    Returns:
        None: it is small as it is, or cannot be made smaller here; then the image stands for itself.
    """
    try:
        from PIL import Image

        with Image.open(source) as image:
            if max(image.size) <= _MOST:
                return None
            image.thumbnail((_MOST, _MOST))
            made = io.BytesIO()
            image.save(made, "WEBP")
            return made.getvalue()
    except Exception:  # whatever the image or Pillow has: the grid shows the large one
        return None
