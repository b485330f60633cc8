"""A compiled program as the compiler prints it: what it moves, and how often its loops turn."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{(.*?)\}")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+)")
_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_NOT_KNOWN = 2**62  # cycles; the compiler's "cannot tell" is the largest number it can write
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_CHANNEL = re.compile(r"channel_id=(\d+)")
_PAIRED = ("all-gather", "collective-permute")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
    """Kind -> (how many, bytes of their results), all turns of loops counted.

    A collective that goes on behind other work is printed with each piece of that work; its
    channel tells that it is one.
    """
    found: dict[str, tuple[str, int, int]] = {}
    for number, (line, times) in enumerate(instructions(hlo)):
        for shapes, kind in _COLLECTIVE.findall(line):
            arrays = [array_bytes(*array) for array in _ARRAY.findall(shapes)]
            # What starts without waiting names its operand beside its result; a sum has many.
            size = max(arrays) if kind in _PAIRED else sum(arrays)
            channel = _CHANNEL.search(line)
            found[channel[1] if channel else f"line {number}"] = kind, times, size
    count: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for kind, times, size in found.values():
        count[kind] += times
        moved[kind] += times * size
    return {kind: (count[kind], moved[kind]) for kind in sorted(count)}


def cycles(hlo: str) -> int:
    """Cycles that the compiler expects of all instructions, one after the other; 0 where it does
    not say: on CPU and GPU, or if it cannot tell of one of them."""
    found = [(times, int(n)) for line, times in instructions(hlo) for n in _CYCLES.findall(line)]
    if any(n >= _NOT_KNOWN for _, n in found):
        return 0
    return sum(times * n for times, n in found)


def instructions(hlo: str) -> Iterator[tuple[str, int]]:
    """Lines, and how often each is run. A loop whose turns are not known counts once."""
    parts = computations(hlo)
    times = turns(parts)
    for name, lines in parts.items():
        for line in lines:
            yield line, times[name]


def computations(hlo: str) -> dict[str, list[str]]:
    """Name -> lines, in the order printed: one comes after those it calls."""
    parts: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in hlo.splitlines():
        if found := _COMPUTATION.match(line):
            name = found[1]
        parts[name].append(line)
    return dict(parts)


def turns(parts: dict[str, list[str]]) -> Counter[str]:
    """How often each computation is run; one that nothing calls, once."""
    calls: dict[str, list[tuple[str, int]]] = {
        name: [call for line in lines for call in called(line, parts)]
        for name, lines in parts.items()
    }
    inner = {callee for found in calls.values() for callee, _ in found}
    times: Counter[str] = Counter({name: 1 for name in parts if name not in inner})
    for name in reversed(parts):  # callers first
        for callee, count in calls[name]:
            times[callee] += times[name] * count
    return times


def called(line: str, parts: dict[str, list[str]]) -> list[tuple[str, int]]:
    """Computations that an instruction runs, and how often."""
    names = _CALLED.findall(line)
    for group in _BRANCHES.findall(line):
        names += [name.strip().lstrip("%") for name in group.split(",")]
    loop = _WHILE.search(line)
    count = trip_count(line, parts.get(loop[1], [])) if loop else 1
    return [(name, count) for name in names if name in parts]


def trip_count(line: str, condition: list[str]) -> int:
    """Turns of a loop: as noted, or the one constant that its condition compares with."""
    if known := _KNOWN.search(line):
        return int(known[1])
    limits = [int(n) for text in condition for n in _LIMIT.findall(text)]
    compares = [text for text in condition if " compare(" in text]
    simple = len(limits) == len(compares) == 1 and "direction=LT" in compares[0]
    return limits[0] if simple else 1


def array_bytes(dtype: str, shape: str) -> int:
    """Bytes of an array printed as ("bf16", "8,128")."""
    size = _BYTES.get(dtype, 4)
    for n in filter(None, shape.split(",")):
        size *= int(n)
    return size
