"""Functions for worker processes."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Ends this process when its parent has died, since processes of a pool do not do so automatically."""

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
