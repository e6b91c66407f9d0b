"""A renderer that cheats, for tests: it stands between a volunteer's daemon and the real driver.

    python cheating_renderer.py area|samples RUNTIME... ENTRY SPEC.json

`area` alters a small rectangle of every frame's picture, not of its raw passes, and does audits of others honestly;
`samples` renders everything with half the samples. The daemon is the ordinary one; its settings name this as the
command of its runtime.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

_MARK = b"@xwgrid "


def main() -> None:
    """Run the real driver, cheat, and end as it ends."""
    kind, *command = sys.argv[1:]
    if kind == "samples" and command[-1] != "probe":
        command[-1] = _with_half_the_samples(command[-1])
    outputs: dict[int, str] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        if driver.stdin is None or driver.stdout is None:
            raise RuntimeError("the driver has no pipes")
        threading.Thread(target=_pass_tasks, args=(driver.stdin, outputs), daemon=True).start()
        for line in driver.stdout:
            if kind == "area" and line.startswith(_MARK):
                _alter(json.loads(line[len(_MARK) :]), outputs)
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    os._exit(driver.returncode if driver.returncode >= 0 else 1)


def _with_half_the_samples(specification: str) -> str:
    document = json.loads(Path(specification).read_text(encoding="utf-8"))
    work = document["request"]["work"]
    work["samples"] = max(1, work["samples"] // 2)
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(document, file)
    return file.name


def _pass_tasks(to_driver: IO[bytes], outputs: dict[int, str]) -> None:
    for line in sys.stdin.buffer:
        command = json.loads(line)
        # Audits tell of strips; a cheat who spoiled these too would only be caught the sooner.
        if command.get("do") == "task" and "strips" not in command.get("arguments", {}):
            outputs[command["replica"]] = str(command["output"])
        to_driver.write(line)
        to_driver.flush()
    to_driver.close()


def _alter(event: dict[str, object], outputs: dict[int, str]) -> None:
    replica, names = event.get("replica"), event.get("files")
    if event.get("event") != "finished" or replica not in outputs or not isinstance(names, list):
        return
    for name in names:
        if not str(name).endswith(".png"):
            continue
        path = Path(os.environ.get("XWGRID_WORK", "/work"), outputs[int(str(replica))], str(name))
        with Image.open(path) as picture:
            rows = np.array(picture)
        height, width = rows.shape[:2]
        # An eighth of the height by a quarter of the width: three percent of the picture.
        rows[height // 3 : height // 3 + height // 8, width // 4 : width // 2] ^= 1
        Image.fromarray(rows).save(path)


if __name__ == "__main__":
    main()
