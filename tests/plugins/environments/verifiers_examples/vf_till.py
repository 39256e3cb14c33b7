"""A till: tools with a state, of which one ends the rollout, and a tool that all tasks share."""

import verifiers.v1 as vf
from vf_prices import PRICES, Prices


class TillState(vf.State):
    total: int = 0
    paid: int = 0


class TillData(vf.TaskData):
    basket: list[str]


class Till(vf.Toolset[vf.ToolsetConfig, TillState]):
    TOOL_PREFIX = "till"

    async def setup_task(self, task):
        self.basket = task.basket

    @vf.tool
    def scan(self, item: str, times: int = 1) -> str:
        """Scan an item of the basket."""
        if item not in self.basket:
            raise ValueError(f"{item} is not in the basket")
        self.state.total += PRICES[item] * times
        return f"The total is {self.state.total}."

    @vf.tool
    async def pay(self, amount: int) -> dict:
        """Pay."""
        self.state.paid = amount
        return {"change": amount - self.state.total}


class TillTaskConfig(vf.TaskConfig):
    tools: vf.ToolsetConfig = vf.ToolsetConfig()


class TillTask(vf.Task[TillData, TillState, TillTaskConfig]):
    @classmethod
    def toolsets(cls, config):
        return [Till(config.tools)]

    async def setup(self, trace, runtime):
        trace.info["opened"] = True

    @vf.stop
    async def settled(self, trace: vf.Trace) -> bool:
        return trace.state.paid > 0

    @vf.reward
    async def exact(self, trace: vf.Trace) -> float:
        return float(trace.state.paid == sum(PRICES[item] for item in self.data.basket) > 0)

    @vf.reward(weight=0)
    async def results(self, trace: vf.Trace) -> float:
        return len(trace.tool_messages)


class TillConfig(vf.TasksetConfig):
    task: TillTaskConfig = TillTaskConfig()


class TillTaskset(vf.Taskset[TillTask, TillConfig]):
    def load(self):
        for basket in (["tea", "jam"], ["bread"], ["tea", "bread", "jam"]):
            data = TillData(prompt=f"Pay for {', '.join(basket)}.", basket=basket)
            yield TillTask(data, self.config.task)

    @classmethod
    def toolsets(cls, config):
        return [Prices(vf.SharedToolsetConfig())]


__all__ = ["TillTaskset"]

if __name__ == "__main__":
    Till.run()
