"""The server that notebooks, the sidebar and hosts talk to; the one place where the parts are put together.

==================  ===============================================================================
`gateway`           database, store, control plane, engine and servers, started and stopped in order
`home`              the files by which one gateway owns a machine's folder and is found there
`server`            the routes and the HTTP server
`handler`, `auth`   what holds for every route: token, origin, size of the body, errors as JSON
`client_upgrade`,   the WebSocket of a notebook: its handshake, and the connection afterwards
`client_socket`
`host_socket`       the Unix socket that hosts dial
`outbox`            many small frames, one system call
`rest`, `blobs`     what the sidebar lists; large arguments and results
==================  ===============================================================================
"""
