"""Prints the operators' results as a Markdown table.

    python bench/tables.py FILE.json …

Files of bench/bottleneck.py and bench/weighted_loss.py: with the relative times of other implementations, except those
that cannot be captured in a CUDA graph. Files of bench/blocks.py: pass by pass, with the tiles of the present table.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

HEAD = """\
| both passes | ms | share of copy bandwidth | relative time of plain PyTorch | relative time of the release's code |
|---|---|---|---|---|"""

PASSES_HEAD = """\
| milliseconds, and share of copy bandwidth | forward | backward | both |
|---|---|---|---|"""


def lines(document):
    """A line for each case of a file of bench/bottleneck.py or bench/weighted_loss.py."""
    cases = {}
    for row in document["results"]:
        cases.setdefault(row["case"], {})[row["provider"]] = row
    kind = document["description"].partition(",")[0]
    for case, providers in cases.items():
        ours = providers["ours"]
        milliseconds = ours["graph"][0]
        others = [providers.get(name, {}).get("graph") for name in ("plain", "release")]
        ratios = [f"{graph[0] / milliseconds:.1f} ×" if graph else "" for graph in others]
        share = 100 * ours["limit"] / milliseconds
        yield f"| {kind}, {case} | {milliseconds:.4f} | {share:.0f} % | {' | '.join(ratios)} |"


def has_tile_of_table(row, backward):
    """Whether a pass of a row of bench/blocks.py had the tile that is now in the bottleneck's table."""
    from bench.blocks import table_tile  # needs Triton

    if "tiles" not in row:
        return True
    shape = (row[name] for name in ("batch", "parts", "part_dim", "side"))
    format = torch.channels_last if row["channels_last"] else torch.contiguous_format
    kind = row["variance"], row["occurrence"]
    (parts, _, cells), warps = table_tile(shape, getattr(torch, row["dtype"]), format, kind, backward)
    return row["tiles"][backward] == [parts, cells, warps]


def lines_of_passes(document):
    """A line for each case of a file of bench/blocks.py; `both` is the sum of the passes."""
    cases = {}
    for row in document["results"]:
        cases.setdefault(row["case"], []).append(row)
    for case, rows in cases.items():
        forward, backward = (next((r for r in rows if has_tile_of_table(r, which)), None) for which in (False, True))
        if forward and backward:
            kind = "Bottleneck" if "tiles" in forward else "Weighted squared error"
            times = forward["forward"], backward["backward"]
            limits = forward["of_forward"] * times[0], backward["of_backward"] * times[1]
            passes = zip((*times, sum(times)), (*limits, sum(limits)), strict=True)
            yield f"| {kind}, {case} | {' | '.join(f'{t:.4f}, {100 * limit / t:.0f} %' for t, limit in passes)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    for file in parser.parse_args().files:
        document = json.loads(file.read_text())
        by_pass = "of_forward" in document["results"][0]
        print(PASSES_HEAD if by_pass else HEAD)
        print(*(lines_of_passes if by_pass else lines)(document), sep="\n")


if __name__ == "__main__":
    main()
