"""The token head on a GPU: our backends against TRL, Liger, verl and dense torch, and all of them against float64.

    PYTHONPATH=<folder that links the repository as uncollapse>:<peers' wheels> python benchmarks/gpu/head.py
    TRITON_INTERPRET=1 python benchmarks/gpu/head.py --quick      # tiny, on a CPU: does the script itself work

1. Parity of the Triton head with dense float64, values and gradients, and no host synchronisation (else exit code 1).
2. The two Triton kernels alone, for several launches, on one tile.
3. Every contender, forward and forward + backward (log-prob and entropy, both with a gradient in hidden and weight):
   median milliseconds, peak memory beyond the inputs in GiB, and the largest error on some rows. Ours computes the
   second moments of the distributions as well where its name says so.

Prints tables, and one JSON line for each row (into a file with --json). Peers that cannot be imported are listed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from checks import CUDA, DEVICE, errors, exact_rows, inputs, parity
from peers import Contender, dense, liger, ours, trl, verl
from torch import Tensor
from uncollapse.plugins.training.heads.torch_head import Torch
from uncollapse.plugins.training.heads.triton_head import Triton

GIB = 2**30


# --- contenders -----------------------------------------------------------------------------------------------------


@contextmanager
def launches_restored() -> Iterator[None]:
    """What is changed of the launches of our kernels is changed back."""
    kernels = importlib.import_module("uncollapse.plugins.training.heads.triton_kernels")
    own = kernels.FOLD, kernels.DIFFERENTIATE
    try:
        yield
    finally:
        kernels.FOLD, kernels.DIFFERENTIATE = own


def launched(head: Any, launches: dict[str, Any]) -> Contender:
    """Our Triton head with other launches of its kernels, from now on."""
    kernels = importlib.import_module("uncollapse.plugins.training.heads.triton_kernels")
    for name, launch in launches.items():
        setattr(kernels, name, launch)
    return ours(head)


def contenders(full: bool, best: dict[str, Any]) -> list[tuple[str, Callable[[], Contender]]]:
    """Name and maker, in the order of measurement; the first two come again at the end."""
    both = "gradient"
    main: list[tuple[str, Callable[[], Contender]]] = [
        ("triton", lambda: ours(Triton())),
        ("trl", lambda: trl(32768)),
        ("triton, fastest launches", lambda: launched(Triton(), best)),
        ("triton fp32 logits", lambda: ours(Triton(float32_logits=True))),
        ("triton + 2nd moment", lambda: ours(Triton(), both)),
    ]
    if full:
        tiles = [
            (8192, 2112),
            (8192, 4224),
            (8192, 8448),
            (8192, 16384),
            (8192, 25344),
            (8192, 33792),
            (4096, 16896),
            (4096, 33792),
        ]
        main += [
            (f"triton {rows} x {columns}", lambda rows=rows, columns=columns: ours(Triton(rows, columns)))
            for rows, columns in tiles
        ]
        main += [("trl 8192 columns", lambda: trl(8192)), ("trl 16384 columns", lambda: trl(16384))]
    main += [
        ("torch", lambda: ours(Torch())),
        ("liger", lambda: liger(True)),
        ("liger torch fallback", lambda: liger(False)),
        ("verl", verl),
        ("dense torch", lambda: dense),
    ]
    return [*main, ("triton (again)", main[0][1]), ("trl (again)", main[1][1])]


# --- measuring ------------------------------------------------------------------------------------------------------


def milliseconds(run: Callable[[], object], budget: float) -> float:
    """Median; on a GPU by events around each call, after a warm-up, with a cold L2."""
    if CUDA:
        from triton.testing import do_bench

        return float(do_bench(run, warmup=budget / 3, rep=budget, return_mode="median"))
    run()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def peak_gib(run: Callable[[], object]) -> float | None:
    """Memory at its peak beyond what is allocated before; what ``run`` returns counts."""
    if not CUDA:
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / GIB


# --- 2: kernels alone -----------------------------------------------------------------------------------------------


def kernels_alone(rows: int, columns: int, budget: float) -> dict[str, Any]:
    """Milliseconds and GB/s of each kernel on one tile, by launch (151,936 columns are nine); the fastest launches."""
    kernels = importlib.import_module("uncollapse.plugins.training.heads.triton_kernels")
    tile = torch.randn(rows, columns, device=DEVICE, dtype=torch.bfloat16)
    targets = torch.randint(0, columns, (rows,), device=DEVICE)
    scales = torch.ones(rows, device=DEVICE)
    table = torch.rand(kernels.ROW, rows, device=DEVICE)
    gigabytes = tile.numel() * 2 / 1e9

    def fold(launch: Any, moments: int) -> None:
        state = torch.zeros(kernels.STATE, rows, device=DEVICE)
        arguments = (tile, columns, columns, 0, targets, scales, state, rows, 1.0)
        options = {"SOFTCAP": False, "MOMENTS": moments, "BLOCK": launch.block, "num_warps": launch.warps}
        kernels.fold_kernel[(rows,)](*arguments, **options)

    def differentiate(launch: Any, degree: int) -> None:
        arguments = (tile, other, columns, columns, 0, targets, table, rows, 1.0)
        options = {"SOFTCAP": False, "DEGREE": degree, "BLOCK": launch.block, "num_warps": launch.warps}
        kernels.differentiate_kernel[(rows, -(-columns // launch.block))](*arguments, **options)

    other = torch.empty_like(tile)
    launches = [(1024, 2), (1024, 4), (2048, 4), (2048, 8), (4096, 8), (8192, 16)][: 6 if CUDA else 1]
    best = {}
    for name, kernel, default, passes in (
        ("FOLD", fold, kernels.FOLD, 1),
        ("DIFFERENTIATE", differentiate, kernels.DIFFERENTIATE, 2),
    ):
        took = {}
        for degree, launch in [(1, kernels.Launch(*launch)) for launch in launches] + [(2, default)]:
            took[degree, launch] = milliseconds(lambda: kernel(launch, degree), budget)  # noqa: B023
            label = f"{name} block {launch.block} warps {launch.warps}" + " + 2nd moment" * (degree == 2)
            ms = took[degree, launch]
            record(section="kernel", name=label, ms=ms, gb_s=passes * gigabytes / ms * 1e3)
        best[name] = min((launch for degree, launch in took if degree == 1), key=lambda launch: took[1, launch])
    print("fastest:", *(f"{name} = Launch({launch.block}, {launch.warps})" for name, launch in best.items()))
    return best


# --- 3: contenders --------------------------------------------------------------------------------------------------


def products(data: tuple[Tensor, Tensor, Tensor]) -> tuple[Callable[[], object], Callable[[], object]]:
    """The matrix products alone, all logits at once: one forward; two, and the two gradients', forward + backward."""
    hidden, weight = (x.detach() for x in data[:2])
    logits = hidden @ weight.T
    by_hidden, by_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def forward() -> None:
        torch.mm(hidden, weight.T, out=logits)

    def both() -> None:
        forward()
        forward()
        torch.mm(logits, weight, out=by_hidden)
        torch.mm(logits.T, hidden, out=by_weight)

    return forward, both


