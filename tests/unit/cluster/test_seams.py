"""What cluster/seams.py takes for granted about PySyncObj, one test each: a release that moves a name or changes a
behaviour fails here, by name, before it fails anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from random import Random

import pysyncobj.syncobj as engine_module
import pytest
from pysyncobj.node import Node

from cluster.entries import NO_OP, pack
from cluster.journal import META
from cluster.limits import APPEND_BYTES
from cluster.seams import LEADER, NOBODY, Engine, Peer
from tests.unit.cluster.engine_bench import TIMING, EngineBench, Message


@pytest.fixture
def bench() -> EngineBench:
    return EngineBench()


def test_the_release_is_the_one_that_was_read() -> None:
    assert version("pysyncobj") == "0.3.17"


# ---- names of its module that are replaced
def test_monotonic_time_is_its_only_clock(bench: EngineBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: pytest.fail("the engine has another clock"))
    assert bench.tick(0.3) == []
    assert bench.tick(0.6)[0][1]["type"] == "request_vote"


def test_create_poller_gives_what_a_tick_polls(bench: EngineBench, monkeypatch: pytest.MonkeyPatch) -> None:
    polled: list[float] = []

    class Poller:
        def poll(self, timeout: float) -> None:
            polled.append(timeout)

    monkeypatch.setattr(engine_module, "createPoller", lambda kind: Poller())
    EngineBench().tick()
    assert polled == [0.0]


def test_create_journal_gives_what_it_logs_into(bench: EngineBench) -> None:
    assert (bench.journal.first, bench.journal.last, bench.journal.at(1)) == (1, 1, (NO_OP, 1, 0))


def test_pipe_notifier_enabled_off_means_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe(poller: object) -> None:
        raise OSError("a pipe")

    monkeypatch.setattr(engine_module, "PipeNotifier", pipe)
    EngineBench()
    monkeypatch.setattr(engine_module, "PIPE_NOTIFIER_ENABLED", True)
    with pytest.raises(OSError, match="a pipe"):
        EngineBench()


# ---- methods that are overridden
def test_generate_raft_timeout_sets_the_election_deadline(bench: EngineBench) -> None:
    # The first is drawn while it is being built.
    assert bench.engine.next_timer() == 1000.0 + 0.4 + 0.4 * Random(1).random()


def test_connected_to_anyone_is_asked_after_the_deadline_and_gates_the_campaign(bench: EngineBench) -> None:
    bench.may_elect = False
    bench.tick()
    assert bench.told == []
    deadline_s = bench.engine.next_timer()
    assert bench.tick(1.0) == []
    assert bench.told == ["may elect?"]
    assert (bench.engine.term(), bench.engine.next_timer()) == (0, deadline_s)
    bench.may_elect = True
    assert [message["type"] for _, message in bench.tick()] == ["request_vote"] * 2
    assert bench.engine.term() == 1


def test_get_entries_bounds_an_append(bench: EngineBench) -> None:
    bench.lead()
    bench.acknowledge("b", 2)
    half = pack([b"x" * (APPEND_BYTES // 2)])
    for index in (3, 4, 5):
        bench.journal.add(half, index, 1)
    bench.wire.sent.clear()
    bench.engine._private("sendAppendEntries")()
    batches = [[index for _, index, _ in message["entries"]] for peer, message in bench.wire.sent if peer == "b"]
    assert batches == [[3, 4], [5]]


def test_get_entries_gives_the_whole_tail_at_a_slice(bench: EngineBench) -> None:
    get_entries = bench.engine._private("getEntries")
    bench.follow(NO_OP, NO_OP, NO_OP)
    assert [entry[1] for entry in get_entries(2)] == [2, 3, 4]
    assert [entry[1] for entry in get_entries(2, 1)] == [2]
    assert list(get_entries(5)) == []
    assert list(get_entries(None)) == list(get_entries(0)) == []


def test_parse_change_cluster_request_keeps_pickle_out(bench: EngineBench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hasattr(engine_module.SyncObj, "_SyncObj__parseChangeClusterRequest")
    monkeypatch.setattr("pickle.loads", lambda data: pytest.fail("unpickled"))
    kinds = [bytes([kind]) + b"\x80\x04." for kind in range(5)]  # REGULAR, NO_OP, MEMBERSHIP, VERSION, unknown
    bench.follow(*kinds, commit_index=6)
    bench.tick()
    assert bench.applied == [(2 + kind, entry, 1) for kind, entry in enumerate(kinds)]


def test_do_apply_command_is_called_once_an_entry_in_order(bench: EngineBench) -> None:
    bench.follow(b"\x10x", b"\x10y", commit_index=3)
    assert bench.applied == []
    bench.tick()
    bench.tick()
    assert bench.applied == [(2, b"\x10x", 1), (3, b"\x10y", 1)]
    assert bench.engine.raftLastApplied == 3


def test_do_apply_command_raising_leaves_the_tick_and_the_applied_index(bench: EngineBench) -> None:
    def fail(index: int, entry: bytes, term: int) -> None:
        raise ZeroDivisionError

    bench.engine._apply = fail
    bench.follow(b"\x10x", commit_index=2)
    with pytest.raises(ZeroDivisionError):
        bench.tick()
    assert bench.engine.raftLastApplied == 1


def test_raft_last_applied_and_commit_index_start_from_the_journal() -> None:
    first = EngineBench()
    first.follow(b"\x10x", b"\x10y", commit_index=3)
    first.tick()
    first.journal.set_applied(3, b"digest")
    first.environment.commit()
    again = EngineBench(environment=first.environment)
    again.tick()
    assert (again.engine.raftLastApplied, again.engine.commit_index(), again.applied) == (3, 3, [])


def test_term_and_vote_start_from_the_journal() -> None:
    first = EngineBench()
    first.wire.deliver("b", type="request_vote", term=5, last_log_term=9, last_log_index=9)
    first.environment.commit()
    with first.environment.snapshot() as snapshot:
        assert (snapshot.get(META, b"term"), snapshot.get(META, b"vote")) == ((5).to_bytes(8, "big"), b"b")
    again = EngineBench(environment=first.environment)
    assert again.engine.term() == 5
    assert again.wire.deliver("c", type="request_vote", term=5, last_log_term=9, last_log_index=9) == []


def test_every_attribute_is_read_while_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why Engine has methods where properties would be natural."""
    seen: list[bool] = []
    monkeypatch.setattr(Engine, "early", property(lambda self: seen.append(True)), raising=False)
    EngineBench()
    assert seen


