"""Functions that call functions, in containers."""

from __future__ import annotations

from running_gateway import RunningGateway

from skylift import App


def test_a_function_calls_another(gateway: RunningGateway) -> None:
    app = App("nested")

    @app.function()
    def inner(number: int) -> int:
        return number * number

    @app.function()
    def outer(number: int) -> int:
        return inner.remote(number) + 1

    with app.run():
        assert 10 == outer.remote(3)


def test_nested_maps(gateway: RunningGateway) -> None:
    app = App("maps")

    @app.function()
    def inner(number: int) -> int:
        return number * number

    @app.function()
    def outer(number: int) -> int:
        return sum(inner.map(range(number)))

    with app.run():
        assert [sum(n * n for n in range(number)) for number in range(8)] == list(outer.map(range(8)))


def test_recursion(gateway: RunningGateway) -> None:
    app = App("recursion")

    @app.function()
    def fib(number: int) -> int:
        if number < 2:
            return number
        return fib.remote(number - 1) + fib.remote(number - 2)

    with app.run():
        assert 8 == fib.remote(6)
