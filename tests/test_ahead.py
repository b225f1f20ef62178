import threading
from itertools import count

import pytest

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


def test_an_error_comes_where_its_result_would_have_come() -> None:
    results = map_ahead(lambda i: 6 // i, [2, 1, 0, 3], ahead=3)
    assert [next(results), next(results)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hfseg")]
