"""The types of the fields of a class, read once."""

from __future__ import annotations

import functools
import typing
from typing import Any

from ..errors import UncollapseError


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Field -> its type, of any attrs class. Raises UncollapseError where a type is imported for type checkers only."""
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        name = f"{cls.__module__}.{cls.__qualname__}"
        raise UncollapseError(
            f"the types of the parameters of {name} cannot be read: {error}", name, "import them at run time, too"
        ) from error
