"""A renderer that lies: it stands between a volunteer's daemon and the real driver, and spoils each picture.

    python demo_liar.py SEED BETWEEN RUNTIME... ENTRY SPEC.json

The daemon is the ordinary one and knows nothing of it: its settings name this as the command of its runtime. What
comes in is handed to the driver and back, line by line; only before a `finished` line goes on are pixels of the PNG it
names altered. BETWEEN is what the runtime wants between ENTRY and SPEC.json, "-" for nothing. Standard library alone.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_MARK = b"@xwgrid "
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Enough to see, few enough to look like a careless cheat: a twentieth of the picture's rows.
_SHARE_OF_ROWS = 20


def main() -> None:
    """Run the real driver, spoil what it makes, and end as it ends."""
    seed, between, *command = sys.argv[1:]
    *runtime, specification = command
    real = [*runtime, *([] if between == "-" else [between]), specification]
    outputs: dict[int, str] = {}
    with subprocess.Popen(real, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        if driver.stdin is None or driver.stdout is None:
            raise RuntimeError("the driver has no pipes")
        threading.Thread(target=_pass_tasks, args=(driver.stdin, outputs), daemon=True).start()
        for line in driver.stdout:
            if line.startswith(_MARK):
                _spoil(json.loads(line[len(_MARK) :]), outputs, int(seed))
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    # The daemon's end of standard input may still be open, and a thread reads it.
    os._exit(driver.returncode if driver.returncode >= 0 else 1)


def spoiled(picture: bytes, chance: random.Random) -> bytes:
    """Return a PNG that decodes as before, with other pixels: some rows' filtered bytes are turned over."""
    chunks = list(_chunks(picture))
    header = next(body for kind, body in chunks if kind == b"IHDR")
    _width, height = struct.unpack(">II", header[:8])
    rows = bytearray(zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT")))
    length = len(rows) // height
    for row in chance.sample(range(height), max(1, height // _SHARE_OF_ROWS)):
        # The first byte of a row is its filter and stays.
        for place in range(row * length + 1 + length // 3, row * length + 1 + length // 2):
            rows[place] ^= chance.randrange(1, 256)
    out = [_SIGNATURE]
    written = False
    for kind, body in chunks:
        if kind != b"IDAT":
            out.append(_chunk(kind, body))
        elif not written:
            out.append(_chunk(b"IDAT", zlib.compress(bytes(rows), 6)))
            written = True
    return b"".join(out)


def _pass_tasks(to_driver: IO[bytes], outputs: dict[int, str]) -> None:
    """Hand on what the daemon says, noting where each replica's files will lie; end of input is handed on too."""
    for line in sys.stdin.buffer:
        try:
            command = json.loads(line)
        except ValueError:
            command = {}
        if command.get("do") == "task":
            outputs[command["replica"]] = str(command["output"])
        to_driver.write(line)
        to_driver.flush()
    to_driver.close()


def _spoil(event: dict[str, object], outputs: dict[int, str], seed: int) -> None:
    replica, names = event.get("replica"), event.get("files")
    if event.get("event") != "finished" or not isinstance(replica, int) or not isinstance(names, list):
        return
    folder = Path(os.environ.get("XWGRID_WORK", "/work"), outputs[replica])
    for name in names:
        path = folder / str(name)
        # Liars who are not of one mind: another replica, another lie.
        path.write_bytes(spoiled(path.read_bytes(), random.Random(f"{seed}/{replica}")))  # noqa: S311  no secret


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not picture.startswith(_SIGNATURE):
        raise ValueError("this liar knows PNG only")
    place = len(_SIGNATURE)
    while place < len(picture):
        size, kind = struct.unpack(">I4s", picture[place : place + 8])
        yield kind, picture[place + 8 : place + 8 + size]
        place += size + 12


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


if __name__ == "__main__":
    main()
