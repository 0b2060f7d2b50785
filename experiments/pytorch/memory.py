"""The most memory that a piece of PyTorch's work takes."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_mb(
    work: Callable[[], Any], held: Iterable[torch.Tensor], device: torch.device
) -> float:
    """Return the megabytes of the tensors `held` and, at their most, of those it makes.

    On a CPU PyTorch counts nothing, so each allocation is traced: some steps will do,
    an epoch is too much.
    """
    grown = _growth_on_cuda(work) if device.type == "cuda" else _growth_on_cpu(work)
    return (sum(tensor.nbytes for tensor in held) + grown) / 1e6


def _growth_on_cuda(work: Callable[[], Any]) -> int:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before


def _growth_on_cpu(work: Callable[[], Any]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells of itself on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as traced:
        work()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "trace.json")
        traced.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event["args"] for event in events if event["name"] == "[memory]"]
    if not changes:
        return 0
    before = changes[0]["Total Allocated"] - changes[0]["Bytes"]
    return max(before, *(change["Total Allocated"] for change in changes)) - before
