"""The device on which a network runs, and the memory that it takes there."""

from __future__ import annotations

import torch

from recon.errors import InputError


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; ``auto`` is the first CUDA device if there is one, else the CPU.

    Raises InputError for a device that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number.isdecimal() or number == name[len(kind) :]):
        raise InputError(f"device {name!r} is not known; give auto, cpu, cuda, or one of several GPUs as cuda:1")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} is not here; PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak allocation on a GPU, the process's peak resident set on a processor."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux, bytes on macOS


def release_memory() -> None:
    """Return to the system what a training needed that has ended.

    A process that trains again and again calls it before each training (benchmarks/memory). The C library keeps what
    was freed in an arena, and a new thread may get a new arena: a process whose trainings run in threads of their own
    would keep the peak of one training in each of up to eight arenas per processor. It takes some milliseconds.
    """
    import ctypes
    import gc
    import sys

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc's
        ctypes.CDLL(None).malloc_trim(0)
