"""Submits a launch from a laptop: Ray's job API starts it on the cluster's head, and its log is followed here.

The API is plain HTTP, at the dashboard's port (`/api/jobs/`), so nothing of Ray is needed on the laptop but the token.
"""

from __future__ import annotations

import http.client
import itertools
import json
import shlex
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from recon.errors import InputError
from search.run.knock import token, token_file
from search.study.address import JOURNAL, parsed_url

POLL_SECONDS = 2.0
LOST_SECONDS = 120.0
"""How long the dashboard may be away before the following ends."""
TAIL_LINES = 20
"""Number of lines shown of what a job had logged before one returns to it."""
RUNNING = ("PENDING", "RUNNING")
STUDY = "splitpoint-study"


def submit(arguments: list[str], address: str, study: str) -> int:
    """Run ``splitpoint launch`` on the head of a cluster, and follow its log to its end.

    Where a job of this study runs already, follow that one. Ctrl-C leaves the job running.

    Args:
        arguments: what follows ``splitpoint launch``, without ``--submit``; paths are the head's, relative ones start
            in the checkout (``~/.splitpoint``).
        address: the dashboard's address as seen from here, ``HOST:PORT``.
        study: the study's name; one job at a time runs it.

    Returns:
        The launch's own exit code; 143 where the job was stopped, 130 after Ctrl-C.

    Raises:
        InputError: no job API answers there, or it refuses the token.
    """
    if _password_in(arguments):
        raise InputError(
            "--storage holds a password, which the cluster's list of jobs would show; keep it in ~/.pgpass on the head"
        )
    server = _Server(address)
    jobs = server.jobs(study)
    running = next((job for job in jobs if job["status"] in RUNNING), None)
    if running is None:
        name = _submitted(server, arguments, study, len(jobs) + 1)
        _say(f"{study}: submitted as {name}")
        shown = 0
    else:
        name = running["submission_id"]
        _say(f"{study}: {name} is running; its log follows")
        log = server.log(name)
        shown = len(log) - len("".join(log.splitlines(keepends=True)[-TAIL_LINES:]))
    try:
        return _follow(server, name, study, shown)
    except KeyboardInterrupt:
        _say(
            f"\n{study}: {name} goes on on the cluster; the same command returns to it, "
            f"and `ray job stop {name}` on the head stops it"
        )
        return 130


def entrypoint(arguments: list[str]) -> str:
    """The shell command that the head runs: the launch, in the checkout that cluster.yaml links to, if it is there."""
    kept = without_option(arguments, "--address")
    launch = shlex.join(["splitpoint", "launch", *kept, "--address", "auto"])
    return f'cd "$HOME/.splitpoint" 2>/dev/null; PATH="$PWD/.venv/bin:$PATH" exec {launch}'


def _password_in(arguments: list[str]) -> bool:
    """Whether a storage among the arguments has a password."""
    texts = [two for one, two in itertools.pairwise(arguments) if one == "--storage"]
    texts += [one.partition("=")[2] for one in arguments if one.startswith("--storage=")]
    urls = [parsed_url(text) for text in texts if not text.startswith(JOURNAL)]
    return any(url.password is not None or "password" in url.query for url in urls)


def without_option(arguments: list[str], option: str) -> list[str]:
    """The arguments without an option and its value."""
    kept = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == option:
            skip = True
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept


def _submitted(server: _Server, arguments: list[str], study: str, number: int) -> str:
    """Submit the job under the study's next free name. Ray never gives a name twice, so of two that submit at once one
    fails and is told to follow the other.
    """
    name = f"splitpoint-{study}-{number}"
    body = {"entrypoint": entrypoint(arguments), "submission_id": name, "metadata": {STUDY: study}}
    answer = server.ask("POST", "", body)
    return str(answer["submission_id"])


def _follow(server: _Server, name: str, study: str, shown: int) -> int:
    """Print what the job logs, from a number of characters on, until it ends; return its exit code."""
    lost: float | None = None
    while True:
        try:
            job = server.ask("GET", urllib.parse.quote(name))
            log = server.log(name)  # after the state, so that an ended job's log is whole
        except _AwayError as error:
            now = time.monotonic()
            if lost is None:
                lost = now
                _say(f"{study}: the dashboard does not answer; {name} is not touched by that")
            if now - lost > LOST_SECONDS:
                raise InputError(f"{error}; {name} may still run, and the same command returns to it") from error
        else:
            lost = None
            sys.stdout.write(log[shown:])
            sys.stdout.flush()
            shown = len(log)
            if job["status"] not in RUNNING:
                return _code(job, name)
        time.sleep(POLL_SECONDS)


def _code(job: dict[str, Any], name: str) -> int:
    if job["status"] == "SUCCEEDED":
        return 0
    if job["status"] == "STOPPED":
        _say(f"{name} was stopped; the same command goes on from here")
        return 143
    code = job.get("driver_exit_code")
    if code is None:
        _say(f"{name} failed: {(job.get('message') or 'no reason is known').strip().splitlines()[0]}")
    return code or 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _AwayError(InputError):
    """The dashboard does not answer."""


class _Server:
    """The job API at a dashboard's address."""

    def __init__(self, address: str) -> None:
        self.address = address.removeprefix("http://").rstrip("/")

    def jobs(self, study: str) -> list[dict[str, Any]]:
        """The jobs that were submitted for a study."""
        answer = self.ask("GET", "")
        return [job for job in answer if (job.get("metadata") or {}).get(STUDY) == study]

    def log(self, name: str) -> str:
        """All that a job has logged."""
        return str(self.ask("GET", f"{urllib.parse.quote(name)}/logs")["logs"])

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One call, and what it returned.

        Raises:
            InputError: it was refused, or there is no such API.
        """
        secret = token()
        headers = {"Content-Type": "application/json"}
        if secret is not None:
            headers["Authorization"] = f"Bearer {secret}"
        data = None if body is None else json.dumps(body).encode()
        url = f"http://{self.address}/api/jobs/{path}"
        try:
            request = urllib.request.Request(url, data, headers, method=method)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                held = f"the one in {token_file()} is another" if secret else f"there is none at {token_file()}"
                raise InputError(f"--submit {self.address}: the cluster wants its token, and {held}") from error
            reason = error.read().decode(errors="replace").strip().splitlines() or [error.reason]
            if error.code == 404 and not path:
                raise InputError(
                    f"--submit {self.address}: no job API answers there; the head's installation needs ray[default]"
                ) from error
            raise InputError(f"--submit {self.address}: the job API says: {reason[-1]}") from error
        except (http.client.InvalidURL, UnicodeError) as error:
            raise InputError(f"--submit {self.address} is not HOST:PORT") from error
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            raise _AwayError(
                f"--submit {self.address}: no dashboard answers there ({cause}); "
                "open the way with `ssh -L 8265:127.0.0.1:8265 USER@HEAD`"
            ) from error
        except ValueError as error:
            raise InputError(f"--submit {self.address}: what answers there is not Ray's dashboard") from error
