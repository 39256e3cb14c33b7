"""Calls into vLLM, without vLLM: answers, errors, a process that dies, and nothing kept afterwards."""

import gc
import multiprocessing
import threading
import time
import weakref

import psutil
import pytest
from uncollapse.core.errors import RunError
from uncollapse.plugins.rollout.engine_vllm.watched import Watched


class Engine:
    def answer(self, value):
        if value < 0:
            raise ValueError(value)
        return 2 * value


@pytest.fixture
def process():
    started = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True)
    started.start()
    yield started
    started.kill()
    started.join()


def test_answers_and_errors_come_back_until_the_process_dies(process):
    engine, watched = Engine(), Watched([process], RunError("died"))
    assert watched(engine.answer, 3) == 6
    with pytest.raises(ValueError, match="-1"):
        watched(engine.answer, -1)
    process.kill()
    process.join()
    with pytest.raises(RunError, match="died"):
        watched(threading.Event().wait)


def test_what_has_ended_holds_neither_engine_nor_thread(process):
    before = threading.active_count()
    engine, watched = Engine(), Watched([process], RunError("died"))
    watched(engine.answer, 3)
    held = weakref.ref(engine)
    watched.end(lambda: process.kill(), 5.0)
    del engine
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    gc.collect()
    assert held() is None
    assert threading.active_count() == before
    assert not psutil.pid_exists(process.pid)
