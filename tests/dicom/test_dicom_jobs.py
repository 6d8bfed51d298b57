"""The queue: one job a file, one worker a job, a bounded number of attempts, results and deliveries in one step."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from jobs_case import Clock, add, finished

from sonodistill.dicom.errors import LeaseLostError, QueueError, SpoolError
from sonodistill.dicom.service.jobs import Jobs
from sonodistill.dicom.service.leases import Retries
from sonodistill.dicom.service.records import Result, State


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(tmp_path: Path, clock: Clock) -> Jobs:
    return Jobs(tmp_path / "jobs.sqlite", Retries(3, 10.0, jitter=lambda: 0.5), clock=clock)


def test_the_same_file_is_one_job_while_it_waits_runs_and_after_it_is_done(jobs):
    first, new = add(jobs)
    assert new and first.state is State.RECEIVED
    assert add(jobs) == (jobs.job(first.id), False)
    finished(jobs)
    again, new = add(jobs)
    assert (again.id, new, again.arrivals) == (first.id, False, 3)


def test_another_configuration_processes_a_done_file_again_but_not_a_waiting_one(jobs):
    first, _ = add(jobs)
    assert add(jobs, config="d")[0].id == first.id
    finished(jobs)
    assert add(jobs, config="d")[1]


@pytest.mark.parametrize("end", ["refused", "failed", "stalled"])
def test_another_file_of_an_instance_waits_until_the_first_came_to_nothing(jobs, clock, end):
    first, _ = add(jobs, file="a")
    other, new = add(jobs, file="b")
    assert new and other.state is State.DUPLICATE and f"job {first.id}" in other.reason
    assert add(jobs, file="b") == (jobs.job(other.id), False)
    claimed = jobs.claim("worker", 60.0)
    assert claimed is not None and claimed.id == first.id and jobs.claim("worker", 60.0) is None
    if end == "refused":
        jobs.refuse(first.id, "worker", "it is truncated")
    elif end == "failed":
        jobs.fail(first.id, "worker", "it is damaged", permanent=True)
    else:
        for _ in range(2):
            clock.now += 61
            assert jobs.claim("worker", 60.0).id == first.id
        clock.now += 61
    second = jobs.claim("worker", 60.0)
    assert second is not None and second.id == other.id


def test_a_refused_or_dead_file_that_is_sent_again_is_a_new_job(jobs):
    for end in (lambda job: jobs.refuse(job, "w", "no"), lambda job: jobs.fail(job, "w", "no", permanent=True)):
        job, new = add(jobs)
        assert new
        assert jobs.claim("w", 60.0).id == job.id
        end(job.id)


def test_the_same_file_refused_at_the_door_is_one_row(jobs):
    first, _ = add(jobs, sop="", refused="not DICOM")
    again, new = add(jobs, sop="", refused="not DICOM")
    assert (again.id, new, again.arrivals, again.state) == (first.id, False, 2, State.REFUSED)
    assert jobs.claim("w", 1.0) is None


def test_failures_wait_longer_each_time_and_end_dead(jobs, clock):
    job, _ = add(jobs)
    for wait in (10.0, 20.0):
        assert jobs.claim("w", 60.0).id == job.id
        assert jobs.fail(job.id, "w", "out of memory") is State.RECEIVED
        clock.now += wait - 0.1
        assert jobs.claim("w", 60.0) is None
        clock.now += 0.2
    jobs.claim("w", 60.0)
    assert jobs.fail(job.id, "w", "out of memory") is State.DEAD
    assert (jobs.job(job.id).attempts, jobs.job(job.id).reason) == (3, "out of memory")


def test_the_wait_has_jitter_and_an_upper_bound():
    waits = {Retries(5, 10.0).wait(2) for _ in range(50)}
    assert len(waits) > 10 and all(10.0 <= wait < 30.0 for wait in waits)
    assert Retries(5, 10.0).wait(10_000) <= 1.5 * 3600


def test_a_job_that_kills_its_worker_goes_to_the_back_of_the_queue_and_ends_dead(jobs, clock):
    killer, _ = add(jobs, sop="1.1", file="a")
    assert jobs.claim("w1", 60.0).id == killer.id
    clock.now += 1
    other, _ = add(jobs, sop="1.2", file="b")
    clock.now += 61
    assert jobs.claim("w2", 600.0).id == other.id
    for _ in range(2):
        assert jobs.claim("w", 60.0).id == killer.id
        clock.now += 61
    assert jobs.claim("w", 60.0) is None
    assert jobs.job(killer.id).state is State.DEAD and "died or stalled, 3 times" in jobs.job(killer.id).reason


def test_who_lost_the_lease_can_record_nothing(jobs, clock):
    job, _ = add(jobs)
    jobs.claim("slow", 60.0)
    clock.now += 30
    assert jobs.renew(job.id, "slow", 60.0)
    clock.now += 61
    assert jobs.claim("fast", 60.0).id == job.id
    assert not jobs.renew(job.id, "slow", 60.0)
    for act in (
        lambda: jobs.finish(job.id, "slow", [Result("report", "1.9", "r", "f")], ["pacs"]),
        lambda: jobs.fail(job.id, "slow", "x"),
        lambda: jobs.refuse(job.id, "slow", "x"),
    ):
        with pytest.raises(LeaseLostError):
            act()
    assert jobs.results(job.id) == [] and jobs.deliveries(job.id) == []


def test_finishing_is_all_or_nothing(jobs):
    job, _ = add(jobs)
    jobs.claim("w", 60.0)
    same = Result("report", "1.9", "r.dcm", "f" * 64)
    with pytest.raises(sqlite3.IntegrityError):
        jobs.finish(job.id, "w", [same, same], ["pacs"])
    assert jobs.job(job.id).state is State.RUNNING
    assert jobs.results(job.id) == [] and jobs.deliveries(job.id) == []


def test_a_graceful_stop_gives_back_without_counting(jobs):
    first, _ = add(jobs, sop="1.1", file="a")
    add(jobs, sop="1.2", file="b")
    jobs.claim("w", 60.0)
    assert jobs.release("w") == 1
    again = jobs.claim("w", 60.0)
    assert (again.id, again.attempts) == (first.id, 1)


def test_a_destination_that_is_down_holds_up_no_other(jobs, clock):
    add(jobs)
    done = finished(jobs, "pacs", "archive")
    down = jobs.claim_delivery("pacs", "s", 60.0)
    assert jobs.claim_delivery("pacs", "s", 60.0) is None
    assert jobs.fail_delivery(down.id, "s", "no connection") is State.QUEUED
    up = jobs.claim_delivery("archive", "s", 60.0)
    jobs.finish_delivery(up.id, "s")
    assert jobs.delivery(up.id).sent_at == clock.now and jobs.delivery(down.id).sent_at is None
    assert jobs.settle(job=done.id) == []
    clock.now += 100
    jobs.finish_delivery(jobs.claim_delivery("pacs", "s", 60.0).id, "s")
    assert jobs.settle(job=done.id) == [(done.id, "a" * 64)]


def test_deliveries_are_bounded_retried_released_and_purged_like_jobs(jobs, clock):
    add(jobs)
    done = finished(jobs, "pacs")
    first = jobs.claim_delivery("pacs", "s", 60.0)
    assert jobs.renew_delivery(first.id, "s", 60.0) and not jobs.renew_delivery(first.id, "other", 60.0)
    assert jobs.release("s") == 1
    for _ in range(3):
        assert jobs.claim_delivery("pacs", "s", 60.0).id == first.id
        clock.now += 61
    assert jobs.claim_delivery("pacs", "s", 60.0) is None
    assert [item.id for item in jobs.dead_list()] == [first.id]
    jobs.retry_delivery(first.id)
    jobs.claim_delivery("pacs", "s", 60.0)
    assert jobs.fail_delivery(first.id, "s", "refused", permanent=True) is State.DEAD
    jobs.purge_delivery(first.id)
    assert jobs.deliveries(done.id) == [] and jobs.settle(job=done.id)


def test_only_what_is_dead_is_retried_or_purged(jobs):
    job, _ = add(jobs)
    for act in (jobs.retry_job, jobs.purge_job, jobs.retry_delivery, jobs.purge_delivery):
        with pytest.raises(QueueError):
            act(job.id)
        with pytest.raises(QueueError):
            act(99)


def test_a_retry_does_not_compete_with_a_newer_job_of_the_instance(jobs):
    old, _ = add(jobs)
    jobs.claim("w", 60.0)
    jobs.refuse(old.id, "w", "no route")
    add(jobs)
    with pytest.raises(QueueError, match="same instance"):
        jobs.retry_job(old.id)


def test_prune_removes_old_finished_rows_alone(jobs, clock):
    add(jobs, sop="1.1", file="a")
    done = finished(jobs, "pacs")
    refused, _ = add(jobs, sop="", file="b", refused="not DICOM")
    clock.now += 40 * 86400
    assert jobs.prune(30.0) == 0  # its results are still to be sent
    jobs.finish_delivery(jobs.claim_delivery("pacs", "s", 60.0).id, "s")
    jobs.settle()
    assert jobs.prune(30.0) == 1
    with pytest.raises(QueueError):
        jobs.job(done.id)
    assert jobs.results(done.id) == [] and jobs.deliveries(done.id) == []
    assert jobs.job(refused.id).state is State.REFUSED
    assert add(jobs, sop="1.1", file="a")[0].id > refused.id  # numbers are not used again


def test_counts_say_what_is_there_and_how_old(jobs, clock):
    add(jobs, sop="1.1", file="a")
    finished(jobs, "pacs")
    clock.now += 5
    add(jobs, sop="1.2", file="b")
    clock.now += 7
    counts = jobs.counts()
    assert counts.jobs == {"done": 1, "received": 1} and counts.deliveries == {"queued": 1}
    assert (counts.oldest_job, counts.oldest_delivery) == (7.0, 12.0)


def test_nothing_that_is_asked_often_reads_a_whole_table_or_sorts(jobs):
    asked: list[str] = []
    connection = jobs._database._connection()
    connection.set_trace_callback(asked.append)
    job, _ = add(jobs)
    finished(jobs, "pacs")
    add(jobs, file="b")
    add(jobs, sop="1.9", file="d")
    jobs.claim("w", 60.0)
    jobs.renew(job.id, "w", 60.0)
    jobs.finish_delivery(jobs.claim_delivery("pacs", "s", 60.0).id, "s")
    jobs.wanted("a" * 64)
    jobs.knows("1.2.3", "c")
    jobs.settle(job=job.id)
    jobs.prune(1.0)
    connection.set_trace_callback(None)
    queries = [text for text in asked if text.split()[0] in ("SELECT", "UPDATE", "DELETE")]
    assert len(queries) > 20
    for query in queries:
        for row in connection.execute(f"EXPLAIN QUERY PLAN {query}"):
            assert not row[3].startswith("SCAN") and "TEMP B-TREE" not in row[3], (query, row[3])


def test_a_newer_schema_is_not_touched(tmp_path):
    jobs = Jobs(tmp_path / "jobs.sqlite")
    add(jobs)
    jobs.close()
    connection = sqlite3.connect(tmp_path / "jobs.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SpoolError, match="another version"):
        Jobs(tmp_path / "jobs.sqlite").counts()
