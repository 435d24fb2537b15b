"""Prints the operators' results as a Markdown table, with the relative times of other implementations.

    python bench/tables.py FILE.json …

Times are those in a CUDA graph; implementations that cannot be captured are left out.
"""

import argparse
import json
from pathlib import Path

HEAD = """\
| both passes | ms | share of copy bandwidth | relative time of plain PyTorch | relative time of the release's code |
|---|---|---|---|---|"""


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    print(HEAD)
    for file in parser.parse_args().files:
        print(*lines(json.loads(file.read_text())), sep="\n")


if __name__ == "__main__":
    main()
