"""Turns Ctrl-C, SIGTERM and a closed terminal into a request to stop, which the loop handles between two steps."""

import signal
import threading

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Stopped(KeyboardInterrupt):
    """Raised after a run has saved its state and stopped because of the signal `signal_number`."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """A context in which the first SIGINT, SIGTERM or SIGHUP only sets `signal_number`; a second one acts as usual.

    Outside of the main thread, where Python does not allow handlers, signals act as usual. Signals that are ignored,
    like Ctrl-C in background processes of a shell script, remain ignored.
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