# ---- fields that are read
def test_raft_match_index_and_raft_next_index_are_kept_by_peer(bench: EngineBench) -> None:
    assert bench.engine.match_index("b") == 0
    bench.lead()
    assert (bench.engine.match_index("b"), bench.engine.next_index("b")) == (0, 3)
    bench.acknowledge("b", 2)
    assert (bench.engine.match_index("b"), bench.engine.match_index("c")) == (2, 0)


def test_raft_next_index_decides_what_is_sent_next(bench: EngineBench) -> None:
    bench.lead()
    bench.engine.set_next_index("b", 2)
    sent = dict(bench.tick(0.2))
    assert (sent["b"]["prevLogIdx"], [entry[1] for entry in sent["b"]["entries"]]) == (1, [2])
    assert (sent["c"]["prevLogIdx"], list(sent["c"]["entries"])) == (2, [])


def test_raft_next_index_is_read_again_after_each_send(bench: EngineBench) -> None:
    """Progress moves it inside `send`; the engine's loop goes on from there."""
    bench.lead()
    for index in (3, 4):
        bench.journal.add(NO_OP, index, 1)
    bench.engine.set_next_index("b", 3)
    send, moved = bench.wire.send, list[int]()

    def move(node: Node, message: Message) -> bool:
        if node.id == "b" and not moved:
            moved.append(1)
            bench.engine.set_next_index("b", 5)
        return send(node, message)

    bench.wire.send = move  # type: ignore[method-assign]
    bench.tick(0.2)
    assert [peer for peer, _ in bench.wire.sent].count("b") == 1


