"""The routes of the live tail, and who may hold a stream open: so many browsers at once, each in a thread kept free for it.

    GET /live              the page
    GET /live.json         one look, asked again with after=next
    GET /live/events       server-sent events; a browser that comes back says with Last-Event-ID where it stopped

Not the tail itself. The UI's server gets one thread more for each place, so pages always have theirs however many watch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from flask import Flask, Response, request, stream_with_context

from cutaway_collector.errors import Overloaded
from cutaway_collector.web.pages import live
from cutaway_collector.web.site import Site

RETRY_AFTER_S: Final = 10
_CLOSE_SECONDS_MAX: Final = 5.0


class Streams:
    """The places for streams. places: how many there are."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()

    def enter(self) -> Callable[[], None]:
        """Takes a place; what it returns gives it back, once however often it is called. Raises Overloaded."""
        with self._changed:
            if self._stopping.is_set():
                raise Overloaded("the collector is stopping: open the live view again in a moment", retry_after_s=RETRY_AFTER_S)
            if self._taken >= self._places:
                raise Overloaded(f"{self._taken} live views are open, live_clients_max allows {self._places}: close one, or ask "
                                 "again in a moment", retry_after_s=RETRY_AFTER_S)
            self._taken += 1
        left = threading.Event()

        def leave() -> None:
            with self._changed:
                if not left.is_set():
                    left.set()
                    self._taken -= 1
                    self._changed.notify_all()

        return leave

    def pause(self, seconds: float) -> bool:
        """Waits; true at once when the collector is stopping."""
        return self._stopping.wait(seconds)

    def close(self) -> None:
        """Ends every stream, and waits a little until they have let go of the store. Idempotent."""
        self._stopping.set()
        end_s = time.monotonic() + _CLOSE_SECONDS_MAX
        with self._changed:
            while self._taken and (left_s := end_s - time.monotonic()) > 0:
                self._changed.wait(left_s)


def routes(app: Flask, site: Site, streams: Streams, render: Callable[..., Response], answer: Callable[..., Response]) -> None:
    """Adds them."""

    @app.get("/live")
    def live_page() -> Response:
        return render("live.html", live.page(site, request.args))

    @app.get("/live.json")
    def live_twin() -> Response:
        return answer(live.twin(site, request.args))

    @app.get("/live/events")
    def live_events() -> Response:
        leave = streams.enter()
        try:
            tail = live.opened(site, request.args, request.headers.get("Last-Event-ID", ""))
            # waitress tells; a server that does not raises when it writes to nobody.
            gone: Callable[[], bool] = request.environ.get("waitress.client_disconnected", lambda: False)
            told = stream_with_context(live.events(tail, wait=streams.pause, gone=gone))
            response = Response(told, mimetype="text/event-stream", headers={"X-Accel-Buffering": "no"})
        except BaseException:
            leave()
            raise
        # Not a `finally` of the generator: one that is never begun would never end.
        response.call_on_close(leave)
        return response
