"""The plugin of verifiers registers the built-in ones."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl

_HERE = "uncollapse.plugins.verifiers"


@hookimpl
def register_verifiers(register: Register) -> None:
    module = f"{_HERE}.verifiers"
    register("math", f"{module}:Math", summary="equal as mathematics, or as text where it is none")
    register("exact", f"{module}:Exact", summary="equal as text, but for case and white space")
    register("choice", f"{module}:Choice", summary="the same option of a multiple choice")
    register("contains", f"{module}:Contains", summary="the right answer stands somewhere in the text")
    register("json_schema", f"{_HERE}.json_schema:JsonSchema", summary="JSON that a schema accepts (extra json-schema)")
    register("judge", f"{_HERE}.judge:Judge", summary="a language model says how right: loaded here, or a server's")
