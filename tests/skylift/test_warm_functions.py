"""Functions whose containers are kept warm."""

from __future__ import annotations

from sdk_gateway import FakeGateway

from skylift import App
from skylift.wire import Define, Submit


def len_of(text: str) -> int:
    return len(text)


def test_what_is_kept_warm_is_known_before_it_is_called(gateway: FakeGateway) -> None:
    app = App("warm")
    app.function(min_containers=2)(len_of)

    with app.run():
        gateway.wait_for(lambda: gateway.sent(Define))
        (define,) = gateway.sent(Define)

    assert ("len_of", 2) == (define.spec.name, define.spec.min_containers)
    assert [] == gateway.sent(Submit)
