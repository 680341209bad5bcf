"""A run does not outlive its worker: pull step `deployments.lifeline.end_with_worker` of prefect.yaml.

Prefect's process worker starts a process for each run. When the worker is killed the run would go on, though nobody can
cancel it any more or see how it ended. With this step the run's process ends itself as if the worker had asked it to:
it reports itself as crashed and ends its ranks (`longrl.training.launch`). Run again, it goes on from what is finished.
"""

from __future__ import annotations

import os
import signal
import threading
import time

LOOK = 0.5  # seconds between looks at the worker
GRACE = 25.0  # seconds that the run may take to report itself and to end what it started


def end_with_worker() -> dict[str, str]:
    """Watch the parent of this process from now on."""
    threading.Thread(target=watch, args=(os.getppid(),), daemon=True, name="lifeline").start()
    return {}


def watch(parent: int) -> None:
    """End this process when its parent is another one, which it is when the first has gone."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
