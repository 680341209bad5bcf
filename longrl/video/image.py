"""Image files: what they are, and their pixels at a size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # of a gif or tiff the first picture


def is_image(path: str | Path) -> bool:
    """Whether a file's name is an image's."""
    return Path(path).suffix.lower() in ENDINGS


def size_of(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels, upright; the whole file is decoded. Raises `OSError` or `ValueError`."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        width, height = ImageOps.exif_transpose(image).size
    return height, width


def picture(path: str | Path, height: int, width: int) -> np.ndarray:
    """The image, upright, in RGB on white, resized: uint8 (height, width, 3). Raises `OSError` or `ValueError`."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    return np.asarray(flat.resize((width, height), Image.Resampling.BICUBIC))
