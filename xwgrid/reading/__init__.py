"""Strangers' pictures and files are read here: in a sandboxed child process that forks for every result."""

from xwgrid.reading.reader import Reader, ReadingLimits

__all__ = ["Reader", "ReadingLimits"]
