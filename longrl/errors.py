"""Errors that tell a caller what to do next."""

from __future__ import annotations


class LongrlError(Exception):
    """Something a person can mend; the message names the item and the remedy, and is shown without a traceback."""


class Transient(LongrlError):
    """Something that may pass by itself, such as a lost connection or a killed worker; worth trying again."""
