"""What is worth measuring: the values of each setting, from what the model and the target allow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.errors import ConfigError
from worker.tuning.measurement import Graphs, Setting

COARSE_ROWS = (1, 4, 16, 64, 256)
LANES = (1, 2, 3, 4)
DELAY_SHARES = (0.0, 0.05, 0.1, 0.2)  # of the p99 target


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine and the settings leave to choose from."""

    least_rows: int  # rows of the largest request
    most_rows: int
    is_fixed: bool  # the model fixes its batch axis at most_rows
    has_graphs: bool  # the backend knows CUDA graphs


@dataclass(frozen=True, slots=True)
class Grid:
    """The values that are swept."""

    max_rows: tuple[int, ...]
    max_delay_ms: tuple[float, ...]
    lanes: tuple[int, ...]
    cuda_graphs: tuple[Graphs, ...]

    def seats(self) -> Iterator[Setting]:
        """Every combination but the delays, those of one backend together; the delay is the first one."""
        for graphs in self.cuda_graphs:
            for lanes in self.lanes:
                for rows in self.max_rows:
                    yield Setting(rows, self.max_delay_ms[0], lanes, graphs)


def make_grid(
    limits: Limits,
    p99_ms: float,
    *,
    max_rows: Sequence[int] = (),
    max_delay_ms: Sequence[float] = (),
    lanes: Sequence[int] = (),
    cuda_graphs: Sequence[Graphs] = (),
) -> Grid:
    """What to sweep; a value that the caller gives replaces the choice made here.

    Raises:
        ConfigError: a given value cannot be run.
    """
    if limits.least_rows > limits.most_rows:
        raise ConfigError(
            f"a request has {limits.least_rows} rows, a batch holds {limits.most_rows}; lower --rows-per-request"
        )
    for rows in max_rows:
        if not limits.least_rows <= rows <= limits.most_rows or (limits.is_fixed and rows != limits.most_rows):
            least = limits.most_rows if limits.is_fixed else limits.least_rows
            raise ConfigError(f"--max-rows has {rows}; this model takes {least} to {limits.most_rows}")
    return Grid(
        tuple(sorted(set(max_rows))) or _rows(limits),
        tuple(sorted(set(max_delay_ms))) or _delays_ms(p99_ms),
        tuple(sorted(set(lanes))) or LANES,
        tuple(dict.fromkeys(cuda_graphs)) or (("auto", "off") if limits.has_graphs else ("auto",)),
    )


def between(rows: Sequence[int], best: int, limits: Limits) -> list[int]:
    """Row counts around the best one that have not been measured: half way, on a scale of powers, to its neighbours."""
    if limits.is_fixed:
        return []
    known = sorted(rows)
    place = known.index(best)
    neighbours = [known[place - 1]] if place else []
    neighbours += [known[place + 1]] if place + 1 < len(known) else [min(limits.most_rows, 4 * best)]
    found = {round(math.sqrt(best * neighbour)) for neighbour in neighbours}
    return sorted(value for value in found - set(known) if limits.least_rows <= value <= limits.most_rows)


def _rows(limits: Limits) -> tuple[int, ...]:
    if limits.is_fixed:
        return (limits.most_rows,)
    fitting = {rows for rows in COARSE_ROWS if limits.least_rows <= rows <= limits.most_rows}
    if limits.most_rows <= COARSE_ROWS[-1]:
        fitting.add(limits.most_rows)
    return tuple(sorted(fitting | {limits.least_rows}))


def _delays_ms(p99_ms: float) -> tuple[float, ...]:
    return tuple(dict.fromkeys(_round(share * p99_ms) for share in DELAY_SHARES))


def _round(value: float) -> float:
    """To one digit: a setting is typed by people."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.floor(value / unit + 0.5) * unit:.6g}")