def test_new_append_entries_time_is_the_next_heartbeat(bench: EngineBench) -> None:
    bench.lead()
    assert bench.engine.next_timer() == bench.clock.now_s + TIMING.heartbeat_s
    assert bench.tick(0.05) == []
    assert [message["type"] for _, message in bench.tick(0.06)] == ["append_entries"] * 2
    assert bench.engine.next_timer() == bench.clock.now_s + TIMING.heartbeat_s


def test_raft_election_deadline_moves_with_every_append(bench: EngineBench) -> None:
    bench.clock.now_s += 0.3
    bench.follow()
    assert bench.clock.now_s + 0.4 <= bench.engine.next_timer() <= bench.clock.now_s + 0.8


def test_is_leader_get_leader_and_the_current_term(bench: EngineBench) -> None:
    assert (bench.engine.leads(), bench.engine.leader(), bench.engine.term()) == (False, None, 0)
    bench.follow(term=7)
    assert (bench.engine.leads(), bench.engine.leader(), bench.engine.term()) == (False, "b", 7)
    bench.lead()
    assert (bench.engine.leads(), bench.engine.leader(), bench.engine.term()) == (True, "a", 8)


# ---- what is called
def test_send_append_entries_reaches_connected_peers_at_once(bench: EngineBench) -> None:
    bench.lead()
    bench.wire._onNodeDisconnected(Peer("c"))
    bench.wire.sent.clear()
    assert bench.engine.append(b"\x10x") == 3
    bench.engine.send_appends()
    ((peer, message),) = bench.wire.sent
    assert (peer, list(message["entries"]), message["prevLogIdx"]) == ("b", [(b"\x10x", 3, 1)], 2)
    assert {"term", "commit_index", "prevLogTerm"} <= message.keys()


def test_transfer_leadership_asks_only_a_peer_that_has_the_whole_log(bench: EngineBench) -> None:
    bench.lead()
    bench.wire.sent.clear()
    bench.engine.hand_over("b")
    assert bench.wire.sent == []
    bench.acknowledge("b", 2)
    bench.engine.hand_over("b")
    assert bench.wire.sent == [("b", {"type": "timeout_now", "term": 1})]


def test_timeout_now_is_heard_from_the_leader_only(bench: EngineBench) -> None:
    bench.follow(term=3)
    bench.wire.deliver("c", type="timeout_now", term=3)
    assert bench.tick() == []
    bench.wire.deliver("b", type="timeout_now", term=3)
    bench.follow(term=3)  # does not put the election off
    assert [message["type"] for _, message in bench.tick()] == ["request_vote"] * 2


# ---- behaviours relied on
def test_on_state_changed_tells_before_the_first_append_of_a_term(bench: EngineBench) -> None:
    assert vars(engine_module)["_RAFT_STATE"].LEADER == LEADER
    bench.tick(1.0)
    bench.told.clear()
    answers = bench.wire.deliver("b", type="response_vote", term=1)
    assert bench.told == [("leader", 0)]
    assert answers[0][1]["type"] == "append_entries"


def test_adopting_a_term_steps_down_and_grants_nothing(bench: EngineBench) -> None:
    bench.lead()
    bench.wire.sent.clear()
    bench.engine.adopt(9, bench.wire._onMessageReceived)
    assert (bench.engine.leads(), bench.engine.leader(), bench.engine.term()) == (False, None, 9)
    assert bench.wire.sent == []
    assert bench.journal.getVotedForNodeId() is None
    (answer,) = bench.wire.deliver("c", type="request_vote", term=9, last_log_term=9, last_log_index=9)
    assert answer == ("c", {"type": "response_vote", "term": 9})  # the vote of that term is still free


def test_nobody_is_no_member() -> None:
    assert NOBODY not in {Peer("a"), Peer("b")}


def test_a_refused_vote_gets_no_answer(bench: EngineBench) -> None:
    bench.follow(NO_OP, term=4)
    for term, last_term, last_index in ((3, 9, 9), (5, 3, 9), (5, 4, 1)):
        request = {"term": term, "last_log_term": last_term, "last_log_index": last_index}
        assert bench.wire.deliver("c", type="request_vote", **request) == []
    assert bench.wire.deliver("c", type="request_vote", term=5, last_log_term=4, last_log_index=2) != []


