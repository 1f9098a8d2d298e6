"""A bounded pool of workers, with results in the order of the jobs, and progress bars, where tqdm is installed."""

import contextlib
import functools
import multiprocessing
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

AHEAD = 4  # jobs given out for each worker, so that none waits for work, and few wait in memory


def run_in_order(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int, processes: bool, unit: str
) -> Iterator[Result]:
    """Give `function(job)` of every job, in order; computed here, or by two or more threads or processes.

    Each job is sent by itself, when fewer than 4 for each worker are under way. What a job raises is raised in its
    turn, as ValueError that names the number of the `unit`; RuntimeError where a process died.
    """
    with contextlib.ExitStack() as stack:
        give_out: Callable[[Job], Callable[[], Result]] = lambda job: functools.partial(function, job)  # noqa: E731
        if workers > 1:
            # Spawned, because a fork after JAX has started threads can hang.
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(workers, spawn) if processes else ThreadPoolExecutor(workers)
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            give_out = lambda job: pool.submit(function, job).result  # noqa: E731
        jobs = iter(jobs)
        waiting = deque(map(give_out, islice(jobs, AHEAD * workers if workers > 1 else 1)))
        number = 0
        while waiting:
            try:
                result = waiting.popleft()()
            except BrokenProcessPool as error:
                raise RuntimeError(
                    f"a worker died at {unit} {number} or before: the script needs `if __name__ == '__main__':`, and "
                    "what converts must be in a module that workers can import, not in a notebook; or use one worker"
                ) from error
            except Exception as error:  # whatever it is, say where
                raise ValueError(f"{unit} {number}: {type(error).__name__}: {error}") from error
            waiting.extend(map(give_out, islice(jobs, 1)))
            number += 1
            yield result


def check_sendable(name: str, value: Any, way_out: str) -> None:
    """Raise TypeError for what cannot be sent to a process."""
    try:
        pickle.dumps(value)
    except Exception as error:  # pickle raises errors of several kinds
        raise TypeError(f"{name} cannot be sent to workers ({error}); {way_out}") from error


@contextlib.contextmanager
def progress_bar(total: int, unit: str, wanted: bool | None) -> Iterator[Callable[[int], Any]]:
    """Show a bar, and give the function that moves it on. None: if tqdm is installed and there is more than one.

    Raises ModuleNotFoundError where a bar is wanted, and tqdm is not installed.
    """
    if wanted or (wanted is None and total > 1):
        try:
            from tqdm import tqdm
        except ModuleNotFoundError as error:
            if wanted:
                message = "a progress bar needs tqdm: pip install tqdm, or pass progress=False"
                raise ModuleNotFoundError(message) from error
        else:
            with tqdm(total=total, unit=unit, unit_scale=unit == "step") as bar:
                yield lambda count: bar.update(min(count, total - bar.n))
            return
    yield lambda count: None


def with_progress(items: Iterable[Result], total: int, unit: str, wanted: bool | None) -> Iterator[Result]:
    """Go through items and show how far it is, as `progress_bar` does."""
    with progress_bar(total, unit, wanted) as advance:
        for item in items:
            yield item
            advance(1)
