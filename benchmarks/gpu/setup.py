"""Make a plain checkout importable, without pip: a link to it and the metadata that announces its built-in names.

    python benchmarks/gpu/setup.py DIR && export PYTHONPATH=DIR

DIR gets ``uncollapse`` (a link to the repository's root) and ``uncollapse-VERSION.dist-info`` with the entry points of
``pyproject.toml``, by which the registry finds the built-ins. Then it says which of the libraries are missing.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = {
    "every benchmark": (
        "pluggy", "click", "attrs", "cattrs", "ruamel.yaml", "rich", "torch", "transformers", "peft", "deepspeed",
    ),
    "rollouts with vLLM": ("vllm",),
    "step.py --peer": ("trl", "datasets", "accelerate"),
    "the figure of sokoban.py": ("matplotlib",),
}  # fmt: skip


def link(directory: Path) -> None:
    """Write both; what an earlier call wrote is replaced."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    directory.mkdir(parents=True, exist_ok=True)
    package = directory / "uncollapse"
    if package.is_symlink():
        package.unlink()
    package.symlink_to(ROOT)
    metadata = directory / f"uncollapse-{project['version']}.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: uncollapse\nVersion: {project['version']}\n")
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [line for group, entries in groups.items() for line in (f"[{group}]", *map(" = ".join, entries.items()))]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


def missing(names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        try:
            present = find_spec(name) is not None
        except ModuleNotFoundError:
            present = False
        found += [] if present else [name]
    return found


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    link(Path(sys.argv[1]))
    for what, names in LIBRARIES.items():
        lacking = missing(names)
        print(f"{what}: {'missing ' + ', '.join(lacking) if lacking else 'all there'}")


if __name__ == "__main__":
    main()
