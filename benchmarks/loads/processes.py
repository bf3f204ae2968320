"""What processes use."""

import psutil


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far, with those of its children that have ended or still run."""
    process = psutil.Process(pid)
    seconds = sum(process.cpu_times()[:4])
    for child in process.children(recursive=True):
        try:
            seconds += sum(child.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue  # its parent has its time now, or will in a moment
    return float(seconds)
