"""guardproxy: a connection guard between Django and PostgreSQL. This is the map of the house.

Imports point down only, and rooms of one floor that are folders never import each other
(tests/test_floors.py holds the house to it). From the roof to the ground:

    roof     __main__ cli app   argv and exit codes; composition root: start, reload, drain, stop
             signals            what each does; none kills by accident
             operate top        commands for a guard that runs: show, wait, shutdown, top; calls:
                                over our own wire
    third    net/               sockets and timers; carries out, never chooses
                 streams        Twisted endpoints on the loop's own transports; socketfile: the
                                file of a Unix socket
                 client server  one connection each, on its transport: HOT; caller: what any to
                                PostgreSQL is at first
                 pooler         where they meet: leases, orders, servers lost
                 entrance       the way in: doors, questions of a login, the welcome
                 logins         what logins ask of PostgreSQL, each question once
                 departure      the way out: settle, roll back, reset, give back
                 opening        servers on their way; upstream: how PostgreSQL is dialled
                 looks          what is there now, as views; endings: the last that are no more
                 operations     what operators ask for: pause, kill, close idle and the like
                 reception      who may come to the console; desk: one operator's connection
                 deadlines      many of one kind and one timer; janitor: the sweep
                 faults         what nobody expected: exceptions, servers leased to nobody
                 cancels people tls
                 log            one line an event; logwriter: the thread that writes them
                 coalescing     one reload for many requests
                 service        all of it, from phase to phase; drain: its end; systemd: what that
                                gives us, and hears
             ops/               windows for people; they read views and know nothing of net
                 guard          what a window may see and ask for
                 console        what operators' statements mean; their tables (table): pgbouncer
                                (also counted, averages), causes, watched
                 web            health, metrics and the page (page/) over HTTP; gate: who may;
                                documents: what the page shows; verdict: in a sentence; history:
                                the last hour
                 watcher        looks at PostgreSQL's own view; inquiry: asks for it; activity:
                                whose each connection is, what cap follows, who is to be ended
                 install        the same view for Django's admin, as SQL
    second   session/           sans-I/O: one client's conversation
                 session        chunks in, chunks and commands out: HOT; life: its state and what
                                it counts; account: what it is owed, and a COPY's part in that;
                                states: all there is of that, a table
                                acts: what messages mean; commands: what it wants; waiting:
                                without a server; detours: what its server answers to us
                 roaming        the session that moves between servers; speaking: what its client
                                says: HOT; passthrough: the session that never moves; recount:
                                whose replies are whose behind a COPY that failed
                 belongings     its settings, which follow it, and its pins; parameters: from one
                                session's settings to another's
                 statements     its prepared statements; shared_names: what SQL does with them;
                                prepared: those on a server; columns: what it was told of their
                                types
                 backend        what is known of one server between two sessions
                 suspicion      what a statement's text may do (reading, verbs, tokens);
                                glance: whether it must be read at all: HOT; pins: what it has
                                done, asked of a server
                 login          a client's way in; conversations: what we say to a server ourselves
                 statement      what can be told from a statement's text
                 desk           an operator's conversation; sentences: what is typed; answers:
                                what is shown
             pool/              sans-I/O: pool: servers by population; admission: cap and queue,
                                who is asked to give way; line: of those who wait for the same;
                                orders: what it decides, round by round;
                                pauses: where nobody gets a server; surplus: who goes when the cap
                                falls; door: who may be in at all; addresses: where PostgreSQL
                                is, and where it is tried next
    first    wire/              sans-I/O: frames (HOT), messages, scram
    ground   errors stats       exceptions with SQLSTATE and Reason; counters and histograms
             views              what people may see: frozen
             settings           every setting with its default (watching: the watcher's); kinds:
                                how they are written; config reads them (leaves: one by one,
                                units: durations, yamltext: the file)
             text addresses     bytes of peers as text and back; addresses of peers
             files phases       what a configuration stands on; from start to end
    apart    demo/              drives all this as a user would; knows nothing of the inside

Seven journeys:

    login    net/client -> session/login (steps) -> net/entrance -> net/logins -> a trial at
             PostgreSQL: pool/admission -> net/opening -> session/conversations.log_in
    query    net/client.dataReceived -> Session.client_sent -> net/server's transport, and back by
             net/server.dataReceived -> Session.server_sent; the first one asks pool/admission
    move     net/server -> Pooler.could_give: admission.heir -> Roaming.part -> admission.pass_on
             -> Roaming.lease: session/neutral says what takes away all of the session before, and
             sets this one's, in front. Where the session must be asked:
             admission (Revoke) -> Roaming.revoke: a probe -> RELEASE -> (Grant)
    cancel   session/login (CancelKey) -> net/cancels -> net/upstream.cancel; of who waits for
             a server: Session.cancel, and the ticket is withdrawn
    timeout  net/janitor.sweep -> Session.probe -> net/client.end(IdleSessionTimeout)
    reload   SIGHUP, or files are others -> app.reload -> config.load -> net/service.reload ->
             Pooler.take
    end      SIGTERM -> app -> net/service.terminate -> net/drain -> net/client.end(ShuttingDown)
"""

__version__ = "0.1.0"
