"""Higher or lower: an Env of its own, which answers as the user."""

import itertools

import verifiers.v1 as vf


class HigherData(vf.TaskData):
    number: int


class HigherTask(vf.Task[HigherData]):
    @vf.reward
    async def found(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == str(self.data.number))

    @vf.metric
    async def guesses(self, trace: vf.Trace) -> float:
        return trace.num_turns


class HigherEnvConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()


class HigherEnv(vf.Env[HigherEnvConfig]):
    async def run(self, task, agents):
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated and segment.last_reply != str(task.data.number):
                guess = int(segment.last_reply) if segment.last_reply.isdecimal() else -1
                segment = await interaction.turn("higher" if guess < task.data.number else "lower")
        interaction.trace.record_reward("quick", 1 / interaction.trace.num_turns, 0.25)


class HigherTaskset(vf.Taskset[HigherTask, vf.TasksetConfig]):
    INFINITE = True

    def load(self):
        for number in itertools.count():
            messages = [vf.SystemMessage(content="Guess."), vf.UserMessage(content=f"Game {number}: your guess?")]
            yield HigherTask(HigherData(prompt=messages, number=number % 8), self.config.task)


__all__ = ["HigherEnv", "HigherTaskset"]
