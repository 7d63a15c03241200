-- A database as version 1 of the schema made it.
CREATE TABLE calls (
    call_id TEXT NOT NULL,
    user TEXT NOT NULL,
    client_id TEXT NOT NULL,
    function_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    app TEXT NOT NULL,
    function TEXT NOT NULL,
    session TEXT NOT NULL,
    notebook TEXT NOT NULL,
    cell TEXT NOT NULL,
    summary TEXT NOT NULL,
    error TEXT NOT NULL,
    queued FLOAT NOT NULL,
    started FLOAT NOT NULL,
    first_output FLOAT NOT NULL,
    ended FLOAT NOT NULL,
    container_id TEXT NOT NULL,
    host_id TEXT NOT NULL,
    gpu TEXT NOT NULL,
    price FLOAT NOT NULL,
    cost FLOAT NOT NULL,
    peak_memory INTEGER NOT NULL,
    durable BOOLEAN NOT NULL,
    detached BOOLEAN NOT NULL,
    inputs INTEGER NOT NULL,
    inputs_total INTEGER NOT NULL,
    inputs_done INTEGER NOT NULL,
    events INTEGER NOT NULL,
    output_bytes INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    window INTEGER NOT NULL,
    args BLOB,
    args_blob TEXT NOT NULL,
    args_size INTEGER NOT NULL,
    PRIMARY KEY (call_id)
);
CREATE INDEX calls_ended ON calls (ended);
CREATE INDEX calls_user_call ON calls (user, call_id);
CREATE TABLE containers (
    container_id TEXT NOT NULL,
    host_id TEXT NOT NULL,
    pool_id TEXT NOT NULL,
    user TEXT NOT NULL,
    state TEXT NOT NULL,
    app TEXT NOT NULL,
    function TEXT NOT NULL,
    session TEXT NOT NULL,
    notebook TEXT NOT NULL,
    gpu TEXT NOT NULL,
    simulated BOOLEAN NOT NULL,
    path TEXT NOT NULL,
    path_seconds FLOAT NOT NULL,
    path_reason TEXT NOT NULL,
    started FLOAT NOT NULL,
    ready FLOAT NOT NULL,
    ended FLOAT NOT NULL,
    exit_reason TEXT NOT NULL,
    reason TEXT NOT NULL,
    calls INTEGER NOT NULL,
    price FLOAT NOT NULL,
    cost FLOAT NOT NULL,
    accrued FLOAT NOT NULL,
    PRIMARY KEY (container_id)
);
CREATE INDEX containers_user_started ON containers (user, started);
CREATE TABLE functions (
    function_id TEXT NOT NULL,
    user TEXT NOT NULL,
    spec BLOB NOT NULL,
    code BLOB NOT NULL,
    code_blob TEXT NOT NULL,
    created FLOAT NOT NULL,
    PRIMARY KEY (function_id)
);
CREATE TABLE hosts (
    host_id TEXT NOT NULL,
    facts BLOB NOT NULL,
    seen FLOAT NOT NULL,
    PRIMARY KEY (host_id)
);
CREATE TABLE meta (
    "key" TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY ("key")
);
CREATE TABLE nested_calls (
    call_id TEXT NOT NULL,
    parent TEXT NOT NULL,
    PRIMARY KEY (call_id)
);
CREATE INDEX nested_calls_parent ON nested_calls (parent);
CREATE TABLE output (
    call_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    count INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    body BLOB NOT NULL,
    done BLOB NOT NULL,
    PRIMARY KEY (call_id, seq)
);
CREATE TABLE sessions (
    session_id TEXT NOT NULL,
    user TEXT NOT NULL,
    name TEXT NOT NULL,
    notebook TEXT NOT NULL,
    last_used FLOAT NOT NULL,
    PRIMARY KEY (session_id)
);
CREATE TABLE spend (
    day TEXT NOT NULL,
    user TEXT NOT NULL,
    notebook TEXT NOT NULL,
    function TEXT NOT NULL,
    gpu TEXT NOT NULL,
    seconds FLOAT NOT NULL,
    cost FLOAT NOT NULL,
    idle_seconds FLOAT NOT NULL,
    idle_cost FLOAT NOT NULL,
    calls INTEGER NOT NULL,
    PRIMARY KEY (day, user, notebook, function, gpu)
);
CREATE TABLE tokens (
    hash TEXT NOT NULL,
    user TEXT NOT NULL,
    label TEXT NOT NULL,
    created FLOAT NOT NULL,
    PRIMARY KEY (hash)
);
INSERT INTO meta VALUES ('schema', '1');
INSERT INTO sessions VALUES ('se-00000001', 'local', 'train', 'nb.ipynb', 1760000000.0);
