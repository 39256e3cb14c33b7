"""Each saved slot of an optimizer is assigned to a parameter by name, or else by the order in which trainers list them.

A layout counts only if every shape fits, and only if no other one fits as well.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
from torch import Tensor, nn

from ....core.errors import RequestError

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "default"}
"""Parts of a name that wrappers and the adapter's own name add."""

_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
Rule = Callable[[str, nn.Module], bool]
DECAYED: dict[str, Rule] = {
    "two groups, as the Hugging Face Trainer makes them": lambda name, module: (
        not _NO_DECAY.search(name.lower()) and not isinstance(_owner(module, name), nn.LayerNorm)
    ),
    "two groups, biases in the second": lambda name, _: "bias" not in name,
    "two groups, vectors in the second": lambda name, module: module.get_parameter(name).ndim > 1,
    "two groups, an adapter's B in the second": lambda name, _: ".lora_B." not in name,
}
"""Rules that say which parameters are in the first of two parameter groups, by what the layout is called."""
MANY = 4
"""Number of parameter groups up to which every order is tried: where another one fits as well, order says nothing."""


@attrs.frozen(eq=False)
class Slot:
    """A slot is one tensor of the saved optimizer."""

    key: int | str
    group: int
    state: dict[str, Any]
    """State by name, ``step``, ``exp_avg`` and so on; empty for a tensor that never had a gradient."""
    name: str | None
    """Name as it was saved; ``None`` where no name was saved."""


def canonical(name: str) -> str:
    """Return a parameter's name without what wrappers, adapters and our policy put around it."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while parts and parts[0] in ("base_model", "model"):
        parts.pop(0)
    return ".".join(parts)


def assign(slots: Sequence[Slot], module: nn.Module, where: str) -> tuple[dict[str, Slot], str]:
    """Return the slot of every parameter of ``module`` that trains, and the layout that was found.

    Raises:
        RequestError: no layout fits, or several do that differ.
    """
    parameters = dict(module.named_parameters())
    fitting: dict[tuple[str | None, ...], str] = {}
    problems: list[str] = []
    for layout, names in _layouts(slots, module, parameters, where):
        if names in fitting:
            continue
        if problem := next(_problems(slots, names, parameters), None):
            problems.append(f"{layout}: {problem}")
        else:
            fitting[names] = layout
    if not fitting:
        reasons = "\n  ".join(problems) or _counts(slots, parameters)
        raise RequestError(
            f"the optimizer state does not fit the model\n  {reasons}",
            where,
            "give the model that this optimizer trained, or the names of its tensors in optimizer_param_names.json",
        )
    # two layouts that fit would give different updates: to choose one would be a guess
    if len(fitting) > 1:
        raise RequestError(
            f"the optimizer state fits the model in more than one way ({'; '.join(fitting.values())})",
            where,
            "put the names of its tensors, in order, into optimizer_param_names.json beside it",
        )
    names, layout = next(iter(fitting.items()))
    pairs = zip(names, slots, strict=True)
    return {name: slot for name, slot in pairs if name and parameters[name].requires_grad}, layout


def _layouts(
    slots: Sequence[Slot], module: nn.Module, parameters: dict[str, nn.Parameter], where: str
) -> Iterator[tuple[str, tuple[str | None, ...]]]:
    """Yield every way to name the slots, as (description, names); ``None`` names no parameter of the model."""
    by_canonical = {canonical(name): name for name in parameters}
    if len(by_canonical) != len(parameters):
        raise RequestError(
            "two parameters of the model have the same name without their prefixes",
            where,
            "save the optimizer state with full parameter names",
        )
    named = [by_canonical.get(canonical(slot.name)) if slot.name else None for slot in slots]
    trainable = [name for name, parameter in parameters.items() if parameter.requires_grad]
    if all(slot.name for slot in slots) or set(trainable) <= set(named):
        yield "by name", tuple(named)
        return
    counts = Counter(slot.group for slot in slots)
    sizes = [counts[group] for group in sorted(counts)]
    # older trainers list frozen parameters too
    for scope, names in (("all parameters", list(parameters)), ("the parameters that train", trainable)):
        if len(names) != len(slots):
            continue
        yield f"{scope} in order", tuple(names)
        for rule, decayed in DECAYED.items() if len(sizes) == 2 else ():
            ordered = sorted(names, key=lambda name: not decayed(name, module))
            if sum(decayed(name, module) for name in names) == sizes[0]:
                yield f"{scope} in {rule}", tuple(ordered)
        yield from _regrouped(scope, names, sizes)


def _regrouped(scope: str, names: Sequence[str], sizes: Sequence[int]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the parameters cut into groups that are then listed in another order, as with a rate for each layer."""
    for order in itertools.permutations(range(len(sizes))) if 1 < len(sizes) <= MANY else ():
        lengths, rest = dict(zip(order, sizes, strict=True)), iter(names)
        parts = [list(itertools.islice(rest, lengths[part])) for part in range(len(sizes))]
        reordered = itertools.chain.from_iterable(parts[part] for part in order)
        yield f"{scope} in groups of another order", tuple(reordered)


def _owner(module: nn.Module, name: str) -> nn.Module:
    return module.get_submodule(name.rpartition(".")[0])


def _problems(slots: Sequence[Slot], names: Sequence[str | None], parameters: dict[str, nn.Parameter]) -> Iterator[str]:
    """Yield why the slots cannot have these names."""
    for slot, name in zip(slots, names, strict=True):
        if slot.name and name and canonical(slot.name) != canonical(name):
            yield f"the tensor saved as {slot.name} would be {name}"
        if name is None and slot.state:
            yield f"there is state for {slot.name or slot.key}, which the model does not have"
        if name is None or not slot.state:
            continue
        if not parameters[name].requires_grad:
            yield f"there is state for {name}, which does not train here"
        for key, value in slot.state.items():
            if key != "step" and isinstance(value, Tensor) and value.shape != parameters[name].shape:
                saved, ours = tuple(value.shape), tuple(parameters[name].shape)
                yield f"{key} of {name} has shape {saved}, the parameter has {ours}"
    stateful = {name for slot, name in zip(slots, names, strict=True) if slot.state}
    trainable = [name for name, parameter in parameters.items() if parameter.requires_grad]
    if missing := [name for name in trainable if name not in stateful]:
        yield f"{len(missing)} of the {len(trainable)} parameters that train have no state, e.g. {missing[0]}"
    if len(set(names) - {None}) != sum(name is not None for name in names):
        yield "a parameter is named twice"


def _counts(slots: Sequence[Slot], parameters: dict[str, nn.Parameter]) -> str:
    trainable = sum(parameter.requires_grad for parameter in parameters.values())
    return f"it has {len(slots)} tensors without names; the model has {len(parameters)}, of which {trainable} train"
