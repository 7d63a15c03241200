async def test_an_end_is_not_acknowledged_before_it_is_in_the_log(plane: Plane) -> None:
    host, _, call_id = await running(plane)
    frame = host.emit(call_id, end="done")
    host.say(frame)
    assert [] == host.all(Persisted)
    await plane.settle()
    host.say(frame)
    assert [True, True] == [message.end for message in host.all(Persisted)]
