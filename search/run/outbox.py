"""What a running search has to tell its storage, and the thread that tells it.

A storage may be away for a while: a database is restarted, a file is locked, a disk is full. Trainings go on meanwhile,
and what they report waits here, in order. The thread tries again until its patience ends; the driver then ends the
search with the reason. Whatever is written twice, because an answer was lost, leaves the study as if written once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.errors import SearchError
from search.study.writing import Fact, cause, create, is_away, write

PATIENCE_SECONDS = 600.0
"""How long a storage may be away before the search ends."""
FULL_SECONDS = 10.0
"""The same for a disk that is full: room seldom comes by itself."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
GATHER_SECONDS = 0.1
"""Facts that come within this time are written in one transaction."""
NOTICE_SECONDS = 2.0
"""How long a storage is away before it is said."""


@dataclass(frozen=True)
class End:
    """A trial's end."""

    trial_id: int
    state: TrialState
    values: tuple[float, ...] | None = None


@dataclass(frozen=True)
class _Then:
    act: Callable[[], None]


@dataclass(frozen=True)
class _Creation:
    study_id: int
    template: FrozenTrial
    made: Future[tuple[int, int]]


class Outbox:
    """The writer of a running search. Its methods return at once; a thread of its own writes.

    Args:
        storage: the study's.
        where: the storage in words, without a password.
        say: told when the storage is away, and when it is back.
        look: called by the thread every few seconds, and before it tries again; a sentence that it returns ends the
            search (the storage's file is gone).
        patience: seconds that the storage may be away.
    """

    def __init__(
        self,
        storage: BaseStorage,
        where: str,
        say: Callable[[str], None],
        look: Callable[[], str | None] = lambda: None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._storage, self._where, self._say, self._look, self._patience = storage, where, say, look, patience
        self._waiting: deque[Fact | End | _Creation | _Then] = deque()
        self._beat: Callable[[], None] | None = None
        self._changed = threading.Condition()
        self._closing = self._hurried = False
        self._busy = False
        self._away_since: float | None = None
        self._told_away = False
        self._looked = time.monotonic()
        self.failure: Exception | None = None
        """Why nothing more is written; the driver raises it."""
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    # What the driver calls

    def tell(self, *facts: Fact | End) -> None:
        """Write facts, in this order, after those that wait."""
        with self._changed:
            self._waiting.extend(facts)
            self._changed.notify_all()

    def then(self, act: Callable[[], None]) -> None:
        """Do something when all that was told before is written."""
        with self._changed:
            self._waiting.append(_Then(act))
            self._changed.notify_all()

    def drop(self, made: Future[tuple[int, int]], *otherwise: Callable[[int], Fact | End]) -> None:
        """Forget a creation that is not needed any more; one that is written, or may be, gets these facts.

        Args:
            made: what ``create`` returned.
            otherwise: made with the trial's id.
        """
        with self._changed:
            first = self._waiting[0] if self._waiting else None
            for one in self._waiting:
                if isinstance(one, _Creation) and one.made is made and not (one is first and self._busy_or_away):
                    self._waiting.remove(one)
                    return
            self._waiting.append(_Then(lambda: self.tell(*(fact(made.result(0)[0]) for fact in otherwise))))
            self._changed.notify_all()

    @property
    def _busy_or_away(self) -> bool:
        return self._busy or self._away_since is not None

    def create(self, study_id: int, template: FrozenTrial) -> Future[tuple[int, int]]:
        """Make a trial with everything that the template says, in one step; -> its id and its number."""
        creation = _Creation(study_id, template, Future())
        with self._changed:
            self._waiting.append(creation)
            self._hurried = True
            self._changed.notify_all()
        return creation.made

    def beat(self, write: Callable[[], None]) -> None:
        """Let the thread write a heartbeat; a newer one replaces one that waits."""
        with self._changed:
            self._beat = write
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Number of facts that are not written yet."""
        return len(self._waiting)

    @property
    def away(self) -> float:
        """Seconds since the storage was heard of last; 0 while it answers."""
        since = self._away_since
        return 0.0 if since is None else time.monotonic() - since

    def drain(self, seconds: float | None = None) -> bool:
        """Wait until everything is written, without ``seconds`` as long as the patience lasts; -> whether it is."""
        end = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            while (self._waiting or self._busy) and self.failure is None:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(0.5 if left is None else min(left, 0.5))
        return self.failure is None

    def close(self, seconds: float | None = None) -> bool:
        """Write what is left, and end the thread; -> whether everything was written."""
        done = self.drain(seconds)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(5)
        return done

    # The thread

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # whatever it is, the driver must not wait for a thread that is gone
            self._give_up(error if isinstance(error, Exception) else RuntimeError(f"the outbox ended: {error!r}"))

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._beat or self._closing):
                    self._changed.wait(1.0)
                    if time.monotonic() - self._looked > 1.0:
                        break
                if self._closing:
                    return
                if self._waiting and not self._hurried:
                    self._changed.wait(GATHER_SECONDS)
                batch, beat = self._next(), self._beat
                self._busy = bool(batch)
            try:
                self._check_file()
                if batch:
                    self._write(batch)
            except Exception as error:
                if not self._goes_on(error):
                    return
                continue
            with self._changed:
                for _ in batch:
                    self._waiting.popleft()
                self._busy = False
                self._hurried = self._hurried and bool(self._waiting)
                self._changed.notify_all()
            try:
                if beat is not None:
                    beat()
            except Exception as error:
                if not self._goes_on(error):
                    return
                continue
            with self._changed:
                if self._beat is beat:
                    self._beat = None
            self._came_back()

    def _next(self) -> list[Fact | End | _Creation | _Then]:
        """What is written in one step: facts that follow each other, or one creation or end."""
        batch: list[Fact | End | _Creation | _Then] = []
        for one in self._waiting:
            if not isinstance(one, Fact):
                return batch or [one]
            batch.append(one)
        return batch

    def _write(self, batch: Sequence[Fact | End | _Creation | _Then]) -> None:
        (first, *_) = batch
        if isinstance(first, _Creation):
            self._create(first)
        elif isinstance(first, End):
            self._end(first)
        elif isinstance(first, _Then):
            first.act()
        else:
            try:
                write(self._storage, [one for one in batch if isinstance(one, Fact)])
            except UpdateFinishedTrialError:
                raise self._another() from None

    def _create(self, creation: _Creation) -> None:
        if self._away_since is not None:
            # The answer to an earlier try may have been lost, and the trial be there.
            token = creation.template.user_attrs[TOKEN]
            for trial in self._storage.get_all_trials(creation.study_id, deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.user_attrs.get(TOKEN) == token:
                    creation.made.set_result((trial._trial_id, trial.number))
                    return
        creation.made.set_result(create(self._storage, creation.study_id, creation.template))

    def _end(self, end: End) -> None:
        try:
            self._storage.set_trial_state_values(end.trial_id, end.state, end.values)
        except UpdateFinishedTrialError:
            if self._storage.get_trial(end.trial_id).state != end.state:
                raise self._another() from None

    def _another(self) -> SearchError:
        return SearchError(
            f"another process has ended trials of this study in {self._where} while this one ran them; "
            "look whether it still runs before you launch again"
        )

    def _check_file(self) -> None:
        if time.monotonic() - self._looked > 1.0 or self._away_since is not None:
            self._looked = time.monotonic()
            gone = self._look()
            if gone is not None:
                raise SearchError(gone)

    def _goes_on(self, error: Exception) -> bool:
        """Wait for the storage to come back; False if it is not away, or has been for too long."""
        if isinstance(error, KeyError) and ("trial" in str(error) or "study" in str(error)):  # Optuna's word for it
            gone = f"{self._where} does not have a trial any more that it was given ({error.args[0]}); was it deleted?"
            return self._give_up(SearchError(gone))
        if isinstance(error, SearchError) or not is_away(error):
            return self._give_up(error)
        now = time.monotonic()
        self._away_since = self._away_since or now
        away, patience = now - self._away_since, min(self._patience, FULL_SECONDS if _full(error) else self._patience)
        if away > patience:
            sentence = (
                f"{self._where} cannot be written to since {away:.0f} s: {cause(error)}; {self.waiting} facts of "
                "running trials were not written, and the trials go on from their checkpoints when it can"
            )
            return self._give_up(SearchError(sentence))
        if away >= NOTICE_SECONDS and not self._told_away:
            self._told_away = True
            self._speak(
                f"{self._where} cannot be written to ({cause(error)}): trainings go on, their results wait, and it is "
                f"tried again for {patience:.0f} s"
            )
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(away / 2, 10), LONGEST_PAUSE_SECONDS, max(0.1, patience - away))
        with self._changed:
            self._busy = False
            self._changed.wait_for(lambda: self._closing, pause)
            return not self._closing

    def _give_up(self, error: Exception) -> bool:
        with self._changed:
            self.failure, self._busy = error, False
            self._changed.notify_all()
        return False

    def _speak(self, text: str) -> None:
        """Say something; that nobody listens any more (a closed terminal) keeps nothing from being written."""
        with contextlib.suppress(Exception, SystemExit):
            self._say(text)

    def _came_back(self) -> None:
        if self._told_away:
            self._speak(f"{self._where} can be written to again after {self.away:.0f} s")
        self._away_since, self._told_away = None, False


def _full(error: Exception) -> bool:
    """Whether a storage's disk is full; SQLite, PostgreSQL and the system each have words of their own for it."""
    text = cause(error).lower()
    return any(word in text for word in ("disk is full", "no space left", "could not extend file", "quota exceeded"))


TOKEN = "token"
"""The attribute by which a trial is found again whose creation was not answered."""