def test_a_vote_is_given_once_a_term(bench: EngineBench) -> None:
    request = {"term": 2, "last_log_term": 9, "last_log_index": 9}
    assert bench.wire.deliver("b", type="request_vote", **request) == [("b", {"type": "response_vote", "term": 2})]
    assert bench.wire.deliver("c", type="request_vote", **request) == []


def test_votes_are_counted_and_not_voters() -> None:
    """Hole 9: why the guard counts each voter once."""
    bench = EngineBench("bcde")
    bench.tick(1.0)
    bench.wire.deliver("b", type="response_vote", term=1)
    assert not bench.engine.leads()
    bench.wire.deliver("b", type="response_vote", term=1)
    assert bench.engine.leads()


def test_a_heartbeat_without_a_previous_index_leaves_the_log_alone_and_moves_the_commit_index(
    bench: EngineBench,
) -> None:
    bench.follow(NO_OP, NO_OP)
    assert bench.wire.deliver("b", type="append_entries", term=1, commit_index=2) == []
    assert (bench.journal.last, bench.engine.commit_index()) == (3, 2)
    bench.wire.deliver("b", type="append_entries", term=1, commit_index=99)
    assert bench.engine.commit_index() == 3  # hole 7: unverified entries are taken for committed


def test_an_append_is_answered_with_the_next_index(bench: EngineBench) -> None:
    reply = {"type": "next_node_idx", "reset": False, "success": True}
    assert bench.follow(NO_OP, NO_OP) == [("b", reply | {"next_node_idx": 4})]
    assert bench.follow() == [("b", reply | {"next_node_idx": 4})]


def test_an_append_that_does_not_fit_is_answered_with_a_reset(bench: EngineBench) -> None:
    bench.follow(NO_OP, NO_OP)
    append = {"type": "append_entries", "term": 1, "commit_index": 3, "entries": []}
    reply = {"type": "next_node_idx", "reset": True, "success": False}
    assert bench.wire.deliver("b", prevLogIdx=9, prevLogTerm=1, **append) == [("b", reply | {"next_node_idx": 4})]
    assert bench.wire.deliver("b", prevLogIdx=3, prevLogTerm=2, **append) == [("b", reply | {"next_node_idx": 3})]
    assert bench.engine.commit_index() == 1


def test_an_append_of_a_lower_term_gets_no_answer(bench: EngineBench) -> None:
    """Hole 8: why the guard answers it."""
    bench.follow(term=5)
    assert bench.follow(term=4) == []


