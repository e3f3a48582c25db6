"""Compute side by side in two threads, with results that do not depend on how many processors there are.

LiteRT, NumPy and Pillow release Python's lock while they compute. Two threads that each have a file on one thread of
LiteRT need less time than one file on two threads, which wait for each other at each operator. For the same reason
NumPy's products of matrices take one thread each.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from mobilenets_tf.worker import give_memory_back

Item = TypeVar("Item")
Result = TypeVar("Result")
THREADS = 2  # every thread holds a file with its activations, so more would need more memory


def in_order(make: Callable[[], Callable[[Item], Result]], items: Iterable[Item]) -> Iterator[Result]:
    """Yield a function's result of each item, in the order of the items, computed in two threads.

    The items are taken in the calling thread, each when a thread is free: no item waits in memory.

    Args:
        make: called for each thread that gets an item, in the calling thread; returns the function. So each thread has
            its own interpreter, for example. What the function returns must not change when it is called again.

    Raises:
        Of the first item that fails: what the function raises of it, or what ``items`` raises instead of it.
    """
    functions: SimpleQueue[Callable[[Item], Result]] = SimpleQueue()

    def compute(item: Item) -> Result:
        function = functions.get()
        try:
            return function(item)
        finally:
            functions.put(function)

    def submitted(pool: ThreadPoolExecutor) -> Iterator[Future[Result]]:
        try:
            for number, item in enumerate(items):
                if number < THREADS:
                    functions.put(make())
                yield pool.submit(compute, item)
        except Exception as error:  # of an item that cannot be read: after the results of the items before it
            failed: Future[Result] = Future()
            failed.set_exception(error)
            yield failed

    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[Result]] = deque()
        for result in submitted(pool):
            waiting.append(result)
            if len(waiting) == THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    while not functions.empty():  # so that the memory of the functions' interpreters is free
        functions.get()
    give_memory_back()


@functools.cache
def _libraries() -> ThreadpoolController:
    """Find the libraries that compute in threads of their own; that takes milliseconds."""
    return ThreadpoolController()
