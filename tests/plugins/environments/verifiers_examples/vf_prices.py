"""Prices: a tool that all tasks share."""

import verifiers.v1 as vf

PRICES = {"tea": 3, "bread": 4, "jam": 6}


class Prices(vf.Toolset[vf.SharedToolsetConfig]):
    TOOL_PREFIX = "shelf"

    async def setup(self):
        self.prices = dict(PRICES)

    @vf.tool
    def price(self, item: str) -> int:
        """Look a price up."""
        return self.prices[item]


if __name__ == "__main__":
    Prices.run()