def test_a_matching_tail_is_truncated(bench: EngineBench) -> None:
    """Hole 4: why the guard skips what the log has."""
    bench.follow(NO_OP, NO_OP)
    append = {"type": "append_entries", "term": 1, "commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0}
    bench.wire.deliver("b", entries=[(NO_OP, 2, 1)], **append)
    assert bench.journal.last == 2


def test_a_success_moves_next_index_back_over_what_is_in_flight(bench: EngineBench) -> None:
    """Hole 5: why progress says where to go on."""
    bench.lead()
    for _ in range(3):
        bench.engine.append(b"\x10x")
    bench.engine.send_appends()
    assert bench.engine.next_index("b") == 6
    bench.acknowledge("b", 2)
    assert bench.engine.next_index("b") == 3


def test_a_reset_moves_next_index_and_no_match_index(bench: EngineBench) -> None:
    bench.lead()
    bench.acknowledge("b", 2)
    bench.acknowledge("b", 1, success=False, reset=True)
    assert (bench.engine.next_index("b"), bench.engine.match_index("b")) == (2, 2)


def test_a_majority_commits_an_entry_of_the_current_term_only(bench: EngineBench) -> None:
    bench.follow(b"\x10x", term=1)
    bench.lead()
    bench.acknowledge("b", 2)
    bench.tick()
    assert (bench.engine.term(), bench.engine.commit_index()) == (2, 1)
    bench.acknowledge("b", 3)
    assert [peer for peer, _ in bench.tick()] in (["b", "c"], ["c", "b"])  # told at once
    assert bench.engine.commit_index() == 3
    assert [index for index, _, _ in bench.applied] == [2, 3]


def test_any_reply_is_a_sign_of_life(bench: EngineBench) -> None:
    bench.lead()
    for _ in range(20):
        bench.tick(0.2)
        bench.acknowledge("b", 1, success=False)
    assert bench.engine.leads()
    bench.tick(1.4)
    assert bench.engine.leads()
    bench.tick(0.2)
    assert (bench.engine.leads(), bench.engine.leader()) == (False, None)


def test_a_lone_member_elects_itself_and_commits_in_one_tick() -> None:
    bench = EngineBench("")
    bench.tick(1.0)
    assert (bench.engine.leads(), bench.engine.commit_index(), bench.engine.raftLastApplied) == (True, 2, 2)


def test_peers_are_iterated_in_the_same_order_in_every_process() -> None:
    assert hash(Peer("n1")) == 3_950_597_356
    assert (Peer("b") == Peer("b"), Peer("b") == Peer("c"), Peer("b") == Node("b")) == (True, False, True)


@pytest.mark.parametrize("name", ["deleteEntriesTo", "clear"])
def test_it_never_compacts_or_clears(bench: EngineBench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden: Callable[..., None] = getattr(bench.journal, name)
    with pytest.raises(AssertionError):
        forbidden(*([1] if name == "deleteEntriesTo" else []))
    monkeypatch.setattr(bench.journal, name, lambda *position: pytest.fail(name))
    bench.lead()
    for index in range(3, 300):
        bench.engine.append(NO_OP)
        bench.acknowledge("b", index)
        bench.tick(0.1)
    assert bench.engine.raftLastApplied == 299


# ---- configurations and states that were fetched
def test_update_cluster_configuration_names_the_voters_from_then_on(bench: EngineBench) -> None:
    bench.lead()
    bench.acknowledge("b", 2)
    bench.tick()
    bench.engine.append(b"\x10x")
    bench.wire._onNodeConnected(Peer("d"))
    bench.engine.reconfigure(["b", "d", "e"], bench.clock.now_s)
    assert (bench.engine.match_index("b"), bench.engine.match_index("d"), bench.engine.next_index("d")) == (2, 0, 4)
    sent = dict(bench.tick(0.2))
    assert sent.keys() == {"b", "d"}  # e is not connected, c is none any more
    bench.acknowledge("b", 3)
    bench.tick()
    assert bench.engine.commit_index() == 2  # two of four are no majority
    bench.acknowledge("d", 3)
    bench.tick()
    assert bench.engine.commit_index() == 3


def test_a_smaller_configuration_commits_with_a_smaller_majority() -> None:
    bench = EngineBench("bcde").lead()
    bench.acknowledge("b", 2)
    bench.tick()
    assert bench.engine.commit_index() == 1
    bench.engine.reconfigure(["b", "c"], bench.clock.now_s)
    bench.tick()
    assert bench.engine.commit_index() == 2


def test_a_reply_of_who_is_no_voter_raises_key_error(bench: EngineBench) -> None:
    """Hole 9: why the guard hands on replies of voters only."""
    bench.lead()
    bench.engine.reconfigure(["b"], bench.clock.now_s)
    with pytest.raises(KeyError):
        bench.acknowledge("c", 2)


def test_last_response_time_of_a_new_voter_starts_when_it_becomes_one(bench: EngineBench) -> None:
    """Without it, the engine falls over at its next tick; and a voter that had no chance yet is not dead."""
    bench.lead()
    heard_s = bench.engine._private("lastResponseTime")
    bench.tick(1.0)
    bench.acknowledge("b", 2)
    bench.engine.reconfigure(["b", "d"], bench.clock.now_s)
    assert heard_s[Peer("d")] == bench.clock.now_s
    bench.tick(1.4)
    assert bench.engine.leads()
    heard_s.pop(Peer("d"))
    with pytest.raises(KeyError):
        bench.tick()


def test_a_new_configuration_decides_how_many_votes_elect() -> None:
    bench = EngineBench("bcde")
    bench.engine.reconfigure(["b"], bench.clock.now_s)
    assert [peer for peer, _ in bench.tick(1.0)] == ["b"]
    bench.wire.deliver("b", type="response_vote", term=1)
    assert bench.engine.leads()


def test_raft_commit_index_is_moved_up_and_applied_at_the_next_tick(bench: EngineBench) -> None:
    bench.follow(b"\x10x", b"\x10y", b"\x10z")
    bench.engine.commit_to(3)
    bench.engine.commit_to(2)  # never back
    bench.tick()
    assert (bench.engine.commit_index(), bench.engine.raftLastApplied) == (3, 3)
    assert [index for index, _, _ in bench.applied] == [2, 3]


def test_raft_last_applied_is_moved_behind_a_replaced_log(bench: EngineBench) -> None:
    """The log starts behind 1 from then on, as after trimming."""
    bench.follow(b"\x10x", b"\x10y", commit_index=2)
    bench.tick()
    incoming = bench.environment.incoming()
    bench.environment.commit()
    bench.journal.prepare(incoming, 40, 1)
    bench.environment.replace(incoming)
    bench.journal.load()
    bench.journal.set_applied(40, b"digest")
    bench.engine.restart_at(40)
    bench.applied.clear()
    bench.tick()
    assert (bench.engine.commit_index(), bench.engine.raftLastApplied, bench.applied) == (40, 40, [])
    bench.follow(b"\x10z", commit_index=41)
    bench.tick()
    assert bench.applied == [(41, b"\x10z", 1)]


def trimmed_leader() -> EngineBench:
    """Entries 1 to 9, all committed with b; the log starts at 6; c has nothing."""
    bench = EngineBench().lead()
    for _ in range(7):
        bench.engine.append(NO_OP)
    bench.acknowledge("b", 9)
    bench.tick()
    bench.journal.set_applied(9, b"digest")
    bench.journal.trim(3, 10**9, 100, 10**9)
    assert bench.journal.first == 6
    return bench


def test_a_peer_from_before_the_logs_start_gets_a_serialized_message_without_a_dump() -> None:
    bench = trimmed_leader()
    send = bench.wire.send

    def once(node: Node, message: Message) -> bool:
        if node.id == "c":
            bench.engine.set_next_index("c", bench.journal.last + 1)
        return send(node, message)

    bench.wire.send = once  # type: ignore[method-assign]
    for next_index, kind in ((2, "serialized"), (6, "serialized"), (7, "prevLogIdx")):
        bench.engine.set_next_index("c", next_index)
        messages = [message for peer, message in bench.tick(0.2) if peer == "c"]
        assert kind in messages[0]
        assert ("prevLogIdx" in messages[0]) == (kind == "prevLogIdx")
        if kind == "serialized":
            assert messages[0]["serialized"] is None
            assert {"term", "commit_index"} <= messages[0].keys()


def test_the_send_loop_turns_for_a_whole_period_over_a_peer_from_before_the_logs_start() -> None:
    """Hole 18: why the guard moves such a peer's next index to the log's end."""
    bench = trimmed_leader()
    bench.engine.set_next_index("c", 2)
    send, sent = bench.wire.send, list[Message]()

    def count(node: Node, message: Message) -> bool:
        if node.id == "c":
            sent.append(message)
            bench.clock.now_s += TIMING.heartbeat_s / 50
        return send(node, message)

    bench.wire.send = count  # type: ignore[method-assign]
    bench.tick(0.2)
    assert len(sent) > 49
    bench.engine.set_next_index("c", 2)
    sent.clear()

    def move(node: Node, message: Message) -> bool:
        bench.engine.set_next_index("c", bench.journal.last + 1)
        return count(node, message)

    bench.wire.send = move  # type: ignore[method-assign]
    bench.tick(0.2)
    assert len(sent) == 1
