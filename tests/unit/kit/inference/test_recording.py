import gc
import threading

from services.kit.inference.recording import Recording


def test_nothing_is_recorded_while_somebody_uses_the_gpu() -> None:
    gpu = Recording()
    with gpu.using(), gpu.using(), gpu.alone() as alone:
        assert not alone
    with gpu.alone() as alone:
        assert alone


def test_nobody_begins_to_use_the_gpu_while_something_is_recorded() -> None:
    gpu, begun, used = Recording(), threading.Event(), threading.Event()

    def use() -> None:
        begun.set()
        with gpu.using():
            used.set()

    other = threading.Thread(target=use)
    with gpu.alone() as alone:
        assert alone
        other.start()
        begun.wait()
        assert not used.wait(0.05)
    assert used.wait(10)
    other.join()


def test_what_a_garbage_collection_gives_back_within_a_recording_stops_nothing() -> None:
    gpu, freed = Recording(), list[bool]()

    class Memory:
        """With a cycle, so that nobody but the collector frees it."""

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            with gpu.using():
                freed.append(True)

    Memory()
    with gpu.alone():
        gc.collect()
    assert freed == [True]
