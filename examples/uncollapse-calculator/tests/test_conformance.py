"""All that this package registers keeps the laws of its kind."""

from uncollapse.testing import conformance

test_components = conformance("uncollapse-calculator")
