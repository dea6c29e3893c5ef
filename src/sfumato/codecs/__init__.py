"""Codecs: between what a user has (pictures, sound, text) and the x of the mathematics."""

from sfumato.codecs.pixels import Pixels

__all__ = ["Pixels"]
