"""Plants random mutants in the numeric modules, runs the modules' tests, and prints the share that the tests kill.

    make mutants                                   # 200 mutants
    .venv/bin/python tests/mutants --count 20 --only estimators/kl --seed 3

``equivalent.txt`` names mutants that change nothing that could be seen: they are not planted.
"""

import argparse
import importlib
import multiprocessing
import random
import sys
from pathlib import Path

from modules import MODULES
from plant import Mutant, mutants
from trial import WARM, Trial, try_out

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Exit code 0 if the wanted share of the mutants died."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="mutants to plant")
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    parser.add_argument("--only", default="", help="modules whose path begins with this")
    parser.add_argument("--jobs", type=int, default=2, help="at the same time")
    parser.add_argument("--share", type=float, default=0.95, help="that must die")
    options = parser.parse_args()
    paths = [path for path in MODULES if path.startswith(options.only)]
    for name in WARM:
        importlib.import_module(name)
    chosen = choose(paths, options.count, options.seed)
    tried = sorted({mutant.path for mutant in chosen})
    print(f"{len(chosen)} mutants in {len(tried)} of {len(paths)} modules", flush=True)
    suites = [[path for path in tried if MODULES[path] == tests] for tests in {MODULES[path]: None for path in tried}]
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        for suite, trial in zip(suites, pool.imap(as_they_are, suites), strict=True):
            if trial.dead:
                print(f"{', '.join(suite)}: the tests fail without a mutant\n{trial.output[-3000:]}")
                return 1
        survivors = []
        for number, trial in enumerate(pool.imap_unordered(on_mutant, chosen), start=1):
            verdict = "dead" if trial.dead else "ALIVE"
            print(f"{number:4d} {verdict:5s} {trial.seconds:5.1f} s  {trial.mutant}", flush=True)
            survivors += [] if trial.dead else [trial.mutant]
    return report(chosen, survivors, options.share)


def as_they_are(paths: list[str]) -> Trial:
    """The tests that these modules share, without a mutant: they must pass."""
    return try_out(ROOT, None, paths, MODULES[paths[0]])


def on_mutant(mutant: Mutant) -> Trial:
    """The tests of its module against a mutant."""
    return try_out(ROOT, mutant, [mutant.path], MODULES[mutant.path])


def choose(paths: list[str], count: int, seed: int) -> list[Mutant]:
    """A random sample of all mutants of these modules, without those that are known to change nothing."""
    known = equivalent()
    found = [mutant for path in paths for mutant in mutants(ROOT, path)]
    left = [mutant for mutant in found if (mutant.path, mutant.removed, mutant.added) not in known]
    return sorted(random.Random(seed).sample(left, min(count, len(left))), key=lambda mutant: mutant.path)


def equivalent() -> set[tuple[str, str, str]]:
    """(path, line as it was, line as it would be) of every known one; the format of ``str(Mutant)`` with a reason."""
    found, path, removed = set(), "", ""
    for line in Path(__file__).with_name("equivalent.txt").read_text("utf-8").splitlines():
        if line.startswith("    - "):
            removed = line.removeprefix("    - ")
        elif line.startswith("    + "):
            found.add((path, removed, line.removeprefix("    + ")))
        elif line and not line.startswith((" ", "#")):
            path = line.strip()
    return found


def report(chosen: list[Mutant], survivors: list[Mutant], wanted: float) -> int:
    """Print the survivors and the share."""
    share = 1 - len(survivors) / len(chosen) if chosen else 0.0
    if survivors:
        print("\nsurvivors:")
        print("\n".join(map(str, survivors)))
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} mutants died: {share:.1%}, wanted {wanted:.0%}")
    return int(share < wanted)


if __name__ == "__main__":
    sys.exit(main())
