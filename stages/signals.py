"""Ctrl-C and SIGTERM (a cluster's notice): one line, and the exit status that a shell gives, 130 or 143."""

import os
import signal
import threading

received = []  # numbers of the signals that came


def on_signals(handler):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def status():
    """The exit status of a process that a signal stopped; 0 where none came."""
    return 128 + received[0] if received else 0


def note(number):
    """Say what came. Not by print, which a signal may find in the midst of printing."""
    received.append(number)
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())


def leave(number, _):
    """While modules are imported: there is nothing to tidy up."""
    note(number)
    os._exit(status())


def unwind(number, _):
    """While a stage runs: files that are half written go, and its MLflow run ends."""
    note(number)
    raise SystemExit(status())


def stop_on_signals():
    """An event that a signal sets, for a run that stops after its next checkpoint. A second one ends it at once."""
    event = threading.Event()

    def stop(number, frame):
        if event.is_set():
            unwind(number, frame)
        received.append(number)
        event.set()

    on_signals(stop)
    return event
