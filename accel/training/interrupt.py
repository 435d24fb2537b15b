"""Ctrl-C, SIGTERM and a closed terminal as a request that the loop answers between two steps."""

import signal
import threading

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, saved its state and stopped; `signal_number` says by which signal."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """Within this context the first SIGINT, SIGTERM or SIGHUP only sets `signal_number`; a second one acts as usual.

    Outside the main thread, where Python admits no handlers, signals act as usual from the start; one that is
    ignored, as Ctrl-C is by what a shell script started in the background, stays ignored.
    """

    signal_number: int | None = None

    def __enter__(self) -> "StopRequest":
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(self, *exception) -> None:
        self._restore()
