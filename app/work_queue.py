"""Gradio's queue with a limit for each kind of work, and nothing left behind by who has gone.

Gradio counts all that waits in one number, keeps what it has to say to a session that never
listens, and forgets no session that has left. Here each kind of work has places and a limit of its
own; who leaves is forgotten at once, and who never listens after a while.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from app.gradio_import import Blocks, Event, Queue

IDLE_SECONDS: Final = 0.005
"""Pause between two looks for work."""
FULL: Final = "The queue is full: {waiting} requests of this kind wait already. Try again soon."


class WorkQueue(Queue):
    """The queue of `blocks`; `limits` are the most requests that may wait by kind of work.

    A kind of work is what Gradio calls a concurrency id. Where any number may run at once, its
    limit counts those that run. `patience` are the seconds that somebody who asked may take to
    listen to the answer.
    """

    def __init__(self, blocks: Blocks, limits: Mapping[str, int], patience: float) -> None:
        super().__init__(
            live_updates=True,
            concurrency_count=sum(limits.values()) + len(limits),
            update_intervals=1,
            max_size=None,
            blocks=blocks,
            default_concurrency_limit=1,
        )
        # Gradio looks every millisecond whether there is work: a tenth of a core, for nothing.
        self.sleep_when_free, self.progress_update_sleep_when_free = IDLE_SECONDS, 1.0
        self._limits, self._patience = limits, patience
        self._slots = self.max_thread_count
        self._arriving: Counter[str] = Counter()
        self._listening: Counter[str] = Counter()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Begin to work. A slot for each request that may run, so that no kind takes another's."""
        self.max_thread_count = self._slots
        super().start()

    def waiting(self, work: str) -> int:
        """How many requests of a kind wait, those included that are just being taken in."""
        queue = self.event_queue_per_concurrency_id.get(work)
        if queue is None:
            return self._arriving[work]
        running = queue.current_concurrency if queue.concurrency_limit is None else 0
        return len(queue.queue) + running + self._arriving[work]

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Take a request in, or say that the queue of its kind is full."""
        work = self.blocks.fns[body.fn_index].concurrency_id
        waiting = self.waiting(work)
        if waiting >= self._limits[work]:
            return False, FULL.format(waiting=waiting), "queue_full"
        self._arriving[work] += 1
        try:
            answer = await super().push(body, request, username)
        finally:
            self._arriving[work] -= 1
        self._wait_for_listener(body.session_hash)
        return answer

    def send_message(self, event: Event, event_message: Any) -> None:
        """Say something to whoever asked, unless they have gone."""
        if event.session_hash in self.pending_messages_per_session:
            super().send_message(event, event_message)

    async def remove_from_queue(self, event_id: str) -> None:
        """Take a waiting request out; those behind it hear of their new place."""
        event = self.event_ids_to_events.get(event_id)
        await super().remove_from_queue(event_id)
        if event is not None:
            self.broadcast_estimations(event.concurrency_id)

    async def clean_events(
        self, *, session_hash: str | None = None, event_id: str | None = None
    ) -> None:
        """Stop what a session runs, take out what it waits for; others hear of their new place."""
        before = {work: len(q.queue) for work, q in self.event_queue_per_concurrency_id.items()}
        await super().clean_events(session_hash=session_hash, event_id=event_id)
        for work, waited in before.items():
            if len(self.event_queue_per_concurrency_id[work].queue) < waited:
                self.broadcast_estimations(work)

    def session_of(self, event_id: str) -> str | None:
        """The session whose run has this id, until its answer has been fetched."""
        event = self.event_ids_to_events.get(event_id)
        if event is not None:
            return event.session_hash
        sessions = self.pending_event_ids_session.items()
        return next((session for session, ids in sessions if event_id in ids), None)

    def has_session(self, session: str) -> bool:
        """Whether there is, or will be, something to say to a session."""
        return session in self.pending_messages_per_session

    def listens(self, session: str) -> None:
        """Somebody reads what a session is told, until `leaves`."""
        self._listening[session] += 1
        if (timer := self._timers.pop(session, None)) is not None:
            timer.cancel()

    async def leaves(self, session: str, *, broken_off: bool) -> None:
        """A reader has gone: all is said, or it was `broken_off` and the session's runs stop.

        The session is forgotten, unless it has asked for more meanwhile.
        """
        self._listening[session] -= 1
        if self._listening[session] > 0:
            return
        del self._listening[session]
        if broken_off:
            await self.clean_events(session_hash=session)
        ids = self.pending_event_ids_session.get(session, set())
        events = (self.event_ids_to_events.get(each) for each in ids)
        if any(event is not None and event.alive for event in events):
            self._wait_for_listener(session)
        else:
            self._forget(session)

    def _wait_for_listener(self, session: str) -> None:
        """Stop and forget a session that nobody listens to within the patience."""
        if session in self._listening or session in self._timers:
            return
        loop = asyncio.get_running_loop()

        def give_up() -> None:
            task = loop.create_task(self._give_up(session))
            self._asyncio_tasks.add(task)
            task.add_done_callback(self._asyncio_tasks.discard)

        self._timers[session] = loop.call_later(self._patience, give_up)

    async def _give_up(self, session: str) -> None:
        self._timers.pop(session, None)
        await self.clean_events(session_hash=session)
        self._forget(session)

    def _forget(self, session: str) -> None:
        """Drop all that Gradio keeps of a session; the app itself keeps nothing."""
        self.pending_messages_per_session.pop(session, None)
        self.pending_event_ids_session.pop(session, None)
        self.blocks.pending_streams.pop(session, None)
        self.blocks.pending_diff_streams.pop(session, None)
        states = self.blocks.state_holder
        with states.lock:
            states.session_data.pop(session, None)
            states.time_last_used.pop(session, None)
