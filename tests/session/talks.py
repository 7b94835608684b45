"""What clients and servers say to each other, and how it is accounted for."""

CONVERSATIONS = {
    "simple": """
        C> Query "SELECT 1"
        == active, owed Q
        S> RowDescription x + DataRow 1 + CommandComplete "SELECT 1" + ReadyForQuery I
        == idle, owed""",
    "transaction": """
        C> Query BEGIN
        S> CommandComplete BEGIN + ReadyForQuery T
        == idle in transaction, owed
        C> Query "SELECT nonsense"
        == active, owed Q
        S> ErrorResponse ERROR 42703 "no column" + ReadyForQuery E
        == idle in transaction (aborted), owed
        C> Query ROLLBACK
        S> CommandComplete ROLLBACK + ReadyForQuery I
        == idle""",
    "extended": """
        C> Parse "" "SELECT $1" + Bind "" "" + Describe P + Execute "" + Sync
        == active, owed S
        S> ParseComplete + BindComplete + RowDescription x + DataRow 1
        S> CommandComplete "SELECT 1"
        == active, owed S
        S> ReadyForQuery I
        == idle, owed""",
    "extended, Sync apart": """
        C> Parse "" "SELECT 1"
        == active, owed
        C> Bind "" "" + Execute ""
        C> Sync
        == active, owed S
        S> ParseComplete + BindComplete + CommandComplete "SELECT 1" + ReadyForQuery I
        == idle""",
    "Flush": """
        C> Parse "" "SELECT 1" + Describe S + Flush
        S> ParseComplete + RowDescription x
        == active, owed
        C> Bind "" "" + Execute "" + Sync
        S> BindComplete + CommandComplete "SELECT 1" + ReadyForQuery I
        == idle""",
    "FunctionCall": """
        C> FunctionCall 952
        == active, owed F
        S> FunctionCallResponse 7 + ReadyForQuery T
        == idle in transaction, owed""",
    "pipeline": """
        C> Parse "" "SELECT 1" + Bind "" "" + Execute "" + Sync
        C> Parse "" "SELECT 2" + Bind "" "" + Execute "" + Sync + Query "SELECT 3"
        == active, owed SSQ
        S> ParseComplete + BindComplete + CommandComplete "SELECT 1" + ReadyForQuery I
        == active, owed SQ
        S> ParseComplete + BindComplete + CommandComplete "SELECT 1" + ReadyForQuery I
        == active, owed Q
        S> CommandComplete "SELECT 1" + ReadyForQuery I
        == idle, owed""",
    "pipeline with an error": """
        C> Parse "" "SELECT nonsense" + Bind "" "" + Execute "" + Bind "" "" + Execute "" + Sync
        C> Parse "" "SELECT 2" + Sync
        S> ErrorResponse ERROR 42703 "no column" + ReadyForQuery I
        == active, owed S
        S> ParseComplete + ReadyForQuery I
        == idle, owed""",
    "ready, but more is on its way": """
        C> Query "SELECT 1"
        C> Parse "" "SELECT 2"
        S> CommandComplete "SELECT 1" + ReadyForQuery I
        == active, owed
        C> Sync
        S> ParseComplete + ReadyForQuery I
        == idle""",
    "COPY in": """
        C> Query "COPY t FROM STDIN"
        S> CopyInResponse 0
        C> CopyData 1 + CopyData 2
        C> CopyDone
        == active, owed Q
        S> CommandComplete "COPY 2" + ReadyForQuery I
        == idle, owed""",
    "COPY in that fails": """
        C> Query "COPY t FROM STDIN"
        S> CopyInResponse 0
        C> CopyData nonsense
        S> ErrorResponse ERROR 22P02 "not a number" + ReadyForQuery I
        == idle, owed
        # what was on its way is ignored by the server
        C> CopyData 2
        C> CopyDone
        == idle, owed""",
    "COPY in that fails before it meets a Sync": """
        C> Query "COPY t FROM STDIN"
        S> CopyInResponse 0
        C> CopyData nonsense + Sync
        == active, owed Q
        S> ErrorResponse ERROR 22P02 "not a number" + ReadyForQuery I
        == idle, owed
        # which is not ignored then
        S> ReadyForQuery I
        == idle, owed""",
    "COPY in, extended: the Sync before it is ignored": """
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + Sync
        == active, owed S
        S> ParseComplete + BindComplete + CopyInResponse 0
        == active, owed
        C> CopyData 1 + CopyDone
        == active, owed
        S> CommandComplete "COPY 1"
        C> Sync
        == active, owed S
        S> ReadyForQuery I
        == idle, owed""",
    "COPY in, extended: the Sync comes late and is ignored all the same": """
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute ""
        S> ParseComplete + BindComplete + CopyInResponse 0
        C> Sync
        == active, owed
        C> CopyData 1 + CopyDone + Sync
        == active, owed S
        S> CommandComplete "COPY 1" + ReadyForQuery I
        == idle, owed""",
    "COPY in, extended, that fails": """
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + Sync
        S> ParseComplete + BindComplete + CopyInResponse 0
        C> CopyData nonsense
        S> ErrorResponse ERROR 22P02 "not a number"
        # from here on nothing is counted: the first Sync may be answered, or was ignored
        == active, owed
        C> Sync
        == active, owed
        S> ReadyForQuery I
        == idle, owed""",
    "COPY in, extended, in a pipeline": """
        C> Parse "" "SELECT 1" + Sync
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + Sync
        S> ParseComplete + ReadyForQuery I
        == active, owed S
        S> ParseComplete + BindComplete + CopyInResponse 0
        C> CopyFail "changed my mind" + Sync
        S> ErrorResponse ERROR 57014 "COPY from stdin failed" + ReadyForQuery I
        == idle, owed""",
    "COPY in, extended, all sent ahead": """
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + CopyData 1 + CopyDone + Sync
        S> ParseComplete + BindComplete + CopyInResponse 0 + CommandComplete "COPY 1"
        S> ReadyForQuery I
        == idle, owed""",
    "COPY in, extended, all sent ahead with a Sync before the data": """
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + Sync
        C> CopyData 1 + CopyDone + Sync + Query "SELECT 1"
        == active, owed SSQ
        S> ParseComplete + BindComplete + CopyInResponse 0
        == active, owed SQ
        S> CommandComplete "COPY 1" + ReadyForQuery I
        == active, owed Q
        S> CommandComplete "SELECT 1" + ReadyForQuery I
        == idle, owed""",
    "COPY in, extended, sent ahead but for its Sync": """
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + CopyData 1 + CopyDone
        S> ParseComplete + BindComplete + CopyInResponse 0
        C> Sync + Query "SELECT 1"
        == active, owed SQ
        S> CommandComplete "COPY 1" + ReadyForQuery I
        S> CommandComplete "SELECT 1" + ReadyForQuery I
        == idle, owed""",
    "COPY in, extended, sent ahead and its Sync forgotten": """
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + Sync + CopyData 1 + CopyDone
        S> ParseComplete + BindComplete + CopyInResponse 0 + CommandComplete "COPY 1"
        == active, owed
        C> Sync
        S> ReadyForQuery I
        == idle, owed""",
    "COPY in, extended, sent ahead, that never starts": """
        C> Parse "" "COPY x FROM STDIN" + Bind "" "" + Execute "" + Sync
        C> CopyData 1 + CopyDone + Sync + Query "COPY t FROM STDIN" + CopyData 2 + CopyDone + Sync
        S> ErrorResponse ERROR 42P01 "no such table" + ReadyForQuery I
        == active, owed SQS
        S> ReadyForQuery I
        S> CopyInResponse 0 + CommandComplete "COPY 1" + ReadyForQuery I
        == active, owed S
        S> ReadyForQuery I
        == idle, owed""",
    "COPY in, sent ahead, then a Sync": """
        C> Query "COPY t FROM STDIN" + CopyData 1 + CopyDone
        S> CopyInResponse 0
        C> Sync
        == active, owed QS
        S> CommandComplete "COPY 1" + ReadyForQuery I
        S> ReadyForQuery I
        == idle, owed""",
    "COPY in, and a Sync before its data": """
        C> Query "COPY t FROM STDIN" + Sync
        S> CopyInResponse 0
        == active, owed Q
        C> CopyData 1 + CopyDone
        S> CommandComplete "COPY 1" + ReadyForQuery I
        == idle, owed""",
    "COPY in, sent ahead with a Sync before its data": """
        C> Query "COPY t FROM STDIN" + Sync + CopyData 1 + CopyDone
        S> CopyInResponse 0 + CommandComplete "COPY 1" + ReadyForQuery I
        == idle, owed""",
    "COPY in twice in one Query, sent ahead": """
        C> Query "COPY t FROM STDIN; COPY t FROM STDIN" + Sync + CopyData 1 + CopyDone
        C> Sync + CopyData 2 + CopyFail no + Sync
        S> CopyInResponse 0 + CommandComplete "COPY 1"
        == active, owed QSS
        # nor here: the Sync between the two may have been answered
        S> CopyInResponse 0 + ErrorResponse ERROR 57014 no + ReadyForQuery I
        == idle, owed
        S> ReadyForQuery I
        == idle, owed""",
    "COPY in, sent ahead twice, of which the first fails": """
        C> Query "COPY x FROM STDIN" + CopyData 1 + CopyDone
        C> Query "COPY t FROM STDIN" + Sync + CopyData 1 + CopyDone
        S> ErrorResponse ERROR 42P01 "no such table" + ReadyForQuery I
        S> CopyInResponse 0 + CommandComplete "COPY 1" + ReadyForQuery I
        == idle, owed""",
    "COPY in, extended, after one sent ahead that fails": """
        C> Query "COPY x FROM STDIN" + CopyData 1 + CopyDone
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + Sync
        C> CopyData 1 + CopyDone + Sync
        S> ErrorResponse ERROR 42P01 "no such table" + ReadyForQuery I
        S> ParseComplete + BindComplete + CopyInResponse 0 + CommandComplete "COPY 1"
        S> ReadyForQuery I
        == idle, owed""",
    "COPY in, extended, sent ahead, then a Query in place of its Sync": """
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + CopyData 1 + CopyDone
        C> Query "SELECT 1" + Sync
        S> ParseComplete + BindComplete + CopyInResponse 0 + CommandComplete "COPY 1"
        == active, owed QS
        S> CommandComplete "SELECT 1" + ReadyForQuery I
        S> ReadyForQuery I
        == idle, owed""",
    "COPY in, extended, sent ahead, that fails midway": """
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + CopyData nonsense + CopyDone
        C> Sync + Query "SELECT 1"
        S> ParseComplete + BindComplete + CopyInResponse 0 + ErrorResponse ERROR 22P02 "no number"
        S> ReadyForQuery I
        == active, owed Q
        S> CommandComplete "SELECT 1" + ReadyForQuery I
        == idle, owed""",
    "COPY in, extended, that fails before it reads": """
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + Sync
        S> ParseComplete + BindComplete + CopyInResponse 0
        S> ErrorResponse ERROR P0001 "a trigger says no" + ReadyForQuery I
        == idle, owed
        C> CopyData 1 + CopyDone + Sync
        == active, owed
        S> ReadyForQuery I
        == idle, owed""",
    "two failing COPYs in a row, each with its Syncs": """
        C> Parse "" "COPY t FROM STDIN" + Bind "" "" + Execute "" + Sync
        C> Bind "" "" + Execute "" + Sync
        S> ParseComplete + BindComplete + CopyInResponse 0 + ErrorResponse ERROR P0001 no
        S> ReadyForQuery I
        == idle, owed
        S> BindComplete + CopyInResponse 0 + ErrorResponse ERROR P0001 no + ReadyForQuery I
        == idle, owed""",
    "a Query that may be skipped behind an error": """
        C> Parse "" wrong + Query "SELECT 1" + Sync
        S> ErrorResponse ERROR 42601 "syntax error" + ReadyForQuery I
        == idle, owed
        C> Query "SELECT 1"
        == active, owed
        S> CommandComplete "SELECT 1" + ReadyForQuery I
        == idle, owed""",
    "the end of a COPY, and none there": """
        C> Query "SELECT 1" + CopyData 1 + CopyDone
        S> CommandComplete "SELECT 1" + ReadyForQuery I
        == idle, owed
        C> CopyDone
        == idle, owed
        C> Query "COPY t FROM STDIN"
        S> CopyInResponse 0
        C> CopyData 1 + CopyDone
        S> CommandComplete "COPY 1" + ReadyForQuery I
        == idle, owed""",
    "COPY out": """
        C> Query "COPY t TO STDOUT"
        S> CopyOutResponse 0 + CopyData 1 + CopyData 2 + CopyDone
        == active, owed Q
        S> CommandComplete "COPY 2" + ReadyForQuery I
        == idle, owed""",
    "COPY both": """
        C> Query "START_REPLICATION 0/0"
        S> CopyBothResponse 0
        C> CopyData status
        S> CopyData wal
        C> CopyDone
        S> CopyDone + CommandComplete COPY + ReadyForQuery I
        == idle, owed""",
    "what a server says unasked": """
        S> NoticeResponse WARNING 01000 careful
        S> NotificationResponse channel payload
        S> ParameterStatus TimeZone UTC
        == idle, owed""",
    "empty query": """
        C> Query ""
        S> EmptyQueryResponse + ReadyForQuery I
        == idle, owed""",
}
