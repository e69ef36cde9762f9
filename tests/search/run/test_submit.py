"""A launch that is submitted runs on the head, is followed, left and found again. A stand-in plays Ray's job API."""

import json
import re
import shlex
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import search.run.submit
from recon.errors import InputError
from search.run.submit import entrypoint, submit

TOKEN = "a" * 64


class JobServer(ThreadingHTTPServer):
    """Keeps jobs; each look at a running one appends a line to its log, until its lines are out."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Calls)
        self.jobs = {}
        self.lines = ["one\n", "two\n"]
        self.end = {"status": "SUCCEEDED", "driver_exit_code": 0}
        self.down = 0

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"


class Calls(BaseHTTPRequestHandler):
    def reply(self, code, body):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    def do_GET(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply(401, b"Unauthorized")
        name, _, logs = self.path.removeprefix("/api/jobs/").partition("/")
        if not name:
            return self.reply(200, list(self.server.jobs.values()))
        if self.server.down > 0:
            self.server.down -= 1
            return self.connection.close()
        job = self.server.jobs[name]
        if logs:
            return self.reply(200, {"logs": job["log"]})
        if job["left"]:
            job["log"] += job["left"].pop(0)
        else:
            job.update(self.server.end)
        return self.reply(200, job)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["submission_id"]
        if name in self.server.jobs:
            return self.reply(500, f"Job with submission_id {name} already exists".encode())
        self.server.jobs[name] = {**body, "status": "RUNNING", "log": "", "left": list(self.server.lines)}
        return self.reply(200, {"submission_id": name})

    def log_message(self, *arguments: object):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setattr(search.run.submit, "POLL_SECONDS", 0.01)
    with JobServer() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


LAUNCH = ["spaces/full.yaml", "--data", "my data", "--study", "full"]


def test_a_submitted_launch_runs_on_the_head_and_its_log_follows_to_the_end(server, capsys):
    assert submit(LAUNCH, server.address, "full") == 0
    said = capsys.readouterr()
    assert said.out == "one\ntwo\n"
    assert said.err == "full: submitted as splitpoint-full-1\n"
    command = server.jobs["splitpoint-full-1"]["entrypoint"]
    assert shlex.split(command.split("exec ")[1]) == ["splitpoint", "launch", *LAUNCH, "--address", "auto"]


@pytest.mark.parametrize("address", [["--address", "10.0.0.1:6379"], ["--address=10.0.0.1:6379"]])
def test_the_head_joins_its_own_cluster_whatever_address_was_typed(address):
    assert entrypoint(["a.yaml", *address, "--study", "s"]) == entrypoint(["a.yaml", "--study", "s"])


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ({"status": "FAILED", "driver_exit_code": 2}, 2),
        ({"status": "FAILED", "driver_exit_code": None, "message": "head lost"}, 1),
        ({"status": "STOPPED"}, 143),
    ],
)
def test_the_exit_code_is_the_launch_s_own(server, end, code):
    server.end = end
    assert submit(LAUNCH, server.address, "full") == code


def test_ctrl_c_leaves_the_job_running_and_the_same_command_returns_to_it(server, capsys, monkeypatch):
    server.lines = [f"line {number}\n" for number in range(50)]
    naps = []

    def interrupted(seconds):
        naps.append(seconds)
        if len(naps) == 40:
            raise KeyboardInterrupt

    monkeypatch.setattr(search.run.submit.time, "sleep", interrupted)
    assert submit(LAUNCH, server.address, "full") == 130
    first = capsys.readouterr()
    assert first.out.endswith("line 39\n")
    assert "splitpoint-full-1 goes on on the cluster; the same command returns to it" in first.err
    assert server.jobs["splitpoint-full-1"]["status"] == "RUNNING"

    assert submit(LAUNCH, server.address, "full") == 0
    second = capsys.readouterr()
    assert second.out.startswith("line 20\n")
    assert second.out.endswith("line 49\n")
    assert list(server.jobs) == ["splitpoint-full-1"]


def test_a_study_whose_job_has_ended_is_submitted_again_under_another_name(server):
    submit(LAUNCH, server.address, "full")
    submit(LAUNCH, server.address, "full")
    submit(LAUNCH, server.address, "other")
    assert list(server.jobs) == ["splitpoint-full-1", "splitpoint-full-2", "splitpoint-other-1"]


def test_a_dashboard_that_is_away_for_a_moment_is_waited_for(server, capsys):
    server.down = 3
    assert submit(LAUNCH, server.address, "full") == 0
    said = capsys.readouterr()
    assert said.out == "one\ntwo\n"
    assert "does not answer" in said.err


def test_a_cluster_that_wants_another_token_is_one_sentence(server, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(InputError, match=r"wants its token, and there is none at .*/token$"):
        submit(LAUNCH, server.address, "full")
    (tmp_path / "token").write_text("b" * 64)
    with pytest.raises(InputError, match=r"wants its token, and the one in .*/token is another$"):
        submit(LAUNCH, server.address, "full")


def test_a_dashboard_that_is_not_there_is_one_sentence_with_the_way_to_it(server):
    address = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match=f"--submit {re.escape(address)}: no dashboard answers there .*ssh -L"):
        submit(LAUNCH, address, "full")


@pytest.mark.parametrize(
    "storage",
    [
        ["--storage", "postgresql://sp:hunter2@host/db"],
        ["--storage=postgresql://sp@host/db?password=hunter2"],
    ],
)
def test_a_password_is_not_put_where_the_clusters_list_of_jobs_shows_it(storage):
    with pytest.raises(InputError, match=r"keep it in ~/\.pgpass") as raised:
        submit(["space.yaml", "--study", "one", *storage], "127.0.0.1:1", "one")
    assert "hunter2" not in str(raised.value)