def compare(rows: int, hidden_size: int, vocabulary: int, full: bool, best: dict[str, Any], budget: float) -> None:
    shape = {"rows": rows, "hidden": hidden_size, "vocabulary": vocabulary}
    data = inputs(rows, hidden_size, vocabulary)
    generator = torch.Generator(DEVICE).manual_seed(1)
    by_outputs = [torch.randn(rows, generator=generator, device=DEVICE) for _ in range(2)]
    picked = torch.randperm(rows, generator=generator, device=DEVICE)[: min(32, rows)]
    exact = exact_rows(data, by_outputs, picked)
    print(f"\n{rows} tokens, hidden size {hidden_size}, vocabulary {vocabulary}, bfloat16")
    print(HEADER)
    forward, both = products(data)
    record(
        **shape, name="matrix products", forward_ms=milliseconds(forward, budget), both_ms=milliseconds(both, budget)
    )
    del forward, both
    for name, make in contenders(full, best):
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
        try:
            with launches_restored():
                record(**shape, name=name, **measured(make(), data, by_outputs, picked, exact, budget))
        except Exception as error:  # a peer that cannot run here is a result
            record(**shape, name=name, failed=f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")


def measured(
    run: Contender,
    data: tuple[Tensor, Tensor, Tensor],
    by_outputs: list[Tensor],
    picked: Tensor,
    exact: dict[str, Any],
    budget: float,
) -> dict[str, Any]:
    hidden, weight, targets = data

    def forward() -> object:
        with torch.no_grad():
            return run(hidden, weight, targets)

    def both() -> object:
        found = run(hidden, weight, targets)
        weights = [*by_outputs, by_outputs[0]][: len(found)]
        return torch.autograd.grad(
            found, (hidden, weight), [w.to(x.dtype) for w, x in zip(weights, found, strict=True)]
        )

    found_errors = errors(run, data, by_outputs, picked, exact)
    return {
        "forward_ms": milliseconds(forward, budget),
        "both_ms": milliseconds(both, budget),
        "forward_gib": peak_gib(forward),
        "both_gib": peak_gib(both),
        "error": found_errors,
    }


# --- printing -------------------------------------------------------------------------------------------------------

RECORDS: list[dict[str, Any]] = []
HEADER = (
    f"{'':<28} {'forward ms':>10} {'f + b ms':>9} {'f GiB':>7} {'f+b GiB':>7}"
    f"   errors: {'logprob':>8} {'entropy':>8} {'2nd mom':>8} {'gradient':>8}"
)


def record(**row: Any) -> None:
    RECORDS.append(row)
    name = row["name"]
    if "failed" in row:
        print(f"{name:<28} cannot run: {row['failed']}")
    elif "ms" in row:
        print(f"{name:<40} {row['ms']:>8.4f} ms {row['gb_s']:>7.0f} GB/s")
    else:
        found = row.get("error", {})
        cells = [number(row.get(key), width, 3) for key, width in COLUMNS]
        print(f"{name:<28}", *cells, "         ", *(number(found.get(key), 8, 1, "e") for key in ERRORS))


COLUMNS = (("forward_ms", 10), ("both_ms", 9), ("forward_gib", 7), ("both_gib", 7))
ERRORS = ("logprob", "entropy", "second_moment", "gradient")


def number(value: float | None, width: int, digits: int, kind: str = "f") -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}{kind}}"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "device": torch.cuda.get_device_name() if CUDA else "cpu"}
    for name in ("torch", "triton", "trl", "liger-kernel", "verl"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny shapes, for a CPU")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--budget", type=float, default=250, help="milliseconds of measuring per number")
    parser.add_argument("--json", type=Path, help="a file for the JSON lines, instead of standard output")
    options = parser.parse_args()
    found = versions()
    print("  ".join(f"{name} {value}" for name, value in found.items()))
    started = time.perf_counter()
    wrong = parity(options.quick)
    if options.quick:
        best = kernels_alone(4, 600, options.budget)
        compare(8, 16, 600, True, best, options.budget)
    else:
        print("\nkernels on a tile of 8192 x 16896, bfloat16")
        best = kernels_alone(8192, 16896, options.budget / 4)
        compare(8192, 2048, options.vocabulary, True, best, options.budget)
        compare(8192, 896, options.vocabulary, True, best, options.budget)
        compare(800, 2048, options.vocabulary, False, best, options.budget)
    print(f"\n{time.perf_counter() - started:.0f} s in all")
    lines = "".join(f"{json.dumps({**found, **row})}\n" for row in RECORDS)
    if options.json:
        options.json.write_text(lines)
    else:
        print(lines, end="")
    failed = [row["name"] for row in RECORDS if "failed" in row and row["name"].startswith(("triton", "torch"))]
    if wrong or failed:
        raise SystemExit("; ".join([*wrong, *(f"{name} cannot run" for name in failed)]))


if __name__ == "__main__":
    main()
