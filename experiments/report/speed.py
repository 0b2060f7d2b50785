"""The main numbers of what is timed and compared, for the page of `report`."""

from collections import Counter

from experiments.benchmark.tables import short
from experiments.report.tables import Numbers, Summary, named, records, shown

SECONDS = ("name", "compile", "first", "median", "fastest", "slowest")


def benchmark(summary: Summary) -> Numbers:
    """Show where the time goes, a table for each system."""
    fields = [*SECONDS, "to_floor", "to_pytorch", "throughput", "peak_memory_mb"]
    tables, speeds = [], []
    for system in dict.fromkeys(entry["system"] for entry in summary["rows"]):
        rows = [
            {**row, "throughput": _with_unit(row)}
            for row in summary["rows"]
            if row["system"] == system
        ]
        tables.append(records(f"{system}, seconds", rows, fields))
        jax = [row.get("to_pytorch") for row in rows if row["name"].startswith("JAX")]
        if ours := [speed for speed in jax if speed is not None]:
            speeds.append(f"{short(min(ours))} to {short(max(ours))} ({system})")
    if not_run := summary.get("not_run"):
        tables.append(records("Not run", not_run, ["name", "reason"], num_texts=2))
    if not speeds:
        return Numbers("PyTorch was not timed.", tables)
    return Numbers(
        f"Speed of JAX over that of eager PyTorch: {', '.join(speeds)}.", tables
    )


def compare(summary: Summary) -> Numbers:
    """Show the answers of both libraries, then their times."""
    verdicts, times = summary["verdicts"], summary.get("times") or []
    counts = Counter(entry["verdict"] for entry in verdicts)
    said = ", ".join(f"{shown(count)} {verdict}" for verdict, count in counts.items())
    systems: dict[str, Counter[str]] = {}
    for entry in verdicts:
        systems.setdefault(entry["system"], Counter())[entry["verdict"]] += 1
    tables = [named("Answers, by system", systems, list(counts))]
    if times:
        fields = ["system", *(f for f in SECONDS if f != "first"), "ratio"]
        tables.append(records("Seconds", times, fields, num_texts=2))
    fields = ["system", "level", "what", "verdict", "difference", "tolerance"]
    tables.append(records("Every comparison", verdicts, fields, num_texts=4))
    return Numbers(f"Compared with PyTorch: {said}.", tables)


def end_to_end(summary: Summary) -> Numbers:
    """Set whole commands side by side."""
    _, warm, theirs = entries = summary["commands"]
    fields = ["name", "median", "fastest", "slowest", "ratio", "peak_memory_mb"]
    return Numbers(
        f"From start to end, PyTorch takes {shown(warm['ratio'])} times as long: "
        f"{shown(theirs['median'])} s against {shown(warm['median'])} s.",
        [records("Whole commands, seconds", entries, fields)],
    )


def growth(summary: Summary) -> Numbers:
    """Show how an epoch grows with each size."""
    points = [
        {**point, "to_floor": point["seconds"] / point["floor_seconds"]}
        for point in summary["points"]
    ]
    ratios = [point["to_floor"] for point in points]
    fields = ["axis", "size", "seconds", "floor_seconds", "to_floor", "memory_mb"]
    return Numbers(
        f"An epoch takes {min(ratios):.2f} to {max(ratios):.2f} times as long as its "
        "matrix products alone.",
        [records("An epoch of the dropout MLP", points, fields)],
    )


def profile(summary: Summary) -> Numbers:
    """Show the parts of an epoch beside the whole."""
    whole = summary["whole"]
    epoch = whole["whole epoch"]
    parts = [
        {"part": name, "seconds": seconds, "of_the_epoch": seconds / epoch}
        for name, seconds in summary["parts"].items()
    ]
    others = {k: {"seconds": s} for k, s in {**whole, **summary["before"]}.items()}
    first = max(parts, key=lambda part: part["seconds"])
    return Numbers(
        f"An epoch takes {shown(epoch)} s; of its parts alone, {first['part']} take "
        f"the most, {shown(first['seconds'])} s.",
        [
            records("Parts, alone", parts, ["part", "seconds", "of_the_epoch"]),
            named("Whole, and before it", others, ["seconds"]),
        ],
    )


def _with_unit(row: Summary) -> str | None:
    amount = row.get("throughput")
    return None if amount is None else f"{shown(amount)} {row.get('unit') or ''}"
