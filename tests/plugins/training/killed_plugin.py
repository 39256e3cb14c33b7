"""A tracker that keeps its points in a file, and a detector that speaks without stopping the run."""

import json

import attrs
from uncollapse.core.components import CollapseDetector, CollapseSession, Tracker, Verdict
from uncollapse.core.hookspecs import hookimpl


@attrs.frozen
class Points(Tracker):
    def start(self, run):
        return PointsSession()


class PointsSession:
    @hookimpl
    def step_finished(self, run, step, metrics):
        with (run.path / "points.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


@attrs.frozen
class Talker(CollapseDetector):
    def start(self, context):
        return TalkerSession()


class TalkerSession(CollapseSession):
    def __init__(self):
        self.steps = []

    def measure(self, rollouts, scorer):
        return {"talker/steps": float(len(self.steps))}

    def judge(self, step, metrics):
        self.steps.append(step)
        return Verdict("talker", step, f"seen {self.steps}", {"steps": list(self.steps)}, stop=False)

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = list(state["steps"])


@hookimpl
def register_trackers(register):
    register("points", Points)


@hookimpl
def register_collapse_detectors(register):
    register("talker", Talker)
