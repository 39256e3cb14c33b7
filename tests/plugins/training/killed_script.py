"""Trains in forks of one warm process, each of which kills itself at one of the things that it does to files.

    killed_script.py EXPERIMENT.yaml DIRECTORY [EVENT ...]

Prints, for each event (default: all of them), `EVENT DESCRIPTION` once the killed run has been resumed to its end.
The undisturbed run is DIRECTORY/whole (as it is if it is there), the others are DIRECTORY/EVENT.
"""

import os
import signal
import sys
from pathlib import Path

KINDS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink", "os.link"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Events:
    """Counts what is about to be done to the files of a run."""

    def __init__(self, run: Path, fatal: int, log: Path | None) -> None:
        self.run, self.fatal, self.count = str(run), fatal, 0
        self.log = log.open("w") if log else None

    def __call__(self, event, arguments) -> None:
        if event not in KINDS or (event == "open" and not (arguments[2] or 0) & WRITING):
            return
        path = arguments[0]
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)
        within_a_directory = event in ("os.remove", "os.rmdir") and arguments[-1] != -1  # as a tree is deleted
        if not (text.startswith(self.run) or within_a_directory):
            return
        self.count += 1
        if self.log:
            print(self.count, event, text.removeprefix(self.run), file=self.log, flush=True)
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(work) -> int:
    """The exit status of a fork that does this work."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = work()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(experiment, run: Path, fatal: int = 0, log: Path | None = None) -> int:
    from uncollapse.plugins.training.train import train

    sys.addaudithook(Events(run, fatal, log))
    resume = (run / "config.yaml").exists()
    return train(experiment, run, resume=resume).exit_code


def main() -> None:
    import deepspeed  # noqa: F401
    import torch
    import transformers.models.auto.modeling_auto
    import transformers.models.auto.tokenization_auto
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401
    import uncollapse
    from uncollapse.core.registry import registry
    from uncollapse.core.runs.directory import RunDirectory
    from uncollapse.plugins.training import deepspeed_backend, session  # noqa: F401

    torch.set_num_threads(1)
    registry().load_file(Path(__file__).with_name("killed_plugin.py"))
    experiment, directory = uncollapse.compose(sys.argv[1]), Path(sys.argv[2])
    log = directory / "events"
    if not log.exists():
        assert forked(lambda: train(experiment, directory / "whole", log=log)) in (0, 3)
    expected = 0 if RunDirectory(directory / "whole").status()["status"] == "success" else 3
    names = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    for event in map(int, sys.argv[3:] or range(1, len(names) + 1)):
        run = directory / str(event)
        killed = forked(lambda run=run, event=event: train(experiment, run, fatal=event))
        assert killed == -signal.SIGKILL, (event, killed)
        assert forked(lambda run=run: train(experiment, run)) == expected, (event, names[event - 1])
        print(event, names[event - 1], flush=True)


if __name__ == "__main__":
    main()
