"""Strangers' pictures and files are read here: in a sandboxed child process that forks for every result."""

from xwgrid.reading.reader import Read, Reader, ReadingLimits, Stored

__all__ = ["Read", "Reader", "ReadingLimits", "Stored"]
