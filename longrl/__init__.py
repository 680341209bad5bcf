"""longrl: long videos in, a reasoning vision-language model out."""

__version__ = "0.1.0"
