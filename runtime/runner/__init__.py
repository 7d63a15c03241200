"""The runner: the program inside a container that runs what users sent.

It is the only code of Skylift that unpickles user data. It runs under the image's own Python (3.10 and
later), so it knows the standard library alone; cloudpickle and IPython are imported when they are needed. It
is started as ``python <this folder>``, speaks the protocol of docs/protocol.md, and is a package without a
fixed name: its imports are relative.

==============  =====================================================================================
``init``        the container's first process: forks the runner, reaps, passes signals and status on
``serve``       puts the parts together; the main loop
``link``        the two sockets: frames, numbers, acknowledgements, letting go and coming back
``stream``      the events of one call on their way out: windows and batches
``pulse``       the thread that looks after a call that takes long
``capture``     ``sys.stdout``, ``sys.stderr``, ``sys.stdin``
``cancel``      ends the call that is named, and no other
``functions``   calls and generators; ``inputs`` maps; ``aio`` the event loop of coroutines
``service``     classes: their hooks, and the instance that calls go to
``pickling``    values to bytes and back, and why not; ``errors`` exceptions to `error` events
``cells``       notebook cells: ``shell`` is their IPython, ``display`` what they show, ``commands`` their
                ``!commands``, ``references`` what stays in the session
``hosted_kernel``  a Jupyter kernel, for as long as it lives
``current``     tells code in this process which call it runs in
==============  =====================================================================================
"""
