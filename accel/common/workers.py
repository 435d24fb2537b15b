"""What processes do that work for another one."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Lets this process end once its parent is gone, which the processes of a pool do not by themselves."""

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
