"""A plugin for uncollapse: a policy loss that looks at all rows of an optimizer step."""
