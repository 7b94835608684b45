"""Rows of the roam scenario stay, whoever cannot be measured; hand-overs are counted rightly."""

import os
import socket
import threading
from dataclasses import replace
from pathlib import Path

from benchmarks.load import READY
from benchmarks.postgres import Postgres
from benchmarks.rivals import GUARDPROXY_TRANSACTION, PGBOUNCER_TRANSACTION, Rival, Target
from benchmarks.scenarios import roam
from benchmarks.scenarios.query import Cost
from benchmarks.stage import Plan, Stage

HERE = Path(__file__).parent
OLD = replace(
    PGBOUNCER_TRANSACTION, missing=lambda: None, cannot=lambda: {"prepared": "needs 1.21"}
)
COST = Cost(20.0, 15.0, 1000.0, 50.0, 99.0)


def stage(ours: Rival) -> Stage:
    return Stage(Postgres(HERE, 1, 1, "", HERE), Plan(), HERE, ours, lambda text: None)


def test_a_rival_without_prepared_statements_is_named_beside_what_we_took() -> None:
    bars = {"cpu": {OLD.name: roam.BAR_CPU}}
    figures = roam.figures_of(
        stage(GUARDPROXY_TRANSACTION), "prepared", {"ours": [COST]}, [OLD], bars, "prepared"
    )
    assert [figure.missing for figure in figures] == ["needs 1.21"] * 4
    assert [figure.ours for figure in figures] == [(20.0,), (50.0,), (99.0,), (1000.0,)]
    assert figures[0].bar is roam.BAR_CPU


def test_who_is_measured_and_cannot_stays_in_the_table_too() -> None:
    assert roam.pgbenched(stage(OLD), "prepared", [], "prepared", 8) == {}
    (figure,) = roam.figures_of(stage(OLD), "prepared", {}, [OLD], {}, "prepared")
    assert figure.missing == "needs 1.21"


def test_clients_ask_in_turn_and_each_answer_is_one_hand_over() -> None:
    ends = [socket.socketpair() for _ in range(3)]
    asked: list[int] = []

    def answer() -> None:
        for number, (_, server) in enumerate(ends):
            asked.append(number)
            server.recv(100)
            server.sendall(READY + b"I")

    thread = threading.Thread(target=answer)
    thread.start()
    target = Target("", "", 0, os.getpid())
    done = roam.handed_over(target, [client for client, _ in ends], 0)
    thread.join()
    assert asked == [0, 1, 2]
    assert 0 < done.p50 <= done.p99
    assert done.cpu > 0
    for client, server in ends:
        client.close()
        server.close()
