"""xwgrid: what the grid decides, and what its parts say to each other.

Every module here is pure but for `xwgrid.requester`, the requester's command and library.
"""

__version__ = "0.1.0"
