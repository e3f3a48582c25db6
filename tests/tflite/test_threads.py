"""Work in two threads: the results and their order are those of one thread."""

import threading
import time

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from mobilenets_tf.tflite.threads import in_order


def test_results_come_in_the_order_of_the_items():
    second_is_done = threading.Event()

    def compute(item):
        if item == 0:
            assert second_is_done.wait(10)  # so the second item ends before the first
        if item == 1:
            second_is_done.set()
        return item * item

    assert list(in_order(lambda: compute, range(20))) == [item * item for item in range(20)]


def test_each_function_computes_one_item_at_a_time():
    made, busy = [], set()

    def make():
        own = len(made)
        made.append(own)

        def compute(item):
            assert own not in busy
            busy.add(own)
            time.sleep(0.0005)  # the other thread computes meanwhile
            busy.remove(own)
            return own

        return compute

    assert set(in_order(make, range(200))) == {0, 1}
    assert made == [0, 1]


@pytest.mark.parametrize(("items", "functions"), [(0, 0), (1, 1), (2, 2), (9, 2)])
def test_a_function_is_made_for_each_thread_that_gets_an_item(items, functions):
    made = []

    def make():
        made.append(None)
        return lambda item: item

    assert list(in_order(make, range(items))) == list(range(items))
    assert len(made) == functions


def test_no_more_items_are_taken_than_are_needed():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(lambda: lambda item: item, items())
    assert next(results) == 0
    results.close()
    assert len(taken) == 2


def test_the_first_item_that_fails_is_the_error():
    def compute(item):
        if item in (5, 6):
            raise ValueError(f"item {item}")
        return item

    results = in_order(lambda: compute, range(10))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="item 5"):
        next(results)


@pytest.mark.parametrize("failing", [(), (3,), (2, 3)])
def test_an_item_that_cannot_be_read_does_not_hide_the_error_of_an_earlier_item(failing):
    def items():
        yield from range(4)
        raise OSError("item 4 cannot be read")

    def compute(item):
        if item in failing:
            time.sleep(0.01)  # the fourth item is read meanwhile
            raise ValueError(f"item {item}")
        return item

    results, kind = in_order(lambda: compute, items()), ValueError if failing else OSError
    assert [next(results) for _ in range(min(failing, default=4))] == list(range(min(failing, default=4)))
    with pytest.raises(kind, match=f"item {min(failing, default=4)}"):
        next(results)


def test_a_function_that_cannot_be_made_does_not_hide_the_error_of_an_earlier_item():
    made = []

    def make():
        made.append(None)
        if len(made) == 2:
            raise MemoryError("no second interpreter")
        return compute

    def compute(item):
        time.sleep(0.01)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        list(in_order(make, range(5)))


def test_products_of_matrices_take_one_thread_each_whatever_was_set():
    # With as many as there are processors, sums come in another order: other bytes on another machine.
    def threads():
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    with threadpool_limits(3, user_api="blas"):
        before = threads()
        assert before and set(before) == {3}
        assert list(in_order(lambda: lambda _: threads(), range(3))) == [[1] * len(before)] * 3
        assert threads() == before
