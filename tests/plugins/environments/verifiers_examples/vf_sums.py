"""Sums: one response, two rewards with weights, and a metric."""

import verifiers.v1 as vf


class SumData(vf.TaskData):
    answer: str


class SumTask(vf.Task[SumData]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply.removesuffix(".") == self.data.answer)

    @vf.reward(weight=0.5)
    async def brief(self, trace: vf.Trace) -> float:
        return 1 / (1 + len(trace.last_reply))

    @vf.metric
    async def characters(self, trace: vf.Trace) -> float:
        return len(trace.last_reply)


class SumConfig(vf.TasksetConfig):
    tasks: int = 20
    first: int = 0


class SumTaskset(vf.Taskset[SumTask, SumConfig]):
    def load(self):
        for number in range(self.config.first, self.config.first + self.config.tasks):
            prompt = f"What is {number} + {number}?"
            data = SumData(prompt=prompt, system_prompt="You add numbers.", answer=str(2 * number))
            yield SumTask(data, self.config.task)


__all__ = ["SumTaskset"]
