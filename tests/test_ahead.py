import threading
from itertools import count

import pytest
import torch

from hfseg.ahead import map_ahead


def test_results_come_in_order_and_few_items_are_taken_ahead() -> None:
    taken = []

    def items():  # type: ignore[no-untyped-def]
        for i in count():
            taken.append(i)
            yield i

    results = map_ahead(lambda i: i * i, items(), ahead=3)
    for i in range(10):
        assert next(results) == i * i
        assert len(taken) == i + 4
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hfseg")]
    assert list(map_ahead(str, range(2), ahead=5)) == ["0", "1"] and list(map_ahead(str, [], ahead=1)) == []


def test_beside_a_model_on_the_cpu_one_thread_works_and_no_other_is_told_so() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        inside = map_ahead(
            lambda _: (threading.get_ident(), torch.get_num_threads()), range(8), 3, beside_cpu_model=True
        )
        idents, numbers = zip(*inside)
        assert len(set(idents)) == 1 and set(numbers) == {1}
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_error_comes_where_its_result_would_have_come() -> None:
    results = map_ahead(lambda i: 6 // i, [2, 1, 0, 3], ahead=3)
    assert [next(results), next(results)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hfseg")]
